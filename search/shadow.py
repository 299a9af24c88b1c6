"""Importing our own packages: their names are common ones, and a folder of the user's may hide them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

LAYERS = ("search", "models", "guides", "benchmarks")  #: each needs those before it
_HOME = Path(__file__).resolve().parent.parent


class Shadowed(ImportError):
    """A file or folder of the user's stands where Python should find a package of Copse. The message names it and the remedy."""


def import_ours(name: str) -> ModuleType:
    """Import a package of ours or a module of one, such as "guides" or "models.checkpoint".

    Raises Shadowed if Python finds something else under its package's name, or under that of a package which it needs.
    """
    package = name.partition(".")[0]
    for layer in LAYERS[: LAYERS.index(package) + 1]:
        _check(layer)
    return importlib.import_module(name)


def _check(package: str) -> None:
    places = _places(package)
    if places and not any(place.resolve() == _HOME / package for place in places):
        raise Shadowed(
            f"{places[0]} hides the package {package!r} of Copse in {_HOME}: "
            f"rename it, or start from another folder without {places[0].parent} on PYTHONPATH"
        )


def _places(package: str) -> list[Path]:
    """Where Python finds `package`: its folders, or the file of a plain module; [] if nowhere. Imports nothing."""
    module = sys.modules.get(package)
    if module is not None:
        folders, file = list(getattr(module, "__path__", [])), getattr(module, "__file__", None)
    else:
        spec = importlib.util.find_spec(package)
        if spec is None:
            return []
        folders, file = list(spec.submodule_search_locations or []), spec.origin
    return [Path(place) for place in (folders or [file]) if place]
