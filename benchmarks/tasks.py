"""Tasks: lists of problems to measure on, in a fixed order, and files of problems to train on. The
only place that may know labels.

    python -m benchmarks.tasks training --count 12000 --seed 1 > training.jsonl
    python -m benchmarks.tasks gate --count 400 > gate.jsonl
    python -m benchmarks.tasks test --only chains --size 7 --count 1000 > test.jsonl

The first is for `copse train iterate`, of the split "train", two Countdown puzzles to a chain,
because a puzzle costs a tenth of the tokens; the second is of "validation", as many of both.
`--stories` adds word problems, so many to a chain. The third has problems of one kind and one size,
of the split that it names. No problem in them is one of a task, no puzzle
has the target 24, 36 or 50. The tasks "chains" and "words" are of the split "test".
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from itertools import chain, combinations_with_replacement, islice, product
from pathlib import Path
from typing import Any

from guides.builtin import chains_key, words_key
from search.problem import Problem
from search.problems import chains, words
from search.problems.chains import Chains
from search.problems.countdown import Countdown, generate
from search.problems.words import Words


def _splits(numbers: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Every way to part `numbers` in two, neither of them empty, with the order kept."""
    for mask in range(1, 2 ** (len(numbers) - 1)):
        first = tuple(n for i, n in enumerate(numbers) if mask >> i & 1)
        second = tuple(n for i, n in enumerate(numbers) if not mask >> i & 1)
        yield first, second


@cache
def _reachable(numbers: tuple[int, ...], whole: bool) -> frozenset[Fraction]:
    """Every value that all `numbers` (sorted) can make with + - * /; `whole`: through whole
    numbers from 0 on only.
    """
    if len(numbers) == 1:
        return frozenset({Fraction(numbers[0])})
    values = set()
    for first, second in _splits(numbers):
        for a, b in product(_reachable(first, whole), _reachable(second, whole)):
            values.update((a + b, a * b, a - b, b - a))
            if b:
                values.add(a / b)
            if a:
                values.add(b / a)
    return frozenset(v for v in values if not whole or (v >= 0 and v.denominator == 1))


def _partners(a: Fraction) -> set[Fraction]:
    """Every number that makes 24 with `a` by one of + - * /, in either order."""
    found = {24 - a, a - 24, a + 24}
    if a:
        found |= {24 / a, a / 24, 24 * a}
    return found


def _makes24(hand: tuple[int, ...], whole: bool) -> bool:
    """Whether 24 is among the `_reachable` values of a hand, without the others: the last
    operation of most hands has a thousand results.
    """
    for first, second in _splits(hand):
        few, many = sorted((_reachable(first, whole), _reachable(second, whole)), key=len)
        if any(not many.isdisjoint(_partners(a)) for a in few):
            return True
    return False


@cache
def game24(whole: bool = False) -> tuple[Countdown, ...]:
    """The solvable puzzles of the Game of 24: four numbers 1 to 13, with fractions 1,362,
    through whole numbers from 0 on 1,346.
    """
    hands = combinations_with_replacement(range(1, 14), 4)
    return tuple(Countdown(hand, 24) for hand in hands if _makes24(hand, whole))


def ranked(path: str | Path, first: int, last: int) -> set[str]:
    """Canonical forms of the puzzles of ranks `first` to `last` in a CSV file with columns Rank
    and Puzzles ("1 1 4 6").
    """
    with Path(path).open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if first <= int(row["Rank"]) <= last]
    return {Countdown(tuple(map(int, row["Puzzles"].split())), 24).canonical() for row in rows}


@cache
def countdown_validation() -> tuple[Countdown, ...]:
    """400 puzzles of four numbers 1 to 13 for choosing options: 200 of the validation split, 200
    with targets never trained on.
    """
    seen = generate(101, 200, targets=set(range(1, 101)) - {24, 36, 50}, split="validation")
    return (*seen, *generate(102, 200, targets={36, 50}))


@cache
def countdown_hard() -> tuple[Countdown, ...]:
    """150 puzzles of four numbers 1 to 13 whose targets 36 and 50 were never trained on, with at
    most 4 solution paths.
    """
    from guides.builtin.countdown_data import solution_paths

    few: list[list[Countdown]] = [[], [], [], [], []]  # by the number of their paths
    for puzzle in generate(104, 700, targets={36, 50}):
        paths = solution_paths(puzzle)
        if paths <= 4:
            few[paths].append(puzzle)
    ordered = list(chain.from_iterable(few))
    random.Random(1).shuffle(ordered)
    return tuple(ordered[:150])


#: of the chains that methods are compared on: more than half of one model's single samples go wrong
#: there
OPERATIONS = 7
#: operations of the chains that are trained on; the generator's own paths have up to 6
SIZES = (5, 6, 7)
STORIES = (3, 4, 5)  #: operations of the word problems of tasks and files
UNSEEN = frozenset({24, 36, 50})  #: targets that no problem of a file for training has


@cache
def chains_test() -> tuple[Chains, ...]:
    """300 chains of `OPERATIONS` operations of the test split."""
    return tuple(chains.generate(201, 300, OPERATIONS, 2, split="test"))


@cache
def chains_short() -> tuple[Chains, ...]:
    """200 chains of 5 operations of the test split, for the small generator of
    `benchmarks.verifiers.train`.
    """
    return tuple(chains.generate(203, 200, 5, 2, split="test"))


@cache
def chains_validation() -> tuple[Chains, ...]:
    """200 chains of `OPERATIONS` operations of the validation split, for choosing options."""
    return tuple(chains.generate(202, 200, OPERATIONS, 2, split="validation"))


@cache
def words_test() -> tuple[Words, ...]:
    """300 word problems of the test split, a third of each of `STORIES`."""
    return _stories(300, 100, "test")


@cache
def words_validation() -> tuple[Words, ...]:
    """210 word problems of the validation split, a third of each of `STORIES`, for choosing
    options.
    """
    return _stories(310, 70, "validation")


def _stories(seed: int, count: int, split: str) -> tuple[Words, ...]:
    """`count` word problems of each of `STORIES`."""
    problems: list[Words] = []
    for size in STORIES:
        problems += words.generate(seed + size, count, size, 2, split=split)
    return tuple(problems)


TASKS: dict[str, Callable[[], tuple[Problem, ...]]] = {
    "game24": game24,
    "countdown-validation": countdown_validation,
    "countdown-hard": countdown_hard,
    "chains": chains_test,
    "chains-short": chains_short,
    "chains-validation": chains_validation,
    "words": words_test,
    "words-validation": words_validation,
}


def target_of(problem: Problem) -> str | None:
    """The right answer; None where the problem verifies itself, or has no target."""
    if isinstance(problem, Words):
        return words_key.target(problem)
    return chains_key.target(problem) if isinstance(problem, Chains) else None


def steps_right(problem: Problem, steps: Sequence[Any]) -> bool | None:
    """Whether every step of a chain of thought is right; None where nobody knows."""
    wrong = None
    if isinstance(problem, Chains):
        wrong = chains_key.mistakes(problem, tuple(steps))
    elif isinstance(problem, Words):
        wrong = words_key.mistakes(problem, tuple(steps))
    return None if wrong is None else not any(wrong)


def state_right(problem: Problem, state: Sequence[Any]) -> float | None:
    """Is a chain without mistake so far, can a puzzle's target still be reached through whole
    numbers? 1.0 or 0.0; None: not known.

    As a checker: copse train iterate --checker benchmarks.tasks:state_right ...
    """
    if not isinstance(problem, Countdown):
        right = steps_right(problem, state)
        return None if right is None else float(right)
    left = problem.left(tuple(state))
    if any(number < 0 or number.denominator > 1 for number in left):
        return None
    return float(Fraction(problem.target) in _reachable(left, True))


def identity(problem: Problem) -> str:
    """Name of a problem in results: its canonical form where it has one, else its statement."""
    canonical = getattr(problem, "canonical", None)
    return canonical() if canonical else problem.prompt(problem.initial())


def training(
    seed: int, split: str = "train", puzzles_each: int = 2, stories_each: int = 0
) -> Iterator[Problem]:
    """`puzzles_each` Countdown puzzles of four numbers up to 13, a chain of one of the `SIZES`,
    `stories_each` word problems of one of `STORIES`, and again, without end, none twice.
    """
    targets = set(range(1, 101)) - UNSEEN
    puzzles = generate(seed, sys.maxsize, targets=targets, split=split)
    sizes = [chains.generate(seed + size, sys.maxsize, size, 2, split=split) for size in SIZES]
    stories = [words.generate(seed + size, sys.maxsize, size, 2, split=split) for size in STORIES]
    while True:
        for size, story in zip(sizes, stories, strict=True):
            yield from islice(puzzles, puzzles_each)
            yield next(size)
            yield from islice(story, stories_each)


#: generators of the kinds whose problems have a number of operations
MAKERS: dict[str, Callable[..., Iterator[Problem]]] = {
    "chains": chains.generate,
    "words": words.generate,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", choices=["training", "gate", "test"])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--stories", type=int, default=0, metavar="N", help="word problems to a chain"
    )
    parser.add_argument(
        "--only",
        choices=["countdown", *MAKERS],
        help="problems of this kind alone, of --size operations or numbers; tests of countdown "
        "have targets that training never has",
    )
    parser.add_argument("--size", type=int, metavar="N")
    args = parser.parse_args()
    split = {"training": "train", "gate": "validation"}.get(args.file, args.file)
    if args.only == "countdown":
        targets = set(range(1, 101)) - UNSEEN
        if args.file == "test":  # all of these targets are unseen, whatever their split
            targets = UNSEEN
            split = None
        problems = generate(args.seed, sys.maxsize, args.size or 4, targets=targets, split=split)
    elif args.only:
        size = args.size or OPERATIONS
        problems = MAKERS[args.only](args.seed, sys.maxsize, size, 2, split=split)
    else:
        puzzles = 2 if args.file == "training" else 1
        problems = training(args.seed, split, puzzles, args.stories)
    measured: set[str] = set()
    for task in TASKS.values():
        measured.update(map(identity, task()))
    problems = (problem for problem in problems if identity(problem) not in measured)
    for number, problem in enumerate(islice(problems, args.count)):
        kind = type(problem).__module__.rpartition(".")[2]
        row = {"id": number, "kind": kind, "problem": problem.to_json()}
        target = target_of(problem)
        sys.stdout.write(json.dumps(row if target is None else {**row, "target": target}) + "\n")


if __name__ == "__main__":
    main()
