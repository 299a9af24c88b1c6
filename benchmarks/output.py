"""What measurements write: tables in Markdown and LaTeX, rows as CSV, everything as JSON."""

from __future__ import annotations

import csv
import json
import math
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from search.files.atomic import atomic

#: how a cell begins that a spreadsheet computes; an apostrophe is how we say that it shall not
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠", "'")

#: what means something in LaTeX, or is another character in its old encoding of fonts
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\symbol{34}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
}


def row(cells: Iterable[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def table(rows: Sequence[str]) -> str:
    """A table of its rows; the first is the head."""
    columns = rows[0].count("|") - 1
    return "\n".join([rows[0], "|---" * columns + "|", *rows[1:]])


def latex(rows: Sequence[Sequence[str]]) -> str:
    """A table of LaTeX with the rules of booktabs, of rows of cells; the first is the head. Cells
    are text and stand in LaTeX as they stand here; all columns but the first are flush right.
    """
    columns = "l" + "r" * (len(rows[0]) - 1)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    for cells in rows:
        lines.append(" & ".join(map(escaped, cells)) + r" \\")
    lines.insert(3, r"\midrule")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def escaped(text: str) -> str:
    """Text as LaTeX shows it, in a line."""
    return " ".join(text.translate(str.maketrans(_LATEX)).split())


def write_csv(path: Path, rows: Sequence[Any]) -> None:
    """Rows of one kind, dictionaries or dataclasses, at least one; the columns are their names."""
    plain = [asdict(one) if is_dataclass(one) else one for one in rows]  # type: ignore[arg-type]
    with atomic(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(plain[0]))
        writer.writeheader()
        writer.writerows(dict(zip(one, map(quoted, one.values()), strict=True)) for one in plain)


def quoted(cell: Any) -> Any:
    """A cell of a CSV file that no spreadsheet takes for a formula: text that would be one, or has
    been quoted, gets an apostrophe before it. `unquoted` takes it away.
    """
    if not isinstance(cell, str) or not cell.startswith(_FORMULA) or _is_number(cell):
        return cell
    return f"'{cell}"


def unquoted(cell: str) -> str:
    """The text of a cell that was `quoted`."""
    return cell.removeprefix("'")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def write_json(path: Path | None, rows: Sequence[Mapping[str, Any]], **about: Any) -> None:
    """Rows with the machine, the command and what else is about them; nothing where `path` is
    None.
    """
    if path is None:
        return
    machine = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "command": sys.argv,
    }
    with atomic(path) as part:
        part.write_text(json.dumps({**machine, **about, "rows": rows}, indent=1))
