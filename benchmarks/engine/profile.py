"""Where the time of a search goes: the model's passes, the rest of the engine, the guide, the tree
and its kernels, scheduling.

python -m benchmarks.engine.profile --problems 64
"""

from __future__ import annotations

import argparse
import cProfile
import logging
import pstats
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import guides
import search
from benchmarks.tasks import game24

log = logging.getLogger(f"copse.{__name__}")

HERE = Path(__file__).resolve().parent.parent.parent
PARTS = {  # of a file's path below the project
    "search/scheduling/scheduler.py": "scheduling",
    "search/scheduling/driver.py": "scheduling",
    "search/scheduling/budget.py": "scheduling",
    "search/scheduling/requests.py": "scheduling",
    "search/tree/tree.py": "tree",
    "search/tree/storage.py": "tree",
    "search/tree/subtree_kernels.py": "tree",
    "search/tree/descent_kernels.py": "kernels",
    "search/tree/batch_kernels.py": "kernels",
    "search/tree/selection.py": "tree",
    "search/kernels/jit.py": "kernels",
    "search/methods": "method",
    "search/problems": "problem",
    "search/problem.py": "problem",
    "guides": "guide",
    "models": "engine outside its passes",
}


def share(checkpoint: str, count: int, rounds: int, tokens: int, method: str) -> None:
    """Wall time of `solve_many`, and of it that of the model's forward pass and output layer,
    medians of `rounds`.
    """
    guide = guides.load(checkpoint)
    problems = game24()[-count:]
    engine = next(iter(guide.backends.values()))
    spent = _Timer()
    engines = _Timer()
    spent.watch(engine._pass, "forward")
    spent.watch(engine._pass, "logits")
    engines.watch(engine, "poll")
    engines.watch(engine, "submit")
    shares = []  # of the wall time, outside the model
    rest = []  # of it, outside the engine
    for seed in range(rounds + 1):
        spent.seconds = engines.seconds = 0.0
        start = time.perf_counter()
        found = search.solve_many(
            problems, guide, method, search.Budget(tokens=tokens), seed, progress=False
        )
        wall = time.perf_counter() - start
        if seed:  # the first warms up
            shares.append(1 - spent.seconds / wall)
            rest.append(1 - engines.seconds / wall)
            done = sum(s.usage.simulations for s in found)
            log.info(
                "seed %d: %.2f s, %d simulations, %.1f %% outside the model",
                seed,
                wall,
                done,
                100 * shares[-1],
            )
    log.info(
        "median: %.1f %% of the wall time outside the model, %.1f %% outside the engine (method, "
        "tree, guide, scheduling)",
        100 * statistics.median_high(shares),
        100 * statistics.median_high(rest),
    )
    profile = cProfile.Profile()
    profile.runcall(
        search.solve_many, problems, guide, method, search.Budget(tokens=tokens), 1, progress=False
    )
    parts = _parts(pstats.Stats(profile))
    for part, (seconds, calls) in sorted(parts.items(), key=lambda item: -item[1][0]):
        log.info("%6.2f s %9d calls  %s", seconds, calls, part)


class _Timer:
    """Adds up the time spent in watched methods."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def watch(self, owner: Any, name: str) -> None:
        inner = getattr(owner, name)

        def timed(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return inner(*args, **options)
            finally:
                self.seconds += time.perf_counter() - start

        setattr(owner, name, timed)


def _parts(stats: pstats.Stats) -> dict[str, tuple[float, int]]:
    """Own time and calls by part; what a library spends counts for the part of ours that called
    it directly, else for the model.
    """
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for (path, _, _), (_, calls, own, _, callers) in stats.stats.items():  # type: ignore[attr-defined]
        part = _part(path)
        if part is not None or not callers:
            found[part or "libraries"][0] += own
            found[part or "libraries"][1] += calls
            continue
        for (caller, _, _), (_, times, mine, _) in callers.items():
            label = _part(caller) or "the model and its libraries"
            found[label][0] += mine
            found[label][1] += times
    return {part: (seconds, int(calls)) for part, (seconds, calls) in found.items()}


def _part(path: str) -> str | None:
    if path == "~":  # built in
        return None
    try:
        inside = Path(path).resolve().relative_to(HERE).as_posix()
    except ValueError:
        return None
    for start, part in PARTS.items():
        if inside.startswith(start):
            return part
    return "rest of search"


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--method", default="mcts")
    parser.add_argument("--checkpoint", default="builtin")
    given = parser.parse_args()
    share(given.checkpoint, given.problems, given.rounds, given.tokens, given.method)


if __name__ == "__main__":
    main()
