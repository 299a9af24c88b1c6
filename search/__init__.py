"""Copse: tree search over the steps of a language model. `solve` is the way in; names load when
they are first used.
"""

from __future__ import annotations

import importlib
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

from search.imports import absent

__path__ = extend_path(__path__, __name__)  # and folders of the user's of this name

_WHERE = {
    "solver": ("solve", "solve_many"),
    "running": ("start", "Running"),
    "solution": ("Solution",),
    "scheduling.budget": ("Budget", "Meter"),
    "problem": ("Problem", "TextProblem", "TextStep", "IllegalStep", "check_problem"),
    "parts": ("Policy", "Value", "Proposal"),
    "guide": ("Guide", "Uniform", "Known"),
    "checks": ("check_policy", "check_value", "check_method"),
    "methods.session": ("Search",),
    "scheduling.driver": ("run",),
    "scheduling.scheduler": ("Asks", "ask", "parallel"),
    "scheduling.requests": (
        "Generate", "Score", "Forward", "Call", "Generated", "Scored", "Reply", "RequestFailed",
        "Cancelled", "BudgetSpent",
        "Usage", "Backend", "check_backend",
    ),
    "tree.tree": ("Tree",),
    "tree.forest": ("Forest",),
    "tree.game_kernels": ("Game",),
    "trace": ("Trace",),
}  # fmt: skip
_MODULE = {name: module for module, names in _WHERE.items() for name in names}
_WHOLE = {"choose": "choose", "sandbox": "sandbox", "selection": "tree.selection"}  # modules
_RENAMED = {"rules": "selection", "ValueFunction": "Value"}
#: Written out, since type checkers do not compute it; a test compares it with what loads.
__all__ = [
    "Asks", "Backend", "Budget", "BudgetSpent", "Call", "Cancelled", "Forest", "Forward", "Game",
    "Generate", "Generated", "Guide", "IllegalStep", "Known", "Meter", "Policy", "Problem",
    "Proposal", "Reply", "RequestFailed", "Running", "Score", "Scored",
    "Search", "Solution", "TextProblem",
    "TextStep", "Trace", "Tree", "Uniform", "Usage", "Value", "ask", "check_backend",
    "check_method", "check_policy", "check_problem", "check_value", "choose", "parallel", "run",
    "sandbox", "selection", "solve", "solve_many", "start",
]  # fmt: skip
__version__ = "0.1.0"

if TYPE_CHECKING:
    from search import choose, sandbox
    from search.checks import check_method, check_policy, check_value
    from search.guide import Guide, Known, Uniform
    from search.methods.session import Search
    from search.parts import Policy, Proposal, Value
    from search.problem import IllegalStep, Problem, TextProblem, TextStep, check_problem
    from search.running import Running, start
    from search.scheduling.budget import Budget, Meter
    from search.scheduling.driver import run
    from search.scheduling.requests import (
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
    from search.scheduling.scheduler import Asks, ask, parallel
    from search.solution import Solution
    from search.solver import solve, solve_many
    from search.trace import Trace
    from search.tree import selection
    from search.tree.forest import Forest
    from search.tree.game_kernels import Game
    from search.tree.tree import Tree


def __getattr__(name: str) -> Any:
    if name in _WHOLE:
        return importlib.import_module(f"search.{_WHOLE[name]}")
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
