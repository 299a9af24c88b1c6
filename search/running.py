"""`start`: a search that runs beside the caller, to be watched, awaited and ended early."""

from __future__ import annotations

import asyncio
import atexit
import collections
import contextlib
import os
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from search.arguments import Method, seeds_of
from search.guide import Guide
from search.problem import Problem
from search.progress import INTERVAL, SHARE, best_so_far
from search.remarks import Remarks
from search.scheduling import stopwatch
from search.scheduling.budget import Budget, Meter
from search.scheduling.driver import run
from search.scheduling.requests import Backend, Timer, Usage
from search.scheduling.scheduler import Asks, ask, attended, parallel
from search.scheduling.workers import Workers
from search.solver import Prepared, prepared, searched, side_by_side

if TYPE_CHECKING:
    from search.choose import Chooser
    from search.solution import Solution

PATIENCE = 5.0  #: seconds that the end of the interpreter waits for searches to end


@dataclass(frozen=True)
class Progress:
    """How far a search is.

    answer  that it would give now, None while there is none;  usage: what it has spent
    """

    answer: str | None = None
    usage: Usage = field(default_factory=Usage)


class Running:
    """A search under way, as `start` gives it.

    Any thread may ask it. `result()` waits for the solution, and so does `await`; iterating, by
    `for` or `async for`, gives a `Progress` about twice a second until the search has ended.

    problem   that is searched, as the method sees it
    progress  the last that is known
    """

    def __init__(self, problem: Problem):
        self.problem = problem
        self.progress = Progress()
        self._end = threading.Event()
        self._bell = threading.Event()  # of the thread that drives it
        self._future: Future[Solution] = Future()
        self._future.set_running_or_notify_cancel()
        self._listeners: list[Callable[[Progress | None], None]] = []
        self._lock = threading.Lock()  # of the listeners

    @property
    def done(self) -> bool:
        """Whether the search has ended."""
        return self._future.done()

    def cancel(self) -> None:
        """End the search soon, also one that waits for its turn. `result` gives what it has found
        by then, with stopped="interrupted".
        """
        self._end.set()
        self._bell.set()

    def result(self, timeout: float | None = None) -> Solution:
        """The solution, when the search has ended. Raises what `search.solve` would, and
        TimeoutError where it has not ended after `timeout` seconds; it goes on then.
        """
        return self._future.result(timeout)

    def __await__(self) -> Generator[Any, None, Solution]:
        return self._awaited().__await__()

    async def _awaited(self) -> Solution:
        try:
            return await asyncio.wrap_future(self._future)
        except asyncio.CancelledError:
            self.cancel()
            raise

    def __iter__(self) -> Iterator[Progress]:
        told: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
        with self._heard_by(told.put):
            while (one := told.get()) is not None:
                yield one

    async def __aiter__(self) -> AsyncIterator[Progress]:
        told: asyncio.Queue[Progress | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(one: Progress | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(told.put_nowait, one)

        with self._heard_by(tell):
            while (one := await told.get()) is not None:
                yield one

    @contextlib.contextmanager
    def _heard_by(self, listener: Callable[[Progress | None], None]) -> Iterator[None]:
        """Tell a listener of each progress, and None at the end."""
        with self._lock:
            if self.done:
                listener(None)
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)

    def _tell(self, progress: Progress) -> None:
        self.progress = progress
        with self._lock:
            for listener in self._listeners:
                listener(progress)

    def _ended(self, found: Solution | BaseException) -> None:
        with self._lock:
            if self.done:
                return
            if isinstance(found, BaseException):
                self._future.set_exception(found)
            else:
                self._future.set_result(found)
            for listener in self._listeners:
                listener(None)


def start(
    problem: Problem | str,
    guide: Guide | None = None,
    method: str | Method = "mcts",
    budget: Budget | str | None = None,
    seed: int = 0,
    choose: str | Chooser | None = None,
    **options: Any,
) -> Running:
    """Begin a search and return at once; the arguments are those of `search.solve`.

    All searches that are begun with the same engine run side by side on one thread, so that their
    requests share its passes; each is the one that `solve` would make. As many run at once as
    `solve_many` would run, others wait their turn. The thread ends with the last search; until
    then a `solve` on the same engine waits. The seconds of a budget are those of the wall, from
    the search's own beginning: unlike in `solve_many`, searches beside it use them up as well.

    Raises ValueError for bad input, before any model is loaded.
    """
    (seed,) = seeds_of(seed, 1)
    ready = prepared([problem], guide, method, budget, choose, options)
    running = Running(ready.problems[0])
    _submit(_Waiting(running, ready, seed))
    return running


@dataclass
class _Waiting:
    """A search that has not begun."""

    running: Running
    ready: Prepared
    seed: int

    @property
    def share(self) -> float:
        """Of its engine, in (0, 1]: what `solve_many` gives each search of this kind."""
        method = self.ready.method
        return 1 / side_by_side(self.ready.guide.backends, method.options)


class _Driver:
    """One thread that drives the searches on one set of backends, until none is left.

    closed  it takes no more;  guarded by `_LOCK`, as is `waiting`
    """

    def __init__(self, backends: dict[str, Backend]):
        self.backends = backends
        self.waiting: collections.deque[_Waiting] = collections.deque()
        self.bell = threading.Event()
        self.closed = False
        self.under_way: set[Running] = set()
        self._taken = 0.0  # shares of the searches under way
        self.thread = threading.Thread(target=self._run, name="copse-searches", daemon=True)

    def end(self) -> None:
        """End all searches, those that wait included."""
        for running in self._all():
            running.cancel()
        self.thread.join(PATIENCE)

    def _all(self) -> list[Running]:
        with _LOCK:
            return [*self.under_way, *(one.running for one in self.waiting)]

    def _run(self) -> None:
        try:
            with Workers() as workers:
                run(attended(self._door, self.bell), {"workers": workers, **self.backends})
        except BaseException as error:
            with _LOCK:
                self._close()
            for running in self._all():
                running._ended(error)

    def _door(self, under_way: int) -> list[Asks[None]] | None:
        """The searches that begin now. None where none is left: the thread ends, and who comes
        next has another one.
        """
        with _LOCK:
            if not self.waiting and not under_way:
                self._close()
                return None
            found = []
            turn = True  # in the order in which they came; those that were cancelled cost nothing
            for one in list(self.waiting):
                turn = turn and self._room(one)
                if turn or one.running._end.is_set():
                    self.waiting.remove(one)
                    self.under_way.add(one.running)
                    self._taken += one.share
                    found.append(self._search(one))
            return found

    def _room(self, one: _Waiting) -> bool:
        return not self.under_way or self._taken + one.share <= 1.0 + 1e-9

    def _close(self) -> None:
        self.closed = True
        for key in [key for key, driver in _DRIVERS.items() if driver is self]:
            del _DRIVERS[key]

    async def _search(self, one: _Waiting) -> None:
        running = one.running
        ready = one.ready
        ended = threading.Event()
        meter = Meter(ready.budget, running._end)

        async def search() -> Solution:
            try:
                return await searched(
                    running.problem, ready.guide, ready.method, meter, one.seed, alone=True
                )
            finally:
                ended.set()

        async def watch() -> None:
            pause = INTERVAL
            while not ended.is_set():
                await ask(Timer(stopwatch.now() + pause, ended))
                began = time.perf_counter()
                answer = None
                with contextlib.suppress(Exception):  # of the user's parts: the search itself tells
                    answer = best_so_far(meter, running.problem, ready.method.choose)
                running._tell(Progress(answer, meter.usage))
                pause = max(INTERVAL, (time.perf_counter() - began) / SHARE)

        found: Solution | Exception
        try:
            children: list[Asks[Any]] = [search(), watch()]
            solution, _ = await parallel(children)
            remarks = Remarks()
            remarks.add(solution, meter)
            remarks.log_all()
            found = solution
        except Exception as error:
            found = error
        with _LOCK:
            self.under_way.discard(running)
            self._taken -= one.share
        running._ended(found)


_LOCK = threading.Lock()
_DRIVERS: dict[tuple[tuple[str, int], ...], _Driver] = {}  # by their backends' names and ids


def _submit(one: _Waiting) -> None:
    backends = dict(one.ready.guide.backends)
    key = tuple(sorted((name, id(backend)) for name, backend in backends.items()))
    with _LOCK:
        driver = _DRIVERS.get(key)
        if driver is None:
            driver = _DRIVERS[key] = _Driver(backends)
            driver.waiting.append(one)
            driver.thread.start()
        else:
            driver.waiting.append(one)
        one.running._bell = driver.bell
    driver.bell.set()


@atexit.register
def _end_all() -> None:
    """Leave no search behind that uses what the interpreter takes down."""
    with _LOCK:
        drivers = list(_DRIVERS.values())
    for driver in drivers:
        driver.end()


def _forked() -> None:
    """In a process that was made by a fork the threads are not there."""
    global _LOCK
    _LOCK = threading.Lock()
    _DRIVERS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
