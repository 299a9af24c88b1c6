"""Expert iteration: search, grade, distil, train, gate; then again with the better guide (Anthony
et al. 2017).

With `restart` every round trains the base anew, as in ReST-EM (Singh et al. 2023); the gate is that
of AlphaGo Zero (Silver et al. 2017). A run is a folder:

    settings.json   what the run was started with; other arguments are refused, but `rounds` may
    grow
    round-00/       checkpoint/: the base, with the settings of its use; gate.json: how good it is
    round-01/       traces/, examples.npz, checkpoint/, gate.json: each renamed into place when it
                    is complete
    rounds.csv      a line a round (`guides.iteration.ledger`), made from the files above
    best/           a copy of the accepted checkpoint, swapped by two renames; if a kill falls
                    between them the next start puts it back

A start looks for the first that is missing, so a run that was killed and is started again repeats
nothing that was finished: no search, no optimiser step before the last checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guides.data.grading import key_of
from guides.data.prepare import prepare
from guides.engines import locate, unload
from guides.iteration.gate import check_gate, gradable, hold_out, interval, outcomes
from guides.iteration.ledger import results_of, write_ledger
from guides.iteration.plan import Plan
from guides.iteration.run_folder import (
    accepted_before,
    claimed,
    copy_checkpoint,
    round_folder,
    write_json,
)
from guides.loading import load
from guides.training.train_guide import run_training
from models.checkpoints.checkpoint import describe, resolve, version
from search.files.problems_file import Finisher, Job, Results
from search.guide import Guide, check_kind
from search.scheduling.budget import Budget
from search.solver import seed_of, solve_many
from search.trace import Trace, TraceWriter

log = logging.getLogger(__name__)


def expert_iteration(
    base: str | Path,
    jobs: Sequence[Job],
    targets: Mapping[str, str],
    out: str | Path,
    *,
    rounds: int,
    gate: Sequence[Job] | None = None,
    plan: Plan | None = None,
) -> Path:
    """Run or go on with `rounds` rounds in the folder `out`; the path of the best checkpoint,
    `out/best`.

    base     folder or hub id of a causal language model, or "builtin"
    targets  the target of each problem by its key (`guides.data.grading`), of training and gate
             alike; none where problems verify themselves
    gate     held-out problems; None: a tenth of `jobs` is held out, never searched for training

    Raises ValueError for bad input before any model is loaded, and where a round solved nothing;
    OSError (a full disk) and KeyboardInterrupt (Ctrl-C) leave all that was finished, and the same
    call goes on with it.
    """
    plan = plan or Plan()
    if rounds < 1:
        raise ValueError(f"rounds={rounds} trains nothing: give at least 1")
    if not any(gradable(job, targets) for job in jobs):
        raise ValueError(
            f"none of the {len(jobs)} problems can be graded: give them targets, or a kind "
            "that verifies itself"
        )
    if gate is None:
        jobs, gate = hold_out(jobs, targets)
    check_gate(jobs, gate, targets)
    kinds = describe(locate(base)).get("kinds")
    for job in [*jobs, *gate]:
        check_kind(kinds, job.problem)
    run = _Run(Path(out), list(jobs), list(gate), targets, plan)
    with claimed(run.out, run.settings(base)):
        run.start(base)
        for number in range(1, rounds + 1):
            run.round(number, rounds)
    return run.out / "best"


@dataclass(frozen=True)
class _Run:
    out: Path
    jobs: list[Job]
    held: list[Job]
    targets: Mapping[str, str]
    plan: Plan

    def settings(self, base: str | Path) -> dict[str, Any]:
        """All that the run's results depend on, as JSON can say it."""
        plan = dict(vars(self.plan))
        del plan["engine"]  # of which no result depends
        settings = {
            "base": version(locate(base)),
            "jobs": self._digest(self.jobs),
            "gate": self._digest(self.held),
            **plan,
        }
        return json.loads(json.dumps(settings, default=str))

    def _digest(self, jobs: Sequence[Job]) -> str:
        """Of problems with their targets."""
        rows = []
        for job in jobs:
            key = key_of(job.problem)
            rows.append([str(job.id), key, self.targets.get(key)])
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]

    def start(self, base: str | Path) -> None:
        """Round 0: the base with the settings of its use, and its outcomes at the gate."""
        place = self._folder(0) / "checkpoint"
        if not place.exists():
            copy_checkpoint(resolve(locate(base)), place, self.plan.settings)
        if not (self._folder(0) / "gate.json").exists():
            self._gate(0)
        self._publish(0)

    def round(self, number: int, rounds: int) -> None:
        """What is missing of one round."""
        folder = self._folder(number)
        steps = {
            "traces": self._search,
            "examples.npz": self._distil,
            "checkpoint": self._train,
            "gate.json": self._gate,
        }
        for name, step in steps.items():
            if not (folder / name).exists():
                log.info("round %d of %d: %s", number, rounds, step.__name__[1:])
                step(number)
        self._publish(number)

    # -- the four parts of a round

    def _search(self, number: int) -> None:
        """traces/: one shard, in the order of the problems, and their result lines."""
        folder = self._folder(number)
        jobs = self._jobs(number)
        part = folder / "traces.part"
        self._solve(
            self._accepted(number),
            jobs,
            part / "results.jsonl",
            self.plan.budget,
            self.plan.seed + number,
            TraceWriter(part),
        )
        place = {key_of(job.problem): i for i, job in enumerate(jobs)}
        traces = {place[key_of(trace)]: trace for trace in Trace.load(part)}
        shard = Trace.save([traces[i] for i in sorted(traces)], part / "traces.parquet")
        for path in part.iterdir():
            if path not in (shard, part / "results.jsonl"):
                path.unlink()
        os.replace(part, folder / "traces")

    def _distil(self, number: int) -> None:
        """examples.npz, and what `prepare` counted in examples.json."""
        folder = self._folder(number)
        part = folder / "examples.part.npz"
        jobs = self._jobs(number)
        targets = {}
        for job in jobs:
            key = key_of(job.problem)
            if key in self.targets:
                targets[key] = self.targets[key]
        try:
            report = prepare(
                folder / "traces",
                targets,
                self._accepted(number),
                part,
                policy=self.plan.policy,
                keep=self.plan.keep,
                checker=self.plan.checker,
                seed=self.plan.seed + number,
            )
        except ValueError as error:
            raise ValueError(
                f"round {number}, after {len(jobs)} searches: {error}; begin anew with another "
                "--out"
            ) from error
        write_json(folder / "examples.json", report)
        os.replace(part, folder / "examples.npz")

    def _train(self, number: int) -> None:
        """checkpoint/, trained with a fresh optimiser in a child process that goes on from its
        own last checkpoint.
        """
        folder = self._folder(number)
        out = folder / "training"
        window = range(max(1, number - self.plan.window + 1), number + 1)
        files = [self._folder(i) / "examples.npz" for i in window]
        files += map(Path, self.plan.seed_examples)
        start = self._accepted(number)
        if self.plan.restart:
            start = self._folder(0) / "checkpoint"
        config = {
            "model": str(start.resolve()),
            "examples": [str(path.resolve()) for path in files],
            "out": str(out.resolve()),
            "options": {"seed": self.plan.seed + number, **self.plan.training},
        }
        write_json(folder / "training.json", config)
        run_training(folder / "training.json")
        shutil.rmtree(out / "work", ignore_errors=True)  # a kill may have left it
        os.replace(out, folder / "checkpoint")

    def _gate(self, number: int) -> None:
        """gate.json: outcomes of the round's guide, and from round 1 on whether it is better
        than the accepted one.
        """
        folder = self._folder(number)
        budget = self.plan.gate_budget or self.plan.budget
        rows = self._solve(
            folder / "checkpoint", self.held, folder / "gate.jsonl", budget, self.plan.seed
        )
        after = outcomes(self.held, rows, self.targets)
        verdict: dict[str, Any] = {
            "problems": len(after),
            "after": float(after.mean()),
            "outcomes": after.tolist(),
            "accepted": True,
        }
        if number > 0:
            accepted = self._accepted(number).parent / "gate.json"
            before = np.array(json.loads(accepted.read_text())["outcomes"])
            low, high = interval(before, after)
            verdict |= {
                "before": float(before.mean()),
                "low": low,
                "high": high,
                "accepted": bool(after.mean() > before.mean()),
            }
        write_json(folder / "gate.json", verdict)

    def _solve(
        self,
        checkpoint: Path,
        jobs: Sequence[Job],
        path: Path,
        budget: Budget | None,
        seed: int,
        writer: TraceWriter | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Search what has no line in the file of results yet, each problem with a seed of its
        own; all its lines by id.
        """
        plan = self.plan
        with contextlib.closing(Results(path)) as results:
            waiting = [job for job in jobs if not results.done(job.id)]
            if waiting:
                finisher = Finisher(waiting, results, writer, {"seed": seed})
                with _loaded(checkpoint, plan) as guide:
                    seeds = [seed_of(key_of(job.problem), seed) for job in waiting]
                    solve_many(
                        [job.problem for job in waiting],
                        guide,
                        plan.method,
                        budget,
                        seeds,
                        on_finish=finisher,
                        keep_trees=False,
                        **plan.options,
                    )
                if len(finisher.written) < len(waiting):
                    raise KeyboardInterrupt
        return results_of(path)

    def _jobs(self, number: int) -> list[Job]:
        """The problems of a round: the next ones of the list, from its beginning again after its
        end.
        """
        count = len(self.jobs)
        size = min(self.plan.per_round or count, count)
        return [self.jobs[i % count] for i in range((number - 1) * size, number * size)]

    # -- folders

    def _folder(self, number: int) -> Path:
        return round_folder(self.out, number)

    def _accepted(self, number: int) -> Path:
        return accepted_before(self.out, number)

    def _publish(self, number: int) -> None:
        """Bring best/ and rounds.csv up to date, unless a later round did."""
        if (self.out / f"round-{number + 1:02d}" / "gate.json").exists():
            return
        accepted = self._accepted(number + 1)
        best = self.out / "best"
        if not best.exists() or version(best) != version(accepted):
            copy_checkpoint(accepted, best)
        for left in self.out.glob(".best.*"):  # by a kill
            shutil.rmtree(left)
        log.info(
            "the best guide is that of %s\n%s", accepted.parent.name, write_ledger(self.out, number)
        )


@contextlib.contextmanager
def _loaded(checkpoint: Path, plan: Plan) -> Iterator[Guide]:
    """The guide of a checkpoint, unloaded in the end: training needs the memory, and rounds must
    not pile up models.
    """
    sampling = {name: value for name, value in plan.language.items() if name not in plan.settings}
    try:
        yield load(checkpoint, **plan.engine, **sampling)
    finally:
        unload(checkpoint)
