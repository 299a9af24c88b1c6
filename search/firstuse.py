"""The first use of what is not ours: parts and problems of others are looked at before a search
begins.

What asks a model is not run here, since that would cost tokens: each of its answers is examined as
it comes (`search.parts`).
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from search.guide import Guide
from search.parts import Policy, Value, examined, is_ours, part_name, proposed
from search.problem import Mistake, Problem, State, check_start
from search.scheduling.driver import run
from search.scheduling.scheduler import Asks

log = logging.getLogger(f"copse.{__name__}")

SLOW = 1.0  #: seconds for one state from which on a warning says that all searches wait

_seen: weakref.WeakSet[type] = weakref.WeakSet()  # kinds of problem that were looked at


def look_at(guide: Guide, problems: Sequence[Problem]) -> None:
    """Look at the parts of a guide and at each kind of problem, once. Raises ValueError that says
    what to write.

    What these raise themselves is left to the searches: not every method asks for the value of a
    first state, say.
    """
    for problem in problems:
        kind = type(problem)
        if kind not in _seen and not is_ours(problem):
            with _mistakes_alone():
                check_start(problem)
            _seen.add(kind)
    if not problems or guide.looked_at:
        return
    with _mistakes_alone():
        _look_at_parts(guide, problems[0])
    object.__setattr__(guide, "looked_at", True)


def _look_at_parts(guide: Guide, problem: Problem) -> None:
    state = problem.initial()
    if problem.is_terminal(state):
        return
    if not is_ours(guide.value) and not guide.value.backends:
        with _mistakes_alone():
            look_at_value(guide.value, problem, [state])
    if not is_ours(guide.policy) and not guide.policy.backends:
        look_at_policy(guide.policy, problem, state)


@contextlib.contextmanager
def _mistakes_alone() -> Iterator[None]:
    try:
        yield
    except Mistake:
        raise
    except Exception as error:
        log.debug("a part that is looked at raises %r", error)


def look_at_value(value: Value, problem: Problem, states: Sequence[State]) -> np.ndarray:
    """The values of some states, float64 in [0, 1], nan unknown. Raises ValueError where the
    value function is broken.
    """
    known = np.full(len(states), np.nan, np.float32)
    name = part_name(value, "evaluate")
    values: np.ndarray = run_once(
        examined(value, problem, states, known, np.random.default_rng(0)), value, name
    )
    return values


def look_at_policy(policy: Policy, problem: Problem, state: State, n: int = 1) -> list[Any]:
    """Proposals from a state. Raises ValueError where the policy is broken."""
    name = part_name(policy, "propose")
    found: list[Any] = run_once(
        proposed(policy, problem, state, n, np.random.default_rng(0)), policy, name
    )
    return found


def run_once(asks: Asks[Any], part: Value | Policy, name: str) -> Any:
    """The result of a part's coroutine. Raises ValueError for an `await` that was forgotten and
    a backend that is not named.
    """
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = run(asks, part.backends)
        except KeyError as error:
            if "is addressed to backend" not in str(error):
                raise
            raise Mistake(
                f"{name} asks a backend that is not among its own ({error.args[0]}): name it in "
                "`backends`"
            ) from error
    for warning in caught:
        forgotten = re.match(r"coroutine '(.*)' was never awaited", str(warning.message))
        if forgotten:
            call = forgotten[1].rpartition(".")[2]
            raise Mistake(f"{name} calls {call} without `await`: write `await` before {call}(...)")
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    took = time.perf_counter() - began
    if took > SLOW and not part.backends:
        log.warning(
            "%s took %.1f s for one state, and all searches wait meanwhile: make it faster, "
            "or let a backend do what it waits for",
            name,
            took,
        )
    return result
