"""Questions drawn from a file of GSM8K's form, and methods compared at equal seconds."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest

from benchmarks.answers import gsm8k
from benchmarks.sweep import wallclock
from benchmarks.sweep.rows import COLUMNS


def lines(count):
    return [
        {"question": f"What is {n} times 1000?", "answer": f"It is.\n#### {n},000"}
        for n in range(1, count + 1)
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_questions_are_drawn_by_a_seed_and_hold_their_targets(
    tmp_path, monkeypatch, capsys, packed
):
    text = "".join(json.dumps(line) + "\n" for line in lines(40))
    path = tmp_path / "questions.jsonl"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())

    def draw(*flags):
        monkeypatch.setattr("sys.argv", ["gsm8k", str(path), *flags])
        gsm8k.main()
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    ten = draw("--count", "10", "--seed", "3")
    assert [q["target"] for q in ten] == [f"{q['id']}000" for q in ten]
    assert len({q["id"] for q in ten}) == 10
    assert ten == draw("--count", "10", "--seed", "3") != draw("--count", "10", "--seed", "4")
    later = draw("--count", "10", "--seed", "3", "--skip", "10")
    assert not {q["id"] for q in ten} & {q["id"] for q in later}
    assert len(draw()) == 40
    with pytest.raises(SystemExit):
        draw("--count", "31", "--skip", "10")


def row(method, budget, problem, correct, seconds):
    cells = dict.fromkeys(COLUMNS, "0")
    return cells | {
        "method": method,
        "budget": f"tokens={budget}",
        "problem": problem,
        "correct": correct,
        "seconds": seconds,
    }


def test_accuracy_between_two_budgets_changes_with_the_logarithm_of_the_seconds():
    rows = [
        row("self_consistency", 100, "a", "0", "1"),
        row("self_consistency", 400, "a", "1", "4"),
        row("mcts", 200, "a", "1", "2"),
    ]
    line = wallclock.points(rows)["self_consistency"]
    for seconds in (1.0, 1.7, 4.0):
        assert wallclock.at(line, seconds, ["a"]) == pytest.approx(
            np.array([math.log(seconds) / math.log(4)])
        )
    assert wallclock.at(line, 0.9, ["a"]) is None and wallclock.at(line, 5.0, ["a"]) is None
    told = wallclock.report(rows, "self_consistency")
    assert "+50.0 [+50.0, +50.0]" in told, "one right answer less the half of one"
    with pytest.raises(ValueError, match="no method 'best_of_n'"):
        wallclock.report(rows, "best_of_n")
