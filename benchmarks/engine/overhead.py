"""What the engine costs beside its forward passes, while requests of random lengths come and go."""

from __future__ import annotations

import statistics
import time
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np

from benchmarks.engine.workloads import VOCABULARY, tokenizer
from models import Engine
from search.scheduling.requests import Generate, Reply, Usage

# what of the engine's passes is the model: transformer and output layer
PASSES = ("forward", "logits")


class Inside:
    """Adds up the CPU seconds spent in an engine's forward passes."""

    def __init__(self, engine: Engine):
        self.seconds = 0.0
        for name in PASSES:
            setattr(engine._pass, name, self._timed(getattr(engine._pass, name)))

    def _timed(self, inner: Any) -> Any:
        def timed(*args: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return inner(*args, **options)
            finally:
                self.seconds += time.process_time() - start

        return timed


def requests(count: int, seed: int) -> list[Generate]:
    """Below few stems, as those of searches are; 4 to 40 tokens."""
    rng = np.random.default_rng(seed)
    stems = [tuple(rng.integers(1, VOCABULARY, 40).tolist()) for _ in range(max(1, count // 16))]
    return [
        Generate(stems[i % len(stems)], max_tokens=int(rng.integers(4, 41)), seed=i)
        for i in range(count)
    ]


def churned(model: Any, slots: int, count: int, rounds: int) -> dict[str, Any]:
    """Medians of `rounds` runs of `count` requests, the last quarter of which is not timed, since
    slots run empty then.

    all, outside  microseconds of the CPU in `submit` and `poll` a row of a pass, and those of them
                  outside the forward
    outside_pass  the latter a pass
    rows          of a pass, mean;  slot_use: in [0, 1], of the whole run
    """
    engine = Engine(model, tokenizer(), slots=slots)
    inside = Inside(engine)
    found = []
    for seed in range(rounds + 1):
        engine.clear()
        asked = requests(count, seed)
        replies: list[Reply] = []
        inside.seconds = 0.0
        rows_before = engine.counts.rows
        passes_before = engine.counts.passes
        start = time.process_time()
        for request in asked:
            engine.submit(request)
        while len(replies) < count * 3 // 4:
            replies += engine.poll(0)
        whole = time.process_time() - start
        rows = engine.counts.rows - rows_before
        passes = engine.counts.passes - passes_before
        outside = whole - inside.seconds
        found.append(
            {
                "rows": rows / passes,
                "all": 1e6 * whole / rows,
                "outside": 1e6 * outside / rows,
                "outside_pass": 1e6 * outside / passes,
            }
        )
        while len(replies) < count:
            replies += engine.poll(0)
        used = sum(map(attrgetter("usage"), replies), Usage())
    about: dict[str, Any] = {"slots": slots, "requests": count, "slot_use": used.slot_use}
    for name in found[0]:
        about[name] = statistics.median(map(itemgetter(name), found[1:]))
    return about
