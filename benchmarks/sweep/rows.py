"""The rows of a sweep: a CSV file that only grows, so that a killed run can go on.

A search that failed has a row, too, but the next run does it again; of several rows of one search
the last one counts.

task, problem, method, budget, seed   which search; method and budget as text
correct       1 or 0: verified, or where nobody could verify, the answer equals the target; of a
              failed search nobody counts it
steps_right   1 or 0: whether every step of the chain is right, too; empty where the task cannot
              tell
verified      1 or 0: what the problem's own verifier said of the answer; empty where it has none or
              found nothing to judge
answer        the chosen one, empty without;  value: what the search thinks of it, in [0, 1], empty
              where unknown
generated     tokens, by policy and guide;  prefilled, reused: prompt tokens read by either, and
              those whose keys were there already
flops         2 x parameters x tokens that passed through a model, plus attention: guide and
              re-reading included
simulations, calls, seconds (its share of the time: all sum to that of the run), rows (of the passes
it took part in, mean)
stopped       why the search ended, "error" where it failed;  guide: version of its checkpoint

Text that a spreadsheet would take for a formula has an apostrophe before it in the file.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from contextlib import ExitStack
from io import FileIO
from itertools import filterfalse
from operator import itemgetter
from pathlib import Path
from typing import Any

from benchmarks.output import quoted, unquoted
from search.files.atomic import append, lock

COLUMNS = (
    "task", "problem", "method", "budget", "seed", "correct", "steps_right", "verified", "answer",
    "value",
    "generated", "prefilled", "reused", "flops", "simulations", "calls", "seconds", "rows",
    "stopped", "guide",
)  # fmt: skip
KEY = COLUMNS[:5]
Row = dict[str, str]


def failed(row: Row) -> bool:
    """Whether the search of a row failed: what it had then is neither right nor wrong."""
    return row["stopped"] == "error"


def row_key(row: dict[str, Any]) -> tuple[str, ...]:
    """Which search a row is of: task, problem, method, budget and seed."""
    return tuple(map(str, itemgetter(*KEY)(row)))


def sound(rows: Iterable[Row]) -> list[Row]:
    """The rows of searches that did not fail."""
    return list(filterfalse(failed, rows))


def numbers(rows: Iterable[Row], column: str) -> list[float]:
    """The cells of a column that are not empty."""
    return list(map(float, filter(None, map(itemgetter(column), rows))))


def read(path: Path) -> list[Row]:
    """The rows of a results file, the last one of each search. Raises ValueError where it is
    none.
    """
    try:
        rows = _parsed(path, path.read_bytes())
        return list(dict(zip(map(row_key, rows), rows, strict=True)).values())
    except OSError as error:
        raise ValueError(
            f"cannot read {path} ({error.strerror}): give a file that a sweep wrote"
        ) from None


def _parsed(path: Path, data: bytes) -> list[Row]:
    reader = csv.reader(io.StringIO(data.decode(errors="replace"), newline=""))
    if tuple(next(reader, ())) != COLUMNS:
        raise ValueError(f"{path} is no results file of this version: choose another file")
    rows = []
    for cells in reader:
        if tuple(cells) == COLUMNS:  # files of several runs, one behind the other
            continue
        if len(cells) != len(COLUMNS):
            where = f"{path}, line {reader.line_num}"
            raise ValueError(
                f"{where} has {len(cells)} cells of {len(COLUMNS)}: remove the line, or choose "
                "another file"
            )
        rows.append(dict(zip(COLUMNS, map(unquoted, cells), strict=True)))
    return rows


def clean(text: str) -> str:
    """`text` as it can stand in a row, which is one line: spaces for all white space, escapes
    for what is no character.
    """
    return " ".join(text.encode(errors="backslashreplace").decode().replace("\0", " ").split())


class Results:
    """A results file under way, locked against a second run until this process ends.

    done  (task, problem, method, budget, seed) of every row that is there and not of a failed
          search
    guides  the guide versions of all rows

    A last line that was cut off is removed. Raises ValueError where the file holds something else
    or cannot be written.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                self._file = stack.enter_context(FileIO(path, "a"))
                lock(
                    self._file,
                    f"another run is writing to {path}: wait for its end, or choose another place",
                )
                rows = self._resume(path.read_bytes())
                stack.pop_all()  # it stays open
        except OSError as error:
            raise ValueError(
                f"cannot write results to {path} ({error.strerror}): choose another place"
            ) from None
        self.done = set(map(row_key, sound(rows)))
        self.guides = set(map(itemgetter("guide"), rows))

    def _resume(self, data: bytes) -> list[dict[str, Any]]:
        """Take up the rows of an earlier run."""
        whole = data[: data.rfind(b"\n") + 1]
        header = _line(COLUMNS)
        if whole or not header.startswith(data):
            rows = _parsed(self.path, whole or data)
            os.truncate(self.path, len(whole))
            return rows
        os.truncate(self.path, 0)  # nothing yet, or half of the header
        append(self._file, header)
        return []

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows in one piece. Raises OSError (a full disk) and leaves no part of them."""
        rows = list(rows)
        append(self._file, b"".join(_line(map(row.__getitem__, COLUMNS)) for row in rows))
        self.done.update(map(row_key, sound(rows)))

    def close(self) -> None:
        self._file.close()


def _line(cells: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(map(quoted, cells))
    return text.getvalue().encode()
