"""What the rows of a sweep say: accuracy with 95 % intervals, and paired differences. Intervals are
over problems (`benchmarks.sweep.statistics`).
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.output import escaped, latex
from benchmarks.output import row as line
from benchmarks.output import table as markdown
from benchmarks.sweep import statistics as stats
from benchmarks.sweep.levels import (
    DEFAULT,
    Levels,
    Score,
    add_level_arguments,
    label,
    levels_of,
    limit_of,
    readable,
    scientific,
    solved_after,
    within,
)
from benchmarks.sweep.plan import Limit
from benchmarks.sweep.rows import Row, numbers, read, sound
from benchmarks.tasks import ranked

AREA = (100, 2000)  #: limits of the area, in tokens
BUDGETS = "per cent right within each budget [95 % interval over problems]"
NOTHING_SHARED = "the two have no problem and budget in common: sweep both on the same task"
#: columns of a table that stand there only where there is something to say
NOTES = ("steps right", "median to solve", "errors")
Table = dict[str, dict[str, float]]  #: problem -> seed -> score


def table(rows: Iterable[Row], score: Score) -> Table:
    """The scores of one method's rows, where they are known: not of searches that failed."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in sound(rows):
        groups[row["problem"], row["seed"]].append(row)
    scores: Table = defaultdict(dict)
    for (problem, seed), group in groups.items():
        value = score(group)
        if not math.isnan(value):
            scores[problem][seed] = value
    return scores


def means(scores: Table) -> np.ndarray:
    """float64 [problems]: means over seeds."""
    return np.array(list(map(statistics.fmean, map(dict.values, scores.values()))))


def difference(first: Table, second: Table, two_level: bool = False) -> tuple[stats.Interval, int]:
    """`first` minus `second`, paired over the problems of both, and how many those are. Raises
    ValueError where there is none.

    two_level  seeds are drawn anew too, paired: the problems that have all seeds of both; one that
               has a single seed (greedy) keeps it
    """
    shared = sorted(first.keys() & second.keys())
    gains: list[Any] = []
    if two_level:
        pairs = _paired_seeds(first, second)
        for problem in shared:
            one = first[problem]
            other = second[problem]
            with contextlib.suppress(KeyError):  # a seed is missing
                gains.append([one[a] - other[b] for a, b in pairs])
    else:
        for problem in shared:
            one_mean = statistics.fmean(first[problem].values())
            gains.append(one_mean - statistics.fmean(second[problem].values()))
    paired = np.array(gains)
    if not paired.size:
        raise ValueError(NOTHING_SHARED)
    return stats.bootstrap(paired, two_level=two_level), len(gains)


def _paired_seeds(first: Table, second: Table) -> list[tuple[str, str]]:
    """The seeds of both side by side, a single one repeated; none where their numbers differ."""
    one = sorted(set().union(*first.values()))
    other = sorted(set().union(*second.values()))
    if len(one) == 1:
        one *= len(other)
    elif len(other) == 1:
        other *= len(one)
    return list(zip(one, other, strict=True)) if len(one) == len(other) else []


def by_method(rows: Iterable[Row], hard: Collection[str] = ()) -> dict[str, dict[str, list[Row]]]:
    """task -> method -> rows, in the order of the file; the problems in `hard` are a task of
    their own as well.
    """
    groups: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row["task"]][row["method"]].append(row)
        if row["problem"] in hard:
            groups[f"{row['task']}, hard 100"][row["method"]].append(row)
    return groups


def report(rows: Sequence[Row], hard: Collection[str] = (), at: Levels = DEFAULT) -> str:
    """Markdown: a table a task, a method a line, per cent right within each budget with its
    interval, and what it cost. With `at.flops` a second table follows, at equal compute, of the
    methods whose searches end at their solution.

    mean tokens  generated, by policy and guide;  mean read: those of prompts, a verifier's
                 included, that no cache had
    errors       searches that failed, which no rate and no mean counts
    """
    parts = []
    for task, methods in by_method(rows, hard).items():
        cells = list(map(line, _budget_table(methods, at)))
        parts += [f"{task}, {BUDGETS}\n\n{markdown(cells)}", _compute_table(task, methods, at)]
    return "\n\n".join(filter(None, parts))


def latex_report(rows: Sequence[Row], at: Levels = DEFAULT) -> str:
    """The first tables of `report` for LaTeX, a `tabular` a task, with comments on what each is."""
    parts = ["% needs \\usepackage{booktabs}\n"]
    for task, methods in by_method(rows).items():
        parts.append(f"% {escaped(task)}, {BUDGETS}\n{latex(_budget_table(methods, at))}\n")
    return "\n".join(parts)


def _budget_table(methods: dict[str, list[Row]], at: Levels) -> list[list[str]]:
    """The cells of a table, the head first."""
    columns = at.budgets(list(chain.from_iterable(methods.values())))
    notes = dict(zip(methods, map(_notes, methods.values()), strict=True))
    noted = [name for name in NOTES if any(map(itemgetter(name), notes.values()))]
    head = ["method", "searches", *map(label, columns)]
    head += ["mean tokens", "mean read", "mean FLOPs", "rows a pass", *noted]
    lines = [head]
    for method, own in methods.items():
        # a budget that this method was not given and cannot be read off stays empty
        rates = _rates(own, columns, at.budgets(own))
        largest = last(own)
        costs = [
            f"{_mean(largest, 'generated'):,.0f}",
            f"{_mean(largest, 'prefilled'):,.0f}",
            scientific(_mean(largest, "flops")),
            f"{_mean(largest, 'rows'):.0f}",
        ]
        rest = [notes[method][name] or "-" for name in noted]
        lines.append([method, str(len(own)), *map(_cell, rates), *costs, *rest])
    return lines


def _compute_table(task: str, methods: dict[str, list[Row]], at: Levels) -> str:
    """ "" where no method's searches tell."""
    available = dict(zip(methods, map(at.compute, methods.values()), strict=True))
    columns = max(available.values(), key=len)
    if not columns:
        return ""
    lines = [line(["method", *map(label, columns)])]
    for method, own in methods.items():
        rates = _rates(own, columns, available[method])
        lines.append(line([method, *map(_cell, rates)]))
    title = f"{task}, per cent solved at equal compute [95 % interval over problems]"
    return f"{title}\n\n{markdown(lines)}"


def _rates(
    rows: Sequence[Row], columns: Sequence[Limit], available: Sequence[Limit]
) -> list[stats.Interval]:
    """The solve rate in per cent within each level, all nan for one that the rows do not tell."""
    rates = []
    for level in columns:
        scores = table(rows, within(level)) if level in available else {}
        rates.append(stats.bootstrap(means(scores)) * 100)
    return rates


def _cell(rate: stats.Interval) -> str:
    return "-" if math.isnan(rate.mean) else str(rate)


def _notes(rows: Sequence[Row]) -> dict[str, str]:
    """`NOTES` of one method as text, "" where there is nothing to say."""
    finished = sound(rows)
    steps = numbers(finished, "steps_right")
    solved = [int(row["generated"]) for row in finished if row["verified"] == "1"]
    errors = len(rows) - len(finished)
    return {
        "steps right": f"{100 * statistics.fmean(steps):.1f}" if steps else "",
        "median to solve": f"{statistics.median(solved):,.0f}" if solved else "",
        "errors": str(errors) if errors else "",
    }


def _mean(rows: Sequence[Row], column: str) -> float:
    cells = numbers(rows, column)
    return statistics.fmean(cells) if cells else math.nan


def last(rows: Sequence[Row]) -> list[Row]:
    """The rows with the largest budget, but for those of searches that failed."""
    most = max(map(limit_of, rows), key=lambda limit: limit.amount).amount
    return [row for row in sound(rows) if limit_of(row).amount == most]


def brief(rows: Sequence[Row], at: Levels = DEFAULT) -> str:
    """Markdown: one table of the rows of one task, per cent without intervals, within `at.limits`
    and the budgets of the rows, or at equal compute where `at.flops` are given; mean FLOPs of a
    search with the largest budget last.
    """
    methods = by_method(rows)
    if len(methods) != 1:
        raise ValueError(
            f"these are rows of {len(methods)} tasks, and a table is of one: give --task"
        )
    [methods_of_task] = methods.values()
    columns = at.compute(rows) if at.flops else at.budgets(rows)
    if not columns:
        raise ValueError("nothing can be read off rows whose answers no problem verified")
    names = [label(level).replace(" tokens", "").replace(" FLOPs", "") for level in columns]
    lines = [line(["", *names, "FLOPs"])]
    for method, own in methods_of_task.items():
        available = at.compute(own) if at.flops else at.budgets(own)
        cells = []
        for level in columns:
            rate = means(table(own, within(level)) if level in available else {})
            cells.append(f"{100 * rate.mean():.1f}" if rate.size else "-")
        lines.append(line([f"`{method}`", *cells, scientific(_mean(last(own), "flops"))]))
    return markdown(lines)


def differences(
    first: Sequence[Row], second: Sequence[Row], two_level: bool = False, at: Levels = DEFAULT
) -> dict[str, tuple[stats.Interval, int]]:
    """What is measured -> (`first` minus `second` in points, problems): the solve rate within each
    budget, and for problems that verify themselves at equal compute (`at.flops`). Raises
    ValueError where the two have nothing in common.
    """
    gains = {}
    for level in _shared(first, second, at):
        score = within(level)
        gain, count = difference(table(first, score), table(second, score), two_level)
        gains[label(level)] = gain * 100, count
    if not gains:
        raise ValueError(NOTHING_SHARED)
    return gains


def _shared(first: Sequence[Row], second: Sequence[Row], at: Levels) -> list[Limit]:
    """The levels that both tell of: budgets, then compute."""
    others = {*at.budgets(second), *at.compute(second)}
    return list(filter(others.__contains__, [*at.budgets(first), *at.compute(first)]))


def _areas(rows: Sequence[Row]) -> Table:
    """The area under the solve rate over log tokens, of budgets that reach to its end."""
    long = []
    for row in rows:
        limit = limit_of(row)
        if limit.kind == "tokens" and limit.amount >= AREA[1]:
            long.append(row)
    areas: Table = {}
    for problem, times in table(long, solved_after("generated")).items():
        areas[problem] = {
            seed: float(stats.area(np.array(time), *AREA)) for seed, time in times.items()
        }
    return areas


def compare(
    first: Sequence[Row], second: Sequence[Row], two_level: bool = False, at: Levels = DEFAULT
) -> str:
    """Two methods' rows on one task: their `differences`, a line each, and for problems that verify
    themselves the area under the solve rate over log tokens, in per cent of the whole.
    """
    gains = differences(first, second, two_level, at)
    areas = [_areas(first), _areas(second)]
    if areas[0].keys() & areas[1].keys() and all(map(readable, [*first, *second])):
        gain, count = difference(*areas, two_level)
        gains[f"area over log tokens, {AREA[0]} to {AREA[1]:,}"] = gain * 100, count
    lines = []
    for name, (gain, count) in gains.items():
        lines.append(f"{name}: {gain.signed} points, {count} problems")
    return "\n".join(lines)


def against_first(rows: Sequence[Row], at: Levels = DEFAULT) -> str:
    """Markdown: a table a task, the difference of each method to the first one of the file; of
    none that has nothing in common with it.
    """
    parts = []
    for task, methods in by_method(rows).items():
        (name, base), *others = methods.items()
        gains = {}
        for other, own in others:
            with contextlib.suppress(ValueError):
                gains[other] = differences(own, base, at=at)
        if not gains:
            continue
        columns = list(dict.fromkeys(chain.from_iterable(gains.values())))
        lines = [line(["method", *columns])]
        for other, found in gains.items():
            cells = [found[c][0].signed if c in found else "-" for c in columns]
            lines.append(line([other, *cells]))
        title = f"{task}, points more than {name} [95 % paired interval]"
        parts.append(f"{title}\n\n{markdown(lines)}")
    return "\n\n".join(parts)


# -- the command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of reports."""
    parser.add_argument("--report", type=Path, help="print the table of a results file instead")
    add_level_arguments(parser)
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


def requested(args: Any) -> str:
    """What `add_arguments` asks for. Raises ValueError where the files do not hold it."""
    hard = ranked(args.ranks, 901, 1000) if args.ranks else set()
    rows = read(args.report)
    at = levels_of(args)
    if at.flops and not any(map(readable, rows)):
        raise ValueError(
            "--flops is read off searches that end at a verified solution, and no problem of "
            f"{args.report} verified one: leave it out"
        )
    if not args.compare:
        return report(rows, hard, at)
    first = by_method(rows, hard)
    second = by_method(read(args.against), hard) if args.against else first
    one, other = args.compare
    parts = []
    for task, methods in first.items():
        if one in methods and other in second.get(task, {}):
            text = compare(methods[one], second[task][other], args.two_level, at)
            parts.append(f"{task}\n{text}")
    if not parts:
        there = set().union(*first.values(), *second.values())
        raise ValueError(
            f"{one} and {other} were not both measured on one task: there are "
            f"{', '.join(sorted(there))}"
        )
    return "\n\n".join(parts)
