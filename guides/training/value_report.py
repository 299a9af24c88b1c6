"""What a trained value head is worth, told on problems that were held out: `report.json` of a
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
from search.scheduling.scheduler import run

BINS = 15  #: of the expected calibration error (Guo et al. 2017), equally wide
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
    line, told = calibrate(held, values)
    head.weight.data *= line.scale
    head.bias.data.mul_(line.scale).add_(line.shift)
    fresh = np.arange(len(held.lost)) % 2 >= told["kept"]
    return report_of(held, line(values), fresh) | {"calibration": told}


def calibrate(held: Held, values: np.ndarray) -> tuple[Line, dict[str, Any]]:
    """How to change the log-odds, and {"scale", "shift", "kept", "before", "after"}: the
    cross-entropy with the labels, nats.

    The fit is on the problems with even numbers, before and after are of the others. Labels are
    weighed as in training.
    """
    labels, even = held.labels.soft, held.problems % 2 == 0
    known = ~np.isnan(labels) & ~np.isnan(values)
    weights = 1 / (1 + DOUBT / np.maximum(held.n, 1e-9))
    halves = [(values[part], labels[part], weights[part]) for part in (known & even, known & ~even)]
    line = fit(*halves[0])
    if not len(halves[1][0]):
        return Line(), {"scale": 1.0, "shift": 0.0, "kept": False, "before": None, "after": None}
    before, after = (cross_entropy(one(halves[1][0]), *halves[1][1:]) for one in (Line(), line))
    told = {
        "scale": line.scale,
        "shift": line.shift,
        "kept": after < before,
        "before": before,
        "after": after,
    }
    return (line if after < before else Line()), told


def report_of(held: Held, values: np.ndarray, fresh: np.ndarray) -> dict[str, Any]:
    """What `judge` says, of values float64 [N] in [0, 1], but for the calibration. fresh: bool
    [problems], it has not seen them.
    """
    # a row a sample
    rows = np.repeat(
        np.flatnonzero(~np.isnan(values[held.ends])), held.times[~np.isnan(values[held.ends])]
    )
    scores, right, problems = (
        values[held.ends[rows]],
        held.right[rows],
        held.problems[held.ends[rows]],
    )
    inside = np.array(
        [auroc(scores[problems == one], right[problems == one]) for one in np.unique(problems)]
    )
    told_apart, new = inside[~np.isnan(inside)], fresh[problems]
    return {
        "problems": len(held.lost),
        "chains": len(rows),
        "auroc": _known(auroc(scores, right)),
        "within": _known(told_apart.mean() if len(told_apart) else math.nan),
        "within_problems": len(told_apart),
        "brier": _known(((scores - right)[new] ** 2).mean() if new.any() else math.nan),
        "calibration_error": _known(calibration_error(scores[new], right[new])),
        "steps": step_report(held, values),
        "best_of": selection(held, values),
    }


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
        wrong, called = _first(held.k[path] == 0.0), _first(values[path] < THRESHOLD)
        hits[wrong == len(path)].append(called == wrong)
    if not hits[False] and not hits[True]:
        return None
    erroneous, right = (
        float(np.mean(hits[clean])) if hits[clean] else math.nan for clean in (False, True)
    )
    # 0, or nan
    f1 = 2 * erroneous * right / (erroneous + right) if erroneous + right > 0 else erroneous + right
    return {
        "erroneous": _known(erroneous),
        "right": _known(right),
        "f1": _known(f1),
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
    sizes = [2**i for i in range(int(samples.min()).bit_length())]
    table: list[dict[str, Callable[[int], float]]] = [
        _choices(held, values, one, problems == one) for one in range(len(samples))
    ]
    return [
        {
            "n": n,
            **{
                name: float(np.mean([row[name](n) for row in table]))
                for name in ("best", "weighted", "majority")
            },
        }
        for n in sizes
    ]


def _choices(
    held: Held, values: np.ndarray, problem: int, own: np.ndarray
) -> dict[str, Callable[[int], float]]:
    """The estimators of one problem, by name, as functions of n."""
    missing, times = [0] * int(held.lost[problem]), held.times[own]
    right = [*np.repeat(held.right[own], times).tolist(), *map(bool, missing)]
    answers = [
        *(None if a < 0 else a for a in np.repeat(held.answers[own], times).tolist()),
        *(None for _ in missing),
    ]
    scores = np.nan_to_num(np.repeat(values[held.ends[own]], times), nan=0.0)
    ranks, weights = [*scores.tolist(), *(-1.0 for _ in missing)], [*scores.tolist(), *missing]
    return {
        "best": lambda n: best_of_k(ranks, right, n),
        "weighted": lambda n: majority_at_k(answers, right, n, seed=problem, weights=weights),
        "majority": lambda n: majority_at_k(answers, right, n, seed=problem),
    }


def table_of(report: Mapping[str, Any]) -> str:
    """The report as a few lines for people."""
    lines = [
        f"held out: {report['problems']} problems, {report['chains']} chains",
        f"AUROC within a problem {_told(report['within'])} ({report['within_problems']} with "
        "right and wrong chains), "
        f"over all {_told(report['auroc'])}",
        f"Brier {_told(report['brier'])}, calibration error {_told(report['calibration_error'])}",
    ]
    line = report["calibration"]
    if line["before"] is not None:
        how = (
            f"log-odds x {line['scale']:.2f} {line['shift']:+.2f}: "
            f"{'kept' if line['kept'] else 'left out'}"
        )
        lines.append(f"cross-entropy {line['before']:.4f}, calibrated {line['after']:.4f} ({how})")
    if (steps := report["steps"]) is not None:
        said = ", ".join(f"{name} {_told(steps[name])}" for name in ("erroneous", "right", "f1"))
        lines.append(f"first wrong step found in {steps['chains']} chains: {said}")
    lines += [
        f"{row['n']:4d} samples: " + ", ".join(f"{k} {100 * row[k]:.1f} %" for k in list(row)[1:])
        for row in report["best_of"]
    ]
    return "\n".join(lines)


def _known(number: float) -> float | None:
    return None if math.isnan(number) else float(number)


def _told(number: float | None) -> str:
    return "unknown" if number is None else f"{number:.3f}"
