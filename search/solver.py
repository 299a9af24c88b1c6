"""`solve` and `solve_many`: from a problem to a `Solution`."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import math
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from search.arguments import (
    Configured,
    Method,
    check_arguments,
    check_budget,
    check_enough,
    check_steps,
    configured,
    guide_of,
    problem_of,
    seeds_of,
)
from search.firstuse import look_at
from search.guide import Guide
from search.parts import awaited, is_ours, label, short
from search.problem import Problem
from search.progress import Watch
from search.remarks import Remarks, log_note
from search.scheduling.budget import Budget, Meter
from search.scheduling.clock import Clock
from search.scheduling.driver import run
from search.scheduling.requests import Backend
from search.scheduling.scheduler import Asks, metered, parallel

if TYPE_CHECKING:
    from search.choose import Chooser
    from search.methods.session import Search
    from search.solution import Solution


ALL = 256  #: searches at once where nothing but problems themselves takes time


def solve(
    problem: Problem | str,
    guide: Guide | None = None,
    method: str | Method = "mcts",
    budget: Budget | str | None = None,
    seed: int = 0,
    choose: str | Chooser | None = None,
    *,
    progress: bool | None = None,
    **options: Any,
) -> Solution:
    """Search for a solution of one problem.

    problem  a Problem, or text: a puzzle that a module of `search.problems` knows, else an open
             text problem
    guide    policy and value function; None: the built-in model, for the kinds of problem it was
             trained on
    method   "mcts", "gumbel", "beam", "sample", or one of the other names in
             `search.methods.presets` (greedy, self_consistency, best_of_n, weighted_vote,
             rejection, dvts, rebase); "my.module:function", or an `async def` that works with a
             `search.Search`
    budget   a Budget or text such as "tokens=2000,seconds=10"; None: the guide's own
    choose   "majority", "weighted", "best", "most_visited" or "verdict" (`search.choose`), or a
             function like them; None: the method's own, else a verified state first, else the
             weighted vote
    progress show a bar if the search takes long; None: where somebody is looking (a terminal or a
    notebook)
    options  of the method, for example branch=8

    Raises ValueError for bad input, before any model is loaded; the backend's error where not even
    the root can be expanded. Where later requests failed for good, what was found comes back with
    `Solution.error`. Ctrl-C ends the search and gives back what there is; a second one raises
    KeyboardInterrupt.
    """
    call = _Call(limit=1, alone=True, progress=progress)
    return _solve([problem], guide, method, budget, seed, choose, options, call)[0]


def solve_many(
    problems: Iterable[Problem | str],
    guide: Guide | None = None,
    method: str | Method = "mcts",
    budget: Budget | str | None = None,
    seed: int | Sequence[int] = 0,
    choose: str | Chooser | None = None,
    *,
    on_finish: Callable[[int, Solution], None] | None = None,
    limit: int | None = None,
    time_limit: float | None = None,
    progress: bool | None = None,
    keep_trees: bool = True,
    isolate: bool = False,
    **options: Any,
) -> list[Solution]:
    """Search all problems side by side on one engine; solutions in the order of the problems.

    Each search is the one that `solve` with the same seed would make. One that fails becomes a
    Solution with its error.

    budget     of each search. Its seconds count from the search's own start, and n searches side by
               side have 1/n of the time each: none gets less than alone, and all together take at
               most their number times `seconds`
    seed       of all searches, or one for each: with the same random numbers, similar problems get
               similar chains, so that what is measured over problems wants `seed_of` each
    on_finish  called with (index, solution) as each search ends
    limit      searches that run at once; None: as many as have four times the requests under way
               that the guide's backends take at once. With more of them, none ends before nearly
               all have, and what one has read is gone from the pool when it goes on
    time_limit seconds for all searches together; what is not done by then ends with
    stopped="time_limit". None: no limit
    progress   show a bar; None: where somebody is looking (a terminal or a notebook)
    keep_trees False: only `on_finish` sees trees and traces, which would fill the memory over very
    many problems
    isolate    searches share no keys and values: what each reads and costs does not depend on which
               others are there, and a beginning that all have in common is read by each
    """
    if isinstance(problems, str):
        raise ValueError(
            f"problems={problems[:80]!r} is one text: give a list of problems, as in "
            "solve_many([text]), or use solve(text)"
        )
    if not isinstance(problems, Iterable):
        raise ValueError(
            f"problems={problems!r} is no list: give a list of problems, or use solve for one"
        )
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} lets no search run: give at least 1")
    if time_limit is not None and not time_limit > 0:
        raise ValueError(
            f"time_limit={time_limit} lets no search run: give seconds above 0, or None"
        )
    call = _Call(limit, False, progress, on_finish, keep_trees, time_limit, isolate)
    return _solve(list(problems), guide, method, budget, seed, choose, options, call)


def seed_of(name: str, seed: int) -> int:
    """The seed of one among many problems, whose random numbers then have nothing to do with
    those of the others.
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class _Call:
    """How the searches of one call run, as `solve_many` says. alone: the call of `solve`, which
    raises what one search raises.
    """

    limit: int | None
    alone: bool
    progress: bool | None = None
    on_finish: Callable[[int, Solution], None] | None = None
    keep_trees: bool = True
    time_limit: float | None = None
    isolate: bool = False


def _solve(
    problems: Sequence[Problem | str],
    guide: Guide | None,
    method: str | Method,
    budget: Budget | str | None,
    seed: int | Sequence[int],
    choose: str | Chooser | None,
    options: dict[str, Any],
    call: _Call,
) -> list[Solution]:
    seeds = seeds_of(seed, len(problems))
    ready, guide, search, spend = prepared(problems, guide, method, budget, choose, options)
    backends = dict(guide.backends)
    workers = workers_of(ready, backends)
    interrupt = threading.Event()
    clock = Clock(call.time_limit)
    remarks = Remarks()

    async def job(index: int, problem: Problem) -> Solution:
        meter = Meter(spend, interrupt, clock, scope=index + 1 if call.isolate else 0)
        watch.begin(index, meter, problem)
        try:
            solution = await searched(problem, guide, search, meter, seeds[index], call.alone)
        finally:
            clock.leave()
        watch.end(index, solution)
        if call.on_finish is not None:
            call.on_finish(index, solution)
        remarks.add(solution, meter)
        if call.keep_trees:
            return solution
        return replace(solution, tree=None, trace=None, finishes=())

    with (
        Watch(len(ready), spend, search.choose, call.alone, call.progress) as watch,
        _ctrl_c(interrupt),
        workers,
    ):
        limit = side_by_side(backends, search.options) if call.limit is None else call.limit
        searches = parallel((job(i, p) for i, p in enumerate(ready)), limit)
        both = _beside(searches, watch.asks()) if watch.on else searches
        solutions = run(both, backends, _patience(spend, call))
    remarks.log_all()
    cut_off = any(solution.stopped == "interrupted" for solution in solutions)
    if interrupt.is_set() and call.on_finish is not None and not cut_off:
        # it came when all was done and handed over: the caller is to hear of it
        raise KeyboardInterrupt
    return solutions


class Prepared(NamedTuple):
    """What `solve` was given, checked and complete.

    problems  as the method searches them
    """

    problems: list[Problem]
    guide: Guide
    method: Configured
    budget: Budget


def prepared(
    problems: Sequence[Problem | str],
    guide: Guide | None,
    method: str | Method,
    budget: Budget | str | None,
    choose: str | Chooser | None,
    options: Mapping[str, Any],
) -> Prepared:
    """Check the arguments of `solve`, and load what they name. Raises ValueError for bad input,
    before any model is loaded.
    """
    check_arguments(guide, budget)
    search = configured(method, options, choose)
    if isinstance(budget, str):
        budget = Budget.parse(budget)
    ready = [search.problem(problem_of(problem, guide)) for problem in problems]
    guide = search.guide(guide_of(guide, ready))
    spend = budget or guide.budget
    check_budget(spend, guide)
    check_steps(search.function, guide)
    check_enough(search, ready, guide)
    log_note(guide.value, search)
    look_at(guide, ready)
    return Prepared(ready, guide, search, spend)


def side_by_side(backends: Mapping[str, Backend], options: Mapping[str, Any]) -> int:
    """How many searches have four times the requests under way that the largest backend takes at
    once; at least 2.

    options  of the method. They tell how many requests one search has under way at most: chains,
             simulations, or steps of a beam. Often it has fewer, as each of them waits for an
             earlier one
    """
    slots = max((getattr(backend, "slots", 0) for backend in backends.values()), default=0)
    each = options.get("wave") or options.get("leaves") or options.get("considered")
    each = each or options.get("width", 1) * options.get("branch", 1)
    each = min(each, options.get("chains") or each)
    if not slots:
        return ALL
    return max(2, math.ceil(4 * slots / each))


def _patience(budget: Budget, call: _Call) -> float | None:
    """Seconds to wait for another thread that searches on the same engine: no more than a search
    may take. None: as long as it takes.
    """
    limits = [limit for limit in (budget.seconds, call.time_limit) if limit is not None]
    return min(limits, default=None)


async def _beside(searches: Asks[list[Solution]], watching: Asks[None]) -> list[Solution]:
    both: list[Asks[Any]] = [searches, watching]
    solutions, _ = await parallel(both)
    return cast("list[Solution]", solutions)


async def searched(
    problem: Problem,
    guide: Guide,
    method: Configured,
    meter: Meter,
    seed: int,
    alone: bool,
) -> Solution:
    """One search. Raises what it raised where it is `alone`; else that is in the solution."""
    from search.methods.session import Search  # these load the kernels
    from search.solution import Solution, solution_of

    try:
        session = Search(problem, guide, meter, np.random.default_rng(seed))
        options = dict(method.options)
        await metered(_run(method.function, session, options), meter)
        return solution_of(
            problem, guide, session.tree, meter, method.function, options, seed, method.choose
        )
    except Exception as error:
        if alone:
            raise
        stopped = meter.halted if meter.halted in ("interrupted", "time_limit") else "error"
        return Solution(problem, stopped=stopped, error=error, usage=meter.usage)


async def _run(method: Method, session: Search, options: dict[str, Any]) -> None:
    """Run a method to its end. Raises ValueError for one that is no coroutine or returns
    something.
    """
    made: Any = method(session, **options)
    if is_ours(method):
        await made
        return
    name = f"the method {label(method)}"
    if not inspect.isawaitable(made) and not inspect.isgenerator(made):
        raise ValueError(
            f"{name} is no coroutine: write `async def`, and `await` before search.expand and "
            "search.judge"
        )
    returned = await awaited(made, name)
    session.check_awaited()
    if returned is not None and returned is not session.tree:
        raise ValueError(
            f"{name} returned {short(returned)}: return nothing, what it found is in search.tree"
        )


@contextlib.contextmanager
def _ctrl_c(interrupt: threading.Event) -> Iterator[None]:
    """Let the first Ctrl-C end all searches with what they have; only the main thread can
    listen.
    """
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


def workers_of(
    problems: Sequence[Problem], backends: dict[str, Backend]
) -> contextlib.AbstractContextManager[Any]:
    """Worker processes for problems that want them, added to `backends`; open them as a context."""
    if all(problem.inline for problem in problems) or "workers" in backends:
        return contextlib.nullcontext()
    from search.scheduling.workers import Workers

    backends["workers"] = workers = Workers()
    return contextlib.closing(workers)
