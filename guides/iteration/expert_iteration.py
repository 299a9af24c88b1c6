"""Expert iteration: search, grade, distil, train, gate; then again with the better guide (Anthony
et al. 2017).

With `restart` every round trains the base anew, as in ReST-EM (Singh et al. 2023); the gate is that
of AlphaGo Zero (Silver et al. 2017). A run is a folder:

    settings.json   what the run was started with; other arguments are refused, but `rounds` may
    grow
    round-00/       checkpoint/: the base, with the settings of its use; gate.json: how good it is
    round-01/       traces/, examples.npz, checkpoint/, gate.json: each renamed into place when it
                    is complete. With `hint` also hinted/, traces of what was asked again; with
                    several `thresholds` examples-2.npz, ... and improved-1/, ..., checkpoints on
                    the way to that of the round
    rounds.csv      a line a round (`guides.iteration.ledger`), made from the files above
    best/           a copy of the accepted checkpoint, swapped by two renames; if a kill falls
                    between them the next start puts it back
    verifier/       with `train_verifier`, a copy of that of the last round

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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from guides.data.grading import grade, key_of
from guides.data.prepare import numbered, prepare
from guides.data.trace_rewards import needs_targets
from guides.engines import locate, unload
from guides.iteration.gate import check_gate, gradable, hold_out, interval, outcomes
from guides.iteration.ledger import results_of, write_ledger
from guides.iteration.plan import Plan
from guides.iteration.rationalise import hinted
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

#: share of the problems on which a verifier is calibrated and judged instead
HELD = 0.1


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
    gate     held-out problems; None: a tenth of `jobs` is held out, never searched for training. A
             reward that reads no label, of problems of which none has one, goes without a gate:
             every round is accepted

    Raises ValueError for bad input before any model is loaded, and where a round solved nothing;
    OSError (a full disk) and KeyboardInterrupt (Ctrl-C) leave all that was finished, and the same
    call goes on with it.
    """
    plan = plan or Plan()
    if rounds < 1:
        raise ValueError(f"rounds={rounds} trains nothing: give at least 1")
    labelled = any(gradable(job, targets) for job in jobs)
    if not labelled and needs_targets(plan.reward):
        raise ValueError(
            f"none of the {len(jobs)} problems can be graded: give them targets, or a kind "
            "that verifies itself"
        )
    if plan.hint is not None and not any(key_of(job.problem) in targets for job in jobs):
        raise ValueError(
            f"a hint tells the target, and none of the {len(jobs)} problems has one: give them "
            "targets, or an algorithm without a hint"
        )
    if gate is None and labelled:
        jobs, gate = hold_out(jobs, targets)
    if gate is None:
        gate = []
        log.warning("no problem has a label, so there is no gate: every round is accepted")
    else:
        check_gate(jobs, gate, targets)
    kinds = describe(locate(base)).get("kinds")
    for job in [*jobs, *gate]:
        check_kind(kinds, job.problem)
    run = _Run(Path(out), list(jobs), list(gate), targets, plan)
    with claimed(run.out, run.settings(base)):
        run.start(base)
        for number in range(1, rounds + 1):
            run.round(number, rounds)
        if plan.train_verifier:
            run.verifier(rounds)
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
            "hinted": self._rationalise,
            "examples.npz": self._distil,
            "checkpoint": self._train,
            "gate.json": self._gate,
        }
        if self.plan.hint is None:
            del steps["hinted"]
        for name, step in steps.items():
            if not (folder / name).exists():
                log.info("round %d of %d: %s", number, rounds, step.__name__[1:])
                step(number)
        self._publish(number)

    # -- the four parts of a round

    def _search(self, number: int) -> None:
        """traces/: one shard, in the order of the problems, and their result lines."""
        self._traces(number, "traces", self._jobs(number), self.plan.seed + number)

    def _rationalise(self, number: int) -> None:
        """hinted/: as traces/, of the problems that were not solved, told their targets (STaR)."""
        hint = self.plan.hint
        assert hint is not None
        solved = self._solved(number)
        jobs = []
        for job in self._jobs(number):
            key = key_of(job.problem)
            if key in self.targets and key not in solved:
                jobs.append(replace(job, problem=hinted(job.problem, hint, self.targets[key])))
        seed = seed_of("hinted", self.plan.seed + number)
        self._traces(number, "hinted", jobs, seed)

    def _solved(self, number: int) -> set[str]:
        """The keys of the problems of a round that have a right chain."""
        answer = describe(self._accepted(number)).get("answer")
        solved = set()
        for trace in Trace.load(self._folder(number) / "traces"):
            key = key_of(trace)
            if (grade(trace, self.targets.get(key), answer) == 1.0).any():
                solved.add(key)
        return solved

    def _traces(self, number: int, name: str, jobs: Sequence[Job], seed: int) -> None:
        """The folder `name` of a round, with the traces of the searches of `jobs`."""
        folder = self._folder(number)
        part = folder / f"{name}.part"
        self._solve(
            self._accepted(number), jobs, part / "results.jsonl", self.plan.budget, seed,
            TraceWriter(part),
        )  # fmt: skip
        place = {key_of(job.problem): i for i, job in enumerate(jobs)}
        traces = {place[key_of(trace)]: trace for trace in Trace.load(part)}
        shard = Trace.save([traces[i] for i in sorted(traces)], part / "traces.parquet")
        for path in part.iterdir():
            if path not in (shard, part / "results.jsonl"):
                path.unlink()
        os.replace(part, folder / name)

    def _distil(self, number: int) -> None:
        """examples.npz, more of them where there are several thresholds, and what `prepare`
        counted in examples.json.
        """
        plan = self.plan
        folder = self._folder(number)
        part = folder / "examples.part.npz"
        for path in folder.glob("examples*.npz"):  # by a kill
            path.unlink()
        window = self._window(number)
        told = [self._folder(i) / "hinted" for i in window if plan.hint is not None]
        try:
            report = prepare(
                folder / "traces",
                self._targets(window),
                self._accepted(number),
                part,
                earlier=[self._folder(i) / "traces" for i in window[:-1]],
                hinted=told,
                policy=plan.policy,
                keep=plan.keep,
                reward=plan.reward,
                verifier=plan.verifier,
                thresholds=plan.thresholds,
                checker=plan.checker,
                seed=plan.seed + number,
            )
        except ValueError as error:
            raise ValueError(
                f"round {number}, after {len(self._jobs(number))} searches: {error}; begin anew "
                "with another --out"
            ) from error
        write_json(folder / "examples.json", report)
        for i in range(len(report["improve"]), 0, -1):  # examples.npz last: then all are there
            os.replace(numbered(part, i), numbered(folder / "examples.npz", i))

    def _train(self, number: int) -> None:
        """checkpoint/, trained with a fresh optimiser in a child process that goes on from its
        own last checkpoint; with several files of examples one after the other.
        """
        folder = self._folder(number)
        start = self._accepted(number)
        if self.plan.restart:
            start = self._folder(0) / "checkpoint"
        last = len(json.loads((folder / "examples.json").read_text())["improve"])
        for i in range(1, last + 1):
            files = [numbered(folder / "examples.npz", i), *map(Path, self.plan.seed_examples)]
            place = folder / ("checkpoint" if i == last else f"improved-{i}")
            if not place.exists():
                self._trained(number, start, files, place)
            start = place

    def _trained(
        self, number: int, start: Path, files: Sequence[Path], place: Path, **more: Any
    ) -> None:
        """The checkpoint `place` of a round, trained from `start` on files of examples by a child
        process. more: what its config file says beside.
        """
        name = "training" if place.name == "checkpoint" else f"training-{place.name}"
        out = place.with_name(name)
        config = place.with_name(f"{name}.json")
        content = {
            "model": str(start.resolve()),
            "examples": [str(path.resolve()) for path in files],
            "out": str(out.resolve()),
            "options": {"seed": self.plan.seed + number, **self.plan.training},
        }
        write_json(config, {**content, **more})
        run_training(config)
        shutil.rmtree(out / "work", ignore_errors=True)  # a kill may have left it
        os.replace(out, place)

    def verifier(self, number: int) -> None:
        """verifier/ of a round and of the run: an outcome verifier (Cobbe et al. 2021), trained
        from the base on the chains of all rounds so far, right and wrong.
        """
        folder = self._folder(number)
        place = folder / "verifier"
        if not place.exists():
            log.info("round %d: verifier", number)
            examples = folder / "verifier.npz"
            held = folder / "verifier-held.npz"
            base = self._folder(0) / "checkpoint"
            counted = prepare(
                folder / "traces", self._targets(range(1, number + 1)), base, examples,
                held_file=held,
                earlier=[self._folder(i) / "traces" for i in range(1, number)],
                policy="none", every_token=True, off_policy=True,
                reward=self.plan.reward, verifier=self.plan.verifier, checker=self.plan.checker,
                seed=self.plan.seed, held_share=HELD,
            )  # fmt: skip
            more = {"data": {"counted": counted}}
            if counted["held"]:
                more["held"] = str(held.resolve())  # type: ignore[assignment]
            self._trained(number, base, [examples], place, **more)
        published = self.out / "verifier"
        if not published.exists() or version(published) != version(place):
            copy_checkpoint(place, published)

    def _gate(self, number: int) -> None:
        """gate.json: outcomes of the round's guide, and from round 1 on whether it is better
        than the accepted one.
        """
        folder = self._folder(number)
        budget = self.plan.gate_budget or self.plan.budget
        rows = self._solve(
            folder / "checkpoint", self.held, folder / "gate.jsonl", budget, self.plan.seed
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
                        **(plan.gate_options if writer is None else plan.options),
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

    def _window(self, number: int) -> list[int]:
        """The rounds whose traces a round learns from, itself the last."""
        first = number - self.plan.window + 1 if self.plan.window else 1
        return list(range(max(1, first), number + 1))

    def _targets(self, rounds: Sequence[int]) -> dict[str, str]:
        """The targets of the problems of some rounds."""
        targets = {}
        for i in rounds:
            for job in self._jobs(i):
                key = key_of(job.problem)
                if key in self.targets:
                    targets[key] = self.targets[key]
        return targets

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
