"""The gate of expert iteration: held-out problems on which a new guide must beat the accepted one
(Silver et al. 2017).

Both solve the same problems with equal budgets and seeds, so that their outcomes are compared
problem by problem.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from guides.data.grading import form_of, key_of, same
from guides.training.statistics import bootstrap
from search.files.problems_file import Job

log = logging.getLogger(f"copse.{__name__}")

#: problems of a gate below which its verdict is chance: of 30, the difference of two models has a
#: standard error of up to 0.13
FEWEST = 30


def hold_out(jobs: Sequence[Job], targets: Mapping[str, str]) -> tuple[list[Job], list[Job]]:
    """(training, gate): a tenth of the different problems, at least one, by the hash of their
    forms; only such as can be graded.

    Raises ValueError where fewer than two problems are different.
    """
    forms = {form_of(job.problem) for job in jobs if gradable(job, targets)}
    by_hash = sorted(forms, key=lambda form: hashlib.sha256(form.encode()).digest())
    held = set(by_hash[: max(1, len(by_hash) // 10)])
    training: list[Job] = []
    gate: list[Job] = []
    for job in jobs:
        (gate if form_of(job.problem) in held else training).append(job)
    if not training or not held:
        raise ValueError(
            f"{len(forms)} problem(s) that can be graded are too few to train and to hold one out: "
            "give at least two, or a gate"
        )
    return training, gate


def check_gate(jobs: Sequence[Job], gate: Sequence[Job], targets: Mapping[str, str]) -> None:
    """Raises ValueError where gate and training share problems, with their count, or where
    one of the gate cannot be graded. A gate of fewer than `FEWEST` problems is warned of.
    """
    trained = {form_of(job.problem) for job in jobs}
    both = [job.id for job in gate if form_of(job.problem) in trained]
    if both:
        raise ValueError(
            f"{len(both)} of {len(gate)} gate problems are training problems too (the first: "
            f"{both[0]!r}): remove them"
        )
    unknown = [job.id for job in gate if not gradable(job, targets)]
    if unknown or not gate:
        raise ValueError(
            f"{len(unknown)} of {len(gate)} gate problems cannot be graded ({unknown[:3]}): give "
            "each a target"
        )
    if len(gate) < FEWEST:
        log.warning(
            "the gate has %d problems, which decide nothing: which model solves more of them is "
            "chance; give at least %d, better some hundred",
            len(gate),
            FEWEST,
        )


def gradable(job: Job, targets: Mapping[str, str]) -> bool:
    """Whether a solution of it can be graded: it has a target, or its kind verifies itself."""
    return key_of(job.problem) in targets or getattr(job.problem, "verifies", True)


def outcomes(
    jobs: Sequence[Job], rows: Mapping[str, Mapping[str, Any]], targets: Mapping[str, str]
) -> np.ndarray:
    """float64 [jobs], 1 solved, 0 not: a verified solution, or the answer that is the target; no
    answer and an error are 0.

    rows  result line (`search.files.problems_file.result_of`) of each job by its id as text
    Raises ValueError for an answer that cannot be graded.
    """
    return np.array([_outcome(job, rows[str(job.id)], targets) for job in jobs], np.float64)


def _outcome(job: Job, row: Mapping[str, Any], targets: Mapping[str, str]) -> float:
    if row["verified"] is not None or row["answer"] is None:
        return float(row["verified"] is True)
    target = targets.get(key_of(job.problem))
    if target is None:
        raise ValueError(
            f"the answer {row['answer']!r} to the problem {job.id!r} cannot be graded: give it a "
            "target"
        )
    return float(same(row["answer"], target))


def interval(before: np.ndarray, after: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % interval of mean(after - before), paired (`guides.training.statistics.bootstrap`).

    before, after  float64 [problems], outcomes of the same problems
    """
    # gains are few: a draw of how often each stands there is quicker than one of all problems
    gains, times = np.unique(after - before, return_counts=True)
    found = bootstrap(gains, times=times, seed=seed)
    return found.low, found.high
