"""Rounds of search and training in a folder: what expert iteration and reinforcement learning have
in common.

A round is a folder of artefacts, each renamed into place when it is complete:

    settings.json   what the run was started with; other arguments are refused, but `rounds` may
    grow
    round-00/       checkpoint/: the base, with the settings of its use; gate.json: how good it is
    round-01/       traces/, examples.npz, checkpoint/, gate.json, ...
    rounds.csv      a line a round, made from the files above
    best/           a copy of the accepted checkpoint, swapped by two renames; if a kill falls
                    between them the next start puts it back

A start looks for the first artefact that is missing, so a run that was killed and is started again
repeats nothing that was finished: no search, no optimiser step before the last checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from guides.data.grading import key_of
from guides.engines import locate, unload
from guides.iteration.gate import check_gate, gradable, hold_out, interval, outcomes
from guides.iteration.ledger import results_of
from guides.iteration.plan import SearchPlan
from guides.iteration.run_folder import (
    accepted_before,
    claimed,
    copy_checkpoint,
    round_folder,
    write_json,
)
from guides.loading import load
from models.checkpoints.checkpoint import describe, resolve, version
from search.files.problems_file import Finisher, Job, Results
from search.guide import Guide, check_kind
from search.scheduling.budget import Budget
from search.solver import seed_of, solve_many
from search.trace import Trace, TraceWriter

log = logging.getLogger(f"copse.{__name__}")

INERT = ("engine", "track")  #: fields of a plan on which no result depends

P = TypeVar("P", bound=SearchPlan)

#: (problems searched so far, their traces) -> problems to search as well
More = Callable[[Sequence[Job], Sequence[Trace]], Sequence[Job]]


def divided(
    base: str | Path,
    jobs: Sequence[Job],
    gate: Sequence[Job] | None,
    targets: Mapping[str, str],
    rounds: int,
    *,
    labelled: bool = True,
) -> tuple[list[Job], list[Job]]:
    """The problems to train on and those of the gate: a tenth is held out where there is no gate.

    labelled  whether training needs a grade of its problems. If not, and none has a label, there is
              no gate
    Raises ValueError where that cannot be done, or a problem is of a kind that the base does not
    know.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds} trains nothing: give at least 1")
    graded = any(gradable(job, targets) for job in jobs)
    if labelled and not graded:
        raise ValueError(
            f"none of the {len(jobs)} problems can be graded: give them targets, or a kind "
            "that verifies itself"
        )
    if gate is None and graded:
        jobs, gate = hold_out(jobs, targets)
    if gate is None:
        gate = []
        log.warning("no problem has a label, so there is no gate: every round is accepted")
    else:
        check_gate(jobs, gate, targets)
    kinds = describe(locate(base)).get("kinds")
    for job in [*jobs, *gate]:
        check_kind(kinds, job.problem)
    return list(jobs), list(gate)


@dataclass(frozen=True)
class Rounds(ABC, Generic[P]):
    """A run in the folder `out`.

    jobs, held  problems to train on, and of the gate
    targets     the target of each problem by its key (`guides.data.grading`)

    Derive from it and write `steps` and `ledger`.
    """

    out: Path
    jobs: list[Job]
    held: list[Job]
    targets: Mapping[str, str]
    plan: P

    @property
    @abstractmethod
    def steps(self) -> dict[str, Callable[[int], None]]:
        """The artefacts of a round in their order, and what makes each of a round's number."""

    @abstractmethod
    def ledger(self, last: int) -> str:
        """Write `rounds.csv` of the rounds 0 to `last`; the same as a Markdown table."""

    def finish(self, rounds: int) -> None:
        """What is done after the last round."""

    def run(self, base: str | Path, rounds: int) -> Path:
        """Run or go on with `rounds` rounds; the folder of the best checkpoint."""
        with claimed(self.out, self.settings(base)):
            self._start(base)
            for number in range(1, rounds + 1):
                self._round(number, rounds)
            self.finish(rounds)
        return self.out / "best"

    def settings(self, base: str | Path) -> dict[str, Any]:
        """All that the run's results depend on, as JSON can say it."""
        plan = dict(vars(self.plan))
        for name in INERT:
            plan.pop(name, None)
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

    def _start(self, base: str | Path) -> None:
        """Round 0: the base with the settings of its use, and its outcomes at the gate."""
        place = self.folder(0) / "checkpoint"
        if not place.exists():
            copy_checkpoint(resolve(locate(base)), place, self.plan.settings)
        if not (self.folder(0) / "gate.json").exists():
            self.gate(0)
        self.publish(0)

    def _round(self, number: int, rounds: int) -> None:
        """What is missing of one round. Of one that is complete, parts may have been removed."""
        folder = self.folder(number)
        complete = (folder / list(self.steps)[-1]).exists()
        for name, step in self.steps.items():
            if not complete and not (folder / name).exists():
                log.info("round %d of %d: %s", number, rounds, step.__name__.strip("_"))
                step(number)
        self.publish(number)

    # -- parts of a round

    def search(
        self,
        number: int,
        checkpoint: Path,
        jobs: Sequence[Job],
        name: str = "traces",
        seed: int | None = None,
        more: More | None = None,
    ) -> None:
        """The folder `name` of a round: the traces of searches in one shard, in the order of the
        problems, and their result lines.

        seed  None: the plan's plus the number of the round
        more  problems to search as well, from what was found so far; None: none
        """
        folder = self.folder(number)
        part = folder / f"{name}.part"
        writer = TraceWriter(part)
        seed = self.plan.seed + number if seed is None else seed
        everything = list(jobs)
        while True:
            self.solve(
                checkpoint, everything, part / "results.jsonl", self.plan.budget, seed, writer
            )
            traces = self._traces(part, everything)
            fresh = more(everything, traces) if more else []
            if not fresh:
                break
            everything += fresh
        shard = Trace.save(traces, part / "traces.parquet")
        for path in part.iterdir():
            if path not in (shard, part / "results.jsonl"):
                path.unlink()
        os.replace(part, folder / name)

    def _traces(self, part: Path, jobs: Sequence[Job]) -> list[Trace]:
        """The traces of these problems in their order; a run that was killed may have left more."""
        found = {key_of(trace): trace for trace in Trace.load(part)}
        return list(filter(None, (found.get(key_of(job.problem)) for job in jobs)))

    def gate(self, number: int) -> None:
        """gate.json: outcomes of the round's guide, and from round 1 on whether it is better
        than the accepted one.
        """
        folder = self.folder(number)
        budget = self.plan.gate_budget or self.plan.budget
        rows = self.solve(
            folder / "checkpoint",
            self.held,
            folder / "gate.jsonl",
            budget,
            self.plan.seed,
            options=self.plan.at_gate,
        )
        if not self.held:
            write_json(folder / "gate.json", {"problems": 0, "accepted": True})
            return
        after = outcomes(self.held, rows, self.targets)
        verdict: dict[str, Any] = {
            "problems": len(after),
            "after": float(after.mean()),
            "outcomes": after.tolist(),
            "accepted": True,
        }
        if number > 0:
            accepted = self.accepted(number).parent / "gate.json"
            before = np.array(json.loads(accepted.read_text())["outcomes"])
            low, high = interval(before, after)
            verdict |= {
                "before": float(before.mean()),
                "low": low,
                "high": high,
                "accepted": bool(after.mean() > before.mean()),
            }
        write_json(folder / "gate.json", verdict)

    def solve(
        self,
        checkpoint: Path,
        jobs: Sequence[Job],
        path: Path,
        budget: Budget | None,
        seed: int,
        writer: TraceWriter | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Search what has no line in the file of results yet, each problem with a seed of its
        own; all its lines by id. options: of the method, None: the plan's.
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
                        **(plan.options if options is None else options),
                    )
                if len(finisher.written) < len(waiting):
                    raise KeyboardInterrupt
        return results_of(path)

    # -- folders

    def folder(self, number: int) -> Path:
        return round_folder(self.out, number)

    def accepted(self, number: int) -> Path:
        """The checkpoint that was accepted last before round `number`."""
        return accepted_before(self.out, number)

    def publish(self, number: int) -> None:
        """Bring best/ and rounds.csv up to date, unless a later round did."""
        if (self.out / f"round-{number + 1:02d}" / list(self.steps)[-1]).exists():
            return
        accepted = self.accepted(number + 1)
        best = self.out / "best"
        if not best.exists() or version(best) != version(accepted):
            copy_checkpoint(accepted, best)
        for left in self.out.glob(".best.*"):  # by a kill
            shutil.rmtree(left)
        log.info("the best guide is that of %s\n%s", accepted.parent.name, self.ledger(number))


@contextlib.contextmanager
def _loaded(checkpoint: Path, plan: SearchPlan) -> Iterator[Guide]:
    """The guide of a checkpoint, unloaded in the end: training needs the memory, and rounds must
    not pile up models.
    """
    sampling = {name: value for name, value in plan.language.items() if name not in plan.settings}
    try:
        yield load(checkpoint, **plan.engine, **sampling)
    finally:
        unload(checkpoint)
