"""Chains: the rules, the answer key, and that no search is told whether a line is right."""

from __future__ import annotations

import operator
import random
from typing import Any

import numpy as np
import pytest
from fakes import generated, scripted_guide
from hypothesis import given, settings
from hypothesis import strategies as st

import search
from benchmarks.tasks import steps_right, target_of
from guides.builtin import chains_data, chains_key, example_trees
from guides.builtin.chains_key import mistakes, target
from search.kinds import build
from search.problem import IllegalStep, TextStep, check_problem
from search.problems import chains, parse
from search.problems.chains import Chains, generate
from search.scheduling.requests import Scored

PROBLEM = Chains(11, ("i=c-a", "A3", "e=b+a", "B7", "c=a*b"), "i")
SOLUTION = ("i=c-a", "c=a*b", "c=a*b A3 B7 C10", "i=c-a C10 A3 I7")


def state(*lines: str) -> tuple[TextStep, ...]:
    return tuple(TextStep(line) for line in lines)


def scored(request: search.Score, value: float) -> Scored:
    n = len(request.positions)
    reads = np.zeros((n, len(request.read)), np.float32)
    return Scored(np.zeros(len(request.tokens), np.float32), reads, np.full(n, value, np.float32))


def by_integers(problem: Chains) -> int:
    """The value asked for, by substitution in plain integers and one reduction at the end: not
    how the module does it.
    """

    def expand(name: str) -> int:
        (text,) = [text for text in problem.definitions if text[0].lower() == name]
        if text[0].isupper():
            return int(text[1:])
        return {"+": operator.add, "-": operator.sub, "*": operator.mul}[text[3]](
            expand(text[2]), expand(text[4])
        )

    return expand(problem.query) % problem.modulus


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 6),
    st.integers(0, 4),
    st.sampled_from([2, 5, 11, 23, 997]),
    st.booleans(),
)
def test_generated_problems_are_what_was_asked_for(
    seed: int, operations: int, distractors: int, modulus: int, shuffle: bool
) -> None:
    problem = next(generate(seed, 1, operations, distractors, modulus, shuffle))
    assert len(problem.needed()) == operations and len(problem.defined) == operations + distractors
    assert target(problem) == str(by_integers(problem))
    assert (
        parse(problem.prompt(()))
        == problem
        == build("search.problems.chains:Chains", problem.to_json())
    )
    if not shuffle:
        for i, text in enumerate(problem.definitions):
            assert text[0].isupper() or all(
                any(t[0].lower() == n for t in problem.definitions[:i]) for n in (text[2], text[4])
            )
    lines = chains_data.solution(problem)
    check_problem(problem, [TextStep(line) for line in lines])
    end = state(*lines)
    assert (
        problem.is_terminal(end)
        and not any(mistakes(problem, end))
        and problem.answer(end) == str(by_integers(problem))
    )
    assert not any(problem.is_terminal(end[:n]) for n in range(len(end)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.data())
def test_the_split_sees_through_names_order_and_distractors(seed: int, data: Any) -> None:
    problem = next(generate(seed, 1, 4, 2))
    letters = data.draw(st.permutations(chains.LETTERS))
    table = str.maketrans(
        chains.LETTERS + chains.LETTERS.upper(), "".join(letters) + "".join(letters).upper()
    )
    renamed = tuple(
        text.translate(table) for text in data.draw(st.permutations(problem.definitions))
    )
    needed = set(problem.needed())
    unneeded = [text for text in problem.definitions if text[0].islower() and text[0] not in needed]
    other = Chains(problem.modulus, renamed, problem.query.translate(table))
    assert other.canonical() == problem.canonical() and other.split() == problem.split()
    fewer = Chains(
        problem.modulus, tuple(t for t in problem.definitions if t not in unneeded), problem.query
    )
    assert fewer.canonical() == problem.canonical()
    changed = Chains(problem.modulus + 1, problem.definitions, problem.query)
    assert changed.canonical() != problem.canonical()


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
        (SOLUTION, [False] * 4),
        (("i=c-a", "e=b+a"), [False, False]),  # not needed is not wrong
        (("i=c+a",), [True]),
        (("i=a-c",), [True]),
        (("z=c-a",), [True]),
        (("c=a*b A3 B7 C9",), [True]),  # 21 mod 11 is 10
        (("c=a*b A4 B7 C6",), [True]),  # consistent, but a is 3
        (("c=a*b B7 A3 C10",), [True]),  # the operands' values stand in their order
        (("c=a+b A3 B7 C10",), [True]),  # the definition is another
        (("c=a*b A3 B7 I10",), [True]),
        (("i=c-a C10 A3 I7",), [True]),  # right by luck: c was not computed
        (("c=a*b A3 B7 C9", "i=c-a C10 A3 I7"), [True, True]),
    ],
)
def test_mistakes_are_found_line_by_line(lines: tuple[str, ...], wrong: list[bool]) -> None:
    assert mistakes(PROBLEM, state(*lines)) == wrong


@pytest.mark.parametrize(
    "line", ["i=c+a", "z=y*x", "c=a*b A3 B7 C9", "c=a*b Z999 Z0 C9", "  i=c-a  "]
)
def test_a_wrong_line_is_a_legal_step(line: str) -> None:
    assert len(PROBLEM.apply((), TextStep(line))) == 1
    assert PROBLEM.verify(state(line)) is None


@pytest.mark.parametrize(
    "line",
    [
        "",
        "i=c",
        "i=c-a C10",
        "i=c/a",
        "I=c-a",
        "i=c-a C10 A3 I007",
        "i=c-a C10 A3 I7 x",
        "i=c-a C1000 A3 I7",
        "m=a+b",
        "i=c-a\n",
    ],
)
def test_what_the_grammar_cannot_read_is_illegal(line: str) -> None:
    with pytest.raises(IllegalStep):
        PROBLEM.apply((), TextStep(line))
    with pytest.raises(IllegalStep):
        PROBLEM.apply((), TextStep("i=c-a", (), "length"))


def test_the_answer_is_the_last_lines_value_of_the_question() -> None:
    assert PROBLEM.answer(()) is None and PROBLEM.answer(state(*SOLUTION[:3])) is None
    assert PROBLEM.answer(state("i=c-a A1 A1 I5")) == "5"
    assert PROBLEM.answer(state("c=a*b A3 B7 C10")) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mod 11: i=c-a A3 B7 c=a*b; i", "no chain"),
        ("mod 1: c=a*b A0 B0; c?", "modulus"),
        ("mod 11: c=a*b A3; c?", "given or defined"),
        ("mod 11: c=a*b A3 B11; c?", "not below"),
        ("mod 11: c=a*b A3 B7 C2; c?", "twice"),
        ("mod 11: c=a*b A3 B7; a?", "not defined"),
        ("mod 11: c=a*i i=c+a A3; c?", "circle"),
    ],
)
def test_malformed_statements_are_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(text)


@pytest.mark.thorough
@pytest.mark.parametrize("ends", [0.0, 1.0])
def test_training_labels_are_what_the_checker_says(ends: float) -> None:
    examples = list(chains_data.examples(3, 0, 120, 0.9, ends=ends))
    assert (
        examples
        == list(chains_data.examples(3, 0, 120, 0.9, ends=ends))
        != list(chains_data.examples(3, 1, 120, 0.9, ends=ends))
    )
    longest, labels = 0, {0.0: 0, 1.0: 0}
    for segments in examples:
        problem = parse(segments[0][0])
        assert isinstance(problem, Chains) and problem.split() == "train"
        for i, (_, weight, value, _) in enumerate(segments[1:], 1):
            lines: list[str] = []
            while i > 0:
                lines.insert(0, segments[i][0].removesuffix("\n"))
                i = segments[i][3]
            assert (not any(mistakes(problem, state(*lines)))) == (value == 1.0) >= (weight == 1.0)
            labels[value] += 1
        longest = max(longest, len(problem.needed()))
    assert longest == max(chains_data.OPERATIONS) and min(labels.values()) > 400
    easy = [parse(segments[0][0]) for segments in chains_data.examples(3, 0, 100, 0.0)]
    assert max(len(p.needed()) for p in easy if isinstance(p, Chains)) == example_trees.EASY


def test_wrong_branches_go_on_to_answers() -> None:
    """Most end with a value of the variable that is asked for, some at once; none has a line
    behind that.
    """
    ended = early = branches = 0
    for segments in chains_data.examples(3, 0, 200, 0.9, {3: 1.0}, ends=1.0):
        problem = parse(segments[0][0])
        assert isinstance(problem, Chains)
        parents = {parent for *_, parent in segments}
        answers = {
            i
            for i in range(1, len(segments))
            if problem.answer(state(segments[i][0].removesuffix("\n"))) is not None
        }
        assert not answers & parents
        right = 2 * len(problem.needed())
        branches += sum(parent <= right for *_, parent in segments[right + 1 :])
        ended += len([i for i in answers if i > right])
        early += len(
            [
                i
                for i in answers
                if i > right and len(problem.needed()) <= segments[i][3] < right - 1
            ]
        )
    assert branches == 800 and 600 < ended <= 800 and 40 < early < 200


@pytest.mark.thorough
def test_training_problems_are_of_the_sizes_that_were_asked_for() -> None:
    def sizes(operations: Any) -> list[int]:
        made = [
            parse(segments[0][0]) for segments in chains_data.examples(3, 0, 200, 0.9, operations)
        ]
        return [len(p.needed()) for p in made if isinstance(p, Chains)]

    short, long = sizes({2: 0.99, 7: 0.01}), sizes({2: 0.01, 7: 0.99})
    assert len(short) == len(long) == 200 and set(short + long) == {2, 7}
    assert short.count(7) < 10 and long.count(7) > 150
    assert sizes({"2": 0.01, "7": 0.99}) == long, "as JSON writes it"


@pytest.mark.thorough
def test_no_search_changes_when_the_hidden_checker_is_flipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problems = list(generate(1, 3, 2, 1))
    lines = [line for p in problems for line in chains_data.solution(p)] + [
        "c=a*b A3 B7 C9",
        "nonsense",
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
        return scored(request, rng.random())

    guide = scripted_guide(player, step_tokens=24, max_steps=12)

    def searched() -> list[Any]:
        found = []
        for method in ("sample", "beam", "mcts"):
            for solution in search.solve_many(
                problems, guide, method, "tokens=200", seed=3, progress=False
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

    before = searched()
    assert any(answer is not None for answer, *_ in before)
    truth = chains_key.mistakes
    monkeypatch.setattr(
        chains_key,
        "mistakes",
        lambda problem, steps: [not wrong for wrong in truth(problem, steps)],
    )
    real = chains_key.true_values
    monkeypatch.setattr(
        chains_key,
        "true_values",
        lambda problem: {n: (v + 1) % problem.modulus for n, v in real(problem).items()},
    )
    problems = list(generate(1, 3, 2, 1))
    assert target_of(problems[0]) != str(by_integers(problems[0]))
    assert steps_right(PROBLEM, state("z=y*x")) and not steps_right(PROBLEM, state("c=a*b"))
    assert searched() == before
    for module in (chains, chains_key):
        monkeypatch.setattr(module, "compute", lambda *_: pytest.fail("a search computed a value"))
    problems = [Chains(**problem.to_json()) for problem in problems]
    assert searched() == before


def test_sizes_that_are_not_made_are_refused() -> None:
    with pytest.raises(ValueError, match="1 to 12"):
        next(generate(0, 1, 13))
    largest = next(generate(0, 1, 12, 4))
    assert len(largest.needed()) == 12
