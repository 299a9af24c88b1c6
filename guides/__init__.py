"""Guides: policies and value functions made from models. `load` is the way in; names load when
they are first used.
"""

from __future__ import annotations

import importlib
import sys
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

try:
    from search.imports import absent, own
except ImportError as error:
    _place = getattr(sys.modules.get("search"), "__file__", None) or "another folder"
    raise ImportError(
        f"{_place} has the name of the package 'search' of Copse: rename it, or import copse first"
    ) from error

own("search")
__path__ = extend_path(__path__, __name__)  # and folders of the user's of this name

_WHERE = {
    "engines": ("settings", "served_settings"),
    "loading": ("load", "connect"),
    "policies.lm": ("LM",),
    "values.prm_formats": ("Format", "check_judge"),
    "values.prm": ("PRM", "ORM"),
    "values.llm_judge": ("Judge",),
    "values.likelihood": ("Likelihood",),
    "values.rollout": ("Rollout", "Mixture"),
    "policies.board": ("Board", "board_guide", "load_board"),
    "answers.checker": ("Verdict", "check", "check_many", "classes"),
    "answers.styles": ("AnswerStyle",),
    "training.train_guide": ("train_guide",),
    "data.prepare": ("prepare",),
}
_MODULE = {name: module for module, names in _WHERE.items() for name in names}
#: Written out, since type checkers do not compute it; a test compares it with what loads.
__all__ = [
    "AnswerStyle", "Board", "Format", "Judge", "LM", "Likelihood", "Mixture", "ORM", "PRM",
    "Rollout", "Verdict", "board_guide", "check", "check_judge", "check_many", "classes", "connect",
    "load", "load_board", "prepare", "served_settings", "settings", "train_guide",
]  # fmt: skip

if TYPE_CHECKING:
    from guides.answers.checker import Verdict, check, check_many, classes
    from guides.answers.styles import AnswerStyle
    from guides.data.prepare import prepare
    from guides.engines import served_settings, settings
    from guides.loading import connect, load
    from guides.policies.board import Board, board_guide, load_board
    from guides.policies.lm import LM
    from guides.training.train_guide import train_guide
    from guides.values.likelihood import Likelihood
    from guides.values.llm_judge import Judge
    from guides.values.prm import ORM, PRM
    from guides.values.prm_formats import Format, check_judge
    from guides.values.rollout import Mixture, Rollout


def __getattr__(name: str) -> Any:
    if name in _MODULE:
        value = getattr(importlib.import_module(f"guides.{_MODULE[name]}"), name)
        globals()[name] = value
        return value
    raise absent("guides", name)
