"""What a trained value head is worth, measured on problems that were held out: `report.json` of a
checkpoint.

The head is calibrated on one half of these problems first, and keeps that if it lowers the
cross-entropy on the other half.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from guides.data.holdout import Held, read_values
from guides.data.labels import DOUBT
from guides.training.calibration import Line, cross_entropy, fit
from guides.training.metrics import auroc, best_of_k, majority_at_k
from models.checkpoints.heads import ValueHead
from search.scheduling.driver import run

BINS = 15  #: of the expected calibration error (Guo et al. 2017), equally wide
FEWEST = 20  #: problems from which on their mean AUROC is taken for that of the head
THRESHOLD = 0.5  #: a step whose value is below it is called wrong (ProcessBench; Zheng et al. 2024)


def judge(model: Any, tokenizer: Any, head: ValueHead, held: Held) -> dict[str, Any]:
    """The report on `head` at `held`, after it was calibrated in place; the values are those of an
    engine. What is not known is None.

    problems, chains     how many; chains as often as they were sampled
    auroc, within        of the finished chains' values: over all, and the mean over problems with
                         right and wrong ones
    brier, calibration_error   of the values of finished chains, for the chance that they are right;
                               of the problems alone that a
                         calibration that was kept was not fitted on
    steps                `step_report`, where the labels are exact
    best_of              `selection`
    calibration          `calibrate`
    """
    from models.engine.engine import Engine

    engine = Engine(model, tokenizer, head=head, slots=256, name="held")
    values = run(read_values(held, "held"), {"held": engine}).astype(np.float64)
    engine.close()
    line, calibration = calibrate(held, values)
    head.weight.data *= line.scale
    head.bias.data.mul_(line.scale).add_(line.shift)
    fresh = np.arange(len(held.lost)) % 2 >= calibration["kept"]
    return report_of(held, line(values), fresh) | {"calibration": calibration}


def calibrate(held: Held, values: np.ndarray) -> tuple[Line, dict[str, Any]]:
    """How to change the log-odds, and {"scale", "shift", "kept", "before", "after"}: the
    cross-entropy with the labels, nats.

    The fit is on the problems with even numbers, before and after are of the others. Labels are
    weighed as in training.
    """
    labels = held.labels.soft
    known = ~np.isnan(labels) & ~np.isnan(values)
    weights = 1 / (1 + DOUBT / np.maximum(held.n, 1e-9))
    even = known & (held.problems % 2 == 0)
    odd = known & (held.problems % 2 == 1)
    line = fit(values[even], labels[even], weights[even])
    if not odd.any():
        return Line(), {"scale": 1.0, "shift": 0.0, "kept": False, "before": None, "after": None}
    before = cross_entropy(Line()(values[odd]), labels[odd], weights[odd])
    after = cross_entropy(line(values[odd]), labels[odd], weights[odd])
    kept = after < before
    calibration = {
        "scale": line.scale,
        "shift": line.shift,
        "kept": kept,
        "before": before,
        "after": after,
    }
    return (line if kept else Line()), calibration


def report_of(held: Held, values: np.ndarray, fresh: np.ndarray) -> dict[str, Any]:
    """What `judge` says, of values float64 [N] in [0, 1], but for the calibration. fresh: bool
    [problems], it has not seen them.
    """
    # a row a sample
    valued = ~np.isnan(values[held.ends])
    rows = np.repeat(np.flatnonzero(valued), held.times[valued])
    scores = values[held.ends[rows]]
    right = held.right[rows]
    problems = held.problems[held.ends[rows]]
    inside = []  # of problems with right and wrong chains
    for problem in np.unique(problems):
        own = problems == problem
        area = auroc(scores[own], right[own])
        if not math.isnan(area):
            inside.append(area)
    new = fresh[problems]
    return {
        "problems": len(held.lost),
        "chains": len(rows),
        "auroc": _or_none(auroc(scores, right)),
        "within": _or_none(_mean(np.array(inside))),
        "within_problems": len(inside),
        "brier": _or_none(_mean((scores - right)[new] ** 2)),
        "calibration_error": _or_none(calibration_error(scores[new], right[new])),
        "steps": step_report(held, values),
        "best_of": selection(held, values),
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def calibration_error(values: np.ndarray, right: np.ndarray) -> float:
    """Sum over equal bins of (share of the values) x |mean value - share right| (Guo et al.
    2017, eq. 3); nan without values.
    """
    if not len(values):
        return math.nan
    bins = np.minimum((values * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    gaps = np.bincount(bins, values - right, BINS)  # the mean's distance, times the count
    return float(np.abs(gaps[counts > 0]).sum() / len(values))


def step_report(held: Held, values: np.ndarray) -> dict[str, Any] | None:
    """How well the first wrong step is found (ProcessBench): {"erroneous", "right", "f1",
    "chains"}; None without exact labels.

    erroneous, right  the share of different chains with and without a wrong step (label 0) whose
                      first step with a value below
                      `THRESHOLD` is the first wrong one, or is not there;  f1: their harmonic mean
    """
    hits: dict[bool, list[bool]] = {False: [], True: []}
    for end in held.ends:
        path = held.path(int(end))[1:]
        if not np.isinf(held.n[path]).all() or np.isnan(values[path]).any():
            continue
        wrong = _first(held.k[path] == 0.0)
        called = _first(values[path] < THRESHOLD)
        hits[wrong == len(path)].append(called == wrong)
    if not hits[False] and not hits[True]:
        return None
    erroneous = _mean(np.array(hits[False]))
    right = _mean(np.array(hits[True]))
    both = erroneous + right
    f1 = both  # 0, or nan
    if both > 0:
        f1 = 2 * erroneous * right / both
    return {
        "erroneous": _or_none(erroneous),
        "right": _or_none(right),
        "f1": _or_none(f1),
        "chains": len(hits[False]) + len(hits[True]),
    }


def _first(marks: np.ndarray) -> int:
    """The index of the first mark, len(marks) where there is none."""
    return int(marks.argmax()) if marks.any() else len(marks)


def selection(held: Held, values: np.ndarray) -> list[dict[str, float]]:
    """{"n", "best", "weighted", "majority"} for n = 1, 2, 4, ..., the fewest samples of a problem:
    the mean over problems of the chance that the answer chosen from n of its samples is right. A
    sample that ended unfinished is wrong and has no vote.
    """
    problems = held.problems[held.ends]
    samples = np.bincount(problems, held.times, len(held.lost)).astype(int) + held.lost
    if not len(samples) or not samples.min():
        return []
    choices = [_choices(held, values, one, problems == one) for one in range(len(samples))]
    rows = []
    for power in range(int(samples.min()).bit_length()):
        n = 2**power
        row: dict[str, float] = {"n": n}
        for name in ("best", "weighted", "majority"):
            row[name] = float(np.mean([own[name](n) for own in choices]))
        rows.append(row)
    return rows


def _choices(
    held: Held, values: np.ndarray, problem: int, own: np.ndarray
) -> dict[str, Callable[[int], float]]:
    """The estimators of one problem, by name, as functions of n. own: bool [C], its chains."""
    times = held.times[own]
    lost = int(held.lost[problem])  # samples without an answer, which come last
    right = np.repeat(held.right[own], times).tolist() + [False] * lost
    answers: list[int | None] = np.repeat(held.answers[own], times).tolist() + [None] * lost
    for i, answer in enumerate(answers):
        if answer == -1:
            answers[i] = None
    scores = np.nan_to_num(np.repeat(values[held.ends[own]], times), nan=0.0).tolist()
    ranks = scores + [-1.0] * lost
    weights = scores + [0] * lost
    return {
        "best": lambda n: best_of_k(ranks, right, n),
        "weighted": lambda n: majority_at_k(answers, right, n, seed=problem, weights=weights),
        "majority": lambda n: majority_at_k(answers, right, n, seed=problem),
    }


def known_within(report: Mapping[str, Any]) -> bool:
    """Whether the AUROC within a problem is of enough problems to be told of the head."""
    return report["within"] is not None and report["within_problems"] >= FEWEST


def table_of(report: Mapping[str, Any]) -> str:
    """The report as a few lines for people."""
    doubt = "" if known_within(report) else f", which is known from {FEWEST} on"
    lines = [
        f"held out: {report['problems']} problems, {report['chains']} chains",
        f"AUROC within a problem {_shown(report['within'])} ({report['within_problems']} with "
        f"right and wrong chains{doubt}), over all {_shown(report['auroc'])}",
        f"Brier {_shown(report['brier'])}, calibration error {_shown(report['calibration_error'])}",
    ]
    line = report["calibration"]
    if line["before"] is not None:
        kept = "kept" if line["kept"] else "left out"
        lines.append(
            f"cross-entropy {line['before']:.4f}, calibrated {line['after']:.4f} "
            f"(log-odds x {line['scale']:.2f} {line['shift']:+.2f}: {kept})"
        )
    if (steps := report["steps"]) is not None:
        shares = ", ".join(f"{name} {_shown(steps[name])}" for name in ("erroneous", "right", "f1"))
        lines.append(f"first wrong step found in {steps['chains']} chains: {shares}")
    for row in report["best_of"]:
        shares = ", ".join(f"{name} {100 * row[name]:.1f} %" for name in list(row)[1:])
        lines.append(f"{row['n']:4d} samples: {shares}")
    return "\n".join(lines)


def _or_none(number: float) -> float | None:
    return None if math.isnan(number) else float(number)


def _shown(number: float | None) -> str:
    return "unknown" if number is None else f"{number:.3f}"
