"""Running programs that nobody vetted, with tests or without."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from search.sandbox.bubblewrap import packages
from search.sandbox.process import Ended
from search.sandbox.start import Wish, check_seconds, inside, limits_of

_ENDS = ("passed", "failed", "error", "memory")  # what the inside may say
_LIMITS = {
    "time": "it took longer than {seconds:g} s",
    "memory": "it took more than {memory} bytes of memory",
    "output": "it printed more than {output} bytes",
    "reply": "its process sent what is no reply",
}


@dataclass(frozen=True)
class Outcome:
    """What came of a program.

    ended    "passed": every test held, or, where there were none, it ended with exit code 0;
             "failed": a test did not hold; "error": the program itself ended too early or by an
             exception; "time", "memory", "output": the limit that ended it; "reply": its process
             said what it must not
    reason   a sentence that says so, "" where it passed; words of the program may stand in it
    stdout, stderr  what it printed, each cut at `Limits.output` bytes
    seconds  from its beginning to its end
    """

    ended: str
    reason: str
    stdout: str
    stderr: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether it ended as "passed"."""
        return self.ended == "passed"


def run(
    code: str,
    tests: str | None = None,
    *,
    stdin: str = "",
    seconds: float = 10.0,
    sandbox: Wish = True,
) -> Outcome:
    """Run a Python program that nobody vetted, in a sandbox of its own that is gone afterwards.

    tests    code of yours that runs after the program, in another process of the sandbox, and calls
             what it defines by name (also as `program.NAME`, where Python has that name, too). It
             passes by coming to its end, having asked the program for something: a failed `assert`
             and any other exception fail it. None: the program is run as a script, and passes by
             its exit code
    stdin    what the program reads
    seconds  it may take, once it has begun
    sandbox  True, `Limits` of your own, or "none": without protection

    The program cannot read the tests, nor reply for them. Numbers, text, containers and numpy's
    arrays cross between the two as copies; objects of the program's own classes stay with it and
    are called from there, and equal no value. Raises SandboxMissing where there can be no sandbox,
    ValueError for tests that are empty or no Python, and for what is no sandbox.
    """
    if not isinstance(code, str):
        raise ValueError(f"the program is {code!r}: give its code as text")
    if tests is not None:
        _check_tests(tests)
    check_seconds(seconds)
    order = {
        "kind": "program",
        "code": code,
        "tested": tests is not None,
        "path": packages(),
    }
    ended = inside(
        order,
        more={"tests": tests},
        stdin=stdin.encode(errors="surrogatepass"),
        seconds=seconds,
        sandbox=sandbox,
    )
    return _outcome(ended, seconds, sandbox)


def run_many(
    programs: Iterable[tuple[str, str | None]],
    *,
    seconds: float = 10.0,
    sandbox: Wish = True,
    workers: int | None = None,
) -> list[Outcome]:
    """Run several programs, pairs of code and tests, side by side; each as `run` does, in a sandbox
    of its own. The outcomes stand in the order of the programs.

    workers  programs at a time; None: one a core
    """
    pairs = list(programs)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(workers or cores or 1) as pool:
        return list(pool.map(lambda pair: run(*pair, seconds=seconds, sandbox=sandbox), pairs))


def _check_tests(tests: str) -> None:
    if not isinstance(tests, str) or not tests.strip():
        raise ValueError(
            f"the tests are {tests!r}, which every program passes: give code that calls the "
            "program, or None to run it as a script"
        )
    try:
        ast.parse(tests)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"the tests are no Python: {error}") from None


def _outcome(ended: Ended, seconds: float, sandbox: Wish) -> Outcome:
    said = read_reply(ended.reply)
    how, reason = ended.stopped, ""
    if not how and said.get("ended") in _ENDS:
        how, reason = said["ended"], said.get("reason", "")
    if not how:
        how, reason = "error", f"its processes ended without a reply (exit code {ended.code})"
    if how in _LIMITS:
        limits = limits_of(sandbox)
        reason = _LIMITS[how].format(seconds=seconds, memory=limits.memory, output=limits.output)
    elif how == "error":
        reason = f"{reason}: {_last_line(ended.stderr)}" if ended.stderr.strip() else reason
    return Outcome(
        how,
        plain(reason),
        ended.stdout.decode(errors="replace"),
        ended.stderr.decode(errors="replace"),
        ended.seconds,
    )


def read_reply(data: bytes) -> dict[str, str]:
    """What the inside replied, an object of texts; an empty dict for what is no reply."""
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(said, dict) or not all(isinstance(text, str) for text in said.values()):
        return {}
    return said


def plain(text: str) -> str:
    """Text without what a terminal would obey."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def _last_line(text: bytes) -> str:
    return text.decode(errors="replace").strip().splitlines()[-1][:1000]
