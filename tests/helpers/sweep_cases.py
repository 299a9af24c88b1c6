"""Small sweeps over planted problems."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
from fakes import generated, scripted_guide

from benchmarks import tasks
from benchmarks.sweep import plan, rows
from benchmarks.sweep import run as sweep
from search.problem import TextProblem
from search.problems.countdown import Countdown
from search.scheduling.requests import Scored


def guesser(request):
    """A model that thinks a line and guesses 0 to 3: right half the time; the value of a right
    guess is higher, but not always.
    """
    prompt = "".join(map(chr, request.prompt if hasattr(request, "prompt") else request.tokens))
    rng = random.Random(f"{prompt}|{getattr(request, 'seed', 0)}")
    right = int(prompt.split()[1]) % 3
    if not hasattr(request, "prompt"):
        value = 0.9 if f"#### {right}" in prompt else 0.2
        return Scored(
            np.zeros(len(request.tokens), np.float32),
            np.zeros((1, 0), np.float32),
            np.full(1, value, np.float32),
        )
    text = (
        f"line {rng.randrange(9)}"
        if prompt.count("\n") < 2
        else f"#### {right if rng.random() < 0.5 else rng.randrange(4)}"
    )
    return generated(text, value=rng.random(), log_prob=-rng.random(), limit=request.max_tokens)


def ask(**policy):
    return scripted_guide(guesser, **policy)


#: the first of `tasks.game24()`, without asking all hands
HANDS = ((1, 1, 1, 8), (1, 1, 1, 11), (1, 1, 1, 12), (1, 1, 1, 13), (1, 1, 2, 6), (1, 1, 2, 7))
PUZZLES = {tasks.identity(p): p for p in (Countdown(hand, 24) for hand in HANDS)}


SELF = plan.Task("few", PUZZLES, {})


QUESTIONS = plan.Task(
    "asked",
    {f"q{i}": TextProblem(f"Question {i}") for i in range(8)},
    {f"q{i}": str(i % 3) for i in range(8)},
)


def load(**policy):
    return scripted_guide(slots=8, **policy)


def swept(
    out,
    task=QUESTIONS,
    methods=("self_consistency", "mcts"),
    budgets="tokens=60,200",
    seeds=2,
    guide=ask,
):
    runs = plan.read_runs(methods, task)
    return sweep.sweep(task, runs, plan.read_budgets(budgets), seeds, out, guide, progress=False)


def written(path: Path, *found):
    """A results file of (problem, method, budget, seed, correct, verified, answer, generated)."""
    names = ("problem", "method", "budget", "seed", "correct", "verified", "answer", "generated")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows.COLUMNS)
        writer.writeheader()
        for cells in found:
            writer.writerow(
                {
                    **dict.fromkeys(rows.COLUMNS, "0"),
                    "steps_right": "",
                    "task": "t",
                    **dict(zip(names, cells, strict=True)),
                }
            )
    return rows.read(path)


def solved(problem, method, generated, right=1, seed=0):
    return (problem, method, "tokens=2000", seed, right, right, "a", generated)
