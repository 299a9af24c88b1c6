"""Several processes share a file of problems: each does a share, and the shares are the whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from command_cases import PUZZLE, run, with_scripted_models
from hypothesis import given
from hypothesis import strategies as st

from search import Trace
from search.files.partition import Shard


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return with_scripted_models(monkeypatch)


@given(st.integers(1, 40), st.integers(1, 40))
def test_shares_are_disjoint_and_even_and_leave_nothing_out(items: int, count: int) -> None:
    whole = list(range(items))
    count = min(count, items)
    shares = [Shard(number, count).of(whole) for number in range(1, count + 1)]
    assert sorted(item for share in shares for item in share) == whole
    assert all(share == sorted(share) for share in shares)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_share_is_dealt_out_by_position() -> None:
    assert Shard.parse("2/3").of("abcdefg") == "be"
    assert Shard.parse("1/1").of("abc") == "abc"
    assert str(Shard.parse("07/12")) == "7/12"


@pytest.mark.parametrize(
    "text", ["0/8", "9/8", "1/0", "0/0", "2", "2/", "/8", "a/b", "-1/2", "1/2/3", " 1/2", "1 / 2",
             "1.0/2", "²/3", "9" * 5000 + "/3", ""]
)  # fmt: skip
def test_what_is_no_shard_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+: (write|they are counted)"):
        Shard.parse(text)


def test_an_empty_share_is_refused() -> None:
    with pytest.raises(ValueError, match="the shard 4/5 of 3 is empty"):
        Shard.parse("4/5").of("abc")


def problems(folder: Path, count: int) -> Path:
    """A file in which most ids are the numbers of the lines."""
    path = folder / "p.jsonl"
    lines = [{"problem": f"Use 4, 7, 8 and {8 + i % 2} to make 24."} for i in range(count)]
    lines[3]["id"] = "fourth"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def solve(capsys: Any, path: Path, output: Path, *flags: str) -> str:
    """What the command says on stderr."""
    command = ["solve", "--input", path, "--output", output, "--budget", "tokens=2000", *flags]
    code, _, err = run(capsys, *command)
    assert code in (0, 1), err
    return err


def found(path: Path) -> dict[str, Any]:
    """id -> its line but for what depends on the time and on neighbours."""
    rows = {}
    for row in map(json.loads, path.read_text().splitlines()):
        usage = {name: row["usage"][name] for name in ("simulations", "calls", "generated")}
        assert row["id"] not in rows, "it stands there twice"
        rows[row["id"]] = {**row, "usage": usage, "crc32": None}
    return rows


@pytest.mark.thorough
def test_the_shards_are_the_run_that_nobody_shares(capsys: Any, tmp_path: Path) -> None:
    path = problems(tmp_path, 8)
    solve(capsys, path, tmp_path / "whole", "--traces", str(tmp_path / "alone"))
    for number in (1, 2, 3):
        output = tmp_path / f"out-{number}"
        shard = ["--shard", f"{number}/3", "--traces", str(tmp_path / "shared")]
        told = solve(capsys, path, output, *shard)
        assert re.search(rf"[0-9] of {2 if number == 3 else 3} problems answered", told)
    shares = [found(tmp_path / f"out-{number}") for number in (1, 2, 3)]
    assert [len(share) for share in shares] == [3, 3, 2]
    assert {name: row for share in shares for name, row in share.items()} == found(
        tmp_path / "whole"
    )
    trees = []
    for folder in ("alone", "shared"):
        chains = [(t.seed, [step.text for step in t.steps]) for t in Trace.load(tmp_path / folder)]
        trees.append(sorted(chains))
    assert len(trees[0]) == 8 and trees[0] == trees[1]


@pytest.mark.thorough
def test_a_killed_shard_goes_on_with_its_own(
    capsys: Any, tmp_path: Path, scripted: list[Any]
) -> None:
    path = problems(tmp_path, 8)
    output = tmp_path / "o"
    solve(capsys, path, output, "--shard", "2/3")
    whole = output.read_text().splitlines(keepends=True)
    output.write_text(whole[0] + whole[1][:30])
    assert "1 had been searched before" in solve(capsys, path, output, "--shard", "2/3")
    assert list(found(output)) and output.read_text().startswith(whole[0])
    assert sorted(found(output)) == ["2", "5", "8"]
    loaded = len(scripted)
    assert "3 had been searched before" in solve(capsys, path, output, "--shard", "2/3")
    assert len(scripted) == loaded, "nothing was left to do"


@pytest.mark.thorough
def test_the_command_without_shard_finds_what_is_missing(
    capsys: Any, tmp_path: Path, scripted: list[Any]
) -> None:
    """The files of the shards one behind the other are a file of results."""
    path = problems(tmp_path, 8)
    merged = tmp_path / "merged"
    for number in (1, 3):
        solve(capsys, path, tmp_path / f"o{number}", "--shard", f"{number}/3")
    merged.write_text((tmp_path / "o1").read_text() + (tmp_path / "o3").read_text())
    before = found(merged)
    assert "5 had been searched before" in solve(capsys, path, merged)
    assert set(found(merged)) - set(before) == {"2", "5", "8"}, "shard 2 of 3 was missing"
    loaded = len(scripted)
    assert "8 had been searched before" in solve(capsys, path, merged)
    assert len(scripted) == loaded


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ([PUZZLE, "--shard", "1/2"], "--input"),
        (["--input", "p", "--shard", "3/2"], "counted from 1"),
        (["--input", "p", "--shard", "two"], "such as 2/8"),
        (["--input", "p", "--shard", "9/9"], "is empty"),
    ],
)
def test_wrong_shards_are_told_before_any_work(
    capsys: Any, tmp_path: Path, scripted: list[Any], args: list[str], word: str
) -> None:
    path = problems(tmp_path, 8)
    command = [str(path) if arg == "p" else arg for arg in args]
    code, out, err = run(capsys, "solve", *command)
    assert (code, out, err.count("\n")) == (2, "", 1) and word in err and not scripted
