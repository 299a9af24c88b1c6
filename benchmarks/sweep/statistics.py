"""Estimators and their uncertainty: areas under solve rates and slopes, beside the bootstrap
(`guides.training.statistics`) and what N stored samples say of k (`guides.training.metrics`).

Every interval is a 95 % percentile bootstrap over problems: problems are drawn anew, the same for
both arms of a comparison.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from guides.training.metrics import auroc, best_of_k, majority_at_k, pass_at_k
from guides.training.statistics import RESAMPLES, Interval, bands, bootstrap, wilson

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
    "wilson",
]


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
