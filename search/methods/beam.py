"""Step-level beam search with a guide.

Its variants: independent subtrees (DVTS; Beeching et al. 2024), steps dealt by value (REBASE; Wu et
al. 2024).
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from search.guide import Guide, Known
from search.methods.affordable import Affordable
from search.methods.concurrent_chains import InFlight, Lane
from search.methods.expand import RETRIES, Child, Growth, cost, grow, solved, state_value, write
from search.methods.session import Search
from search.problem import Problem, State
from search.scheduling.requests import Avoided, BudgetSpent


async def beam(
    search: Search,
    *,
    width: int = 4,
    branch: int = 4,
    subtrees: int = 1,
    balance: float | None = None,
) -> None:
    """Expand the best `width` states of each depth until all chains are finished.

    width     states kept a depth, over all subtrees; fewer where the tokens would not last to the
              ends of their chains
    branch    steps sampled from each; fewer as well
    subtrees  the first steps are dealt to this many beams of width / subtrees, which no longer
              compete (DVTS)
    balance   None: the best `width` states get `branch` steps each. A temperature: the width x
              branch steps of a depth are dealt to its states by the softmax of value / balance,
              rounded, so that good states get more and poor ones none (REBASE; there 0.1 to 0.3)

    A simulation is one expanded state. Values are added along the path of each state when it is
    judged. Of equal values the first steps of all states come before their second ones. A state is
    expanded as soon as no step that is still being written can take its place, so none waits for
    the longest step of a depth.

    A beam that the tokens cannot pay for narrows, down to one chain (`affordable`): a budget of one
    and a half chains gives an answer, one of three where it would last for a whole beam of short
    ones. What was left out is taken up again as soon as no other state is left and while
    the tokens are likely to last (as in beam stack search; Zhou and Hansen 2005).
    """
    if subtrees < 1 or width < subtrees or width % subtrees:
        raise ValueError(
            f"width={width} cannot be shared evenly by subtrees={subtrees}: make width a "
            "multiple of subtrees"
        )
    if balance is not None and balance <= 0:
        raise ValueError(f"balance={balance} is no temperature: give a number above 0, or none")
    await _Beam(search, width, branch, subtrees, balance).all()


@dataclass(eq=False)
class _Step:
    """A step that is being written from a state, and then judged.

    group, rank  of its state: the subtree, and the place in its beam;  index: which of the state's
                 steps
    avoid        what was drawn from the state at an earlier time
    children     what came: mostly one; with their values in [0, 1], nan unknown
    done         nothing more comes of it
    """

    group: int
    rank: int
    index: int
    state: State
    rng: np.random.Generator
    avoid: tuple[Avoided, ...] = ()
    failures: int = 0
    growth: Growth = field(default_factory=Growth)
    values: list[float] = field(default_factory=list)
    done: bool = False


@dataclass(eq=False)
class _Candidate:
    """A state that may be in the next beam.

    node         in the tree, once it is written there
    steps, rng   steps from it and for more of them, once it is sure to be in the beam
    """

    step: _Step
    child: Child
    value: float
    node: int = -1
    steps: list[_Step] = field(default_factory=list)
    rng: np.random.Generator | None = None

    @property
    def order(self) -> tuple[float, int, int]:
        return (0.5 if math.isnan(self.value) else -self.value, self.step.index, self.step.rank)


@dataclass(eq=False)
class _Open:
    """A state of a beam from which steps are wanted.

    group, rank  its subtree, and its place in that one's beam
    count        how many steps, those of `steps` included, which have begun;  asked: how many it
                 was given at earlier times
    """

    group: int
    rank: int
    node: int
    state: State
    rng: np.random.Generator
    count: int
    steps: list[_Step] = field(default_factory=list)
    asked: int = 0


class _Beam:
    """A beam search under way: the steps of one depth, and those of the next that have begun.

    nodes     of the states that are being expanded, for each group, in the order of their rank
    depth     tokens of the chains up to these states, on average
    left_out  states of each depth that was narrowed, for which there may be tokens later
    """

    def __init__(
        self, search: Search, width: int, branch: int, subtrees: int, balance: float | None
    ):
        guide = search.guide
        self.problem = search.problem
        self.guide = guide
        self.meter = search.meter
        self.tree = search.tree
        self.width = width
        self.branch = branch
        self.subtrees = subtrees
        self.balance = balance
        self.flight = InFlight(
            search.meter, guide, 2 * width * branch, 0.0, min(64, guide.policy.step_tokens)
        )
        self.affordable = Affordable(
            guide.policy, self.flight, width, branch, search.meter.tokens_left
        )
        self.single = not guide.policy.step_tokens or bool(getattr(guide.policy, "greedy", False))
        self.first = True
        self.nodes: list[list[int]] = []
        self.depth = 0.0
        self.left_out: deque[list[_Open]] = deque()
        self.valued = False  # whether the policy gives values
        self.steps: list[_Step] = []
        self.waiting: deque[_Step] = deque()
        self.candidates: dict[tuple[int, int, object], _Candidate] = {}
        self.rng = search.rng

    async def all(self) -> None:
        """Search until a solution is verified, all chains are finished or the budget ends."""
        count = 1 if self.single else max(self.branch, self.width)
        self._begin([_Open(0, 0, 0, self.problem.initial(), self.rng, count)])
        while self.steps and not solved(self.problem, self.tree):
            await self._depth()
            if self.first and not self.candidates:
                self._raise_if_broken()
            self._advance()
            self.first = False
            while self.left_out and not self.steps:
                self._take_up(self.left_out.popleft())
        await self.flight.close()

    @property
    def _judges(self) -> bool:
        """Whether states are told apart, by a value function or the policy's own values."""
        return not isinstance(self.guide.value, Known) or self.valued

    @property
    def _at_root(self) -> bool:
        return self.nodes[0] == [0]

    def _raise_if_broken(self) -> None:
        """Raises the backend's error where not even a first step could be had."""
        error = self.steps[0].growth.error
        if error is not None and not isinstance(error, BudgetSpent) and not self.meter.halted:
            raise error

    def _ask(
        self,
        group: int,
        state: State,
        rng: np.random.Generator,
        indices: range,
        avoid: tuple[Avoided, ...] = (),
    ) -> list[_Step]:
        """Have steps written from a state."""
        steps = [
            _Step(group, -1, index, state, child, avoid)
            for index, child in zip(indices, rng.spawn(len(indices)), strict=True)
        ]
        self.waiting.extend(steps)
        return steps

    def _begin(self, level: list[_Open]) -> None:
        """Expand these states, as many and by as many steps as the tokens last for; what is left
        out comes later.
        """
        tree = self.tree
        self.depth = self.affordable.depth(tree, [open_.node for open_ in level])
        wanted = sum(open_.count for open_ in level)
        states, each = self.affordable.shape(wanted, self.depth, 0, self._judges)
        by_rank = sorted(level, key=lambda open_: open_.rank)
        chosen = set(map(id, by_rank[:states]))
        self.nodes = [[] for _ in range(self.subtrees)]
        self.steps = []
        rest: list[_Open] = []
        for open_ in level:
            begun = len(open_.steps)
            now = begun
            if id(open_) in chosen:
                now = max(begun, min(open_.count, each))
            if now > begun:
                avoid: tuple[Avoided, ...] = ()
                if open_.asked:
                    avoid = tuple(tree.drawn.get(open_.node, {}).values())
                indices = range(open_.asked + begun, open_.asked + now)
                open_.steps += self._ask(open_.group, open_.state, open_.rng, indices, avoid)
            if now:
                for step in open_.steps:
                    step.group = open_.group
                    step.rank = len(self.nodes[open_.group])
                self.nodes[open_.group].append(open_.node)
                self.steps += open_.steps
            if now < open_.count:
                left = open_.count - now
                rest.append(replace(open_, count=left, asked=open_.asked + now, steps=[]))
        if rest:
            self.left_out.append(rest)
        if self.steps:  # what is alone may have all the tokens
            self.flight.width = 2 * min(self.width * self.branch, states * each)

    def _take_up(self, level: list[_Open]) -> None:
        """Expand states that were left out, if one of their chains at least is likely to come to
        its end.
        """
        depth = self.affordable.depth(self.tree, [open_.node for open_ in level])
        if self.meter.stopped is None and self.affordable.fits(depth):
            self._begin(level)
        elif self.meter.stopped is None:
            self.meter.short_of = "tokens"

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
            self.affordable.wrote([grown.proposal.step for grown in step.growth.children])
            self.flight.end(lane, finished=False, counts=None if step.index else True)
            self._written(step)

    def _start(self) -> None:
        count = self.branch if self.single else 1
        tokens, calls = cost(self.guide, count, judge=True)
        while self.waiting:
            step = self.waiting[0]
            lane = self.flight.new(counts=not step.index, last=True)
            if lane is None:
                return
            self.waiting.popleft()
            lane.state = step
            asks = _written(self.problem, self.guide, step.state, count, step.rng, step.avoid)
            requests = 2 if self.guide.value.tokens else 1
            self.flight.start(lane, asks, tokens, calls, requests)

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
            self.valued = self.valued or not math.isnan(child.proposal.value)
        if self.balance is None and (self.subtrees == 1 or not self._at_root):
            self._expand_sure_ones()

    def _best(self, group: int) -> list[_Candidate]:
        """Candidates of a group that are not finished, the best first."""
        mine = [c for c in self.candidates.values() if c.step.group == group]
        return _ordered(mine)

    def _expand_sure_ones(self) -> None:
        """Begin with the states that will be in the next beam whatever else comes."""
        running = sum(not step.done for step in self.steps)
        depth = self.depth + self.affordable.step
        wanted = self.width * self.branch
        states, each = self.affordable.shape(wanted, depth, running, self._judges)
        room = min(self.width, states) // self.subtrees
        for group in range(len(self.nodes)):
            open_ = [step for step in self.steps if step.group == group and not step.done]
            for place, candidate in enumerate(self._best(group)[:room]):
                before = sum(self._may_pass(step, candidate) for step in open_)
                begun = sum(len(other.steps) for other in self.candidates.values())
                if not candidate.steps and place + before < room and begun + each <= states * each:
                    (candidate.rng,) = candidate.step.rng.spawn(1)
                    indices = range(1 if self.single else min(each, self.branch))
                    state = candidate.child.state
                    candidate.steps = self._ask(group, state, candidate.rng, indices)

    def _may_pass(self, step: _Step, candidate: _Candidate) -> bool:
        """Whether a step that is being written can come before a candidate.

        Any can where states are judged. Where nothing judges them all have one value, and the order
        is that of the steps.
        """
        if self._judges:
            return True
        return (step.index, step.rank) < (candidate.step.index, candidate.step.rank)

    def _advance(self) -> None:
        """Write this depth into the tree, and go on to the next."""
        by_state: dict[tuple[int, int], list[_Step]] = defaultdict(list)
        for step in self.steps:
            by_state[step.group, step.rank].append(step)
        if self.first:
            self.tree.visit(0, 0.5)
        for (group, rank), steps in by_state.items():
            self._write(group, rank, steps)
        if self._at_root:
            beams = self._dealt()
        else:
            beams = [self._best(group) for group in range(len(self.nodes))]
        level: list[_Open] = []
        for group, best in enumerate(beams):
            for rank, (candidate, count) in enumerate(self._shares(best)):
                if candidate.rng is None:
                    (candidate.rng,) = candidate.step.rng.spawn(1)
                level.append(
                    _Open(
                        group,
                        rank,
                        candidate.node,
                        candidate.child.state,
                        candidate.rng,
                        1 if self.single else count,
                        candidate.steps,
                    )
                )
        self.candidates = {}
        self._begin(level)
        for step in self.steps:
            if step.done:
                self._written(step)

    def _write(self, group: int, rank: int, steps: Sequence[_Step]) -> None:
        """Write the steps of one state into the tree, and give its candidates their nodes."""
        tree = self.tree
        node = self.nodes[group][rank]
        mine = [c for c in self.candidates.values() if (c.step.group, c.step.rank) == (group, rank)]
        edges = write(tree, self.problem, node, _together(steps))
        self.affordable.ended(tree, [end for end in map(tree.child, edges) if end in tree.finished])
        edge_of = {self.problem.key(tree.states[node], tree.steps[edge]): edge for edge in edges}
        for candidate in sorted(mine, key=lambda candidate: candidate.step.index):
            # it was there before this state was taken up again
            if candidate.child.key not in edge_of:
                del self.candidates[group, rank, candidate.child.key]
                continue
            candidate.node = tree.open(node, edge_of[candidate.child.key])
            if not math.isnan(candidate.value):
                tree.visit(candidate.node, candidate.value)

    def _shares(self, best: list[_Candidate]) -> list[tuple[_Candidate, int]]:
        """The candidates of one subtree that are expanded, and by how many steps each."""
        room = self.width // self.subtrees
        if self.balance is None:
            return [(candidate, self.branch) for candidate in best[:room]]
        counts = _deal([c.value for c in best], room * self.branch, self.balance)
        return [(c, count) for c, count in zip(best, counts, strict=True) if count]

    def _dealt(self) -> list[list[_Candidate]]:
        """The first candidates, dealt to the subtrees."""
        found = sorted(self.candidates.values(), key=lambda c: c.step.index)
        return [_ordered(found[i :: self.subtrees]) for i in range(self.subtrees)]


def _ordered(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Those that are not finished, the best first."""
    unfinished = [candidate for candidate in candidates if not candidate.child.finished]
    return sorted(unfinished, key=lambda candidate: candidate.order)


async def _written(
    problem: Problem,
    guide: Guide,
    state: State,
    count: int,
    rng: np.random.Generator,
    avoid: tuple[Avoided, ...],
) -> tuple[Growth, list[float]]:
    """Steps from a state, each with its reward if it is finished, else its value; nan unknown."""
    for_policy, for_value = rng.spawn(2)
    growth = await grow(
        problem, guide, state, math.nan, count, for_policy, judge=False, avoid=avoid
    )
    values = []
    for child in growth.children:
        value = child.reward
        if value is None:
            value = await state_value(problem, guide, child.state, child.proposal.value, for_value)
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
        if growth.example is not None:
            whole.example = growth.example
    return whole


def _deal(values: Sequence[float], steps: int, balance: float) -> list[int]:
    """How many of `steps` each of these values gets (Wu et al. 2024, eq. 3); the best gets one
    at least.
    """
    if not values:
        return []
    worth = np.array([0.0 if math.isnan(value) else value for value in values])
    weights = np.exp((worth - worth.max()) / balance)
    shares = np.floor(steps * weights / weights.sum() + 0.5).astype(int)
    shares[worth.argmax()] = max(1, shares[worth.argmax()])
    return [int(share) for share in shares]
