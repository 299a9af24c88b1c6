"""Word problems: the stories and their answers, the lines, the training data, GSM8K's file, and
that no search is told what is right.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from story_cases import PROBLEM, by_equations, state

from benchmarks.tasks import state_right, steps_right, target_of
from guides.builtin import words_data, words_key
from guides.builtin.words_key import mistakes, target
from guides.data.grading import same
from search.kinds import build
from search.problem import IllegalStep, TextProblem, TextStep, check_problem
from search.problems import parse, words, words_story
from search.problems.words import Words, generate, plain_number, split_of
from search.problems.words_story import Definition, Line, Story, read_line, read_story, tell

SOLUTION = (
    "Note Cal's is twice Ben's.",
    "Note Ben's is 3 more than Ann's.",
    "Now Ben's is 3 more than Ann's; Ann has 5, so Ben has 8.",
    "Now Cal's is twice Ben's; Ben has 8, so Cal has 16.",
    "#### 16",
)


sizes = st.tuples(
    st.integers(0, 10**6),
    st.integers(1, 8),
    st.integers(0, 4),
    st.sampled_from([30, 99, 999]),
    st.booleans(),
)


@pytest.mark.thorough
@settings(max_examples=40, deadline=None)
@given(sizes)
def test_generated_stories_are_what_was_asked_for(size: tuple[int, int, int, int, bool]) -> None:
    seed, operations, distractors, limit, shuffle = size
    (problem,) = generate(seed, 1, operations, distractors, limit, shuffle)
    (again,) = generate(seed, 1, operations, distractors, limit, shuffle)
    story = problem.story
    assert problem == again and story is not None
    assert len(story.needed()) == operations and len(story.defined) == operations + distractors
    assert all(0 <= value <= limit for value in words_key.true_counts(story).values())
    assert target(problem) == str(by_equations(problem.statement)) == target_of(problem)
    assert (
        parse(problem.prompt(()))
        == problem
        == build("search.problems.words:Words", problem.to_json())
    )
    if not shuffle:
        met = set(story.given)
        for name, definition in story.defined.items():
            assert set(definition.operands) <= met
            met.add(name)
    lines = words_data.solution(story)
    check_problem(problem, [TextStep(line) for line in lines])
    end = state(*lines)
    assert (
        problem.is_terminal(end)
        and not any(mistakes(problem, end) or [True])
        and problem.answer(end) == target(problem)
    )
    assert not any(problem.is_terminal(end[:n]) for n in range(len(end)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.data())
def test_the_split_sees_through_names_wording_order_and_distractors(seed: int, data: Any) -> None:
    (problem,) = generate(seed, 1, 4, 2)
    story = problem.story
    assert story is not None
    new = dict(zip(words_story.NAMES, data.draw(st.permutations(words_story.NAMES)), strict=True))
    renamed = Story(
        {new[name]: value for name, value in story.given.items()},
        {
            new[n]: Definition(d.kind, d.amount, tuple(new[o] for o in d.operands))
            for n, d in story.defined.items()
        },
        new[story.query],
    )
    told = Words(tell(renamed, random.Random(data.draw(st.integers(0, 100)))))
    assert (
        told.canonical() == problem.canonical()
        and told.split() == problem.split() == split_of(story.canonical())
        and told.statement != problem.statement
    )
    needed = set(story.needed())
    fewer = Story(story.given, {n: d for n, d in story.defined.items() if n in needed}, story.query)
    assert fewer.canonical() == problem.canonical()
    used = next(o for n in needed for o in story.defined[n].operands if o in story.given)
    try:
        changed = Story({**story.given, used: story.given[used] + 2}, story.defined, story.query)
    except ValueError:  # a count left the range, or is no whole number now
        return
    assert changed.canonical() != problem.canonical()


def test_the_form_keeps_all_that_is_computed() -> None:
    """Kind, amount, operands and their order, the given counts and the question; else problems
    that differ would count as one.
    """
    given, more = {"Ann": 5, "Ben": 8}, Definition("more", 3, ("Ann",))
    last = Definition("difference", 0, ("Ben", "Cal"))
    stories = [
        Story(given, {"Cal": more, "Dan": last}, "Dan"),
        Story(given, {"Cal": more, "Dan": last}, "Cal"),
        Story(given, {"Cal": more._replace(amount=2), "Dan": last}, "Dan"),
        Story(given, {"Cal": more._replace(kind="fewer"), "Dan": last}, "Dan"),
        Story(given, {"Cal": more, "Dan": last._replace(kind="sum")}, "Dan"),
        Story(given, {"Cal": more, "Dan": last._replace(operands=("Cal", "Ben"))}, "Dan"),
        Story(given, {"Cal": more, "Dan": last._replace(operands=("Cal", "Ann"))}, "Dan"),
        Story({**given, "Ben": 9}, {"Cal": more, "Dan": last}, "Dan"),
    ]
    assert len({story.canonical() for story in stories}) == len(stories)


@pytest.mark.thorough
def test_splits_do_not_meet_and_have_their_shares() -> None:
    counts = dict.fromkeys(("train", "validation", "test"), 0)
    for problem in generate(5, 2000, 3, 1):
        counts[problem.split()] += 1
    assert abs(counts["train"] / 2000 - 0.9) < 0.03 and min(counts.values()) > 50
    assert {p.split() for p in generate(6, 50, 3, 1, split="validation")} == {"validation"}


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        (SOLUTION, [False] * 5),
        # not needed is not wrong
        (("Note Cal's is twice Ben's.", "Note Eve's is half of Cal's."), [False, False]),
        (("Note Cal's is 3 times Ben's.",), [True]),
        (("Note Ben's is 3 fewer than Ann's.",), [True]),
        (("Note Ben's is 4 more than Ann's.",), [True]),
        (("Note Ben's is 3 more than Cal's.",), [True]),
        (("Note Zoe's is 3 more than Ann's.",), [True]),
        (("Note Ann's is 3 more than Ben's.",), [True]),
        (("Now Ben's is 3 more than Ann's; Ann has 5, so Ben has 9.",), [True]),
        # consistent, but Ann has 5
        (("Now Ben's is 3 more than Ann's; Ann has 6, so Ben has 9.",), [True]),
        (("Now Ben's is 3 more than Ann's; Cal has 5, so Ben has 8.",), [True]),
        (("Now Ben's is 3 more than Ann's; Ann has 5, so Cal has 8.",), [True]),
        (("Now Ben's is 3 more than Ann's; Ann has 5, Ann has 5, so Ben has 8.",), [True]),
        # right by luck: Ben's was not computed
        (("Now Cal's is twice Ben's; Ben has 8, so Cal has 16.",), [True]),
        (("#### 16",), [True]),  # right by luck, too
        (
            (*SOLUTION[:3], "Now Cal's is twice Ben's; Ben has 8, so Cal has 18.", "#### 18"),
            [False, False, False, True, True],
        ),
        ((*SOLUTION[:4], "#### 8"), [False, False, False, False, True]),
        # nothing that the examiner can read
        (("Ben has 8, since 5 + 3 = 8.", "So it is 16."), [True, True]),
    ],
)
def test_mistakes_are_found_line_by_line(lines: tuple[str, ...], wrong: list[bool]) -> None:
    assert mistakes(PROBLEM, state(*lines)) == wrong
    assert steps_right(PROBLEM, state(*lines)) is not any(wrong)
    assert state_right(PROBLEM, state(*lines)) == float(not any(wrong))


def test_only_stories_can_be_judged() -> None:
    other = Words("Janet's ducks lay 16 eggs a day. She eats 3. How many are left?")
    assert (
        other.story is None and target(other) is None and mistakes(other, state("#### 13")) is None
    )
    assert (
        steps_right(other, state("#### 13")) is None
        and state_right(other, state("#### 13")) is None
    )
    assert other.canonical() == other.statement and other.answer(state("#### 13")) == "13"


@pytest.mark.parametrize(
    "line", ["Note Ben's is 9 more than Zoe's.", "So what?", "#### 12", "####", "  2 + 2 = 5 "]
)
def test_any_line_is_legal_but_below_stories(line: str) -> None:
    other = Words("Janet's ducks lay 16 eggs a day. She eats 3. How many are left?")
    assert len(other.apply((), TextStep(line))) == 1
    assert other.verify(state(line)) is None


def test_below_a_story_false_lines_are_legal_and_other_words_are_not() -> None:
    for line in (
        "Note Ben's is 9 more than Zoe's.",
        "Now Ben's is 9 more than Zoe's; Zoe has 1, so Ben has 7.",
        "#### 12",
    ):
        assert len(PROBLEM.apply((), TextStep(line))) == 1
    for line in ("So what?", "####", "#### #### 8", "Note Ben's is 9 more than Zoe's. So?"):
        with pytest.raises(IllegalStep, match="no line of a story"):
            PROBLEM.apply((), TextStep(line))


def test_no_line_stands_twice() -> None:
    with pytest.raises(IllegalStep, match="already"):
        PROBLEM.apply(
            state("Note Ben's is 9 more than Zoe's."), TextStep(" Note Ben's is 9 more than Zoe's.")
        )


def test_empty_lines_and_lines_cut_off_are_not() -> None:
    for step in (TextStep(""), TextStep("  "), TextStep("Note Ben's", (), "length")):
        with pytest.raises(IllegalStep):
            PROBLEM.apply((), step)
        with pytest.raises(IllegalStep):
            PROBLEM.key((), step)
    assert (
        PROBLEM.is_terminal((TextStep("I give up.", (), "end"),))
        and PROBLEM.answer(state("I give up.")) is None
    )
    with pytest.raises(ValueError, match="empty"):
        Words("  ")


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("#### 18", "18"),
        ("####18", "18"),
        (" #### 1,200 ", "1200"),
        ("#### $5", "5"),
        ("#### -07.50", "-7.5"),
        ("#### -0", "0"),
        ("#### 1,20", None),
        ("#### eighteen", None),
        ("so #### 18", None),
        ("#### 18 apples", None),
        ("####", None),
    ],
)
def test_the_answer_is_the_number_of_the_last_line(line: str, answer: str | None) -> None:
    assert PROBLEM.answer(state("Note", line)) == answer
    assert PROBLEM.answer(state("#### 3", "Note")) is None and PROBLEM.answer(()) is None
    assert PROBLEM.is_terminal(state(line)) is (answer is not None)


@settings(max_examples=100, deadline=None)
@given(
    st.decimals(
        allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9
    )
)
def test_a_number_has_one_spelling(number: Any) -> None:
    from decimal import Decimal

    spellings = {
        plain_number(f"{number:f}"),
        plain_number(f"{number:,f}"),
        plain_number(f"{number:.6f}"),
    }
    assert len(spellings) == 1 and Decimal(*spellings) == number and same(*spellings, f"{number:f}")


names = st.sampled_from(words_story.NAMES)


definitions = st.one_of(
    st.builds(
        lambda kind, n, a: Definition(kind, n, (a,)),
        st.sampled_from(["more", "fewer", "times"]),
        st.integers(2, 999),
        names,
    ),
    st.builds(lambda a: Definition("half", 0, (a,)), names),
    st.builds(
        lambda kind, a, b: Definition(kind, 0, (a, b)),
        st.sampled_from(["sum", "difference"]),
        names,
        names,
    ),
)


counts = st.tuples(names, st.integers(0, 999))


@settings(max_examples=200, deadline=None)
@given(
    names, definitions, st.one_of(st.just(()), st.lists(counts, min_size=2, max_size=3).map(tuple))
)
def test_a_line_is_read_as_it_was_written(
    name: str, definition: Definition, values: tuple[tuple[str, int], ...]
) -> None:
    line = Line(name, definition, (*values[:-1], (values[-1][0], values[-1][1])) if values else ())
    assert read_line(str(line)) == line
    assert (
        read_line(str(line)[:-1]) is None
        and read_line(f"{line} So.") is None
        and read_line(f"Well, {line}") is None
    )


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.booleans())
def test_a_story_is_read_as_it_was_told(seed: int, voice: int, shuffle: bool) -> None:
    (problem,) = generate(seed, 1, 4, 2)
    assert problem.story is not None
    told = read_story(tell(problem.story, random.Random(voice), shuffle))
    assert told is not None and told == problem.story


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Some friends", "Two friends"),
        ("apples in bags", "apples in jars"),  # and then it speaks of bags
        ("5 apples", "5 pears"),
        ("Ann has 5 apples. ", ""),
        ("Ann has 5 apples.", "Ann has 5 apples. Ann has 6."),
        ("Ann has 5 apples.", "Ann has 5 apples. It rains."),
        ("Ann has 5 apples.", "Ann's bag holds half as many as Eve's."),  # a circle
        ("3 more", "996 more"),
        ("3 more", "three more"),
        ("Ann has 5", "Ann has 05"),
        ("half as many as Cal's", "half as many as Ann's"),  # of 5
        ("3 more", "6 fewer"),
        ("does Cal's bag hold?", "does Ann's bag hold?"),  # which the statement gives
        ("does Cal's bag hold?", "does Zoe's bag hold?"),
        ("does Cal's bag hold?", "does Cal's bag hold"),
        ("Ann has 5 apples.", "Bob has 5 apples."),
    ],
)
def test_what_is_not_quite_a_story_is_open_text(old: str, new: str) -> None:
    assert old in PROBLEM.statement and isinstance(parse(f" {PROBLEM.statement}\n"), Words)
    changed = parse(PROBLEM.statement.replace(old, new))
    assert isinstance(changed, TextProblem) and changed.prompt(()) != PROBLEM.statement


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_any_text_can_be_asked(text: str) -> None:
    assert (
        words.parse(text) is None
        and words.parse(f"Some friends keep their apples in bags. {text}") is None
        and read_line(text) is None
    )
