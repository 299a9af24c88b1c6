"""Calibration of a value head: its log-odds are stretched and moved until they say how often it is
right (Platt 1999).

Temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks") with a bias. Both
are folded into the head's weight and bias, so that nothing is to be done when it is used.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

STEPS = 100  #: of Newton's method at most; it needs about 6
LEAST = 2.0**-17  #: half of what values are rounded to: nearer to 0 or 1 no value is known


class Line(NamedTuple):
    """New log-odds are `scale` x the old + `shift`; scale > 0."""

    scale: float = 1.0
    shift: float = 0.0

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """float64, in [0, 1], of values in [0, 1]; nan stays."""
        return 1.0 / (1.0 + np.exp(-(self.scale * log_odds(values) + self.shift)))


def log_odds(values: np.ndarray) -> np.ndarray:
    """float64, finite: log(v / (1 - v)) of values in [0, 1], which are known to 2^-16; nan
    stays.
    """
    inside = np.clip(np.asarray(values, np.float64), LEAST, 1 - LEAST)
    return np.log(inside) - np.log1p(-inside)


def cross_entropy(values: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Weighted mean of -(y log v + (1 - y) log(1 - v)), in nats. All float [labels], none nan; y
    in [0, 1], the weights' sum above 0.
    """
    odds = log_odds(values)
    return float(np.average(np.logaddexp(0.0, odds) - labels * odds, weights=weights))


def fit(values: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Line:
    """The line of the least cross-entropy, by Newton's method with halved steps. Arguments as
    `cross_entropy`.

    Without anything to tell labels apart by (one value, one label, no labels), or where it would
    turn the values round: no change.
    """
    x = log_odds(values)
    if not len(x) or np.ptp(x) == 0 or np.ptp(labels) == 0:
        return Line()
    design = np.stack([x, np.ones_like(x)], axis=1)
    share = weights / weights.sum()

    def loss(line: np.ndarray) -> float:
        odds = design @ line
        return float(share @ (np.logaddexp(0.0, odds) - labels * odds))

    line = np.array([1.0, 0.0])
    for _ in range(STEPS):
        fitted = 1.0 / (1.0 + np.exp(-design @ line))
        gradient = design.T @ (share * (fitted - labels))
        spread = (share * fitted * (1 - fitted))[:, None]
        curvature = design.T @ (design * spread) + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        before = loss(line)
        while loss(line - step) > before and np.abs(step).max() > 1e-9:
            step = step / 2
        line = line - step
        if np.abs(step).max() <= 1e-9:
            break
    if line[0] <= 0 or not np.isfinite(line).all():
        return Line()
    return Line(float(line[0]), float(line[1]))
