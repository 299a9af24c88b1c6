"""Monte-Carlo tree search with a policy prior and a learned value (PUCT; Silver et al. 2017), in rounds of distinct leaves."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from search.asks import Asks
from search.budget import Meter
from search.guide import Guide
from search.methods.grow import Growth, judge_all, plant, round_of, solved, write
from search.problem import Problem
from search.tree import Tree

RETRIES = 2  #: a leaf whose requests failed is tried again this often


def mcts(
    problem: Problem,
    guide: Guide,
    meter: Meter,
    rng: np.random.Generator,
    *,
    branch: int = 4,
    leaves: int = 8,
    c_puct: float = 1.25,
    fpu_reduction: float = 0.0,
    tau: float = 1.0,
    widen: float = 2.0,
) -> Asks[Tree]:
    """Search by simulations: select a leaf by PUCT, propose its steps, judge it, back its value up.

    branch         steps sampled at a leaf. A node whose steps are all settled is widened by as many more, until no new one comes
                   anywhere in the tree, not even at a second asking
    leaves         distinct leaves of one round, evaluated together
    widen          a node with fewer than widen * sqrt(visits) steps gets `branch` more proposals; 0: never (Coulom 2007)
    tau            temperature of the priors: softmax of log_prob / tau over the steps proposed
    c_puct         weight of the prior;  fpu_reduction: how far below its parent's mean an unvisited step without a value starts
    """
    tree = yield from _root(problem, guide, meter, branch, rng, tau)
    failures: Counter[int] = Counter()
    explored = 0  # edges when no new step came the last time
    while not solved(problem, tree):
        if tree.exhausted and len(tree.edges) > explored:  # ask every node once more
            explored, tree.exhausted = len(tree.edges), False
            tree.reopen()
        begun = 0 if tree.exhausted else meter.begin(leaves)
        if not begun:
            break
        picked = tree.select(begun, c_puct, fpu_reduction, stop_at_collision=True, widen=widen)
        values = yield from _simulate(problem, guide, meter, tree, picked, branch, rng, failures, tau)
        tree.backup(picked, values)
        meter.finish(int((~np.isnan(values)).sum()), begun)
    return tree


def _root(problem: Problem, guide: Guide, meter: Meter, branch: int, rng: np.random.Generator, tau: float) -> Asks[Tree]:
    """A tree whose root is judged and expanded; N(root) starts at 1. Raises the backend's error where that is impossible."""
    tree = plant(problem)
    for _ in range(1 + RETRIES):
        growth = (yield from round_of(problem, guide, meter, tree, [0], branch, rng)).get(0, Growth())
        if growth.error is None or meter.stopped:
            break
    if growth.error is not None and not meter.stopped:
        raise growth.error
    _settle(tree, problem, write(tree, problem, 0, growth, tau))
    tree.visit(0, 0.5 if math.isnan(growth.value) else growth.value)
    tree.exhausted = not growth.children and growth.error is None and not meter.stopped
    return tree


def _simulate(
    problem: Problem,
    guide: Guide,
    meter: Meter,
    tree: Tree,
    picked: np.ndarray,
    branch: int,
    rng: np.random.Generator,
    failures: Counter[int],
    tau: float,
) -> Asks[np.ndarray]:
    """Evaluate and expand the leaves of one round. float64 [picked] in [0, 1]; nan: nothing is known, release it."""
    distinct = list(dict.fromkeys(int(leaf) for leaf in picked))
    done = [leaf for leaf in distinct if leaf in tree.finished]
    growths = yield from round_of(problem, guide, meter, tree, [leaf for leaf in distinct if leaf not in tree.finished], branch, rng)
    unknown = [leaf for leaf in done if tree.finished[leaf] is None]
    judged = yield from judge_all(problem, guide, meter, [tree.states[n] for n in unknown], [tree.value(n) for n in unknown], rng)
    values = dict(zip(unknown, judged, strict=True))
    values.update({leaf: reward for leaf in done if (reward := tree.finished[leaf]) is not None})
    if problem.players == 1:
        for leaf, value in values.items():
            if not math.isnan(value):
                tree.close(leaf)
    for leaf, growth in growths.items():
        values[leaf] = _expand(problem, tree, leaf, growth, failures, tau)
    return np.array([values.get(int(leaf), math.nan) for leaf in picked])


def _expand(problem: Problem, tree: Tree, leaf: int, growth: Growth, failures: Counter[int], tau: float) -> float:
    """Write what came for one leaf; its value to back up, nan to release it."""
    before = tree.block(leaf)
    widened = any(tree.is_open(edge) for edge in before)
    settled = [_outcome(tree, tree.child(edge)) for edge in before]
    edges = write(tree, problem, leaf, growth, tau)
    _settle(tree, problem, edges)
    if not edges and growth.error is not None:
        failures[leaf] += 1
        if failures[leaf] > RETRIES and not widened:
            _close(tree, leaf)
    elif not edges and widened:
        tree.fill_up(leaf)
    elif not edges and problem.players == 1:
        _close(tree, leaf)
    if widened or (not edges and growth.error is not None):
        return math.nan
    if settled:  # all that was known below it is settled, and this is the best of it
        return max(settled)
    return growth.value if edges else 0.0


def _outcome(tree: Tree, child: int) -> float:
    """What a settled child came to, in [0, 1]."""
    if child < 0:
        return 0.0
    return tree.mean(child) if tree.visits(child) else (tree.finished.get(child) or 0.0)


def _close(tree: Tree, leaf: int) -> None:
    tree.close(leaf)
    tree.exhausted = tree.exhausted or leaf == 0


def _settle(tree: Tree, problem: Problem, edges: list[int]) -> None:
    """Finished steps whose reward is 0 are refuted: closed at once, without a visit."""
    if problem.players == 1:
        for edge in edges:
            child = tree.child(edge)
            if child >= 0 and tree.finished.get(child) == 0.0:
                tree.close(child)
