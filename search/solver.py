"""`solve` and `solve_many`: from a problem to a `Solution`."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from search.asks import Asks, metered, parallel, run
from search.budget import Budget, Meter
from search.door import Method, all_options, check_arguments, check_budget, check_options, check_steps, guide_of, method_of, problem_of
from search.guide import Guide
from search.problem import Problem
from search.requests import Backend

if TYPE_CHECKING:
    from search.choose import Chooser
    from search.solution import Solution
    from search.tree import Tree

log = logging.getLogger(__name__)


def solve(
    problem: Problem | str,
    guide: Guide | None = None,
    method: str | Method = "mcts",
    budget: Budget | str | None = None,
    seed: int = 0,
    choose: Chooser | None = None,
    **options: Any,
) -> Solution:
    """Search for a solution of one problem.

    problem  a Problem, or text: a puzzle that a module of `search.problems` knows, else an open text problem
    guide    policy and value function; None: the built-in model, for the kinds of problem it was trained on
    method   "mcts", "gumbel", "beam", "sample", "my.module:function", or a function like them
    budget   a Budget or text such as "tokens=2000,seconds=10"; None: the guide's own
    choose   a chooser of `search.choose`; None: a verified state first, else the weighted vote
    options  of the method, for example branch=8

    Raises ValueError for bad input, before any model is loaded; the backend's error where not even the root can be expanded.
    Ctrl-C ends the search and gives back what there is; a second one raises KeyboardInterrupt.
    """
    return _solve([problem], guide, method, budget, seed, choose, options, limit=1, isolate=False)[0]


def solve_many(
    problems: Iterable[Problem | str],
    guide: Guide | None = None,
    method: str | Method = "mcts",
    budget: Budget | str | None = None,
    seed: int | Sequence[int] = 0,
    choose: Chooser | None = None,
    *,
    on_finish: Callable[[int, Solution], None] | None = None,
    limit: int = 256,
    progress: bool | None = None,
    keep_trees: bool = True,
    **options: Any,
) -> list[Solution]:
    """Search all problems side by side on one engine; solutions in the order of the problems.

    Each search is the one that `solve` with the same seed would make. One that fails becomes a Solution with its error.

    seed       of all searches, or one for each: with the same random numbers, similar problems get similar chains, so that what is
               measured over problems wants `seed_of` each
    on_finish  called with (index, solution) as each search ends
    limit      searches that run at once
    progress   show a bar; None: where somebody is looking (a terminal or a notebook)
    keep_trees False: only `on_finish` sees trees and traces, which would fill the memory over very many problems
    """
    if limit < 1:
        raise ValueError(f"limit={limit} lets no search run: give at least 1")
    return _solve(list(problems), guide, method, budget, seed, choose, options, limit, True, on_finish, progress, keep_trees)


def seed_of(name: str, seed: int) -> int:
    """The seed of one among many problems, whose random numbers then have nothing to do with those of the others."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big") >> 1


def _solve(
    problems: Sequence[Problem | str],
    guide: Guide | None,
    method: str | Method,
    budget: Budget | str | None,
    seed: int | Sequence[int],
    choose: Chooser | None,
    options: dict[str, Any],
    limit: int,
    isolate: bool,
    on_finish: Callable[[int, Solution], None] | None = None,
    progress: bool | None = False,
    keep_trees: bool = True,
) -> list[Solution]:
    check_arguments(guide, budget, seed, choose)
    seeds = list(seed) if isinstance(seed, Sequence) else [seed] * len(problems)
    if len(seeds) != len(problems):
        raise ValueError(f"{len(seeds)} seeds for {len(problems)} problems: give one for each, or one for all")
    search = method_of(method)
    check_options(search, options)
    options = all_options(search, options)
    budget = Budget.parse(budget) if isinstance(budget, str) else budget
    ready = [problem_of(problem, guide) for problem in problems]
    guide = guide_of(guide, ready)
    spend = budget or guide.budget
    check_budget(spend, guide)
    check_steps(search, guide)
    backends = dict(guide.backends)
    workers = workers_of(ready, backends)
    interrupt = threading.Event()
    unusable = _Unusable()

    def job(index: int, problem: Problem) -> Asks[Solution]:
        solution = yield from _search(problem, guide, search, spend, interrupt, seeds[index], choose, options, isolate)
        bar.update()
        if on_finish is not None:
            on_finish(index, solution)
        if solution.tree is not None and not solution.verified:
            unusable.count(solution.tree)
        return solution if keep_trees else replace(solution, tree=None, trace=None)

    with _bar(len(ready), progress) as bar, _ctrl_c(interrupt), workers:
        solutions = run(parallel((job(i, p) for i, p in enumerate(ready)), limit), backends)
    unusable.warn()
    if interrupt.is_set() and on_finish is not None and not any(solution.stopped == "interrupted" for solution in solutions):
        raise KeyboardInterrupt  # it came when all was done and handed over: the caller is to hear of it
    return solutions


def _search(
    problem: Problem,
    guide: Guide,
    method: Method,
    budget: Budget,
    interrupt: threading.Event,
    seed: int,
    choose: Chooser | None,
    options: dict[str, Any],
    isolate: bool,
) -> Asks[Solution]:
    from search.solution import Solution, solution_of  # loads the kernels

    meter = Meter(budget, interrupt)
    try:
        tree = yield from metered(method(problem, guide, meter, np.random.default_rng(seed), **options), meter)
        return solution_of(problem, guide, tree, meter, method, options, seed, choose)
    except Exception as error:
        if not isolate:
            raise
        log.warning("a search failed: %s: %s", type(error).__name__, error)
        stopped = "interrupted" if meter.halted == "interrupted" else "error"
        return Solution(problem, stopped=stopped, error=error, usage=meter.usage)


@contextlib.contextmanager
def _ctrl_c(interrupt: threading.Event) -> Iterator[None]:
    """Let the first Ctrl-C end all searches with what they have; only the main thread can listen."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        if interrupt.is_set():
            raise KeyboardInterrupt
        interrupt.set()

    try:
        before = signal.signal(signal.SIGINT, stop)
    except ValueError:  # an embedded interpreter
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def workers_of(problems: Sequence[Problem], backends: dict[str, Backend]) -> contextlib.AbstractContextManager[Any]:
    """Worker processes for problems that want them, added to `backends`; open them as a context."""
    if all(problem.inline for problem in problems) or "workers" in backends:
        return contextlib.nullcontext()
    from search.workers import Workers

    backends["workers"] = workers = Workers()
    return contextlib.closing(workers)


def _bar(total: int, progress: bool | None) -> Any:
    from tqdm.auto import tqdm

    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(total=total, unit="problem", disable=not (watched if progress is None else progress))


class _Unusable:
    """Counts proposed steps that were cut off or not understood, over all searches of one call that found no verified solution."""

    def __init__(self) -> None:
        self.proposed = self.unusable = 0
        self.example: Any = None

    def count(self, tree: Tree) -> None:
        self.proposed += tree.proposed
        self.unusable += tree.unusable
        self.example = self.example if tree.example is None else tree.example

    def warn(self) -> None:
        """Say so if they are more than half."""
        if self.unusable * 2 > self.proposed:
            log.warning(
                "%d of %d proposed steps were cut off or not understood, for example %r: check the guide's step delimiter, answer "
                "pattern and tokens a step, or whether the model knows this kind of problem",
                self.unusable, self.proposed, getattr(self.example, "text", self.example),
            )  # fmt: skip
