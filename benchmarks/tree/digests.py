"""Digests of the trees that many searches grow: are they those of another state of the code?

    python -m benchmarks.tree.digests --seeds 100 --out before.csv
    python -m benchmarks.tree.digests --seeds 100 --out after.csv --against before.csv

Each method searches one problem of each task a seed with the built-in model. A digest covers the
trees of all seeds of one method on one task: steps, tokens, visits, values, priors, rewards, the
answer and what was spent. Exits 1 where a digest differs from that of `--against`. Trees depend on
the CPU, too: compare files of one machine.
"""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from functools import partial
from itertools import filterfalse
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks import tasks
from benchmarks.output import write_csv
from benchmarks.sweep.plan import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search.solution import Solution

RUNS = (
    "greedy",
    "self_consistency",
    "best_of_n",
    "weighted_vote",
    "rejection",
    "beam",
    "dvts",
    "rebase",
    "mcts",
    "mcts leaves=1 widen=2.0 c_puct=2.5",
    "mcts rule=alphazero branch=4 noise=0.25",
    "gumbel simulations=16",
)
TASKS = ("game24", "chains", "words")
FIELDS = ("task", "run", "seeds", "tokens", "digest")


def digest(solutions: Sequence[Solution]) -> str:
    """SHA-256, in hex, of all that searches found and spent but for time."""
    found = hashlib.sha256()
    for solution in solutions:
        trace = solution.trace
        spent = solution.usage
        result = {
            "answer": solution.answer,
            "stopped": solution.stopped,
            "spent": (spent.generated, spent.calls, spent.simulations),
            "steps": [(step.text, step.tokens) for step in trace.steps],
        }
        found.update(json.dumps(result, default=str).encode())
        for name, value in sorted(vars(trace).items()):
            if name.startswith(("node_", "edge_")):
                found.update(f"{name}{value.dtype}{value.shape}".encode())
                found.update(value.tobytes())
    return found.hexdigest()


def measured(seeds: int, tokens: int) -> list[dict[str, str]]:
    """A row of `FIELDS` for each method on each task."""
    import guides
    import search

    rows = []
    runs = list(map(Run.parse, RUNS))
    for task in TASKS:
        problems = tasks.TASKS[task]()[:seeds]
        for run in runs:
            solutions = search.solve_many(
                problems,
                run.guide(partial(guides.load, "builtin")),
                run.method,
                search.Budget(tokens=tokens),
                range(len(problems)),
                run.chooser,
                progress=False,
                **run.options,
            )
            row = (task, run.text, str(len(problems)), str(tokens), digest(solutions))
            rows.append(dict(zip(FIELDS, row, strict=True)))
    return rows


def main(
    out: Annotated[Path, typer.Option(help="Where the digests go.")],
    seeds: Annotated[int, typer.Option(min=1, help="Problems of each task.")] = 100,
    tokens: Annotated[int, typer.Option(min=1, help="Budget of a search.")] = 150,
    against: Annotated[Path | None, typer.Option(help="Digests to compare with.")] = None,
) -> None:
    """Write the digests of all methods, and compare them with those of another state."""
    rows = measured(seeds, tokens)
    write_csv(out, rows)
    if against is None:
        return
    with against.open(newline="") as file:
        before = list(csv.DictReader(file))
    changed = list(filterfalse(before.__contains__, rows))
    for row in changed:
        sys.stderr.write(f"{row['task']}, {row['run']}: other trees\n")
    if changed or len(rows) != len(before):
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
