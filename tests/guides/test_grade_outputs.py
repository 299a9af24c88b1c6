"""`copse grade`: outputs of any model, their verdicts and their votes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from guides import Verdict
from guides.data.grade_outputs import grade_outputs, read_outputs
from search.cli.main import main


def file(tmp_path: Path, rows: list[Any]) -> Path:
    path = tmp_path / "outputs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROWS = [
    {"question": "a", "response": r"\boxed{0.5}", "answer": "1/2"},
    {"question": "a", "response": r"\boxed{3}", "answer": "1/2"},
    {"question": "a", "response": "The answer is 1/2.", "answer": "1/2"},
    {"question": "b", "response": "2, 1", "answer": "1, 2"},
    {"question": "c", "response": "He does not know, and goes on and on. " * 9, "answer": 7},
]


def test_verdicts_and_votes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file(tmp_path, ROWS)
    out = tmp_path / "graded.jsonl"
    assert main(["grade", str(path), "--out", str(out)]) == 0
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert told[:4] == [
        ["completions", "5"], ["right", "2", "40.0", "%"], ["wrong", "1", "20.0", "%"],
        ["undecided", "2", "40.0", "%"],
    ]  # fmt: skip
    assert told[4:7] == [
        ["problems", "3"], ["a", "right", "completion", "1", "33.3", "%"],
        ["vote", "is", "right", "1", "33.3", "%"],
    ]  # fmt: skip
    assert told[-1] == ["no", "answer", "to", "vote", "for", "1"]
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    verdicts = [line.pop("verdict") for line in lines]
    assert lines == ROWS
    assert verdicts == ["right", "wrong", "right", "undecided", "undecided"]


def test_a_benchmarks_style(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grade", str(file(tmp_path, ROWS)), "--style", "math"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["right", "3", "60.0", "%"]


def test_lists_conversations_and_columns(tmp_path: Path) -> None:
    rows = [
        {"said": ["4", "5", "5.0"], "gt": 5, "n": 1},
        {"said": [{"role": "assistant", "content": "5"}], "gt": "6", "n": 2},
    ]
    path = tmp_path / "outputs.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    found = read_outputs(path, "said", "gt", "n")
    assert [row.texts for row in found] == [("4", "5", "5.0"), ("5",)]
    report = grade_outputs(found)
    assert report.verdicts == [
        [Verdict.WRONG, Verdict.RIGHT, Verdict.RIGHT], [Verdict.WRONG],
    ]  # fmt: skip
    assert report.votes == {Verdict.RIGHT: 1, Verdict.WRONG: 1} and report.solved == 1


@pytest.mark.parametrize(
    ("rows", "options", "complaint"),
    [
        ([{"a": "5"}], [], "line 1: there is no column text or completion"),
        ([{"text": "5"}], [], "name the one of the target with --target; it has text"),
        ([{"text": "5", "answer": "5"}], ["--text", "said"], "there is no column 'said' here"),
        ([{"text": "5", "answer": "5"}], ["--problem", "n"], "there is no column 'n' here"),
        ([{"text": "5", "answer": " "}], [], "the target is empty"),
        ([{"text": 5, "answer": "5"}], [], "line 1: this is no completion: '5'"),
        (["text"], [], "line 1: this is no JSON object"), ([], [], "there is nothing in"),
        ([{"text": "5", "answer": "5"}, 7], [], "line 2: this is no JSON object"),
    ],
)  # fmt: skip
def test_misuse_is_named(
    rows: list[Any], options: list[str], complaint: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(["grade", str(file(tmp_path, rows)), *options]) == 2
    assert complaint in " ".join(capsys.readouterr().err.split())


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grade", str(tmp_path / "none.jsonl")]) == 2
    assert "cannot read" in capsys.readouterr().err
