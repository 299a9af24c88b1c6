"""What k of N stored samples are worth: pass@k, majority, weighted vote and best of k, from N
chains of each problem.

    python -m benchmarks.verifiers.samples --task chains-validation --guide my-model --chains 128

The chains are sampled once, without asking a verifier; every k up to N is estimated from them
(`benchmarks.sweep.statistics`), with 95 % intervals over problems. "steps" is pass@k where every
step must be right, too, if the task can tell. The last line says how well the guide's values tell
right chains from wrong ones of the same problem (AUROC): below 0.75 choosing by value may do harm.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

import search
from benchmarks.output import row as row_of
from benchmarks.output import table
from benchmarks.sweep import statistics
from benchmarks.sweep.plan import Task, task_named
from benchmarks.tasks import TASKS
from search.guide import Guide
from search.problem import Problem
from search.problems.stream import Stream
from search.solution import Solution
from search.solver import seed_of

log = logging.getLogger(f"copse.{__name__}")


def unverified(problem: Problem) -> Problem:
    """A copy whose verifier has nothing to say, so that a search does not end at its first
    success.
    """
    copied = copy.copy(problem)
    object.__setattr__(copied, "verify", lambda state: None)  # problems are frozen
    return copied


@dataclass(frozen=True)
class Sample:
    """A chain: its answer (None: unfinished, or without one), whether that and all steps too are
    right, the guide's value in [0, 1].

    steps_right  None where the task cannot tell
    """

    answer: str | None = None
    right: bool = False
    steps_right: bool | None = None
    value: float = 0.0


def sample(
    task: Task, guide: Guide, chains: int, seed: int = 0, progress: bool | None = None
) -> dict[str, list[Sample]]:
    """`chains` samples of every problem of the task, by name, each from random numbers of its
    own. Raises what a search raised.
    """
    found: dict[str, list[Sample]] = {}

    def finish(name: str, solution: Solution) -> None:
        found[name] = samples_of(task, name, solution)
        found[name] += [Sample()] * (chains - len(found[name]))

    searched(task, guide, chains, finish, seed, progress)
    return found


def searched(
    task: Task,
    guide: Guide,
    chains: int,
    finish: Callable[[str, Solution], None],
    seed: int = 0,
    progress: bool | None = None,
) -> None:
    """Sample `chains` chains of every problem of the task, each problem from random numbers of its
    own; what `finish` is given, by name, holds its tree. Raises what a search raised.
    """
    names = list(task.problems)

    def finished(index: int, solution: Solution) -> None:
        if solution.error is not None:
            raise solution.error
        finish(names[index], solution)

    problems = list(map(unverified, task.problems.values()))
    budget = search.Budget(simulations=chains)
    seeds = list(map(partial(seed_of, seed=seed), names))
    search.solve_many(
        problems,
        guide,
        "sample",
        budget,
        seeds,
        on_finish=finished,
        progress=progress,
        keep_trees=False,
        chains=chains,
    )


def samples_of(task: Task, name: str, solution: Solution) -> list[Sample]:
    """The finished chains of a search, as often as each was sampled; of a stream what stands."""
    tree = solution.tree
    problem = task.problems[name]
    whole = solution.problem
    samples: list[Sample] = []
    assert tree is not None
    for node in tree.finished:
        state = tree.states[node]
        chain = tree.chain(node)
        if isinstance(whole, Stream) and not isinstance(problem, Stream):
            chain = list(itertools.compress(chain, whole.standing(state)))
            state = whole.read(state).state
        answer = problem.answer(state)
        reward = problem.verify(state)
        right = task.correct(name, answer, None if reward is None else reward == 1.0)
        steps = None
        if task.steps_right is not None:
            steps = task.steps_right(problem, chain)
        if steps is not None:
            steps = right and steps
        value = tree.mean(node)
        one = Sample(answer, right, steps, 0.5 if math.isnan(value) else value)
        samples += [one] * tree.visits(node)
    return samples


@dataclass(frozen=True)
class Columns:
    """The samples of one problem, a list a field."""

    answers: list[str | None]
    right: list[bool]
    steps_right: list[bool | None]
    values: list[float]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Columns:
        rows = [(one.answer, one.right, one.steps_right, one.value) for one in samples]
        return cls(*map(list, zip(*rows, strict=True))) if rows else cls([], [], [], [])


def _pass(own: Columns, k: int, seed: int) -> float:
    return statistics.pass_at_k(len(own.right), sum(own.right), k)


def _steps(own: Columns, k: int, seed: int) -> float:
    return statistics.pass_at_k(len(own.right), sum(map(bool, own.steps_right)), k)


def _majority(own: Columns, k: int, seed: int) -> float:
    return statistics.majority_at_k(own.answers, own.right, k, seed=seed)


def _weighted(own: Columns, k: int, seed: int) -> float:
    return statistics.majority_at_k(own.answers, own.right, k, seed=seed, weights=own.values)


def _best(own: Columns, k: int, seed: int) -> float:
    scores = own.values.copy()
    for place, answer in enumerate(own.answers):
        if answer is None:
            scores[place] = -1.0
    return statistics.best_of_k(scores, own.right, k)


#: name -> estimator of (samples of one problem, k, seed of its sub-samples): each problem has a
#: seed of its own, so that errors average out
ESTIMATES: dict[str, Callable[[Columns, int, int], float]] = {
    "pass": _pass,
    "steps": _steps,
    "majority": _majority,
    "weighted": _weighted,
    "best": _best,
}


def report(found: dict[str, list[Sample]]) -> str:
    """Markdown: per cent right, a line for each k = 1, 2, 4, ... up to all samples; then the
    AUROC of the values.
    """
    count = min(map(len, found.values()))
    problems = list(map(Columns.of, found.values()))
    estimates = dict(ESTIMATES)
    if not any(set(own.steps_right) - {None} for own in problems):
        del estimates["steps"]
    lines = [row_of([f"k of {count}", *estimates])]
    for power in range(count.bit_length()):
        cells = [str(2**power)]
        for estimate in estimates.values():
            rate = [estimate(own, 2**power, seed) for seed, own in enumerate(problems)]
            cells.append(str(statistics.bootstrap(np.array(rate)) * 100))
        lines.append(row_of(cells))
    return f"{table(lines)}\n\n{_told_apart(found)}"


def _told_apart(found: dict[str, list[Sample]]) -> str:
    """How well values tell right chains from wrong ones: within a problem, mean over those with
    both, and over all chains.
    """
    every: list[Sample] = []
    areas = []
    for own in found.values():
        finished = [one for one in own if one.answer is not None]
        areas.append(_auroc(finished))
        every += finished
    within = np.array(areas)
    within = within[~np.isnan(within)]
    pooled = _auroc(every)
    inside = (
        f"AUROC of the values within a problem {statistics.bootstrap(within) * 100} "
        f"({len(within)} problems with right and wrong chains)"
    )
    return f"{inside}, over all {len(every)} chains {100 * pooled:.1f}"


def _auroc(samples: Sequence[Sample]) -> float:
    columns = Columns.of(samples)
    return statistics.auroc(columns.values, columns.right)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=sorted(TASKS), default="chains-validation")
    parser.add_argument("--guide", default="builtin")
    parser.add_argument("--chains", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    import guides

    guide = guides.load(args.guide, slots=args.slots, temperature=args.temperature)
    log.info(
        "\n%s", report(sample(task_named(args.task), guide, args.chains, args.seed, progress=True))
    )


if __name__ == "__main__":
    main()
