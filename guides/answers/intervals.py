r"""Intervals, unions of them and inequalities in one letter as one thing: 1 < x \le 2 is (1, 2].
Equations as one side that is 0.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

from guides.answers import equality, quantities
from guides.answers.evaluate import exact
from guides.answers.grammar import Node, letters, read
from guides.answers.normalise import parts

_COMPARISON = re.compile(r" ?(<|>|\\(?:le|ge|ne)(?![a-z])) ?")
_LETTER = re.compile(r"[a-zA-Z]", re.ASCII)
_MEMBER = re.compile(r"([a-zA-Z]) ?\\in(?![a-z]) ?(.+)", re.ASCII)
_UNION = re.compile(r" ?\\cup(?![a-z]) ?")
_OR = re.compile(r",? or ")
_BUILT = re.compile(r"\\?\{([a-zA-Z])(?: ?\\in ?\\mathbb\{R\})? ?[|:] ?(.+?)\\?\}", re.ASCII)
_ALL = re.compile(r"\\mathbb\{R\}|(?:the )?(?:set of )?(?:all )?real(?: number)?s", re.IGNORECASE)
_WITHOUT = re.compile(r"\\mathbb\{R\} ?(?:\\setminus(?![a-z])|-) ?\\?\{(.+?)\\?\}")
_MOST = 6  # intervals of a union


@dataclass(frozen=True)
class Interval:
    """Tidy texts of the ends, "-\\infty" and "\\infty" among them, and which ends belong to it."""

    low: str
    high: str
    with_low: bool = False
    with_high: bool = False


def region(text: str) -> tuple[str, tuple[Interval, ...]] | None:
    """(the letter, "" for none, the intervals) that a tidy text writes; None where it is no such
    thing.
    """
    built = _BUILT.fullmatch(text)
    if built is not None:
        found = region(built[2])
        return found if found is not None and found[0] == built[1] else None
    member = _MEMBER.fullmatch(text)
    if member:
        intervals = _union(member[2])
        return None if intervals is None else (member[1], intervals)
    intervals = _union(text)
    return _inequalities(text) if intervals is None else ("", intervals)


def _union(text: str) -> tuple[Interval, ...] | None:
    """The intervals of all numbers, of all but some, or of a union."""
    if _ALL.fullmatch(text):
        return (Interval("-\\infty", "\\infty"),)
    if (without := _WITHOUT.fullmatch(text)) is not None:
        return _gaps(parts(without[1], thousands=False) or [""])
    intervals = list(map(_interval, _UNION.split(text)))
    if len(intervals) > _MOST or None in intervals:
        return None
    return tuple(filter(None, intervals))


def _gaps(points: list[str]) -> tuple[Interval, ...] | None:
    """The intervals between points, in order where they are rational."""
    worth = list(map(_end, points))
    if not all(points) or len(points) >= _MOST or (None in worth and len(points) > 1):
        return None
    ordered = dict(sorted(zip(worth, points, strict=True)))
    ends = ["-\\infty", *ordered.values(), "\\infty"]
    return tuple(itertools.starmap(Interval, pairwise(ends)))


def _inequalities(text: str) -> tuple[str, tuple[Interval, ...]] | None:
    """Inequalities in one letter, of which one must hold."""
    letters: set[str] = set()
    intervals: list[Interval] = []
    for piece in _OR.split(text):
        found = _inequality(piece)
        if found is None:
            return None
        letters.add(found[0])
        intervals += found[1]
    if len(letters) != 1 or len(intervals) > _MOST:
        return None
    return letters.pop(), tuple(intervals)


def _interval(text: str) -> Interval | None:
    if len(text) < 5 or text[0] not in "([" or text[-1] not in ")]":
        return None
    ends = parts(text[1:-1], thousands=False)
    if ends is None or len(ends) != 2 or not all(ends):
        return None
    low, high = (end.removeprefix("+") for end in ends)
    with_low = text[0] == "[" and low != "-\\infty"
    with_high = text[-1] == "]" and high != "\\infty"
    return Interval(low, high, with_low, with_high)


def _inequality(text: str) -> tuple[str, tuple[Interval, ...]] | None:
    """x < a, a < x, a < x < b with any of the signs, and x \\ne a."""
    pieces = _COMPARISON.split(text)
    sides = pieces[::2]
    signs = pieces[1::2]
    if "=" in text or not all(sides) or len(signs) not in (1, 2):
        return None
    if signs == ["\\ne"] and _LETTER.fullmatch(sides[0]):
        return sides[0], (Interval("-\\infty", sides[1]), Interval(sides[1], "\\infty"))
    if all(sign in (">", "\\ge") for sign in signs):
        sides = sides[::-1]
        signs = [{">": "<", "\\ge": "\\le"}[sign] for sign in signs[::-1]]
    if not all(sign in ("<", "\\le") for sign in signs):
        return None
    closed = [sign == "\\le" for sign in signs]
    if len(signs) == 2:
        if not _LETTER.fullmatch(sides[1]):
            return None
        return sides[1], (Interval(sides[0], sides[2], *closed),)
    letters = [_LETTER.fullmatch(side) is not None for side in sides]
    if letters == [True, False]:
        return sides[0], (Interval("-\\infty", sides[1], False, closed[0]),)
    if letters == [False, True]:
        return sides[1], (Interval(sides[0], "\\infty", closed[0], False),)
    return None


def same_points(one: Sequence[Interval], other: Sequence[Interval]) -> bool | None:
    """Whether two unions of intervals with rational ends have the same points; None where an end
    is something else.
    """
    a = _merged(one)
    b = _merged(other)
    if a is None or b is None:
        return None
    return a == b


def _merged(intervals: Sequence[Interval]) -> list[list[Any]] | None:
    """[low, whether it is out, high, whether it is in] of each piece, in order and apart."""
    pieces = []
    for interval in intervals:
        low = _end(interval.low)
        high = _end(interval.high)
        if low is None or high is None:
            return None
        if not (low < high or (low == high and interval.with_low and interval.with_high)):
            return None  # (5, 3) is a slip, not the empty set
        pieces.append([low, not interval.with_low, high, interval.with_high])
    merged: list[list[Any]] = []
    for piece in sorted(pieces):
        last = merged[-1] if merged else None
        if last is not None and (
            piece[0] < last[2] or (piece[0] == last[2] and (last[3] or not piece[1]))
        ):
            last[2:] = max(last[2:], piece[2:])
        else:
            merged.append(piece)
    return merged


def _end(text: str) -> Fraction | float | None:
    if text == "\\infty":
        return math.inf
    if text == "-\\infty":
        return -math.inf
    quantity = quantities.quantity(text)
    if quantity is None or quantity.unit is not None:
        return None
    return quantity.value


def same_equation(answer: str, target: str) -> bool | None:
    """Whether two equations have the same solutions; None where that cannot be known here.

    They have if they say that multiples of one expression are 0. They have not if what solves one,
    found where it is linear in a letter, does not solve the other.
    """
    a = _zero(answer)
    b = _zero(target)
    if (
        a is None
        or b is None
        or not letters(a)
        or not letters(b)
        or equality.opaque(a)
        or equality.opaque(b)
    ):
        return None
    try:
        factor = exact(a, 0) / exact(b, 0)
        if factor and equality.compare(a, ("mul", ("num", Fraction(factor)), b)):
            return True
        if letters(a) == letters(b) and (_solves_one(a, b) or _solves_one(b, a)):
            return False
    except ArithmeticError:
        pass
    return None


def _zero(text: str) -> Node | None:
    """Left side less right side of an equation; None where it is none, or defines a function."""
    left, sign, right = text.partition("=")
    if not sign or re.search(r"[a-zA-Z]\([a-zA-Z]\)", left):
        return None
    one = read(left.strip())
    other = read(right.strip())
    if one is None or other is None:
        return None
    return ("add", one, ("neg", other))


def _solves_one(a: Node, b: Node) -> bool:
    """Whether a zero of a, found where a is linear in a letter, is none of b. The other letters
    have the values of a point.
    """
    for name in sorted(letters(a)):
        first, second, third = (exact(_with(a, name, Fraction(value)), 0) for value in (0, 1, 2))
        if third - second == second - first != 0:
            root = first / (first - second)
            return exact(_with(a, name, root), 0) == 0 and exact(_with(b, name, root), 0) != 0
    return False


def _with(node: Node, name: str, value: Fraction) -> Node:
    """The expression with a number for a letter."""
    if node == ("var", name):
        return ("num", value)
    return tuple(_with(part, name, value) if isinstance(part, tuple) else part for part in node)
