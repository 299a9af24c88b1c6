"""A verifier of ours that does something dangerous with a text, such as running what a model wrote:
each of its calls has a sandbox of its own.
"""

from __future__ import annotations

import base64
import os
import pickle
import sys
from collections.abc import Callable
from typing import Any

from search.sandbox.bubblewrap import installation, modules_in_use
from search.sandbox.process import STARTUP
from search.sandbox.programs import read_reply
from search.sandbox.start import Wish, inside, limits_of, require
from search.scheduling.requests import RequestFailed


class SandboxedFunction:
    """A function of one text, called in a sandbox: `verify` of a `TextProblem`.

    It crosses by its module and name. What this process has imported can be read and imported
    there, and what is installed. Raises ValueError for a function that cannot cross, SandboxMissing
    where there can be no sandbox.
    """

    def __init__(self, function: Callable[[str], Any], name: str, seconds: float, sandbox: Wish):
        require(sandbox)
        self.longest = seconds + STARTUP  #: of a call, in seconds
        self._name = name
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
        if not problem:
            if said.get("memory") is True:
                problem = self._limit("memory")
            elif "raised" in said:
                problem = f"raised {said['raised']}"
            elif "foreign" in said:
                problem = f"cannot be imported in its sandbox: {said['foreign']}"
            elif "odd" in said:
                raise ValueError(
                    f"{self._name} returned {said['odd']}: give a number in [0, 1], a bool, or "
                    "None where nobody can tell"
                )
            elif not _is_number(said.get("result", "")):
                problem = f"ended without an answer (exit code {ended.code})"
        if problem:
            raise RequestFailed(f"{self._name} {_plain(problem)}")
        return said["result"]

    def _limit(self, stopped: str) -> str:
        limits = limits_of(self._sandbox)
        return {
            "": "",
            "time": f"took longer than {self._seconds:g} s, so its sandbox was ended",
            "memory": f"needs more than the {limits.memory} bytes of memory that its sandbox has",
            "output": f"printed more than {limits.output} bytes, so its sandbox was ended",
            "reply": "sent what is no reply, so its sandbox was ended",
        }[stopped]


def _pickled(function: Callable[[str], Any], name: str) -> str:
    if getattr(function, "__module__", None) == "__main__":
        raise ValueError(
            f"{name} is defined in this script or notebook, which a sandbox cannot import: put it "
            "at the top level of a module"
        )
    try:
        return base64.b64encode(pickle.dumps(function)).decode()
    except Exception as error:
        raise ValueError(
            f"{name} cannot cross to its sandbox ({error}): put it at the top level of a module"
        ) from None


def _is_number(thing: Any) -> bool:
    return thing is None or isinstance(thing, (int, float)) and not isinstance(thing, bool)


def _plain(text: str) -> str:
    """Text without what a terminal would obey."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )
