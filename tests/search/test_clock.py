"""Seconds of searches side by side, the limit of time for all of them, scores, and what is
shown.
"""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest
from fakes import generated, scripted_guide
from hypothesis import given
from hypothesis import strategies as st

import guides
import search
from search import progress
from search.cli.main import main
from search.problems.countdown import Countdown
from search.scheduling import stopwatch
from search.scheduling.budget import Budget, Meter
from search.scheduling.clock import Clock


class Hands:
    """Time that passes when the test says so."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(stopwatch, "now", lambda: self.now)


def test_time_is_divided_among_those_who_run(monkeypatch):
    hands = Hands(monkeypatch)
    shared = Clock()
    hands.now += 50  # nobody runs
    assert shared.enter() == 0
    hands.now += 3
    assert shared.enter() == 3, "the first had three seconds alone"
    hands.now += 4
    assert shared.seconds == 5, "and two of the four since"
    shared.leave()
    hands.now += 1
    assert shared.seconds == 6
    shared.leave()
    hands.now += 9
    assert shared.seconds == 6


@given(st.lists(st.tuples(st.sampled_from(["in", "out"]), st.floats(0, 10)), max_size=40))
def test_the_shares_of_all_sum_to_the_time_that_passed(events):
    with pytest.MonkeyPatch.context() as patch:
        hands = Hands(patch)
        shared, running, had, busy = Clock(), [], 0.0, 0.0
        for event, pause in events:
            if event == "in":
                running.append(shared.enter())
            elif running:
                had += shared.seconds - running.pop(0)
                shared.leave()
            hands.now += pause
            busy += pause if running else 0.0
        had += sum(shared.seconds - start for start in running)
        assert had == pytest.approx(busy)


def test_a_meter_counts_its_own_share(monkeypatch):
    hands = Hands(monkeypatch)
    shared = Clock(limit=100)
    first, second = Meter(Budget(seconds=2), clock=shared), Meter(Budget(seconds=3), clock=shared)
    hands.now += 3.9
    assert first.halted is None and first.usage.seconds == pytest.approx(1.95)
    hands.now += 0.2
    assert first.halted == "seconds" and second.halted is None
    shared.leave()
    hands.now += 0.9
    assert second.halted is None
    hands.now += 0.1
    assert second.halted == "seconds"
    hands.now += 100
    assert second.halted == "time_limit", "of all together"
    alone = Meter(Budget(seconds=2))
    hands.now += 2
    assert alone.halted == "seconds"


def slow(request):
    """A model that never finishes a chain."""
    return generated(f"on {request.seed % 10_000}", limit=request.max_tokens)


@pytest.mark.thorough
def test_searches_side_by_side_have_what_they_would_have_alone(monkeypatch):
    """Every request takes its time, whoever asks: eight searches then take eight times as long,
    and none has less.
    """
    hands = Hands(monkeypatch)

    def takes_time(request):
        hands.now += 0.01
        return slow(request)

    guide = scripted_guide(takes_time, value=False, slots=2)
    options = {"method": "sample", "wave": 2, "budget": "seconds=1"}
    alone = search.solve("Question 1", guide, **options)
    began = hands.now
    together = search.solve_many(["Question 1"] * 8, guide, **options)
    assert all(one.stopped == "seconds" for one in [alone, *together])
    assert alone.usage.calls == pytest.approx(100, abs=2)
    assert [one.usage.calls for one in together] == pytest.approx([100] * 8, abs=20)
    assert sum(one.usage.seconds for one in together) == pytest.approx(hands.now - began)
    in_turns = search.solve_many(["Question 1"] * 3, guide, limit=1, **options)
    assert [one.usage.calls for one in in_turns] == pytest.approx([100] * 3, abs=2), (
        "each from its own start"
    )


def test_a_limit_for_all_searches_together(monkeypatch):
    hands = Hands(monkeypatch)

    def takes_time(request):
        hands.now += 0.01
        return slow(request)

    guide = scripted_guide(takes_time, value=False)
    found = search.solve_many(
        ["Question 1"] * 6, guide, "sample", "calls=60", time_limit=1, limit=2
    )
    assert [one.stopped for one in found[2:]] == ["time_limit"] * 4, (
        "the first two took the time of all"
    )
    assert (
        found[0].usage.calls > 20
        and found[5].usage.calls == 0
        and found[5].error is None
        and found[5].answer is None
    )
    with pytest.raises(ValueError, match="time_limit=0"):
        search.solve_many(["Question 1"], guide, time_limit=0)


@pytest.fixture
def scripted(monkeypatch):
    """Every checkpoint is what this list holds."""
    functions = [slow]
    monkeypatch.setattr(guides, "settings", lambda path: {}, raising=False)

    def load(path, answer=None, **engine):
        guide = scripted_guide(functions[0], value=False)
        next(iter(guide.backends.values())).delay = 0.002
        return guide

    monkeypatch.setattr(guides, "load", load, raising=False)
    return functions


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def copse(capsys, *args):
    code = main(["solve", *map(str, args)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.thorough
def test_what_the_limit_of_a_file_left_is_not_done(tmp_path, capsys, scripted):
    path = written(tmp_path / "p", *({"id": i, "problem": f"Question {i}"} for i in range(3)))
    command = [
        "--input",
        path,
        "--output",
        tmp_path / "o",
        "--method",
        "sample",
        "--budget",
        "tokens=400",
    ]
    scripted[0] = slow
    code, _, err = copse(capsys, *command[:-1], "tokens=100000000", "--time-limit", "0.2")
    assert (
        code == 1
        and (tmp_path / "o").read_text() == ""
        and "3 not done within --time-limit: give the same command again" in err
    )
    scripted[0] = lambda request: generated("The answer is 7", finish="end")
    code, _, err = copse(capsys, *command, "--time-limit", "100")
    assert code == 0 and len((tmp_path / "o").read_text().splitlines()) == 3
    for wrong in (["--time-limit", "0", "--input", path], ["Question 1", "--time-limit", "3"]):
        code, _, err = copse(capsys, *wrong)
        assert code == 2 and "--time-limit" in err and err.count("\n") == 1


# -- the score of a file


def test_the_score_of_a_file_with_targets(tmp_path, capsys, scripted):
    scripted[0] = lambda request: generated(
        "The answer is " + "".join(map(chr, request.prompt)).split()[1], finish="end"
    )
    path = written(
        tmp_path / "p",
        {"id": "right", "problem": "Question 1", "target": "1"},
        {"id": "wrong", "problem": "Question 2", "target": 3},
        {
            "id": "undecided",
            "problem": "Question x+y",
            "target": "some words that nobody can compare",
        },
        {"id": "unknown", "problem": "Question 4"},
    )
    command = [
        "--input",
        path,
        "--output",
        tmp_path / "o",
        "--method",
        "sample",
        "--option",
        "chains=2",
        "--budget",
        "tokens=400",
    ]
    code, _, err = copse(capsys, *command)
    assert code == 0 and "4 of 4 problems answered, 1 right of 3 with targets" in err, err
    code, _, again = copse(capsys, *command)
    assert (
        code == 0
        and "4 of 4 problems answered, 1 right of 3 with targets" in again
        and "4 had been searched before" in again
    )
    rows = [json.loads(line) for line in (tmp_path / "o").read_text().splitlines()]
    assert {row["id"]: row["text"] for row in rows}["right"] == "The answer is 1"
    written(path, {"id": "right", "problem": "Question 1"})
    assert "1 of 1 problems answered, 1 had been searched before" in copse(capsys, *command)[2]


@pytest.mark.parametrize(
    "target", ["NaN", "Infinity", "-Infinity", "[1]", "true", '""', '"2, 1"', "7"]
)
def test_a_target_that_is_none_is_refused_before_any_search(tmp_path, capsys, scripted, target):
    """Also two targets of one problem that differ, or may differ: a search of hours would end
    without a score.
    """
    asked = []
    scripted[0] = lambda request: (
        asked.append(request) or generated("The answer is 1", finish="end")
    )
    lines = [
        '{"id": "a", "problem": "Question 1", "target": "1, 2"}',
        f'{{"id": "b", "problem": "Question 1", "target": {target}}}',
    ]
    (tmp_path / "p").write_text("\n".join(lines))
    code, out, err = copse(
        capsys, "--input", tmp_path / "p", "--output", tmp_path / "o", "--method", "sample"
    )
    assert code == 2 and "p, line 2: " in err and "target" in err and err.count("\n") == 1
    assert not asked and not out and not (tmp_path / "o").exists()


def test_no_search_sees_a_target(tmp_path, capsys, scripted, monkeypatch):
    """Targets are checked at the door and looked up when the last search has ended; the searches
    are given none.
    """
    import guides.data.grading

    order = []
    read, solve_many = guides.data.grading.read_targets, search.solve_many
    monkeypatch.setattr(
        guides.data.grading, "read_targets", lambda path: order.append("targets") or read(path)
    )

    def ended(*args, **options):
        assert [problem.to_json() for problem in args[0]] == [
            {"statement": "Question 1"}
        ] and "SECRET" not in repr((args, options))
        solutions = solve_many(*args, **options)
        order.append("searches")
        return solutions

    monkeypatch.setattr(search, "solve_many", ended)
    scripted[0] = lambda request: generated("The answer is 7", finish="end")
    path = written(tmp_path / "p", {"problem": "Question 1", "target": "SECRET"})
    assert copse(capsys, "--input", path, "--method", "sample", "--budget", "tokens=100")[0] == 0
    assert order == ["targets", "searches", "targets"]


# -- what is shown meanwhile


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def fast_bar(monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0.05)
    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    monkeypatch.setattr(progress, "LOGGED", 0.05)


def delayed(function=None):
    guide = scripted_guide(function, value=False) if function else scripted_guide()
    next(iter(guide.backends.values())).delay = 0.002
    return guide


@pytest.mark.thorough
def test_one_search_shows_what_it_has_spent_and_its_best_answer(monkeypatch, fast_bar):
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    problem = search.TextProblem("Question 1", answer=r"on (\d+)")
    solution = search.solve(problem, delayed(slow), "mcts", "tokens=1500")
    shown = screen.getvalue()
    assert (
        solution.answer is not None
        and "of 1,500 tokens" in shown
        and "rows a pass" in shown
        and "best so far: " in shown
    )
    assert shown.count("\n") == 0, "one bar, which is gone in the end"


@pytest.mark.thorough
def test_many_searches_show_one_bar(monkeypatch, fast_bar):
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    found = search.solve_many(
        [Countdown((1, 1, n, 2), 99) for n in range(1, 9)], delayed(), budget="tokens=300", limit=2
    )
    shown = screen.getvalue()
    assert "8/8" in shown and "tokens" in shown and "answered" in shown and shown.count("\n") == 1
    assert len(found) == 8


@pytest.mark.thorough
def test_nothing_is_shown_where_nobody_looks_or_when_all_is_done_at_once(
    monkeypatch, fast_bar, caplog
):
    caplog.set_level(logging.WARNING, "copse.search.progress")
    monkeypatch.setattr(sys, "stderr", screen := io.StringIO())
    search.solve("Question 1", delayed(slow), "mcts", "tokens=1000")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    search.solve("Question 1", delayed(slow), "mcts", "tokens=1000", progress=False)
    monkeypatch.setattr(progress, "DELAY", 60.0)
    search.solve("Question 1", delayed(slow), "mcts", "tokens=1000")
    assert screen.getvalue() == terminal.getvalue() == "" and not caplog.records


def test_a_verbose_run_logs_how_far_it_is(monkeypatch, fast_bar, caplog):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    caplog.set_level(logging.INFO, "copse.search.progress")
    search.solve("Question 1", delayed(slow), "mcts", "tokens=1000")
    assert any(
        "0 of 1 searches done, " in message and "rows a pass" in message
        for message in caplog.messages
    )


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["mcts", "gumbel", "beam", "sample"])
def test_watching_changes_no_tree(monkeypatch, fast_bar, method):
    monkeypatch.setattr(sys, "stderr", Terminal())
    problem = Countdown((1, 1, 5, 2), 99)
    seen, unseen = (
        search.solve(problem, delayed(), method, "tokens=600", progress=show)
        for show in (True, False)
    )
    assert seen.tree.steps == unseen.tree.steps


def test_a_search_that_breaks_leaves_nothing_behind(monkeypatch, fast_bar):
    monkeypatch.setattr(sys, "stderr", Terminal())
    guide = delayed()

    async def breaks(search):
        await search.guide.policy.propose(search.problem, search.problem.initial(), 2, search.rng)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        search.solve(Countdown((1, 1, 5, 2), 99), guide, breaks)
    engine = next(iter(guide.backends.values()))
    assert not engine.lock.locked() and not engine.poll()
