"""Streams: moves are read as they are written, only what stands counts, and whatever refers to what
is not there is refused; against a reader of its own that keeps a plain list.
"""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import search
from search.kinds import build, kind_of
from search.problem import IllegalStep, TextProblem, TextStep, check_problem
from search.problems.chains import Chains
from search.problems.countdown import Countdown
from search.problems.hex import Hex
from search.problems.stream import Move, Moves, Stream

GAME = Countdown((4, 7, 8, 8), 24)
LAST = Moves(back="Back.")
SUM = Chains(11, ("C10", "A3", "i=c-a", "e=i+a"), "e")


def told(stream: Stream, *lines: str) -> Any:
    state = stream.initial()
    for text in lines:
        state = stream.apply(state, TextStep(text))
    return state


def stands(stream: Stream, state: Any) -> list[str]:
    marks = zip(state, stream.standing(state), strict=True)
    return [step.text for step, standing in marks if standing]


# -- what stands


def test_only_the_lines_that_stand_count() -> None:
    stream = Stream(GAME)
    state = told(stream, "8-7=1", "4+8=12", "Back to 1.", "4-1=3", "Check: right.", "8*3=24")
    assert stands(stream, state) == ["8-7=1", "4-1=3", "8*3=24"]
    assert stream.is_terminal(state) and stream.verify(state) == 1.0
    assert stream.answer(state) == GAME.answer(told(Stream(GAME), "8-7=1", "4-1=3", "8*3=24"))
    assert not stream.is_terminal(state[:-1])
    reading = stream.read(state)
    assert [made.move for made in reading.made] == [Move("back", 1), Move("check", None, True)]
    assert [(made.place, made.about) for made in reading.made] == [(2, 0), (4, 3)]


def test_a_number_that_was_withdrawn_is_there_again() -> None:
    stream = Stream(GAME)
    with pytest.raises(IllegalStep, match="7 is not left"):
        told(stream, "8-7=1", "7-4=3")
    assert stands(stream, told(stream, "8-7=1", "Back to 0.", "7-4=3")) == ["7-4=3"]


def test_a_move_without_a_number_withdraws_one_line() -> None:
    stream = Stream(GAME, moves=LAST)
    state = told(stream, "8-7=1", "4+8=12", "Back.", "Back.", "8/8=1")
    assert stands(stream, state) == ["8/8=1"]


def test_attempts_end_with_the_answer_of_the_last() -> None:
    stream = Stream(SUM, attempts=2)
    first = told(stream, "i=c-a C10 A3 I7", "e=i+a I7 A3 E9")
    assert not stream.is_terminal(first) and stream.answer(first) == "9"
    with pytest.raises(IllegalStep, match="follows an answer"):
        stream.apply(first, TextStep("i=c-a C10 A3 I7"))
    second = told(stream, *(step.text for step in first), "Try again.", "e=i+a I7 A3 E10")
    assert stream.is_terminal(second) and stream.answer(second) == "10"
    assert stream.read(second).attempt == 2
    with pytest.raises(IllegalStep, match="attempt 3 is one too many"):
        stream.apply(second, TextStep("Try again."))


def test_a_checked_answer_ends_a_stream_when_it_was_found_right() -> None:
    stream = Stream(SUM, checked=True)
    answered = told(stream, "i=c-a C10 A3 I7", "e=i+a I7 A3 E9")
    assert not stream.is_terminal(answered)
    wrong = stream.apply(answered, TextStep("Check: wrong."))
    assert not stream.is_terminal(wrong)
    state = told(stream, *(step.text for step in wrong), "Back to 1.", "e=i+a I7 A3 E10")
    assert not stream.is_terminal(state), "the new answer was not checked"
    assert stream.is_terminal(stream.apply(state, TextStep("Check: right.")))
    line = told(stream, "i=c-a C10 A3 I7", "Check: right.")
    assert not stream.is_terminal(line), "it is no answer that was checked"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("Back to 0.",), "no line stands"),
        (("Check: right.",), "no line stands"),
        (("8-7=1", "Back to 1."), "none to go back to 1"),
        (("8-7=1", "Back to 7."), "none to go back to 7"),
        (("8-7=1", "Back to 0.", "Check: wrong."), "no line stands"),
        (("8-7=1", "Back to 01."), "is no step"),
        (("8-7=1", "Check: maybe."), "is no step"),
        (("8-7=1", "Try again."), "attempt 2 is one too many"),
        (("8-7=1", "4-1=3", "8*3=24", "8-7=1"), "follows an answer"),
    ],
)
def test_what_refers_to_nothing_is_refused(lines: tuple[str, ...], said: str) -> None:
    stream = Stream(GAME)
    before = told(stream, *lines[:-1])
    with pytest.raises(IllegalStep, match=said):
        stream.apply(before, TextStep(lines[-1]))
    with pytest.raises(IllegalStep):
        stream.key(before, TextStep(lines[-1]))


def test_a_move_that_was_cut_off_is_none() -> None:
    with pytest.raises(IllegalStep, match="cut off"):
        Stream(GAME).apply(told(Stream(GAME), "8-7=1"), TextStep("Back to 0.", finish="length"))


def test_withdrawing_everything_leaves_no_answer() -> None:
    stream = Stream(SUM, checked=True)
    state = told(stream, "i=c-a C10 A3 I7", "e=i+a I7 A3 E9", "Back to 0.")
    assert stream.answer(state) is None and not stream.is_terminal(state)


# -- against a list


@settings(max_examples=200)
@given(st.lists(st.integers(0, 11), max_size=30), st.booleans())
def test_streams_are_those_of_a_plain_list(choices: list[int], named: bool) -> None:
    """The list holds the lines that stand; every line is one that text problems take."""
    stream = Stream(TextProblem("Count."), moves=Moves() if named else LAST, attempts=4)
    state = stream.initial()
    kept: list[str] = []
    attempt = 1
    for number, choice in enumerate(choices):
        if choice < 6:
            text = f"line {number}"
            after = [*kept, text]
        elif choice < 9:
            line = choice - 6
            text = f"Back to {line}." if named else "Back."
            after = kept[:line] if named else kept[:-1]
            if not kept or (named and line >= len(kept)):
                after = None  # type: ignore[assignment]
        elif choice < 11:
            text = "Check: right." if choice == 9 else "Check: wrong."
            after = kept if kept else None  # type: ignore[assignment]
        else:
            text = "Try again."
            after = [] if attempt < 4 else None  # type: ignore[assignment]
        if after is None:
            with pytest.raises(IllegalStep):
                stream.apply(state, TextStep(text))
            continue
        attempt += text == "Try again."
        state = stream.apply(state, TextStep(text))
        kept = after
        assert stands(stream, state) == kept
        assert stream.read(tuple(state)) == stream.read(state), "of a plain tuple"


# -- as a problem


def test_it_is_a_problem_that_files_and_traces_can_hold() -> None:
    stream = Stream(GAME, moves=Moves(back="Back.", again=None), checked=True)
    check_problem(stream, [TextStep(text) for text in ("8-7=1", "Back.", "8/8=1")])
    arguments = json.loads(json.dumps(stream.to_json()))
    again = build(kind_of(stream), arguments)
    assert again == stream
    state = told(stream, "8-7=1", "Back.")
    assert pickle.loads(pickle.dumps(state)) == state
    assert state == (TextStep("8-7=1"), TextStep("Back."))


def test_statement_and_kind_are_those_of_the_problem() -> None:
    stream = Stream("Use 4, 7, 8 and 8 to make 24.")
    assert stream.problem == GAME
    assert stream.prompt(stream.initial()) == GAME.prompt(())
    assert stream.statement_kind == kind_of(GAME)
    assert Stream(SUM).verify(told(Stream(SUM), "i=c-a C10 A3 I7")) is None


def test_a_search_solves_a_stream() -> None:
    """A policy that first errs, goes back and then is right."""
    lines = ["8+8=16", "Check: wrong.", "Back to 0.", "8-7=1", "4-1=3", "8*3=24"]

    def policy(problem: Any, state: Any) -> list[TextStep]:
        return [TextStep(lines[len(state)])] if len(state) < len(lines) else []

    guide = search.Guide(policy)
    found = search.solve(Stream(GAME), guide=guide, method="sample", chains=1)
    shown = str(found).splitlines()
    assert shown[:4] == ["~~8+8=16~~", "Check: wrong.", "Back to 0.", "8-7=1"]
    assert "<pre><s>8+8=16</s>\nCheck: wrong." in found._repr_html_()
    assert found.text.splitlines()[0] == "8+8=16"
    assert found.verified and found.answer == GAME.answer(told(Stream(GAME), *lines[3:]))
    trace = found.trace
    assert trace is not None and trace.problem() == Stream(GAME)
    assert len(trace.states()) == len(lines) + 1


def test_open_text_ends_where_its_model_was_asked_to_mark_the_answer() -> None:
    stream = Stream(TextProblem("What is 6 * 7?")).asked(r"<r>(.*?)</r>", None)
    state = told(stream, "six sevens", "Back to 0.", "<r>42</r>")
    assert stream.is_terminal(state) and stream.answer(state) == "42"
    assert stream.open_answers and not Stream(GAME).open_answers


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"problem": Hex(3)}, "has no stream"),
        ({"problem": Stream(GAME)}, "has no stream"),
        ({"attempts": 0}, "attempts=0"),
        ({"attempts": 2, "moves": Moves(again=None)}, "need the move `again`"),
        ({"checked": True, "moves": {"check": None}}, "needs the move `check`"),
    ],
)
def test_impossible_streams_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Stream(**{"problem": GAME, **arguments})


@pytest.mark.parametrize(
    "fields",
    [{"check": "Check."}, {"back": "Try again."}, {"right": "wrong"}, {"again": "Try\nagain."}],
)
def test_moves_that_cannot_be_told_apart_are_refused(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"verdict|written alike"):
        Moves(**fields)
