"""What do models do in their streams, and how often are they right?

    python -m benchmarks.learning.streams --test test8.jsonl --seeds 0,1,2
    --models "imitation=plain-{seed},retry=retry-{seed}" --out streams

Each model samples chains of all test problems. Those that write streams go back, check and try
again as their `guide.json` says; with --attempts all make that many, and the search writes the line
between them. The table says how often the last line that stands is right, the difference to the
first model (paired, with intervals over problems and, where there are several, over seeds of
training), pass@k and majority of all samples, what first and last attempts are worth, the moves of
a chain, and what it cost. Samples are kept in --out; a run that was killed goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

import guides
from benchmarks.output import row as row_of
from benchmarks.output import table, write_csv
from benchmarks.sweep import statistics
from benchmarks.sweep.plan import Task, task_of_file
from benchmarks.verifiers.samples import Sample, samples_of, searched
from guides.data.behaviour import Behaviour, of_replay, summary
from guides.data.grading import Checker, Replay, checker_of
from guides.engines import unload
from search.files.atomic import atomic
from search.guide import Guide
from search.problems.stream import Moves, Stream
from search.solution import Solution

log = logging.getLogger(f"copse.{__name__}")

AT_ONCE = 250  #: problems that are sampled between two writes of a pool
#: of a summary, those that the table shows, as shares in per cent or as numbers
SHARES = ("first", "last", "to_right", "to_wrong", "copied", "withdrawn", "true")
NUMBERS = ("backs", "checks", "lines")


@dataclass(frozen=True)
class Pool:
    """The samples of one problem, an item each, and what all of them cost.

    chains  what each stream did, as fields of a `Behaviour`; empty for models without streams
    """

    answers: list[str | None]
    right: list[bool]
    chains: list[dict[str, Any]]
    tokens: int
    flops: float


def streaming(guide: Guide, attempts: int) -> Guide:
    """The guide whose streams have so many attempts, between which the search writes the move."""
    again = Moves().again
    if guide.stream is not None:
        again = Moves(**guide.stream.get("moves", {})).again or again
    moves = asdict(Moves(again=again, back=None, check=None))
    policy: Any = guide.policy
    rules = {"moves": moves, "attempts": attempts, "insist": True}
    return replace(guide, policy=policy.longer(attempts), stream=rules)


def pooled(
    task: Task, name: str, samples: int, solution: Solution, checker: Checker | None
) -> Pool:
    """The samples of a finished search."""
    found = samples_of(task, name, solution)[:samples]
    found += [Sample()] * (samples - len(found))
    chains: list[Behaviour] = []
    if isinstance(solution.problem, Stream):
        assert solution.trace is not None
        chains = of_replay(Replay(solution.trace), checker, task.targets.get(name))
    return Pool(
        list(map(attrgetter("answer"), found)),
        list(map(attrgetter("right"), found)),
        list(map(asdict, chains)),
        solution.usage.generated,
        solution.usage.flops,
    )


def pools_of(
    guide: Guide, task: Task, samples: int, path: Path, checker: Checker | None
) -> list[Pool]:
    """The samples of each test problem, from the file `path` that has a line a problem, or sampled
    into it.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    done: dict[str, Pool] = {}
    for line in lines:
        row = json.loads(line)
        name = row.pop("id")
        done[name] = Pool(**row)
    waiting = [name for name in task.problems if name not in done]
    for start in range(0, len(waiting), AT_ONCE):
        names = waiting[start : start + AT_ONCE]
        part = replace(task, problems={name: task.problems[name] for name in names})

        def finish(name: str, solution: Solution, part: Task = part) -> None:
            done[name] = pooled(part, name, samples, solution, checker)

        searched(part, guide, samples, finish)
        for name in names:
            lines.append(json.dumps({"id": name, **asdict(done[name])}))
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as file:
            file.write_text("\n".join(lines) + "\n")
    return list(map(done.__getitem__, task.problems))


def right_of(pools: Sequence[Sequence[Pool]]) -> np.ndarray:
    """Share of right samples of each problem, in per cent. float64 [problems, seeds]"""
    shares = [list(map(_share_right, seed)) for seed in pools]
    return 100 * np.array(shares).T


def _share_right(pool: Pool) -> float:
    return float(np.mean(pool.right))


def report(measured: Mapping[str, Sequence[Sequence[Pool]]], path: Path) -> str:
    """Markdown, a line a model; the same as CSV into `path`.

    measured  the pools of each problem, of each seed, by the model
    """
    first = next(iter(measured))
    reference = right_of(measured[first])
    rows = []
    for name, seeds in measured.items():
        single = right_of(seeds)
        pools = list(itertools.chain.from_iterable(seeds))
        samples = len(pools[0].right)
        row = {"model": name, "seeds": len(seeds), "right": _interval(single), f"over {first}": ""}
        if name != first and single.shape == reference.shape:
            row[f"over {first}"] = _interval(single - reference, signed=True)
        if samples > 1:
            several = np.array(list(map(attrgetter("right"), pools)))
            row[f"pass@{samples}"] = f"{100 * several.any(1).mean():.1f}"
            votes = list(map(_majority, pools))
            row[f"majority@{samples}"] = f"{100 * np.mean(votes):.1f}"
        row["delta"] = _delta(seeds)
        chains = itertools.chain.from_iterable(map(attrgetter("chains"), pools))
        whole = summary(Behaviour(**chain) for chain in chains)
        for key in SHARES:
            row[key] = _cell(100 * whole.get(key, math.nan))
        for key in NUMBERS:
            row[key] = _cell(whole.get(key, math.nan))
        tokens, flops = np.mean(list(map(attrgetter("tokens", "flops"), pools)), 0) / samples
        row["tokens"] = f"{tokens:.1f}"
        row["flops"] = f"{flops:.3g}"
        rows.append(row)
    write_csv(path, rows)
    lines = [row_of(rows[0])]
    lines += [row_of(map(str, row.values())) for row in rows]
    return table(lines)


def _majority(pool: Pool) -> float:
    return statistics.majority_at_k(pool.answers, pool.right, len(pool.right))


def _delta(seeds: Sequence[Sequence[Pool]]) -> str:
    """What last attempts gain over first ones, "" where no chain has two."""
    found = np.full((len(seeds[0]), len(seeds)), math.nan)
    for column, seed in enumerate(seeds):
        for place, pool in enumerate(seed):
            gains = 0.0
            several = 0
            for chain in pool.chains:
                if chain["agains"]:
                    gains += chain["last"] - chain["first"]
                    several += 1
            if several:
                found[place, column] = 100 * gains / several
    whole = found[~np.isnan(found).any(1)]
    return _interval(whole, signed=True) if len(whole) else ""


def _interval(values: np.ndarray, *, signed: bool = False) -> str:
    """Of float [problems, seeds]; over seeds as well where there are several."""
    found = statistics.bootstrap(values, two_level=values.shape[1] > 1)
    return found.signed if signed else str(found)


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1f}"


def read_models(text: str, seeds: Sequence[int]) -> dict[str, list[str]]:
    """The checkpoints of each model by its name, one a seed, or one in all where its path names
    no seed. Raises ValueError for what is not written so.
    """
    found: dict[str, list[str]] = {}
    for part in text.split(","):
        name, _, path = part.strip().partition("=")
        if not name or not path or name in found:
            raise ValueError(f"{part!r} is no model: write name=checkpoint, each name once")
        found[name] = [path.replace("{seed}", str(seed)) for seed in seeds]
        if "{seed}" not in path:
            found[name] = [path]
    return found


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", required=True, help='"name=checkpoint,name=checkpoint-{seed}"')
    parser.add_argument("--test", type=Path, required=True, help="problems with targets")
    parser.add_argument("--seeds", default="0", help="that stand for {seed}")
    parser.add_argument("--samples", type=int, default=1, help="of each test problem")
    parser.add_argument("--temperature", type=float, default=1.0, help="of these; 0: greedy")
    parser.add_argument("--attempts", type=int, help="of each chain. Default: as the model does")
    parser.add_argument("--checker", help="module:function that says which checks are true")
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path("streams"))
    args = parser.parse_args()
    measured: dict[str, list[list[Pool]]] = {}
    try:
        task = task_of_file(args.test)
        checker = checker_of(args.checker)
        models = read_models(args.models, list(map(int, args.seeds.split(","))))
        kind = f"{task.name}-{args.samples}-{args.temperature:g}-{args.attempts or 'own'}"
        for name, checkpoints in models.items():
            for place, checkpoint in enumerate(checkpoints):
                guide = guides.load(checkpoint, slots=args.slots, temperature=args.temperature)
                if args.attempts:
                    guide = streaming(guide, args.attempts)
                path = args.out / f"{name}-{place}-{kind}.jsonl"
                log.info("%s, %s", name, checkpoint)
                own = pools_of(guide, task, args.samples, path, checker)
                unload(checkpoint)
                measured.setdefault(name, []).append(own)
        said = report(measured, args.out / f"{kind}.csv")
        log.info("\n%s", said)
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
