"""What a chain of a tree counts in a vote: the same trees, voted in three ways.

    python -m benchmarks.tree.votes --task words-validation --out votes.csv
    python -m benchmarks.tree.votes --task chains-validation --count 150 --out votes.csv

`mcts` draws without replacement, so each chain is in its tree once, however unlikely it is. "once":
each counts one times its value; "counts": by Horvitz and Thompson (`search.choose.counts`) times
its value, as `mcts` votes; "probability": by its probability under the policy times its value;
"any": is some chain right. Per cent right with 95 % intervals over problems, the built-in model.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

import guides
import search
from benchmarks.output import row, table, write_csv
from benchmarks.sweep import statistics
from benchmarks.sweep.plan import Task, read_budgets, task_named
from search.choose import Finish, counts, finishes
from search.solution import Solution

log = logging.getLogger(f"copse.{__name__}")

METHOD = "mcts"
OPTIONS = {"leaves": 1}

Weigh = Callable[[Sequence[Finish]], Sequence[float]]


def likelihoods(found: Sequence[Finish]) -> list[float]:
    """The probability of each chain under the policy, up to a common factor."""
    most = max(finish.log_prob for finish in found)
    return [math.exp(finish.log_prob - most) for finish in found]


#: by name, how much each chain counts before its value does
WAYS: dict[str, Weigh] = {
    "once": lambda found: [1.0] * len(found),
    "counts": counts,
    "probability": likelihoods,
}


def winner(found: Sequence[Finish], weigh: Weigh) -> str | None:
    """The answer with the largest sum of weights times values; None without any."""
    votes: dict[str, float] = defaultdict(float)
    for finish, weight in zip(found, weigh(found) if found else [], strict=True):
        votes[finish.answer] += weight * finish.score
    return max(votes, key=votes.__getitem__, default=None)


def voted(task: Task, solutions: Sequence[Solution]) -> dict[str, np.ndarray]:
    """By way and "any": 0 or 100 of each problem, float64 [problems, 1]."""
    right: dict[str, list[float]] = defaultdict(list)
    for name, solution in zip(task.problems, solutions, strict=True):
        found = finishes(solution.tree, task.problems[name])
        answers = {finish.answer for finish in found}
        verdicts = {answer: task.correct(name, answer, None) for answer in answers}
        for way, weigh in WAYS.items():
            answer = winner(found, weigh)
            right[way].append(100.0 * (answer is not None and verdicts[answer]))
        right["any"].append(100.0 * any(verdicts.values()))
    return {way: np.array(values)[:, None] for way, values in right.items()}


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", required=True, help="of benchmarks.tasks, with targets")
    parser.add_argument("--budgets", default="tokens=300,600,1200")
    parser.add_argument("--count", type=int, help="the first problems of the task; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="a CSV file")
    args = parser.parse_args()
    task = task_named(args.task)
    task = Task(task.name, dict(islice(task.problems.items(), args.count)), task.targets)
    guide = guides.load("builtin")
    rows = []
    for limit in read_budgets(args.budgets):
        solutions = search.solve_many(
            list(task.problems.values()), guide, METHOD, str(limit), seed=args.seed, **OPTIONS
        )
        for way, values in voted(task, solutions).items():
            found = statistics.bootstrap(values)
            rows.append({"task": task.name, "budget": str(limit), "vote": way, "right": str(found)})
            log.info("%s", row(rows[-1].values()))
    write_csv(args.out, rows)
    log.info("\n%s", table([row(rows[0]), *(row(one.values()) for one in rows)]))


if __name__ == "__main__":
    main()
