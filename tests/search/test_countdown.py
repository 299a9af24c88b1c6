"""Countdown: the strict verifier against adversarial lines, brute force and random legal paths;
parsing, splits, replay.
"""

from __future__ import annotations

import itertools
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.problem import IllegalStep, TextStep
from search.problems.countdown import Countdown, generate, parse

GAME = Countdown((4, 7, 8, 8), 24)


def play(problem: Countdown, *lines: str) -> tuple[TextStep, ...]:
    state = problem.initial()
    for text in lines:
        state = problem.apply(state, TextStep(text))
    return state


ILLEGAL = [
    "",  # empty output
    " ",
    "\n",
    "8",  # no operation
    "24",  # the target alone
    "8-7",  # no result
    "8-7=",
    "=1",
    "8-7=2",  # wrong result
    "7-8=1",
    "9-8=1",  # a number that is not there
    "4+4=8",  # a number used twice
    "4-4=0",
    "8-7=1 4,8",  # anything after the result
    "8-7=1.",
    "8  -7=1",
    "8**7=2097152",  # power
    "8*-7=(-56)",  # unary minus
    "-8+7=-1",
    "7-8=-1",  # a negative result without parentheses
    "+8-7=1",
    "(8)-7=1",
    "(08)-7=1",
    "8//7=1",  # floor division
    "8/7=1",
    "8/7=1.142857",
    "8.0-7=1",  # decimal point
    "8-7.0=1",
    "0.8+7=7.8",
    "8-7=1.0",
    "8-7=01",  # leading zeros
    "08-7=1",
    "8%7=1",
    "8^7=15",
    "8-7=1=1",
    "8-7=1\n8*4=32",  # two lines in one
    "8-7=1;",
    "8-7-4=-3",  # two operations in one line
    "8-7+4=5",
    "(8-7)*4=4",
    "8-7=1 8*4=32",
    "8-7=1 or 8*4=32",  # two answers
    "８-７=１",  # full-width digits
    "8-٧=1",  # Arabic digit
    "²*8=16",
    "8−7=1",  # U+2212 minus
    "8×7=56",
    "8÷8=1",
    "8-7=\u00a01",  # no-break space
    "8\t-7=1",
    "8-7=1e0",
    "0x8-7=1",
    "8_0-7=73",
    "__import__('os')",
    "Use 4, 7, 8 and 8 to make 24.",  # the statement again
    "The answer is 24",
    "9" * 5000 + "-7=1",  # huge integers
    "8*7=" + "5" * 5000,
    "4/8=1/2",  # a fraction without parentheses
    "4/8=(2/4)",  # not in lowest terms
    "4/8=(1/0)",
    "8/4=(2/1)",
    "8/4=(2)",
]


@pytest.mark.parametrize("text", ILLEGAL)
def test_illegal_lines_are_refused(text: str) -> None:
    with pytest.raises(IllegalStep):
        GAME.apply((), TextStep(text))
    with pytest.raises(IllegalStep):
        GAME.key((), TextStep(text))


def test_division_by_zero_and_steps_beyond_the_end() -> None:
    state = play(GAME, "8-8=0")
    for text in ("4/0=0", "4/0=4", "0/0=0", "0/0=1"):
        with pytest.raises(IllegalStep):
            GAME.apply(state, TextStep(text))
    finished = play(GAME, "8-7=1", "4-1=3", "8*3=24")
    for text in ("24", "24+0=24", "24*1=24", ""):
        with pytest.raises(IllegalStep):
            GAME.apply(finished, TextStep(text))


def test_a_line_that_was_cut_off_is_no_step() -> None:
    with pytest.raises(IllegalStep, match="cut off"):
        GAME.apply((), TextStep("8-7=1", finish="length"))


def test_only_the_target_from_all_numbers_is_verified() -> None:
    assert GAME.verify(play(GAME, "8-7=1", "4-1=3", "8*3=24")) == 1.0
    assert GAME.verify(play(GAME, "8*7=56", "56-8=48", "48/4=12")) == 0.0
    early = Countdown((3, 8, 5, 5), 24)
    assert early.verify(play(early, "8*3=24")) == 0.0, (
        "the target with numbers unused is no solution"
    )
    assert not early.is_terminal(play(early, "8*3=24")) and GAME.is_terminal(
        play(GAME, "8-7=1", "4-1=3", "8*3=24")
    )
    assert GAME.answer(play(GAME, "8-7=1")) is None and GAME.actions(()) is None


def test_exact_fractions_and_negatives() -> None:
    hard = Countdown((3, 3, 8, 8), 24)
    assert hard.verify(play(hard, "8/3=(8/3)", "3-(8/3)=(1/3)", "8/(1/3)=24")) == 1.0
    with pytest.raises(IllegalStep):
        play(hard, "8/3=(8/3)", "3-(8/3)=(1/3)", "8/(1/3)=23")
    negative = Countdown((4, 7, 3), 0)
    assert negative.verify(play(negative, "4-7=(-3)", "(-3)+3=0")) == 1.0
    assert negative.left(play(negative, "4-7=(-3)")) == (-3, 3)


def test_same_step_and_same_answer() -> None:
    def key(text: str) -> object:
        return GAME.key((), TextStep(text))

    assert key("8+7=15") == key("7+8=15") == key(" 7 + 8 = 15 ") and key("8*7=56") == key("7*8=56")
    assert key("8-7=1") != key("7-8=(-1)") and key("8-8=0") != key("8/8=1")
    p = Countdown((1, 2, 3, 4), 10)
    sums = [
        ("1+2=3", "3+3=6", "6+4=10"),
        ("3+4=7", "2+7=9", "9+1=10"),
        ("1+2=3", "3+4=7", "7+3=10"),
    ]
    assert {p.answer(play(p, *lines)) for lines in sums} == {"1+2+3+4"}
    assert GAME.answer(play(GAME, "8-7=1", "4-1=3", "8*3=24")) == GAME.answer(
        play(GAME, "4-8=(-4)", "(-4)+7=3", "3*8=24")
    )
    other = Countdown((2, 3, 5, 12), 10)
    assert other.answer(play(other, "12/3=4", "4/2=2", "2*5=10")) == other.answer(
        play(other, "3*2=6", "12/6=2", "5*2=10")
    )


def evaluate(expression: str) -> Fraction:
    """Exact value of an expression with + - * / and parentheses, by recursive descent: an
    independent truth.
    """
    tokens, position = list(expression), 0

    def take_sum() -> Fraction:
        nonlocal position
        value = take_product()
        while position < len(tokens) and tokens[position] in "+-":
            sign = 1 if tokens[position] == "+" else -1
            position += 1
            value += sign * take_product()
        return value

    def take_product() -> Fraction:
        nonlocal position
        value = take_atom()
        while position < len(tokens) and tokens[position] in "*/":
            divide = tokens[position] == "/"
            position += 1
            other = take_atom()
            value = value / other if divide else value * other
        return value

    def take_atom() -> Fraction:
        nonlocal position
        if tokens[position] == "(":
            position += 1
            value = take_sum()
            position += 1
            return value
        digits = "".join(itertools.takewhile(str.isdigit, tokens[position:]))
        position += len(digits)
        return Fraction(int(digits))

    value = take_sum()
    assert position == len(tokens), expression
    return value


def written(value: Fraction) -> str:
    return str(value) if value >= 0 and value.denominator == 1 else f"({value})"


@pytest.mark.thorough
@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_every_random_legal_path_verifies(numbers: list[int], rng: random.Random) -> None:
    left, lines = [Fraction(n) for n in numbers], []
    while len(left) > 1:
        rng.shuffle(left)
        a, b, *rest = left
        operator = rng.choice("+-*/" if b else "+-*")
        result = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else a}[operator]
        lines.append(f"{written(a)}{operator}{written(b)}={written(result)}")
        left = [*rest, result]
    target = int(left[0]) if left[0].denominator == 1 and 0 <= left[0] <= 999_999 else 5
    problem = Countdown(tuple(numbers), target)
    state = play(problem, *lines)
    assert problem.is_terminal(state) and problem.left(state) == (left[0],)
    assert problem.verify(state) == float(left[0] == target)
    answer = problem.answer(state)
    assert answer is not None and evaluate(answer) == left[0]
    assert sorted(
        int(n) for n in "".join(c if c.isdigit() else " " for c in answer).split()
    ) == sorted(numbers)


def reachable(numbers: tuple[Fraction, ...]) -> set[Fraction]:
    """Everything that all the numbers make, by brute force over values: an independent truth."""
    if len(numbers) == 1:
        return {numbers[0]}
    found: set[Fraction] = set()
    for i, j in itertools.permutations(range(len(numbers)), 2):
        a, b, rest = (
            numbers[i],
            numbers[j],
            tuple(n for k, n in enumerate(numbers) if k not in (i, j)),
        )
        for result in (a + b, a - b, a * b, *([a / b] if b else [])):
            found |= reachable((*rest, result))
    return found


def searched(problem: Countdown) -> bool:
    """Can the target be made, found by trying lines through `apply` and `verify` alone?"""
    stack = [problem.initial()]
    while stack:
        state = stack.pop()
        if problem.is_terminal(state):
            if problem.verify(state):
                return True
            continue
        for a, b in itertools.permutations(problem.left(state), 2):
            for operator, result in (
                ("+", a + b),
                ("-", a - b),
                ("*", a * b),
                ("/", a / b if b else None),
            ):
                if result is not None:
                    text = f"{written(a)}{operator}{written(b)}={written(result)}"
                    stack.append(problem.apply(state, TextStep(text)))
    return False


def test_agrees_with_brute_force() -> None:
    rng = random.Random(0)
    for _ in range(60):
        numbers = tuple(rng.randint(1, 9) for _ in range(3))
        target = rng.randint(1, 30)
        assert searched(Countdown(numbers, target)) == (
            target in reachable(tuple(map(Fraction, numbers)))
        )


@given(st.lists(st.integers(0, 999_999), min_size=2, max_size=12), st.integers(0, 999_999))
def test_parse_reads_what_prompt_writes(numbers: list[int], target: int) -> None:
    problem = Countdown(tuple(numbers), target)
    again = parse(problem.prompt(()))
    assert again is not None and again.numbers == tuple(sorted(numbers)) and again.target == target
    assert Countdown(**problem.to_json()) == problem


@pytest.mark.parametrize(
    "text",
    [
        "Use 4, 7, 8 and 8 to make 24.",
        " Use 4 7 8 8 to make 24 ",
        "Use 8, 4, 7, and 8 to make 24\n",
        "Use 4,7,8,8 to make 24.",
    ],
)
def test_parse_accepts(text: str) -> None:
    problem = parse(text)
    assert problem is not None and problem.prompt(()) == "Use 4, 7, 8 and 8 to make 24."


@pytest.mark.parametrize(
    "text",
    ["", "What is 2+2?", "Use the force", "I use 4 and 6 to make 24", "to make 24 use 4 and 6"],
)
def test_parse_leaves_other_text_alone(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "Use 4 and to make 24",
        "Use to make 24",
        "Use 24 to make 24",
        "Use 4, 7, 8 and 8 to make",
        "Use 4, 7, 8 and 8 to make 24 and 25",
        "Use 4, -7, 8 and 8 to make 24",
        "Use 4, 7.5 and 8 to make 24",
        "Use ４ and 6 to make 24",
        "Use 4 and 6 to make 24?",
        "Use 4 and 6 to make 99999999999",
        f"Use {', '.join(['1'] * 13)} and 2 to make 3",
        "Use flour to make bread",
    ],
)
def test_parse_explains_malformed_puzzles(text: str) -> None:
    with pytest.raises(ValueError, match="write it like: Use 4, 7, 8 and 8 to make 24"):
        parse(text)


@pytest.mark.parametrize(
    "arguments",
    [((4,), 4), ((4, -1), 3), ((4, 1.0), 3), ((4, True), 3), ((4, 4), "8"), ((4, 10**7), 3)],
)
def test_bad_arguments(arguments: tuple) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError):
        Countdown(*arguments)


def test_canonical_form_and_splits() -> None:
    assert GAME.canonical() == Countdown((8, 7, 8, 4), 24).canonical() == "4,7,8,8 24"
    # the hash is the same on every machine
    assert GAME.split() == Countdown((8, 7, 8, 4), 24).split() == "train"
    problems = list(generate(0, 2000, largest=25))
    shares = {
        name: sum(p.split() == name for p in problems) / 2000
        for name in ("train", "validation", "test")
    }
    assert (
        abs(shares["train"] - 0.9) < 0.03
        and abs(shares["validation"] - 0.05) < 0.02
        and abs(shares["test"] - 0.05) < 0.02
    )


def test_generate_is_seeded_different_and_solvable() -> None:
    problems = list(generate(3, 30, size=3, largest=9, split="validation"))
    assert (
        problems
        == list(generate(3, 30, size=3, largest=9, split="validation"))
        != list(generate(4, 30, size=3, largest=9))
    )
    assert len({p.canonical() for p in problems}) == 30
    for problem in problems:
        assert (
            problem.split() == "validation"
            and 1 <= problem.target <= 100
            and max(problem.numbers) <= 9
        )
        assert problem.target in reachable(tuple(map(Fraction, problem.numbers)))
    assert {p.target for p in generate(0, 10, targets=(24,))} == {24}
