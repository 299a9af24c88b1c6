"""What N stored samples of a problem say of any number of them, for many sizes and ways to choose
at once, by the estimators of `guides.training.metrics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from guides.training.metrics import DRAWS, ballots_of, majority_at_sizes, subsamples
from guides.training.metrics import best_of_sizes as best
from guides.training.metrics import pass_at_sizes as passed

__all__ = ["DRAWS", "Samples", "best", "flawed", "passed", "votes"]


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
        return ballots_of(self.answers)


def votes(samples: Samples, weights: np.ndarray, sizes: Sequence[int], seed: int) -> np.ndarray:
    """float64 [ways, sizes]: `majority_at_sizes` of the samples.

    weights  float [ways, N], at least 0, of each sample's vote;  seed: of the sub-samples, another
             one for each problem
    """
    return majority_at_sizes(samples.answers, samples.right, weights, sizes, seed)


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
    drawn = subsamples(len(ballots), (size,), seed)[:, 0]
    winner = (drawn @ (weights[:, None] * ballots)).argmax(axis=1)
    own = (drawn > 0) & (samples.answers == winner[:, None])
    chosen = np.where(own, scores, -1.0).argmax(axis=1)
    found = samples.right[chosen] & own.any(axis=1)
    return float(found.mean()), float((found & ~samples.clean[chosen]).mean())
