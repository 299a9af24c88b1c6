"""Gumbel search at a root: sequential halving over the steps that Gumbel noise picked (Danihelka et
al. 2022, "Policy improvement by planning with Gumbel", algorithm 2; Karnin et al. 2013). Below the
root, `selection.gumbel` selects.
"""

from __future__ import annotations

import math

import numpy as np

from search.tree.descent_kernels import FLOOR, SCALE
from search.tree.storage import Arena


def considered_visits(considered: int, simulations: int) -> list[int]:
    """For each simulation, how many visits the step must have that it takes: phase by phase the
    better half stays, visited equally often.

    considered  steps of the first phase, at least 1
    """
    if considered < 2:
        return list(range(simulations))
    phases = math.ceil(math.log2(considered))
    sequence: list[int] = []
    visits = [0] * considered
    left = considered
    while len(sequence) < simulations:
        for _ in range(max(1, int(simulations / (phases * left)))):
            sequence += visits[:left]
            visits[:left] = [visit + 1 for visit in visits[:left]]
        left = max(2, left // 2)
    return sequence[:simulations]


def transformed(
    values: np.ndarray,
    visits: np.ndarray,
    priors: np.ndarray,
    own: float,
    scale: float = 0.1,
    floor: float = 50.0,
) -> np.ndarray:
    """sigma of the completed Q of one node's steps: float64 [steps], at least 0 (their eq. 11 and
    33; see `selection.gumbel`).

    values  float [steps], mean value of each, read where visits > 0;  visits: int [steps];  priors:
            float [steps], sum 1
    own     the node's own value, of the player who moves there
    """
    taken = visits > 0
    total = visits.sum()
    mixed = own
    if total:
        mass = max(priors[taken].sum(), 1e-300)
        mixed = (own + total * ((priors[taken] * values[taken]).sum() / mass)) / (1 + total)
    completed = np.where(taken, values, mixed)
    low = completed.min()
    high = completed.max()
    return (floor + visits.max()) * scale * (completed - low) / max(high - low, 1e-8)


def improved_policy(priors: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """float64 [steps], sum 1: softmax of logits + sigma (eq. 11), the target that a policy
    learns.
    """
    with np.errstate(divide="ignore"):
        logits = np.log(priors) + sigma
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def best_step(points: np.ndarray, visits: np.ndarray, wanted: int | None = None) -> int:
    """The step with the highest of `points` (noise + logit + sigma, -inf: never) among those with
    `wanted` visits; None: with the most.

    Where no step has so many, the highest of all.
    """
    if wanted is None:
        wanted = visits[points > -np.inf].max()
    among = np.where(visits == wanted, points, -np.inf)
    if not among.max() > -np.inf:
        among = points
    return int(among.argmax())


def root_points(
    arena: Arena, root: int, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(points, visits, improved policy) of the edges of a root; a closed one has -inf points.
    noise: float64 [edges].
    """
    visits = arena.field(root, "visits")
    sums = arena.field(root, "sum")
    priors = arena.field(root, "prior")
    shares = np.abs(priors).astype(np.float64)
    shares /= shares.sum()
    values = sums / np.maximum(visits, 1)
    scale = arena.rule.number(SCALE)
    floor = arena.rule.number(FLOOR)
    sigma = transformed(values, visits, shares, arena.note(root), scale, floor)
    with np.errstate(divide="ignore"):
        points = np.where(priors >= 0, noise + np.log(shares) + sigma, -np.inf)
    return points, visits.copy(), improved_policy(shares, sigma)


def next_step(
    arena: Arena, root: int, noise: np.ndarray, wanted: int, start: np.ndarray | int = 0
) -> int | None:
    """The place that a root takes next: of those with `wanted` visits since `start`, the best.
    None: all are closed.
    """
    points, visits, _ = root_points(arena, root, noise)
    if not (points > -np.inf).any():
        return None
    return best_step(points, visits - start, wanted)
