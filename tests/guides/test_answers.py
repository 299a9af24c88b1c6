"""Checking answers: a table of pairs with what is to be said of them, and what must never be
said.
"""

from __future__ import annotations

import cmath
import contextlib
import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import pytest
from answer_cases import TABLE, R, U, W
from hypothesis import given
from hypothesis import strategies as st

from guides.answers import grammar, precision, proofs
from guides.answers.checker import Verdict, check, check_many, classes, examine, extract
from search.final_answer import final_answers


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Starting the processes and importing sympy is no part of a check."""
    for future in [proofs.pool().submit(time.sleep, (0.01,), 5.0) for _ in range(2)]:
        future.result()


@pytest.fixture(scope="module")
def said() -> dict[tuple[str, str], tuple[Verdict, str]]:
    pairs = [(text, target) for text, target, _ in TABLE]
    return dict(zip(pairs, examine(pairs, seconds=20.0), strict=True))


def test_the_table_is_large() -> None:
    assert len({(text, target) for text, target, _ in TABLE}) == len(TABLE) >= 200


@pytest.mark.parametrize(
    ("text", "target", "verdict"),
    TABLE,
    ids=[f"{i}-{a[:20]!a}-{b[:20]!a}" for i, (a, b, _) in enumerate(TABLE)],
)
def test_what_is_said(
    text: str, target: str, verdict: Verdict, said: dict[tuple[str, str], tuple[Verdict, str]]
) -> None:
    assert said[text, target][0] is verdict, f"by {said[text, target][1]}"


def test_no_false_accepts_either_way(said: dict[tuple[str, str], tuple[Verdict, str]]) -> None:
    """What is not RIGHT is not RIGHT with answer and target exchanged, but for sums that one
    side has worked out, for targets that are roundings to seven digits and more, and for names
    whose order the target gives.
    """
    pairs = [
        (target, text)
        for text, target, verdict in TABLE
        if verdict is not R and text.strip() and len(text) < 500
    ]
    told = [pair for pair, verdict in zip(pairs, check_many(pairs), strict=True) if verdict is R]
    rounded = {("1/3", "0.333333333333"), ("π", "3.14159265358979")}
    named = {("2, 3", "y=2, x=3"), ("(2,3)", "(y,x)=(2,3)")}
    assert set(told) <= {("5", "2+3"), ("6", "2*3"), ("-5", "- 5")} | rounded | named


@pytest.mark.parametrize(
    "text",
    [
        r"\sqrt{5/3}",
        r"\sqrt[3]{7/2}",
        r"\sqrt{1/3}",
        r"\sqrt{\sqrt{9/8}+1/7}",
        r"\frac{\sqrt{7/2}}{\sqrt[5]{3/4}}",
        "(9/4)^{-1/3}",
    ],
)
def test_the_separation_bound_bounds_the_value(text: str) -> None:
    """A positive expression is itself its largest conjugate, so u / l is no less than its value,
    and no more but for its sums.
    """
    node = grammar.read(text)
    over, under, _ = precision.bound(node, 0)
    true = float(precision.approximate(node, 0, precision.context(100), False))
    assert math.log2(true) - 1e-9 <= over - under <= math.log2(true) + text.count("+") + 1e-9


def test_all_ways_are_taken(said: dict[tuple[str, str], tuple[Verdict, str]]) -> None:
    assert {way for _, way in said.values()} == {
        "text",
        "numbers",
        "grammar",
        "pool",
        "math-verify",
    }


def written(number: Fraction) -> list[str]:
    """One number in many notations."""
    n, d = number.numerator, number.denominator
    forms = [
        str(number),
        f"{n * 7}/{d * 7}",
        f"${number}$",
        f"**{number}**",
        f"The answer is {number}.",
        rf"so \boxed{{{number}}}",
        f"#### {number}",
    ]
    forms += [
        rf"{'-' if n < 0 else ''}\frac{{{abs(n)}}}{{{d}}}",
        f"x = {number}",
        f"{number} cm",
        str(number).replace("-", "−"),
        f"{n}/{d}",
    ]
    if d == 1:
        forms += [
            f"{n:,}",
            f"{n}.00",
            f"{n}e0",
            f"{n * 10}e-1",
            f"{n * 100}%",
            rf"{n * 10}\times 10^{{-1}}",
            f"+{n}" if n > 0 else str(n),
        ]
    if n > d > 1:
        forms += [f"{n // d} {n % d}/{d}", rf"{n // d}\frac{{{n % d}}}{{{d}}}"]
    return forms


rationals = st.fractions(-(10**6), 10**6, max_denominator=10**4)


@pytest.mark.thorough
@given(rationals)
def test_a_number_is_right_however_it_is_written(number: Fraction) -> None:
    for form in written(number):
        assert check(form, str(number)) is R and check(str(number), form) is R, form


@pytest.mark.thorough
@given(rationals, rationals)
def test_different_numbers_are_never_right(one: Fraction, other: Fraction) -> None:
    # 50% may be 50
    if one != other and 100 not in (one / other if other else 0, other / one if one else 0):
        assert R not in [check(form, str(other)) for form in written(one)]


@given(st.integers(-50, 50), st.integers(1, 50), st.integers(2, 30), st.integers(0, 2))
def test_roots_against_squares(a: int, b: int, c: int, by: int) -> None:
    r"""(a + b \sqrt c)^2 worked out, and beside it."""
    square = rf"{a * a + b * b * c + by}+{2 * a * b}\sqrt{{{c}}}".replace("+-", "-")
    assert check(rf"({a}+{b}\sqrt{{{c}}})^2", square) is (W if by else R)


@pytest.mark.thorough
@given(st.lists(st.integers(-9, 9), min_size=2, max_size=5), st.integers(-9, 9))
def test_products_against_polynomials(roots: list[int], other: int) -> None:
    coefficients = [1]
    for root in roots:
        coefficients = [
            a - root * b for a, b in zip([*coefficients, 0], [0, *coefficients], strict=True)
        ]
    factors = "".join(f"(x-{root})".replace("--", "+") for root in roots)
    powers = " + ".join(f"{c}x^{{{len(roots) - i}}}" for i, c in enumerate(coefficients)).replace(
        "+ -", "- "
    )
    assert check(factors, powers) is R and check(f"{factors} + {other}", powers) is (
        R if other == 0 else W
    )


def grown(rng: random.Random, depth: int) -> tuple[str, Callable[[complex, complex], complex]]:
    """A random expression: as LaTeX, and as a function of x and y in Python's complex numbers."""
    kind = rng.randrange(8 if depth else 3)
    if kind < 3:
        return [("2", lambda x, y: 2), ("x", lambda x, y: x), (r"\pi", lambda x, y: cmath.pi)][kind]
    (a, f), (b, g) = grown(rng, depth - 1), grown(rng, depth - 1)
    return [
        (f"({a}+{b})", lambda x, y: f(x, y) + g(x, y)),
        (f"({a}-{b})", lambda x, y: f(x, y) - g(x, y)),
        (f"({a})({b})", lambda x, y: f(x, y) * g(x, y)),
        (rf"\frac{{{a}}}{{{b}}}", lambda x, y: f(x, y) / g(x, y)),
        (rf"\sqrt{{{a}}}", lambda x, y: cmath.sqrt(f(x, y))),
    ][kind - 3]  # fmt: skip


@pytest.mark.thorough
def test_random_expressions_against_complex_numbers() -> None:
    """Every pair of many: RIGHT and WRONG are what floating point shows at points of all signs."""
    rng = random.Random(7)
    made = dict([grown(rng, 1) for _ in range(120)] + [grown(rng, 2) for _ in range(50)])
    verdicts: Counter[Verdict] = Counter()
    for (a, f), (b, g) in itertools.combinations(made.items(), 2):
        alike = []
        for x, y in ((1.37, 0.71), (2.9, 5.3), (-1.3, 2.2), (-0.7, -3.1)):
            with contextlib.suppress(ZeroDivisionError):
                alike.append(abs(f(x, y) - g(x, y)) < 1e-9)
        verdict = check(a, b)
        verdicts[verdict] += 1
        assert verdict is U or not alike or (verdict is R) == all(alike), (a, b)
    assert verdicts[R] > 10 and verdicts[U] < sum(verdicts.values()) / 10


@pytest.mark.thorough
@given(st.text(max_size=40), st.sampled_from(["5", r"\frac{1}{2}", "x<3", "(1,2)", "B", "12 cm"]))
def test_no_text_breaks_it(text: str, target: str) -> None:
    assert check(text, target) in Verdict
    assert check(text, target) is check_many([(text, target)])[0]


@given(
    st.lists(
        st.sampled_from(
            [
                r"1",
                r"2",
                r"5",
                r"x",
                r"+",
                r"-",
                r"*",
                r"/",
                r"^",
                r"(",
                r")",
                r"{",
                r"}",
                r"\frac",
                r"\sqrt",
                r"|",
                r"!",
                r",",
                r"%",
                r"cm",
                r"\pi",
                r"\{",
                r"\}",
                r"<",
                r"=",
                r"\cup",
                r".",
                r"$",
                r"\text{",
                r"\begin{pmatrix}",
                r"&",
                r"\\",
            ]
        ),
        max_size=14,
    )
)
def test_no_latex_breaks_the_reading(marks: list[str]) -> None:
    assert classes(["".join(marks), "5"])[0] == 0


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("text", "target", "verdict"),
    [
        ("9" * 10_000_000, "5", W), ("9" * 10_000_000, "9" * 9_999_999 + "8", W),
        ("9" * 10_000_000, "0" + "9" * 10_000_000 + ".0", R),
        ("1/" + "9" * 10_000_000, "5", U), ("(" * 1_000_000, "5", U),
        (r"\boxed{5} " * 100_000, "5", R), ("A: 1\n" * 100_000, "1", R),
        ("\\" * 1_000_000, "5", U), (r"\frac" * 100_000, "5", U), ("answer is " * 100_000, "5", U),
        ("#### " * 200_000, "5", U),
        ("<think>" * 100_000, "5", U), (" " * 5_000_000, "5", W),
        ("\n" * 5_000_000 + "#### 5", "5", R), ("1," * 999, "5", U),
        ("{" * 1999, "5", U), ("-" * 1999 + "5", "5", U), ("1" + "^1" * 190, "1", U),
    ],
    ids=range(18),
)  # fmt: skip
@pytest.mark.timeout(60)
def test_texts_made_to_last(text: str, target: str, verdict: Verdict) -> None:
    assert check(text, target) is verdict


def test_a_target_must_be_there() -> None:
    for target in ("", "  "):
        with pytest.raises(ValueError, match="target is empty"):
            check("5", target)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{a} and \boxed{a}", "a"), (r"\boxed{1} and \boxed{2}", None),
        (r"\boxed{\frac12} or \boxed{0.5}", "0.5"),
        (r"\boxed{1", None), ("5", None), (r"\boxed{}", None),
        ("**Answer**: 18 dollars.", "18 dollars"), ("Answer: **18**.", "18"),
        ("A: $18$", "18"), (r"\boxed {7}", "7"), ("", None),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        ("The answer is St. Louis.", "St. Louis"), ("nothing", None),
    ],
)  # fmt: skip
def test_extract(text: str, answer: str | None) -> None:
    assert extract(text) == answer


def test_final_answers_of_every_kind() -> None:
    assert final_answers("#### 1\nThe answer is 2.") == ["1", "2"]
    assert final_answers(r"The answer is 2. \boxed{3}") == ["3"]
    assert (
        final_answers("") == []
        and final_answers("<think>#### 5") is None
        and final_answers(r"\boxed{") is None
    )
