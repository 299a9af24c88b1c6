"""Easy arithmetic stories in plain English, for language models that are small but not ours: one or
two operations on numbers up to 20, or fewer and smaller ones.

    python -m benchmarks.learning.easy_stories --count 2000 --seed 1 > train.jsonl
    python -m benchmarks.learning.easy_stories --count 1000 --seed 2 --held > test.jsonl

A line is a problem and its target. The names in the stories of `--held` are others, and no story
has a pair of first numbers that occurs in those without it, so nothing can be known by heart.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "Jack")
HELD_NAMES = ("Karl", "Lucy", "Martin", "Nora", "Oscar", "Paula", "Quinn", "Rosa", "Simon", "Tina")
THINGS = ("apples", "books", "coins", "eggs", "flowers", "marbles", "pencils", "shells", "stamps")
LARGEST = 20
OPERATIONS = 2
HELD = 4  #: of so many pairs of first numbers one is held


@dataclass(frozen=True)
class Turn:
    """What happens, with {name}, {other} and {n}; sign: 1 where n more are there then, -1 where n
    are gone.
    """

    text: str
    sign: int


TURNS = (
    Turn("{name} gets {n} more from {other}.", 1),
    Turn("{name} finds {n} more.", 1),
    Turn("{name} buys {n} more.", 1),
    Turn("{name} gives {n} to {other}.", -1),
    Turn("{name} loses {n} of them.", -1),
    Turn("{name} sells {n} of them.", -1),
)


def stories(
    seed: int, *, held: bool = False, largest: int = LARGEST, operations: int = OPERATIONS
) -> Iterator[tuple[str, str]]:
    """(problem, target), without end, none twice. The same seed gives the same stories.

    largest     number in a story;  operations: at most
    """
    rng = random.Random(f"{seed} {held}")
    seen = set()
    while True:
        names = HELD_NAMES if held else NAMES
        text, answer, first = _story(rng, names, largest, operations)
        if text in seen or held != _is_held(*first):
            continue
        seen.add(text)
        yield text, str(answer)


def _is_held(a: int, b: int) -> bool:
    return zlib.crc32(f"{a} {b}".encode()) % HELD == 0


def _story(
    rng: random.Random, names: tuple[str, ...], largest: int, operations: int
) -> tuple[str, int, tuple[int, int]]:
    """A story, its answer and its first two numbers. No number falls below 0."""
    name, other = rng.sample(names, 2)
    things = rng.choice(THINGS)
    number = rng.randint(2, largest)
    lines = [f"{name} has {number} {things}."]
    first = number
    second = 0
    for place in range(rng.randint(1, operations)):
        turn = rng.choice(TURNS)
        most = largest if turn.sign > 0 else number
        n = rng.randint(1, max(1, most))
        if place == 0:
            second = n
        if turn.sign < 0 and n > number:  # nothing is left
            turn = TURNS[0]
        number += turn.sign * n
        lines.append(turn.text.format(name=name, other=other, n=n))
    lines.append(f"How many {things} does {name} have now?")
    return " ".join(lines), number, (first, second)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--held", action="store_true", help="for the gate and for tests")
    parser.add_argument("--largest", type=int, default=LARGEST, help="number in a story")
    parser.add_argument("--operations", type=int, default=OPERATIONS, help="at most")
    args = parser.parse_args()
    if args.largest < 3 or args.operations < 1:
        parser.error("a story has numbers up to 3 or more, and one operation at least")
    made = stories(args.seed, held=args.held, largest=args.largest, operations=args.operations)
    for number, (text, target) in zip(range(args.count), made, strict=False):
        row = {"id": number, "problem": text, "target": target}
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
