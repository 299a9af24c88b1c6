"""What a method works with: one search, its tree, and the two things that can be asked for.

    async def best_first(search, *, branch=4):
        frontier = [0]
        while frontier and not search.over:
            best = max(frontier, key=search.tree.mean)
            frontier.remove(best)
            new = await search.expand([best], branch)
            frontier += [node for node in new if node not in search.tree.finished]

Methods that need more than rounds of expansions, as ours do, find it in `expand`, `simulate` and
`concurrent_chains`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np

from search.guide import Guide
from search.methods.expand import RETRIES, Growth, plant, round_of, solved, state_values, write
from search.problem import Problem
from search.scheduling.budget import Budget, Meter
from search.scheduling.requests import BudgetSpent
from search.scheduling.scheduler import Asks

IDLE = 100  #: calls in a row that brought nothing and cost nothing after which a search is over
ENDLESS = 10 * IDLE  #: ... and after which a call raises, since its method never ends


class Search:
    """One search under way, as its method sees it.

    problem  what is to be solved;  guide: proposes steps and judges states
    tree     the search tree; node 0 is the problem's first state. `tree.finished` has the finished
             nodes and their rewards, `tree.mean(node)` what is thought of a node,
             `tree.states[node]` its state
    rng      the only source of random numbers that gives the same tree for the same seed
    budget   the limits;  meter: what is spent and left of them

    A method returns nothing: what was found is in `tree`. It ends when `over` is True, or before.
    """

    def __init__(self, problem: Problem, guide: Guide, meter: Meter, rng: np.random.Generator):
        self.problem = problem
        self.guide = guide
        self.meter = meter
        self.rng = rng
        self.tree = plant(problem, meter)
        self._idle = 0
        self._called = ""  # the call that was not awaited yet

    @property
    def budget(self) -> Budget:
        """The limits of this search."""
        return self.meter.budget

    @property
    def over(self) -> bool:
        """Whether to end: the budget is spent, a solution is verified, or asking brings nothing
        more.

        Raises ValueError where a call was not awaited.
        """
        self.check_awaited()
        return bool(self.meter.stopped) or solved(self.problem, self.tree) or self._idle >= IDLE

    def expand(self, nodes: Sequence[int], n: int = 4, judge: bool = True) -> Asks[list[int]]:
        """Ask the policy for up to `n` steps from each of these nodes; the new nodes behind them,
        in the order of `nodes`.

        nodes  are expanded side by side, in one round of requests. One that was expanded before
               gets other steps, where there are any
        n      steps of each; equal ones count once, illegal ones are left out
        judge  have the value function judge the new nodes; False: later, by `judge`, or not at all

        Each expanded node is one simulation of the budget; where it ends, nodes are left out, the
        last ones first. The value of a new node counts in the means of all nodes above it: its
        reward where it is finished, else what judged it.

        Raises ValueError for nodes that are none or finished; the backend's error where not even
        the root could be expanded.
        """
        checked = self._check_nodes(nodes, "expand")
        finished = [node for node in checked if node in self.tree.finished]
        if finished:
            raise ValueError(
                f"node {finished[0]} is finished, nothing follows it: expand nodes that are not "
                "in search.tree.finished"
            )
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
            raise ValueError(
                f"search.expand cannot ask for n={n!r} steps: give a whole number from 1 on"
            )
        self._call("expand")
        return self._expand(checked, int(n), judge)

    def judge(self, nodes: Sequence[int]) -> Asks[list[float]]:
        """Have the value function judge nodes: their values in [0, 1], nan unknown. They count in
        the means of the nodes above.

        A finished node's value is its reward, where it has one. Raises ValueError for nodes that
        are none.
        """
        checked = self._check_nodes(nodes, "judge")
        self._call("judge")
        return self._judge(checked)

    def check_awaited(self) -> None:
        """Raises ValueError where `expand` or `judge` was called and not awaited."""
        if self._called:
            raise ValueError(
                f"search.{self._called}(...) was called without `await`, or twice at once: write "
                f"`await search.{self._called}(nodes)`, with all nodes in one call"
            )

    # -- what runs once it is awaited

    async def _expand(self, nodes: list[int], n: int, judge: bool) -> list[int]:
        self._called = ""
        before = self.meter.usage
        begun = self.meter.begin(len(nodes))
        growths = await self._grow(nodes[:begun], n)
        self.meter.finish(len(growths), begun)
        tree = self.tree
        if growths and not tree.visits(0):
            tree.visit(0, 0.5)
        new: list[int] = []
        for node, growth in growths.items():
            for edge in write(tree, self.problem, node, growth):
                new.append(tree.open(node, edge))
        self._count(bool(new) or self.meter.usage.calls > before.calls)
        if judge:
            await self._judge(new)
        else:
            for node in new:
                if node in tree.finished:
                    self._add(node, self._reward(node, 0.5))
        return new

    async def _grow(self, nodes: list[int], n: int) -> dict[int, Growth]:
        """What came of each node that could be granted something. Raises the backend's error
        where the root cannot be expanded.
        """
        growths: dict[int, Growth] = {}
        for _ in range(1 + RETRIES):
            left = [node for node in nodes if node not in growths or self._failed(growths[node])]
            if not left or self.meter.halted:
                break
            growths |= await round_of(
                self.problem, self.guide, self.meter, self.tree, left, n, self.rng, judge=False
            )
        root = growths.get(0, Growth())
        alone = len(self.tree.nodes) == 1 and not self.meter.halted
        if root.error is not None and self._failed(root) and alone:
            raise root.error
        return {node: growths[node] for node in nodes if node in growths}

    def _failed(self, growth: Growth) -> bool:
        return growth.error is not None and not isinstance(growth.error, BudgetSpent)

    async def _judge(self, nodes: list[int]) -> list[float]:
        self._called = ""
        tree = self.tree
        unknown = [node for node in nodes if tree.finished.get(node) is None]
        states = [tree.states[node] for node in unknown]
        own = [tree.value(node) for node in unknown]
        found = await state_values(self.problem, self.guide, self.meter, states, own, self.rng)
        values = dict(zip(unknown, found, strict=True))
        for node in nodes:
            values[node] = self._reward(node, values.get(node, math.nan))
            self._add(node, values[node])
        return [values[node] for node in nodes]

    def _reward(self, node: int, value: float) -> float:
        """A finished node's reward, or `value` where it has none."""
        reward = self.tree.finished.get(node)
        return value if reward is None else reward

    def _add(self, node: int, value: float) -> None:
        if not math.isnan(value):
            self.tree.visit(node, value)

    # -- mistakes

    def _call(self, name: str) -> None:
        self.check_awaited()
        if self._idle >= ENDLESS:
            raise ValueError(
                f"this method has asked {ENDLESS} times in a row in vain: end it when "
                "`search.over` is True"
            )
        self._called = name

    def _count(self, useful: bool) -> None:
        self._idle = 0 if useful else self._idle + 1
        if self._idle == IDLE:
            self.tree.exhausted = True

    def _check_nodes(self, nodes: Sequence[int], name: str) -> list[int]:
        """The nodes, once each. Raises ValueError for what is no sequence of nodes."""
        if isinstance(nodes, (str, bytes)) or not isinstance(nodes, (Sequence, range, np.ndarray)):
            raise ValueError(
                f"search.{name} takes a list of nodes and was given {nodes!r}: write "
                f"search.{name}([node])"
            )
        found: list[int] = []
        for node in nodes:
            try:
                number = operator.index(node)
            except TypeError:
                raise ValueError(
                    f"{node!r} is no node: give numbers of nodes, as search.expand returns them; "
                    "0 is the root"
                ) from None
            if not 0 <= number < len(self.tree.states):
                raise ValueError(
                    f"there is no node {number}, the tree has {len(self.tree.states)}: give "
                    "numbers that search.expand returned"
                )
            found.append(number)
        return list(dict.fromkeys(found))
