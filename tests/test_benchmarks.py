"""Tasks against independent counts; a sweep that was cut off goes on where it was."""

from __future__ import annotations

import csv
import itertools
from fractions import Fraction

import pytest
from fakes import scripted_guide

from benchmarks import sweep, tasks
from search.problems.countdown import Countdown


def brute_force(numbers, target):
    """Whether `target` can be made: pairs are combined in every way, in exact arithmetic."""
    if len(numbers) == 1:
        return numbers[0] == target
    for i, j in itertools.permutations(range(len(numbers)), 2):
        rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
        a, b = numbers[i], numbers[j]
        if any(brute_force([*rest, c], target) for c in (a + b, a - b, a * b, *([a / b] if b else []))):
            return True
    return False


def test_the_game_of_24_has_its_known_size():
    assert len(tasks.game24()) == 1362 and len(tasks.game24(whole=True)) == 1346
    solvable = set(tasks.game24())
    for numbers in ((3, 3, 8, 8), (1, 1, 1, 1), (1, 5, 5, 5), (1, 1, 1, 8), (13, 13, 13, 13), (4, 7, 8, 8), (1, 6, 11, 13)):
        assert (Countdown(numbers, 24) in solvable) == brute_force([Fraction(n) for n in numbers], 24)


def test_validation_is_not_the_test():
    problems = tasks.countdown_validation()
    assert len(problems) == 400 and len({tasks.identity(p) for p in problems}) == 400
    assert all(p.target != 24 for p in problems) and {p.target for p in problems[200:]} == {36, 50}


def test_a_cut_off_sweep_goes_on(tmp_path, monkeypatch):
    problems = tasks.game24()[:6]
    monkeypatch.setitem(tasks.TASKS, "few", lambda: problems)
    monkeypatch.setattr(sweep.guides, "load", lambda path, slots, **policy: scripted_guide(slots=slots, **policy))
    out = tmp_path / "r.csv"
    runs = ["sample wave=4", "mcts branch=3 temperature=1.5"]
    sweep.sweep("few", runs, out, "x", tokens=120, seeds=2, slots=8, limit=4)
    whole = sorted(out.read_text().splitlines())
    assert len(whole) == 1 + 6 * 2 * 2
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join(lines[:9]) + lines[9][:20])
    sweep.sweep("few", runs, out, "x", tokens=120, seeds=2, slots=8, limit=4)
    rows = list(sweep.read(out))
    assert len({(r["run"], r["seed"], r["problem"]) for r in rows}) == len(rows) == 24
    assert {(r["problem"], r["run"], r["seed"], r["generated"]) for r in rows} == {
        (r["problem"], r["run"], r["seed"], r["generated"])
        for r in csv.DictReader(["".join(lines[:1]).strip(), *(line.strip() for line in lines[1:])])
    }
    table = sweep.report(out, None)
    assert "| few | sample wave=4 | 12 |" in table


def test_shares_are_counted_within_each_level(tmp_path):
    out = tmp_path / "r.csv"
    rows = [("p1", 1, 90), ("p2", 1, 150), ("p3", 0, 2000), ("p4", 1, 2000)]
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, sweep.COLUMNS)
        writer.writeheader()
        for problem, verified, generated in rows:
            writer.writerow(
                {
                    **dict.fromkeys(sweep.COLUMNS, "0"),
                    "task": "t",
                    "problem": problem,
                    "run": "m",
                    "verified": verified,
                    "generated": generated,
                }
            )
    assert "| 25.0 | 50.0 | 50.0 | 50.0 | 75.0 | 150 |" in sweep.report(out, None)


def test_an_unknown_rank_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        tasks.ranked(tmp_path / "none.csv", 1, 2)


def test_hard_puzzles_have_few_solutions_and_unseen_targets():
    problems = tasks.countdown_hard()
    assert len(set(problems)) == 150 and {p.target for p in problems} == {36, 50}
    for problem in problems[:5]:
        assert brute_force([Fraction(n) for n in problem.numbers], problem.target)


def test_a_paired_comparison_finds_a_planted_difference(tmp_path):
    out = tmp_path / "r.csv"
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, sweep.COLUMNS)
        writer.writeheader()
        for i in range(200):  # "a" solves 150 within 100 tokens, "b" the first 100 of them, the next 50 within 400
            for run, tokens in (("a", 90), ("b", 90 if i < 100 else 300)):
                row = {"task": "t", "problem": f"p{i}", "run": run, "verified": int(i < 150), "generated": tokens}
                writer.writerow({**dict.fromkeys(sweep.COLUMNS, "0"), **row})
    lines = sweep.compare(out, None, "a", "b").splitlines()
    assert lines[0].startswith("all, 100 tokens: +25.0 [+1") and "200 problems" in lines[0]
    assert "400 tokens: +0.0 [+0.0, +0.0]" in lines[2]
