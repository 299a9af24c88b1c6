"""Grading what anybody's model wrote (`copse grade`): a file of JSON lines with a text, or several,
and a target in each.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guides.answers.checker import Verdict, check_many, classes, extract
from guides.answers.styles import AnswerStyle
from guides.rewards import TARGETS, text_of
from search.files.atomic import atomic

#: the columns that may hold texts, and those that may name a problem: the first that is there
TEXTS = ("text", "completion", "completions", "output", "response", "generation", "prediction")
PROBLEMS = ("problem", "question", "prompt", "id")
_SHORT = 200  # characters of a text without a mark that may be an answer, and vote


@dataclass(frozen=True)
class Row:
    """A line of the file.

    line     as it was read
    texts    of one or several completions
    target   the right answer
    problem  what the completions of one problem have in common
    """

    line: dict[str, Any]
    texts: tuple[str, ...]
    target: str
    problem: str


@dataclass
class Report:
    """What was found.

    verdicts  of each row and its texts
    votes     of each problem: the verdict of the answer that most texts give, None without any
    solved    problems of which a text is right
    """

    verdicts: list[list[Verdict]] = field(default_factory=list)
    votes: Counter[Verdict | None] = field(default_factory=Counter)
    solved: int = 0

    def lines(self) -> Iterator[str]:
        """The report as a table of text."""
        counts = Counter(verdict for row in self.verdicts for verdict in row)
        total = counts.total()
        yield f"{'completions':<24} {total:>8}"
        for verdict in Verdict:
            yield f"  {verdict.value:<22} {counts[verdict]:>8}  {_share(counts[verdict], total)}"
        problems = self.votes.total()
        if problems == total:
            return
        yield f"{'problems':<24} {problems:>8}"
        yield f"  {'a right completion':<22} {self.solved:>8}  {_share(self.solved, problems)}"
        for verdict in Verdict:
            name = f"vote is {verdict.value}"
            votes = self.votes[verdict]
            yield f"  {name:<22} {votes:>8}  {_share(votes, problems)}"
        if self.votes[None]:
            yield f"  {'no answer to vote for':<22} {self.votes[None]:>8}"


def _share(count: int, total: int) -> str:
    return f"{100 * count / max(1, total):5.1f} %"


def read_outputs(
    path: Path, text: str | None = None, target: str | None = None, problem: str | None = None
) -> list[Row]:
    """The rows of a file of JSON lines, which may be compressed by gzip.

    text, target, problem  the columns; None: the first of `TEXTS`, `TARGETS` and `PROBLEMS` that is
                           there. Without a column of problems each line is a problem of its own
    Raises ValueError that names the line for whatever is wrong with it.
    """
    try:
        data = path.read_bytes()
        lines = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode().split("\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path} ({error}): give a file of JSON lines") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(_row(line, text, target, problem, number))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
    if not rows:
        raise ValueError(f"there is nothing in {path}: write a text and a target in each line")
    return rows


def _row(line: str, text: str | None, target: str | None, problem: str | None, number: int) -> Row:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError("this is no JSON object: write one in each line")
    written = _column(found, text, TEXTS, "text")
    texts = written if isinstance(written, list) and not _conversation(written) else [written]
    right = str(_column(found, target, TARGETS, "target"))
    if not right.strip():
        raise ValueError("the target is empty: give the right answer, or leave the line out")
    name = problem or next((name for name in PROBLEMS if name in found), None)
    if problem is not None and problem not in found:
        raise ValueError(f"there is no column {problem!r} here: it has {', '.join(found)}")
    key = str(number) if name is None else json.dumps(found[name], sort_keys=True)
    return Row(found, tuple(map(text_of, texts)), right, key)


def _conversation(value: list[Any]) -> bool:
    return bool(value) and isinstance(value[-1], dict)


def _column(found: dict[str, Any], name: str | None, names: Sequence[str], what: str) -> Any:
    chosen = name or next((name for name in names if name in found), None)
    if chosen is None or chosen not in found:
        wanted = repr(name) if name else " or ".join(names)
        raise ValueError(
            f"there is no column {wanted} here: name the one of the {what} with --{what}; it has "
            f"{', '.join(found)}"
        )
    return found[chosen]


def grade_outputs(
    rows: Sequence[Row], style: str | AnswerStyle = "strict", seconds: float = 5.0
) -> Report:
    """The verdicts of all texts, and the votes by problem."""
    pairs = [(text, row.target) for row in rows for text in row.texts]
    verdicts = iter(check_many(pairs, seconds=seconds, style=style))
    report = Report()
    together: dict[str, list[tuple[str, Verdict]]] = defaultdict(list)
    for row in rows:
        found = [next(verdicts) for _ in row.texts]
        report.verdicts.append(found)
        together[row.problem] += zip(row.texts, found, strict=True)
    for said in together.values():
        report.votes[_vote(said)] += 1
        report.solved += any(verdict is Verdict.RIGHT for _, verdict in said)
    return report


def _vote(said: Sequence[tuple[str, Verdict]]) -> Verdict | None:
    """The verdict of the answer that most texts give; the first of those that are given as often.
    Equal answers vote together, and such as have no answer do not vote.
    """
    answers: list[str] = []
    verdicts: list[Verdict] = []
    for text, verdict in said:
        answer = extract(text) or (text.strip() if len(text) <= _SHORT else "")
        if answer:
            answers.append(answer)
            verdicts.append(verdict)
    if not answers:
        return None
    kinds = classes(answers)
    winner = Counter(kinds).most_common(1)[0][0]
    return verdicts[kinds.index(winner)]


def write_graded(rows: Sequence[Row], report: Report, path: Path) -> None:
    """Every line with its "verdict", one or a list as its texts are. Raises OSError."""
    with atomic(path) as part, part.open("w") as file:
        for row, verdicts in zip(rows, report.verdicts, strict=True):
            values: Any = [verdict.value for verdict in verdicts]
            if len(values) == 1:
                values = values[0]
            file.write(json.dumps({**row.line, "verdict": values}, ensure_ascii=False) + "\n")
