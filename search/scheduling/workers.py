"""Worker processes: the backend for `Call`, with limits of time and memory.

A worker (`search.scheduling.worker_process`) needs no main guard and works from a script, a
notebook and a thread. A function crosses by its module and name, a method with its object, by
pickle. What cannot cross, or lives in `__main__`, runs in this process when it is polled, without
limits; a warning says so once.
"""

from __future__ import annotations

import collections
import contextlib
import io
import logging
import os
import pickle
import sys
import threading
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from search.scheduling.requests import Call, Cancelled, Reply, Request
from search.scheduling.worker_process import Worker, work

log = logging.getLogger(f"copse.{__name__}")


@dataclass(eq=False)
class _Job:
    request: Call
    data: bytes = b""
    cancelled: bool = False
    worker: Worker | None = None  # while one performs it


class Workers:
    """Backend for `Call`. Close it, or use it in a `with` block; processes start when they are
    first needed.

    count   processes; None: one a core
    memory  bytes of address space that a process may take (where the system can limit it); None: no
            limit

    A call that takes longer than its `seconds`, or whose process dies, is answered `RequestFailed`;
    its process group is killed and another one started. An exception that the function raises comes
    back as it is.
    """

    computes = False

    def __init__(self, count: int | None = None, memory: int | None = None):
        if count is not None and count < 1:
            raise ValueError(f"count={count} workers do nothing: give at least 1")
        if memory is not None and memory < 1:
            raise ValueError(
                f"memory={memory} bytes is no room at all: give more, or None for no limit"
            )
        self.lock = threading.Lock()
        self.wake: threading.Event | None = None
        self._count = count or _cores()
        self._memory = memory
        self._change = threading.Condition()  # guards all that follows
        self._queue: collections.deque[_Job] = collections.deque()
        self._inline: collections.deque[_Job] = collections.deque()
        self._jobs: dict[Request, _Job] = {}  # not answered yet
        self._replies: list[Reply] = []
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = self._warned = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, request: Request) -> None:
        """Queue a call. Raises TypeError for another request, RuntimeError after `close`."""
        if not isinstance(request, Call):
            raise TypeError(
                f"workers perform Call requests, not {type(request).__name__}: address it to "
                "another backend"
            )
        if self._closed:
            raise RuntimeError("these workers are closed: make new ones")
        job = _Job(request)
        with self._change:
            self._jobs[request] = job
        try:
            job.data = _dumps((request.function, request.args))
        except Exception as error:  # an object that cannot be pickled may raise anything
            self._keep(job, error)
            return
        with self._change:
            self._queue.append(job)
            if self._idle < len(self._queue) and len(self._threads) < self._count:
                self._threads.append(
                    threading.Thread(target=self._serve, name="copse-worker", daemon=True)
                )
                self._threads[-1].start()
            self._change.notify_all()

    def poll(self, seconds: float) -> list[Reply]:
        """What has been answered; waits up to `seconds` for the first."""
        with self._change:
            if not self._inline:
                self._change.wait_for(lambda: self._replies or self._inline, seconds)
            job = self._inline.popleft() if self._inline else None
        if job is not None and not job.cancelled:
            self._answer(job, _perform(job.request))
        with self._change:
            replies = self._replies
            self._replies = []
        return replies

    def cancel(self, request: Request) -> None:
        """Give up a call: its process group is killed. It is answered `Cancelled`, unless its
        answer is already there.
        """
        with self._change:
            job = self._jobs.get(request)
            if job is None or job.cancelled:
                return
            job.cancelled = True
            if job.worker is not None:
                job.worker.kill()  # the thread that serves it answers
                return
            with contextlib.suppress(ValueError):
                self._queue.remove(job)
        self._answer(job, _cancelled(job))

    def close(self) -> None:
        """Kill all processes. What is outstanding stays unanswered."""
        with self._change:
            self._closed = True
            self._queue.clear()
            self._inline.clear()
            for job in self._jobs.values():
                if job.worker is not None:
                    job.worker.kill()
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def _keep(self, job: _Job, reason: object) -> None:
        """A call that cannot cross: one of the next polls performs it."""
        with self._change:
            first = not self._warned
            self._warned = True
        if first:
            log.warning(
                "%s runs in this process, without limits of time and memory, because a "
                    "worker process cannot get it: %s. "
                "Put it at the top level of a module that can be imported",
                getattr(job.request.function, "__qualname__", job.request.function), reason,
            )  # fmt: skip
        with self._change:
            self._inline.append(job)
            self._change.notify_all()
        self._ring()

    def _answer(self, job: _Job, reply: Reply) -> None:
        with self._change:
            if self._jobs.pop(job.request, None) is None:
                return  # it was cancelled meanwhile, and answered then
            self._replies.append(reply)
            self._change.notify_all()
        self._ring()

    def _ring(self) -> None:
        wake = self.wake
        if wake is not None:
            wake.set()

    def _serve(self) -> None:
        """The thread of one worker: takes a job, has it performed, answers."""
        worker = Worker(self._memory)
        try:
            while True:
                with self._change:
                    self._idle += 1
                    self._change.wait_for(lambda: self._queue or self._closed)
                    self._idle -= 1
                    if self._closed:
                        return
                    job = self._queue.popleft()
                    job.worker = worker
                    worker.wanted = True
                outcome = worker.perform(job.request, job.data)
                with self._change:
                    job.worker = None
                if job.cancelled and not isinstance(outcome, Reply):
                    outcome = _cancelled(job)
                if isinstance(outcome, Reply):
                    self._answer(job, outcome)
                else:
                    self._keep(job, outcome)
        finally:
            worker.stop()


class _Pickler(pickle.Pickler):
    """Refuses what a worker could not find again: functions and classes of `__main__`."""

    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, (type, FunctionType)) and thing.__module__ == "__main__":
            raise pickle.PicklingError(f"{thing.__qualname__} is defined in __main__")
        return NotImplemented


def _dumps(thing: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(thing)
    return buffer.getvalue()


def _perform(request: Call) -> Reply:
    try:
        return Reply(request, request.function(*request.args))
    except Exception as error:  # whatever the function raises is the answer
        return Reply(request, error=error)


def _cancelled(job: _Job) -> Reply:
    return Reply(job.request, error=Cancelled("the call was cancelled"))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]))
