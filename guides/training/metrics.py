"""What N stored samples of a problem say of k of them, and how well scores tell right from
wrong.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import combinations

import numpy as np


def pass_at_k(n: int, right: int, k: int) -> float:
    """Chance that k of n samples hold a right one: 1 - C(n - right, k) / C(n, k), unbiased (Chen
    et al. 2021, eq. 1). In [0, 1].
    """
    _check(n, k)
    if not 0 <= right <= n:
        raise ValueError(f"right={right} of n={n} samples is impossible: count again")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def best_of_k(scores: Sequence[float], right: Sequence[bool], k: int) -> float:
    """Chance that the best-scored of k of these samples is right, over all choices of k, equal
    scores in random order. In [0, 1].

    scores  of a verifier, none nan. Sum over ranks i (best first) of right_i C(N - i, k - 1) / C(N,
            k) (V-STaR; Hosseini et al. 2024)
    """
    values, good = np.asarray(scores, np.float64), np.asarray(right, np.float64)
    n = len(values)
    _check(n, k)
    if np.isnan(values).any() or len(good) != n:
        raise ValueError(
            "best of k needs a score and a verdict for every sample, and no nan: leave unscored "
            "samples out"
        )
    shared = {value: good[values == value].mean() for value in set(values.tolist())}
    ranked = [shared[value] for value in sorted(values.tolist(), reverse=True)]
    return sum(
        verdict * math.comb(n - i, k - 1) for i, verdict in enumerate(ranked, 1)
    ) / math.comb(n, k)


def majority_at_k(
    answers: Sequence[Hashable],
    right: Sequence[bool],
    k: int,
    draws: int = 200,
    seed: int = 0,
    weights: Sequence[float] | None = None,
) -> float:
    """Share of `draws` sub-samples of k (without replacement) whose answer with the most votes is
    right, exactly where there are no more than these. In [0, 1].

    answers  None for a sample without one, which has no vote;  right: of each sample, of equal
             answers the share
    weights  of each sample's vote, from 0 on; None: all the same
    seed     another one for each problem, else all have the same sub-samples and their errors do
             not average out

    Ties count with their expectation under random tie-breaking: the share of the tied answers that
    are right.
    """
    n = len(answers)
    _check(n, k)
    if draws < 100:
        raise ValueError(f"draws={draws} are too few to average over: give 100 or more")
    known = sorted({answer for answer in answers if answer is not None}, key=list(answers).index)
    if not known:
        return 0.0
    # [samples, candidates]
    ballots = np.array(
        [[answer == candidate for candidate in known] for answer in answers], np.float64
    )
    verdict = np.asarray(right, np.float64) @ ballots / ballots.sum(axis=0)
    ballots *= 1.0 if weights is None else np.asarray(weights, np.float64)[:, None]
    if math.comb(n, k) <= draws:
        order = np.array(list(combinations(range(n), k)))
    else:
        order = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (draws, 1)), axis=1)[
            :, :k
        ]
    votes = ballots[order].sum(axis=1)  # [draws, candidates]
    tied = np.isclose(votes, votes.max(axis=1, keepdims=True), rtol=1e-9, atol=0) & (votes > 0)
    return float(((tied @ verdict) / np.maximum(tied.sum(axis=1), 1)).mean())


def auroc(scores: Sequence[float], right: Sequence[bool]) -> float:
    """Chance that a right sample is scored above a wrong one, equal scores counting half. In [0,
    1]; nan where all are right or all wrong.

    scores  none nan. The Mann-Whitney statistic by its mean ranks (Hanley and McNeil 1982)
    """
    values, good = np.asarray(scores, np.float64), np.asarray(right, bool)
    if not good.any() or good.all():
        return math.nan
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    rights = int(good.sum())
    return float((ranks[good].sum() - rights * (rights + 1) / 2) / (rights * (len(good) - rights)))


def _check(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k={k} of n={n} samples is impossible: give 1 <= k <= n")
