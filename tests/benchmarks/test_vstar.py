"""Verifiers of all rounds and of the last (`benchmarks.learning.vstar`): the table, from scores
that are planted, and a small run from start to end.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks.learning import vstar
from benchmarks.verifiers.samples import Columns


def columns(right: list[bool], values: list[float]) -> Columns:
    answers: list[str | None] = ["7" if one else "8" for one in right]
    return Columns(answers, right, [None] * len(right), values)


def test_the_table_says_how_often_the_best_scored_is_right() -> None:
    """One verifier knows, the other has the same score for all: one of four is right."""
    right = [True, False, False, False]
    knows = [[columns(right, [0.9, 0.1, 0.2, 0.3])] * 20] * 3
    guesses = [[columns(right, [0.5] * 4)] * 20] * 3
    text = vstar.report({vstar.ALL: knows, "last round": guesses})
    first, second = text.splitlines()[-2:]
    assert first.startswith("| all rounds | 25.0 [25.0, 25.0] | 50.0 ")
    assert "| 100.0 [100.0, 100.0] |" in first
    assert second.endswith("| 25.0 [25.0, 25.0] | -75.0 [-75.0, -75.0] |")


def test_a_chain_without_an_answer_is_never_the_best() -> None:
    own = Columns([None, "7"], [False, True], [None, None], [0.9, 0.1])
    np.testing.assert_array_equal(vstar.chosen([own], 2), [100.0])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_from_start_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import tasks

    command = ["vstar", "--out", str(tmp_path / "out"), "--seeds", "0", "--slots", "16"]
    command += ["--rounds", "2", "--per-round", "12", "--chains", "4", "--samples", "4"]
    for kind, count in (("training", 40), ("gate", 30), ("test", 6)):
        made = ["tasks", kind, "--only", "chains", "--size", "8", "--count", str(count)]
        monkeypatch.setattr("sys.argv", made)
        tasks.main()
        path = tmp_path / f"{kind}.jsonl"
        path.write_text(capsys.readouterr().out)
        command += ["--input" if kind == "training" else f"--{kind}", str(path)]
    monkeypatch.setattr("sys.argv", command)
    vstar.main()
    pools = sorted(path.name for path in (tmp_path / "out" / "seed-0").glob("*.jsonl"))
    assert len(pools) == 3
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json*")}
    vstar.main()
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json*")}
