"""At which budgets searches are compared, and what the rows of a sweep tell of them.

Where problems verify themselves, a search ends at its first solution. So whether it solves a
problem within a smaller budget, or within so many FLOPs, is read off what it had spent when it
ended.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.sweep.plan import Limit
from benchmarks.sweep.rows import Row

LEVELS = (100, 200, 400, 800, 2000)  #: budgets in tokens that are read off larger ones
#: kind of budget -> column
SPENT = {
    "tokens": "generated",
    "calls": "calls",
    "simulations": "simulations",
    "seconds": "seconds",
}
#: of the rows of one problem and seed; nan where they do not tell
Score = Callable[[Sequence[Row]], float]


@dataclass(frozen=True)
class Levels:
    """At which budgets solve rates are read off searches with a larger one.

    limits  of any kind; those from the largest budget of their kind on are left out
    flops   of the whole search, guide included: rates at equal compute. What a budget ended before
            it had spent so many counts as not solved
    """

    limits: tuple[Limit, ...] = tuple(map(partial(Limit, "tokens"), LEVELS))
    flops: tuple[float, ...] = ()

    def budgets(self, rows: Sequence[Row]) -> list[Limit]:
        """The budgets that these rows tell of, ascending: their own, and `limits` where they can
        be read off.
        """
        own = set(map(limit_of, rows))
        found = set(own)
        if all(map(readable, rows)):
            for level in self.limits:
                if any(limit.kind == level.kind and limit.amount > level.amount for limit in own):
                    found.add(level)
        return sorted(found, key=lambda limit: (limit.kind, limit.amount))

    def compute(self, rows: Sequence[Row]) -> list[Limit]:
        """`flops` where they can be read off these rows, else nothing."""
        if not rows or not all(map(readable, rows)):
            return []
        return list(map(partial(Limit, "flops"), sorted(set(self.flops))))


DEFAULT = Levels()


def limit_of(row: Row) -> Limit:
    """The budget of a row."""
    kind, _, amount = row["budget"].partition("=")
    return Limit(kind, float(amount))


def readable(row: Row) -> bool:
    """Whether the row tells of smaller budgets too: the search ended at its first verified
    solution, or found nothing to judge.
    """
    return row["verified"] != "" or row["answer"] == ""


def within(level: Limit) -> Score:
    """1.0 for a problem that is solved within this budget, else 0.0: by a search with it, or
    read off one with a larger one. A level of FLOPs is read off the search with the largest.
    """
    if level.kind == "flops":
        spent = solved_after("flops")

        def cheap(rows: Sequence[Row]) -> float:
            flops = spent(rows)
            return math.nan if math.isnan(flops) else float(flops <= level.amount)

        return cheap

    def score(rows: Sequence[Row]) -> float:
        by = dict(zip(map(limit_of, rows), rows, strict=True))
        if level in by:
            return float(by[level]["correct"])
        larger: dict[float, Row] = {}
        for limit, row in by.items():
            if limit.kind == level.kind and limit.amount > level.amount and readable(row):
                larger[limit.amount] = row
        if not larger:
            return math.nan
        row = larger[min(larger)]
        return float(row["correct"] == "1" and float(row[SPENT[level.kind]]) <= level.amount)

    return score


def solved_after(column: str) -> Score:
    """What the search with the largest budget had spent at its solution, inf without one; nan
    where that cannot be read off.
    """

    def score(rows: Sequence[Row]) -> float:
        row = max(rows, key=lambda row: limit_of(row).amount)
        if not readable(row):
            return math.nan
        return float(row[column]) if row["correct"] == "1" else math.inf

    return score


def label(level: Limit) -> str:
    """A level as tables name it: "2,000 tokens", "4e8 FLOPs"."""
    if level.kind == "flops":
        return f"{scientific(level.amount)} FLOPs"
    return f"{level.amount:,g} {level.kind}"


def scientific(number: float, digits: int = 3) -> str:
    """As 1.65e8: with at most so many digits, and no zeros that say nothing; "-" for nan."""
    if math.isnan(number):
        return "-"
    mantissa, exponent = f"{number:.{digits - 1}e}".split("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}"


def amounts(text: str) -> tuple[float, ...]:
    """Numbers above 0, "60,80" or "1e8,4e8". Raises ValueError."""
    try:
        found = tuple(map(float, text.split(",")))
    except ValueError:
        found = ()
    if not found or not all(0 < number < math.inf for number in found):
        raise ValueError(f"cannot read {text!r}: write numbers above 0 with commas between")
    return found


def add_level_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `levels_of`."""
    parser.add_argument(
        "--levels",
        metavar="TOKENS",
        default=",".join(map(str, LEVELS)),
        help="of a report: the columns, tokens within which problems are solved; default: "
        "%(default)s",
    )
    parser.add_argument(
        "--flops",
        metavar="FLOPS",
        help="of a report: add a table at equal compute, of these FLOPs a problem, as 1e8,4e8,1e9",
    )


def levels_of(args: Any) -> Levels:
    """The levels that the flags ask for. Raises ValueError."""
    tokens = tuple(map(partial(Limit, "tokens"), amounts(args.levels)))
    return Levels(tokens, amounts(args.flops) if args.flops else ())
