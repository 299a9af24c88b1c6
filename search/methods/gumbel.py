"""Gumbel search over the steps of a chain: sequential halving at the root, completed Q below
(Danihelka et al. 2022).

Where a search has few simulations for many steps, it spends them on a few steps drawn without
replacement, half of which drop out in each phase, and improves the policy whatever their number.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from search.methods.expand import solved
from search.methods.session import Search
from search.methods.simulate import Simulations
from search.tree import sequential_halving
from search.tree.selection import gumbel as completed_q
from search.tree.tree import Tree


async def gumbel(
    search: Search,
    *,
    considered: int = 8,
    simulations: int = 64,
    branch: int = 4,
    tau: float = 1.0,
    value_scale: float = 0.1,
    visit_floor: float = 50.0,
) -> None:
    """Search by simulations whose first steps are dealt by sequential halving.

    considered   steps sampled at the root; noise on their priors decides between equals
    simulations  that the halving is laid out for; the budget may end it before. When they are done
                 it begins again, with other noise
    branch       steps sampled at a leaf
    tau          temperature of the priors: softmax of log_prob / tau over the steps proposed
    value_scale, visit_floor   of the transformed values (`selection.gumbel`)

    Simulations of a phase whose first steps differ are one round, so their leaves are evaluated
    together.
    """
    if considered < 1 or simulations < 1 or branch < 1 or tau <= 0:
        raise ValueError(
            f"considered={considered}, simulations={simulations} and branch={branch} start "
            f"at 1, tau={tau} above 0: correct them"
        )
    problem = search.problem
    meter = search.meter
    tree = search.tree
    tree.use(completed_q(value_scale, visit_floor))  # compiles, if ever, before anything is asked
    rounds = Simulations(search, considered, tau)
    await rounds.root()
    rounds.branch = branch
    tree.set_note(0, tree.mean(0))
    while not (solved(problem, tree) or tree.exhausted) and tree.block(0):
        noise = search.rng.gumbel(size=len(tree.block(0)))
        start = tree.field(0, "visits").copy()
        sequence = sequential_halving.considered_visits(min(considered, len(noise)), simulations)
        done = 0
        while done < simulations and not (solved(problem, tree) or tree.exhausted):
            phase = sequence[done:]
            _, alike = next(itertools.groupby(phase))
            begun = meter.begin(len(list(alike)))
            if not begun:
                return
            picked = _deal(tree, noise, start, phase[:begun])
            if not len(picked):  # all first steps are settled
                tree.exhausted = True
                meter.finish(0, begun)
                break
            values = await rounds.simulate(picked)
            for leaf, value in zip(picked, values, strict=True):
                if not math.isnan(value):
                    tree.set_note(int(leaf), float(value))
            tree.backup(picked, values)
            meter.finish(int((~np.isnan(values)).sum()), begun)
            done += begun


def _deal(tree: Tree, noise: np.ndarray, start: np.ndarray, wanted: list[int]) -> np.ndarray:
    """int32 [leaves]: one leaf below each first step that the halving takes now; none is reached
    twice.
    """
    picked: list[int] = []
    for visits in wanted:
        place = sequential_halving.next_step(tree, 0, noise[: len(start)], visits, start)
        if place is None:
            break
        tree.point(0, place)
        leaves = tree.select(1, tree.rule, stop_at_collision=True)
        if not len(leaves):
            break
        picked += leaves.tolist()
    return np.array(picked, np.int32)
