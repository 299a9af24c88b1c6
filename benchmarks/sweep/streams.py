"""What the chains of a sweep did where they are streams (`search.problems.stream`): how often they
went back, checked and began anew, and whether that was right.

It stands beside the results, for r.csv in r.streams.jsonl, which is there only where there are
streams: a line of JSON a search, with its task, problem, method, budget and seed, and "chains", the
fields of a `guides.data.behaviour.Behaviour` each. Of several lines of one search the last counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from benchmarks.output import row as line
from benchmarks.output import table as markdown
from benchmarks.sweep.report import by_method, last
from benchmarks.sweep.rows import KEY, Row, row_key
from benchmarks.tasks import state_right
from guides.data.behaviour import Behaviour, of_replay, summary
from guides.data.grading import Replay
from search.files.jsonl import Lines, sealed
from search.problems.stream import Stream
from search.solution import Solution, plain

#: heads of the table's columns -> what of a summary stands there; shares are in per cent
NUMBERS = {
    "lines a chain": "lines",
    "moves back": "backs",
    "checks": "checks",
    "attempts begun anew": "agains",
}
SHARES = {
    "lines withdrawn": "withdrawn",
    "checks true": "true",
    "first attempt right": "first",
    "last right": "last",
    "wrong to right": "to_right",
    "right to wrong": "to_wrong",
    "copies": "copied",
}
Found = Mapping[tuple[str, ...], Sequence[Behaviour]]  #: `row_key` of a search -> its chains


def behaviours(solution: Solution, target: str | None) -> list[Behaviour]:
    """What the chains of a finished search did, with `benchmarks.tasks.state_right` as checker of
    their checks. None where they are no streams, where the search failed, and where the problem's
    verifier must not run in this process.
    """
    problem = solution.problem
    if not isinstance(problem, Stream) or not problem.inline or solution.error is not None:
        return []
    assert solution.trace is not None
    return of_replay(Replay(solution.trace, problem=problem), state_right, target)


class Streams:
    """The file beside a results file, made when the first stream ends. Raises ValueError where it
    holds something else or cannot be written.
    """

    def __init__(self, results: Path):
        self._path = path_of(results)
        self._lines: Lines | None = None
        if self._path.exists():
            self._open()

    def write(self, rows: Iterable[Mapping[str, Any]], chains: Sequence[Behaviour]) -> None:
        """Add what the search of these rows did, where it has streams."""
        if not chains:
            return
        lines = self._lines or self._open()
        cells = list(map(plain, map(asdict, chains)))
        for row in rows:
            key = dict(zip(KEY, row_key(dict(row)), strict=True))
            lines.append(sealed({**key, "chains": cells}))

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()

    def _open(self) -> Lines:
        self._lines = Lines(
            self._path, _read, first=KEY[0], what="search with its streams", flag="--out"
        )
        return self._lines


def path_of(results: Path) -> Path:
    """The file beside a results file."""
    return results.with_suffix(".streams.jsonl")


def read(results: Path) -> Found:
    """What stands beside a results file; empty where nothing does. Raises ValueError where it is
    something else.
    """
    path = path_of(results)
    if not path.exists():
        return {}
    try:
        whole = path.read_text()
        lines = whole[: whole.rfind("\n") + 1].splitlines()  # the last one may be cut off
        return dict(map(_read, map(json.loads, lines)))
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(
            f"cannot read what streams did from {path} ({error}): remove it to do without"
        ) from None


def _read(row: Any) -> tuple[tuple[str, ...], list[Behaviour]]:
    """The search and the chains of a line. Raises LookupError or TypeError for any other."""
    chains = []
    for cells in row["chains"]:
        known: dict[str, Any] = {}
        for name, value in cells.items():
            known[name] = math.nan if value is None else value
        chains.append(Behaviour(**known))
    return row_key(row), chains


def table(rows: Iterable[Row], found: Found) -> str:
    """Markdown: a table a task, a line for each method whose searches have streams, with the
    largest budget; "" where none has.
    """
    parts = []
    for task, methods in by_method(rows).items():
        lines = [line(["method", "chains", *NUMBERS, *SHARES])]
        for method, own in methods.items():
            keys = map(row_key, last(own))
            told = summary(chain.from_iterable(map(found.get, keys, repeat(()))))
            if not told["chains"]:
                continue
            cells = [_cell(told[name]) for name in NUMBERS.values()]
            cells += [_cell(100 * told[name]) for name in SHARES.values()]
            lines.append(line([method, f"{told['chains']:.0f}", *cells]))
        if len(lines) > 1:
            title = f"{task}, what chains did within the largest budget; shares in per cent"
            parts.append(f"{title}\n\n{markdown(lines)}")
    return "\n\n".join(parts)


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"
