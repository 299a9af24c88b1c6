"""Pairs of steps and of chains from a graded trace, of which one is preferred: pure functions, no
model.

What is preferred by its value in a search tree was reached from the same state, so a pair says
which step was better there (MCTS-DPO; Xie et al. 2024, "Monte Carlo Tree Search Boosts Reasoning
via Iterative Preference Learning", section 3.1).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from guides.data.labels import Labels
from search.trace import Trace

KINDS = ("steps", "chains")


@dataclass(frozen=True)
class Pairing:
    """Which pairs are made of a trace.

    kind    "steps": at each node the best and the worst of its steps by Q;  "chains": right and
            wrong finished chains
    visits  of a step, at least: the Q of fewer is noise. An exact label needs none
    mix     alpha of Agent Q (Putta et al. 2024, eq. 10): a step counts alpha * Q + (1 - alpha) *
            value, with the value that the guide gave it; a step without one is in no pair
    margin  by which the better step of a pair is more than the worse, in [0, 1)

    Raises ValueError for values that are none of these.
    """

    kind: str = "steps"
    visits: int = 2
    mix: float = 1.0
    margin: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"pairs are one of {', '.join(KINDS)}, not {self.kind!r}: choose one")
        if self.visits < 1 or not 0 <= self.mix <= 1 or not 0 <= self.margin < 1:
            raise ValueError(
                "of pairs, visits is at least 1, mix in [0, 1] and margin in [0, 1): correct them"
            )


def pairs_of(
    trace: Trace,
    outcomes: np.ndarray,
    labels: Labels,
    pairing: Pairing,
    *,
    keep: int,
    rng: np.random.Generator,
) -> list[tuple[int, int]]:
    """Pairs of nodes, the better one first; neither is below the other.

    outcomes  float64 [nodes], in [0, 1], nan: not graded
    labels    of the nodes, k of n: the Q of a trace of independent samples, which backs nothing up
    keep      most pairs of chains, drawn by `rng`
    """
    if pairing.kind == "chains":
        return list(_chains(trace, outcomes, keep, rng))
    return list(_steps(trace, labels, pairing))


def worth(trace: Trace, labels: Labels, mix: float) -> np.ndarray:
    """float64 [edges], in [0, 1]: mix * Q + (1 - mix) * value; nan: unknown. Q is the mean of the
    values that the search backed up. Of independent samples it is k / n of the labels, and so it is
    of a step whose label is exact.
    """
    visits = trace.edge_visits
    q = np.full(len(trace.steps), math.nan)
    if not trace.independent:
        np.divide(trace.edge_sum, visits, out=q, where=visits > 0)
    labelled = exact(trace, labels)
    if trace.independent:
        labelled = trace.edge_child >= 0
    q[labelled] = labels.soft[trace.edge_child[labelled]]
    if mix == 1:
        return q
    return mix * q + (1 - mix) * trace.edge_value.astype(np.float64)


def exact(trace: Trace, labels: Labels) -> np.ndarray:
    """bool [edges]: does the step lead to a node whose label a checker gave?"""
    known = np.append(np.isinf(labels.n), False)  # the last: of a step that was not taken, child -1
    return known[trace.edge_child]


def _steps(trace: Trace, labels: Labels, pairing: Pairing) -> Iterator[tuple[int, int]]:
    """The best and the worst step of each node that has two which count, and differ."""
    values = worth(trace, labels, pairing.mix)
    seen = (trace.edge_visits >= pairing.visits) | exact(trace, labels)
    edges = np.flatnonzero((trace.edge_child >= 0) & seen & ~np.isnan(values))
    for _, group in itertools.groupby(edges.tolist(), key=lambda edge: trace.edge_node[edge]):
        own = list(group)
        best = max(own, key=values.__getitem__)
        worst = min(own, key=values.__getitem__)
        if values[best] - values[worst] > pairing.margin:
            yield int(trace.edge_child[best]), int(trace.edge_child[worst])


def _chains(
    trace: Trace, outcomes: np.ndarray, keep: int, rng: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """At most `keep` pairs of a right and a wrong end. Each end of the kind that has more is in one
    pair.
    """
    right = rng.permutation(np.flatnonzero(trace.node_finished & (outcomes == 1.0)))
    wrong = rng.permutation(np.flatnonzero(trace.node_finished & (outcomes == 0.0)))
    if not len(right) or not len(wrong):
        return
    for i in range(min(keep, max(len(right), len(wrong)))):
        yield int(right[i % len(right)]), int(wrong[i % len(wrong)])
