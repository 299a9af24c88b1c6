"""Guided search against best-of-N and majority at equal tokens, those that the verifier reads
included (Snell et al. 2024).

    python -m benchmarks.verifiers.guided --task chains --sizes 4,16,64 --out guided.csv
    python -m benchmarks.verifiers.guided --value DIR --search "beam width=4 branch={quarter}"

Without --value the policy's own head judges, whose values come with the pass that writes a step;
the verifier of --value has an engine of its own and reads every chain and prefix that it judges.
Tokens are those generated and those read (`generated` and `prefilled` of `benchmarks.sweep.rows`),
by policy and verifier; each search starts with empty caches, and what its own cache has is not read
again. Searches whose text has a place for N ({n}, its {root}, a {quarter} of it) run to their end,
once for each size; the others have, for each size, as many tokens to generate as N chains took, and
where their verifier then read more, so many fewer that the sums come near each other.

Methods are compared at the tokens that best-of-N took on the mean. What a method reaches there lies
on the line between two of its own sizes: whoever tosses a coin between the two searches spends and
solves just that on the mean. Beyond its largest size it keeps what that one reached: a majority
asks no verifier, so it ends below the tokens of best-of-N. Intervals are paired, over problems.
Problems that verify themselves have no best-of-N: there N chains end with the first that is right,
and so do the searches.

A second start does what is missing, and prints the tables again.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.output import row as row_of
from benchmarks.output import table
from benchmarks.sweep import report, rows, run
from benchmarks.sweep import statistics as stats
from benchmarks.sweep.plan import Limit, Task, read_runs, task_named
from benchmarks.tasks import TASKS
from search.guide import Guide

log = logging.getLogger(f"copse.{__name__}")

CHOSEN = {
    "best": "best_of_n chains={n}",
    "weighted": "weighted_vote chains={n}",
    "majority": "self_consistency chains={n} value=0.5",  # no vote reads values
}
VERIFIED = {"sample": "sample chains={n}"}
SEARCHES = ("beam width={root} branch={root}", "mcts")
ENOUGH = Limit("tokens", 1_000_000)  #: for searches that end by themselves


class Rung(NamedTuple):
    """One method at one size. tokens: its mean, generated and read;  right: problem -> seed -> 1.0
    or 0.0, in the order of
    the problems' names;  found: the rows.
    """

    tokens: float
    right: report.Table
    found: Sequence[rows.Row]


def bases(task: Task) -> dict[str, str]:
    """What searches are compared with, by name; the tokens of the first one are those at which
    all are compared.
    """
    return CHOSEN if task.targets else VERIFIED


def written(text: str, n: int) -> str:
    """A method's text for the size n. Raises ValueError for a place that is none."""
    try:
        return " ".join(text.format(n=n, root=round(n**0.5), quarter=max(1, n // 4)).split())
    except (KeyError, IndexError, ValueError):
        raise ValueError(
            f"cannot read the places in {text!r}: write {{n}}, {{root}} or {{quarter}}"
        ) from None


def measure(
    task: Task,
    searches: Sequence[str],
    sizes: Sequence[int],
    seeds: int,
    out: Path,
    load: Callable[..., Guide],
    limit: int = 64,
    progress: bool | None = None,
) -> dict[str, list[Rung]] | None:
    """Sweep what is missing in `out`; the rungs of each method by its text, ascending in tokens.
    None where Ctrl-C ended it.

    sizes  N, ascending. The searches have one more, half the smallest, so that they are known at
           its tokens, too
    """
    half = [sizes[0] // 2] if sizes[0] > 1 else []
    ladders: dict[str, list[tuple[str, Limit]]] = {}
    for text in bases(task).values():
        ladders[text] = _ended(text, sizes)
    anytime = []  # searches that are stopped by their budget
    for text in searches:
        if "{" in text:
            ladders[text] = _ended(text, [*half, *sizes])
        else:
            anytime.append(" ".join(text.split()))
    steps = itertools.chain.from_iterable(ladders.values())
    ended = list(dict.fromkeys(method for method, _ in steps))
    # what is wrong with any of them is reported before the first search
    read_runs([*ended, *anytime], task)

    def swept(methods: Sequence[str], budget: Limit) -> bool:
        runs = read_runs(methods, task)
        return run.sweep(task, runs, [budget], seeds, out, load, limit=limit, progress=progress)

    if not swept(ended, ENOUGH):
        return None
    targets: list[tuple[float, Rung]] = []  # a share of what a rung of the first method took
    if anytime:
        first_method = next(iter(ladders.values()))
        bests = [_rung(rows.read(out), task, *step) for step in first_method]
        if half:
            targets.append((half[0] / sizes[0], bests[0]))
        targets += zip(itertools.repeat(1.0), bests, strict=False)
    for text in anytime:
        ladders[text] = []
        for share, best in targets:
            first = Limit("tokens", max(1, round(share * _mean(best.found, "generated"))))
            if not swept([text], first):
                return None
            taken = _rung(rows.read(out), task, text, first).tokens
            excess = max(1.0, taken / (share * best.tokens))
            nearer = Limit("tokens", max(1, round(first.amount / excess)))
            if not swept([text], nearer):
                return None
            ladders[text] += [(text, first), (text, nearer)]
    found = rows.read(out)
    rungs = {}
    for text, own in ladders.items():
        made = [_rung(found, task, *step) for step in dict.fromkeys(own)]
        rungs[text] = sorted(made, key=lambda rung: rung.tokens)
    return rungs


def _ended(text: str, sizes: Sequence[int]) -> list[tuple[str, Limit]]:
    """A method that ends by itself at each size, with a budget that does not stop it."""
    return [(written(text, n), ENOUGH) for n in sizes]


def _rung(found: Iterable[rows.Row], task: Task, method: str, budget: Limit) -> Rung:
    wanted = (task.name, method, str(budget))
    own = []
    for row in found:
        step = (row["task"], row["method"], row["budget"])
        if step == wanted and row["problem"] in task.problems:
            own.append(row)
    right = report.table(own, lambda one: float(one[0]["correct"]))
    return Rung(_mean(own, "generated") + _mean(own, "prefilled"), dict(sorted(right.items())), own)


def _mean(found: Sequence[rows.Row], column: str) -> float:
    return statistics.fmean(rows.numbers(found, column))


def at(ladder: Sequence[Rung], tokens: float) -> report.Table | None:
    """What a method solves with so many tokens on the mean: its last rung where that costs less,
    None where its first costs more.
    """
    if tokens < ladder[0].tokens:
        return None
    for low, high in itertools.pairwise(ladder):
        if tokens < high.tokens:
            share = (tokens - low.tokens) / (high.tokens - low.tokens)
            mixed: report.Table = {}
            for problem, by in low.right.items():
                more = high.right[problem]
                mixed[problem] = {
                    seed: (1 - share) * right + share * more[seed] for seed, right in by.items()
                }
            return mixed
    return ladder[-1].right


def tables(ladders: dict[str, list[Rung]], names: Sequence[str], sizes: Sequence[int]) -> str:
    """Markdown: what every rung took and solved; per cent right at equal tokens; points more than
    each of the first methods.

    names  of the methods that the others are compared with, which come first in `ladders`: at the
           tokens of the first of them

    The last column is how much larger the advantage is at the smallest than at the largest size at
    which it is known.
    """
    first = list(ladders)[: len(names)]
    others = list(ladders)[len(names) :]
    labels = dict(zip(ladders, [*names, *others], strict=True))
    places = list(map(attrgetter("tokens"), ladders[first[0]]))
    heads = [f"N={n}: {tokens:,.0f} tokens" for n, tokens in zip(sizes, places, strict=True)]
    head = ["method", "size", "generated", "read", "tokens", "FLOPs", "per cent right"]
    took = [row_of(head)]
    solved = [row_of(["per cent right", *heads])]
    for text, ladder in ladders.items():
        for rung in ladder:
            took.append(row_of([labels[text], *_cost(rung)]))
        cells = [_rate(at(ladder, tokens)) for tokens in places]
        solved.append(row_of([labels[text], *cells]))
    more = [row_of(["points more", *heads, "smallest - largest"])]
    for a, b in itertools.product(others, first):
        gains = _gains(ladders[a], ladders[b], places)
        more.append(row_of([f"{labels[a]} - {labels[b]}", *gains]))
    return "\n\n".join(map(table, (took, solved, more)))


def _cost(rung: Rung) -> list[str]:
    budget = rung.found[0]["budget"]
    size = rung.found[0]["method"] if budget == str(ENOUGH) else budget
    return [
        size,
        f"{_mean(rung.found, 'generated'):,.0f}",
        f"{_mean(rung.found, 'prefilled'):,.0f}",
        f"{rung.tokens:,.0f}",
        f"{_mean(rung.found, 'flops'):.3g}",
        _rate(rung.right),
    ]


def _rate(right: report.Table | None) -> str:
    if right is None:
        return "-"
    return str(stats.bootstrap(report.means(right)) * 100)


def _gains(first: Sequence[Rung], second: Sequence[Rung], places: Sequence[float]) -> list[str]:
    """`first` minus `second` at each of so many tokens, and the change from the smallest to the
    largest, in points.
    """
    cells = []
    gains = []
    for tokens in places:
        one = at(first, tokens)
        other = at(second, tokens)
        if one is None or other is None:
            cells.append("-")
            continue
        gains.append(report.means(one) - report.means(other))
        cells.append(_signed(gains[-1]))
    cells.append(_signed(gains[0] - gains[-1]) if len(gains) > 1 else "-")
    return cells


def _signed(gains: np.ndarray) -> str:
    return (stats.bootstrap(gains) * 100).signed


def loader(
    guide: str, value: str | None, judge: str | None, critiques: int, slots: int
) -> Callable[..., Guide]:
    """`load(**policy)` for `benchmarks.sweep.run`: one checkpoint, or a policy with another one's
    head or verdicts as verifier.

    Raises ValueError for critiques of nobody.
    """
    import guides

    if critiques and judge is None:
        raise ValueError("--critiques are those of a --judge: give one, or leave them out")
    # an engine of its own, even of the same checkpoint: else it would find all read already
    more = {"slots": slots + 1}

    def load(**policy: Any) -> Guide:
        if value is None and judge is None:
            return guides.load(guide, slots=slots, **policy)
        if value is not None:
            verifier = guides.PRM(value, **more)
        else:
            verifier = guides.Judge(judge, critiques, **more)
        return Guide(guides.LM(guide, slots=slots, **policy), verifier)

    return load


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=sorted(TASKS), default="chains")
    parser.add_argument("--problems", type=int, help="only the first so many")
    parser.add_argument(
        "--search",
        action="append",
        help=f"a search that is compared, again for more (default: {', '.join(SEARCHES)})",
    )
    parser.add_argument("--sizes", default="4,8,16,32,64", help="N, ascending")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("guided.csv"))
    parser.add_argument("--guide", default="builtin")
    verifier = parser.add_mutually_exclusive_group()
    verifier.add_argument(
        "--value",
        metavar="DIR",
        help="a checkpoint whose value head judges, in an engine of its own",
    )
    verifier.add_argument(
        "--judge",
        metavar="DIR",
        help="a chat model that is asked for verdicts, in an engine of its own",
    )
    parser.add_argument("--critiques", type=int, default=0, help="of --judge, before its verdict")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--limit", type=int, default=64, help="searches at once")
    args = parser.parse_args()
    try:
        sizes = list(map(int, args.sizes.split(",")))
        if sorted(set(sizes)) != sizes or sizes[0] < 1:
            raise ValueError(
                f"the sizes {args.sizes} are not ascending whole numbers from 1 on: write for "
                "example 4,16,64"
            )
        whole = task_named(args.task)
        task = replace(
            whole, problems=dict(itertools.islice(whole.problems.items(), args.problems))
        )
        load = loader(args.guide, args.value, args.judge, args.critiques, args.slots)
        found = measure(
            task,
            args.search or SEARCHES,
            sizes,
            args.seeds,
            args.out,
            load,
            args.limit,
            progress=None,
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if found is None:
        raise SystemExit(130)
    log.info(
        "%s, %d problems\n\n%s",
        task.name,
        len(task.problems),
        tables(found, list(bases(task)), sizes),
    )


if __name__ == "__main__":
    main()
