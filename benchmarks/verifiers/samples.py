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
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

import search
from benchmarks.sweep import statistics
from benchmarks.sweep.plan import Task, task_named
from benchmarks.tasks import TASKS
from search.guide import Guide
from search.problem import Problem
from search.solution import Solution
from search.solver import seed_of

log = logging.getLogger(__name__)


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
    names, found = list(task.problems), dict[str, list[Sample]]()

    def finish(index: int, solution: Solution) -> None:
        if solution.error is not None:
            raise solution.error
        name = names[index]
        found[name] = _samples(task, name, solution)
        found[name] += [Sample()] * (chains - len(found[name]))

    problems = [unverified(problem) for problem in task.problems.values()]
    budget, seeds = search.Budget(simulations=chains), [seed_of(name, seed) for name in names]
    search.solve_many(
        problems,
        guide,
        "sample",
        budget,
        seeds,
        on_finish=finish,
        progress=progress,
        keep_trees=False,
        chains=chains,
    )
    return found


def _samples(task: Task, name: str, solution: Solution) -> list[Sample]:
    tree, problem, samples = solution.tree, task.problems[name], list[Sample]()
    assert tree is not None
    for node in tree.finished:
        state = tree.states[node]
        answer, reward = problem.answer(state), problem.verify(state)
        right = task.correct(name, answer, None if reward is None else reward == 1.0)
        told = task.steps_right(problem, tree.chain(node)) if task.steps_right is not None else None
        steps = None if told is None else right and told
        value = tree.mean(node)
        samples += [
            Sample(answer, right, steps, 0.5 if math.isnan(value) else value)
        ] * tree.visits(node)
    return samples


#: name -> estimator of (samples of one problem, k, seed of its sub-samples): each problem has a
#: seed of its own, so that errors average out
ESTIMATES: dict[str, Callable[[Sequence[Sample], int, int], float]] = {
    "pass": lambda own, k, seed: statistics.pass_at_k(len(own), sum(s.right for s in own), k),
    "steps": lambda own, k, seed: statistics.pass_at_k(
        len(own), sum(bool(s.steps_right) for s in own), k
    ),
    "majority": lambda own, k, seed: statistics.majority_at_k(
        [s.answer for s in own], [s.right for s in own], k, seed=seed
    ),
    "weighted": lambda own, k, seed: statistics.majority_at_k(
        [s.answer for s in own],
        [s.right for s in own],
        k,
        seed=seed,
        weights=[s.value for s in own],
    ),
    "best": lambda own, k, seed: statistics.best_of_k(
        [s.value if s.answer is not None else -1.0 for s in own], [s.right for s in own], k
    ),
}


def report(found: dict[str, list[Sample]]) -> str:
    """Markdown: per cent right, a line for each k = 1, 2, 4, ... up to all samples; then the
    AUROC of the values.
    """
    count = min(map(len, found.values()))
    sizes = [2**i for i in range(count.bit_length())]
    told = any(sample.steps_right is not None for own in found.values() for sample in own)
    estimates = {name: estimate for name, estimate in ESTIMATES.items() if told or name != "steps"}
    lines = [
        f"| k of {count} | " + " | ".join(estimates) + " |",
        "|---" * (1 + len(estimates)) + "|",
    ]
    for k in sizes:
        rates = [
            [estimate(own, k, seed) for seed, own in enumerate(found.values())]
            for estimate in estimates.values()
        ]
        lines.append(
            f"| {k} | "
            + " | ".join(str(statistics.bootstrap(np.array(rate)) * 100) for rate in rates)
            + " |"
        )
    return "\n".join([*lines, "", _told_apart(found)])


def _told_apart(found: dict[str, list[Sample]]) -> str:
    """How well values tell right chains from wrong ones: within a problem, mean over those with
    both, and over all chains.
    """
    finished = [[s for s in own if s.answer is not None] for own in found.values()]
    within = np.array(
        [statistics.auroc([s.value for s in own], [s.right for s in own]) for own in finished]
    )
    within = within[~np.isnan(within)]
    every = [s for own in finished for s in own]
    pooled = statistics.auroc([s.value for s in every], [s.right for s in every])
    inside = (
        f"AUROC of the values within a problem {statistics.bootstrap(within) * 100} "
        f"({len(within)} problems with right and wrong chains)"
    )
    return f"{inside}, over all {len(every)} chains {100 * pooled:.1f}"


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
