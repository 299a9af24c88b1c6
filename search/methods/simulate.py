"""What tree searches share that go by simulations: evaluating and expanding the leaves of a
round, and telling what is settled.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from search.methods.expand import RETRIES, Growth, judge_all, round_of, write
from search.methods.session import Search
from search.scheduling.scheduler import Asks

BARREN = 8  #: samples in a row that bring no new step before a node counts as having no more


class Simulations:
    """A search under way, by rounds of simulations. branch, tau, lookahead, merge: as in `mcts`.

    noise, concentration  Dirichlet noise in the root's priors
    failures  of each leaf, in a row;  barren: samples at each node, in a row, that brought no new
              step
    """

    def __init__(
        self,
        search: Search,
        branch: int,
        tau: float,
        lookahead: float = 0.0,
        noise: float = 0.0,
        concentration: float = 0.3,
        merge: float = 1.0,
    ):
        self.problem = search.problem
        self.guide = search.guide
        self.meter = search.meter
        self.rng = search.rng
        self.tree = search.tree
        self.branch = branch
        self.tau = tau
        self.lookahead = lookahead
        self.noise = noise
        self.concentration = concentration
        self.merge = merge
        self.failures: Counter[int] = Counter()
        self.barren: Counter[int] = Counter()

    async def root(self) -> None:
        """Judge and expand the root; N(root) starts at 1. Raises the backend's error where that
        is impossible.
        """
        tree, meter = self.tree, self.meter
        for _ in range(1 + RETRIES):
            growth = (await self._grow([0])).get(0, Growth())
            if growth.error is None or meter.stopped:
                break
        if growth.error is not None and not meter.stopped:
            raise growth.error
        self._write(0, growth)
        value = 0.5 if math.isnan(growth.value) else growth.value
        # it was told for who led here, the root's is the mover's
        tree.visit(0, 1.0 - value if self.problem.players == 2 else value)
        tree.exhausted = not growth.proposed and growth.error is None and not meter.stopped

    async def simulate(self, picked: np.ndarray) -> np.ndarray:
        """Evaluate and expand the leaves of one round. float64 [picked] in [0, 1]; nan: nothing
        is known, release it.
        """
        problem, tree = self.problem, self.tree
        distinct = list(dict.fromkeys(int(leaf) for leaf in picked))
        done = [leaf for leaf in distinct if leaf in tree.finished]
        growths = await self._grow([leaf for leaf in distinct if leaf not in tree.finished])
        unknown = [leaf for leaf in done if tree.finished[leaf] is None]
        states, known = (
            [tree.states[leaf] for leaf in unknown],
            [tree.value(leaf) for leaf in unknown],
        )
        judged = await judge_all(problem, self.guide, self.meter, states, known, self.rng)
        values = dict(zip(unknown, judged, strict=True))
        values.update(
            {leaf: reward for leaf in done if (reward := tree.finished[leaf]) is not None}
        )
        for leaf, value in values.items():
            self.settle(leaf, value)
        for leaf, growth in growths.items():
            values[leaf] = self.expand(leaf, growth)
        return np.array([values.get(int(leaf), math.nan) for leaf in picked])

    def _grow(self, nodes: list[int]) -> Asks[dict[int, Growth]]:
        return round_of(
            self.problem, self.guide, self.meter, self.tree, nodes, self.branch, self.rng
        )

    def settle(self, leaf: int, value: float) -> None:
        """A finished leaf was judged `value`: for one player it need not be visited again, nor
        where nobody can judge it.
        """
        self.failures[leaf] += math.isnan(value)
        known = self.problem.players == 1 and not math.isnan(value)
        if known or self.failures[leaf] > RETRIES:
            self.tree.close(leaf)

    def expand(self, leaf: int, growth: Growth) -> float:
        """Write what came for one leaf; its value to back up, nan to release it."""
        tree, before = self.tree, self.tree.block(leaf)
        widened = any(tree.is_open(edge) for edge in before)
        settled = [self._outcome(tree.child(edge)) for edge in before]
        edges = self._write(leaf, growth)
        if not edges and growth.error is not None:
            self.failures[leaf] += 1
            if self.failures[leaf] > RETRIES and widened:
                tree.fill_up(leaf)
            elif self.failures[leaf] > RETRIES:
                self._close(leaf)
            return math.nan
        self.failures[leaf] = 0
        self.barren[leaf] = 0 if edges else self.barren[leaf] + self.branch
        # all were illegal; the root, on which all depends, is asked longer
        hopeless = leaf > 0 and not growth.children and not before
        if self.barren[leaf] >= BARREN or not growth.proposed or hopeless:
            if widened:
                tree.fill_up(leaf)
            elif self.problem.players == 1:
                self._close(leaf)
        if widened:
            return math.nan
        if settled:  # all that was known below it is settled, and this is the best of it
            return max(settled)
        return self._backed_up(leaf, growth.value, edges) if edges else 0.0

    def _backed_up(self, leaf: int, value: float, edges: list[int]) -> float:
        """The value of a leaf that was judged `value`, mixed with that of its best new child
        where one is known.
        """
        tree = self.tree
        seen = [
            tree.finished.get(child) if (child := tree.child(edge)) >= 0 else None for edge in edges
        ]
        known = [
            float(tree.at(edge, "value")) if reward is None else reward
            for edge, reward in zip(edges, seen, strict=True)
        ]
        best = max((v for v in known if not math.isnan(v)), default=math.nan)
        parent = tree.parent(leaf)
        if parent >= 0 and tree.player(parent) != tree.player(leaf):
            best = 1.0 - best  # the opponent chooses there
        return (
            value
            if math.isnan(best) or math.isnan(value)
            else (1 - self.lookahead) * value + self.lookahead * best
        )

    def _write(self, node: int, growth: Growth) -> list[int]:
        """Add the steps that came. Finished ones whose reward is 0 are refuted: closed at once,
        without a visit.
        """
        tree = self.tree
        edges = write(tree, self.problem, node, growth, self.tau, self.merge)
        if node == 0 and self.noise and edges:
            block = tree.block(0)
            priors = np.array([tree.at(edge, "prior") for edge in block])
            drawn = self.rng.dirichlet(np.full(len(block), self.concentration))
            tree.set_priors(0, (1 - self.noise) * priors / priors.sum() + self.noise * drawn)
        for edge in edges if self.problem.players == 1 else ():
            child = tree.child(edge)
            if child >= 0 and tree.finished.get(child) == 0.0:
                tree.close(child)
        return edges

    def _close(self, leaf: int) -> None:
        self.tree.close(leaf)
        self.tree.exhausted = self.tree.exhausted or leaf == 0

    def _outcome(self, child: int) -> float:
        """What a settled child came to, in [0, 1]."""
        if child < 0:
            return 0.0
        return (
            self.tree.mean(child)
            if self.tree.visits(child)
            else (self.tree.finished.get(child) or 0.0)
        )
