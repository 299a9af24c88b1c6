"""Monte-Carlo tree search with a policy prior and a learned value (PUCT; Silver et al. 2017), in rounds of distinct leaves."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from search.asks import Asks
from search.budget import Meter
from search.guide import Guide
from search.methods.grow import RETRIES, Growth, judge_all, plant, round_of, solved, write
from search.problem import Problem
from search.rules import puct
from search.tree import Tree

BARREN = 8  #: samples in a row that bring no new step before a node counts as having no more


def mcts(
    problem: Problem,
    guide: Guide,
    meter: Meter,
    rng: np.random.Generator,
    *,
    branch: int = 1,
    leaves: int = 8,
    c_puct: float = 1.5,
    fpu_reduction: float = 0.0,
    tau: float = 1.0,
    widen: float = 1.0,
    lookahead: float = 0.5,
) -> Asks[Tree]:
    """Search by simulations: select a leaf by PUCT, propose its steps, judge it, back its value up.

    branch         steps sampled at a leaf. A node whose steps are all settled is widened by as many more, until no new one comes
                   anywhere in the tree, not even at a second asking
    leaves         distinct leaves of one round, evaluated together
    widen          the steps that the policy has not proposed yet are one more choice at every node, its Q the first-play urgency, its
                   prior widen * their probability / (1 + steps there): taking it asks for `branch` more. 0: never
    lookahead      weight of the best new step's value in what a leaf backs up; the rest is the leaf's own value
    tau            temperature of the priors: softmax of log_prob / tau over the steps proposed
    c_puct         weight of the prior;  fpu_reduction: how far below its parent's mean an unvisited step without a value starts
    """
    if lookahead > 1 or tau <= 0:
        raise ValueError(f"lookahead={lookahead} must lie in [0, 1] and tau={tau} above 0: correct the options of mcts")
    chosen = puct(c_puct, fpu_reduction)
    search = _Search(problem, guide, meter, rng, plant(problem), branch, tau, lookahead)
    tree = search.tree
    yield from search.root()
    explored = 0  # edges when no new step came the last time
    while not solved(problem, tree):
        if tree.exhausted and len(tree.steps) > explored:  # ask every node once more
            explored, tree.exhausted = len(tree.steps), False
            tree.reopen()
            search.barren.clear()
        begun = 0 if tree.exhausted else meter.begin(leaves)
        if not begun:
            break
        picked = tree.select(begun, chosen, stop_at_collision=True, widen=widen)
        values = yield from search.simulate(picked)
        tree.backup(picked, values)
        meter.finish(int((~np.isnan(values)).sum()), begun)
    return tree


@dataclass
class _Search:
    """One search under way. failures: of each leaf, in a row; barren: samples at each node, in a row, that brought no new step."""

    problem: Problem
    guide: Guide
    meter: Meter
    rng: np.random.Generator
    tree: Tree
    branch: int
    tau: float
    lookahead: float
    failures: Counter[int] = field(default_factory=Counter)
    barren: Counter[int] = field(default_factory=Counter)

    def root(self) -> Asks[None]:
        """Judge and expand the root; N(root) starts at 1. Raises the backend's error where that is impossible."""
        tree, meter = self.tree, self.meter
        for _ in range(1 + RETRIES):
            growth = (yield from self._grow([0])).get(0, Growth())
            if growth.error is None or meter.stopped:
                break
        if growth.error is not None and not meter.stopped:
            raise growth.error
        self._write(0, growth)
        tree.visit(0, 0.5 if math.isnan(growth.value) else growth.value)
        tree.exhausted = not growth.proposed and growth.error is None and not meter.stopped

    def simulate(self, picked: np.ndarray) -> Asks[np.ndarray]:
        """Evaluate and expand the leaves of one round. float64 [picked] in [0, 1]; nan: nothing is known, release it."""
        problem, tree = self.problem, self.tree
        distinct = list(dict.fromkeys(int(leaf) for leaf in picked))
        done = [leaf for leaf in distinct if leaf in tree.finished]
        growths = yield from self._grow([leaf for leaf in distinct if leaf not in tree.finished])
        unknown = [leaf for leaf in done if tree.finished[leaf] is None]
        states, known = [tree.states[leaf] for leaf in unknown], [tree.value(leaf) for leaf in unknown]
        judged = yield from judge_all(problem, self.guide, self.meter, states, known, self.rng)
        values = dict(zip(unknown, judged, strict=True))
        for leaf, value in values.items():
            self.failures[leaf] += math.isnan(value)
            if self.failures[leaf] > RETRIES:  # nobody can judge it
                tree.close(leaf)
        values.update({leaf: reward for leaf in done if (reward := tree.finished[leaf]) is not None})
        if problem.players == 1:
            for leaf, value in values.items():
                if not math.isnan(value):
                    tree.close(leaf)
        for leaf, growth in growths.items():
            values[leaf] = self._expand(leaf, growth)
        return np.array([values.get(int(leaf), math.nan) for leaf in picked])

    def _grow(self, nodes: list[int]) -> Asks[dict[int, Growth]]:
        return round_of(self.problem, self.guide, self.meter, self.tree, nodes, self.branch, self.rng)

    def _expand(self, leaf: int, growth: Growth) -> float:
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
        hopeless = leaf > 0 and not growth.children and not before  # all were illegal; the root, on which all depends, is asked longer
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
        """The value of a leaf that was judged `value`, mixed with that of its best new child where one is known."""
        tree = self.tree
        seen = [tree.finished.get(child) if (child := tree.child(edge)) >= 0 else None for edge in edges]
        known = [float(tree.at(edge, "value")) if reward is None else reward for edge, reward in zip(edges, seen, strict=True)]
        best = max((v for v in known if not math.isnan(v)), default=math.nan)
        parent = tree.parent(leaf)
        if parent >= 0 and tree.player(parent) != tree.player(leaf):
            best = 1.0 - best  # the opponent chooses there
        return value if math.isnan(best) or math.isnan(value) else (1 - self.lookahead) * value + self.lookahead * best

    def _write(self, node: int, growth: Growth) -> list[int]:
        """Add the steps that came. Finished ones whose reward is 0 are refuted: closed at once, without a visit."""
        tree = self.tree
        edges = write(tree, self.problem, node, growth, self.tau)
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
        return self.tree.mean(child) if self.tree.visits(child) else (self.tree.finished.get(child) or 0.0)
