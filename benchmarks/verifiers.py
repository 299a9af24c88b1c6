"""Outcome and process verifiers of the same chains: which selects the better answer among N?

    python -m benchmarks.verifiers generator --out DIR        a model of 0.94 M parameters that writes chains of 1 to 5 operations
    python -m benchmarks.verifiers pool --split test          256 chains of each of 1,000 problems that no model was trained on
    python -m benchmarks.verifiers pool --split validation    64 of each of 300, for every choice that is made
    python -m benchmarks.verifiers pool --split train         8 of each of 3,000, which are labelled

Every command has --out DIR (default: verifiers), where it leaves what it made; one that was killed goes on when it is given again.

    generator/         the checkpoint, by the recipe benchmarks/verifiers.json
    chains/SPLIT/      traces of the method `sample`: equal chains stand once, with their number as visits
"""

from __future__ import annotations

import argparse
import contextlib
import logging
from pathlib import Path

from benchmarks.plan import Task
from benchmarks.tasks import steps_right, target_of
from guides.grade import key_of
from search.problem import Problem
from search.problems import chains
from search.solution import Solution
from search.solver import seed_of, solve_many
from search.trace import Trace, TraceWriter

log = logging.getLogger(__name__)

RECIPE = Path(__file__).with_suffix(".json")
OPERATIONS = 5  #: the most that the generator is trained on; there its plans begin to lack what they need
SPLITS = {"train": (3_000, 8), "validation": (300, 64), "test": (1_000, 256)}  #: problems, and chains of each


def problems_of(split: str, count: int, operations: int = OPERATIONS) -> list[Problem]:
    """`count` different problems of a split, always the same."""
    seed = 300 + list(SPLITS).index(split)
    return list(chains.generate(seed, count, operations, 2, split=split))


def task_of(problems: list[Problem]) -> Task:
    """The problems by their keys, with their answers."""
    keyed = {key_of(problem): problem for problem in problems}
    return Task("verifiers", keyed, {key: str(target_of(problem)) for key, problem in keyed.items()}, steps_right)


def sample_chains(folder: Path, generator: Path, problems: list[Problem], count: int, temperature: float, slots: int = 256) -> None:
    """`count` chains of every problem that has no trace in `folder` yet, each problem from random numbers of its own."""
    import guides

    done = {key_of(trace) for trace in Trace.load(folder)} if folder.exists() else set()
    left = [problem for problem in problems if key_of(problem) not in done]
    guide = guides.load(generator, slots=slots, temperature=temperature)
    seeds = [seed_of(key_of(problem), 0) for problem in left]

    def finish(index: int, solution: Solution) -> None:
        if solution.error is not None:
            raise solution.error
        if solution.stopped != "interrupted" and solution.trace is not None:
            writer.write(solution.trace)
        if writer.error is not None:
            raise writer.error

    with contextlib.closing(TraceWriter(folder)) as writer:
        budget = f"simulations={count}"
        solve_many(left, guide, "sample", budget, seeds, on_finish=finish, keep_trees=False, limit=64, chains=count, wave=32)
    log.info("%s: %d chains of each of %d problems, %d of them made now", folder, count, len(problems), len(left))


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["generator", "pool"])
    parser.add_argument("--out", type=Path, default=Path("verifiers"))
    parser.add_argument("--split", choices=list(SPLITS), default="test")
    parser.add_argument("--problems", type=int, help="default: those of the split")
    parser.add_argument("--chains", type=int, help="default: those of the split")
    parser.add_argument("--temperature", type=float, default=1.0)
    args = parser.parse_args()
    from guides.builtin import train_builtin

    if args.command == "generator":
        train_builtin("small", args.out / "generator", recipe=RECIPE)
    else:
        problems, count = SPLITS[args.split]
        folder = args.out / "chains" / args.split
        wanted = problems_of(args.split, args.problems or problems)
        sample_chains(folder, args.out / "generator", wanted, args.chains or count, args.temperature)


if __name__ == "__main__":
    main()
