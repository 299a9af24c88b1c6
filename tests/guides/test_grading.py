"""Grading: which answers are the target, and which nodes get an outcome."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trace_cases import make

from guides.data.grading import checked, checker_of, grade, key_of, read_targets, same
from search.problem import TextProblem, TextStep
from search.problems import parse


@pytest.mark.parametrize(
    ("answer", "target"),
    [
        ("5", "5"), (" 5 ", "5"), ("5.0", "5"), ("05", "5"), ("+5", "5"), ("1/2", "0.5"),
        ("2/4", "1/2"), ("-3", "-3.00"), (".5", "0.5"),
        ("1,200", "1200"), ("1,234,567.5", "2469135/2"), ("x + 1", " x + 1"), ("5.", "5"),
        ("0.1", "1/10"), ("-0", "0"),
        ("5e0", "5"), ("$5", "5"), ("٥", "5"),
        ("9" * 300, "9" * 300 + ".0"),
    ],
)  # fmt: skip
def test_the_same(answer: str, target: str) -> None:
    assert same(answer, target) and same(target, answer)


@pytest.mark.parametrize(
    ("answer", "target"),
    [
        (None, "5"), ("", "5"), ("5", "6"), ("0.3333", "1/3"), ("2+3", "5"), ("1/0", "1/0.0"),
        ("1/0", "5"), ("12,00", "1200"), (".", "0"),
        ("5e", "5"), ("__import__('os')", "5"), ("1/2/2", "1/4"), ("x", "X"),
        ("- 5", "-5"), ("", "0"),
        ("9" * 5000, "9" * 4999 + "8"),
    ],
)  # fmt: skip
def test_not_the_same(answer: str | None, target: str) -> None:
    assert not same(answer, target)


@given(st.fractions(max_denominator=10**6), st.integers(1, 50))
def test_a_number_is_the_same_however_it_is_written(number: Fraction, by: int) -> None:
    assert same(f"{number.numerator * by}/{number.denominator * by}", str(number))
    assert not same(str(number + Fraction(1, 10**9)), str(number))
    assert same(f"{number.numerator:,}", str(number.numerator))


def test_a_problem_and_its_traces_have_one_key() -> None:
    trace = make([0], [1], [True])
    assert (
        key_of(trace) == key_of(TextProblem("?")) == 'search.problem:TextProblem {"statement": "?"}'
    )
    puzzle = parse("Use 4, 7, 8 and 8 to make 24.")
    stored = replace(
        trace,
        kind="search.problems.countdown:Countdown",
        arguments=json.loads(json.dumps({"target": 24, "numbers": [4, 7, 8, 8]})),
    )
    assert key_of(stored) == key_of(puzzle)


def write(folder: Path, *lines: str) -> Path:
    (folder / "p.jsonl").write_text("\n".join(lines))
    return folder / "p.jsonl"


def test_targets_are_read_by_problem(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '\ufeff{"problem": "a", "target": "x", "id": "one"}', "", '{"problem": "b", "target": 0.5}',
        '{"problem": "Use 1 and 2 to make 3."}',
        '{"problem": {"numbers": [1, 2], "target": 3}, "kind": "countdown", "target": 7, "id": 9}',
        '{"problem": "a", "target": "x ", "id": "again"}',
    )  # fmt: skip
    assert read_targets(path) == {
        key_of(TextProblem("a")): "x", key_of(TextProblem("b")): "0.5",
        'search.problems.countdown:Countdown {"numbers": [1, 2], "target": 3}': "7"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('{"problem": "b", "target": true}', "line 2: the target is true"),
        ('{"problem": "b", "target": ["4"]}', "line 2: the target is"),
        ('{"problem": "b", "target": ""}', "line 2: the target is"),
        ('{"problem": "a", "target": "y"}', "line 2: this problem has the target 'x'"),
        ("{", "line 2: this is not JSON"),
        ('{"problem": "b", "target": NaN}',
        "line 2: the target is NaN: write it as text or as a finite number"),
        ('{"problem": "b", "target": -Infinity}', "line 2: the target is -Infinity"),
        ('{"problem": "b", "target": "\\ud83d"}', "line 2: the target is"),
        ('{"problem": "b\\udc00", "target": "1"}',
        r"line 2: it holds half a character \('.udc00'\)"),
    ],
)  # fmt: skip
def test_targets_that_nobody_can_use_are_refused_by_line(
    tmp_path: Path, line: str, word: str
) -> None:
    with pytest.raises(ValueError, match=word):
        read_targets(write(tmp_path, '{"problem": "a", "target": "x"}', line))


def test_two_targets_that_may_be_the_same_are_said_to_be_undecided(tmp_path: Path) -> None:
    def pair(one: str, other: str) -> Path:
        return write(
            tmp_path, *(json.dumps({"problem": "a", "target": target}) for target in (one, other))
        )

    with pytest.raises(
        ValueError,
        match="line 2: .* whether '4, 3' is the same cannot be decided: write both alike",
    ):
        read_targets(pair("3, 4", "4, 3"))
    with pytest.raises(
        ValueError, match="line 2: .* target '3, 4' in another line: keep the right one"
    ):
        read_targets(pair("3, 4", "3, 5"))
    assert list(read_targets(pair("3/4", "0.75")).values()) == ["3/4"]


def told(*texts: str) -> tuple[TextStep, ...]:
    return tuple(TextStep(text, (1,), "end") for text in texts)


def test_outcomes_of_open_text() -> None:
    """Right, wrong, undecided and no answer; what is not finished, and the way there, has none."""
    trace = replace(
        make([0, 0, 0, 0], [1] * 4, [True, True, True, False]),
        steps=told("It is \\boxed{0.50}", "It is \\boxed{2}", "Hm.", "So"),
    )
    np.testing.assert_array_equal(grade(trace, "1/2"), [math.nan, 1, 0, 0, math.nan])
    assert np.isnan(grade(trace, None)).all(), "nobody can tell"
    np.testing.assert_array_equal(
        grade(trace, "x or so"), [math.nan, math.nan, math.nan, 0, math.nan]
    )
    np.testing.assert_array_equal(grade(trace, "Hm", answer=r"(Hm)"), [math.nan, 0, 0, 1, math.nan])


def test_a_problem_that_verifies_itself_is_believed() -> None:
    trace = make([0, 0, 0], [1] * 3, [True, True, False])
    trace = replace(trace, node_reward=np.array([math.nan, 0.0, 0.75, math.nan]))
    for target in (None, "1"):
        np.testing.assert_array_equal(grade(trace, target), [math.nan, 0, 0.75, math.nan])


def test_a_chain_is_replayed_to_its_answer() -> None:
    """The answer stands in the whole chain, not in the last step."""
    trace = replace(
        make([0, 1], [1, 1], [False, True]),
        steps=(TextStep("The answer is 4", (1,)), TextStep("Done.", (2,), "end")),
    )
    np.testing.assert_array_equal(grade(trace, "4"), [math.nan, math.nan, 1])


def test_a_checker_labels_every_state_and_lucky_answers_are_wrong() -> None:
    trace = make([0, 1, 0], [1, 1, 1], [False, True, True])  # steps "1" then "2", and "3"
    said = checked(
        trace, lambda problem, state: None if not state else float(state[-1].text != "3")
    )
    np.testing.assert_array_equal(said, [math.nan, 1.0, 1.0, 0.0])
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        checked(trace, lambda problem, state: 2.0)
    assert checker_of(None) is None and checker_of("math:sin") is math.sin
    for path in ("math:nothing", "nothing.here:f", "math:pi", "math"):
        with pytest.raises(ValueError, match="checker"):
            checker_of(path)
