"""Is a verifier from the chains of all rounds better than one from those of the last round (V-STaR;
Hosseini et al. 2024)?

    python -m benchmarks.learning.vstar --input train8.jsonl --gate gate8.jsonl --test test8.jsonl
    --rounds 3 --per-round 100 --chains 8 --samples 16 --out vstar

A seed is a run of `copse train iterate --algorithm vstar`. Beside its verifier, from the right and
wrong chains of all rounds, stand two that are trained in the same way, from the same base, on those
of the last round alone: with as many passes, and with about as many updates. Each scores the same
samples of the run's best model. The table says for each number of samples how often the
best-scored one is right, with intervals over problems and seeds, and the difference to the verifier
of all rounds. A run that was killed goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import guides
from benchmarks.output import row as row_of
from benchmarks.output import table
from benchmarks.sweep import statistics
from benchmarks.sweep.plan import Task, task_of_file
from benchmarks.verifiers.samples import Columns, Sample, searched
from guides.data.grading import Replay, read_targets
from guides.data.trace_rewards import Sources, rewards_of
from guides.engines import unload
from guides.iteration.algorithms import plan_of
from guides.iteration.expert_iteration import HELD, expert_iteration
from guides.training.train import REPORT
from guides.training.train_guide import train_guide
from search.files.atomic import atomic
from search.files.problems_file import Job, read_jobs
from search.scheduling.budget import Budget
from search.solution import Solution
from search.trace import Trace

log = logging.getLogger(f"copse.{__name__}")

BUDGET = Budget(tokens=20_000)  #: of the samples of a problem
TRAINING = {"lr": 3e-4, "batch": 16, "precision": "float32"}
ALL = "all rounds"


def trained(
    guide: str,
    jobs: Sequence[Job],
    gate: Sequence[Job],
    targets: dict[str, str],
    seed: int,
    out: Path,
    args: argparse.Namespace,
) -> dict[str, Path]:
    """The verifiers of one seed by their names; the run stands in `out`/run."""
    plan = plan_of(
        "vstar",
        options={"chains": args.chains, "wave": args.chains},
        budget=BUDGET,
        gate_budget=Budget(simulations=1),
        engine={"slots": args.slots},
        language={"temperature": 1.0},
        training=TRAINING,
        per_round=args.per_round,
        seed=seed,
    )
    run = out / "run"
    expert_iteration(guide, jobs, targets, run, rounds=args.rounds, gate=gate, plan=plan)
    last = run / f"round-{args.rounds:02d}"
    steps = json.loads((last / "verifier" / REPORT).read_text())["steps"]
    verifiers = {ALL: last / "verifier"}
    for name, more in (("last round", {}), ("last round, as many updates", {"steps": steps})):
        verifiers[name] = train_guide(
            last / "traces",
            targets,
            run / "round-00" / "checkpoint",
            out / name.replace(", ", "-").replace(" ", "-"),
            {**TRAINING, **more},
            held_out=HELD,
            policy="none",
            every_token=True,
            off_policy=True,
            seed=seed,
        )
    return verifiers


def sampled(task: Task, policy: Path, samples: int, slots: int, path: Path) -> list[Replay]:
    """The samples of each problem, in their order, from the file `path` or sampled into it."""
    if not path.exists():
        found: dict[str, Trace] = {}

        def finish(name: str, solution: Solution) -> None:
            assert solution.trace is not None
            found[name] = solution.trace

        searched(task, guides.load(policy, slots=slots, temperature=1.0), samples, finish)
        unload(policy)
        Trace.save(list(map(found.__getitem__, task.problems)), path)
    return list(map(Replay, Trace.load(path)))


def scored(
    task: Task, replays: Sequence[Replay], samples: int, verifier: Path, path: Path
) -> list[Columns]:
    """The samples of each problem with the verifier's scores, from `path` or made into it."""
    if not path.exists():
        scores = rewards_of(replays, "verifier", Sources(verifier=verifier)).outcomes
        lines = []
        for name, replay, own in zip(task.problems, replays, scores, strict=True):
            found = _finished(task, name, replay, own)
            found += [Sample()] * (samples - len(found))
            lines.append(json.dumps(vars(Columns.of(found))))
        with atomic(path) as part:
            part.write_text("\n".join(lines) + "\n")
    return [Columns(**json.loads(line)) for line in path.read_text().splitlines()]


def _finished(task: Task, name: str, replay: Replay, scores: np.ndarray) -> list[Sample]:
    """The finished chains of a trace, as often as each was sampled."""
    trace = replay.trace
    samples: list[Sample] = []
    nodes = np.flatnonzero(trace.node_finished).tolist()
    for node, answer in zip(nodes, replay.answers(nodes), strict=True):
        one = Sample(answer, task.correct(name, answer, None), None, float(scores[node]))
        samples += [one] * int(trace.edge_visits[trace.node_edge[node]])
    return samples


def chosen(problems: Sequence[Columns], size: int) -> np.ndarray:
    """float64 [problems], in per cent: how often the best-scored of `size` samples is right."""
    shares = []
    for own in problems:
        scores = list(own.values)
        for place, answer in enumerate(own.answers):
            if answer is None:
                scores[place] = -1.0
        shares.append(100 * statistics.best_of_k(scores, own.right, size))
    return np.array(shares)


def report(found: dict[str, list[list[Columns]]]) -> str:
    """Markdown, a line for each verifier and number of samples.

    found  the scored samples of each problem, of each seed, by the verifier
    """
    sizes = []
    size = 1
    while size <= len(found[ALL][0][0].right):
        sizes.append(size)
        size *= 2
    lines = [row_of(["verifier from", *map(str, sizes), f"at {sizes[-1]}, less {ALL}"])]
    reference = np.stack([chosen(one, sizes[-1]) for one in found[ALL]], 1)
    for name, seeds in found.items():
        cells = [name]
        for size in sizes:
            right = np.stack([chosen(one, size) for one in seeds], 1)
            cells.append(str(statistics.bootstrap(right, two_level=right.shape[1] > 1)))
        less = right - reference
        found_less = statistics.bootstrap(less, two_level=less.shape[1] > 1)
        cells.append("" if name == ALL else found_less.signed)
        lines.append(row_of(cells))
    return table(lines)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--guide", default="builtin", help="the start")
    parser.add_argument("--input", type=Path, required=True, help="problems with targets")
    parser.add_argument("--gate", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--per-round", type=int, default=100)
    parser.add_argument("--chains", type=int, default=8, help="of each problem in a round")
    parser.add_argument("--samples", type=int, default=16, help="of each test problem")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path("vstar"))
    args = parser.parse_args()
    found: dict[str, list[list[Columns]]] = {}
    try:
        jobs = read_jobs(args.input)
        gate = read_jobs(args.gate)
        targets = {**read_targets(args.input), **read_targets(args.gate)}
        task = task_of_file(args.test)
        for seed in map(int, args.seeds.split(",")):
            out = args.out / f"seed-{seed}"
            log.info("seed %d", seed)
            verifiers = trained(args.guide, jobs, gate, targets, seed, out, args)
            drawn = f"{task.name}-{args.samples}"
            pool = out / f"{drawn}.parquet"
            replays = sampled(task, out / "run" / "best", args.samples, args.slots, pool)
            for name, verifier in verifiers.items():
                path = out / f"{verifier.name}-{drawn}.jsonl"
                own = scored(task, replays, args.samples, verifier, path)
                found.setdefault(name, []).append(own)
            said = report(found)
            log.info("\n%s", said)
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
