"""Ways to learn from problems with outcomes, side by side: the same start, the same problems, the
same floating-point operations.

    python -m benchmarks.tasks training --only chains --size 8 --count 8000 --seed 5 > train8.jsonl
    python -m benchmarks.tasks gate --only chains --size 8 --count 50 --seed 6 > gate8.jsonl
    python -m benchmarks.tasks test --only chains --size 8 --count 1000 --seed 7 > test8.jsonl
    python -m benchmarks.learning.compare --guide builtin --input train8.jsonl --gate gate8.jsonl
    --test test8.jsonl --arms "rl,rl reward=random,rest_em,paths" --flops 5e12 --out compared

An arm is a name and options (`benchmarks.learning.arms`). Each arm is trained once a seed, round by
round, until another round would bring it further from `--flops` than it is; its last checkpoint is
measured, not its best. Everything counts: sampling, gate and training.

Every checkpoint has one pool of samples of the test problems. The table says pass@1 with a
bootstrap over problems and seeds, pass@k of half the pool, and the differences to the start and to
the first arm, paired by problem. A run that was killed goes on; two processes may share a folder if
their arms differ.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import guides
from benchmarks.learning.arms import Data, Spent, read_arms
from benchmarks.output import row as row_of
from benchmarks.output import table, write_csv
from benchmarks.sweep import statistics
from benchmarks.sweep.plan import Task, task_of_file
from benchmarks.verifiers.samples import sample
from guides.data.grading import read_targets
from guides.engines import unload
from guides.iteration.run_folder import write_json
from search.files.atomic import atomic
from search.files.problems_file import read_jobs

log = logging.getLogger(f"copse.{__name__}")

AT_ONCE = 250  #: problems that are sampled between two writes of a pool


def passed(pool: np.ndarray, k: int) -> np.ndarray:
    """pass@k of each problem, in per cent. float64 [problems]

    pool  bool [problems, samples]: which are right
    """
    samples = pool.shape[1]
    counts = pool.sum(1).tolist()
    return np.array([100 * statistics.pass_at_k(samples, count, k) for count in counts])


def pool_of(
    checkpoint: Path | str, task: Task, samples: int, temperature: float, folder: Path, slots: int
) -> np.ndarray:
    """Which of a checkpoint's samples of each test problem are right, from a file of `folder` that
    has a line a problem, or sampled into it. bool [problems, samples]
    """
    name = f"pool-{task.name}-{samples}"
    if temperature != 1:
        name += f"-temperature-{temperature}"
    path = folder / f"{name}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    done = {}
    for line in lines:
        row = json.loads(line)
        done[row["id"]] = row["right"]
    waiting = [name for name in task.problems if name not in done]
    for start in range(0, len(waiting), AT_ONCE):
        names = waiting[start : start + AT_ONCE]
        problems = {name: task.problems[name] for name in names}
        guide = guides.load(checkpoint, slots=slots, temperature=temperature)
        for name, found in sample(replace(task, problems=problems), guide, samples).items():
            done[name] = [one.right for one in found[:samples]]
            lines.append(json.dumps({"id": name, "right": done[name]}))
        with atomic(path) as part:
            part.write_text("\n".join(lines) + "\n")
    if waiting:
        unload(checkpoint)
    return np.array([done[name] for name in task.problems], bool)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--guide", default="builtin", help="the start")
    parser.add_argument("--input", type=Path, required=True, help="problems with targets")
    parser.add_argument("--gate", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--arms", required=True, help='names with options, "rl kl=0.1,rest_em"')
    parser.add_argument("--seeds", default="0,1,2", help="of training")
    parser.add_argument("--flops", type=float, required=True, help="of each arm, in all")
    parser.add_argument("--samples", type=int, default=4, help="of each test problem")
    parser.add_argument("--temperature", type=float, default=1.0, help="of these; 0: greedy")
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path("compared"))
    args = parser.parse_args()
    try:
        jobs = read_jobs(args.input)
        gate = read_jobs(args.gate)
        targets = {**read_targets(args.input), **read_targets(args.gate)}
        task = task_of_file(args.test)
        seeds = list(map(int, args.seeds.split(",")))
        arms = read_arms(args.arms)
        measured: dict[str, list[np.ndarray]] = {}
        spent: dict[str, list[Spent]] = {}
        start = args.out / "start"
        start.mkdir(parents=True, exist_ok=True)

        def pool(checkpoint: Path | str, folder: Path) -> np.ndarray:
            return pool_of(checkpoint, task, args.samples, args.temperature, folder, args.slots)

        measured["start"] = [pool(args.guide, start)]
        for arm in arms:
            for seed in seeds:
                data = Data(args.guide, jobs, gate, targets, args.slots, args.flops)
                folder = args.out / arm.folder / f"seed-{seed}"
                log.info("%s, seed %d", arm.text, seed)
                checkpoint, cost = _timed(arm, data, seed, folder, args.out)
                measured.setdefault(arm.text, []).append(pool(checkpoint, folder))
                spent.setdefault(arm.text, []).append(cost)
                said = report(measured, spent, args.out / f"{arms[0].folder}.csv")
                log.info("\n%s", said)
    except (ValueError, OSError) as error:
        parser.error(str(error))


def _timed(arm: Any, data: Data, seed: int, folder: Path, root: Path) -> tuple[Path, Spent]:
    """The last checkpoint of an arm and what it cost, with the seconds of all starts so far."""
    clock = folder / "seconds.json"
    before = json.loads(clock.read_text())["seconds"] if clock.exists() else 0.0
    begun = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        checkpoint, cost = arm.train(data, seed, folder, root)
    finally:
        write_json(clock, {"seconds": before + time.monotonic() - begun})
    return checkpoint, cost._replace(seconds=json.loads(clock.read_text())["seconds"])


def report(
    measured: Mapping[str, Sequence[np.ndarray]], spent: Mapping[str, Sequence[Spent]], path: Path
) -> str:
    """Markdown, a line an arm; the same as CSV into `path`."""
    half = max(1, measured["start"][0].shape[1] // 2)
    start = passed(measured["start"][0], 1)[:, None]
    first = next(iter(spent))
    reference = np.stack([passed(pool, 1) for pool in measured[first]], 1)
    rows = []
    for name, pools in measured.items():
        single = np.stack([passed(pool, 1) for pool in pools], 1)
        several = np.stack([passed(pool, half) for pool in pools], 1)
        row = {
            "arm": name,
            "seeds": len(pools),
            "pass@1": _interval(single),
            f"pass@{half}": _interval(several),
            "over start": "",
            f"over {first}": "",
        }
        if name != "start":
            row["over start"] = _interval(single - start, signed=True)
        if name not in ("start", first) and single.shape == reference.shape:
            row[f"over {first}"] = _interval(single - reference, signed=True)
        costs = spent.get(name, [])
        for field in Spent._fields:
            values = [getattr(cost, field) for cost in costs]
            row[field] = f"{np.mean(values):.3g}" if values else ""
        rows.append(row)
    write_csv(path, rows)
    lines = [row_of(rows[0])]
    lines += [row_of(map(str, row.values())) for row in rows]
    return table(lines)


def _interval(values: np.ndarray, *, signed: bool = False) -> str:
    """Of float [problems, seeds]; over seeds as well where there are several."""
    found = statistics.bootstrap(values, two_level=values.shape[1] > 1)
    return found.signed if signed else str(found)


if __name__ == "__main__":
    main()
