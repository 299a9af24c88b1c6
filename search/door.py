"""The door of `solve`: everything that is given is checked before any model is loaded."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from search.budget import Budget
from search.guide import Guide, check_kind
from search.problem import Problem, TextProblem
from search.shadow import import_ours

METHODS = ("mcts", "gumbel", "beam", "sample")
Method = Callable[..., Any]  #: (problem, guide, meter, rng, **options) -> Asks[Tree]


def method_of(method: str | Method) -> Method:
    if callable(method):
        return method
    module, _, name = method.partition(":")
    if method in METHODS:
        module, name = f"search.methods.{method}", method
    try:
        return getattr(importlib.import_module(module), name) if name else _no_method(method)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot load the method {method!r} ({error}): write it as module:function of an importable module") from None


def _no_method(method: str) -> Method:
    raise ValueError(f"there is no method {method!r}: use one of {', '.join(METHODS)}, or module:function of your own")


def check_arguments(guide: Any, budget: Any, seed: Any, choose: Any) -> None:
    """Raises ValueError for arguments of `solve` that are of no use."""
    if guide is not None and not isinstance(guide, Guide):
        raise ValueError(f"guide={guide!r} is no guide: give what guides.load(path or hub id) returns")
    if not isinstance(budget, (Budget, str, type(None))):
        raise ValueError(f'budget={budget!r} is no budget: write it like budget="tokens=2000,seconds=10"')
    for one in seed if isinstance(seed, Sequence) else [seed]:
        if isinstance(one, bool) or not hasattr(one, "__index__") or not 0 <= int(one) < 2**63:
            raise ValueError(f"seed={one!r} is impossible: give a whole number from 0 on, below 2**63")
    if choose is not None and not callable(choose):
        raise ValueError(f"choose={choose!r} is no chooser: give search.choose.majority, weighted, best, most_visited, or your own")


def check_budget(budget: Budget, guide: Guide) -> None:
    """Raises ValueError for a budget of which this guide would never spend anything."""
    generates = guide.policy.step_tokens or guide.value.tokens
    asks = guide.policy.backends or guide.value.calls
    if budget.simulations is None and budget.seconds is None and not (budget.tokens and generates) and not (budget.calls and asks):
        raise ValueError(f"a budget of {budget} would never end, because this guide spends none of it: limit simulations or seconds too")


def check_steps(method: Method, guide: Guide) -> None:
    """Raises ValueError for a method that goes on from single steps where the policy gives whole answers alone."""
    stepwise = method in [method_of(name) for name in METHODS if name != "sample"]
    if stepwise and not getattr(guide.policy, "stepwise", True):
        name = getattr(method, "__name__", method)
        raise ValueError(f"{name} goes on from steps, and the server answers in whole turns and continues none: use sample")


def all_options(method: Method, options: dict[str, Any]) -> dict[str, Any]:
    defaults = {n: p.default for n, p in inspect.signature(method).parameters.items() if p.kind is p.KEYWORD_ONLY}
    return {**{n: d for n, d in defaults.items() if d is not inspect.Parameter.empty}, **options}


def check_options(method: Method, options: dict[str, Any]) -> None:
    parameters = inspect.signature(method).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    allowed = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    name = getattr(method, "__name__", str(method))
    for option, value in options.items():
        if option not in allowed:
            raise ValueError(f"{name} has no option {option!r}: it knows {', '.join(allowed) or 'none'}")
        kind = str(getattr(allowed[option].annotation, "__name__", allowed[option].annotation))
        if kind not in ("int", "float", "int | None", "float | None") or (value is None and "None" in kind):
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise ValueError(f"{name} cannot use {option}={value!r}: give a number from 0 on")
        if kind.startswith("int") and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} cannot use {option}={value!r}: give a whole number from 1 on")


def problem_of(problem: Problem | str, guide: Guide | None) -> Problem:
    """The problem of text, and open text as the guide's model was asked to mark its answer. Raises ValueError for what is none."""
    if isinstance(problem, str):
        from search.problems import parse

        problem = parse(problem)
    if not isinstance(problem, Problem):
        raise ValueError(f"{problem!r} is no problem: give text, or an object with the methods of search.Problem")
    if guide is not None and isinstance(problem, TextProblem):
        return problem.asked(guide.answer, getattr(guide.policy, "ends", None))
    return problem


def guide_of(guide: Guide | None, problems: Sequence[Problem]) -> Guide:
    if guide is not None:
        for problem in problems:
            guide.check(problem)
        return guide
    guides = import_ours("guides")  # the one way in which `search` reaches above itself: the default guide
    kinds = guides.settings("builtin").get("kinds")
    for problem in problems:
        check_kind(kinds, problem)
    return guides.load("builtin")
