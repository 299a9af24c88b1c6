"""Means over problems and how sure they are.

Every interval of a mean is a 95 % percentile bootstrap over problems (Efron 1979): problems are
drawn anew, the same for both arms of a comparison.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

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
    values: np.ndarray,
    *,
    times: np.ndarray | None = None,
    two_level: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean over problems with its interval.

    values     float [problems] or [problems, seeds]: seeds are averaged within a problem
    times      int [problems]: of how many problems each value is; None: of one
    two_level  draw the seeds anew too, the same ones for all problems: how sure a claim is about
               other seeds. Needs two or more

    For a paired comparison give the differences, problem by problem.
    """
    table = np.asarray(values, np.float64)
    if table.ndim == 1:
        table = table[:, None]
    seeds = table.shape[1]
    if two_level and seeds < 2:
        raise ValueError("a two-level bootstrap draws seeds anew: measure with two seeds or more")
    if not len(table):
        return Interval(math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    means = []
    for drawn in _resampled(table, times, resamples, rng):
        weights = np.ones(drawn.shape)
        if two_level:
            weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), len(drawn)).astype(float)
        means.append((drawn * weights).sum(axis=1) / seeds)
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    mean = np.average(table.mean(axis=1), weights=times) if times is not None else table.mean()
    return Interval(float(mean), float(low), float(high))


def bands(values: np.ndarray, *, resamples: int = 2_000) -> np.ndarray:
    """Means over problems of many measurements at once, with their intervals. float64 [3, points]:
    mean, low, high.

    values  float [problems, points]; the same problems are drawn for all points
    """
    table = np.asarray(values, np.float64)
    means = np.concatenate(list(_resampled(table, None, resamples, np.random.default_rng(0))))
    return np.vstack([table.mean(axis=0), *np.percentile(means, [2.5, 97.5], axis=0)])


def _resampled(
    table: np.ndarray, times: np.ndarray | None, resamples: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """float64 [count, columns], some at a time: the means of each column over problems that are
    drawn with replacement.
    """
    times = np.ones(len(table), np.int64) if times is None else times
    problems = int(times.sum())
    for start in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - start)
        yield rng.multinomial(problems, times / problems, count) @ table / problems


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
