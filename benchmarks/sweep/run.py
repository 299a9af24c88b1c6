"""Solve a task with several methods at several budgets and write one row a search; a second start
does only what is missing.

    python -m benchmarks.sweep.run --task game24 --run greedy --run "beam width=8" --out results.csv
    python -m benchmarks.sweep.run --task chains --run mcts --budgets tokens=250,500 --out r.csv
    python -m benchmarks.sweep.run --report results.csv
    python -m benchmarks.sweep.run --report results.csv --compare "beam width=8" greedy
    python -m benchmarks.sweep.run --report results.csv --levels 60,80,100,200 --flops 1e8,4e8,1e9

Methods are written as `benchmarks.sweep.plan` says, the columns are those of
`benchmarks.sweep.rows`. Problems that verify themselves are searched with the largest budget only:
a search ends at its first verified solution, so "solved within B tokens" is read off what it had
spent by then. Every problem has random numbers of its own, the same for all methods and budgets of
one seed: intervals take problems to be independent.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import search
from benchmarks.sweep import report, rows, streams
from benchmarks.sweep.plan import Limit, Run, Task, read_budgets, read_runs, task_named
from benchmarks.tasks import TASKS
from search.arguments import chooser_of
from search.choose import finishes, pick
from search.guide import Guide
from search.solution import Solution
from search.solver import seed_of

log = logging.getLogger(f"copse.{__name__}")


@dataclass(frozen=True)
class Job:
    """A search of every problem. runs: those that share it."""

    seed: int
    limit: Limit
    runs: Sequence[Run]

    @property
    def kind(self) -> str:
        """What searches that cost alike have in common."""
        return self.runs[0].search


def sweep(
    task: Task,
    runs: Sequence[Run],
    budgets: Sequence[Limit],
    seeds: int,
    out: Path,
    load: Callable[..., Guide],
    *,
    limit: int | None = None,
    progress: bool | None = None,
) -> bool:
    """Append to `out` a row for every task, problem, method, budget and seed that is not there yet;
    True when all are there.

    load      `load(**policy)` gives the guide with these options of its policy, such as temperature
    limit     searches that run at once, None: as `search.solve_many` chooses;  progress: show a
              bar; None: where somebody is looking

    What streams did stands beside it (`benchmarks.sweep.streams`).

    A search whose requests failed is a row with stopped=error, and a second start does it again.
    False: Ctrl-C ended it, with all that was finished kept.
    Raises ValueError for what cannot be measured, before any search; whatever else a search raises.
    """
    files = ExitStack()
    try:
        results = files.enter_context(closing(rows.Results(out)))
        moves = files.enter_context(closing(streams.Streams(out)))
        jobs = _jobs(task, runs, budgets, seeds)
        guides = {job.kind: job.runs[0].guide(load) for job in jobs}
        version = load().version
        if results.guides - {version}:
            raise ValueError(
                f"{out} has rows of the guide {', '.join(results.guides)} and this is {version}: "
                "write to another file"
            )
        waiting: list[tuple[Job, list[str]]] = []
        for job in jobs:
            left = [name for name in task.problems if _missing(results, task, name, job)]
            if left:
                waiting.append((job, left))
        with Progress(
            [(job.kind, job.limit.amount, len(left)) for job, left in waiting], progress
        ) as bar:
            for job, left in waiting:
                guide = guides[job.kind]
                if not _search(task, job, left, guide, version, results, moves, bar, limit):
                    return False
        return True
    except KeyboardInterrupt:  # between two calls of `solve_many`, or after the last search of one
        return False
    finally:
        files.close()


def _jobs(task: Task, runs: Sequence[Run], budgets: Sequence[Limit], seeds: int) -> list[Job]:
    """All searches of a sweep, seed by seed, so that a sweep that was cut off still compares
    methods.
    """
    shared: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        shared[run.search].append(run)
    limits = list(budgets) if task.targets else list(budgets)[-1:]
    jobs = []
    for seed, limit, group in product(range(seeds), limits, shared.values()):
        if seed == 0 or not group[0].greedy:
            jobs.append(Job(seed, limit, group))
    return jobs


def _missing(results: rows.Results, task: Task, name: str, job: Job) -> list[Run]:
    def missing(run: Run) -> bool:
        key = (task.name, name, run.text, str(job.limit), str(job.seed))
        return key not in results.done

    return list(filter(missing, job.runs))


def _search(
    task: Task,
    job: Job,
    left: list[str],
    guide: Guide,
    version: str,
    results: rows.Results,
    moves: streams.Streams,
    bar: Progress,
    limit: int | None,
) -> bool:
    """Search the problems `left` of one job; False if Ctrl-C ended it."""
    interrupted = False

    def finish(index: int, solution: Solution) -> None:
        nonlocal interrupted
        if solution.stopped == "interrupted":
            interrupted = True
            return
        if solution.error is not None and not isinstance(solution.error, search.RequestFailed):
            raise solution.error
        name = left[index]
        cells = {
            "task": task.name,
            "problem": name,
            "budget": job.limit,
            "seed": job.seed,
            "guide": version,
            **_cost(solution),
        }
        found = []
        for run in _missing(results, task, name, job):
            outcome = _outcome(task, name, solution, run.chooser, guide)
            found.append({**cells, "method": run.text, **outcome})
        moves.write(found, streams.behaviours(solution, task.targets.get(name)))
        results.write(found)
        bar.add(job.kind, job.limit.amount, solution.usage.generated)

    problems = list(map(task.problems.__getitem__, left))
    seeds = list(map(partial(seed_of, seed=job.seed), left))
    _forget(guide)
    search.solve_many(
        problems, guide, job.runs[0].method, job.limit.budget, seeds, limit=limit,
        on_finish=finish, progress=False, keep_trees=False, isolate=True,
        **job.runs[0].options,
    )  # fmt: skip
    return not interrupted


def _forget(guide: Guide) -> None:
    """Empty the caches: what an earlier search of the same seed has read and written there would
    cost this one nothing.
    """
    for backend in guide.backends.values():
        if hasattr(backend, "clear"):
            backend.clear()


def _cost(solution: Solution) -> dict[str, Any]:
    u = solution.usage
    return {
        "generated": u.generated, "prefilled": u.prefilled, "reused": u.reused,
        "flops": f"{u.flops:.6g}", "simulations": u.simulations,
        "calls": u.calls, "seconds": f"{u.seconds:.3f}", "rows": _number(u.mean_rows, ".1f"),
        "stopped": solution.stopped,
    }  # fmt: skip


def _outcome(
    task: Task, name: str, solution: Solution, chooser: str | None, guide: Guide
) -> dict[str, Any]:
    """The cells of what was chosen: by `search.solve`, or by a chooser from the same tree."""
    answer = solution.answer
    verified = solution.verified
    value = solution.value
    steps = solution.steps
    choose = chooser_of(chooser)
    if choose is not None and solution.tree is not None:
        found = finishes(solution.tree, solution.problem, guide.classes)
        chosen = pick(found, solution.problem, choose)
        if chosen is not None:
            answer = chosen.answer
            value = chosen.score
            steps = tuple(solution.tree.chain(chosen.node))
            verified = None if chosen.reward is None else chosen.reward == 1.0
    right = None
    if task.steps_right is not None and answer is not None:
        right = task.steps_right(solution.problem, steps)
    return {
        "correct": int(task.correct(name, answer, verified)),
        "steps_right": _flag(right),
        "verified": _flag(verified),
        "answer": "" if answer is None else rows.clean(answer),
        "value": _number(value, ".6g"),
    }  # fmt: skip


def _flag(value: bool | None) -> int | str:
    return "" if value is None else int(value)


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


class Progress:
    """A bar over all searches. The time left is reckoned in tokens: what searches of the same kind
    have spent so far by their budget.

    jobs  (kind, amount of the budget, searches) of all that is to be done
    """

    def __init__(self, jobs: Sequence[tuple[str, float, int]], show: bool | None = False):
        from tqdm import tqdm

        self._left: dict[tuple[str, float], int] = defaultdict(int)
        for kind, amount, count in jobs:
            self._left[kind, amount] += count
        # kind -> tokens generated, budgets of those searches
        self._spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._start = time.monotonic()
        shape = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} searches [{elapsed}{postfix}]"
        off = not (sys.stderr.isatty() if show is None else show)
        self._bar = tqdm(total=sum(self._left.values()), bar_format=shape, disable=off)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def add(self, kind: str, amount: float, tokens: int) -> None:
        """One search is finished, which generated so many tokens."""
        self._left[kind, amount] -= 1
        self._spent[kind][0] += tokens
        self._spent[kind][1] += amount
        left = self.seconds_left(time.monotonic() - self._start)
        self._bar.set_postfix_str(f"about {self._bar.format_interval(left)} left", refresh=False)
        self._bar.update()

    def seconds_left(self, elapsed: float) -> float:
        """At the speed so far in tokens; 0 before anything was generated. Kinds that were not
        seen yet count like all those seen.
        """
        tokens = 0.0
        amounts = 0.0
        rates = {}
        for kind, (spent, amount) in self._spent.items():
            tokens += spent
            amounts += amount
            rates[kind] = spent / amount
        if not tokens:
            return 0.0
        ahead = 0.0
        for (kind, amount), count in self._left.items():
            ahead += count * amount * rates.get(kind, tokens / amounts)
        return elapsed * ahead / tokens


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=sorted(TASKS), default="game24")
    parser.add_argument(
        "--run", action="append", default=[], help='method and options, as "mcts branch=8"'
    )
    parser.add_argument(
        "--budgets", default="tokens=2000", help="amounts of one kind, as tokens=250,500,1000"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results.csv"))
    parser.add_argument("--guide", default="builtin")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument(
        "--limit", type=int, help="searches at once; default: as many as keep the engine busy"
    )
    report.add_arguments(parser)
    args = parser.parse_args()
    try:
        whole = _run(args)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if not whole:
        raise SystemExit(130)


def _run(args: argparse.Namespace) -> bool:
    """Do what the flags ask for; False where Ctrl-C ended it."""
    if args.report:
        parts = [report.requested(args)]
        if not args.compare:
            parts.append(streams.table(rows.read(args.report), streams.read(args.report)))
        log.info("\n%s", "\n\n".join(filter(None, parts)))
        return True
    import guides

    task = task_named(args.task)
    runs = read_runs(args.run or ["greedy", "sample", "beam", "mcts"], task)

    def load(**policy: Any) -> Guide:
        return guides.load(args.guide, slots=args.slots, **policy)

    return sweep(
        task,
        runs,
        read_budgets(args.budgets),
        args.seeds,
        args.out,
        load,
        limit=args.limit,
        progress=True,
    )


if __name__ == "__main__":
    main()
