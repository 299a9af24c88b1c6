"""Copse: tree search over the steps of a language model. `solve` is the way in; names load when they are first used."""

from __future__ import annotations

import importlib
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

from search.shadow import absent

__path__ = extend_path(__path__, __name__)  # and folders of the user's of this name

_WHERE = {
    "solver": ("solve", "solve_many"),
    "solution": ("Solution",),
    "budget": ("Budget", "Meter"),
    "problem": ("Problem", "TextProblem", "TextStep", "IllegalStep", "check_problem"),
    "guide": ("Guide", "Policy", "ValueFunction", "Proposal", "Uniform", "Known", "check_policy", "check_value"),
    "asks": ("Asks", "ask", "parallel", "run"),
    "requests": (
        "Generate", "Score", "Forward", "Call", "Generated", "Scored", "Reply", "RequestFailed", "Cancelled", "BudgetSpent",
        "Usage", "Backend", "check_backend",
    ),
    "tree": ("Tree",),
    "forest": ("Forest",),
    "fused": ("Game",),
    "trace": ("Trace",),
}  # fmt: skip
_MODULE = {name: module for module, names in _WHERE.items() for name in names}
_WHOLE = ("choose", "rules")  # modules
__all__ = [*_MODULE, *_WHOLE]
__version__ = "0.1.0"

if TYPE_CHECKING:
    from search import choose, rules
    from search.asks import Asks, ask, parallel, run
    from search.budget import Budget, Meter
    from search.forest import Forest
    from search.fused import Game
    from search.guide import Guide, Known, Policy, Proposal, Uniform, ValueFunction, check_policy, check_value
    from search.problem import IllegalStep, Problem, TextProblem, TextStep, check_problem
    from search.requests import (
        Backend,
        BudgetSpent,
        Call,
        Cancelled,
        Forward,
        Generate,
        Generated,
        Reply,
        RequestFailed,
        Score,
        Scored,
        Usage,
        check_backend,
    )  # fmt: skip
    from search.solution import Solution
    from search.solver import solve, solve_many
    from search.trace import Trace
    from search.tree import Tree


def __getattr__(name: str) -> Any:
    if name in _WHOLE:
        return importlib.import_module(f"search.{name}")
    if name in _MODULE:
        module = importlib.import_module(f"search.{_MODULE[name]}")
        value = getattr(module, name)
        globals()[name] = value
        return value
    raise absent("search", name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
