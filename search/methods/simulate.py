"""What tree searches share that go by simulations: evaluating and expanding the leaves of a
round, and telling what is settled.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from search.methods.expand import RETRIES, Growth, round_of, state_values, write
from search.methods.session import Search
from search.scheduling.scheduler import Asks
from search.tree.selection import dirichlet

BARREN = 8  #: samples in a row that bring no new step before a node counts as having no more


class Simulations:
    """A search under way, by rounds of simulations. branch, tau, lookahead, merge: as in `mcts`.

    noise     share of Dirichlet noise in the root's priors
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
        self.merge = merge
        self.failures: Counter[int] = Counter()
        self.barren: Counter[int] = Counter()

    async def root(self) -> None:
        """Judge and expand the root; N(root) starts at 1. Raises the backend's error where that
        is impossible.
        """
        tree = self.tree
        meter = self.meter
        for _ in range(1 + RETRIES):
            growth = (await self._grow([0])).get(0, Growth())
            if growth.error is None or meter.stopped:
                break
        if growth.error is not None and not meter.stopped:
            raise growth.error
        self._write(0, growth)
        value = 0.5 if math.isnan(growth.value) else growth.value
        # a value is of the player who moved to a state, the root's of the player who moves there
        tree.visit(0, 1.0 - value if self.problem.players == 2 else value)
        tree.exhausted = not growth.proposed and growth.error is None and not meter.stopped

    async def simulate(self, picked: np.ndarray) -> np.ndarray:
        """Evaluate and expand the leaves of one round. float64 [picked] in [0, 1]; nan: nothing
        is known, release it.
        """
        tree = self.tree
        unfinished: list[int] = []
        unknown: list[int] = []  # finished, without a reward
        rewards: dict[int, float] = {}
        for leaf in dict.fromkeys(picked.tolist()):
            if leaf not in tree.finished:
                unfinished.append(leaf)
            elif (reward := tree.finished[leaf]) is None:
                unknown.append(leaf)
            else:
                rewards[leaf] = reward
        growths = await self._grow(unfinished)
        values = await self._values(unknown) | rewards
        for leaf, value in values.items():
            self.settle(leaf, value)
        for leaf, growth in growths.items():
            values[leaf] = self.expand(leaf, growth)
        return np.array([values.get(int(leaf), math.nan) for leaf in picked])

    def _grow(self, nodes: list[int]) -> Asks[dict[int, Growth]]:
        return round_of(
            self.problem, self.guide, self.meter, self.tree, nodes, self.branch, self.rng
        )

    async def _values(self, nodes: list[int]) -> dict[int, float]:
        states = [self.tree.states[node] for node in nodes]
        own = [self.tree.value(node) for node in nodes]
        values = await state_values(self.problem, self.guide, self.meter, states, own, self.rng)
        return dict(zip(nodes, values, strict=True))

    def settle(self, leaf: int, value: float) -> None:
        """A finished leaf was judged `value`: for one player it need not be visited again, nor
        where its value stays unknown.
        """
        self.failures[leaf] += math.isnan(value)
        judged = self.problem.players == 1 and not math.isnan(value)
        if judged or self.failures[leaf] > RETRIES:
            self.tree.close(leaf)

    def expand(self, leaf: int, growth: Growth) -> float:
        """Write what came for one leaf; its value to back up, nan to release it."""
        tree = self.tree
        before = tree.block(leaf)
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
        self.barren[leaf] += self.branch
        if edges:
            self.barren[leaf] = 0
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
        best = math.nan
        for edge in edges:
            reward = tree.finished.get(tree.child(edge))  # no node is -1
            child_value = tree.at(edge, "value") if reward is None else reward
            if math.isnan(best) or child_value > best:
                best = child_value
        parent = tree.parent(leaf)
        if parent >= 0 and tree.player(parent) != tree.player(leaf):
            best = 1.0 - best  # the opponent chooses there
        if math.isnan(best) or math.isnan(value):
            return value
        return (1 - self.lookahead) * value + self.lookahead * best

    def _write(self, node: int, growth: Growth) -> list[int]:
        """Add the steps that came. Finished ones whose reward is 0 are refuted: closed at once,
        without a visit.
        """
        tree = self.tree
        edges = write(tree, self.problem, node, growth, self.tau, self.merge)
        if node == 0 and self.noise and edges:
            block = tree.block(0)
            priors = np.array([tree.at(edge, "prior") for edge in block])
            drawn = dirichlet(self.rng, len(block))
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
        if self.tree.visits(child):
            return self.tree.mean(child)
        return self.tree.finished.get(child) or 0.0
