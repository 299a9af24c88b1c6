"""What N stored samples of a problem say of k of them, and how well scores tell right from
wrong.

Each estimator has two forms: `..._of_k` and `..._at_k` of one problem and one k, and `..._sizes` of
many sizes at once as matrix products: a thousand problems with 256 samples each, nine sizes and
twenty ways to weigh a vote take a minute.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

DRAWS = 200  #: sub-samples of each size that a vote is averaged over


def pass_at_k(n: int, right: int, k: int) -> float:
    """Chance that k of n samples hold a right one: 1 - C(n - right, k) / C(n, k), unbiased (Chen
    et al. 2021, eq. 1). In [0, 1].
    """
    _check(n, k)
    if not 0 <= right <= n:
        raise ValueError(f"right={right} of n={n} samples is impossible: count again")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def pass_at_sizes(right: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """float64 [sizes]: `pass_at_k` of each size. right: bool [N]."""
    return np.array([pass_at_k(len(right), int(right.sum()), k) for k in sizes])


def best_of_k(scores: Sequence[float], right: Sequence[bool], k: int) -> float:
    """Chance that the best-scored of k of these samples is right, over all choices of k, equal
    scores in random order. In [0, 1].

    scores  of a verifier, none nan. Sum over ranks i (best first) of right_i C(N - i, k - 1) / C(N,
            k) (V-STaR; Hosseini et al. 2024)
    """
    values = np.asarray(scores, np.float64)
    _check(len(values), k)
    if np.isnan(values).any() or len(right) != len(values):
        raise ValueError(
            "best of k needs a score and a verdict for every sample, and no nan: leave unscored "
            "samples out"
        )
    return float(best_of_sizes(values, np.asarray(right), [k])[0])


def best_of_sizes(scores: np.ndarray, right: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """float64 [sizes]: `best_of_k` of each size.

    scores  float [N], none nan;  right: bool [N]
    """
    _, place, times = np.unique(-scores, return_inverse=True, return_counts=True)
    shares = np.bincount(place, right) / times
    return _best_chances(len(scores), tuple(sizes)) @ np.repeat(shares, times)


@cache
def _best_chances(n: int, sizes: tuple[int, ...]) -> np.ndarray:
    """float64 [sizes, n]: the chance that the i-th best of n is the best of k drawn, C(n - 1 -
    i, k - 1) / C(n, k), i from 0 on.
    """
    chances = np.empty((len(sizes), n))
    for row, k in enumerate(sizes):
        chances[row] = [math.comb(n - 1 - i, k - 1) / math.comb(n, k) for i in range(n)]
    return chances


def majority_at_k(
    answers: Sequence[Hashable],
    right: Sequence[bool],
    k: int,
    draws: int = DRAWS,
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
    numbers: dict[Hashable, int] = {}
    named = [-1 if one is None else numbers.setdefault(one, len(numbers)) for one in answers]
    if not numbers:
        return 0.0
    ballots = ballots_of(np.array(named))
    verdict = np.asarray(right, np.float64) @ ballots / ballots.sum(axis=0)
    if weights is not None:
        ballots *= np.asarray(weights, np.float64)[:, None]
    if math.comb(n, k) <= draws:
        order = np.array(list(combinations(range(n), k)))
    else:
        order = shuffles(n, draws, seed)[:, :k]
    return float(_right_shares(ballots[order].sum(axis=1), verdict).mean())


def majority_at_sizes(
    answers: np.ndarray,
    right: np.ndarray,
    weights: np.ndarray,
    sizes: Sequence[int],
    seed: int,
) -> np.ndarray:
    """float64 [ways, sizes]: how often the answer with the most votes is right, over `DRAWS`
    sub-samples of each size; ties count with their share.

    answers  int64 [N], from 0 on, equal for equal answers; -1: none;  right: bool [N]
    weights  float [ways, N], at least 0, of each sample's vote
    seed     of the sub-samples, another one for each problem
    """
    ballots = ballots_of(answers)
    ways = len(weights)
    n, candidates = ballots.shape
    if not candidates:
        return np.zeros((ways, len(sizes)))
    verdict = (right @ ballots) / ballots.sum(axis=0)
    weighed = (weights[:, :, None] * ballots).transpose(1, 0, 2).reshape(n, ways * candidates)
    drawn = subsamples(n, tuple(sizes), seed)
    votes = (drawn.reshape(-1, n) @ weighed).reshape(DRAWS, len(sizes), ways, candidates)
    return _right_shares(votes, verdict).mean(axis=0).T


def ballots_of(answers: np.ndarray) -> np.ndarray:
    """float64 [N, candidates]: 1 at each sample's answer.

    answers  int64 [N], from 0 on, equal for equal answers; -1: none
    """
    return (answers[:, None] == np.arange(answers.max(initial=-1) + 1)).astype(np.float64)


def shuffles(n: int, draws: int, seed: int) -> np.ndarray:
    """int64 [draws, n]: 0 to n - 1, each row in an order of its own."""
    return np.random.default_rng(seed).permuted(np.tile(np.arange(n), (draws, 1)), axis=1)


def subsamples(n: int, sizes: tuple[int, ...], seed: int) -> np.ndarray:
    """float64 [DRAWS, sizes, n], 1 for the samples that were drawn; the smaller sub-samples are
    parts of the larger.
    """
    ranks = shuffles(n, DRAWS, seed)
    return (ranks[:, None, :] < np.array(sizes)[None, :, None]).astype(np.float64)


def _right_shares(votes: np.ndarray, verdict: np.ndarray) -> np.ndarray:
    """float64 [...], in [0, 1]: of the answers with the most votes, the share that is right; 0
    where nobody voted.

    votes  float64 [..., candidates], at least 0;  verdict: float64 [candidates]
    """
    most = votes.max(axis=-1, keepdims=True)
    tied = (votes >= most * (1 - 1e-9)) & (votes > 0)
    return (tied @ verdict) / np.maximum(tied.sum(axis=-1), 1)


def auroc(scores: ArrayLike, right: ArrayLike) -> float:
    """Chance that a right sample is scored above a wrong one, equal scores counting half. In [0,
    1]; nan where all are right or all wrong.

    scores  none nan. The Mann-Whitney statistic by its mean ranks (Hanley and McNeil 1982)
    """
    values = np.asarray(scores, np.float64)
    good = np.asarray(right, bool)
    if not good.any() or good.all():
        return math.nan
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    rights = int(good.sum())
    return float((ranks[good].sum() - rights * (rights + 1) / 2) / (rights * (len(good) - rights)))


def _check(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k={k} of n={n} samples is impossible: give 1 <= k <= n")
