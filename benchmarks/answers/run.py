"""How fast answers are checked, in which way, and how often that errs: plain numbers, grade-school
answers, competition mathematics.

python -m benchmarks.answers.run
python -m benchmarks.answers.run --gsm8k gsm8k_test.jsonl

Mathematics is measured on two processes after warm-up: each target against another writing of it,
and against the next target, which is another answer. A RIGHT for the latter would be a false
accept.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import logging
import random
import time
from operator import itemgetter
from pathlib import Path

from benchmarks.answers.math_pairs import writings
from guides.answers.checker import Verdict, check, examine

log = logging.getLogger(f"copse.{__name__}")

Pair = tuple[str, str, Verdict]  #: answer, target, and what is true: RIGHT or WRONG

RIGHT_FORMS = (
    "{}",
    "${}",
    "{} dollars",
    "The answer is {}.",
    "\\boxed{{{}}}",
    "{}.00",
    "#### {}",
    "**{}**",
    "x = {}",
    "{} apples.",
)


def plain(count: int, seed: int = 0) -> list[Pair]:
    """Pairs of whole numbers and decimals, half of them equal."""
    rng = random.Random(seed)
    pairs: list[Pair] = []
    for i in range(count):
        number = f"{rng.randrange(10**6)}" if i % 3 else f"{rng.randrange(10**6) / 100:.2f}"
        if i % 2:
            pairs.append((number, number, Verdict.RIGHT))
        else:
            pairs.append((number, f"{rng.randrange(10**6, 10**7)}", Verdict.WRONG))
    return pairs


def school(targets: list[str]) -> list[Pair]:
    """Each target in ten writings, and one more than each."""
    right: list[Pair] = []
    wrong: list[Pair] = []
    for target, form in itertools.product(targets, RIGHT_FORMS):
        more = int(target.replace(",", "")) + 1
        right.append((form.format(target), target, Verdict.RIGHT))
        wrong.append((form.format(more), target, Verdict.WRONG))
    return right + wrong


def gsm8k(path: Path) -> list[str]:
    """The targets of a file with lines {"answer": "... #### 18"}."""
    targets = []
    for line in path.read_text().splitlines():
        if line.strip():
            answer = json.loads(line)["answer"]
            targets.append(answer.rsplit("####", 1)[1].strip())
    return targets


def mathematics() -> list[Pair]:
    """Our list: each target against its other writing, and its neighbour's."""
    rows = writings()
    right = [(other, target, Verdict.RIGHT) for target, other in rows]
    return right + [(rows[i - 1][1], target, Verdict.WRONG) for i, (target, _) in enumerate(rows)]


def relations(count: int) -> list[Pair]:
    """Inequalities in two letters and sets with single points, which our grammar leaves to
    math-verify, equal and not.
    """
    pairs: list[Pair] = []
    for k in range(2, 2 + count):
        pairs.append((f"{k}x+y \\le 1", f"1 \\ge y+{k}x", Verdict.RIGHT))
        pairs.append((f"\\{{{k}\\}} \\cup (0,1)", f"(0,1) \\cup \\{{{k}\\}}", Verdict.RIGHT))
        pairs.append((f"y^2+x^2 < {k}", f"x^2+y^2 < {k}", Verdict.RIGHT))
        pairs.append((f"\\{{{k}\\}} \\cup (0,1)", f"(0,1) \\cup \\{{{k + 1}\\}}", Verdict.WRONG))
    return pairs


def warm() -> None:
    """Start the processes, with pairs that are not measured."""
    pairs = []
    for i in range(101, 109):
        pairs.append((f"x<{i}", f"(-\\infty,{i})"))
        pairs.append((rf"\ln {i * i}", rf"2\ln {i}"))
    examine(pairs, seconds=60)


def measure(name: str, pairs: list[Pair]) -> dict[str, float]:
    """Checks a second, the share of each way in per cent, false accepts, and what was left
    undecided or falsely rejected.
    """
    start = time.perf_counter()
    examined = examine(list(map(itemgetter(0, 1), pairs)))
    rate = len(pairs) / (time.perf_counter() - start)
    ways: collections.Counter[str] = collections.Counter()
    counts: collections.Counter[tuple[Verdict, Verdict]] = collections.Counter()
    right = 0  # pairs that are equal
    for (answer, target, truth), (verdict, way) in zip(pairs, examined, strict=True):
        ways[way] += 1
        counts[verdict, truth] += 1
        right += truth is Verdict.RIGHT
        accepted = verdict is Verdict.RIGHT
        if accepted != (truth is Verdict.RIGHT):
            log.debug("    %s by %s: %r for %r", verdict.name, way, answer, target)
    shares = ", ".join(
        f"{way} {100 * count / len(pairs):.1f} %" for way, count in ways.most_common()
    )
    log.info("%s: %d pairs, %.0f checks a second; %s", name, len(pairs), rate, shares)
    log.info(
        "    false accepts %d of %d; of %d equal ones %d right, %d undecided, %d falsely "
            "rejected; %d of the others undecided",
        counts[Verdict.RIGHT, Verdict.WRONG], len(pairs) - right, right,
        counts[Verdict.RIGHT, Verdict.RIGHT],
        counts[Verdict.UNDECIDED, Verdict.RIGHT], counts[Verdict.WRONG, Verdict.RIGHT],
        counts[Verdict.UNDECIDED, Verdict.WRONG],
    )  # fmt: skip
    return {
        "rate": rate,
        "false accepts": counts[Verdict.RIGHT, Verdict.WRONG],
        **{way: count / len(pairs) for way, count in ways.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--gsm8k",
        type=Path,
        help='file of JSON lines with an "answer" that ends with #### and the target',
    )
    parser.add_argument("--plain", type=int, default=200_000, help="pairs of plain numbers")
    parser.add_argument(
        "--verbose", action="store_true", help="name what was not right of the equal ones"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.DEBUG if args.verbose else logging.INFO, format="%(message)s")
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    numbers = plain(args.plain)
    start = time.perf_counter()
    for answer, target, _ in numbers:
        check(answer, target)
    log.info(
        "plain numbers, one after another: %.0f checks a second",
        len(numbers) / (time.perf_counter() - start),
    )
    measure("plain numbers", numbers)
    if args.gsm8k:
        targets = gsm8k(args.gsm8k)
    else:
        targets = list(map("{:,}".format, range(1, 20_000, 15)))
    measure("grade school", school(targets))
    warm()
    measure("mathematics", mathematics())
    measure("what only math-verify reads", relations(40))


if __name__ == "__main__":
    main()
