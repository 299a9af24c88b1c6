"""Expert iteration: search, grade, distil, train, gate; then again with the better guide (Anthony
et al. 2017).

With `restart` every round trains the base anew, as in ReST-EM (Singh et al. 2023); the gate is that
of AlphaGo Zero (Silver et al. 2017). A run is a folder of `guides.iteration.rounds`, with these
artefacts beside:

    round-01/       with `hint` also hinted/, traces of what was asked again; with several
                    `thresholds` examples-2.npz, ... and improved-1/, ..., checkpoints on the way to
                    that of the round
    verifier/       with `train_verifier`, a copy of that of the last round
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from guides.data.grading import grade, key_of
from guides.data.prepare import numbered, prepare
from guides.data.trace_rewards import needs_targets
from guides.iteration.ledger import write_ledger
from guides.iteration.plan import Plan
from guides.iteration.rationalise import hinted
from guides.iteration.rounds import Rounds, divided
from guides.iteration.run_folder import copy_checkpoint, write_json
from guides.training.options import fine_tuning
from guides.training.train_guide import run_training
from models.checkpoints.checkpoint import describe, version
from search.files.problems_file import Job
from search.solver import seed_of
from search.trace import Trace

log = logging.getLogger(f"copse.{__name__}")

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
    if plan.hint is not None and not any(key_of(job.problem) in targets for job in jobs):
        raise ValueError(
            f"a hint tells the target, and none of the {len(jobs)} problems has one: give them "
            "targets, or an algorithm without a hint"
        )
    labelled = needs_targets(plan.reward)
    problems, held = divided(base, jobs, gate, targets, rounds, labelled=labelled)
    return _Run(Path(out), problems, held, targets, plan).run(base, rounds)


class _Run(Rounds[Plan]):
    @property
    def steps(self) -> dict[str, Callable[[int], None]]:
        steps: dict[str, Callable[[int], None]] = {
            "traces": self._search,
            "hinted": self._rationalise,
            "examples.npz": self._distil,
            "checkpoint": self._train,
            "gate.json": self.gate,
        }
        if self.plan.hint is None:
            del steps["hinted"]
        return steps

    def ledger(self, last: int) -> str:
        return write_ledger(self.out, last)

    def finish(self, rounds: int) -> None:
        if self.plan.train_verifier:
            self._verifier(rounds)

    def _search(self, number: int) -> None:
        """traces/: one shard, in the order of the problems, and their result lines."""
        self.search(number, self.accepted(number), self._jobs(number))

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
        self.search(number, self.accepted(number), jobs, "hinted", seed)

    def _solved(self, number: int) -> set[str]:
        """The keys of the problems of a round that have a right chain."""
        answer = describe(self.accepted(number)).get("answer")
        solved = set()
        for trace in Trace.load(self.folder(number) / "traces"):
            key = key_of(trace)
            if (grade(trace, self.targets.get(key), answer) == 1.0).any():
                solved.add(key)
        return solved

    def _distil(self, number: int) -> None:
        """examples.npz, more of them where there are several thresholds, and what `prepare`
        counted in examples.json.
        """
        plan = self.plan
        folder = self.folder(number)
        part = folder / "examples.part.npz"
        for path in folder.glob("examples*.npz"):  # by a kill
            path.unlink()
        window = self._window(number)
        told = self._folders(window, "hinted") if plan.hint is not None else []
        try:
            report = prepare(
                folder / "traces",
                self._targets(window),
                self.accepted(number),
                part,
                earlier=self._folders(window[:-1], "traces"),
                hinted=told,
                policy=plan.policy,
                keep=plan.keep,
                reward=plan.reward,
                verifier=plan.verifier,
                thresholds=plan.thresholds,
                checker=plan.checker,
                pairs=plan.pairing,
                judged=fine_tuning(**plan.training).value_weight > 0,
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
        folder = self.folder(number)
        start = self.accepted(number)
        if self.plan.restart:
            start = self.folder(0) / "checkpoint"
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

    def _verifier(self, number: int) -> None:
        """verifier/ of a round and of the run: an outcome verifier (Cobbe et al. 2021), trained
        from the base on the chains of all rounds so far, right and wrong.
        """
        folder = self.folder(number)
        place = folder / "verifier"
        if not place.exists():
            log.info("round %d: verifier", number)
            examples = folder / "verifier.npz"
            held = folder / "verifier-held.npz"
            base = self.folder(0) / "checkpoint"
            counted = prepare(
                folder / "traces", self._targets(range(1, number + 1)), base, examples,
                held_file=held,
                earlier=self._folders(range(1, number), "traces"),
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

    def _folders(self, rounds: Sequence[int], name: str) -> list[Path]:
        """The folders of that name of some rounds."""
        return [self.folder(i) / name for i in rounds]

    def _targets(self, rounds: Sequence[int]) -> dict[str, str]:
        """The targets of the problems of some rounds."""
        targets = {}
        for i in rounds:
            for job in self._jobs(i):
                key = key_of(job.problem)
                if key in self.targets:
                    targets[key] = self.targets[key]
        return targets
