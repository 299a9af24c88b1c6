"""Are labels from roll-outs what they claim to be? Measured on chains, where every step is known to
be right or wrong.

    python -m benchmarks.verifiers.label_quality calibration --guide my-model
    python -m benchmarks.verifiers.label_quality first-error --guide my-model --count 4 8 16

calibration  (i) prefixes of sampled chains whose value, from 2,000 roll-outs, is in [0.1, 0.9]: how
             often does the Wilson interval of 32 other roll-outs cover it? (ii) prefixes that end
             with the first mistake: how often is any of M roll-outs right, so that the hard label
             takes them for right? By the unbiased estimate from 64 roll-outs, with the rise from
             each M to the next
first-error  the first mistake of wrong chains of at least 8 steps, by labels of every step
             (Math-Shepherd) and by bisection (as OmegaPRM), with as many roll-outs a step. As
             there, problems that the model solves never or always in 32 roll-outs are left out
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import TypeVar

import numpy as np

import search
from benchmarks.sweep import statistics
from benchmarks.tasks import identity, target_of
from guides.builtin.chains_key import mistakes
from guides.data.labellers import Target, by_bisection, by_rollouts
from guides.values.rollout import Rollout
from search.guide import Guide
from search.problems.chains import Chains, State, generate
from search.scheduling.driver import run
from search.scheduling.scheduler import Asks, parallel
from search.solver import seed_of
from search.trace import Trace

log = logging.getLogger(f"copse.{__name__}")

T = TypeVar("T")
#: of the chains: long enough that many prefixes are neither lost nor won; short enough that what is
#: lost is lost by a mistake, not by a line of the plan that is missing, which is none (of wrong
#: chains of 5 the labels of 16 roll-outs find 17 % of the first mistakes)
OPERATIONS = {"calibration": 5, "first-error": 4}
LABEL = 32  #: roll-outs of a label
PILOT = 24  #: roll-outs by which prefixes are chosen
REFERENCE = 2_000  #: roll-outs of a reference value
#: so many steps before the end of its chain a prefix ends: roll-outs from there are short
LATE = (1, 2, 3)
DRAWS = 4  #: labels of a prefix: 32 roll-outs each
SIZES = (1, 4, 16, 64)  #: roll-outs of a hard label
SCREEN = 32  #: roll-outs that tell whether a problem is neither too easy nor too hard
STEPS = 8  #: the shortest chains whose first error is looked for


@dataclass(frozen=True)
class Prefix:
    """A beginning of a chain."""

    problem: Chains
    state: State


def side_by_side(guide: Guide, asks: Iterator[Asks[T]], limit: int = 64) -> list[T]:
    """The results of coroutines that share the engine of a guide."""
    return run(parallel(asks, limit), dict(guide.backends))


def outcomes(guide: Guide, prefixes: Sequence[Prefix], count: int, seed: int) -> np.ndarray:
    """float64 [prefixes, count], 0 or 1: was each roll-out right? Other roll-outs for another
    seed.
    """

    async def one(prefix: Prefix) -> np.ndarray:
        rng = np.random.default_rng(
            seed_of(f"{identity(prefix.problem)} {len(prefix.state)}", seed)
        )
        judge = Target(target_of(prefix.problem))
        return await Rollout(guide.policy, count, judge).outcomes(prefix.problem, prefix.state, rng)

    width = max(1, 512 // count)  # enough to fill the engine, not more
    return np.array(side_by_side(guide, map(one, prefixes), width)).reshape(-1, count)


def chains_of(guide: Guide, problems: Sequence[Chains], seed: int) -> list[Trace]:
    """The trace of one sampled chain of each problem."""
    seeds = [seed_of(identity(problem), seed) for problem in problems]
    found = search.solve_many(
        problems, guide, "sample", search.Budget(simulations=1), seeds, chains=1, progress=False
    )
    return list(filter(None, map(attrgetter("trace"), found)))


def last(trace: Trace) -> Prefix:
    """The chain of a trace that has only one."""
    problem = trace.problem()
    assert isinstance(problem, Chains)
    return Prefix(problem, trace.states(problem)[-1])


# -- calibration


def coverage(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float64 [prefixes]: the share of its labels whose Wilson interval covers its reference value.

    values  float64 [prefixes], the references;  labels: float64 [prefixes, draws, roll-outs], 0 or
            1
    """
    size = labels.shape[2]
    low = np.empty(size + 1)
    high = np.empty(size + 1)
    for right in range(size + 1):
        interval = statistics.wilson(right, size)
        low[right] = interval.low
        high[right] = interval.high
    counts = labels.sum(axis=2).astype(int)
    return ((low[counts] <= values[:, None]) & (values[:, None] <= high[counts])).mean(axis=1)


def false_positives(rolled: np.ndarray) -> np.ndarray:
    """float64 [prefixes, SIZES]: the chance that any of M roll-outs is right. rolled: float64
    [prefixes, roll-outs], 0 or 1.
    """
    n = rolled.shape[1]
    chances = np.empty((len(rolled), len(SIZES)))
    for place, right in enumerate(rolled.sum(axis=1)):
        chances[place] = [statistics.pass_at_k(n, int(right), size) for size in SIZES]
    return chances


def calibration(guide: Guide, prefixes: int, wrong: int, operations: int, seed: int) -> str:
    """Both tables, in Markdown: over up to `prefixes` prefixes of middling value and `wrong`
    ones that end with the first mistake.
    """
    problems = generate(seed, 20 * (prefixes + wrong), operations, 2, split="validation")
    late: list[Prefix] = []
    mistaken: list[Prefix] = []
    while len(late) < prefixes or len(mistaken) < wrong:
        batch = list(islice(problems, 256))
        if not batch:
            break
        ends = list(map(last, chains_of(guide, batch, seed)))
        late += _middling(guide, ends, seed + 1)
        mistaken += filter(None, map(_first_mistake, ends))
        log.info("%d prefixes of middling value, %d with a mistake", len(late), len(mistaken))
    late = late[:prefixes]
    mistaken = mistaken[:wrong]
    values = outcomes(guide, late, REFERENCE, seed + 2).mean(axis=1)
    labels = outcomes(guide, late, DRAWS * LABEL, seed + 3).reshape(len(late), DRAWS, LABEL)
    kept = (values >= 0.1) & (values <= 0.9)
    covered = statistics.bootstrap(coverage(values[kept], labels[kept])) * 100
    bias = statistics.bootstrap((labels[kept].mean(axis=(1, 2)) - values[kept]) * 100)
    taken = false_positives(outcomes(guide, mistaken, SIZES[-1], seed + 4)) * 100
    lines = [
        f"Wilson 95 % intervals of {LABEL} roll-outs cover the value in {covered} % of "
        f"{kept.sum()} prefixes x {DRAWS} labels;"
        f" label minus value {bias.signed} points",
        "",
        f"| M | taken for right, % of {len(mistaken)} prefixes with a mistake | more than at "
        "the M before |",
        "|---|---|---|",
    ]
    for place, size in enumerate(SIZES):
        rise = "–"
        if place:
            rise = statistics.bootstrap(taken[:, place] - taken[:, place - 1]).signed
        lines.append(f"| {size} | {statistics.bootstrap(taken[:, place])} | {rise} |")
    return "\n".join(lines)


def _middling(guide: Guide, ends: Sequence[Prefix], seed: int) -> list[Prefix]:
    """Of each chain the longest of three late prefixes whose value seems neither high nor low,
    if there is one.
    """
    found: dict[int, Prefix] = {}
    for back in LATE:
        begun: dict[int, Prefix] = {}
        for place, end in enumerate(ends):
            if len(end.state) > back and place not in found:
                begun[place] = Prefix(end.problem, end.state[:-back])
        shares = outcomes(guide, list(begun.values()), PILOT, seed).mean(axis=1)
        for (place, prefix), share in zip(begun.items(), shares, strict=True):
            if 0.1 <= share <= 0.9:
                found[place] = prefix
    return list(found.values())


def _first_mistake(end: Prefix) -> Prefix | None:
    """The chain up to its first wrong line; None where there is none, or no step behind it."""
    wrong = mistakes(end.problem, end.state)
    if True not in wrong[:-1]:
        return None
    return Prefix(end.problem, end.state[: wrong.index(True) + 1])


# -- the first error


@dataclass(frozen=True)
class Search:
    """Looking for the first error of a chain: the step that is the first mistake, the ones
    found, and the roll-outs they took.
    """

    steps: int
    truth: int
    exhaustive: int
    bisection: int
    exhaustive_made: int
    bisection_made: int


async def look(guide: Guide, trace: Trace, count: int, seed: int) -> Search:
    """Find the first error of the one chain of a trace in both ways."""
    end = last(trace)
    target = target_of(end.problem)
    steps = len(end.state)
    every = await by_rollouts(trace, target, guide.policy, count, seed)
    half = await by_bisection(trace, target, guide.policy, count, seed)
    hard = every.labels.hard[1:]  # of the steps; node 0 is the problem itself
    return Search(
        steps,
        mistakes(end.problem, end.state).index(True) + 1,
        int(np.flatnonzero(hard == 0)[0]) + 1,
        half.errors.get(steps, 0),
        every.made - int(every.labels.n[0]),
        half.made,
    )


def wrong_chains(guide: Guide, chains: int, operations: int, seed: int) -> list[Trace]:
    """Traces of one finished wrong chain each, of at least `STEPS` steps, of problems that the
    model solves sometimes.
    """
    problems = generate(seed, 100 * chains, operations, 2, split="validation")
    found: list[Trace] = []
    while len(found) < chains and (batch := list(islice(problems, chains))):
        wrong = []
        roots = []
        for trace in chains_of(guide, batch, seed):
            end = last(trace)
            if _wrong(end):
                wrong.append(trace)
                roots.append(Prefix(end.problem, end.problem.initial()))
        hopeful = outcomes(guide, roots, SCREEN, seed + 1).sum(axis=1)
        found += itertools.compress(wrong, (hopeful > 0) & (hopeful < SCREEN))
        log.info("%d wrong chains", len(found))
    return found[:chains]


def _wrong(end: Prefix) -> bool:
    """Is it a long enough chain with a wrong answer?"""
    answer = end.problem.answer(end.state)
    return len(end.state) >= STEPS and answer not in (None, target_of(end.problem))


def report(found: Sequence[Search]) -> str:
    """A line of the table: accuracies in per cent and roll-outs a chain, with what bisection has
    of the exhaustive search's.
    """
    columns = {}
    for name in ("truth", "exhaustive", "exhaustive_made", "bisection", "bisection_made"):
        columns[name] = np.array(list(map(attrgetter(name), found)))
    cells = []
    exact = {}
    for name in ("exhaustive", "bisection"):
        exact[name] = (columns[name] == columns["truth"]) * 100.0
        late = 100 * np.mean(columns[name] > columns["truth"])
        cells.append(str(statistics.bootstrap(exact[name])))
        cells += [f"{late:.1f}", f"{columns[f'{name}_made'].mean():.1f}"]
    accuracy = math.nan
    if exact["exhaustive"].any():
        accuracy = exact["bisection"].mean() / exact["exhaustive"].mean()
    effort = columns["bisection_made"].mean() / columns["exhaustive_made"].mean()
    return " | ".join([*cells, f"{100 * accuracy:.1f} %", f"{100 * effort:.1f} %"])


def first_error(
    guide: Guide, chains: int, counts: Sequence[int], operations: int, seed: int
) -> str:
    """The table, in Markdown, with a line for each number of roll-outs a step."""
    traces = wrong_chains(guide, chains, operations, seed)
    steps = np.mean([len(trace.steps) for trace in traces])
    lines = [
        f"{len(traces)} wrong chains of {steps:.1f} steps",
        "",
        "| M | every step: exact, % | late, % | roll-outs | bisection: exact, % | late, % | "
        "roll-outs | accuracy kept | of the roll-outs |",
        "|---" * 9 + "|",
    ]
    for count in counts:
        found = side_by_side(guide, (look(guide, trace, count, seed) for trace in traces))
        lines.append(f"| {count} | {report(found)} |")
    return "\n".join(lines)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["calibration", "first-error"])
    parser.add_argument("--guide", default="builtin")
    parser.add_argument("--operations", type=int, help=f"of the chains; by default {OPERATIONS}")
    parser.add_argument("--prefixes", type=int, default=600, help="of middling value")
    parser.add_argument("--wrong", type=int, default=500, help="prefixes with a mistake")
    parser.add_argument("--chains", type=int, default=500, help="wrong chains")
    parser.add_argument(
        "--count", type=int, nargs="+", default=[4, 8, 16], help="roll-outs of a step"
    )
    parser.add_argument("--slots", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    import guides

    guide = guides.load(args.guide, slots=args.slots)
    operations = args.operations or OPERATIONS[args.what]
    if args.what == "calibration":
        log.info("\n%s", calibration(guide, args.prefixes, args.wrong, operations, args.seed))
    else:
        log.info("\n%s", first_error(guide, args.chains, args.count, operations, args.seed))


if __name__ == "__main__":
    main()
