"""A verifier of ours that does something dangerous with a text, such as running what a model wrote:
each of its calls has a sandbox of its own.
"""

from __future__ import annotations

import math
import os
import pickle
import sys
from collections.abc import Callable
from typing import Any

from search.sandbox.bubblewrap import installation, modules_in_use
from search.sandbox.process import STARTUP
from search.sandbox.programs import plain, read_reply
from search.sandbox.start import Wish, check_seconds, inside, limits_of, require
from search.scheduling.requests import RequestFailed


class SandboxedFunction:
    """A function of one text, called in a sandbox: `verify` of a `TextProblem`.

    It crosses by its module and name. What this process has imported can be read and imported
    there, and what is installed. Raises ValueError for a function that cannot cross, SandboxMissing
    where there can be no sandbox.
    """

    def __init__(
        self, function: Callable[[str], Any] | None, name: str, seconds: float, sandbox: Wish
    ):
        if function is None:
            raise ValueError(f"there is no {name} to run in a sandbox: give one, or no sandbox")
        check_seconds(seconds)
        require(sandbox)
        self.longest = seconds + STARTUP  #: of a call, in seconds
        self.__qualname__ = self._name = name
        self._seconds = seconds
        self._sandbox = sandbox
        self._function = _pickled(function, name)
        self._readable = modules_in_use(installation())
        parents = [os.path.dirname(path) for path in self._readable]
        self._path = list(dict.fromkeys(os.path.abspath(path) for path in [*sys.path, *parents]))

    def __call__(self, text: str) -> float | None:
        """What the function returns. Raises RequestFailed where it does not come back with an
        answer, ValueError for an answer that is no number.
        """
        ended = inside(
            {"kind": "function", "function": self._function, "text": text, "path": self._path},
            sandbox=self._sandbox,
            seconds=self._seconds,
            readable=self._readable,
        )
        said = read_reply(ended.reply)
        problem = self._limit(ended.stopped)
        if not problem and "result" in said:
            return _number(said["result"])
        if not problem and "odd" in said:
            raise ValueError(
                f"{self._name} returned {plain(said['odd'])}: give a number in [0, 1], a bool, or "
                "None where nobody can tell"
            )
        raise RequestFailed(f"{self._name} {plain(problem or self._failure(said, ended.code))}")

    def _failure(self, said: dict[str, str], code: int) -> str:
        if "memory" in said:
            return self._limit("memory")
        if "raised" in said:
            return f"raised {said['raised']}"
        if "foreign" in said:
            return f"cannot be imported in its sandbox: {said['foreign']}"
        return f"ended without an answer (exit code {code})"

    def _limit(self, stopped: str) -> str:
        limits = limits_of(self._sandbox)
        return {
            "": "",
            "time": f"took longer than {self._seconds:g} s, so its sandbox was ended",
            "memory": f"needs more than the {limits.memory} bytes of memory that its sandbox has",
            "output": f"printed more than {limits.output} bytes, so its sandbox was ended",
            "reply": "sent what is no reply, so its sandbox was ended",
        }[stopped]


def _pickled(function: Callable[[str], Any], name: str) -> bytes:
    if getattr(function, "__module__", None) == "__main__":
        raise ValueError(
            f"{name} is defined in this script or notebook, which a sandbox cannot import: put it "
            "at the top level of a module"
        )
    try:
        return pickle.dumps(function)
    except Exception as error:
        raise ValueError(
            f"{name} cannot cross to its sandbox ({error}): put it at the top level of a module"
        ) from None


def _number(text: str) -> float | None:
    """The number that a reply holds; not a number where it holds none."""
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError:
        return math.nan
