"""What the rows of a sweep say: accuracy with 95 % intervals, and paired differences. Intervals are
over problems (`benchmarks.sweep.statistics`).
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sweep import statistics as stats
from benchmarks.sweep.plan import Limit
from benchmarks.sweep.rows import Row, failed, read
from benchmarks.tasks import ranked

LEVELS = (100, 200, 400, 800, 2000)  #: budgets in tokens that are read off the largest
AREA = (100, 2000)  #: limits of the area, in tokens
#: kind of budget -> column
SPENT = {
    "tokens": "generated",
    "calls": "calls",
    "simulations": "simulations",
    "seconds": "seconds",
}
Table = dict[str, dict[str, float]]  #: problem -> seed -> score
#: of the rows of one problem and seed; nan where they do not tell
Score = Callable[[Sequence[Row]], float]


def limit_of(row: Row) -> Limit:
    kind, _, amount = row["budget"].partition("=")
    return Limit(kind, float(amount))


def readable(row: Row) -> bool:
    """Whether the row tells of smaller budgets too: the search ended at its first verified
    solution, or found nothing to judge.
    """
    return row["verified"] != "" or row["answer"] == ""


def within(level: Limit) -> Score:
    """1.0 for a problem that is solved within this budget, else 0.0: by a search with it, or
    read off one with a larger one.
    """

    def score(rows: Sequence[Row]) -> float:
        by = {limit_of(row): row for row in rows}
        if level in by:
            return float(by[level]["correct"])
        larger = [
            limit
            for limit, row in by.items()
            if limit.kind == level.kind and limit.amount > level.amount and readable(row)
        ]
        if not larger:
            return math.nan
        row = by[min(larger, key=lambda limit: limit.amount)]
        return float(row["correct"] == "1" and float(row[SPENT[level.kind]]) <= level.amount)

    return score


def solved_after(column: str) -> Score:
    """What the search with the largest budget had spent at its solution, inf without one; nan
    where that cannot be read off.
    """

    def score(rows: Sequence[Row]) -> float:
        row = max(rows, key=lambda row: limit_of(row).amount)
        return (
            math.nan
            if not readable(row)
            else float(row[column])
            if row["correct"] == "1"
            else math.inf
        )

    return score


def table(rows: Iterable[Row], score: Score) -> Table:
    """The scores of one method's rows, where they are known: not of searches that failed."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if not failed(row):
            groups[row["problem"], row["seed"]].append(row)
    found: Table = defaultdict(dict)
    for (problem, seed), group in groups.items():
        if not math.isnan(value := score(group)):
            found[problem][seed] = value
    return found


def means(found: Table) -> np.ndarray:
    """float64 [problems]: means over seeds."""
    return np.array([statistics.fmean(by.values()) for by in found.values()])


def difference(first: Table, second: Table, two_level: bool = False) -> tuple[stats.Interval, int]:
    """`first` minus `second`, paired over the problems of both, and how many those are. Raises
    ValueError where there is none.

    two_level  seeds are drawn anew too, paired: the problems that have all seeds of both; one that
               has a single seed (greedy) keeps it
    """
    shared = sorted(first.keys() & second.keys())
    if not two_level:
        gains = np.array(
            [
                statistics.fmean(first[p].values()) - statistics.fmean(second[p].values())
                for p in shared
            ]
        )
    else:
        seeds = [
            sorted({seed for by in found.values() for seed in by}) for found in (first, second)
        ]
        count = max(map(len, seeds))
        seeds = [own * count if len(own) == 1 else own for own in seeds]
        shared = [
            p
            for p in shared
            if first[p].keys() >= set(seeds[0]) and second[p].keys() >= set(seeds[1])
        ]
        pairs = list(zip(*seeds, strict=True)) if len(seeds[0]) == len(seeds[1]) else []
        gains = np.array([[first[p][a] - second[p][b] for a, b in pairs] for p in shared])
    if not gains.size:
        raise ValueError(
            "the two have no problem and budget in common: sweep both on the same task"
        )
    return stats.bootstrap(gains, two_level=two_level), len(shared)


def levels(rows: Sequence[Row]) -> list[Limit]:
    """The budgets that these rows tell of, ascending."""
    known = {limit_of(row) for row in rows}
    if known and all(map(readable, rows)):
        most = (
            max(limit.amount for limit in known if limit.kind == "tokens")
            if any(k.kind == "tokens" for k in known)
            else 0
        )
        known |= {Limit("tokens", level) for level in LEVELS if level < most}
    return sorted(known, key=lambda limit: (limit.kind, limit.amount))


def by_method(rows: Iterable[Row], hard: set[str] = frozenset()) -> dict[str, dict[str, list[Row]]]:  # type: ignore[assignment]
    """task -> method -> rows, in the order of the file; the problems in `hard` are a task of
    their own as well.
    """
    groups: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row["task"]][row["method"]].append(row)
        if row["problem"] in hard:
            groups[f"{row['task']}, hard 100"][row["method"]].append(row)
    return groups


def report(rows: Sequence[Row], hard: set[str] = frozenset()) -> str:  # type: ignore[assignment]
    """Markdown: a table a task, a method a line, per cent right within each budget with its
    interval, and what it cost.

    mean tokens  generated, by policy and guide;  mean read: those of prompts, a verifier's
                 included, that no cache had
    errors       searches that failed, which no rate and no mean counts
    """
    parts = []
    for task, methods in by_method(rows, hard).items():
        columns = levels([row for own in methods.values() for row in own])
        extra = [
            name
            for name in ("steps right", "median to solve", "errors")
            if any(_extra(own)[name] for own in methods.values())
        ]
        head = [
            "method",
            "searches",
            *(_label(level) for level in columns),
            "mean tokens",
            "mean read",
            "mean FLOPs",
            "rows a pass",
            *extra,
        ]
        lines = [
            f"{task}, per cent right within each budget [95 % interval over problems]",
            "",
            _line(head),
            "|---" * len(head) + "|",
        ]
        for method, own in methods.items():
            # a budget that this method was not given and cannot be read off stays empty
            told = levels(own)
            rates = [
                stats.bootstrap(means(table(own, within(level)) if level in told else {})) * 100
                for level in columns
            ]
            most = max(limit_of(row).amount for row in own)
            last = [row for row in own if limit_of(row).amount == most and not failed(row)]
            counts = [f"{_mean(last, column):,.0f}" for column in ("generated", "prefilled")]
            cost = [*counts, f"{_mean(last, 'flops'):.3g}", f"{_mean(last, 'rows'):.0f}"]
            cells = ["-" if math.isnan(rate.mean) else str(rate) for rate in rates]
            lines.append(
                _line(
                    [
                        method,
                        str(len(own)),
                        *cells,
                        *cost,
                        *(_extra(own)[name] or "-" for name in extra),
                    ]
                )
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _extra(rows: Sequence[Row]) -> dict[str, str]:
    sound = [row for row in rows if not failed(row)]
    steps = [row["steps_right"] == "1" for row in sound if row["steps_right"] != ""]
    solved = [int(row["generated"]) for row in sound if row["verified"] == "1"]
    errors = len(rows) - len(sound)
    return {
        "steps right": f"{100 * statistics.fmean(steps):.1f}" if steps else "",
        "median to solve": f"{statistics.median(solved):,.0f}" if solved else "",
        "errors": str(errors) if errors else "",
    }


def _mean(rows: Sequence[Row], column: str) -> float:
    known = [float(row[column]) for row in rows if row[column] != ""]
    return statistics.fmean(known) if known else math.nan


def _label(level: Limit) -> str:
    return f"{level.amount:,g} {level.kind}"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def differences(
    first: Sequence[Row], second: Sequence[Row], two_level: bool = False
) -> dict[str, tuple[stats.Interval, int]]:
    """What is measured -> (`first` minus `second` in points, problems): the solve rate within each
    budget, and for problems that verify themselves the area under it over log tokens, in per cent
    of the whole. Raises ValueError where the two have nothing in common.
    """
    found = {}
    for level in [level for level in levels(first) if level in levels(second)]:
        gain, count = difference(
            table(first, within(level)), table(second, within(level)), two_level
        )
        found[_label(level)] = gain * 100, count
    areas = []
    for rows in (first, second):
        known = [
            row
            for row in rows
            if limit_of(row).kind == "tokens" and limit_of(row).amount >= AREA[1]
        ]
        times = table(known, solved_after("generated"))
        areas.append(
            {
                p: {s: float(stats.area(np.array(t), *AREA)) for s, t in by.items()}
                for p, by in times.items()
            }
        )
    if areas[0].keys() & areas[1].keys() and all(map(readable, [*first, *second])):
        gain, count = difference(*areas, two_level)
        found[f"area over log tokens, {AREA[0]} to {AREA[1]:,}"] = gain * 100, count
    if not found:
        raise ValueError(
            "the two have no problem and budget in common: sweep both on the same task"
        )
    return found


def compare(first: Sequence[Row], second: Sequence[Row], two_level: bool = False) -> str:
    """Two methods' rows on one task: their `differences`, a line each."""
    found = differences(first, second, two_level)
    return "\n".join(
        f"{what}: {gain.signed} points, {count} problems" for what, (gain, count) in found.items()
    )


def against_first(rows: Sequence[Row]) -> str:
    """Markdown: a table a task, the difference of each method to the first one of the file; of
    none that has nothing in common with it.
    """
    parts = []
    for task, methods in by_method(rows).items():
        (name, base), *others = methods.items()
        found = {}
        for other, own in others:
            with contextlib.suppress(ValueError):
                found[other] = differences(own, base)
        columns = list(dict.fromkeys(what for own in found.values() for what in own))
        lines = [
            f"{task}, points more than {name} [95 % paired interval]",
            "",
            _line(["method", *columns]),
            "|---" * (1 + len(columns)) + "|",
        ]
        lines += [
            _line([other, *(own[c][0].signed if c in own else "-" for c in columns)])
            for other, own in found.items()
        ]
        parts += ["\n".join(lines)] if found else []
    return "\n\n".join(parts)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of reports."""
    parser.add_argument("--report", type=Path, help="print the table of a results file instead")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar="METHOD",
        help="with --report: two methods, first minus second",
    )
    parser.add_argument(
        "--against",
        type=Path,
        help="with --compare: the results file of the second method, such as that of another guide",
    )
    parser.add_argument(
        "--two-level", action="store_true", help="with --compare: draw the seeds anew as well"
    )
    parser.add_argument(
        "--ranks",
        type=Path,
        help="CSV of human difficulty ranks (columns Rank, Puzzles): shows 901 to 1000 too",
    )


def told(args: Any) -> str:
    """What `add_arguments` asks for. Raises ValueError where the files do not hold it."""
    hard = ranked(args.ranks, 901, 1000) if args.ranks else set()
    rows = read(args.report)
    if not args.compare:
        return report(rows, hard)
    first, second = (
        by_method(rows, hard),
        by_method(read(args.against) if args.against else rows, hard),
    )
    parts = []
    for task in first:
        names = zip(args.compare, (first[task], second.get(task, {})), strict=True)
        if all(name in methods for name, methods in names):
            parts.append(
                f"{task}\n"
                + compare(
                    first[task][args.compare[0]], second[task][args.compare[1]], args.two_level
                )
            )
    if not parts:
        there = sorted(
            {method for methods in [*first.values(), *second.values()] for method in methods}
        )
        raise ValueError(
            f"{' and '.join(args.compare)} were not both measured on one task: there are "
            f"{', '.join(there)}"
        )
    return "\n\n".join(parts)
