"""What the nodes of a trace are worth, by a checker, by what the search found, or by roll-outs.

A roll-out completes the chain of a node by a policy and compares its end with the target
(`guides.values.rollout`, `guides.data.grading`). Each node has random numbers of its own, from the
seed, the trace and the node: so its roll-outs are the same whatever else is labelled, in which
order and by which of the two labellers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from guides.data.distill import counts
from guides.data.grading import Checker, Replay, checked, outcome
from guides.data.labels import Labels
from guides.values.rollout import Rollout
from search.guide import Policy
from search.problem import Problem, State
from search.scheduling.requests import Backend
from search.scheduling.scheduler import Asks, parallel
from search.solver import seed_of
from search.trace import Trace


def from_trace(trace: Trace, outcomes: np.ndarray) -> Labels:
    """k of the n graded chains at or below each node were right, as `guides.data.distill` counts
    them. It costs nothing.

    outcomes  float64 [nodes], in [0, 1], nan: not graded (`guides.data.grading`)
    """
    return Labels(*counts(trace, outcomes))


def from_checker(trace: Trace, checker: Checker) -> Labels:
    """Exact labels, of every node of which the checker can tell."""
    exact = checked(trace, checker)
    known = ~np.isnan(exact)
    return Labels(np.where(known, exact, 0.0), np.where(known, math.inf, 0.0))


class RolledOut(NamedTuple):
    """Labels from roll-outs, and how many there were. A failed one (a time-out, an answer that
    cannot be graded) counts in no label.

    errors  finished node -> which of its steps is the first wrong one, from 1 on (`by_bisection`)
    """

    labels: Labels
    made: int
    failed: int
    errors: Mapping[int, int]


async def by_rollouts(
    trace: Trace,
    target: str | None,
    policy: Policy,
    count: int,
    seed: int,
    *,
    answer: str | None = None,
    finished: bool = False,
) -> RolledOut:
    """Roll out every node `count` times: k is the sum of the outcomes (Math-Shepherd, Wang et al.
    2023, eq. 3 and 4).

    target    what a right answer is; None: the problem verifies itself
    answer    the regular expression that marked the answer of open text in the search
    finished  leave out the nodes that no finished node is below

    A finished node is not rolled out: its own outcome is exact.
    """
    rolls = _Rolls(trace, target, policy, count, seed, answer)
    wanted = np.ones(len(trace.node_parent), bool)
    if finished:
        wanted = above(trace, trace.node_finished)
    await rolls.roll(np.flatnonzero(wanted).tolist())
    return rolls.result({})


async def by_bisection(
    trace: Trace,
    target: str | None,
    policy: Policy,
    count: int,
    seed: int,
    *,
    answer: str | None = None,
) -> RolledOut:
    """Find the first error of every finished wrong chain by bisection (Luo et al. 2024, section
    3.2).

    This is the bisection of OmegaPRM alone. Its tree, which chooses the roll-outs to go on from and
    uses them again, is not here.

    A step from whose end any of `count` roll-outs is right is taken for right, and then all before
    it; one with none for wrong, and all behind it. So a chain of T steps takes roll-outs at no more
    than ceil(log2 T) nodes, at none twice for two chains. The common beginning with a right chain
    of the trace is taken for right at once. Arguments are those of `by_rollouts`.

    Only nodes that were rolled out, and finished ones (exactly), have labels: what bisection takes
    for granted is no measurement. Where a policy finds its way back from errors, the first error is
    found too late. A chain whose roll-outs failed has none.
    """
    rolls = _Rolls(trace, target, policy, count, seed, answer)
    right = above(trace, rolls.outcomes > 0)
    chains = [_Chain.of(trace, int(end), right) for end in np.flatnonzero(rolls.outcomes == 0)]
    while under_way := [chain for chain in chains if chain.middle is not None]:
        # two chains may share the step to look at
        await rolls.roll(dict.fromkeys(map(_Chain.looked_at, under_way)))
        for chain in under_way:
            chain.narrow(rolls)
    errors = {chain.nodes[-1]: chain.bad for chain in chains if chain.bad - chain.good == 1}
    return rolls.result(errors)


@dataclass
class _Chain:
    """A wrong chain: its first `good` steps are taken for right, those from the `bad`-th on for
    wrong. `lost`: roll-outs failed.
    """

    nodes: Sequence[int]  #: the ends of its steps
    good: int
    bad: int
    lost: bool = False

    @classmethod
    def of(cls, trace: Trace, end: int, right: np.ndarray) -> _Chain:
        nodes = [int(trace.edge_child[edge]) for edge in trace.path(end)]
        return cls(nodes, int(right[nodes].sum()), len(nodes))

    @property
    def middle(self) -> int | None:
        """The step to look at next, None where there is none."""
        if self.lost or self.bad - self.good <= 1:
            return None
        return (self.good + self.bad) // 2

    def looked_at(self) -> int:
        """The node at the end of the middle step, which there must be."""
        assert self.middle is not None
        return self.nodes[self.middle - 1]

    def narrow(self, rolls: _Rolls) -> None:
        middle = self.middle
        assert middle is not None
        k, n = rolls.counted(self.looked_at())
        if not n:
            self.lost = True
        elif k > 0:
            self.good = middle
        else:
            self.bad = middle


class _Rolls:
    """The roll-outs of one trace so far. outcomes: float64 [nodes], of its finished nodes, else
    nan.
    """

    def __init__(
        self,
        trace: Trace,
        target: str | None,
        policy: Policy,
        count: int,
        seed: int,
        answer: str | None,
    ):
        self._replay = Replay(trace, answer)
        self.outcomes = self._replay.grade(target)
        self._finished = trace.node_finished
        self._rollout = Rollout(policy, count, judge=Target(target))
        self._seed = seed_of(trace.id, seed)
        self._made: dict[int, np.ndarray] = {}

    async def roll(self, nodes: Iterable[int]) -> None:
        """Roll out from those nodes that are not finished and were not rolled out yet, side by
        side.
        """
        fresh = [node for node in nodes if node not in self._made and not self._finished[node]]
        found = await parallel(map(self._roll, fresh))
        self._made.update(zip(fresh, found, strict=True))

    def _roll(self, node: int) -> Asks[np.ndarray]:
        replay = self._replay
        rng = np.random.default_rng([self._seed, node])
        return self._rollout.outcomes(replay.problem, replay.states[node], rng)

    def counted(self, node: int) -> tuple[float, int]:
        """Sum and number of the outcomes of the roll-outs at a node."""
        outcomes = self._made[node]
        return float(np.nansum(outcomes)), int((~np.isnan(outcomes)).sum())

    def result(self, errors: Mapping[int, int]) -> RolledOut:
        graded = ~np.isnan(self.outcomes)
        k = np.where(graded, self.outcomes, 0.0)
        n = np.where(graded, math.inf, 0.0)
        made = 0
        failed = 0
        for node, outcomes in self._made.items():
            total, counted = self.counted(node)
            k[node] = total
            n[node] = counted
            made += counted
            failed += len(outcomes) - counted
        return RolledOut(Labels(k, n), made, failed, errors)


class Target:
    """A value function that knows the target: 1 where the answer of a finished state is right, 0
    where it is wrong, nan where that cannot be known, and everywhere without a target.
    """

    tokens = calls = 0
    version = "target"
    backends: Mapping[str, Backend] = {}

    def __init__(self, target: str | None):
        self._target = target
        # of answers that roll-outs gave before: most give one of a few
        self._outcomes: dict[str | None, float] = {}

    async def evaluate(
        self, problem: Problem, states: Sequence[State], known: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """float32 [states]."""
        return np.array([self._outcome(problem.answer(state)) for state in states], np.float32)

    def _outcome(self, answer: str | None) -> float:
        if self._target is None:
            return math.nan
        if answer not in self._outcomes:
            self._outcomes[answer] = outcome(answer, self._target)
        return self._outcomes[answer]


def above(trace: Trace, marked: np.ndarray) -> np.ndarray:
    """bool [nodes]: is a marked node at or below it?"""
    found = marked.copy()
    for node in range(len(found) - 1, 0, -1):  # a child stands behind its parent
        found[trace.node_parent[node]] |= found[node]
    return found
