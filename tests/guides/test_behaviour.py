"""What chains do beside going on: counts against streams whose moves are planted, and words in
open text.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import search
from benchmarks.tasks import state_right
from guides.data.behaviour import of_replay, of_stream, of_text, summary
from guides.data.grading import Replay
from search.problem import TextProblem, TextStep
from search.problems.chains import Chains
from search.problems.countdown import Countdown
from search.problems.stream import Stream

GAME = Countdown((4, 7, 8, 8), 24)
SUM = Chains(11, ("C10", "A3", "i=c-a", "e=i+a"), "e")
RIGHT = ["i=c-a C10 A3 I7", "e=i+a I7 A3 E10"]
WRONG = ["i=c-a C10 A3 I7", "e=i+a I7 A3 E9"]


def told(stream: Stream, lines: list[str]) -> Any:
    state = stream.initial()
    for text in lines:
        state = stream.apply(state, TextStep(text))
    return state


def of_game(lines: list[str]) -> Any:
    stream = Stream(GAME)
    return of_stream(stream, told(stream, lines), lambda state: state_right(GAME, state))


def test_moves_are_counted_and_checks_are_checked() -> None:
    found = of_game(
        [
            "8+8=16", "Check: wrong.", "Back to 0.", "8-7=1", "Check: right.", "Check: right.",
            "4+8=12", "Check: right.", "Back to 1.", "4-1=3", "8*3=24",
        ]
    )  # fmt: skip
    assert (found.lines, found.withdrawn, found.backs, found.checks) == (11, 2, 2, 4)
    assert (found.true, found.false, found.useless) == (3, 1, 1)
    assert found.first == found.last == 1.0 and math.isnan(found.changed)


def test_without_a_checker_nobody_knows_whether_checks_are_true() -> None:
    stream = Stream(GAME)
    found = of_stream(stream, told(stream, ["8-7=1", "Check: right."]))
    assert found.checks == 1 and found.true == found.false == 0
    assert math.isnan(summary([found])["true"])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (WRONG, RIGHT, (0.0, 1.0, 0.5)),
        (RIGHT, WRONG, (1.0, 0.0, 0.5)),
        (WRONG, WRONG, (0.0, 0.0, 0.0)),
        (RIGHT, RIGHT, (1.0, 1.0, 0.0)),
    ],
)
def test_attempts_are_compared(
    first: list[str], second: list[str], expected: tuple[float, float, float]
) -> None:
    stream = Stream(SUM, attempts=2)
    state = told(stream, [*first, "Try again.", *second])
    found = of_stream(stream, state, target="10")
    assert (found.first, found.last, found.changed) == expected
    whole = summary([found])
    assert whole["delta"] == expected[1] - expected[0]
    assert whole["to_right"] == float(expected[:2] == (0.0, 1.0))
    assert whole["to_wrong"] == float(expected[:2] == (1.0, 0.0))
    assert whole["copied"] == float(expected[2] == 0.0)


def test_the_summary_is_of_chains_with_several_attempts_where_it_says_so() -> None:
    stream = Stream(SUM, attempts=2)
    corrected = of_stream(stream, told(stream, [*WRONG, "Try again.", *RIGHT]), target="10")
    broken = of_stream(stream, told(stream, [*RIGHT, "Try again.", *WRONG]), target="10")
    straight = of_stream(Stream(SUM), told(Stream(SUM), RIGHT), target="10")
    whole = summary([corrected, corrected, broken, straight])
    assert whole["chains"] == 4 and whole["first"] == pytest.approx(1 / 3)
    assert whole["last"] == pytest.approx(2 / 3) and whole["delta"] == pytest.approx(1 / 3)
    assert whole["withdrawn"] == pytest.approx(6 / 17) and whole["agains"] == 0.75
    assert summary([]) == {"chains": 0.0}


def test_words_in_open_text() -> None:
    text = "Add 3 and 4.\nWait, that is wrong. Let me check.\n\nI start over: it is 8."
    found = of_text(text)
    assert (found.lines, found.backs, found.checks, found.agains) == (3, 2, 1, 1)
    assert of_text("We add 3 and 4, a waiter waits.").backs == 0
    assert math.isnan(found.first) and found.withdrawn == 0


def test_chains_of_a_trace_count_as_often_as_they_were_sampled() -> None:
    lines = ["8+8=16", "Check: wrong.", "Back to 0.", "8-7=1", "4-1=3", "8*3=24"]

    def policy(problem: Any, state: Any) -> list[TextStep]:
        return [TextStep(lines[len(state)])] if len(state) < len(lines) else []

    found = search.solve(
        Stream(GAME), guide=search.Guide(policy), method="sample", chains=3, solutions=None
    )
    assert found.trace is not None
    behaviours = of_replay(Replay(found.trace), state_right)
    assert len(behaviours) == 3 and {one.backs for one in behaviours} == {1}
    assert {one.true for one in behaviours} == {1}

    def lost(problem: Any, state: Any) -> list[TextStep]:  # comes to no end
        return [TextStep(lines[len(state)])] if len(state) < 3 else []

    ended = search.solve(Stream(GAME), guide=search.Guide(lost), method="sample", chains=3)
    assert ended.trace is not None
    behaviours = of_replay(Replay(ended.trace))
    assert [(one.lines, one.backs, one.last) for one in behaviours] == [(3, 1, 0.0)] * 3

    def talker(problem: Any, state: Any) -> list[TextStep]:
        return [TextStep("Wait. Let me verify: \\boxed{3}", finish="end")]

    other = search.solve(TextProblem("?"), guide=search.Guide(talker), method="sample", chains=2)
    assert other.trace is not None
    [first, *_] = of_replay(Replay(other.trace))
    assert (first.backs, first.checks) == (1, 1)
    assert np.isnan(first.last)
