"""Examiners of parts: each takes a part alone and raises ValueError that says what is broken and
what to write instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from search.arguments import Method, configured, problem_of
from search.firstuse import look_at_policy, look_at_value
from search.functions import PlainPolicy, PlainValue, policy_of, value_of
from search.guide import Guide, Uniform
from search.parts import Policy, Value, completed, part_name
from search.problem import IllegalStep, Problem, State
from search.scheduling.budget import Budget
from search.scheduling.driver import run
from search.solver import solve

#: what parts are examined on where no other problem is given
PUZZLE = "Use 4, 7, 8 and 8 to make 24."


def check_value(value: Value | PlainValue, problem: Problem | str = PUZZLE) -> None:
    """Examine what could be a guide's `value=` on a problem's first state. Raises ValueError
    that says what is broken.
    """
    part = value_of(value)
    task = problem_of(problem, None)
    look_at_value(part, task, [task.initial()])
    first = look_at_value(part, task, [task.initial()] * 2)
    again = look_at_value(part, task, [task.initial()] * 2)
    name = part_name(part, "evaluate")
    if not np.array_equal(first, again, equal_nan=True):
        raise ValueError(
            f"{name} gave {first.tolist()} and then {again.tolist()} for the same: draw random "
            "numbers from `rng` alone"
        )


def check_policy(policy: Policy | PlainPolicy, problem: Problem | str = PUZZLE) -> None:
    """Examine what could be a guide's `policy=` on a problem's first state. Raises ValueError
    that says what is broken.
    """
    part = policy_of(policy)
    task = problem_of(problem, None)
    state = task.initial()
    name = part_name(part, "propose")
    first = look_at_policy(part, task, state, 4)
    again = look_at_policy(part, task, state, 4)
    if [proposal.step for proposal in first] != [proposal.step for proposal in again]:
        raise ValueError(
            f"{name} gave other steps at the same place with the same `rng`: draw random numbers "
            "from it alone"
        )
    total = sum(proposal.prior for proposal in first)
    if first and abs(total - 1) > 1e-3:
        raise ValueError(f"{name} gave priors that sum to {total:g}: they must sum to 1")
    keys = [task.key(state, proposal.step) for proposal in first]
    if len(set(keys)) != len(keys):
        raise ValueError(
            f"{name} gave the same step twice: give distinct steps, with the sum of their priors"
        )
    _check_chain(part, task, state)


def _check_chain(policy: Policy, problem: Problem, state: State) -> None:
    steps = run(completed(policy, problem, state, np.random.default_rng(0)), policy.backends)
    for place, step in enumerate(steps):
        try:
            state = problem.apply(state, step)
        except IllegalStep as error:
            if place < len(steps) - 1:
                raise ValueError(
                    f"{type(policy).__name__}.complete went on behind an illegal step ({error}): "
                    "end there"
                ) from None


class _Sums(Problem):
    """Reach 10 by adding 1, 2 or 3: a task on which any method can be tried."""

    def initial(self) -> int:
        return 0

    def actions(self, state: int) -> list[int]:
        return [1, 2, 3]

    def apply(self, state: int, step: int) -> int:
        if state + step > 10:
            raise IllegalStep("10 is passed")
        return state + step

    def is_terminal(self, state: int) -> bool:
        return state == 10

    def answer(self, state: int) -> str:
        return str(state)

    def prompt(self, state: int) -> str:
        return "Reach 10 by adding 1, 2 or 3."


def check_method(
    method: str | Method,
    problem: Problem | str | None = None,
    guide: Guide | None = None,
    **options: Any,
) -> None:
    """Examine what could be `method=` by running it. Raises ValueError that says what is broken.

    problem, guide  that it runs on; None: a small sum and a guide that judges by its progress
    """
    checked = configured(method, {}).function
    task = _Sums() if problem is None else problem_of(problem, guide)
    if guide is None:
        guide = Guide(Uniform(), _progress if problem is None else None)
    name = getattr(checked, "__name__", type(checked).__name__)
    for limit in (1, 7, 60):
        budget = Budget(simulations=limit, seconds=60)
        first, again = (solve(task, guide, checked, budget, seed=1, **options) for _ in range(2))
        if first.usage.simulations > limit:
            raise ValueError(
                f"the method {name} spent {first.usage.simulations} of {limit} simulations: "
                "begin each by meter.begin"
            )
        if first.tree is None or again.tree is None:
            continue
        if first.tree.steps != again.tree.steps:
            raise ValueError(
                f"the method {name} built two trees from one seed: draw random numbers from "
                "search.rng alone"
            )
    if first.tree is not None and not len(first.tree.block(0)):
        raise ValueError(
            f"the method {name} ended without a step: await search.expand([0], n) first"
        )


def _progress(problem: Any, states: list[int]) -> list[float]:
    return [state / 10 for state in states]
