"""A file of JSON lines that grows by one as each piece of work ends, so that a killed run can go
on.

Each line ends with a checksum of its values, "crc32", so that a bit that flips in one is seen. It
does not depend on how the line is written, blanks and the order of names included. A line without
one (of an older file) is read as it is.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Any

from search.files.atomic import append, lock

log = logging.getLogger(f"copse.{__name__}")

SUM = "crc32"  #: the name of a line's checksum


class Lines:
    """The file at `path`: each line is on its way to the disk when `append` returns, and no other
    run may write to it.

    path   is added to if it is there; a last line that was cut off is removed
    existing  called with every line that is there, as JSON without its checksum; raises
           LookupError, TypeError, ValueError or AttributeError for one of another kind
    first  the name that each object begins with;  what: a line, in words;  flag: where another path
           is given
    Raises ValueError where the file holds something else or cannot be written.
    """

    def __init__(
        self, path: Path, existing: Callable[[Any], object], *, first: str, what: str, flag: str
    ):
        self.path = path
        self._what = what
        self._remedy = f"choose another {flag}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                self._file = stack.enter_context(FileIO(path, "a"))
                lock(
                    self._file,
                    f"another run is writing to {path}: wait for its end, or {self._remedy}",
                )
                self._resume(path.read_bytes(), existing, f'{{"{first}": '.encode())
                stack.pop_all()  # it stays open
        except OSError as error:
            raise ValueError(
                f"cannot write the {what}s to {path} ({error.strerror}): {self._remedy}"
            ) from None

    def append(self, text: str) -> None:
        """Add a line as `sealed` makes it. Raises OSError (a full disk) and leaves no part of
        it.
        """
        append(self._file, text.encode())

    def close(self) -> None:
        self._file.close()

    def _resume(self, data: bytes, existing: Callable[[Any], object], beginning: bytes) -> None:
        """Take up the lines of an earlier run."""
        *lines, rest = data.split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                existing(opened(strict(line)))
            except Damaged as error:
                raise ValueError(f"{self.path}, line {number} {error}") from None
            except Mixed as error:
                raise ValueError(f"{self.path}, line {number} {error}: {self._remedy}") from None
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
                raise ValueError(
                    f"{self.path}, line {number} is no {self._what}: {self._remedy}"
                ) from None
        if rest:
            if not rest.startswith(beginning[: len(rest)]):
                raise ValueError(f"the last line of {self.path} is no {self._what}: {self._remedy}")
            log.info("removed the last line of %s, which was cut off", self.path)
            os.truncate(self.path, len(data) - len(rest))


def sealed(row: Mapping[str, Any]) -> str:
    """The line of a JSON object, its checksum and newline included. Raises ValueError for NaN and
    infinity.
    """
    return json.dumps({**row, SUM: _sum(row)}, allow_nan=False) + "\n"


def opened(row: Any) -> Any:
    """What was `sealed`, without its checksum; where there is none, `row` as it is. Raises Damaged
    where the values are others than those that were written.
    """
    if not isinstance(row, dict) or SUM not in row:
        return row
    values = {name: value for name, value in row.items() if name != SUM}
    if row[SUM] != _sum(values):
        raise Damaged(
            f"is not as it was written, by its {SUM}: delete the line to have it made again, or "
            f"only its {SUM} if you have changed the line yourself"
        )
    return values


def _sum(values: Mapping[str, Any]) -> str:
    """CRC-32 of the values, in one notation: eight hexadecimal digits."""
    return f"{zlib.crc32(json.dumps(values, sort_keys=True).encode()):08x}"


def strict(line: bytes) -> Any:
    """The JSON of a line that we wrote: in UTF-8, without a name that comes twice, and without NaN
    and infinity. Raises ValueError for all else.
    """
    return json.loads(line.decode(), object_pairs_hook=_once, parse_constant=_no_number)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    whole = dict(pairs)
    if len(whole) < len(pairs):
        raise ValueError("a name comes twice")
    return whole


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


class Damaged(ValueError):
    """A line has other values than were written; says so in words that follow "line 3"."""


class Mixed(ValueError):
    """A line is of the right kind but of another run; says so in words that follow "line 3"."""
