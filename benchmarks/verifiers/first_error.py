"""Does a verifier find the first wrong step of a chain?

    python -m benchmarks.verifiers.first_error --champ v0.json --judge path/to/model --out found
    python -m benchmarks.verifiers.first_error --input processbench.jsonl --prm a/prm --out found

The data is a JSONL file in the form of ProcessBench (Zheng et al. 2024: `problem`, `steps` and
`label`, the place of the first wrong step, -1 where all are right), or with --champ the data file
of the package `champ-dataset` (Mao et al. 2024), whose chains of four models people have marked.
The score of each step is that of the chain up to it; the first one below a threshold is called
wrong. The threshold is chosen on one half of the problems and used on the other, and the reverse.

The table says how often the marked step is found, how often a chain without a mark is let pass, the
harmonic mean of both (F1 of ProcessBench) with its interval over problems, and the same for rules
that read nothing. Scores are kept in --out; a run that was killed goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

import guides
from benchmarks.output import row as row_of
from benchmarks.output import table
from benchmarks.sweep import statistics
from search.files.atomic import atomic
from search.problem import TextProblem, TextStep
from search.scheduling.driver import run
from search.scheduling.scheduler import parallel
from search.solver import seed_of

log = logging.getLogger(f"copse.{__name__}")

AT_ONCE = 32  #: chains that are read between two writes of the scores
RESAMPLES = 2000
QUANTILES = 101  #: thresholds that are tried, as quantiles of the scores


@dataclass(frozen=True)
class Marked:
    """A chain whose first wrong step is known.

    name     of the chain;  group: of its problem, whose chains stay in one half
    wrong    place of the first wrong step, -1: none is
    """

    name: str
    group: str
    problem: str
    steps: list[str]
    wrong: int


def process_bench(path: Path) -> Iterator[Marked]:
    """The chains of a file in the form of ProcessBench. Raises ValueError for a line that has not
    its fields.
    """
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            steps = list(map(str, row["steps"]))
            wrong = int(row["label"])
            problem = str(row["problem"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: {error!r}; a line is a JSON object with problem, steps "
                "and label"
            ) from None
        if not steps or not -1 <= wrong < len(steps):
            raise ValueError(
                f"{path}, line {number}: label {wrong} is no place among {len(steps)} steps, and "
                "not -1: correct it"
            )
        yield Marked(str(row.get("id", number)), problem, problem, steps, wrong)


def champ(path: Path) -> Iterator[Marked]:
    """The marked chains of the data file of `champ-dataset`. A step is a paragraph that is not
    blank; the first wrong one is that in which the mark begins.
    """
    for name, problem in json.loads(path.read_text())["problems"].items():
        for model, mark in (problem["fws_annotations"] or {}).items():
            text = mark["text"]
            start = mark["start_idx"]
            steps: list[str] = []
            wrong = -1
            place = 0
            for line in text.split("\n"):
                end = place + len(line) + 1
                if line.strip():
                    if start is not None and wrong < 0 and start < end:
                        wrong = len(steps)
                    steps.append(line.strip())
                place = end
            if steps and (wrong >= 0 or start is None):
                yield Marked(f"{name} {model}", name, problem["_text"], steps, wrong)


def scores_of(value: Any, chains: Sequence[Marked], path: Path) -> list[np.ndarray]:
    """The score of each step of each chain, nan where there is none, from the file `path` that has
    a line a chain, or read into it.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    found: dict[str, list[float]] = {}
    for row in map(json.loads, lines):
        found[row["name"]] = row["scores"]
    waiting = [one for one in chains if one.name not in found]
    for start in range(0, len(waiting), AT_ONCE):
        part = waiting[start : start + AT_ONCE]
        scored = run(parallel(map(partial(_scores, value), part)), dict(value.backends))
        for one, own in zip(part, scored, strict=True):
            found[one.name] = own
            lines.append(json.dumps({"name": one.name, "scores": own}))
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as file:
            file.write_text("\n".join(lines) + "\n")
        log.info("%d of %d chains are read", len(found), len(chains))
    return [np.array(found[one.name], np.float64) for one in chains]


async def _scores(value: Any, one: Marked) -> list[float]:
    problem = TextProblem(one.problem)
    steps = tuple(map(TextStep, one.steps))
    states = [steps[: place + 1] for place in range(len(steps))]
    unknown = np.full(len(states), np.nan, np.float32)
    rng = np.random.default_rng(seed_of(one.name, seed=0))
    found: np.ndarray = await value.evaluate(problem, states, unknown, rng)
    return found.astype(np.float64).tolist()


def called(scores: np.ndarray, threshold: float) -> int:
    """The place of the first score below the threshold, -1: none is."""
    below = np.flatnonzero(scores < threshold)
    return int(below[0]) if len(below) else -1


def marks(chains: Sequence[Marked]) -> np.ndarray:
    """The places of the first wrong steps, -1 without. int64 [chains]"""
    return np.array(list(map(attrgetter("wrong"), chains)), np.int64)


def grouped(chains: Sequence[Marked]) -> np.ndarray:
    """The number of the problem of each chain. int64 [chains]"""
    return np.unique(list(map(attrgetter("group"), chains)), return_inverse=True)[1]


def f1(right: np.ndarray, flawed: np.ndarray) -> float:
    """Harmonic mean of the shares of hits among chains with a wrong step and among those without,
    in [0, 1] (ProcessBench).

    right   bool [chains]: the call is the mark;  flawed: the chain has a wrong step
    """
    if not flawed.any() or flawed.all():
        return float(right.mean())
    first = float(right[flawed].mean())
    second = float(right[~flawed].mean())
    return 2 * first * second / (first + second) if first + second else 0.0


def crossed(chains: Sequence[Marked], scores: Sequence[np.ndarray], seed: int = 0) -> np.ndarray:
    """The calls of a verifier whose threshold is the best of the other half of the problems.
    int64 [chains]
    """
    groups = grouped(chains)
    side = np.random.default_rng(seed).permutation(groups.max() + 1)[groups] % 2
    every = np.concatenate(scores)
    tried = np.unique(np.quantile(every[~np.isnan(every)], np.linspace(0, 1, QUANTILES)))
    wrong = marks(chains)
    calls = np.full(len(chains), -1)
    for half in (0, 1):
        other = side != half
        best = -1.0
        for level in tried:
            now = np.array(list(map(partial(called, threshold=level), scores)))
            worth = f1((now == wrong)[other], wrong[other] >= 0)
            if worth > best:
                best = worth
                calls[~other] = now[~other]
    return calls


#: what a rule calls that reads nothing but how many steps there are
RULES: dict[str, Callable[..., int]] = {
    "no step": lambda one, rng: -1,
    "the first step": lambda one, rng: 0,
    "the last step": lambda one, rng: len(one.steps) - 1,
    "any step, or none": lambda one, rng: int(rng.integers(-1, len(one.steps))),
}


def line_of(name: str, chains: Sequence[Marked], calls: np.ndarray) -> str:
    """A line of the table."""
    wrong = marks(chains)
    flawed = wrong >= 0
    right = wrong == calls
    groups = grouped(chains)
    members = [np.flatnonzero(groups == group) for group in range(groups.max() + 1)]
    rng = np.random.default_rng(0)
    drawn = np.zeros(RESAMPLES)
    for turn in range(RESAMPLES):
        some = rng.integers(len(members), size=len(members))
        places = np.concatenate(list(map(members.__getitem__, some)))
        drawn[turn] = f1(right[places], flawed[places])
    low, high = np.quantile(drawn, [0.025, 0.975])
    whole = statistics.Interval(f1(right, flawed), float(low), float(high)) * 100
    found = 100 * right[flawed].mean() if flawed.any() else np.nan
    passed = 100 * right[~flawed].mean() if not flawed.all() else np.nan
    return row_of([name, f"{found:.1f}", f"{passed:.1f}", str(whole)])


def report(chains: Sequence[Marked], verifiers: dict[str, list[np.ndarray]]) -> str:
    """Markdown, a line a verifier and rule."""
    flawed = int((marks(chains) >= 0).sum())
    lines = [
        row_of(["verifier", f"found, of {flawed}", f"passed, of {len(chains) - flawed}", "F1"])
    ]
    for name, scores in verifiers.items():
        lines.append(line_of(name, chains, crossed(chains, scores)))
    for name, rule in RULES.items():
        rng = np.random.default_rng(0)
        calls = np.array(list(map(partial(rule, rng=rng), chains)))
        lines.append(line_of(name, chains, calls))
    return table(lines)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--input", type=Path, help="a file in the form of ProcessBench")
    data.add_argument("--champ", type=Path, help="v0.json of the package champ-dataset")
    parser.add_argument("--prm", action="append", default=[], help="a process reward model")
    parser.add_argument("--judge", action="append", default=[], help="a chat model that is asked")
    parser.add_argument("--critiques", type=int, default=0, help="of the judge, before its verdict")
    parser.add_argument("--limit", type=int, default=None, help="the first so many chains alone")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("found"))
    args = parser.parse_args()
    try:
        chains = list(champ(args.champ) if args.champ else process_bench(args.input))[: args.limit]
        if not chains:
            parser.error("there is no marked chain in the data")
        verifiers = {}
        options: Any = {"dtype": args.dtype, "slots": args.slots}
        for path in args.prm:
            name = f"prm-{Path(path).name}"
            value = guides.PRM(path, **options)
            verifiers[name] = scores_of(value, chains, args.out / f"{name}.jsonl")
        for path in args.judge:
            name = f"judge{args.critiques}-{Path(path).name}"
            asked = guides.Judge(path, args.critiques, **options)
            verifiers[name] = scores_of(asked, chains, args.out / f"{name}.jsonl")
        log.info("\n%s", report(chains, verifiers))
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
