"""Searches on a Ray cluster: problems go out in batches to actors, each with an engine of its own.

Needs ray (`pip install "copse-search[ray]"`). A search is the same on any actor as here (on a CPU
to the last bit). Where an actor dies, Ray starts another and its batch is searched again.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from search.guide import Guide
from search.problem import Problem
from search.solution import Solution
from search.solver import solve_many

log = logging.getLogger(f"copse.{__name__}")

BATCH = 32  #: problems that an actor has at once


class Searcher:
    """What an actor is: an engine, and batches of problems for it."""

    def __init__(self, load: Callable[[], Guide], arguments: Mapping[str, Any]):
        self._guide = load()
        self._arguments = arguments

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        problems = list(map(pickle.loads, batch["problem"]))
        seeds = list(map(int, batch["seed"]))
        found = solve_many(problems, self._guide, seed=seeds, progress=False, **self._arguments)
        return {"index": batch["index"], "solution": [_packed(one) for one in found]}


def solve_on_ray(
    problems: Sequence[Problem],
    load: Callable[[], Guide],
    seeds: Sequence[int],
    workers: int,
    on_finish: Callable[[int, Solution], None],
    **arguments: Any,
) -> None:
    """Search all problems on `workers` actors of the Ray cluster that RAY_ADDRESS names, else on
    one that is started here.

    load       makes the guide in an actor; it crosses by pickle, as the problems do
    on_finish  called here with (index, solution) as batches come back; the solution has its trace
               and no tree
    arguments  of `solve_many`

    An actor takes one core, and one GPU where the cluster has any. Raises ValueError where ray is
    missing, and what a search raised that failed as a whole.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise ValueError('--ray needs ray: pip install "copse-search[ray]"') from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    resources: dict[str, float] = ray.cluster_resources()
    gpus = 1 if resources.get("GPU") else 0
    batch = max(1, min(BATCH, len(problems) // (2 * workers)))
    rows = [
        {"index": index, "problem": pickle.dumps(problem), "seed": seed}
        for index, (problem, seed) in enumerate(zip(problems, seeds, strict=True))
    ]
    blocks = -(-len(rows) // batch)
    found = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        Searcher,
        fn_constructor_args=(load, dict(arguments)),
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=gpus,
    )
    for row in found.iter_rows():
        on_finish(int(row["index"]), pickle.loads(row["solution"]))


def _packed(solution: Solution) -> bytes:
    return pickle.dumps(replace(solution, tree=None))
