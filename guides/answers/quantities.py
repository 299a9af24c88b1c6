"""Plain numbers and quantities, read exactly: 1,200; -0.5; 3/4; 2 1/2; 3 x 10^8; 0.1666...; 12.5%;
$1.2 million; 12 cm; 1 hour and 20 minutes. Nothing is rounded or evaluated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from guides.answers.units import PERHAPS, Unit, ratios, unit_of

_PLAIN = re.compile(r"([-+]?)(\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.(\d*))?", re.ASCII)
_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d*)?|\.\d+"
_QUANTITY = re.compile(
    rf"""(?P<sign>[-+]?)\ ?(?P<money>US\$|[$€£¥]|)\ ?(?P<sign2>[-+]?)
    (?:(?P<whole>\d{{1,9}})(?:\ (?P<a>\d{{1,9}})/(?P<b>\d{{1,9}})
        |\\frac\ ?\{{(?P<c>\d{{1,9}})\}}\ ?\{{(?P<d>\d{{1,9}})\}}|\\frac\ ?(?P<e>\d)(?P<f>\d))
    |\\frac\ ?\{{(?P<n>{_DECIMAL})\}}\ ?\{{(?P<m>{_DECIMAL})\}}|\\frac\ ?(?P<s>\d)(?P<t>\d)
    |(?P<top>{_DECIMAL})\ ?/\ ?(?P<bottom>{_DECIMAL})
    |(?P<start>\d{{0,30}}\.\d{{0,30}})(?:\\(?:overline|bar)\ ?\{{(?P<period>\d{{1,30}})\}}
        |\\dot\ ?\{{?(?P<first>\d)\}}?(?:(?P<between>\d{{0,30}})\\dot\ ?\{{?(?P<last>\d)\}}?)?)
    |(?P<plain>{_DECIMAL})
        (?:\ ?[eE](?P<exp>[-+]?\d{{1,3}})(?!\d)
        |\ ?[*xX]\ ?10\ ?\^\ ?(?:\{{(?P<ten>[-+]?\d{{1,3}})\}}|(?P<power>[-+]?\d{{1,3}})(?!\d)))?
    )(?P<unit>.*)""",
    re.ASCII | re.VERBOSE,
)  # fmt: skip
_LONGEST = 1_000  # characters of a quantity
SCALES = {  # words that multiply the number before them
    "hundred": 100,
    "thousand": 1_000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
_SCALE = re.compile(rf" ?({'|'.join(SCALES)})s?(?![a-zA-Z])")
_JOINED = re.compile(r",? and |, | (?=\d|\$)")
_PIECES = 4  # of a compound quantity
_ROUNDED = 7  # significant digits of a target that may be a rounding
_FINE = 12  # of an answer that is as good as exact beside it


@dataclass(frozen=True)
class Quantity:
    """A number with its unit.

    unit    as `guides.answers.units` has it; None: there is none
    letter  whether the unit is one letter that hangs on the number, and may be a variable
    scale   what a word such as million multiplied the number by, part of the value
    place   what one is worth in the last place of a plain decimal of seven or more significant
            digits, such as 0.0001, which may be a rounding; None for other numbers
    exact   whether the number is no decimal of few digits, which may be a rounding
    """

    value: Fraction
    unit: Unit | None = None
    letter: bool = False
    scale: int = 1
    place: Fraction | None = None
    exact: bool = True


def plain(text: str) -> tuple[bool, str, str] | None:
    """(negative, digits before the point, digits after it) of a plain decimal such as -1,200.50,
    without idle zeros. None: it is none.

    Equal numbers have equal readings, and no digit string is turned into a number, so millions of
    digits cost what reading them costs.
    """
    match = _PLAIN.fullmatch(text.strip())
    if match is None:
        return None
    sign, whole, fraction = match.groups()
    if not whole and not fraction:
        return None
    whole = (whole or "").replace(",", "").lstrip("0")
    fraction = (fraction or "").rstrip("0")
    return sign == "-" and bool(whole or fraction), whole, fraction


def may_be_rounded(answer: tuple[bool, str, str], target: tuple[bool, str, str]) -> bool:
    """Whether of two readings of `plain` the second may be a rounding of the first."""
    many = len(answer[1]) + len(answer[2]) >= _FINE
    return many and bool(target[2]) and len(target[1]) + len(target[2]) >= _ROUNDED


@lru_cache(4096)
def quantity(text: str) -> Quantity | None:
    """The number and unit that a tidy `text` (`normalise.tidy`) writes; None: it is no such
    thing, or not for sure. Raises nothing.
    """
    if len(text) > _LONGEST:
        return None
    return _single(text) or _compound(text)


def _single(text: str) -> Quantity | None:
    match = _QUANTITY.fullmatch(text)
    if match is None or (match["sign"] and match["sign2"]):
        return None
    value = _value(match)
    rest = match["unit"]
    scale = 1
    if (word := _SCALE.match(rest)) is not None:
        scale = SCALES[word[1]]
        rest = rest[word.end() :]
    unit = _unit(match["money"], rest)
    if value is None or unit is False:
        return None
    if "-" in match["sign"] + match["sign2"]:
        value = -value
    decimal = match["plain"] or ""
    exact = "." not in decimal or _digits(decimal) >= _FINE
    place = None
    if "." in decimal and not (match["exp"] or match["ten"] or match["power"] or scale > 1):
        place = _place(decimal)
    letter = re.match(r"[a-zA-Z](?![a-zA-Z/])", rest) is not None
    return Quantity(value * scale, unit or None, letter, scale, place, exact)


def _value(match: re.Match[str]) -> Fraction | None:
    def read(*names: str) -> Fraction | None:
        for name in names:
            if match[name]:
                return Fraction(match[name].replace(",", "").rstrip("."))
        return None

    if match["whole"]:
        top = read("a", "c", "e")
        bottom = read("b", "d", "f")
        assert top is not None and bottom is not None
        if top >= bottom:  # 2 7/3 may be 2 times 7/3
            return None
        return Fraction(match["whole"]) + top / bottom
    top = read("n", "s", "top")
    if top is not None:
        bottom = read("m", "t", "bottom")
        return top / bottom if bottom else None
    if match["start"]:
        period = match["period"] or match["first"] + (match["between"] or "")
        return _repeating(match["start"], period + (match["last"] or ""))
    value = read("plain")
    exponent = match["exp"] or match["ten"] or match["power"]
    if value is None or not exponent:
        return value
    return value * Fraction(10) ** int(exponent)


def _repeating(start: str, period: str) -> Fraction:
    """What 0.1666... is worth: its start "0.1" and its period "6"."""
    shift = 10 ** len(start.partition(".")[2])
    return Fraction(start + "0") + Fraction(int(period), (10 ** len(period) - 1) * shift)


def _place(decimal: str) -> Fraction | None:
    """What one is worth in the last place of a decimal; None where it has few digits."""
    after = decimal.partition(".")[2]
    if not after or _digits(decimal) < _ROUNDED:
        return None
    return Fraction(1, 10 ** len(after))


def _digits(decimal: str) -> int:
    """The number of significant digits."""
    return len(decimal.replace(".", "").replace(",", "").lstrip("0"))


def _unit(money: str, text: str) -> Unit | None | Literal[False]:
    """The unit that stands around a number, None where there is none; False where it may be
    something else than a unit.
    """
    unit = unit_of(text.strip())
    if not money:
        hangs = text[:1].isalpha() and text.isascii()
        if hangs and (not unit or unit[0] == "word"):
            return False  # 2abc is a product, perhaps
        return unit
    if text.strip() and unit != unit_of(money.lower()):
        return False
    return unit_of(money.lower())


def _compound(text: str) -> Quantity | None:
    """A quantity in several units of one kind, each smaller than the one before it: 1 hour and 20
    minutes. Its unit is the first.
    """
    texts = _JOINED.split(text)
    if not 2 <= len(texts) <= _PIECES:
        return None
    pieces = []
    for part in texts:
        piece = _single(part)
        if piece is None or piece.unit is None or piece.unit[1:2] != (1,) or piece.letter:
            return None
        pieces.append(piece)
    first = pieces[0]
    assert first.unit is not None
    value = Fraction(0)
    for piece in pieces:
        assert piece.unit is not None
        if piece.unit[0] != first.unit[0] or piece.value < 0:
            return None
        value += piece.value * piece.unit[2] / first.unit[2]
    for larger, smaller in pairwise(pieces):
        assert larger.unit is not None and smaller.unit is not None
        if smaller.value * smaller.unit[2] >= larger.unit[2]:  # 1 hour and 90 minutes
            return None
    return Quantity(value, first.unit)


def of_one_kind(texts: list[str]) -> bool:
    """Whether all texts are quantities of one dimension, which may be meant together."""
    found = list(map(quantity, texts))
    kinds = {one.unit[0] for one in found if one is not None and one.unit is not None}
    return len(kinds) == 1 and None not in found


def compare(answer: Quantity, target: Quantity) -> bool | None:
    """Whether two quantities are equal; None where it cannot be known.

    A unit that only one of them names is taken as understood: the target 12 takes 12 cm, and 18
    takes $18. Units that can be converted are. Units that are words must be the same; whether
    different ones agree cannot be known. 50% is 0.5, and it is 50 too where that is a
    number beyond 1, because then the percent sign was left out; 0.5% against 0.5 cannot be known.
    Nor can 5 million against 5. A target that is a rounding of an exact answer to seven or more
    digits is that answer; so is it of a decimal of twelve and more.
    """
    equal = _compare(answer, target)
    understood = answer.unit == target.unit or (
        None in (answer.unit, target.unit) and ("%",) not in (answer.unit, target.unit)
    )
    if target.place is not None and answer.exact and understood:
        equal = equal or abs(answer.value - target.value) * 2 <= target.place
    if equal is False and answer.scale != target.scale and 1 in (answer.scale, target.scale):
        bare = replace(answer, value=answer.value / answer.scale)
        if _compare(bare, replace(target, value=target.value / target.scale)) is not False:
            return None
    return equal


def _compare(answer: Quantity, target: Quantity) -> bool | None:
    a = answer.unit
    b = target.unit
    same = answer.value == target.value
    if a == b:
        return same
    if a == ("%",) or b == ("%",):
        return _percent(answer, target)
    if a is None or b is None:
        if same:
            return None if target.letter else True  # 2 for 2s, a multiple of s
        return _converted(answer.value, target.value, a or b)
    if a[0] == "word" or b[0] == "word" or {a[0], b[0]} in PERHAPS:
        return None
    if {a[0], b[0]} == {"temperature", "heat"}:
        celsius, fahrenheit = answer, target
        if a[0] == "heat":
            celsius, fahrenheit = target, answer
        return fahrenheit.value == celsius.value * 9 / 5 + 32
    return a[:2] == b[:2] and answer.value * a[2] == target.value * b[2]


def _percent(answer: Quantity, target: Quantity) -> bool | None:
    percent, other = answer, target
    if target.unit == ("%",):
        percent, other = target, answer
    if other.unit is not None:
        return None
    if percent.value / 100 == other.value:
        return True
    if percent.value != other.value:
        return False
    return True if abs(other.value) > 1 else None


def _converted(value: Fraction, other: Fraction, unit: Unit | None) -> bool | None:
    """None where one of two different numbers may be the other in another unit of the same kind,
    as 50 cents and 0.50; else False.
    """
    assert unit is not None
    if unit[0] == "word" or not other:
        return False
    known = ratios(unit)
    if value / other in known or (value and other / value in known):
        return None
    return False
