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
    "parts": ("Policy", "Value", "Proposal"),
    "guide": ("Guide", "Uniform", "Known"),
    "checks": ("check_policy", "check_value", "check_method"),
    "methods.session": ("Search",),
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
_RENAMED = {"ValueFunction": "Value"}
#: Written out, since type checkers do not compute it; a test compares it with what loads.
__all__ = [
    "Asks", "Backend", "Budget", "BudgetSpent", "Call", "Cancelled", "Forest", "Forward", "Game",
    "Generate", "Generated", "Guide", "IllegalStep", "Known", "Meter", "Policy", "Problem",
    "Proposal", "Reply", "RequestFailed", "Score", "Scored", "Search", "Solution", "TextProblem",
    "TextStep", "Trace", "Tree", "Uniform", "Usage", "Value", "ask", "check_backend",
    "check_method", "check_policy", "check_problem", "check_value", "choose", "parallel", "rules",
    "run", "solve", "solve_many",
]  # fmt: skip
__version__ = "0.1.0"

if TYPE_CHECKING:
    from search import choose, rules
    from search.asks import Asks, ask, parallel, run
    from search.budget import Budget, Meter
    from search.checks import check_method, check_policy, check_value
    from search.forest import Forest
    from search.fused import Game
    from search.guide import Guide, Known, Uniform
    from search.methods.session import Search
    from search.parts import Policy, Proposal, Value
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
    if name in _RENAMED:
        raise AttributeError(f"search.{name} is now called search.{_RENAMED[name]}")
    raise absent("search", name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
