"""Methods of one sweep at equal wall-clock time, read off its rows.

    python -m benchmarks.sweep.wallclock results.csv --against self_consistency

Each method's accuracy is known at a few budgets, and what the searches took in the mean is known
with it: tokens and seconds. Between two budgets accuracy is taken to change evenly with the
logarithm of the seconds; beyond the first and the last nothing is said. Seconds are those of
searches among their neighbours, as many as `copse bench --side` says, so only rows of one sweep on
one machine can be compared.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

import numpy as np

from benchmarks.output import row as row_of
from benchmarks.output import table
from benchmarks.sweep import statistics
from benchmarks.sweep.levels import limit_of
from benchmarks.sweep.rows import Row, numbers, read


@dataclass(frozen=True)
class Point:
    """One method at one budget: means over problems, and what each problem's searches came to.

    correct  problem -> share of its searches that were right, in [0, 1]
    """

    budget: str
    tokens: float
    seconds: float
    flops: float
    correct: Mapping[str, float]

    def scores(self, problems: Sequence[str]) -> np.ndarray:
        """float64 [problems]: those of `correct`."""
        return np.array([self.correct[problem] for problem in problems])


def points(rows: Sequence[Row]) -> dict[str, list[Point]]:
    """method -> its points, the cheapest first."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: limit_of(row).amount):
        groups[row["method"], row["budget"]].append(row)
    found: dict[str, list[Point]] = defaultdict(list)
    for (method, budget), group in groups.items():
        right: dict[str, list[float]] = defaultdict(list)
        for row in group:
            right[row["problem"]].append(float(row["correct"]))
        correct = {problem: float(np.mean(scores)) for problem, scores in right.items()}
        point = Point(
            budget,
            _mean(group, "generated"),
            _mean(group, "seconds"),
            _mean(group, "flops"),
            correct,
        )
        found[method].append(point)
    return found


def _mean(rows: Sequence[Row], column: str) -> float:
    return float(np.mean(numbers(rows, column)))


def at(line: Sequence[Point], seconds: float, problems: Sequence[str]) -> np.ndarray | None:
    """float [problems], in [0, 1]: the accuracy of a method in a mean of so many seconds a
    problem; None beyond its budgets.
    """
    for low, high in pairwise(line):
        left = low.seconds
        right = high.seconds
        if left <= seconds <= right:
            share = math.log(seconds / left) / math.log(right / left) if right > left else 1.0
            return (1 - share) * low.scores(problems) + share * high.scores(problems)
    return None


def report(rows: Sequence[Row], against: str) -> str:
    """Two tables: every point, and every method less `against` at the seconds of its own points.

    Raises ValueError for a method that is not in the rows.
    """
    found = points(rows)
    if against not in found:
        raise ValueError(
            f"there is no method {against!r} in these rows: give one of {', '.join(found)}"
        )
    lines = [row_of(["method", "budget", "right, %", "tokens", "seconds", "TFLOP"])]
    less = f"less {against} in as many seconds, points"
    differences = [row_of(["method", "budget", "seconds", less])]
    for method, line in found.items():
        for point in line:
            share = statistics.bootstrap(100 * np.array(list(point.correct.values())))
            cost = [f"{point.tokens:.0f}", f"{point.seconds:.1f}", f"{point.flops / 1e12:.2f}"]
            lines.append(row_of([method, point.budget, str(share), *cost]))
            if method == against:
                continue
            rest = map(attrgetter("correct"), found[against])
            shared = sorted(set(point.correct).intersection(*rest))
            other = at(found[against], point.seconds, shared)
            less = "not known"
            if other is not None:
                less = statistics.bootstrap(100 * (point.scores(shared) - other)).signed
            differences.append(row_of([method, point.budget, f"{point.seconds:.1f}", less]))
    return f"{table(lines)}\n\n{table(differences)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument(
        "--against", default="self_consistency", help="the method that the others are compared with"
    )
    arguments = parser.parse_args()
    sys.stdout.write(report(read(arguments.results), arguments.against) + "\n")


if __name__ == "__main__":
    main()
