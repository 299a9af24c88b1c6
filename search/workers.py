"""Worker processes: the backend for `Call`, with limits of time and memory.

A worker is `python -m search.workers` at the other end of two pipes, in a process group of its own. It needs no main guard and works
from a script, a notebook and a thread. A function crosses by its module and name (a method with its object, by pickle). What cannot
cross, or lives in `__main__`, runs in this process when it is polled, without limits; a warning says so once.
"""

from __future__ import annotations

import collections
import contextlib
import io
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from search.requests import Call, Cancelled, Reply, Request, RequestFailed

log = logging.getLogger(__name__)

STARTUP = 120.0  #: seconds that a worker may take to start and to import what a call needs; not part of the call's own
_BEGUN, _FOREIGN, _RESULT, _ERROR, _FAILED = b"B", b"N", b"R", b"E", b"F"  # first byte of what a worker says


@dataclass(eq=False)
class _Job:
    request: Call
    data: bytes
    cancelled: bool = False
    worker: _Worker | None = None


class Workers:
    """Backend for `Call`. Close it, or use it in a `with` block; processes start when they are first needed.

    count   processes; None: one a core
    memory  bytes of address space that a process may take (where the system can limit it); None: no limit

    A call that takes longer than its `seconds`, or whose process dies, is answered `RequestFailed`; its process group is killed
    and another one started. An exception that the function raises comes back as it is.
    """

    computes = False

    def __init__(self, count: int | None = None, memory: int | None = None):
        if count is not None and count < 1:
            raise ValueError(f"count={count} workers do nothing: give at least 1")
        if memory is not None and memory < 1:
            raise ValueError(f"memory={memory} bytes is no room at all: give more, or None for no limit")
        self.lock = threading.Lock()
        self.wake: threading.Event | None = None
        self._count, self._memory = count or _cores(), memory
        self._change = threading.Condition()  # guards all that follows
        self._queue: collections.deque[_Job] = collections.deque()
        self._inline: collections.deque[_Job] = collections.deque()
        self._jobs: dict[Request, _Job] = {}
        self._replies: list[Reply] = []
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = self._warned = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, request: Request) -> None:
        """Queue a call. Raises TypeError for another request."""
        if not isinstance(request, Call):
            raise TypeError(f"workers perform Call requests, not {type(request).__name__}: address it to another backend")
        job = _Job(request, b"")
        try:
            job.data = _dumps((request.function, request.args))
        except Exception as error:  # whatever an object says that cannot be pickled
            return self._keep(job, error)
        with self._change:
            if self._closed:
                raise RuntimeError("these workers are closed: make new ones")
            self._jobs[request] = job
            self._queue.append(job)
            if self._idle < len(self._queue) and len(self._threads) < self._count:
                thread = threading.Thread(target=self._serve, name="copse-worker", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._change.notify_all()

    def poll(self, seconds: float) -> list[Reply]:
        """What has been answered; waits up to `seconds` for the first."""
        with self._change:
            job = self._inline.popleft() if self._inline else None
            if job is None:
                self._change.wait_for(lambda: self._replies or self._inline, seconds)
        if job is not None and not job.cancelled:
            self._answer(job, _perform_inline(job.request))
        with self._change:
            replies, self._replies = self._replies, []
        return replies

    def cancel(self, request: Request) -> None:
        """Give up a call: its process group is killed. It is answered `Cancelled`, unless its answer is already there."""
        with self._change:
            job = self._jobs.get(request)
            if job is None or job.cancelled:
                return
            job.cancelled = True
            if job.worker is not None:
                job.worker.kill()  # its thread answers
                return
            with contextlib.suppress(ValueError):
                self._queue.remove(job)
        self._answer(job, Reply(request, error=_cancelled(request)))

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
        """A call that cannot cross: the next polls run it here."""
        with self._change:
            tell, self._warned = not self._warned, True
            self._jobs[job.request] = job
            self._inline.append(job)
            self._change.notify_all()
        if tell:
            log.warning(
                "%s cannot go to a worker process and runs in this one, without limits of time and memory: %s. "
                "Put it at the top level of a module that can be imported",
                _name(job.request), reason,
            )  # fmt: skip

    def _answer(self, job: _Job, reply: Reply) -> None:
        with self._change:
            if self._jobs.pop(job.request, None) is None:
                return  # it was cancelled meanwhile, and answered then
            self._replies.append(reply)
            self._change.notify_all()
            wake = self.wake
        if wake is not None:
            wake.set()

    def _serve(self) -> None:
        """The thread of one worker: takes a job, has it performed, answers."""
        worker = _Worker(self._memory)
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
                outcome = worker.perform(job)
                with self._change:
                    job.worker = None
                if isinstance(outcome, Reply):
                    self._answer(job, outcome)
                else:
                    self._keep(job, outcome)
        finally:
            worker.stop()


class _Worker:
    """One process, started when it is needed and again after it was killed. Used by one thread; `kill` by any."""

    def __init__(self, memory: int | None):
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None
        self._guard = threading.Lock()
        self.wanted = True  # False once the job in hand is given up

    def perform(self, job: _Job) -> Reply | str:
        """The reply to a job; a str: why the worker cannot know its function."""
        request = job.request
        for attempt in range(2):
            begun = False
            try:
                self._start()
                self._send.send_bytes(job.data)
                deadline = time.monotonic() + STARTUP
                while self._receive.poll(max(0.0, deadline - time.monotonic())):
                    said = self._receive.recv_bytes()
                    if said[:1] != _BEGUN:
                        return _understand(request, said[:1], said[1:])
                    begun = True
                    deadline = time.monotonic() + min(request.seconds, threading.TIMEOUT_MAX)
                limit = f"took longer than {request.seconds:g} s" if begun else f"could not be imported within {STARTUP:g} s"
                error: Exception = RequestFailed(f"{_name(request)} {limit}, so its process was ended")
            except (EOFError, OSError) as lost:
                code = self.stop()
                if not begun and attempt == 0 and self.wanted:
                    continue  # it died while it was idle
                error = RequestFailed(f"the process of {_name(request)} ended without an answer ({_cause(code, lost)})")
            self.stop()
            break
        return Reply(request, error=error if self.wanted else _cancelled(request))

    def _start(self) -> None:
        with self._guard:
            if not self.wanted:
                raise OSError("given up")
            if self._process is not None:
                return
            their_in, our_out = os.pipe()
            our_in, their_out = os.pipe()
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "search.workers", str(their_in), str(their_out)],
                    stdin=subprocess.DEVNULL,
                    stdout=_stderr(),
                    env=_environment(),
                    pass_fds=(their_in, their_out),
                    start_new_session=True,
                )
            except OSError:
                os.close(our_in)
                os.close(our_out)
                raise
            finally:
                os.close(their_in)
                os.close(their_out)
            self._send, self._receive = Connection(our_out, readable=False), Connection(our_in, writable=False)
        self._send.send_bytes(pickle.dumps((sys.path, os.environ.get("PYTHONPATH"), self._memory)))

    def kill(self) -> None:
        """Kill the process group and give up the job in hand; the thread that waits for an answer then goes on."""
        with self._guard:
            self.wanted = False
            self._signal()

    def _signal(self) -> None:
        if self._process is not None and self._process.returncode is None:  # not waited for, so the number is still its own
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def stop(self) -> int | None:
        """End the process group; its exit code, None without a process."""
        with self._guard:
            if self._process is None:
                return None
            self._signal()
            code = self._process.wait()
            self._send.close()
            self._receive.close()
            self._process = None
            return code


class _Pickler(pickle.Pickler):
    """Refuses what a worker could not find again: functions and classes of `__main__`."""

    def reducer_override(self, thing: Any) -> Any:
        if getattr(thing, "__module__", None) == "__main__" and isinstance(thing, (type, type(_cores))):
            raise pickle.PicklingError(f"{thing.__qualname__} is defined in __main__")
        return NotImplemented


def _dumps(thing: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(thing)
    return buffer.getvalue()


def _understand(request: Call, kind: bytes, data: bytes) -> Reply | str:
    if kind == _FOREIGN:
        return data.decode()
    if kind == _FAILED:
        return Reply(request, error=RequestFailed(f"{_name(request)} {data.decode()}"))
    try:
        thing = pickle.loads(data)
    except Exception as error:  # a class that cannot be made again here
        return Reply(request, error=RequestFailed(f"the result of {_name(request)} cannot be read: {error}"))
    return Reply(request, thing) if kind == _RESULT else Reply(request, error=thing)


def _perform_inline(request: Call) -> Reply:
    try:
        return Reply(request, request.function(*request.args))
    except Exception as error:  # whatever the function raises is the answer
        return Reply(request, error=error)


def _cancelled(request: Request) -> Cancelled:
    return Cancelled("the call was cancelled")


def _name(call: Call) -> str:
    return str(getattr(call.function, "__qualname__", call.function))


def _cause(code: int | None, error: Exception) -> str:
    if code is None:
        return str(error)
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _stderr() -> int:
    """What a function writes to standard output goes to standard error; nowhere if that is closed."""
    try:
        os.fstat(2)
        return 2
    except OSError:
        return subprocess.DEVNULL


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parent.parent)
    old = os.environ.get("PYTHONPATH")
    return {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": root if not old else root + os.pathsep + old}


# -- in the worker


def _work(read: int, write: int) -> None:
    """Perform calls until the other end of the pipe is closed."""
    for descriptor in (read, write):
        os.set_inheritable(descriptor, False)
    receive, send = Connection(read, writable=False), Connection(write, readable=False)
    sys.path[:], old, memory = pickle.loads(receive.recv_bytes())
    os.environ.pop("PYTHONPATH") if old is None else os.environ.update(PYTHONPATH=old)
    if memory is not None:
        _limit_memory(memory)
    calls: collections.deque[bytes] = collections.deque()
    there = threading.Semaphore(0)

    def listen() -> None:
        try:
            while True:
                calls.append(receive.recv_bytes())
                there.release()
        except (EOFError, OSError):
            os.killpg(0, signal.SIGKILL)  # the parent is gone: end what runs, and its children

    threading.Thread(target=listen, daemon=True).start()
    while True:
        there.acquire()
        try:
            function, args = pickle.loads(calls.popleft())
        except (ModuleNotFoundError, AttributeError) as error:
            send.send_bytes(_FOREIGN + str(error).encode())
            continue
        except Exception as error:
            send.send_bytes(_FAILED + f"cannot be loaded in a worker process: {type(error).__name__}: {error}".encode())
            continue
        send.send_bytes(_BEGUN)
        send.send_bytes(_outcome(function, args))


def _outcome(function: Any, args: tuple[Any, ...]) -> bytes:
    try:
        result = function(*args)
    except MemoryError:
        return _FAILED + b"needs more memory than its worker process has"
    except Exception as error:
        return _exception(error)
    except BaseException as error:  # sys.exit in the function ends the call, not the worker
        return _FAILED + f"ended itself with {type(error).__name__}: {error}".encode()
    try:
        return _RESULT + pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        return _FAILED + f"gave a {type(result).__name__}, which cannot be sent back: {error}".encode()


def _exception(error: Exception) -> bytes:
    error.add_note("In a worker process:\n" + "".join(traceback.format_exception(error)).rstrip())
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        return _FAILED + f"raised {type(error).__name__}: {error}".encode()
    return _ERROR + data


def _limit_memory(size: int) -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # not on this system
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, size))


if __name__ == "__main__":
    _work(int(sys.argv[1]), int(sys.argv[2]))
