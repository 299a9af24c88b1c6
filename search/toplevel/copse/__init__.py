"""Copse by a name of its own: `copse.solve` is `search.solve`, and so with every name of `search`.

Where a file or folder of the user's is called search, models, guides or benchmarks, `import copse`
loads the packages of Copse all the same, wherever Python would find them. This package lies in
`search` and is installed beside it.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search import *  # noqa: F403

_ABOVE = Path(__file__).resolve().parents
#: The folder of all packages: beside this one where they are installed, else in the source tree
_HOME = _ABOVE[1] if (_ABOVE[1] / "search" / "__init__.py").exists() else _ABOVE[3]


def _load_search() -> ModuleType:
    """The package `search` of Copse. Raises ImportError where another one is loaded already."""
    loaded = sys.modules.get("search")
    if loaded is None:
        spec = PathFinder.find_spec("search", [str(_HOME)])
        assert spec is not None and spec.loader is not None
        loaded = sys.modules["search"] = module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded
    places = [getattr(loaded, "__file__", None) or "", *getattr(loaded, "__path__", [])]
    if not any(Path(place).resolve().is_relative_to(_HOME / "search") for place in places if place):
        raise ImportError(
            f"{next(filter(None, places), 'a module')} is loaded as 'search', the name of a "
            f"package of Copse in {_HOME}: rename it"
        )
    return loaded


_search = _load_search()

from search.imports import LAYERS, own  # noqa: E402

for _package in LAYERS:
    if _package not in sys.modules:
        own(_package)

__all__ = list(_search.__all__)
__version__ = _search.__version__


def __getattr__(name: str) -> Any:
    return getattr(_search, name)


def __dir__() -> list[str]:
    return dir(_search)
