"""Functions that tests/search/test_workers.py sends to worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from search.problem import IllegalStep


def square(x: int) -> int:
    return x * x


def pid() -> int:
    return os.getpid()


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def spin() -> None:
    while True:
        pass


def loud() -> int:
    sys.stdout.write("printed\n" * 1000)
    sys.stdout.flush()
    os.write(1, b"x" * 100_000)
    subprocess.run(["echo", "from a child"], check=True)
    return 7


def ask() -> str:
    return sys.stdin.read()


def huge(size: int) -> bytes:
    return b"x" * size


def die(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


def leave(code: int) -> None:
    os._exit(code)


def crash(text: str) -> float:
    """A verifier that never comes back."""
    os._exit(7)


def hang(text: str) -> float:
    """A verifier that never ends."""
    while True:
        pass


def crash_or_refute(text: str) -> float:
    """A verifier that refutes a nine, and does not come back from anything else."""
    return 0.0 if text.endswith("9") else crash(text)


def crash_when_even(text: str) -> float:
    """A verifier that comes back for odd answers only."""
    return os._exit(7) if int(text[-1]) % 2 == 0 else 0.5


def stop() -> None:
    sys.exit("enough")


def illegal() -> None:
    raise IllegalStep("no such move")


class Odd(Exception):
    def __init__(self, a: int, b: int):
        super().__init__("odd")


def odd() -> None:
    raise Odd(1, 2)


def unsendable() -> object:
    return lambda: None


def allocate(size: int) -> int:
    return len(bytearray(size))


def with_child(path: str) -> None:
    """Starts a process of its own, writes both numbers, and never ends."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(path, "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    while True:
        pass


class Board:
    """A problem's rules with a state of their own, sent along with their method."""

    def __init__(self, size: int):
        self.size = size

    def apply(self, state: tuple[int, ...], step: int) -> tuple[int, ...]:
        if step >= self.size:
            raise IllegalStep(f"{step} is off the board")
        return (*state, step)


def verdict(chain: str) -> bool:
    """A verifier that crashes on even answers and accepts 7."""
    number = int(chain.partition("{")[2].partition("}")[0])
    if number % 2 == 0:
        os._exit(1)
    return number == 7
