"""What the tests of the sandbox share: whether there is one, and surroundings that notice harm."""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attacks
import pytest

from search.sandbox import missing

#: seconds of the processes that the tests of this process look for among all
SLEEP = f"98765.{os.getpid()}"


def need_a_sandbox() -> None:
    """Where there can be none, CI fails and says what is missing; elsewhere the test is skipped."""
    told = missing()
    if told is not None and os.environ.get("CI"):
        pytest.fail(told)
    elif told is not None:
        pytest.skip(told)


class Surroundings:
    """A folder with a secret, a key in the environment, listeners, a process that anybody of this
    user may end.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "secret").write_text("open sesame")
        self._before = sorted(os.listdir(folder))
        self._files = {path: Path(path).read_bytes() for path in (attacks.__file__, os.__file__)}
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self._abstract = f"copse-test-{secrets.token_hex(8)}"
        self._unix = socket.socket(socket.AF_UNIX)
        if sys.platform.startswith("linux"):
            self._unix.bind("\0" + self._abstract)
            self._unix.listen()
        self._victim = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        self._signals: list[int] = []
        self._handler = signal.signal(signal.SIGUSR1, lambda *_: self._signals.append(1))

    def text(self) -> str:
        """What the attacks are told."""
        return json.dumps(
            {
                "folder": str(self.folder),
                "port": self._tcp.getsockname()[1],
                "abstract": self._abstract,
                "victim": self._victim.pid,
                "pid": os.getpid(),
                "sleep": SLEEP,
            }
        )

    def harm(self) -> list[str]:
        """What an attack has done, as far as it shows from outside."""
        done = []
        if sorted(os.listdir(self.folder)) != self._before:
            done.append(f"files: {sorted(os.listdir(self.folder))}")
        if (self.folder / "secret").read_text() != "open sesame":
            done.append("the secret was changed")
        done += [
            f"{path} was changed"
            for path, content in self._files.items()
            if Path(path).read_bytes() != content
        ]
        if select.select([self._tcp, self._unix], [], [], 0)[0]:
            done.append("somebody has connected")
        if self._victim.poll() is not None:
            done.append("a process was ended")
        if self._signals:
            done.append("this process got a signal")
        if left_over():
            done.append("a process was left")
        return done

    def close(self) -> None:
        signal.signal(signal.SIGUSR1, self._handler)
        self._tcp.close()
        self._unix.close()
        self._victim.kill()
        self._victim.communicate()


def left_over(seconds: float = 10.0) -> bool:
    """Whether a process that sleeps for `SLEEP` seconds is still there after a while."""
    deadline = time.monotonic() + seconds
    while _sleeps():
        if time.monotonic() > deadline:
            return True
        time.sleep(0.05)
    return False


def appears(seconds: float = 60.0) -> bool:
    """Whether such a process begins within a while."""
    deadline = time.monotonic() + seconds
    while not _sleeps():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _sleeps() -> bool:
    wanted = b"\0".join([b"/bin/sleep", SLEEP.encode()])
    return any(line.startswith(wanted) for line in _command_lines())


def _command_lines() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes()
        except OSError:
            continue
