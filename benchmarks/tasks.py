"""Tasks: lists of problems to measure on, in a fixed order. The only place that may know labels."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from itertools import combinations_with_replacement
from pathlib import Path

from search.problem import Problem
from search.problems.countdown import Countdown, generate


@cache
def _reachable(numbers: tuple[int, ...], whole: bool) -> frozenset[Fraction]:
    """Every value that all `numbers` (sorted) can make with + - * /; `whole`: through whole numbers from 0 on only."""
    if len(numbers) == 1:
        return frozenset({Fraction(numbers[0])})
    values = set()
    for mask in range(1, 2 ** (len(numbers) - 1)):
        first = tuple(n for i, n in enumerate(numbers) if mask >> i & 1)
        second = tuple(n for i, n in enumerate(numbers) if not mask >> i & 1)
        for a in _reachable(first, whole):
            for b in _reachable(second, whole):
                values.update((a + b, a * b, a - b, b - a))
                if b:
                    values.add(a / b)
                if a:
                    values.add(b / a)
    return frozenset(v for v in values if not whole or (v >= 0 and v.denominator == 1))


@cache
def game24(whole: bool = False) -> tuple[Countdown, ...]:
    """The solvable puzzles of the Game of 24: four numbers 1 to 13, with fractions 1,362, through whole numbers from 0 on 1,346."""
    hands = combinations_with_replacement(range(1, 14), 4)
    return tuple(Countdown(hand, 24) for hand in hands if Fraction(24) in _reachable(hand, whole))


def ranked(path: str | Path, first: int, last: int) -> set[str]:
    """Canonical forms of the puzzles of ranks `first` to `last` in a CSV file with columns Rank and Puzzles ("1 1 4 6")."""
    with Path(path).open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if first <= int(row["Rank"]) <= last]
    return {Countdown(tuple(map(int, row["Puzzles"].split())), 24).canonical() for row in rows}


def countdown_validation() -> tuple[Countdown, ...]:
    """400 puzzles of four numbers 1 to 13 for choosing options: 200 of the validation split, 200 with targets never trained on."""
    seen = generate(101, 200, targets=set(range(1, 101)) - {24, 36, 50}, split="validation")
    return (*seen, *generate(102, 200, targets={36, 50}))


@cache
def countdown_hard() -> tuple[Countdown, ...]:
    """150 puzzles of four numbers 1 to 13 whose targets 36 and 50 were never trained on, with at most 4 solution paths."""
    from search.problems.countdown_paths import solution_paths

    few = [(paths, p) for p in generate(104, 700, targets={36, 50}) if (paths := solution_paths(p)) <= 4]
    ordered = [p for _, p in sorted(few, key=lambda row: row[0])]
    random.Random(1).shuffle(ordered)
    return tuple(ordered[:150])


TASKS: dict[str, Callable[[], tuple[Problem, ...]]] = {
    "game24": game24,
    "countdown-validation": countdown_validation,
    "countdown-hard": countdown_hard,
}


def identity(problem: Problem) -> str:
    """Name of a problem in results: its canonical form where it has one, else its statement."""
    canonical = getattr(problem, "canonical", None)
    return canonical() if canonical else problem.prompt(problem.initial())
