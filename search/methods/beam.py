"""Step-level beam search with a guide.

Its variants: independent subtrees (DVTS; Beeching et al. 2024), steps dealt by value (REBASE; Wu et al. 2024).
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from search.budget import Meter
from search.guide import Guide, Known
from search.methods.grow import RETRIES, Child, Growth, grow, judged, plant, solved, write
from search.methods.inflight import InFlight, Lane
from search.problem import Problem, State
from search.requests import BudgetSpent
from search.tree import Tree


async def beam(
    problem: Problem,
    guide: Guide,
    meter: Meter,
    rng: np.random.Generator,
    *,
    width: int = 4,
    branch: int = 4,
    subtrees: int = 1,
    balance: float | None = None,
) -> Tree:
    """Expand the best `width` states of each depth until all chains are finished.

    width     states kept a depth, over all subtrees
    branch    steps sampled from each
    subtrees  the first steps are dealt to this many beams of width / subtrees, which no longer compete (DVTS)
    balance   None: the best `width` states get `branch` steps each. A temperature: the width x branch steps of a depth are dealt to its
              states by the softmax of value / balance, rounded, so that good states get more and poor ones none (REBASE; there 0.1 to 0.3)

    A simulation is one expanded state. Values are added along the path of each state when it is judged. Of equal values the
    first steps of all states come before their second ones. A state is expanded as soon as no step that is still being written
    can take its place, so nobody waits for the longest step of a depth.
    """
    if subtrees < 1 or width < subtrees or width % subtrees:
        raise ValueError(f"width={width} cannot be shared evenly by subtrees={subtrees}: make width a multiple of subtrees")
    if balance is not None and balance <= 0:
        raise ValueError(f"balance={balance} is no temperature: give a number above 0, or none")
    search = _Beam(problem, guide, meter, rng, plant(problem, meter), width, branch, subtrees, balance)
    await search.all()
    return search.tree


@dataclass(eq=False)
class _Step:
    """A step that is being written from a state, and then judged.

    group, rank  of its state: the subtree, and the place in its beam;  index: which of the state's steps
    children     what came: mostly one; with their values in [0, 1], nan unknown
    done         nothing more comes of it
    """

    group: int
    rank: int
    index: int
    state: State
    rng: np.random.Generator
    failures: int = 0
    growth: Growth = field(default_factory=Growth)
    values: list[float] = field(default_factory=list)
    done: bool = False


@dataclass(eq=False)
class _Candidate:
    """A state that may be in the next beam; `steps`: from it, once it is sure to be."""

    step: _Step
    child: Child
    value: float
    steps: list[_Step] = field(default_factory=list)

    @property
    def order(self) -> tuple[float, int, int]:
        return (0.5 if math.isnan(self.value) else -self.value, self.step.index, self.step.rank)


class _Beam:
    """A beam search under way: the steps of one depth, and those of the next that have begun.

    nodes  of the states that are being expanded, for each group, in the order of their rank
    """

    def __init__(
        self,
        problem: Problem,
        guide: Guide,
        meter: Meter,
        rng: np.random.Generator,
        tree: Tree,
        width: int,
        branch: int,
        subtrees: int,
        balance: float | None,
    ):
        self.problem = problem
        self.guide = guide
        self.meter = meter
        self.tree = tree
        self.width = width
        self.branch = branch
        self.subtrees = subtrees
        self.balance = balance
        self.flight = InFlight(meter, guide, 2 * width * branch, 0.0, min(64, guide.policy.step_tokens))
        self.single = not guide.policy.step_tokens or bool(getattr(guide.policy, "greedy", False))
        self.first = True
        self.nodes: list[list[int]] = [[0]]
        self.steps: list[_Step] = []
        self.waiting: deque[_Step] = deque()
        self.candidates: dict[tuple[int, int, object], _Candidate] = {}
        self.rng = rng

    async def all(self) -> None:
        """Search until a solution is verified, all chains are finished or the budget ends."""
        self.steps = self._ask(0, 0, self.problem.initial(), self.rng, max(self.branch, self.width))
        while self.steps and not solved(self.problem, self.tree):
            await self._depth()
            if self.first and not self.candidates:
                self._raise_if_broken()
            self._advance()
            self.first = False
        await self.flight.close()

    def _raise_if_broken(self) -> None:
        """Raises the backend's error where not even a first step could be had."""
        error = self.steps[0].growth.error
        if error is not None and not isinstance(error, BudgetSpent) and not self.meter.halted:
            raise error

    def _ask(self, group: int, rank: int, state: State, rng: np.random.Generator, count: int) -> list[_Step]:
        """Have so many steps written from a state."""
        if self.single:
            count = 1
        children = rng.spawn(count)
        steps = [_Step(group, rank, index, state, child) for index, child in enumerate(children)]
        self.waiting.extend(steps)
        return steps

    async def _depth(self) -> None:
        """Go on until all steps of this depth are written and judged."""
        while not all(step.done for step in self.steps):
            self._start()
            child = await self.flight.next()
            if child is None:  # the budget is spent
                for left in self.steps:
                    left.done = True
                self.waiting.clear()
                return
            lane: Lane = child.owner
            step: _Step = lane.state
            step.growth, step.values = child.result
            self.flight.end(lane, finished=False, counts=None if step.index else True)
            self._written(step)

    def _start(self) -> None:
        policy, value = self.guide.policy, self.guide.value
        count = self.branch if self.single else 1
        while self.waiting:
            step = self.waiting[0]
            lane = self.flight.new(counts=not step.index)
            if lane is None:
                return
            self.waiting.popleft()
            lane.state = step
            asks = _written(self.problem, self.guide, step.state, count, step.rng)
            tokens = count * policy.step_tokens + value.tokens
            calls = (count if policy.backends else 0) + value.calls
            self.flight.start(lane, asks, tokens, calls, 1 + bool(value.tokens))

    def _written(self, step: _Step) -> None:
        """A step is there: it is a candidate, unless it failed or is there already."""
        error = step.growth.error
        again = error is not None and not isinstance(error, BudgetSpent) and not self.meter.halted
        if again and step.failures < RETRIES:
            step.failures += 1
            self.waiting.appendleft(step)
            return
        step.done = True
        if step not in self.steps:  # of the next depth: it is looked at when that begins
            return
        for child, value in zip(step.growth.children, step.values, strict=True):
            key = (step.group, step.rank, child.key)
            self.candidates.setdefault(key, _Candidate(step, child, value))
        if self.balance is None and (self.subtrees == 1 or not self.first):
            self._expand_sure_ones()

    def _best(self, group: int) -> list[_Candidate]:
        """Candidates of a group that are not finished, the best first."""
        mine = [c for c in self.candidates.values() if c.step.group == group and not c.child.finished]
        return sorted(mine, key=lambda candidate: candidate.order)

    def _expand_sure_ones(self) -> None:
        """Begin with the states that will be in the next beam whatever else comes."""
        room = self.width // self.subtrees
        for group in range(len(self.nodes)):
            open_ = [step for step in self.steps if step.group == group and not step.done]
            for place, candidate in enumerate(self._best(group)[:room]):
                before = sum(self._may_pass(step, candidate) for step in open_)
                if not candidate.steps and place + before < room:
                    self._expand(candidate, self.branch)

    def _may_pass(self, step: _Step, candidate: _Candidate) -> bool:
        """Whether a step that is being written can come before a candidate.

        Any can where states are judged. Where nothing judges them all have one value, and the order is that of the steps.
        """
        if not isinstance(self.guide.value, Known) or not math.isnan(candidate.child.proposal.value):
            return True
        return (step.index, step.rank) < (candidate.step.index, candidate.step.rank)

    def _expand(self, candidate: _Candidate, count: int) -> None:
        step = candidate.step
        (rng,) = step.rng.spawn(1)
        candidate.steps = self._ask(step.group, -1, candidate.child.state, rng, count)

    def _advance(self) -> None:
        """Write this depth into the tree, and go on to the next."""
        tree, problem = self.tree, self.problem
        places: dict[int, int] = {}  # id of a candidate -> its node
        by_state: dict[tuple[int, int], list[_Step]] = defaultdict(list)
        for step in self.steps:
            by_state[step.group, step.rank].append(step)
        if self.first:
            tree.visit(0, 0.5)
        for (group, rank), steps in by_state.items():
            node = self.nodes[group][rank]
            kept = [c for c in self.candidates.values() if (c.step.group, c.step.rank) == (group, rank)]
            kept.sort(key=lambda candidate: candidate.step.index)
            edges = write(tree, problem, node, _together(steps))
            of_key = {problem.key(tree.states[node], tree.steps[edge]): edge for edge in edges}
            for candidate in kept:
                child = tree.open(node, of_key[candidate.child.key])
                places[id(candidate)] = child
                if not math.isnan(candidate.value):
                    tree.visit(child, candidate.value)
        beams = self._dealt() if self.first else [self._best(group) for group in range(len(self.nodes))]
        room = self.width // self.subtrees
        self.nodes = []
        self.steps = []
        for group, best in enumerate(beams):
            counts = {id(c): self.branch for c in best[:room]}
            if self.balance is not None:
                values = [c.value for c in best]
                dealt = _deal(values, room * self.branch, self.balance)
                counts = {id(c): n for c, n in zip(best, dealt, strict=True) if n}
            chosen = [c for c in best if id(c) in counts]
            self.nodes.append([places[id(c)] for c in chosen])
            for rank, candidate in enumerate(chosen):
                if not candidate.steps:
                    self._expand(candidate, counts[id(candidate)])
                for step in candidate.steps:
                    step.group, step.rank = group, rank
                self.steps += candidate.steps
        self.candidates = {}
        for step in self.steps:
            if step.done:
                self._written(step)

    def _dealt(self) -> list[list[_Candidate]]:
        """The first candidates, dealt to the subtrees."""
        found = sorted(self.candidates.values(), key=lambda c: c.step.index)
        groups = [found[i :: self.subtrees] for i in range(self.subtrees)]
        return [sorted((c for c in g if not c.child.finished), key=lambda c: c.order) for g in groups]


async def _written(problem: Problem, guide: Guide, state: State, count: int, rng: np.random.Generator) -> tuple[Growth, list[float]]:
    """Steps from a state, each with its reward if it is finished, else its value; nan unknown."""
    proposer, judger = rng.spawn(2)
    growth = await grow(problem, guide, state, math.nan, count, proposer, judge=False)
    values = []
    for child in growth.children:
        value = child.reward
        if value is None:
            value = await judged(problem, guide, child.state, child.proposal.value, judger)
        values.append(value)
    return growth, values


def _together(steps: Sequence[_Step]) -> Growth:
    """What came of all steps of one state."""
    whole = Growth()
    for step in steps:
        growth = step.growth
        whole.children += growth.children
        whole.drawn += growth.drawn
        whole.proposed += growth.proposed
        whole.unusable += growth.unusable
        whole.example = whole.example if growth.example is None else growth.example
    return whole


def _deal(values: Sequence[float], steps: int, balance: float) -> list[int]:
    """How many of `steps` each of these values gets (Wu et al. 2024, eq. 3); the best gets one at least."""
    if not values:
        return []
    worth = np.array([0.0 if math.isnan(value) else value for value in values])
    weights = np.exp((worth - worth.max()) / balance)
    shares = np.floor(steps * weights / weights.sum() + 0.5).astype(int)
    shares[worth.argmax()] = max(1, shares[worth.argmax()])
    return [int(share) for share in shares]
