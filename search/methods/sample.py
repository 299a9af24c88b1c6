"""Independent chains of thought: ancestral sampling from the policy.

With a chooser this is chain of thought (one chain), majority vote (`choose.majority`; Wang et al.
2022), best-of-N (`choose.best`), weighted vote (`choose.weighted`) and rejection sampling (a
problem that verifies itself).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from search.guide import Guide
from search.methods.concurrent_chains import InFlight, Lane
from search.methods.expand import Child, at_once, child_of, mover, solved, state_value
from search.methods.session import Search
from search.parts import Proposal, completed, given
from search.problem import Problem, State, Step, TextStep
from search.scheduling.pool import Child as Ended
from search.scheduling.requests import BudgetSpent, RequestFailed
from search.tree.tree import Tree

FIRST = 1 / 2  #: until a chain has ended, half of the tokens are kept for the first one
BARREN = 3  #: waves of chains in a row of which nothing came before a search gives up


async def sample(
    search: Search,
    *,
    chains: int | None = None,
    wave: int = 8,
    solutions: int | None = 1,
    enough: float | None = None,
) -> None:
    """Sample chains until `solutions` are verified, `chains` are there, or the budget ends.

    chains     how many; None: as many as the budget allows
    wave       chains sampled side by side; a new one begins as one ends
    solutions  different ones that the problem verifies, after which a search ends; None: it goes on
               as if the problem did not verify
    enough     in [0, 1], of a stream whose attempts the search begins: an answer whose value is at
               least so much is the last, and the search says of it that it is right. None: there
               are as many attempts as there may be

    A simulation is one chain. Chains share their common beginnings in the tree; a step's prior
    there is its share of the samples.
    """
    search.tree.independent = True
    search.tree.visit(0, 0.5)
    flight = InFlight(search.meter, search.guide, wave, FIRST)
    await _Samples(search, flight, solutions, enough).all(chains)
    _share_priors(search.tree)


@dataclass
class _Chain:
    """A chain that is being sampled: its state, and what came since it was last written into the
    tree.

    children  the legal steps
    illegal   the others, each with the number of the legal ones before it
    dead      an illegal step has ended it
    value     what was good enough to end it (`sample`); nan: nothing was
    """

    state: State
    rng: np.random.Generator
    children: list[Child] = field(default_factory=list)
    illegal: list[tuple[int, Step]] = field(default_factory=list)
    dead: bool = False
    value: float = math.nan


class _Samples:
    """Chains under way.

    values   of each finished node that was judged; None while it is being judged
    arrivals chains that ended at a node before it was judged
    """

    def __init__(
        self, search: Search, flight: InFlight, solutions: int | None, enough: float | None
    ):
        self.solutions = solutions
        self.enough = enough
        self.problem: Any = search.problem
        self.guide = search.guide
        self.meter = search.meter
        self.tree = search.tree
        self.flight = flight
        self.rng = search.rng
        self.left = 0.0  # chains that are still to begin
        self.failures = 0  # chains in a row of which nothing came
        self.error: RequestFailed | None = None
        self.values: dict[int, float | None] = {}
        self.arrivals: Counter[int] = Counter()

    async def all(self, chains: int | None) -> None:
        """Sample until enough are verified, `chains` have been, the budget ends or every request
        fails.
        """
        self.left = math.inf if chains is None else chains
        flight = self.flight
        patience = BARREN * min(flight.width, self.left)
        while True:
            while self.left > 0 and self.failures < patience and (lane := flight.new()) is not None:
                self.left -= 1
                lane.state = _Chain(self.problem.initial(), self.rng.spawn(1)[0])
                self._go_on(lane)
            child = await flight.next()
            if child is None:
                break
            self._take(child)
            if self._enough():
                break
        await flight.close()
        for lane in list(flight.alive):  # cut off by the budget
            if lane.job == "judge":
                self._judged(lane, math.nan)
            else:
                self._end(lane, finished=False)
        if self.error is not None and len(self.tree.nodes) == 1 and not self.meter.halted:
            raise self.error

    def _enough(self) -> bool:
        if self.solutions is None or not solved(self.problem, self.tree):
            return False
        return list(self.tree.finished.values()).count(1.0) >= self.solutions

    def _go_on(self, lane: Lane) -> None:
        policy = self.guide.policy
        lane.job = "write"
        calls = policy.max_steps if policy.backends else 0
        asks = _piece(self.problem, self.guide, lane.state, self.enough)
        self.flight.start(lane, asks, policy.chain_tokens, calls)

    def _weigh(self, lane: Lane, enough: float) -> None:
        value = self.guide.value
        lane.job = "weigh"
        asks = _weigh(self.problem, self.guide, lane.state, enough)
        self.flight.start(lane, asks, value.tokens, value.calls, max(1, value.calls))

    def _take(self, child: Ended) -> None:
        lane = child.owner
        chain = lane.state
        if lane.job == "judge":
            self._judged(lane, child.result)
            return
        error = child.result
        if error is not None and not chain.children:
            beyond = isinstance(error, BudgetSpent)
            if not beyond:
                self.failures += 1
                self.error = error
                self.left += 1  # another chain is sampled in its place
            self._end(lane, finished=False, counts=bool(lane.node))
            return
        self.failures = 0
        short = child.grant.short or lane.job == "weigh"
        more = error is None and not chain.dead and short
        before = lane.node
        lane.node = self._write(lane.node, chain)
        if lane.node in self.tree.finished:
            self._finished(lane)
        elif self.enough is not None and self.problem.pauses(chain.state):
            self._weigh(lane, self.enough)
        elif more and lane.node != before and len(chain.state) < self.guide.policy.max_steps:
            self._go_on(lane)
        else:
            self._end(lane, finished=False)

    def _write(self, node: int, chain: _Chain) -> int:
        """Add what came of a chain below `node`; the node it has reached."""
        tree = self.tree
        unusable = [step for _, step in chain.illegal]
        tree.proposed += len(unusable)
        refused = dict(chain.illegal)
        for place, child in enumerate(chain.children):
            self._refuse(node, refused.get(place))
            step = child.proposal.step
            if not child.finished and getattr(step, "finish", "stop") == "length":
                unusable.append(step)
            node = self._follow(node, child)
        self._refuse(node, refused.get(len(chain.children)))
        tree.proposed += len(chain.children)
        if unusable:
            tree.unusable += len(unusable)
            tree.example = unusable[-1]
        chain.children = []
        chain.illegal = []
        return node

    def _refuse(self, node: int, step: Step | None) -> None:
        """Keep an illegal step of text."""
        if isinstance(step, TextStep):
            self.tree.refused[node][step] += 1

    def _follow(self, node: int, child: Child) -> int:
        """The node behind a step from `node`, which is added where it is not there. Samples are
        kept as they were drawn: the same text in other tokens is another step.
        """
        tree = self.tree
        tokens = getattr(child.proposal.step, "tokens", None)
        for edge in tree.block(node):
            step = tree.steps[edge]
            same = self.problem.key(tree.states[node], step) == child.key
            if same and getattr(step, "tokens", None) == tokens:
                return tree.open(node, edge)
        count = len(tree.block(node)) + 1
        uniform = np.full(count, 1.0 / count)
        players = [mover(self.problem, child.state)]
        (edge,) = tree.add(node, [child.proposal.step], [child.state], uniform, players=players)
        reached = tree.open(node, edge)
        if child.finished:
            tree.finished[reached] = child.reward
        return reached

    def _finished(self, lane: Lane) -> None:
        """Count a chain that has come to its end, once its value is known: the reward, or what
        the guide says of it.
        """
        node = lane.node
        self.values.setdefault(node, self.tree.finished[node])
        if self.values[node] is None and not math.isnan(lane.state.value):
            self.values[node] = lane.state.value
        if self.values[node] is not None:
            self._end(lane, finished=True)
        elif self.arrivals[node]:  # it is being judged for another chain
            self.arrivals[node] += 1
            self.flight.end(lane, finished=True)
        else:
            self.arrivals[node] += 1
            lane.job = "judge"
            value = self.guide.value
            state = self.tree.states[node]
            own = self.tree.value(node)
            asks = state_value(self.problem, self.guide, state, own, lane.state.rng)
            if value.calls:
                self.flight.start(lane, asks, value.tokens, value.calls, value.calls)
            else:
                self._judged(lane, at_once(asks))

    def _judged(self, lane: Lane, value: float) -> None:
        node = lane.node
        self.values[node] = value
        for _ in range(self.arrivals.pop(node) - 1):
            self._visit(node)
        self._end(lane, finished=True)

    def _end(self, lane: Lane, finished: bool, counts: bool = True) -> None:
        if lane.node:
            self._visit(lane.node)
        self.flight.end(lane, finished, counts)

    def _visit(self, node: int) -> None:
        """One visit for a chain: its reward or value; 0 where it never finished."""
        value = self.values.get(node, 0.0)
        unknown = value is None or math.isnan(value)
        self.tree.visit(node, 0.5 if unknown else value)  # type: ignore[arg-type]


async def _piece(
    problem: Any, guide: Guide, chain: _Chain, enough: float | None
) -> RequestFailed | None:
    """Sample on as far as the grant lasts; the error where not even one step came. Where a step is
    illegal, and the problem has a line for that (`Stream.due`), the chain goes on behind it.

    enough  as `sample` has it: then no further than to the end of an attempt
    """
    while True:
        part = problem if enough is None else problem.attempt(chain.state)
        try:
            steps = await completed(guide.policy, part, chain.state, chain.rng)
        except RequestFailed as error:
            # behind a line of the search's it may go on with more tokens
            return None if chain.children and isinstance(error, BudgetSpent) else error
        for step in steps:
            if not await _add(problem, chain, step):
                chain.illegal.append((len(chain.children), step))
                chain.dead = True
                break
        if chain.dead:
            line = given(guide.policy, problem, chain.state, stuck=True)
            if line is None:
                return None
            chain.dead = False
            await _add(problem, chain, line)
        elif enough is None or part.attempts == problem.read(chain.state).attempt:
            return None


async def _weigh(problem: Problem, guide: Guide, chain: _Chain, enough: float) -> None:
    """Judge an answer, and write what stands behind it: the line that ends the chain where its
    value is `enough`, else that of another attempt.
    """
    value = await state_value(problem, guide, chain.state, math.nan, chain.rng)
    line = given(guide.policy, problem, chain.state, enough=value >= enough)
    assert line is not None
    await _add(problem, chain, line)
    if value >= enough:
        chain.value = value


async def _add(problem: Problem, chain: _Chain, step: Step) -> bool:
    """Add a step to a chain; False where it is illegal."""
    child = await child_of(problem, chain.state, Proposal(step, math.nan, 1.0))
    if child is None:
        return False
    chain.children.append(child)
    chain.state = child.state
    return True


def _share_priors(tree: Tree) -> None:
    """Priors of every block: the share of the chains that took each step."""
    for node in range(len(tree.nodes)):
        block = tree.block(node)
        if block:
            counts = np.maximum(tree.field(node, "visits"), 1)
            tree.set_priors(node, counts / counts.sum())
