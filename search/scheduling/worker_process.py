"""One worker process, seen from both ends of its two pipes.

`Worker` is the parent's end. The process is `python -m search.scheduling.workers`, in a process
group of its own, so that whatever a function starts ends with it. It ends by itself when the parent
is gone. What a function prints goes to standard error.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import site
import subprocess
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from search.scheduling.requests import Call, Cancelled, Reply, RequestFailed

#: seconds to start a process and import what a call needs; they do not count as the call's own
STARTUP = 120.0
# first byte of a message of the process
_BEGUN = b"B"
_FOREIGN = b"N"
_RESULT = b"R"
_ERROR = b"E"
_FAILED = b"F"


class Worker:
    """One process, started when it is needed and again after it was killed. Used by one thread;
    `kill` by any.

    wanted  False once the job in hand is given up
    """

    def __init__(self, memory: int | None = None):
        self.wanted = True
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None
        self._guard = threading.Lock()

    def perform(self, request: Call, data: bytes) -> Reply | str:
        """The reply to a call, `data` its pickle. A str instead says why a worker cannot know
        the function.
        """
        for attempt in range(2):
            begun = False
            try:
                self._start()
                self._send.send_bytes(data)
                message = self._listen(STARTUP)
                if message == _BEGUN:
                    begun = True
                    message = self._listen(request.seconds)
                if message is not None:
                    return _understand(request, message[:1], message[1:])
                limit = f"could not be imported within {STARTUP:g} s"
                if begun:
                    limit = f"took longer than {request.seconds:g} s"
                problem = f"{limit}, so its process was ended"
            except (EOFError, OSError) as lost:
                code = self.stop()
                if not begun and attempt == 0 and self.wanted:
                    continue  # it died while it was idle
                problem = f"got no answer: its process ended with {_cause(code, lost)}"
            break
        self.stop()
        if self.wanted:
            return Reply(request, error=RequestFailed(f"{_name(request)} {problem}"))
        return Reply(request, error=Cancelled("the call was cancelled"))

    def kill(self) -> None:
        """Kill the process group and give up the job in hand; the thread that waits for its
        answer then goes on.
        """
        with self._guard:
            self.wanted = False
            self._signal()

    def stop(self) -> int | None:
        """End the process group. Its exit code, None where there was no process."""
        with self._guard:
            if self._process is None:
                return None
            self._signal()
            code = self._process.wait()
            self._send.close()
            self._receive.close()
            self._process = None
            return code

    def _signal(self) -> None:
        # it is waited for nowhere but in `stop`, so its number is still its own
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _listen(self, seconds: float) -> bytes | None:
        """What the process says next, None if that takes longer than `seconds`."""
        deadline = time.monotonic() + seconds
        while not self._receive.poll(min(1.0, max(0.0, deadline - time.monotonic()))):
            if not self.wanted:
                raise EOFError("given up")
            if time.monotonic() >= deadline:
                return None
        return self._receive.recv_bytes()

    def _start(self) -> None:
        with self._guard:
            if not self.wanted:
                raise EOFError("given up")
            if self._process is not None:
                return
            their_in, our_out = os.pipe()
            our_in, their_out = os.pipe()
            try:
                module = ["-P", "-m", "search.scheduling.workers"]
                self._process = subprocess.Popen(
                    [sys.executable, *module, str(their_in), str(their_out)],
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
            self._send = Connection(our_out, readable=False)
            self._receive = Connection(our_in, writable=False)
        self._send.send_bytes(pickle.dumps((sys.path, os.environ.get("PYTHONPATH"), self._memory)))


def _understand(request: Call, kind: bytes, data: bytes) -> Reply | str:
    if kind == _FOREIGN:
        return data.decode()
    if kind == _FAILED:
        return Reply(request, error=RequestFailed(f"{_name(request)} {data.decode()}"))
    try:
        thing = pickle.loads(data)
    except Exception as error:  # a class that cannot be made again here
        failed = RequestFailed(f"{_name(request)} gave what cannot be read here: {error}")
        return Reply(request, error=failed)
    if kind == _RESULT:
        return Reply(request, thing)
    return Reply(request, error=thing)


def _name(call: Call) -> str:
    return str(getattr(call.function, "__qualname__", call.function))


def _cause(code: int | None, error: Exception) -> str:
    if code is None:
        return str(error)
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _stderr() -> int:
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return 2


def _environment() -> dict[str, str]:
    """The parent's, with this package where a new process finds it, and one thread for numerical
    libraries.
    """
    root = str(Path(__file__).resolve().parent.parent.parent)
    old = os.environ.get("PYTHONPATH")
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    if root not in site.getsitepackages():
        environment["PYTHONPATH"] = root if not old else root + os.pathsep + old
    return environment


# -- the other end


def work(read: int, write: int) -> NoReturn:
    """Perform calls that come from the descriptor `read`, until its other end is closed."""
    for descriptor in (read, write):
        os.set_inheritable(descriptor, False)
    _die_with_parent()
    receive = Connection(read, writable=False)
    send = Connection(write, readable=False)
    sys.path[:], pythonpath, memory = pickle.loads(receive.recv_bytes())
    os.environ.pop("PYTHONPATH", None)
    if pythonpath is not None:
        os.environ["PYTHONPATH"] = pythonpath
    if memory is not None:
        _limit_memory(memory)
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_hear, args=(receive, calls), daemon=True).start()
    while True:
        data = calls.get()
        try:
            function, args = pickle.loads(data)
        except (ModuleNotFoundError, AttributeError) as error:
            send.send_bytes(_FOREIGN + str(error).encode())
            continue
        except Exception as error:
            reason = f"cannot be loaded in a worker process: {type(error).__name__}: {error}"
            send.send_bytes(_FAILED + reason.encode())
            continue
        send.send_bytes(_BEGUN)
        send.send_bytes(_outcome(function, args))


def _hear(receive: Connection, calls: queue.SimpleQueue[bytes]) -> None:
    try:
        while True:
            calls.put(receive.recv_bytes())
    except (EOFError, OSError):
        os.killpg(0, signal.SIGKILL)  # the parent is gone: end what runs, and what that started


def _outcome(function: Any, args: tuple[Any, ...]) -> bytes:
    try:
        result = function(*args)
    except MemoryError:
        return _FAILED + b"needs more memory than its worker process has"
    except Exception as error:
        return _exception(error)
    except BaseException as error:  # sys.exit in a function ends the call, not the worker
        return _FAILED + f"ended itself with {type(error).__name__}: {error}".encode()
    try:
        return _RESULT + pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        reason = f"gave a {type(result).__name__}, which cannot be sent back: {error}"
        return _FAILED + reason.encode()


def _exception(error: Exception) -> bytes:
    error.add_note("In a worker process:\n" + "".join(traceback.format_exception(error)).rstrip())
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:  # an exception with a constructor of its own
        return _FAILED + f"raised {type(error).__name__}: {error}".encode()
    return _ERROR + data


def _die_with_parent() -> None:
    """On Linux the kernel kills this process with the thread that started it, even where a call
    never lets `_hear` run.
    """
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))


def _limit_memory(size: int) -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # not on every system
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, size))
