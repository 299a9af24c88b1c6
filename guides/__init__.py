"""Guides: policies and value functions made from models. `load` is the way in; names load when they are first used."""

from __future__ import annotations

import importlib
import sys
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

try:
    from search.shadow import absent, own
except ImportError as error:
    _place = getattr(sys.modules.get("search"), "__file__", None) or "another folder"
    raise ImportError(f"{_place} has the name of the package 'search' of Copse: rename it, or import copse first") from error

own("search")
__path__ = extend_path(__path__, __name__)  # and folders of the user's of this name

_WHERE = {
    "engines": ("settings", "served_settings"),
    "loading": ("load", "connect"),
    "lm": ("LM",),
    "formats": ("Format", "check_judge"),
    "prm": ("PRM", "ORM"),
    "judge": ("Judge",),
    "likelihood": ("Likelihood",),
    "rollout": ("Rollout", "Mixture"),
    "board": ("Board", "board_guide", "load_board"),
    "answers": ("Verdict", "check", "check_many", "classes"),
    "learn": ("train_guide",),
    "lessons": ("prepare",),
}
_MODULE = {name: module for module, names in _WHERE.items() for name in names}
#: Written out, since type checkers do not compute it; a test compares it with what loads.
__all__ = [
    "Board", "Format", "Judge", "LM", "Likelihood", "Mixture", "ORM", "PRM", "Rollout", "Verdict",
    "board_guide", "check", "check_judge", "check_many", "classes", "connect", "load",
    "load_board", "prepare", "served_settings", "settings", "train_guide",
]  # fmt: skip

if TYPE_CHECKING:
    from guides.answers import Verdict, check, check_many, classes
    from guides.board import Board, board_guide, load_board
    from guides.engines import served_settings, settings
    from guides.formats import Format, check_judge
    from guides.judge import Judge
    from guides.learn import train_guide
    from guides.lessons import prepare
    from guides.likelihood import Likelihood
    from guides.lm import LM
    from guides.loading import connect, load
    from guides.prm import ORM, PRM
    from guides.rollout import Mixture, Rollout


def __getattr__(name: str) -> Any:
    if name in _MODULE:
        value = getattr(importlib.import_module(f"guides.{_MODULE[name]}"), name)
        globals()[name] = value
        return value
    raise absent("guides", name)
