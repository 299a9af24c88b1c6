"""Importing our own packages: their names are common ones, and a file or folder of the user's may
have them too.

What is imported first has the name. Ours are loaded from the folder where they are, wherever
Python would look; a package of the user's that is loaded already is named, with a remedy. Each of
our packages reaches into folders of its name on `sys.path` (`pkgutil.extend_path`), so that modules
in the user's `models/` can be imported as ever.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

LAYERS = ("search", "models", "guides", "benchmarks")  #: each needs those before it
_HOME = Path(__file__).resolve().parent.parent


class Shadowed(ImportError):
    """A file or folder of the user's has the name of a package of Copse. The message names it
    and the remedy.
    """


def import_ours(name: str) -> ModuleType:
    """Import a package of ours or a module of one, such as "guides" or
    "models.checkpoints.checkpoint".

    Raises Shadowed if something else is loaded under its package's name, or under that of a package
    which it needs.
    """
    package = name.partition(".")[0]
    for layer in LAYERS[: LAYERS.index(package) + 1]:
        own(layer)
    return importlib.import_module(name)


def add_working_folder() -> None:
    """Let modules beside the user's files be imported; last, so that they hide nothing."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def own(package: str) -> ModuleType:
    """Our package of this name, loaded from our folder. Raises Shadowed if another one is loaded
    already.
    """
    module = sys.modules.get(package)
    if module is not None:
        places = _places(module)
        if places and not any(place.resolve() == _HOME / package for place in places):
            raise Shadowed(
                f"{places[0]} is loaded as {package!r}, the name of a package of Copse in "
                f"{_HOME}: rename it"
            )
        return module
    spec = PathFinder.find_spec(package, [str(_HOME)])
    if spec is None or spec.loader is None:
        raise ImportError(f"the package {package!r} is missing in {_HOME}: install Copse again")
    module = sys.modules[package] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[package]
        raise
    return module


def absent(package: str, name: str) -> AttributeError | Shadowed:
    """The error for a name that our package has not.

    Shadowed where something of the user's has the package's name, so that the name may stand there:
    `from models import Net` would not show the message of an AttributeError.
    """
    plain = AttributeError(f"module {package!r} has no attribute {name!r}")
    if name.startswith("_") or importlib.util.find_spec(f"{package}.{name}") is not None:
        return plain
    others = _others(package)
    if not others:
        return plain
    return Shadowed(
        f"{plain}: it is the package of Copse in {_HOME}, and {others[0]} has the same name: "
        "rename that"
    )


def _others(package: str) -> list[Path]:
    """Files and folders on `sys.path` that Python would import under the name of our package."""
    found = []
    for entry in sys.path:
        spec = PathFinder.find_spec(package, [entry])
        if spec is not None:
            places = list(filter(None, [*(spec.submodule_search_locations or []), spec.origin]))
            if places and Path(places[0]).resolve() != _HOME / package:
                found.append(Path(places[0]))
    return found


def _places(module: ModuleType) -> list[Path]:
    """Where a module is: its folders, or the file of a plain one; [] if nowhere."""
    folders = list(getattr(module, "__path__", []))
    return [Path(place) for place in (folders or [getattr(module, "__file__", None)]) if place]
