"""One program from its start to its end, seen from outside: what goes in, what comes out, and what
ends it. All that comes out is bytes, cut at a limit while it comes.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, cast

from search.sandbox.limits import Limits

STARTUP = 120.0  #: seconds until a program begins, on a machine that is busy; they are not its own
LONGEST_REPLY = 1 << 16  #: bytes of JSON that a sandbox may reply
_TICK = 0.1  # seconds between two looks at what all processes take together
_DRAIN = 5.0  # seconds for the end of the pipes of what was killed
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@dataclass(frozen=True)
class Command:
    """How a program is started.

    words      may hold "{request}" and "{reply}", which become numbers of descriptors
    folder     where it starts; None: where this process is
    inherited  further descriptors that it gets
    """

    words: list[str]
    environment: dict[str, str]
    folder: str | None = None
    inherited: tuple[int, ...] = ()


@dataclass
class Ended:
    """How a program ended.

    begun    whether it was started inside at all
    reply    the JSON that the inside sent, as bytes, not longer than `LONGEST_REPLY`
    stdout, stderr  what it printed, each cut at `Limits.output` bytes
    stopped  which limit ended it: "time", "memory", "output" or "reply" (too long); "" for none
    code     the exit code of the outermost process, negative for a signal
    seconds  from its beginning to its end
    """

    begun: bool = False
    reply: bytes = b""
    stdout: bytes = b""
    stderr: bytes = b""
    stopped: str = ""
    code: int = 0
    seconds: float = 0.0


def perform(command: Command, sent: bytes, stdin: bytes, seconds: float, limits: Limits) -> Ended:
    """Run a command to its end, `seconds` after its beginning at the latest. The inside reads
    `sent` from its request, and writes a byte at its beginning and a reply at its end.
    """
    with contextlib.ExitStack() as stack:
        request, their_request = _pipe(stack, writes=True)
        reply, their_reply = _pipe(stack, writes=False)
        numbers = {"{request}": str(their_request), "{reply}": str(their_reply)}
        try:
            process = subprocess.Popen(
                [numbers.get(word, word) for word in command.words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=command.folder,
                env=command.environment,
                start_new_session=True,
                pass_fds=(their_request, their_reply, *command.inherited),
            )
        finally:
            os.close(their_request)
            os.close(their_reply)
        watch = _Watch(process, seconds, limits)
        try:
            watch.writes = {request: sent, _pipe_of(process.stdin): stdin}
            watch.reads = {
                _pipe_of(process.stdout): "stdout",
                _pipe_of(process.stderr): "stderr",
                reply: "reply",
            }
            watch.follow()
        finally:
            _kill(process)
            for stream in (process.stdin, process.stdout, process.stderr):
                _pipe_of(stream).close()
            watch.ended.code = process.wait()
        return watch.ended


def _pipe(stack: contextlib.ExitStack, writes: bool) -> tuple[IO[bytes], int]:
    """Our end of a new pipe, and the number of the other end."""
    read, write = os.pipe()
    ours, theirs = (write, read) if writes else (read, write)
    return stack.enter_context(open(ours, "wb" if writes else "rb", buffering=0)), theirs


def _pipe_of(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the group of a process that was not waited for yet, so that its number is its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


class _Watch:
    def __init__(self, process: subprocess.Popen[bytes], seconds: float, limits: Limits):
        self.ended = Ended()
        self.reads: dict[IO[bytes], str] = {}
        self.writes: dict[IO[bytes], bytes] = {}
        self._process = process
        self._seconds = seconds
        self._limits = limits
        self._begun = time.monotonic()
        self._deadline = self._begun + STARTUP
        self._next_look = self._begun + _TICK
        self._over = False

    def follow(self) -> None:
        """Send and read until nobody is left who could say something."""
        with selectors.DefaultSelector() as self._selector:
            for stream in (*self.reads, *self.writes):
                os.set_blocking(stream.fileno(), False)
                event = selectors.EVENT_READ if stream in self.reads else selectors.EVENT_WRITE
                self._selector.register(stream, event)
            while self.reads:
                left = self._deadline - time.monotonic()
                if left <= 0:
                    if self._over:
                        break  # somebody escaped the kill and holds a pipe: only without a sandbox
                    self._stop("time")
                    continue
                for key, _ in self._selector.select(min(left, _TICK)):
                    stream = cast("IO[bytes]", key.fileobj)
                    if stream in self.writes:
                        self._send(stream)
                    else:
                        self._receive(stream)
                self._look()
        self.ended.seconds = time.monotonic() - self._begun

    def _stop(self, why: str) -> None:
        if not self._over:
            self.ended.stopped = why
            self._finish()

    def _finish(self) -> None:
        self._over = True
        self._deadline = time.monotonic() + _DRAIN
        _kill(self._process)

    def _look(self) -> None:
        """Whether the process has ended, and how much memory it and its children take."""
        if self._over or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _TICK
        if _has_ended(self._process.pid):
            self._finish()
        elif memory_of(self._process.pid) > self._limits.memory:
            self._stop("memory")

    def _send(self, stream: IO[bytes]) -> None:
        try:
            sent = stream.write(self.writes[stream][: 1 << 16]) if self.writes[stream] else 0
            self.writes[stream] = self.writes[stream][sent or 0 :]
        except OSError:  # nobody reads it
            self.writes[stream] = b""
        if not self.writes[stream]:
            self._selector.unregister(stream)
            del self.writes[stream]
            stream.close()

    def _receive(self, stream: IO[bytes]) -> None:
        data = os.read(stream.fileno(), 1 << 16)
        name = self.reads[stream]
        if not data:
            self._selector.unregister(stream)
            del self.reads[stream]
            return
        limit = self._limits.output
        if name == "reply":
            limit = LONGEST_REPLY
            if not self.ended.begun:
                self.ended.begun = True
                self._begun = time.monotonic()
                self._deadline = self._begun + self._seconds
                data = data[1:]
        kept = getattr(self.ended, name) + data
        setattr(self.ended, name, kept[:limit])
        if len(kept) > limit:
            self._stop("reply" if name == "reply" else "output")


def _has_ended(pid: int) -> bool:
    """Whether a child of ours has ended; it stays to be waited for."""
    if not hasattr(os, "waitid"):  # the end of its pipes tells, too
        return False
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def memory_of(pid: int) -> int:
    """Bytes of memory that a process and all its descendants hold; what two share counts twice.
    What has ended meanwhile, and on systems that do not tell, counts nothing.
    """
    total = 0
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{one}/statm", "rb") as file:
                total += int(file.read().split()[1]) * _PAGE
            waiting += _children(one)
    return total


def _children(pid: int) -> Iterator[int]:
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", "rb") as f:
            yield from map(int, f.read().split())
