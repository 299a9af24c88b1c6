"""Checking answers: a table of pairs with what is to be said of them, and what must never be
said.
"""

from __future__ import annotations

import cmath
import contextlib
import itertools
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest
from fakes import generated, scripted_guide
from hypothesis import given
from hypothesis import strategies as st

import search
from guides.answers import grammar, precision, proofs
from guides.answers import verdict as answers
from guides.answers.verdict import Verdict, check, check_many, classes, examine, extract
from search.choose import Finish, majority, merge_equal
from search.final_answer import final_answers

R, W, U = Verdict.RIGHT, Verdict.WRONG, Verdict.UNDECIDED

NUMBERS = [
    ("18", "18", R), ("18.", "18", R), ("18.0", "18", R), ("018", "18", R), ("+18", "18", R),
    (" 18\n", "18", R), ("18", "81", W),
    ("1", "11", W), ("11", "1", W), ("118", "18", W), ("18", "-18", W), ("-18", "-18", R),
    ("−18", "-18", R), ("–18", "-18", R),
    ("-0", "0", R), ("0.0", "-0", R), (".5", "0.5", R), ("1,200", "1200", R),
    ("1,234,567.5", "1234567.50", R), ("1{,}234", "1234", R),
    (r"1\,234", "1234", R), (r"1,\!000", "1000", R), ("12,00", "1200", U), ("1,2000", "12000", U),
    ("1.200,50", "1200.5", U),
    ("1/2", "0.5", R), ("2/4", "1/2", R), ("-1/2", "-0.5", R), (r"\frac{1}{2}", "0.5", R),
    (r"\frac12", "1/2", R),
    (r"\dfrac{3}{4}", ".75", R), (r"\tfrac34", "0.75", R), (r"-\frac{1}{2}", "-0.5", R),
    ("½", "0.5", R), ("1/3", "0.333333333333", W),
    ("0.3333", "1/3", W), ("1/0", "0", U), ("1/0", "1/0.0", U), ("2 1/2", "2.5", R),
    (r"2\frac{1}{2}", "5/2", R), (r"2\frac12", "1", W),
    ("2 5/2", "4.5", U), ("21/2", "2.5", W), ("1/2/2", "1/4", U), ("5e3", "5000", R),
    ("1e-3", "0.001", R), ("1E3", "1000", R),
    ("1e-3", "-0.28172", W), (r"3\times 10^8", "300000000", R), (r"3 \cdot 10^{-2}", "0.03", R),
    ("3 x 10^8", "300000000", R),
    ("3×10^8", "3e8", R), ("5e", "5", W), ("1e400", "1e401", W), ("1e999999999", "1", U),
    ("2+3", "5", U), ("2*3", "6", U),
    ("5", "2+3", R), ("2^{10}", "1024", R), ("--5", "5", R), ("- 5", "-5", U), ("- 5", "5", U),
    ("٥", "5", U), ("５", "5", U),
    ("²", "2", U), ("5²", "25", R), ("5²", "52", W), ("1 2", "12", U), ("1 .5", "1.5", U),
    ("5\x00", "5", U), ("5\ud800", "5", U),
    ("\ud800", "\ud800", R), ("0x10", "16", U), ("1_000", "1000", U), ("inf", "inf", R),
    ("nan", "5", U), ("True", "1", U),
    ("9" * 300, "9" * 300 + ".0", R), ("1" + "0" * 60, "1" + "0" * 59 + "1", W),
    ("3.14", r"\pi", W), ("3.14159265358979", "π", W),
    ("2,5", "2.5", U), ("1,234", "1, 234", U), ("0.1", "1/10", R), ("٠.٥", "0.5", U),
    ("eighteen", "18", U),
]  # fmt: skip

UNITS = [
    ("12 cm", "12 m", W), ("12 cm", "12", R), ("12", "12 cm", R), ("12 cm", "0.12 m", R),
    ("1 hour", "60 minutes", R),
    ("12 cm", "12 cm^2", W), (r"12\text{ cm}^2", "12 square centimeters", R),
    (r"12\,\mathrm{cm}", "12 cm", R), ("12 cm", "13 cm", W),
    ("3 feet", "36 inches", R), ("$18", "18", R), (r"\$18", "18", R), ("$18.", "18", R),
    ("18 dollars", "18", R), ("$18", "18 dollars", R),
    ("$18", "18 euros", W), ("$0.50", "50 cents", R), ("50 cents", "0.50", U),
    ("50 cents", "51", W), ("£5", "5 pounds", U),
    ("-$5", "-5", R), ("$-5", "-5", R), ("$1,200.50", "1200.5", R), ("**18**", "18", R),
    ("$$18$$", "18", R), (r"\(18\)", "18", R),
    ("18 eggs", "18", R), ("18 eggs", "18 eggs", R), ("18 egg", "18 eggs", R),
    ("18 eggs", "18 ducks", U), ("17 eggs", "18", W),
    ("18 eggs per day", "18", R), ("5 m", "5 s", W), ("5m", "5", W), ("2mc", "2cm", U),
    ("2abc", "2", W), ("2 abc", "2", U),
    ("3cm", "3", R), ("0.(3)", "0", U), ("5x", "5", W), ("5 squared", "5", U),
    ("5 million", "5", U), ("2 dozen", "2", U),
    ("3 tenths", "3", U), ("5 factorial", "5", U), ("$5 million", "5", U), ("$5M", "5", U),
    ("5k", "5", W), ("5 or 6", "5", U),
    ("5 not", "5", U), ("5 is wrong", "5", U), ("not 5", "5", U), ("5 pi", "5", W),
    ("at least 5", "5", U), ("5 or more", "5", U),
    ("5 isn't it", "5", U), ("five hundred", "500", U), ("5 hundred", "5", U), ("50%", "0.5", R),
    ("50%", "1/2", R), (r"50\%", "50%", R),
    ("50 percent", "50%", R), ("50%", "50", R), ("50", "50%", R), ("0.5%", "0.5", U),
    ("0.5%", "0.005", R), ("1%", "1", U),
    ("5%", "50%", W), ("25%", "75", W), ("30°", "30", R), (r"30^\circ", "30 degrees", R),
    (r"30^{\circ}", "31", W),
    ("30°", r"\frac{\pi}{6}", R), ("20 °C", "20 °F", W), (r"2\sqrt{3} cm", r"\sqrt{12}", R),
    (r"2\sqrt{3} cm", r"\sqrt{12} m", U),
    (r"2\sqrt{3}\text{ cm}", r"2\sqrt{3}\text{ min}", W), ("18 apples and 3 pears", "18", U),
    ("20 degrees", "20 °C", U), ("68 °F", "20 °C", R), ("-40 °C", "-40 °F", R),
    ("1 year", "365 days", U), ("1 liter", "1000 cm^3", R),
    ("2 mL", "2 cm^3", R), ("1 liter", "1 m^3", W), ("3 m/s", "3", U), ("4 m/s", "3", W),
    (r"100\text{ N}", "100", U), ("5 y", "6", W),
    (r"12\pi \text{ cm}^2", r"12\pi", R), (r"12\pi\text{ cm}^2", "12", U),
    (r"12\pi\text{ cm}", r"12\pi\text{ mm}", W), ("18th", "18", U),
    ("5 mil", "5", U), ("18 hmm wait", "18", U), ("2 and 1/2", "2.5", U),
    (r"5 \pmod{7}", "5", U), ("101_2", "101_{2}", R), ("101_2", "5", U), ("3:30", "3:31", U),
    ("3:4", "6:8", U), ("5 PM", "5 AM", U),
    (r"0.\overline{3}", "0.3", U), ("0.333...", "0.333", U), ("1 234", "1234", U),
    ("6.02e23", r"6.02 \times 10^{22}", W),
]  # fmt: skip

ALGEBRA = [
    (r"\sqrt{8}", r"2\sqrt2", R), ("sqrt(8)", r"2\sqrt{2}", R), ("√8", r"2\sqrt{2}", R),
    (r"\sqrt{8}", "2.8284271247", W),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}", R),
    (r"\sqrt{2+\sqrt{3}}", r"\frac{\sqrt{6}+\sqrt{2}}{2}", R),
    (r"\sqrt{5+2\sqrt6}", r"\sqrt2+\sqrt3", R), (r"\sqrt{5}", r"\sqrt{5}+10^{-60}", W),
    (r"\sqrt{1+10^{-90}}", "1", W),
    ("1+10^{-100}", "1", W), (r"\sqrt[3]{-8}", "-2", R), (r"\sqrt[3]{2}", "2^{1/3}", R),
    ("(x+1)^2", "x^2+2x+1", R),
    ("x^2 + 2x + 1", "(x + 1)^2", R), ("(x+1)^2", "x^2+1", W), ("(x-1)(x+1)", "x^2-1", R),
    (r"\frac{x^2-1}{x-1}", "x+1", R),
    ("xy", "yx", U), ("2xy", "2yx", R), ("x", "y", W), ("x", "X", U), ("x+1", "X+1", W),
    ("x", "|x|", U), (r"\sqrt{x^2}", "x", U),
    (r"|x|^2", "x^2", R), ("1/2x", "x/2", U), ("2 3", "6", U), (r"\frac{1}{2}x", "x/2", R),
    ("x^1000", "x^1001", W),
    ("2^{x+1}", r"2\cdot 2^x", R), (r"2\pi r", r"r \cdot 2 \pi", R), (r"\pi", "π", R),
    (r"\frac{\pi}{2}", "pi/2", R),
    (r"\pi^2", r"\pi", W), (r"\sin x + 1", r"1 + \sin x", R), (r"\sin 2x", r"2 \sin x \cos x", R),
    (r"\sin x", r"\cos x", W),
    (r"\sin^2 x + \cos^2 x", "1", R), (r"\ln 8", r"3 \ln 2", R), (r"\log 100", "2", U),
    (r"\log_2 8", "3", R), (r"\cos(10^{-40})", "1", U),
    (r"e^{i\pi}", "-1", R), ("3+4i", "4i+3", R), ("i^2", "-1", R), ("|3+4i|", "5", R),
    ("(1+i)^2", "2i", R), ("3+4i", "3-4i", W),
    ("7!", "5040", R), ("n!", "n", W), (r"\binom{5}{2}", "\\binom{5}{3}", R),
    ("x_1+x_2", "x_2+x_1", R), ("x_1", "x_2", W),
    (r"\alpha+\beta", r"\beta+\alpha", R), ("x = 5", "5", R), ("x=5", "x = 5.0", R),
    ("x=5", "x=6", W), ("x=5", "y=5", U),
    ("f(x) = x^2", "x^2", R), ("x+1=5", "5", U), ("2x=10", "10", U), ("9^{9^{9^9}}", "1", U),
    ("9^9^9^9", "9^9^9^9", R),
    ("(10^8)!", "1", U), ("2^{100000000}", "2", U), ("10^{-100000000}", "0", U),
    ("1" * 3000, "x", U), ("0^0", "1", U), ("x/x", "1", R),
    (r"\frac{1}{0}", "x", U), ("((((((1))))))", "1", R), ("(" * 500 + "1" + ")" * 500, "1", U),
    ("x" * 500, "x", U),
    ("+".join(["1"] * 1500), "1500", U), ("(1+1", "2", U), ("1+", "1", U), ("^2", "2", U),
    ("()", "0", U), (r"\frac{}{}", "1", U),
    ("no", "on", U), (r"\sqrt{x}\sqrt{y}", r"\sqrt{xy}", U), ("a+b", "b+a", R), ("5 no", "5 on", U),
    ("f(2x)", "2f(x)", U), ("f(-x)", "-f(x)", U), ("x(x+1)", "x^2+x", R), (r"\sqrt{-4}", "-2", W),
    (r"\sqrt{-4}", "2i", R),
     ("5!!", "15", U), ("7!!", "(7!)!", U), ("abc", "ABC", U),
    ("x" + "°" * 390, "y", U), (" ".join("x" * 390), "y", U), ("+".join("x" * 120), "120x", R),
    (r"2\pi rh", r"2hr\pi", R),
    (r"x_{1}y", "x_1y", R), (r"\lfloor x\rfloor", r"\lceil x\rceil", U),
    (r"k\in\mathbb{Z}", r"n\in\mathbb{Z}", U),
]  # fmt: skip

LISTS = [
    ("(1,2)", "(1, 2)", R), ("(1,2)", "(2,1)", W), ("(1,2)", "(1,2,3)", W),
    (r"(\frac12, 3)", "(0.5, 3.0)", R),
    (r"\left(1, 2\right)", "(1,2)", R), ("(1,2)", "[1,2]", U), ("[1,2]", "[1, 2.0]", R),
    ("[1,2)", "[1,2]", U),
    (r"\{1,2\}", r"\{2,1\}", R), (r"\{1,2\}", r"\{1,3\}", W), (r"\{1,2\}", r"\{1,2,3\}", W),
    ("1,2,3", "1, 2, 3", R),
    ("1,2,3", "3,2,1", U), ("1,2,3", "1,2,4", W), ("1,2", "1,2,3", W), ("3,2,1", r"\{1,2,3\}", R),
    ("1 and 2", "1, 2", R),
    ("x=1 or x=2", "1, 2", R), ("x = 1, x = 2", "1,2", R), ("1, 2", "1", U), ("2, 3", "1", W),
    ("2,3", "1", U),
    ("(100,200)", "(100, 200)", R), ("(1,234)", "(1, 234)", R), ("1", "1, 2", U),
    ("(1,234)", "1234", U),
    (r"\{1/3\}", r"\{0.3333333\}", W), (r"(1, \infty)", r"(1,\infty)", R),
    (r"(1, \infty)", "(1, 2)", W),
    (r"(1, 2]", r"(1, \frac{4}{2}]", R), (r"((1,2),(3,4))", "((1,2),(3,4.0))", R),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", R),
    (r"\begin{pmatrix}1/2\\x+1\end{pmatrix}", r"\begin{bmatrix}0.5\\1+x\end{bmatrix}", R),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}", W),
    (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1&3\end{pmatrix}", W),
    (r"\begin{vmatrix}1\end{vmatrix}", r"\begin{pmatrix}1\end{pmatrix}", U),
]  # fmt: skip

RELATIONS = [  # math-verify's errors among them
    (r"(-\infty,3)", "x<3", R), ("x<3", r"(-\infty,3)", R), (r"x\in[1,2]", r"1\le x\le 2", R),
    (r"1\le x\le 2", r"x \in [1,2]", R),
    ("[1,2]", r"x\in[1,2]", R), ("x<3", "x<4", W), ("x<3", "y<3", U),
    (r"x\le 3", r"(-\infty,3)", W), ("x > 3", "3 < x", R),
    (r"(1,2)\cup(3,4)", r"(3,4)\cup(1,2)", R), (r"(1,2)\cup(3,4)", r"(1,2)\cup(3,5)", W),
    (r"\mathbb{R}", r"(-\infty,\infty)", R),
    (r"\emptyset", r"\{\}", R), ("y=2x+1", "2x+1=y", R), ("2x-y+1=0", "y = 2x + 1", R),
    ("y=2x+1", "y=2x+2", W),
    ("x^2+y^2=4", "y^2+x^2=5", U), (r"1\pm\sqrt2", r"1-\sqrt2, 1+\sqrt2", R),
    ("x<0.3333333333", "x<1/3", W), ("y=2x", "y=2x+1", W),
    ("x^2=-1", "x^2=-2", U), ("0=1", "1=2", U), ("1<2", "3<4", U), ("x^2=4", "x=2", U),
    ("x^2<4", "(-2,2)", R),
    (r"\{1\}\cup\{2\}", r"\{1,2\}", R), ("y=2x", "2y=4x", R), ("y-2x=0", "y-3x=0", W),
    ("x^2+y^2=4", "x^2+y^2=4x", U),
    ("f(x)=x", "fx=x", U), (r"x\ne 0", r"(-\infty,0)\cup(0,\infty)", R),
    (r"(1,2)\cup(2,3)", "(1,3)", W), (r"(1,2]\cup(2,3)", "(1,3)", R),
    (r"(1,2)\cup(2,\sqrt{9}]", r"(2,3]\cup(1,2)", R), ("2<x<6", "(2,6)", R), ("x<y", "y<x", U),
    (r"2 < x \le 5", "(2,5]", R),
    ("5 > x > 2", "(2,5)", R), ("x<y", "y>x", R), ("x>3", "x<3", W), (r"x\in(1,2)", "1<y<2", U),
    (r"\pm 3", "3, -3", R),
    (r"2\pm\sqrt3", r"\{2-\sqrt3, 2+\sqrt3\}", R), (r"\pm 3", "3", U),
    (r"(1,2)\cup(2,3)", r"(1,2)\cup[2,3)", W),
    (r"\{10^{-30}\}\cup(1,2)", r"\{0\}\cup(1,2)", W), ("x=3=5", "5", U),
    ("x^2<10^{-30}", "x^2<0", U), ("x+y<3", "y+x<3", R), (r"\{x,5\}", r"\{|x|,5\}", U),
    (r"\{1,1,2\}", r"\{1,2\}", U),
    ("x>1 and x<3", "x>1 or x<3", U),
    ("x<1 or x>3", "x<1 or x>3.0", R), (r"x\in(5,3)", r"x\in(7,2)", W),
    ("3<x<1", "5<x<2", W), (r"x\in[2,2]", "2<x<2", W), (r"\varnothing", r"\emptyset", R),
    ("|x|<1", "-1<x<1", U),
]  # fmt: skip

WORDS = [
    ("(B)", "B", R), ("(B)(C)", "B", U), ("(B) or (C)", "B", U), ("{1,2}", r"\{2,1\}", R),
    ("B", "(B)", R), ("(b)", "B", R), ("B", "A", W),
    ("(C)", "(B)", W), ("B) 12 cm", "B", R), ("B. It isn't this", "B", U), ("B. No", "B", U),
    ("B) is impossible", "B", U),
    ("ABC", "ABC", R), ("RED", "red", R), ("(B) 12", "(A)", W), ("B.", "B", R), ("5", "B", U),
    ("11", "B", U), ("yes", "Yes", R),
    ("Yes.", "yes", R), ("no", "Yes", W), ("True", "false", W), ("yes", "true", U),
    (r"\text{Yes}", "yes", R), ("Red", "red", R),
    ("AB", "ab", U), ("AB", "AB", R), ("NO", "no", R), ("the red car", "Red car", R),
    ("red", "blue", U),
    ("Saturn", "the planet Saturn", U), ("not red", "red", U),
    ("__import__('os').system('false')", "5", U),
    ("().__class__.__base__", "5", U), ("5; import os", "5", U), ("{{5}}", "5", R),
    ("eval(5)", "5", U), ("${jndi:x}", "5", U),
    (r"\input{x}", "5", U), ("5<!-- -->", "5", U), ("5\u200b", "5", U), ("5\u202e", "5", U),
]  # fmt: skip

SOLUTIONS = [
    (r"so \boxed{12}", "12", R), (r"so \boxed{12}.", "13", W), (r"\boxed{\frac{1}{2}}", "0.5", R),
    (r"\boxed{1", "1", U),
    (r"\boxed{}", "1", U), (r"\boxed{\boxed{3}}", r"\boxed{3}", R),
    (r"\boxed{3} or \boxed{4}", "4", U),
    (r"\boxed{3} or \boxed{4}", "3", U), (r"\boxed{3}, so \boxed{3.0}", "3", R),
    (r"\boxed{\{1, 2\}}", r"\{2, 1\}", R),
    ("#### 18", "18", R), ("He has 4.\n#### 18", "It is\n#### 18", R), ("#### 18", "#### 19", W),
    ("The answer is 18.", "18", R),
    ("The final answer is: **18**", "18", R), ("Answer: 18 dollars", "18", R),
    ("**Answer:** 18", "18", R), ("A: 18", "18", R),
    ("A: 18\nB: 19", "18", U), ("The answer is 18. Let me check.", "18", R),
    ("The answer is not 18", "18", U),
    ("The answer is 18 or 19", "18", U), ("The answer is 17.\nNo. The answer is 18.", "18", R),
    ("He has 18 eggs and sells them all to 5 neighbours.", "18", U),
    ("18 + 3 = 21, he said, and left", "21", U),
    (r"<think>\boxed{1}</think> \boxed{2}", "2", R), (r"<think>\boxed{2}", "2", U), ("", "0", W),
    (" \n", "0", W),
    ("x\n" * 5000 + "18", "18", U), ("What is 18?\n" * 5000 + "#### 18", "18", R),
    (r"\boxed{" * 2000, "1", U),
    ("The answer is" + "\n" * 100_000, "5", U),
    (r"\boxed{" + "{" * 100_000, "1", U), (r"\boxed{12\text{ cm}}", "12 m", W),
]  # fmt: skip

TABLE = NUMBERS + UNITS + ALGEBRA + LISTS + RELATIONS + WORDS + SOLUTIONS


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
    side has worked out.
    """
    pairs = [
        (target, text)
        for text, target, verdict in TABLE
        if verdict is not R and text.strip() and len(text) < 500
    ]
    told = [pair for pair, verdict in zip(pairs, check_many(pairs), strict=True) if verdict is R]
    assert set(told) <= {("5", "2+3"), ("6", "2*3"), ("-5", "- 5")}


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


@given(rationals)
def test_a_number_is_right_however_it_is_written(number: Fraction) -> None:
    for form in written(number):
        assert check(form, str(number)) is R and check(str(number), form) is R, form


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


# -- the pool


def test_a_check_ends_within_its_limit() -> None:
    """A call that never ends is killed; the next one has a process again."""
    for function, args in ((time.sleep, (60,)), (bytearray, (proofs.MEMORY,))):
        assert proofs.results([proofs.pool().submit(function, args, 0.3)]) == [None]
    assert check(r"\ln 8", r"3\ln 2") is R


def test_killed_processes_are_replaced() -> None:
    pids = proofs.results([proofs.pool().submit(os.getpid, (), 5.0) for _ in range(4)])
    for pid in set(pids):
        os.kill(pid, signal.SIGKILL)
    assert check_many([(r"\ln 8", r"3\ln 2"), (r"(1,2)\cup\{3\}", r"\{3\}\cup(1,2)")]) == [R, R]


def test_a_process_that_dies_of_a_call_leaves_it_undecided() -> None:
    assert proofs.results([proofs.pool().submit(os._exit, (3,), 5.0)]) == [None]


def test_four_threads() -> None:
    pairs = [
        (r"\ln 8", r"3\ln 2"),
        ("x<3", r"(-\infty,3)"),
        ("1/2", "0.5"),
        (r"\sqrt8", r"2\sqrt2"),
        ("x+1", "x+2"),
        (r"\sin 2x", r"2\sin x\cos x"),
    ]
    wanted = [R, R, R, R, W, R]
    told: dict[int, list[Verdict]] = {}
    threads = [
        threading.Thread(target=lambda i=i: told.setdefault(i, check_many(pairs, seconds=30.0)))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [told[i] for i in range(4)] == [wanted] * 4


def test_equal_pairs_are_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    pool = proofs.pool()
    monkeypatch.setattr(proofs, "pool", lambda: pool)
    monkeypatch.setattr(
        pool, "submit", lambda *call: (asked.append(call), type(pool).submit(pool, *call))[1]
    )
    assert check_many([(r"\ln 8", r"3\ln 2")] * 50 + [("5", "5")] * 50) == [R] * 100
    assert len(asked) == 1


def test_a_fork_makes_a_pool_of_its_own() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if proofs.pool.cache_info().currsize == 0 else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_without_math_verify_it_is_undecided_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(proofs.importlib.util, "find_spec", lambda name: None)
    proofs.installed.cache_clear()
    try:
        assert check_many(
            [("x^2<4", "(-2,2)"), ("x^2<4", "(-2,3)"), ("1/2", "0.5"), ("x<2", r"(-\infty,2)")]
        ) == [U, U, R, R]
    finally:
        proofs.installed.cache_clear()
    assert [record.message.count("copse-search[math]") for record in caplog.records] == [1]


def test_checking_loads_nothing_heavy() -> None:
    code = "import sys, guides; guides.check('1/2', '0.5'); guides.check('x', '(x+1)-1'); "
    code += "print([name for name in ('torch', 'sympy', 'math_verify') if name in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


# -- votes


def test_classes_of_equal_answers() -> None:
    answers = [
        "1/2",
        "0.5",
        r"\frac12",
        "x = 2",
        "2",
        "sqrt(4)",
        "18 eggs",
        "18",
        r"\sqrt{8}",
        r"2\sqrt2",
        r"\sin 2x",
        r"2\sin x\cos x",
        "(1,2)",
        "( 1, 2.0 )",
        "blue",
        "x+1",
        "1+x",
    ]
    assert classes(answers) == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 7]
    assert classes([]) == [] and classes(["", "", "5"]) == [0, 0, 1]
    assert classes(["9" * 5000, "9" * 5000 + ".0", "9" * 4999 + "8"]) == [0, 0, 1]


def test_a_number_joins_one_unit_alone() -> None:
    assert classes(["18", "18 dollars", "18 cm"]) in ([0, 0, 1], [0, 1, 0])


def test_a_thousand_answers_are_no_million_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    decide = answers.compare.decide
    monkeypatch.setattr(
        answers.compare, "decide", lambda a, b: (compared.append(1), decide(a, b))[1]
    )
    said = (
        [rf"\sqrt{{{n}}}+{n % 7}" for n in range(2, 252)]
        + [rf"{n % 7}+{n}^{{1/2}}" for n in range(2, 252)]
        + [f"{n}/3" for n in range(250)] * 2
    )
    kinds = classes(said)
    assert kinds[:250] == kinds[250:500] and kinds[500:750] == kinds[750:] and len(compared) < 1_000


def finish(node: int, answer: str) -> Finish:
    return Finish(node, answer, None, 0.5, 1)


def test_equal_answers_vote_together() -> None:
    found = [finish(i, answer) for i, answer in enumerate(["3", "1/2", "0.5", r"\frac{1}{2}", "3"])]
    assert majority(found).answer == "3"
    joined = merge_equal(found, classes)
    assert majority(joined).answer == "1/2" and [one.node for one in joined] == [0, 1, 2, 3, 4]


def test_a_search_in_free_text_counts_by_classes() -> None:
    """Three ways to write one half outvote two equal threes, where the guide knows classes."""
    replies = [
        r"So \boxed{3}",
        r"So \boxed{1/2}",
        r"So \boxed{0.5}",
        r"So \boxed{3}",
        r"So \boxed{\frac12}",
    ]
    counter = iter(range(100))
    guide = scripted_guide(lambda request: generated(replies[next(counter) % 5]), value=False)
    plain = search.solve("What is a half?", guide, "sample", "tokens=20000", chains=5)
    assert plain.answer == "3" and len(plain.candidates) == 4
    counter = iter(range(100))
    joint = search.solve(
        "What is a half?", replace(guide, classes=classes), "sample", "tokens=20000", chains=5
    )
    assert joint.answer == "1/2" and [(answer, share) for answer, share, _ in joint.candidates] == [
        ("1/2", 0.6),
        ("3", 0.4),
    ]
