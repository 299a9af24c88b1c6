"""Kinds of problem by their names, "module:Class", as problem files, traces and guides hold them.

A name in a file is data: it chooses among problem classes that are there, and has nothing imported
and nothing else made. Classes are there of the modules of Copse, of installed packages that declare
their module as an entry point of the group "copse.problems", and of modules that this program has
imported: with `import`, or with `--allow` of the command.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any, cast

from search.imports import add_working_folder
from search.problem import REQUIRED, Problem

GROUP = "copse.problems"  #: of the entry points of packages that bring kinds of problem
_OURS = "search.problem"  #: this module, and those of the package search.problems


def kind_of(problem: Problem) -> str:
    """ "module:Class" of a problem."""
    return f"{type(problem).__module__}:{type(problem).__qualname__}"


def build(kind: str, arguments: dict[str, Any]) -> Problem:
    """A problem again from the name of its kind and its JSON arguments, as a trace or a file of
    problems has them.

    Raises ValueError for a kind that is not there, before anything is imported, for what is no
    problem class, before anything is made, and for arguments that the class does not take.
    """
    module, _, name = kind.partition(":")
    # not its attributes: a package may import modules for those
    made = getattr(_module(module, kind), "__dict__", {}).get(name)
    if not isinstance(made, type) or not all(
        callable(getattr(made, member, None)) for member in REQUIRED
    ):
        raise ValueError(
            f"{kind!r} is no problem class: name one with the methods of search.Problem, as "
            "module:Class"
        )
    try:
        return cast("Problem", made(**arguments))
    except Exception as error:  # a class may raise anything for arguments that are not its own
        if isinstance(error, ValueError) and str(error):
            raise
        raise ValueError(
            f"a problem {kind} cannot be made of {json.dumps(arguments, default=str)[:80]} "
            f"({error}): give the arguments of its class"
        ) from None


def allow(modules: Iterable[str]) -> None:
    """Import modules of the user's, whose problem classes files may then name; those beside the
    user's files included. Raises ValueError for one that is not there.
    """
    for name in modules:
        add_working_folder()
        try:
            importlib.import_module(name)
        except (ImportError, ValueError, TypeError) as error:
            raise ValueError(
                f"cannot import {name!r} ({error}): give --allow the name of a module, as in "
                "`import`"
            ) from None


def _module(name: str, kind: str) -> ModuleType:
    """The module of a kind. Raises ValueError where a file may not name it."""
    ours = name == _OURS or name.startswith(f"{_OURS}s.")
    if not ours and name in sys.modules:
        return sys.modules[name]
    if ours or name in _installed():
        try:
            return importlib.import_module(name)
        except ImportError:
            raise ValueError(
                f"there is no problem class {kind!r}: its module {name} cannot be imported"
            ) from None
    raise ValueError(
        f"the kind {kind!r} is of a module that is not loaded, and a file must not have it "
        f"loaded: if you trust the module, give --allow {name}, or import it first in Python"
    )


def _installed() -> set[str]:
    """The modules that installed packages declare as kinds of problem."""
    from importlib.metadata import entry_points

    return {point.module for point in entry_points(group=GROUP)}
