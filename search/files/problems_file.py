"""A file of problems to solve: reading it, and writing a result line as each search ends, so that a
killed run can go on.

A result line is of one search; where a problem has several, the last one counts. A search that
failed has a line too, but is not done: the next run asks again. A line ends with a checksum of its
values (`search.files.jsonl`).

A problem is a line of JSON with `problem` (text), an `id` (else the number of the line) and, for
other problems than text, a `kind`: "module:Class", or the short name of a module in
`search.problems`; `problem` then is an object with the arguments of the class. Whatever else stands
in the line, `target` included, is never read.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from search.files.jsonl import Lines, opened, sealed
from search.kinds import build
from search.problem import Problem
from search.problems import MODULES, parse
from search.solution import STOPPED, Solution, plain, result_of
from search.trace import Trace, TraceWriter

_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character of UTF-16; no text holds one
_EXAMPLE = '{"id": "first", "problem": "the text of the problem"}'


@dataclass(frozen=True)
class Job:
    """A problem of a file. `id` as it is written there, or the number of its line as text."""

    id: str | int
    problem: Problem


def read_jobs(
    path: str | Path, answer: str | None = None, check: Callable[[Problem], None] | None = None
) -> list[Job]:
    """All problems of a file. Raises ValueError that names the line for whatever is wrong with it.

    answer  regular expression with one group that marks the answer of open text
    check   raises ValueError for a problem that the guide cannot solve
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(
            f"cannot read {path} ({error.strerror}): give a file with a line of JSON a problem"
        ) from None
    jobs: list[Job] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            jobs.append(_job(line, number, answer))
            if check is not None:
                check(jobs[-1].problem)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        first = lines.setdefault(str(jobs[-1].id), number)
        if first != number:
            raise ValueError(
                f"{path}, line {number}: the id {jobs[-1].id!r} is that of line {first} too: "
                "give each problem its own"
            )
    if not jobs:
        raise ValueError(f"there is no problem in {path}: write lines like {_EXAMPLE}")
    return jobs


def _job(line: bytes, number: int, answer: str | None) -> Job:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError:
        raise ValueError("this is not UTF-8 text: save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"this is not JSON ({error.msg} at column {error.colno}): write it like {_EXAMPLE}"
        ) from None
    except RecursionError:
        raise ValueError(f"this JSON is nested too deeply: write it like {_EXAMPLE}") from None
    if not isinstance(row, dict):
        raise ValueError(f"this is no JSON object: write it like {_EXAMPLE}")
    if broken := half_character([row.get("id"), row.get("problem")]):
        raise ValueError(
            f"it holds half a character ({broken}), which is no text: write the whole one, or "
            "leave it out"
        )
    name = row.get("id", str(number))
    if not isinstance(name, (str, int)) or isinstance(name, bool) or name == "":
        raise ValueError(
            f"the id {name!r} is neither text nor a whole number: give one, or leave it out"
        )
    return Job(name, _problem(row.get("problem"), row.get("kind"), answer))


def half_character(value: Any) -> str:
    """What in a JSON value is a surrogate, half of a character of UTF-16 that no text holds: as
    Python writes it; "" without one.
    """
    found = _SURROGATE.search(json.dumps(value, ensure_ascii=False))
    return repr(found[0]) if found else ""


def _problem(given: Any, kind: Any, answer: str | None) -> Problem:
    """The problem of one line. Raises ValueError."""
    if kind is None:
        if not isinstance(given, str) or not given.strip():
            raise ValueError(f'there is no text under "problem": write it like {_EXAMPLE}')
        return parse(given, answer=answer)
    ours = ", ".join(name.rpartition(".")[2] for name in MODULES)
    if not isinstance(kind, str) or not kind.replace(":", "").replace(".", "").isidentifier():
        raise ValueError(f"the kind {kind!r} is none: use {ours}, or module:Class of your own")
    module = "" if ":" in kind else f"search.problems.{kind}"
    if isinstance(given, str) and module:
        return _from_text(given, kind, module, ours)
    if not isinstance(given, dict):
        raise ValueError(
            f'with the kind {kind!r} "problem" must be an object: the arguments of its class'
        )
    return build(f"{module}:{kind.title()}" if module else kind, given)


def _from_text(text: str, kind: str, module: str, ours: str) -> Problem:
    try:
        read = importlib.import_module(module).parse
    except (ImportError, AttributeError):
        raise ValueError(
            f"there is no kind {kind!r} that is written as text: use {ours}, or leave it out"
        ) from None
    problem = read(text)
    if problem is None:
        raise ValueError(
            f"{text[:80]!r} is no {kind} problem: leave the kind out, or write the problem as "
            "its kind asks"
        )
    return problem


def answered(result: Mapping[str, Any]) -> bool:
    """Whether a result has an answer that was not refuted, or was verified without one."""
    good = result.get("answer") is not None and result.get("verified") is not False
    return result.get("error") is None and (good or result.get("verified") is True)


#: the names in a result line, and what each may be
_KINDS: dict[str, tuple[type, ...]] = {
    "id": (str, int),
    "answer": (str, type(None)),
    "verified": (bool, type(None)),
    "votes": (int, type(None)),
    "chains": (int, type(None)),
    "value": (float, int, type(None)),
    "text": (str,),
    "stopped": (str,),
    "usage": (dict,),
    "error": (str, type(None)),
}


@dataclass(frozen=True)
class Reported:
    """What a result line says of its problem. good: it is answered and not refuted;  error: why
    the search failed, None if it did not.
    """

    answer: str | None
    verified: bool | None
    good: bool
    error: str | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Reported:
        """Raises ValueError for what is no result line, as `Results.write` writes one."""
        if row.keys() != _KINDS.keys():
            raise ValueError("it has other names than a result")
        wrong = [name for name, kinds in _KINDS.items() if type(row[name]) not in kinds]
        if wrong or row["stopped"] not in STOPPED:
            raise ValueError(f"its {wrong[0] if wrong else 'stopped'} is none")
        return cls(row["answer"], row["verified"], answered(row), row["error"])


class Results:
    """The result lines, each on its way to the disk when `write` returns.

    path      a file, added to if it is there (a last line that was cut off is removed); None:
              stdout
    reported  id as text -> what the last line of that problem says
    Raises ValueError where the file holds something else or cannot be written.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.reported: dict[str, Reported] = {}
        self._lines: Lines | None = None
        if path is not None:
            what = "result of copse solve"
            self._lines = Lines(path, self._read, first="id", what=what, flag="--output")

    def _read(self, row: Any) -> None:
        self.reported[str(row["id"])] = Reported.of(row)

    def done(self, name: str | int) -> bool:
        """Whether a problem was searched, and no failure makes it worth another search."""
        reported = self.reported.get(str(name))
        return reported is not None and reported.error is None

    def write(self, name: str | int, solution: Solution) -> None:
        """Add the line of one problem. Raises OSError (a full disk) and leaves no part of the
        line.
        """
        row = {"id": name, **result_of(solution)}
        text = sealed(plain(row))
        if self._lines is None:
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            self._lines.append(text)
        self._read(opened(json.loads(text)))

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()


class Finisher:
    """What happens as each search of a file ends (`on_finish` of `solve_many`): its trace is
    written, then its result line.

    A search that was interrupted, or came to the end of the time for all, leaves neither, so that
    the next run does it again.

    settings  all that a result depends on but its problem: a search that is done again replaces its
              trace instead of adding one
    written   ids, as text, of the problems whose searches have ended
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        results: Results,
        writer: TraceWriter | None,
        settings: Mapping[str, Any],
    ):
        self._jobs = jobs
        self._results = results
        self._writer = writer
        self._settings = json.dumps(settings, sort_keys=True, default=str)
        self.written: set[str] = set()

    def __call__(self, index: int, solution: Solution) -> None:
        if solution.stopped in ("interrupted", "time_limit"):
            return
        name = self._jobs[index].id
        if self._writer is not None and solution.trace is not None:
            self._writer.write(self._named(solution.trace, name))
        self._results.write(name, solution)
        self.written.add(str(name))

    def _named(self, trace: Trace, name: str | int) -> Trace:
        """The trace with an id that is the same when its problem is done again in this file."""
        if self._results.path is None:
            return trace
        parts = [
            self._settings,
            str(self._results.path.resolve()),
            str(name),
            trace.kind,
            json.dumps(trace.arguments, sort_keys=True),
        ]
        return replace(trace, id=hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32])
