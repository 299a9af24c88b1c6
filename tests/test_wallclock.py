"""Questions drawn from a file of GSM8K's form, and methods compared at equal seconds."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest

from benchmarks import gsm8k, wallclock
from benchmarks.rows import COLUMNS


def write(path, lines):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))
    return path


def lines(count):
    return [{"question": f"What is {n} times 1000?", "answer": f"It is.\n#### {n},000"} for n in range(count)]


@pytest.mark.parametrize("name", ["questions.jsonl", "questions.jsonl.gz"])
def test_questions_are_drawn_by_a_seed_and_hold_their_targets(tmp_path, name):
    path = write(tmp_path / name, lines(40))
    drawn = list(gsm8k.questions(path, 10, seed=3))
    assert [q["target"] for q in drawn] == [f"{int(q['id']) - 1}000" for q in drawn]
    assert len({q["id"] for q in drawn}) == 10
    assert drawn == list(gsm8k.questions(path, 10, seed=3)) != list(gsm8k.questions(path, 10, seed=4))
    later = list(gsm8k.questions(path, 10, seed=3, skip=10))
    assert not {q["id"] for q in drawn} & {q["id"] for q in later}


def test_too_few_questions_and_strange_lines_are_refused(tmp_path):
    path = write(tmp_path / "few.jsonl", lines(3))
    with pytest.raises(ValueError, match="3 questions"):
        list(gsm8k.questions(path, 4, seed=0))
    broken = write(tmp_path / "broken.jsonl", [{"question": "a", "answer": "no mark"}])
    with pytest.raises(ValueError, match="line 1 is no question"):
        list(gsm8k.questions(broken, 1, seed=0))


def row(method, budget, problem, correct, seconds):
    cells = dict.fromkeys(COLUMNS, "0")
    return cells | {"method": method, "budget": f"tokens={budget}", "problem": problem, "correct": correct, "seconds": seconds}


def test_accuracy_between_two_budgets_changes_with_the_logarithm_of_the_seconds():
    rows = [row("majority", 100, "a", "0", "1"), row("majority", 400, "a", "1", "4"), row("mcts", 200, "a", "1", "2")]
    line = wallclock.points(rows)["majority"]
    for seconds in (1.0, 1.7, 4.0):
        assert wallclock.at(line, seconds, ["a"]) == pytest.approx(np.array([math.log(seconds) / math.log(4)]))
    assert wallclock.at(line, 0.9, ["a"]) is None and wallclock.at(line, 5.0, ["a"]) is None
    told = wallclock.report(rows, "majority")
    assert "+50.0 [+50.0, +50.0]" in told, "one right answer less the half of one"
    with pytest.raises(ValueError, match="no method 'best'"):
        wallclock.report(rows, "best")
