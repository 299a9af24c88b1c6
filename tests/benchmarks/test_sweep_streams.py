"""Sweeps whose chains are streams: what they did is kept beside the results and told in a table."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sweep_cases import swept

import guides
import search
from benchmarks.sweep import plan, report, rows, streams
from benchmarks.sweep import run as sweeps
from search.chain import GIVEN
from search.cli.main import main
from search.problem import TextStep
from search.problems.countdown import Countdown

#: answers of the attempts at each question, of which 7 is right
ATTEMPTS = {"right to wrong?": "71", "wrong to right?": "17", "copy?": "11", "always?": "77"}
TASK = plan.Task(
    "asked",
    {text: search.TextProblem(text) for text in ATTEMPTS},
    dict.fromkeys(ATTEMPTS, "7"),
)


def answers(problem: Any, state: Any) -> list[TextStep]:
    """The planted answer of each attempt; the first alone where there are no attempts."""
    attempt = sum(step.finish == GIVEN for step in state)
    answer = ATTEMPTS[problem.prompt(state)][attempt]
    return [TextStep(f"\\boxed{{{answer}}}", finish="end")]


def planted(**policy: Any) -> search.Guide:
    return search.Guide(answers)


def cells(text: str) -> dict[str, dict[str, str]]:
    """The last table of a report: method -> head -> cell."""
    found = {}
    lines = [line for line in text.split("\n\n")[-1].splitlines() if line.startswith("|")]
    head = [cell.strip() for cell in lines[0].split("|")[1:-1]]
    for line in lines[2:]:
        row = dict(zip(head, map(str.strip, line.split("|")[1:-1]), strict=True))
        found[row["method"]] = row
    return found


def test_attempts_are_told_and_a_second_start_repeats_nothing(tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    methods = ["revise attempts=2", "sample chains=1"]
    swept(out, TASK, methods, "simulations=1", 1, planted)
    kept = streams.path_of(out).read_text()
    table = cells(streams.table(rows.read(out), streams.read(out)))
    assert list(table) == ["revise attempts=2"]  # chains without moves are not told of
    row = table["revise attempts=2"]
    assert row["chains"] == "4" and row["lines a chain"] == "3.0"
    assert row["attempts begun anew"] == "1.0" and row["moves back"] == "0.0"
    assert row["lines withdrawn"] == "33.3" and row["checks true"] == "-"
    assert (row["first attempt right"], row["last right"]) == ("50.0", "50.0")
    assert (row["wrong to right"], row["right to wrong"], row["copies"]) == ("25.0", "25.0", "50.0")
    swept(out, TASK, methods, "simulations=1", 1, planted)
    assert streams.path_of(out).read_text() == kept


def test_a_line_that_was_cut_off_is_searched_again(tmp_path: Path) -> None:
    """Both files lose their ends; of a search that is there twice the last line counts."""
    out = tmp_path / "r.csv"
    swept(out, TASK, ["revise attempts=2"], "simulations=1", 1, planted)
    whole = streams.read(out)
    path = streams.path_of(out)
    out.write_bytes(out.read_bytes()[:-3])
    path.write_bytes(path.read_bytes()[:-3])
    assert len(streams.read(out)) == 3
    swept(out, TASK, ["revise attempts=2"], "simulations=1", 1, planted)
    again = streams.read(out)
    assert {key: repr(again[key]) for key in again} == {key: repr(whole[key]) for key in whole}
    lines = path.read_text().splitlines()
    twice = json.loads(lines[0])
    twice["chains"] *= 2
    del twice["crc32"]
    path.write_text("\n".join([*lines, json.dumps(twice)]) + "\n")
    assert sorted(map(len, streams.read(out).values())) == [1, 1, 1, 2]


def test_moves_and_checks_of_puzzles_are_told(tmp_path: Path) -> None:
    """The first check says wrong of what can still reach 24."""
    told = ["8-7=1", "Check: wrong.", "8+4=12", "Back to 1.", "4-1=3", "Check: right.", "8*3=24"]

    def player(problem: Any, state: Any) -> list[TextStep]:
        return [TextStep(told[len(state)])] if len(state) < len(told) else []

    task = plan.Task("puzzle", {"a": Countdown((4, 7, 8, 8), 24)}, {})

    def load(**policy: Any) -> search.Guide:
        return search.Guide(player, stream={})

    out = tmp_path / "r.csv"
    swept(out, task, ["sample chains=1"], "simulations=1", 1, load)
    [row] = cells(streams.table(rows.read(out), streams.read(out))).values()
    assert (row["moves back"], row["checks"], row["checks true"]) == ("1.0", "2.0", "50.0")
    assert row["lines withdrawn"] == "14.3" and row["first attempt right"] == "-"


def test_without_streams_nothing_is_there(tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    swept(out, TASK, ["sample chains=1"], "simulations=1", 1, planted)
    assert list(tmp_path.iterdir()) == [out] and streams.read(out) == {}
    assert streams.table(rows.read(out), streams.read(out)) == ""


def test_the_command_prints_them_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guides, "settings", lambda path: {})
    monkeypatch.setattr(guides, "load", lambda path, **options: planted())
    # no figure: these searches cost nothing
    monkeypatch.setattr("search.cli.bench._draw", lambda rows, path: None)
    file = tmp_path / "p.jsonl"
    lines = [json.dumps({"problem": text, "target": "7"}) for text in ATTEMPTS]
    file.write_text("\n".join(lines) + "\n")
    command = ["bench", "--input", str(file), "--budgets", "simulations=1"]
    for methods in ("sample chains=1", "sample chains=1,revise attempts=2"):
        out = tmp_path / methods[-1]
        assert main([*command, "--out", str(out), "--methods", methods]) == 0
        said = capsys.readouterr().out
        found = rows.read(out / "results.csv")
        first = f"{report.report(found)}\n\n{report.against_first(found)}".rstrip()
        rest = said.removeprefix(first)
        if "revise" in methods:
            assert cells(rest)["revise attempts=2"]["copies"] == "50.0"
        else:
            assert rest == "\n"
    monkeypatch.setattr("sys.argv", ["run", "--report", str(out / "results.csv")])
    caught: list[str] = []
    monkeypatch.setattr(sweeps.log, "info", lambda form, text: caught.append(text))
    sweeps.main()
    assert cells(caught[0])["revise attempts=2"]["wrong to right"] == "25.0"


def test_the_largest_budget_alone_is_told(tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    swept(out, TASK, ["revise attempts=2"], "simulations=1,2", 1, planted)
    assert len(streams.read(out)) == 8
    [row] = cells(streams.table(rows.read(out), streams.read(out))).values()
    assert row["chains"] == "4"


def test_attempts_are_read_as_the_search_read_them() -> None:
    """With its pattern of an answer, and never by a verifier that must not run here."""

    def policy(problem: Any, state: Any) -> list[TextStep]:
        return [TextStep("The box is 8, it says: 7" if state else "7.", finish="end")]

    problem = search.TextProblem("How many?", answer=r"says: (\d)")
    found = search.solve(problem, search.Guide(policy), "revise", attempts=2)
    [chain] = streams.behaviours(found, "7")
    assert (chain.first, chain.last) == (0.0, 1.0)
    apart = copy.copy(found.problem)
    object.__setattr__(apart, "inline", False)
    assert streams.behaviours(replace(found, problem=apart), "7") == []
    failed = replace(found, error=search.RequestFailed("no"))
    assert streams.behaviours(failed, "7") == []


def test_another_file_in_their_place_is_refused(tmp_path: Path) -> None:
    """Before any search."""
    out = tmp_path / "r.csv"
    streams.path_of(out).write_text('{"something": "else"}\n')

    def unused(**policy: Any) -> search.Guide:
        raise AssertionError

    with pytest.raises(ValueError, match="choose another --out"):
        swept(out, TASK, ["revise attempts=2"], "simulations=1", 1, unused)
    with pytest.raises(ValueError, match="remove it to do without"):
        streams.read(out)
