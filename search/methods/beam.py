"""Step-level beam search with a guide.

Its variants: independent subtrees (DVTS; Beeching et al. 2024), steps dealt by value (REBASE; Wu et al. 2024).
"""

from __future__ import annotations

import math

import numpy as np

from search.asks import Asks
from search.budget import Meter
from search.guide import Guide
from search.methods.grow import RETRIES, judge_all, plant, round_of, solved, write
from search.problem import Problem
from search.tree import Tree


def beam(
    problem: Problem,
    guide: Guide,
    meter: Meter,
    rng: np.random.Generator,
    *,
    width: int = 4,
    branch: int = 4,
    subtrees: int = 1,
    balance: float | None = None,
) -> Asks[Tree]:
    """Expand the best `width` states of each depth until all chains are finished.

    width     states kept a depth, over all subtrees
    branch    steps sampled from each
    subtrees  the first steps are dealt to this many beams of width / subtrees, which no longer compete (DVTS)
    balance   None: the best `width` states get `branch` steps each. A temperature: the width x branch steps of a depth are dealt to its
              states by the softmax of value / balance, rounded, so that good states get more and poor ones none (REBASE; there 0.1 to 0.3)

    A simulation is one expanded state. Values are added along the path of each state when it is judged.
    """
    if subtrees < 1 or width < subtrees or width % subtrees:
        raise ValueError(f"width={width} cannot be shared evenly by subtrees={subtrees}: make width a multiple of subtrees")
    if balance is not None and balance <= 0:
        raise ValueError(f"balance={balance} is no temperature: give a number above 0, or none")
    tree = plant(problem, meter)
    steps: int | dict[int, int]
    dealt: dict[int, int] = {}
    beams = [[0]]
    first = max(branch, width)
    while any(beams) and not solved(problem, tree):
        frontier = [node for group in beams for node in group]
        begun = meter.begin(len(frontier))
        if not begun:
            break
        steps = first if frontier == [0] else dealt if balance is not None else branch
        growths = yield from round_of(problem, guide, meter, tree, frontier[:begun], steps, rng, judge=False)
        for _ in range(RETRIES):
            failed = [node for node, growth in growths.items() if growth.error is not None]
            if not failed or meter.stopped:
                break
            growths.update((yield from round_of(problem, guide, meter, tree, failed, steps, rng, judge=False)))
        if frontier == [0] and (error := growths[0].error if 0 in growths else None) is not None and not meter.stopped:
            raise error
        edges = {node: write(tree, problem, node, growth) for node, growth in growths.items()}
        meter.finish(len(growths), begun)
        if frontier == [0]:
            tree.visit(0, 0.5)
            children = [tree.open(0, edge) for edge in edges.get(0, [])]
            beams = [children[i::subtrees] for i in range(subtrees)]
        else:
            beams = [[tree.open(node, edge) for node in group for edge in edges.get(node, [])] for group in beams]
        values = yield from _judge(problem, guide, meter, tree, [node for group in beams for node in group], rng)
        open_ = [[node for node in group if node not in tree.finished] for group in beams]
        if balance is None:
            beams = [_best(group, values, width // subtrees) for group in open_]
        else:
            dealt = {node: n for group in open_ for node, n in _deal(group, values, width * branch // subtrees, balance).items()}
            beams = [[node for node in group if node in dealt] for group in open_]
    return tree


def _judge(problem: Problem, guide: Guide, meter: Meter, tree: Tree, nodes: list[int], rng: np.random.Generator) -> Asks[dict[int, float]]:
    """node -> value in [0, 1]: the reward where there is one, else the guide's; each is also backed up."""
    values = {node: reward for node in nodes if (reward := tree.finished.get(node)) is not None}
    asked = [node for node in nodes if node not in values]
    judged = yield from judge_all(problem, guide, meter, [tree.states[n] for n in asked], [tree.value(n) for n in asked], rng)
    values.update(zip(asked, judged, strict=True))
    for node, value in values.items():
        if not math.isnan(value):
            tree.visit(node, value)
    return values


def _best(nodes: list[int], values: dict[int, float], width: int) -> list[int]:
    return sorted(nodes, key=lambda node: -0.5 if math.isnan(values[node]) else -values[node])[:width]


def _deal(nodes: list[int], values: dict[int, float], steps: int, balance: float) -> dict[int, int]:
    """node -> how many of `steps` it gets, those with none left out (Wu et al. 2024, eq. 3); the best gets one at least."""
    if not nodes:
        return {}
    worth = np.array([0.0 if math.isnan(values[node]) else values[node] for node in nodes])
    weights = np.exp((worth - worth.max()) / balance)
    shares = np.floor(steps * weights / weights.sum() + 0.5).astype(int)
    shares[worth.argmax()] = max(1, shares[worth.argmax()])
    return {node: int(n) for node, n in zip(nodes, shares, strict=True) if n}
