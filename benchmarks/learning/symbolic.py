"""Trees of a symbolic search for Countdown, in the files that `copse solve --traces` writes.

    python -m benchmarks.learning.symbolic --input countdown.jsonl --order depth --traces symbolic

It goes depth or breadth first over the most promising lines of each state: those after which a
number that is left is nearest to the target (the searches that "Stream of Search" imitates; Gandhi
et al. 2024). `copse train correct --kind walk --off-policy` makes streams of the trees, as of a
model's own. The last line says in how many problems a solution was found.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import deque
from fractions import Fraction
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

import search
from guides.engines import locate
from models.checkpoints.checkpoint import describe, resolve
from search.files.problems_file import read_jobs
from search.methods.session import Search
from search.problem import TextStep
from search.problems.countdown import Countdown
from search.trace import TraceWriter


def lines(problem: Countdown, state: tuple[TextStep, ...]) -> list[str]:
    """The lines that take whole numbers to whole numbers from 0 on, the most promising first."""
    left = problem.left(state)
    found: dict[str, Fraction] = {}
    for b, a in itertools.combinations(left, 2):  # they ascend
        rest = list(left)
        rest.remove(a)
        rest.remove(b)
        results = {f"{a}+{b}": a + b, f"{a}-{b}": a - b, f"{a}*{b}": a * b}
        if b and (a / b).denominator == 1:
            results[f"{a}/{b}"] = a / b
        for line, result in results.items():
            far = min(map(abs, np.subtract([*rest, result], problem.target)))
            found.setdefault(f"{line}={result}", far)
    return sorted(found, key=found.__getitem__)


async def walked(session: Search, *, branch: int = 4, depth: bool = True) -> None:
    """Depth or breadth first over the `branch` first lines of each state."""
    waiting = deque([0])
    tree = session.tree
    while waiting and not session.over:
        node = waiting.pop() if depth else waiting.popleft()
        if node in tree.finished:
            continue
        new = await session.expand([node], branch)
        waiting += reversed(new) if depth else new


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, required=True, help="problems of Countdown")
    parser.add_argument("--guide", default="builtin", help="whose tokens the lines are written in")
    parser.add_argument("--order", choices=["depth", "breadth"], default="depth")
    parser.add_argument("--branch", type=int, default=4, help="lines of a state that are tried")
    parser.add_argument("--nodes", type=int, default=100, help="of a tree, at most")
    parser.add_argument("--traces", type=Path, required=True)
    args = parser.parse_args()
    try:
        problems = list(map(attrgetter("problem"), read_jobs(args.input)))
        folder = resolve(locate(args.guide))
        ending = describe(folder).get("delimiter") or "\n\n"
        encode = partial(AutoTokenizer.from_pretrained(folder).encode, add_special_tokens=False)
        writer = TraceWriter(args.traces)
        solved = 0

        def policy(problem: Any, state: Any) -> list[TextStep]:
            best = lines(problem, state)[: args.branch]
            return [TextStep(line, tuple(encode(line + ending))) for line in best]

        def finish(index: int, solution: search.Solution) -> None:
            nonlocal solved
            assert solution.trace is not None
            solved += bool(solution.verified)
            writer.write(solution.trace)

        search.solve_many(
            problems,
            search.Guide(policy),
            walked,
            search.Budget(simulations=args.nodes),
            on_finish=finish,
            keep_trees=False,
            branch=args.branch,
            depth=args.order == "depth",
        )
        writer.close()
    except (ValueError, OSError) as error:
        parser.error(str(error))
    sys.stdout.write(f"{solved} of {len(problems)} problems solved\n")


if __name__ == "__main__":
    main()
