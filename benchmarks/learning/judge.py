"""Does a model that writes its verdicts judge better than a value head of the same size, from the
same chains (GenRM; Zhang et al. 2024)?

    python -m benchmarks.tasks training --only chains --size 8 --count 400 --seed 5 > judged8.jsonl
    python -m benchmarks.tasks test --only chains --size 8 --count 300 --seed 7 > test8.jsonl
    python -m benchmarks.learning.judge --input judged8.jsonl --test test8.jsonl --base headless
    --chains 16 --samples 64 --seeds 0,1,2 --out judged

`--guide` samples chains of the training problems once. From these, labelled by outcomes, `--base`
is trained to a value head and to a judge, with equal passes over the chains, each with its own
learning rate. Both score one pool of samples of each test file. The table says how well each tells
right from wrong chains of a problem, and for each number of samples how often the best-scored one,
and the vote weighted by scores, are right, with intervals over problems and seeds, and what the
scores cost. A run that was killed goes on.
"""

from __future__ import annotations

import argparse
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning.vstar import sampled, scored
from benchmarks.output import row as row_of
from benchmarks.output import table, write_csv
from benchmarks.sweep import statistics
from benchmarks.sweep.plan import task_of_file
from benchmarks.verifiers.samples import ESTIMATES, Columns
from guides.data.grading import read_targets
from guides.data.streams import Streaming
from guides.training.train_guide import train_guide

log = logging.getLogger(f"copse.{__name__}")

TRAINING = {"batch": 16, "precision": "float32"}
CHOOSERS = ("majority", "best", "weighted")


def trained(
    kind: str,
    traces: Path,
    targets: Mapping[str, str],
    out: Path,
    options: Mapping[str, Any],
    args: argparse.Namespace,
    seed: int,
) -> Path:
    """The checkpoint of a "head" or a "judge"."""
    choices: dict[str, Any] = {"policy": "none", "every_token": True}
    weight = 1.0
    if kind == "judge":
        choices = {"streams": Streaming(kind="critiques", keep=args.chains)}
        weight = 0.0
    return train_guide(
        traces,
        targets,
        args.base,
        out,
        {**TRAINING, **options, "value_weight": weight},
        held_out=0.0,
        seed=seed,
        off_policy=True,
        checker=args.checker,
        **choices,
    )


def known(own: Columns) -> Columns:
    """With the score 0 for a chain that a verifier could not read, such as one that is longer than
    its context with all checks.
    """
    unread = np.isnan(own.values)
    if unread.any():
        log.warning("%d of %d chains of a problem were not read", unread.sum(), len(unread))
    return replace(own, values=np.where(unread, 0.0, own.values).tolist())


def apart(problems: Sequence[Columns]) -> np.ndarray:
    """AUROC of the scores of each problem, nan for those without right and wrong chains.
    float64 [problems], in [0, 1]
    """
    areas = []
    for own in problems:
        ended = np.array([answer is not None for answer in own.answers], bool)
        values = np.array(own.values)[ended].tolist()
        areas.append(statistics.auroc(values, np.array(own.right)[ended].tolist()))
    return np.array(areas)


def rows_of(test: str, kind: str, seeds: Sequence[Sequence[Columns]]) -> list[dict[str, Any]]:
    """What a verifier chose, a row a way of choosing and number of samples.

    seeds  the scored samples of each problem, of each seed of training
    """
    areas = np.stack(list(map(apart, seeds)), 1)
    told = ~np.isnan(areas).any(1)
    within = statistics.bootstrap(areas[told], two_level=areas.shape[1] > 1) * 100
    found = []
    for chooser, power in itertools.product(CHOOSERS, range(len(seeds[0][0].right).bit_length())):
        right = chosen(seeds, chooser, 2**power)
        share = statistics.bootstrap(right, two_level=right.shape[1] > 1)
        found.append(
            {
                "test": test,
                "verifier": kind,
                "within": str(within),
                "choose": chooser,
                "samples": str(2**power),
                "right": str(share),
            }
        )
    return found


def chosen(seeds: Sequence[Sequence[Columns]], chooser: str, size: int) -> np.ndarray:
    """How often the choice of `size` samples is right, in per cent. float64 [problems, seeds]"""
    shares = np.zeros((len(seeds[0]), len(seeds)))
    for seed, problems in enumerate(seeds):
        for place, own in enumerate(problems):
            shares[place, seed] = 100 * ESTIMATES[chooser](own, size, place)
    return shares


def report(measured: Mapping[str, Mapping[str, Sequence[Sequence[Columns]]]], path: Path) -> str:
    """Markdown; the same as CSV into `path`.

    measured  the scored samples of each problem, of each seed, by the verifier, by the test
    """
    rows = []
    lines = []
    for test, verifiers in measured.items():
        for kind, seeds in verifiers.items():
            rows += rows_of(test, kind, seeds)
        if {"head", "judge"} <= set(verifiers):
            for chooser in ("best", "weighted"):
                lines.append(_differences(test, verifiers, chooser))
    write_csv(path, rows)
    shown = [row_of(rows[0])]
    shown += map(row_of, map(dict.values, rows))
    return "\n\n".join([table(shown), *lines])


def _differences(
    test: str, verifiers: Mapping[str, Sequence[Sequence[Columns]]], chooser: str
) -> str:
    """The judge less the head, for each number of samples."""
    size = len(verifiers["judge"][0][0].right)
    cells = []
    for power in range(1, size.bit_length()):
        judge = chosen(verifiers["judge"], chooser, 2**power)
        less = judge - chosen(verifiers["head"], chooser, 2**power)
        found = statistics.bootstrap(less, two_level=less.shape[1] > 1)
        cells.append(f"{2**power}: {found.signed}")
    return f"{test}, {chooser}, judge less head at {'; '.join(cells)}"


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--guide", default="builtin", help="what samples")
    parser.add_argument("--base", default="builtin", help="what is trained")
    parser.add_argument("--input", type=Path, required=True, help="training problems with targets")
    parser.add_argument("--test", type=Path, required=True, action="append")
    parser.add_argument("--checker", default=None, help="module:function that judges steps")
    parser.add_argument("--chains", type=int, default=16, help="of each training problem")
    parser.add_argument("--samples", type=int, default=64, help="of each test problem")
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--lr-head", type=float, default=3e-4)
    parser.add_argument("--lr-judge", type=float, default=3e-4)
    parser.add_argument("--kinds", default="head,judge")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path("judged"))
    args = parser.parse_args()
    rates = {"head": args.lr_head, "judge": args.lr_judge}
    kinds = args.kinds.split(",")
    if not set(kinds) <= set(rates):
        parser.error(f"--kinds are of {', '.join(rates)}, not {args.kinds}")
    measured: dict[str, dict[str, list[list[Columns]]]] = {}
    try:
        training = task_of_file(args.input)
        targets = read_targets(args.input)
        tests = list(map(task_of_file, args.test))
        traces = args.out / "traces"
        traces.mkdir(parents=True, exist_ok=True)
        sampled(training, args.guide, args.chains, args.slots, traces / "chains.parquet")
        for seed, kind in itertools.product(map(int, args.seeds.split(",")), kinds):
            out = args.out / f"{kind}-{seed}"
            log.info("%s, seed %d", kind, seed)
            options = {"lr": rates[kind], "epochs": args.epochs}
            verifier = trained(kind, traces, targets, out, options, args, seed)
            for task in tests:
                drawn = f"{task.name}-{args.samples}"
                pool = args.out / f"{drawn}.parquet"
                replays = sampled(task, args.guide, args.samples, args.slots, pool)
                own = scored(task, replays, args.samples, verifier, out / f"{drawn}.jsonl")
                seeds = measured.setdefault(task.name, {}).setdefault(kind, [])
                seeds.append(list(map(known, own)))
        log.info("\n%s", report(measured, args.out / "judged.csv"))
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
