"""Word problems: the stories and their answers, the lines, the training data, GSM8K's file, and
that no search is told what is right.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import generated, scripted_guide
from hypothesis import given, settings
from hypothesis import strategies as st

import search
from benchmarks.answers import gsm8k
from benchmarks.tasks import STORIES, TASKS, identity, state_right, steps_right, target_of, training
from guides.builtin import words_data, words_key
from guides.builtin.words_key import mistakes, target
from guides.data.grading import key_of, read_targets, same
from search.files.problems_file import read_jobs
from search.problem import IllegalStep, TextProblem, TextStep, build, check_problem
from search.problems import parse, words, words_story
from search.problems.words import Words, draw, generate, plain_number, split_of
from search.problems.words_story import Definition, Line, Story, read_line, read_story, tell
from search.scheduling.requests import Scored

ROOT = Path(__file__).resolve().parent.parent.parent
GSM8K = Path(os.environ.get("COPSE_DATA") or ROOT.parent / "shared" / "data") / "gsm8k_test.jsonl"
PROBLEM = Words(
    "Some friends keep their apples in bags. Ben's bag holds 3 more than Ann's. Ann has 5 "
    "apples. In Cal's bag there are twice as many as "
    "in Ben's. Eve's bag holds half as many as Cal's. How many apples does Cal's bag hold?"
)
SOLUTION = (
    "Note Cal's is twice Ben's.",
    "Note Ben's is 3 more than Ann's.",
    "Now Ben's is 3 more than Ann's; Ann has 5, so Ben has 8.",
    "Now Cal's is twice Ben's; Ben has 8, so Cal has 16.",
    "#### 16",
)


def state(*lines: str) -> tuple[TextStep, ...]:
    return tuple(TextStep(line) for line in lines)


def by_equations(statement: str) -> int:
    """The answer by keywords and linear equations: neither the wordings nor the rules of the
    module are asked.
    """
    import sympy

    _, *told, question = statement.split(". ")
    equations = []
    for sentence in told:
        owners = [sympy.Symbol(name) for name in re.findall(r"([A-Z][a-z]+)'s", sentence)]
        number = int((re.findall(r"[0-9]+", sentence) or [0])[0])
        if not owners:
            equations.append(sympy.Eq(sympy.Symbol(sentence.split()[0]), number))
            continue
        made, first, *second = owners
        if "together" in sentence:
            right = first + second[0]
        elif "difference" in sentence or "beyond" in sentence:
            right = first - second[0]
        elif "half" in sentence:
            right = first / 2
        elif "twice" in sentence or "times" in sentence:
            right = first * (number or 2)
        else:
            right = (
                first - number
                if "fewer" in sentence or "given away" in sentence
                else first + number
            )
        equations.append(sympy.Eq(made, right))
    (solved,) = sympy.linsolve(
        equations, unknowns := sorted(set().union(*(e.free_symbols for e in equations)), key=str)
    )
    return int(solved[unknowns.index(sympy.Symbol(re.findall(r"([A-Z][a-z]+)'s", question)[0]))])


sizes = st.tuples(
    st.integers(0, 10**6),
    st.integers(1, 8),
    st.integers(0, 4),
    st.sampled_from([30, 99, 999]),
    st.booleans(),
)


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


# telling and reading


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


# the training data


@pytest.mark.parametrize("ends", [0.0, 1.0])
def test_training_labels_are_what_the_checker_says(ends: float) -> None:
    examples = list(words_data.examples(3, 0, 150, 0.9, ends=ends))
    assert (
        examples
        == list(words_data.examples(3, 0, 150, 0.9, ends=ends))
        != list(words_data.examples(3, 1, 150, 0.9, ends=ends))
    )
    longest, labels = 0, {0.0: 0, 1.0: 0}
    for segments in examples:
        problem = parse(segments[0][0])
        assert (
            isinstance(problem, Words) and problem.split() == "train" and problem.story is not None
        )
        assert segments[0][1:] == (0.0, 1.0, -1) and target(problem) == str(
            by_equations(problem.statement)
        )
        for i, (_, weight, value, _) in enumerate(segments[1:], 1):
            lines: list[str] = []
            while i > 0:
                lines.insert(0, segments[i][0].removesuffix("\n"))
                i = segments[i][3]
            assert (
                (not any(mistakes(problem, state(*lines)) or []))
                == (value == 1.0)
                >= (weight == 1.0)
            )
            labels[value] += 1
        right = [text.removesuffix("\n") for text, weight, *_ in segments if weight]
        assert right == words_data.solution(problem.story)
        longest = max(longest, len(problem.story.needed()))
    assert longest == max(words_data.OPERATIONS) and min(labels.values()) > 500
    easy = [parse(segments[0][0]) for segments in words_data.examples(3, 0, 100, 0.0)]
    assert (
        max(len(p.story.needed()) for p in easy if isinstance(p, Words) and p.story)
        == words_data.EASY
    )


def test_wrong_branches_go_on_to_answers() -> None:
    """Most end in an answer, some before all is counted; some give even the right one, below a
    mistake.
    """
    ended = early = lucky = branches = 0
    for segments in words_data.examples(3, 0, 200, 0.9, {"3": 1.0}, ends=1.0):
        right = len(words_data.solution(Words(segments[0][0]).story))  # type: ignore[arg-type]
        parents = {parent for *_, parent in segments}
        for i in range(right + 1, len(segments)):
            text, _, value, parent = segments[i]
            assert value == 0.0
            branches += parent <= right
            ended += i not in parents and text.startswith("####")
            early += parent < right - 1 and text.startswith("####")
            lucky += text == segments[right][0]
        assert all(not segments[i][0].startswith("####") for i in parents if i > 0), (
            "nothing stands behind an answer"
        )
    assert branches == 800 and 600 < ended <= 800 and 40 < early < 160 and lucky > 10


def test_training_problems_are_of_the_sizes_that_were_asked_for() -> None:
    made = [
        Words(segments[0][0])
        for segments in words_data.examples(3, 0, 100, 0.9, {"2": 0.5, "7": 0.5})
    ]
    found = [len(p.story.needed()) for p in made if p.story]
    assert len(found) == 100 and set(found) == {2, 7} and 20 < found.count(7) < 80


def test_sizes_that_are_not_made_are_refused() -> None:
    for arguments in ((9, 2, 99), (0, 2, 99), (3, 5, 99), (3, 2, 19), (3, 2, 1000)):
        with pytest.raises(ValueError, match="give 1 to 8, 0 to 4, and 20 to 999"):
            next(generate(0, 1, *arguments))
    assert any(draw(random.Random(seed), 3, 0, 20) is None for seed in range(50)), "a draw may fail"


# nothing tells a search


def test_no_search_changes_when_the_hidden_checker_is_flipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problems = list(generate(1, 3, 2, 1))
    lines = [line for p in problems if p.story for line in words_data.solution(p.story)] + [
        "Note Ben's is 3 more than Ann's.",
        "nonsense",
        "#### 7",
    ]

    def player(request: Any) -> Any:
        prompt = request.prompt if isinstance(request, search.Generate) else request.tokens
        rng = random.Random(f"{prompt}|{getattr(request, 'seed', 0)}")
        if isinstance(request, search.Generate):
            return generated(
                rng.choice(lines),
                value=rng.random(),
                log_prob=-rng.random(),
                limit=request.max_tokens,
            )
        n = len(request.positions)
        reads = np.zeros((n, len(request.read)), np.float32)
        return Scored(
            np.zeros(len(request.tokens), np.float32), reads, np.full(n, rng.random(), np.float32)
        )

    guide = scripted_guide(player, step_tokens=80, max_steps=12)

    def searched() -> list[Any]:
        found = []
        for method in ("sample", "beam", "mcts"):
            for solution in search.solve_many(
                problems, guide, method, "tokens=400", seed=3, progress=False
            ):
                assert (
                    solution.error is None
                    and solution.verified is None
                    and solution.trace is not None
                )
                trace = solution.trace
                found.append(
                    (
                        solution.answer,
                        solution.text,
                        solution.candidates,
                        trace.edge_visits.tolist(),
                        trace.edge_sum.tolist(),
                    )
                )
        return found

    before, keys = searched(), [target(problem) for problem in problems]
    assert any(answer is not None for answer, *_ in before)
    truth = words_key.mistakes
    monkeypatch.setattr(
        words_key,
        "mistakes",
        lambda problem, steps: [not wrong for wrong in truth(problem, steps) or []],
    )
    real = words_key.true_counts
    monkeypatch.setattr(
        words_key,
        "true_counts",
        lambda story: {name: count + 1 for name, count in real(story).items()},
    )
    problems = list(generate(1, 3, 2, 1))
    assert [target(problem) for problem in problems] == [str(int(key or 0) + 1) for key in keys]
    assert searched() == before
    monkeypatch.setattr(
        Words, "story", property(lambda self: pytest.fail("a search read the story"))
    )
    problems = [Words(problem.statement) for problem in problems]
    assert searched() == before


# tasks and files


def test_the_tasks_are_of_their_split_and_have_answers() -> None:
    for name, split, count in (("words", "test", 300), ("words-validation", "validation", 210)):
        problems = TASKS[name]()
        assert len({identity(problem) for problem in problems}) == len(problems) == count
        found = []
        for problem in problems:
            assert (
                isinstance(problem, Words)
                and problem.split() == split
                and problem.story is not None
            )
            found.append(len(problem.story.needed()))
            steps = state(*words_data.solution(problem.story))
            assert (
                problem.answer(steps) == target_of(problem) and steps_right(problem, steps) is True
            )
        assert {size: found.count(size) for size in STORIES} == dict.fromkeys(
            STORIES, count // len(STORIES)
        )


def test_files_for_training_hold_stories_if_asked() -> None:
    made = list(islice(training(3, "validation", 1, 2), 240))
    stories = [problem for problem in made if isinstance(problem, Words)]
    assert (
        len(stories) == 120
        and {p.split() for p in stories} == {"validation"}
        and len({identity(p) for p in stories}) == 120
    )
    assert {len(p.story.needed()) for p in stories if p.story} == set(STORIES)
    assert not any(isinstance(problem, Words) for problem in islice(training(3), 60))


ROW = {"question": "How much is 2 and 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"}


def written(path: Path, *rows: Any) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    )
    return path


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("#### 5", "5"),
        ("#### 70,000", "70000"),
        ("#### -3", "-3"),
        ("#### $1,450,000 ", "1450000"),
        ("####2.50", "2.5"),
    ],
)
def test_targets_of_gsm8k_are_numbers(tmp_path: Path, end: str, expected: str) -> None:
    row = {"question": PROBLEM.statement, "answer": f"#### 7 is not the end\n{end}"}
    (first, target), (second, other) = gsm8k.load(written(tmp_path / "a.jsonl", ROW, "", row))
    assert isinstance(first, TextProblem) and first.statement == ROW["question"] and target == "5"
    assert second == PROBLEM and other == expected


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "question and answer"),
        ("[1]", "question and answer"),
        ({"question": "How?"}, "question and answer"),
        ({"question": "", "answer": "#### 5"}, "question and answer"),
        ({"question": "How?", "answer": 5}, "question and answer"),
        ({"question": "How?", "answer": "5"}, "its last line must be"),
        ({"question": "How?", "answer": "#### five"}, "its last line must be"),
        ({"question": "How?", "answer": "#### 1,00"}, "its last line must be"),
        ({"question": "How?", "answer": "#### 5\nreally"}, "its last line must be"),
    ],
)
def test_malformed_lines_of_gsm8k_are_named(tmp_path: Path, row: Any, said: str) -> None:
    file = written(tmp_path / "a.jsonl", ROW, row)
    with pytest.raises(ValueError, match=rf"a\.jsonl, line 2: .*{said}"):
        gsm8k.load(file)


def test_files_without_problems_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no problem"):
        gsm8k.load(written(tmp_path / "a.jsonl", ""))
    with pytest.raises(ValueError, match="cannot read"):
        gsm8k.load(tmp_path / "none.jsonl")
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="cannot read"):
        gsm8k.load(tmp_path / "b.jsonl")


def converted(source: Path, out: Path) -> Path:
    with out.open("w") as file:
        subprocess.run(
            [sys.executable, "-m", "benchmarks.answers.gsm8k", str(source)],
            stdout=file,
            check=True,
            cwd=ROOT,
        )
    return out


def test_gsm8k_becomes_a_file_of_problems_and_targets(tmp_path: Path) -> None:
    file = converted(
        written(tmp_path / "a.jsonl", ROW, {"question": PROBLEM.statement, "answer": "#### 16"}),
        tmp_path / "b.jsonl",
    )
    first, second = read_jobs(file)
    assert first.problem.prompt(()) == ROW["question"] and second.problem == PROBLEM
    assert read_targets(file) == {key_of(first.problem): "5", key_of(PROBLEM): "16"}
    bad = subprocess.run(
        [sys.executable, "-m", "benchmarks.answers.gsm8k", str(tmp_path / "c.jsonl")],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert bad.returncode == 2 and "cannot read" in bad.stderr and "Traceback" not in bad.stderr


@pytest.mark.skipif(
    not GSM8K.exists(), reason="GSM8K's file is not there: name its folder in COPSE_DATA"
)
def test_the_test_split_of_gsm8k_is_read(tmp_path: Path) -> None:
    rows = gsm8k.load(GSM8K)
    assert len(rows) == 1319 and all(isinstance(problem, TextProblem) for problem, _ in rows)
    assert [target for _, target in rows[:3]] == ["18", "3", "70000"]
    assert all(re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", target) for _, target in rows)
    raw = [
        json.loads(line)["answer"].rpartition("####")[2] for line in GSM8K.read_text().splitlines()
    ]
    assert [float(target) for _, target in rows] == [float(text.replace(",", "")) for text in raw]
    file = converted(GSM8K, tmp_path / "gsm8k.jsonl")
    targets = read_targets(file)
    assert len(read_jobs(file)) == 1319 and all(
        targets[key_of(problem)] == target for problem, target in rows
    )
