"""How the checker stands pairs made to deceive it (`number_pairs`, `form_pairs`): false accepts,
false rejects, and checks that take too long.

    python -m benchmarks.answers.adversarial --count 1000000 --seed 1

A right answer that stays undecided is no error, and is counted.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.answers.form_pairs import FORMS
from benchmarks.answers.number_pairs import NUMBERS, Pair
from guides.answers.checker import Verdict, check

log = logging.getLogger(f"copse.{__name__}")

GENERATORS = {function.__name__: function for function in (*NUMBERS, *FORMS)}
#: that a process may compute for a check; the check must end within twice as much
SECONDS = 5.0


@dataclass
class Tally:
    """What came of the pairs.

    verdicts       by generator, verdict and truth
    false_accepts  different pairs that were said to be RIGHT
    false_rejects  equal pairs that were said to be WRONG
    slow           pairs that took longer than their limit
    slowest        seconds of the slowest check
    """

    verdicts: Counter[tuple[str, Verdict, bool]] = field(default_factory=Counter)
    false_accepts: list[Pair] = field(default_factory=list)
    false_rejects: list[Pair] = field(default_factory=list)
    slow: list[Pair] = field(default_factory=list)
    slowest: float = 0.0


def drawn(count: int, seed: int) -> Iterator[tuple[str, Pair]]:
    """`count` pairs, each with the name of its generator, all generators in turn."""
    rng = random.Random(seed)
    names = list(GENERATORS)
    for place in range(count):
        name = names[place % len(names)]
        yield name, GENERATORS[name](rng)


def attack(count: int, seed: int) -> Tally:
    """Check so many pairs."""
    tally = Tally()
    for name, pair in drawn(count, seed):
        answer, target, equal = pair
        start = time.perf_counter()
        verdict = check(answer, target, seconds=SECONDS)
        spent = time.perf_counter() - start
        tally.slowest = max(tally.slowest, spent)
        tally.verdicts[name, verdict, equal] += 1
        if spent > 2 * SECONDS:
            tally.slow.append(pair)
        if verdict is Verdict.RIGHT and not equal:
            tally.false_accepts.append(pair)
        if verdict is Verdict.WRONG and equal:
            tally.false_rejects.append(pair)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100_000, help="pairs")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    start = time.perf_counter()
    tally = attack(args.count, args.seed)
    rate = args.count / (time.perf_counter() - start)
    log.info("| generator | equal: right | undecided | different: wrong | undecided |")
    log.info("|---|---|---|---|---|")
    for name in GENERATORS:
        counts = [
            tally.verdicts[name, Verdict.RIGHT, True],
            tally.verdicts[name, Verdict.UNDECIDED, True],
            tally.verdicts[name, Verdict.WRONG, False],
            tally.verdicts[name, Verdict.UNDECIDED, False],
        ]
        log.info("| %s | %s |", name, " | ".join(map(str, counts)))
    log.info(
        "%d pairs of %d generators, %.0f a second, the slowest %.2f s: %d false accepts, %d false "
        "rejects, %d beyond their limit",
        args.count, len(GENERATORS), rate, tally.slowest, len(tally.false_accepts),
        len(tally.false_rejects), len(tally.slow),
    )  # fmt: skip
    for kind in ("false_accepts", "false_rejects", "slow"):
        for pair in getattr(tally, kind)[:50]:
            log.info("%s: %r", kind, tuple(text[:200] for text in pair[:2]))


if __name__ == "__main__":
    main()
