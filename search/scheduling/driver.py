"""What drives a coroutine that asks: one thread, which has its requests answered by backends."""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
from collections.abc import Iterable, Mapping
from typing import TypeVar

from search.scheduling import stopwatch
from search.scheduling.requests import (
    Backend,
    Cancel,
    Progress,
    Reply,
    Request,
    RequestFailed,
    Timer,
)
from search.scheduling.scheduler import Asks, begin, check_coroutine

T = TypeVar("T")

_drivers: dict[int, int] = {}  # id of a backend whose lock is held -> the thread that drives it
_left_behind: set[int] = set()  # backends that a thread drove which this copy of it has not


def _forked() -> None:
    """In a process that was made by a fork: only the thread that forked is there."""
    here = threading.get_ident()
    gone = [backend for backend, thread in _drivers.items() if thread != here]
    _left_behind.update(gone)
    for backend in gone:  # a new thread may have the identity of one that is not there
        del _drivers[backend]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def run(asks: Asks[T], backends: Mapping[str, Backend], patience: float | None = None) -> T:
    """Drive one coroutine that asks to its end and return its result.

    Requests born in one turn are submitted together before anything is polled. Holds the lock of
    each backend from start to end, so a second thread waits. Whatever happens, KeyboardInterrupt
    included, all that is outstanding is cancelled and collected.

    patience  seconds that this thread waits for others; None: as long as it takes

    Raises KeyError naming the backend that a request is addressed to but that is not there,
    TypeError where `asks` is no coroutine, RequestFailed where another thread keeps a backend for
    longer, RuntimeError where nobody will ever give it back.
    """
    check_coroutine(asks, "what is to run")
    distinct = sorted(_distinct(backends.values()), key=id)
    wake = threading.Event()
    outstanding: dict[Request, Backend] = {}
    held: list[Backend] = []
    try:
        for backend in distinct:
            _take(backend, patience)
            held.append(backend)
            _drivers[id(backend)] = threading.get_ident()
            backend.wake = wake
        timers: list[tuple[float, int, Timer]] = []
        watched: list[Progress] = []
        numbers = itertools.count()
        try:
            orders = begin(asks)
            while True:
                replies = _act(orders, backends, outstanding, timers, watched, numbers)
                while not replies:
                    replies = _gather(outstanding, timers, watched, wake)
                orders = asks.send(replies)
        except StopIteration as stop:
            return stop.value
    finally:
        try:
            asks.close()
            _collect(outstanding)
        finally:
            for backend in held:
                backend.wake = None
                _drivers.pop(id(backend), None)  # it is away where this process was forked
                backend.lock.release()


def _take(backend: Backend, patience: float | None) -> None:
    """Take the lock of a backend. Raises what `run` does."""
    if _drivers.get(id(backend)) == threading.get_ident():
        raise RuntimeError(
            "a search runs on this engine in this very thread: give all problems to one "
            "solve_many instead"
        )
    if id(backend) in _left_behind:
        raise RuntimeError(
            "this process was forked while another thread searched on this engine, which stays "
            "as it was then: start the process by spawn, or fork while no thread searches"
        )
    if not backend.lock.acquire(timeout=-1 if patience is None else patience):
        raise RequestFailed(
            f"another thread searches on this engine for longer than the {patience:g} s of this "
            "search: give all problems to one solve_many"
        )


def _distinct(backends: Iterable[Backend]) -> list[Backend]:
    """Each backend once, in order."""
    return list({id(backend): backend for backend in backends}.values())


def _act(
    orders: list[Request],
    backends: Mapping[str, Backend],
    outstanding: dict[Request, Backend],
    timers: list[tuple[float, int, Timer]],
    watched: list[Progress],
    numbers: Iterable[int],
) -> list[Reply]:
    """Start what was ordered; the replies that are there at once (to Cancel)."""
    replies = []
    for order in orders:
        if isinstance(order, Timer):
            heapq.heappush(timers, (order.at, next(numbers), order))  # type: ignore[call-overload]
        elif isinstance(order, Progress):
            if _reached(order, outstanding):
                replies.append(Reply(order))
            else:
                watched.append(order)
        elif isinstance(order, Cancel):
            if isinstance(order.target, Timer):
                timers[:] = [entry for entry in timers if entry[2] is not order.target]
                heapq.heapify(timers)
            elif order.target in outstanding:
                outstanding[order.target].cancel(order.target)
            replies.append(Reply(order))
        else:
            name = order.to  # type: ignore[attr-defined]
            if name not in backends:
                raise KeyError(
                    f"a {type(order).__name__} request is addressed to backend {name!r}, but "
                    f"there are only {sorted(backends)}"
                )
            outstanding[order] = backends[name]
            backends[name].submit(order)
    return replies


def _gather(
    outstanding: dict[Request, Backend],
    timers: list[tuple[float, int, Timer]],
    watched: list[Progress],
    wake: threading.Event,
) -> list[Reply]:
    """Replies that are there now; waits on `wake` only if no backend computes in `poll`."""
    wake.clear()
    replies = []
    working = _distinct(outstanding.values())
    for backend in working:
        for reply in backend.poll(0):
            if outstanding.pop(reply.request, None) is not None:
                replies.append(reply)
    if watched:
        reached = [order for order in watched if _reached(order, outstanding)]
        if reached:
            watched[:] = [order for order in watched if order not in reached]
            replies.extend(Reply(order) for order in reached)
    now = stopwatch.now()
    fired = [entry for entry in timers if _fires(entry[2], now)]
    if fired:
        timers[:] = [entry for entry in timers if entry not in fired]
        heapq.heapify(timers)
        replies.extend(Reply(entry[2]) for entry in fired)
    if not replies and not any(backend.computes for backend in working):
        if not working and not timers:
            raise RuntimeError(
                "a search waits for replies but has asked for nothing: `exchange([])` was "
                "awaited too often"
            )
        seconds = 0.05
        if timers:
            seconds = min(seconds, max(0.0, timers[0][0] - now))
        wake.wait(seconds)
    return replies


def _fires(timer: Timer, now: float) -> bool:
    return timer.at <= now or (timer.event is not None and timer.event.is_set())


def _reached(order: Progress, outstanding: Mapping[Request, Backend]) -> bool:
    backend = outstanding.get(order.target)
    if backend is None:
        return True
    progress = getattr(backend, "progress", None)
    return progress is not None and progress(order.target) >= order.tokens


def _collect(outstanding: dict[Request, Backend], seconds: float = 5.0) -> None:
    """Cancel what is left and take the replies, so that the next run of these backends starts
    clean.
    """
    for request, backend in outstanding.items():
        backend.cancel(request)
    deadline = time.monotonic() + seconds
    while outstanding and time.monotonic() < deadline:
        for backend in _distinct(outstanding.values()):
            for reply in backend.poll(0.01):
                outstanding.pop(reply.request, None)
