"""The two axes of a run of expert iteration: every accepted checkpoint on one task, accuracy
against training and against search.

    python -m benchmarks.learning.axes run --task chains-validation --run mcts --budgets
    tokens=200,400,800,1600 --seeds 2 --out axes

Checkpoints before the run, such as the first edition, join by --before NAME=DIR; each needs a
training.json that says its own FLOPs in all. Those of a round are the base's and all that the run
had spent by then: searching, gates and rejected rounds included. Writes checkpoints.csv, a results
file for each checkpoint, and axes.png into `out`; the slopes are printed. A killed run goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import guides
from benchmarks.learning.controls import accepted
from benchmarks.output import write_csv
from benchmarks.sweep import plot
from benchmarks.sweep.plan import Limit, Run, Task, read_budgets, read_runs, task_named
from benchmarks.sweep.run import sweep
from benchmarks.tasks import TASKS
from guides.training.train import REPORT
from search.guide import Guide

log = logging.getLogger(f"copse.{__name__}")


def checkpoints(run: Path, before: Sequence[str] = ()) -> list[tuple[str, Path, float]]:
    """(name, folder, FLOPs spent until it was there), least first. Raises ValueError for what is
    not there.
    """
    found = []
    for text in before:
        name, _, folder = text.partition("=")
        found.append((name, Path(folder), _flops(Path(folder))))
    chain = accepted(run)
    base = _flops(chain[0][1])
    with (run / "rounds.csv").open(newline="") as file:
        spent = {int(row["round"]): float(row["total_flops"]) for row in csv.DictReader(file)}
    found.append(("start", chain[0][1], base))
    for number, checkpoint in chain[1:]:
        found.append((f"round {number}", checkpoint, base + spent[number]))
    return found


def _flops(folder: Path) -> float:
    try:
        return float(json.loads((folder / REPORT).read_text())["flops"])
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{folder / REPORT} does not say what the checkpoint cost ({error}): give one that "
            "was trained here"
        ) from None


def measure(
    found: Sequence[tuple[str, Path, float]],
    task: Task,
    run: Run,
    budgets: Sequence[Limit],
    seeds: int,
    out: Path,
) -> bool:
    """Sweep every checkpoint and write checkpoints.csv; False where Ctrl-C ended it."""
    table = []
    for name, folder, flops in found:
        results = f"{name.replace(' ', '-')}.csv"

        def load(folder: Path = folder, **policy: Any) -> Guide:
            return guides.load(folder, **policy)

        log.info("%s", name)
        if not sweep(task, [run], budgets, seeds, out / results, load):
            return False
        table.append({"name": name, "training": f"{flops:.6g}", "results": results})
    write_csv(out / "checkpoints.csv", table)
    return True


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a run of copse train iterate")
    parser.add_argument("--task", choices=sorted(TASKS), default="chains-validation")
    parser.add_argument("--run", default="mcts", help='method and options, as "mcts branch=8"')
    parser.add_argument("--budgets", default="tokens=200,400,800,1600")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--before", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--out", type=Path, default=Path("axes"))
    args = parser.parse_args()
    try:
        task = task_named(args.task)
        [run] = read_runs([args.run], task)
        found = checkpoints(args.folder, args.before)
        if not measure(found, task, run, read_budgets(args.budgets), args.seeds, args.out):
            raise SystemExit(130)
        measured = plot.read_checkpoints(args.out / "checkpoints.csv", run.text)
        log.info("\n%s", plot.axes(measured, args.out / "axes.png"))
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
