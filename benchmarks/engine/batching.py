"""What batching buys, and what it changes: searches side by side against one after another; trees
under few slots; a small pool.

python -m benchmarks.engine.batching speed --problems 64
python -m benchmarks.engine.batching trees --problems 1000
python -m benchmarks.engine.batching pool --problems 256
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Sequence
from operator import attrgetter, ne
from typing import Any

import guides
import search
from benchmarks.tasks import game24

log = logging.getLogger(f"copse.{__name__}")


def speed(checkpoint: str, count: int, rounds: int, tokens: int) -> None:
    """`solve_many` against `solve` in a loop: generated tokens a second, interleaved, medians of
    `rounds`; rows a pass and slot use.
    """
    guide = guides.load(checkpoint)
    problems = game24()[-count:]
    budget = search.Budget(tokens=tokens)
    rates: dict[str, list[float]] = {"side by side": [], "one after another": []}
    used = search.Usage()
    for seed in range(rounds):
        start = time.perf_counter()
        together = search.solve_many(problems, guide, budget=budget, seed=seed, progress=False)
        seconds = time.perf_counter() - start
        used = _spent(together)
        rates["side by side"].append(used.generated / seconds)
        start = time.perf_counter()
        alone = [search.solve(problem, guide, budget=budget, seed=seed) for problem in problems]
        seconds = time.perf_counter() - start
        rates["one after another"].append(_spent(alone).generated / seconds)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    log.info(
        "tokens a second: %s; ratio %.1f",
        medians,
        medians["side by side"] / medians["one after another"],
    )
    log.info(
        "side by side: %.1f rows a pass, slot use %.0f %%", used.mean_rows, 100 * used.slot_use
    )


def _spent(solutions: Sequence[search.Solution]) -> search.Usage:
    """What all searches have spent."""
    whole = search.Usage()
    for solution in solutions:
        whole += solution.usage
    return whole


def _contents(solutions: Sequence[search.Solution]) -> list[tuple[Any, bytes]]:
    """What is compared of the tree of each search: the steps and the numbers of its edges."""
    trees = filter(None, map(attrgetter("tree"), solutions))
    return [(tree.steps, tree.edges.tobytes()) for tree in trees]


def _differing(one: Sequence[Any], other: Sequence[Any]) -> int:
    return sum(map(ne, one, other))


def trees(checkpoint: str, count: int, tokens: int) -> None:
    """Same seed, same tree: how many of `count` searches grow another tree with 1 or 16 slots
    than with 64.
    """
    problems = game24()[-count:]
    grown = {}
    for slots in (64, 16, 1):
        guide = guides.load(checkpoint, slots=slots)
        solutions = search.solve_many(
            problems, guide, budget=search.Budget(tokens=tokens), progress=True
        )
        grown[slots] = _contents(solutions)
    for slots in (16, 1):
        differing = _differing(grown[slots], grown[64])
        log.info("%d slots against 64: %d of %d trees differ", slots, differing, count)


def pool(checkpoint: str, count: int, tokens: int) -> None:
    """How many of `count` searches grow another tree in a pool of a tenth of the tokens that
    they store, and how much slower.
    """
    problems = game24()[-count:]
    grown = []
    wanted = None  # tokens of the pool; the default first
    for _ in range(2):
        guide = guides.load(checkpoint, pool_tokens=wanted)
        engine = next(iter(guide.backends.values()))
        start = time.perf_counter()
        solutions = search.solve_many(
            problems, guide, budget=search.Budget(tokens=tokens), progress=False
        )
        seconds = time.perf_counter() - start
        grown.append(_contents(solutions))
        log.info("a pool of %d tokens: %.1f s; %s", engine.pool_tokens, seconds, engine.report())
        wanted = engine.counts.peak // 10
    log.info("%d of %d trees differ", _differing(*grown), count)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("speed", "trees", "pool"))
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--guide", default="builtin")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    if args.what == "speed":
        speed(args.guide, args.problems, args.rounds, args.tokens)
    elif args.what == "pool":
        pool(args.guide, args.problems, args.tokens)
    else:
        trees(args.guide, args.problems, args.tokens)


if __name__ == "__main__":
    main()
