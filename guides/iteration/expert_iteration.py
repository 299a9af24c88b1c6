"""Expert iteration: search, grade, distil, train, gate; then again with the better guide (Anthony
et al. 2017).

With `restart` every round trains the base anew, as in ReST-EM (Singh et al. 2023); the gate is that
of AlphaGo Zero (Silver et al. 2017). A run is a folder of `guides.iteration.rounds`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from guides.data.grading import key_of
from guides.data.prepare import prepare
from guides.iteration.ledger import write_ledger
from guides.iteration.plan import Plan
from guides.iteration.rounds import Rounds, divided
from guides.iteration.run_folder import write_json
from guides.training.train_guide import run_training
from search.files.problems_file import Job


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
    jobs, gate = divided(base, jobs, gate, targets, rounds)
    return _Run(Path(out), jobs, gate, targets, plan or Plan()).run(base, rounds)


class _Run(Rounds[Plan]):
    @property
    def steps(self) -> dict[str, Callable[[int], None]]:
        return {
            "traces": self._search,
            "examples.npz": self._distil,
            "checkpoint": self._train,
            "gate.json": self.gate,
        }

    def ledger(self, last: int) -> str:
        return write_ledger(self.out, last)

    def _search(self, number: int) -> None:
        self.search(number, self.accepted(number), self._jobs(number))

    def _distil(self, number: int) -> None:
        """examples.npz, and what `prepare` counted in examples.json."""
        folder = self.folder(number)
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
                self.accepted(number),
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
        folder = self.folder(number)
        out = folder / "training"
        window = range(max(1, number - self.plan.window + 1), number + 1)
        files = [self.folder(i) / "examples.npz" for i in window]
        files += map(Path, self.plan.seed_examples)
        start = self.accepted(number)
        if self.plan.restart:
            start = self.folder(0) / "checkpoint"
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

    def _jobs(self, number: int) -> list[Job]:
        """The problems of a round: the next ones of the list, from its beginning again after its
        end.
        """
        count = len(self.jobs)
        size = min(self.plan.per_round or count, count)
        return [self.jobs[i % count] for i in range((number - 1) * size, number * size)]
