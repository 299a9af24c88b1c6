"""What N stored samples of a problem say of any number of them, for many sizes and ways to choose
at once.

The estimators are those of `guides.training.metrics`, as matrix products: a thousand problems with
256 samples each, nine sizes and twenty ways to weigh a vote take a minute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

DRAWS = 200  #: sub-samples of each size that a vote is averaged over


@dataclass(frozen=True)
class Samples:
    """The N samples of one problem, those that ended unfinished included.

    answers  int64 [N], from 0 on, equal for equal answers; -1: none
    right    bool [N], is the answer right;  clean: bool [N], is every step right, too
    """

    answers: np.ndarray
    right: np.ndarray
    clean: np.ndarray

    @property
    def ballots(self) -> np.ndarray:
        """float64 [N, answers]: 1 at each sample's answer."""
        return (self.answers[:, None] == np.arange(self.answers.max(initial=-1) + 1)).astype(
            np.float64
        )


def passed(good: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """float64 [sizes]: the chance that a good one is among so many of N samples (Chen et al.
    2021, eq. 1). good: bool [N].
    """
    n, bad = len(good), int((~good).sum())
    return np.array([1.0 - math.comb(bad, k) / math.comb(n, k) for k in sizes])


def best(scores: np.ndarray, good: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """float64 [sizes]: the chance that the best-scored of so many of N samples is good, exactly;
    equal scores in random order.

    scores  float [N], none nan;  good: bool [N]
    """
    _, place, times = np.unique(-scores, return_inverse=True, return_counts=True)
    shares = np.bincount(place, good) / times
    return _chances(len(scores), tuple(sizes)) @ np.repeat(shares, times)


@cache
def _chances(n: int, sizes: tuple[int, ...]) -> np.ndarray:
    """float64 [sizes, n]: the chance that the i-th best of n is the best of k drawn, C(n - 1 -
    i, k - 1) / C(n, k), i from 0 on.
    """
    return np.array(
        [[math.comb(n - 1 - i, k - 1) / math.comb(n, k) for i in range(n)] for k in sizes]
    )


def _drawn(n: int, sizes: tuple[int, ...], seed: int) -> np.ndarray:
    """float64 [DRAWS, sizes, n], 1 for the samples that were drawn; the smaller sub-samples are
    parts of the larger.
    """
    ranks = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (DRAWS, 1)), axis=1)
    return (ranks[:, None, :] < np.array(sizes)[None, :, None]).astype(np.float64)


def votes(samples: Samples, weights: np.ndarray, sizes: Sequence[int], seed: int) -> np.ndarray:
    """float64 [ways, sizes]: how often the answer with the most votes is right, over sub-samples;
    ties count with their share.

    weights  float [ways, N], at least 0, of each sample's vote;  seed: of the sub-samples, another
             one for each problem
    """
    ballots = samples.ballots
    ways, (n, answers) = len(weights), ballots.shape
    if not answers:
        return np.zeros((ways, len(sizes)))
    verdict = (samples.right @ ballots) / ballots.sum(axis=0)
    weighed = (weights[:, :, None] * ballots).transpose(1, 0, 2).reshape(n, ways * answers)
    drawn = _drawn(n, tuple(sizes), seed)
    counts = (drawn.reshape(-1, n) @ weighed).reshape(DRAWS, len(sizes), ways, answers)
    top = counts.max(axis=-1, keepdims=True)
    tied = (counts >= top * (1 - 1e-9)) & (counts > 0)
    return ((tied @ verdict) / np.maximum(tied.sum(axis=-1), 1)).mean(axis=0).T


def flawed(
    samples: Samples, weights: np.ndarray, scores: np.ndarray, size: int, seed: int
) -> tuple[float, float]:
    """How often the best-scored chain of the answer with the most votes has a right answer, and
    that with a wrong step: trace error.

    weights, scores  float [N]: of the vote, and of the chains among those of the answer that won
                     (ties go to the first)
    """
    ballots = samples.ballots
    if not ballots.shape[1]:
        return 0.0, 0.0
    drawn = _drawn(len(ballots), (size,), seed)[:, 0]
    winner = (drawn @ (weights[:, None] * ballots)).argmax(axis=1)
    own = (drawn > 0) & (samples.answers == winner[:, None])
    chosen = np.where(own, scores, -1.0).argmax(axis=1)
    found = samples.right[chosen] & own.any(axis=1)
    return float(found.mean()), float((found & ~samples.clean[chosen]).mean())
