"""Estimators and their uncertainty: areas under solve rates, slopes, the paired bootstrap; and what
N stored samples say of k (`guides.training.metrics`).

Every interval is a 95 % percentile bootstrap over problems: problems are drawn anew, the same for
both arms of a comparison.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from guides.training.metrics import auroc, best_of_k, majority_at_k, pass_at_k

__all__ = [
    "Interval",
    "area",
    "auroc",
    "bands",
    "best_of_k",
    "bootstrap",
    "majority_at_k",
    "pass_at_k",
    "slope",
]

RESAMPLES = 10_000
_CHUNK = 1_000  # resamples computed at a time, which bounds the memory


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its 95 % interval; all three nan where there is nothing to
    measure.
    """

    mean: float
    low: float
    high: float

    def __mul__(self, factor: float) -> Interval:
        return Interval(self.mean * factor, self.low * factor, self.high * factor)

    def __str__(self) -> str:
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"

    @property
    def signed(self) -> str:
        """As text with signs, for differences and slopes."""
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def bootstrap(
    values: np.ndarray, *, two_level: bool = False, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean over problems with its interval.

    values     float [problems] or [problems, seeds]: seeds are averaged within a problem
    two_level  draw the seeds anew too, the same ones for all problems: how sure a claim is about
               other seeds. Needs two or more

    For a paired comparison give the differences, problem by problem.
    """
    table = np.asarray(values, np.float64)
    table = table[:, None] if table.ndim == 1 else table
    problems, seeds = table.shape
    if two_level and seeds < 2:
        raise ValueError("a two-level bootstrap draws seeds anew: measure with two seeds or more")
    if not problems:
        return Interval(math.nan, math.nan, math.nan)
    rng, means = np.random.default_rng(seed), []
    for start in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - start)
        # [count, seeds]
        drawn = rng.multinomial(problems, np.full(problems, 1 / problems), count) @ table / problems
        weights = (
            rng.multinomial(seeds, np.full(seeds, 1 / seeds), count)
            if two_level
            else np.ones((count, seeds))
        )
        means.append((drawn * weights).sum(axis=1) / seeds)
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Interval(float(table.mean()), float(low), float(high))


def wilson(right: float, n: int, z: float = 1.959964) -> Interval:
    """The share `right` / `n` of a binomial count with its 95 % score interval (Wilson 1927),
    which lies in [0, 1]. n: from 1 on.
    """
    if n < 1 or not 0 <= right <= n:
        raise ValueError(f"{right} right of {n} is no share: give 0 <= right <= n and n from 1 on")
    share = right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def bands(values: np.ndarray, *, resamples: int = 2_000) -> np.ndarray:
    """Means over problems of many measurements at once, with their intervals. float64 [3, points]:
    mean, low, high.

    values  float [problems, points]; the same problems are drawn for all points
    """
    table = np.asarray(values, np.float64)
    count = len(table)
    means = (
        np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), resamples)
        @ table
        / count
    )
    return np.vstack([table.mean(axis=0), *np.percentile(means, [2.5, 97.5], axis=0)])


def area(solved: np.ndarray, low: float, high: float) -> np.ndarray:
    """Area under the solve rate over log tokens between two limits, as a share of the whole.
    float64, shaped as `solved`, in [0, 1].

    solved  tokens to the first solution, inf where there was none. The rate is a step function of
            the budget B, so the area is exact: the integral of 1[solved <= B] d log B, by log(high
            / low)
    """
    if not 0 < low < high:
        raise ValueError(f"there is no area between {low} and {high}: give 0 < low < high")
    return (math.log(high) - np.log(np.clip(np.asarray(solved, np.float64), low, high))) / math.log(
        high / low
    )


def slope(compute: Sequence[float], values: np.ndarray, *, resamples: int = RESAMPLES) -> Interval:
    """Least-squares slope of the mean over problems against log10 of compute, with its interval
    over problems.

    compute  above 0 [points], at least two different ones;  values: float [problems, points]

    The slope is linear in the values, so that of the mean is the mean of the problems' own.
    """
    x = np.log10(np.asarray(compute, np.float64))
    if len(x) < 2 or not np.isfinite(x).all() or np.ptp(x) == 0:
        raise ValueError(
            f"no slope through the computes {list(compute)}: give two different ones above 0 or "
            "more"
        )
    x = x - x.mean()
    return bootstrap(np.asarray(values, np.float64) @ x / (x @ x), resamples=resamples)
