"""Plain numbers and quantities, read exactly: 1,200; -0.5; 3/4; 2 1/2; 3 x 10^8; 12.5%; $18; 12
cm. Nothing is rounded or evaluated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

_PLAIN = re.compile(r"([-+]?)(\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.(\d*))?", re.ASCII)
_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d*)?|\.\d+"
_QUANTITY = re.compile(
    rf"""(?P<sign>[-+]?)\ ?(?P<money>US\$|[$€£¥]|)\ ?(?P<sign2>[-+]?)
    (?:(?P<whole>\d{{1,9}})(?:\ (?P<a>\d{{1,9}})/(?P<b>\d{{1,9}})
        |\\frac\ ?\{{(?P<c>\d{{1,9}})\}}\ ?\{{(?P<d>\d{{1,9}})\}}|\\frac\ ?(?P<e>\d)(?P<f>\d))
    |\\frac\ ?\{{(?P<n>{_DECIMAL})\}}\ ?\{{(?P<m>{_DECIMAL})\}}|\\frac\ ?(?P<s>\d)(?P<t>\d)
    |(?P<top>{_DECIMAL})\ ?/\ ?(?P<bottom>{_DECIMAL})
    |(?P<plain>{_DECIMAL})
        (?:\ ?[eE](?P<exp>[-+]?\d{{1,3}})(?!\d)
        |\ ?[*xX]\ ?10\ ?\^\ ?(?:\{{(?P<ten>[-+]?\d{{1,3}})\}}|(?P<power>[-+]?\d{{1,3}})(?!\d)))?
    )(?P<unit>.*)""",
    re.ASCII | re.VERBOSE,
)  # fmt: skip
_LONGEST = 1_000  # characters of a quantity

_TABLE = {  # dimension -> names and what one of them is
    "length": "mm 1/1000, millimeter 1/1000, millimetre 1/1000, cm 1/100, centimeter 1/100, "
    "centimetre 1/100, m 1, meter 1, metre 1,"
    "km 1000, kilometer 1000, kilometre 1000, in 127/5000, inch 127/5000, inche 127/5000, ft "
    "381/1250, foot 381/1250, feet 381/1250,"
    "yd 1143/1250, yard 1143/1250, mi 1609344/1000, mile 1609344/1000",
    "mass": "mg 1/1000, milligram 1/1000, g 1, gram 1, kg 1000, kilogram 1000, "
    "oz 45359237/1600000, ounce 45359237/1600000,"
    "lb 45359237/100000",
    "time": "s 1, sec 1, second 1, min 60, minute 60, h 3600, hr 3600, hour 3600, day 86400, week "
    "604800",
    "volume": "ml 1/1000, milliliter 1/1000, millilitre 1/1000, l 1, liter 1, litre 1",
    "$": "$ 1, us$ 1, usd 1, dollar 1, buck 1, cent 1/100, ¢ 1/100",
    "€": "€ 1, euro 1, eur 1",
    "£": "£ 1, gbp 1",
    "¥": "¥ 1, yen 1",
    "angle": "° 1, degree 1, deg 1",
    "temperature": "°c 1, degree celsiu 1, degrees celsiu 1",
    "heat": "°f 1, degree fahrenheit 1, degrees fahrenheit 1",
    "year": "year 1, yr 1, month 1/12",
}


def _units() -> dict[str, tuple[str, Fraction]]:
    """Name -> dimension, and what one is."""
    units = {}
    for dimension, entries in _TABLE.items():
        for entry in entries.split(","):
            name, size = entry.strip().rsplit(" ", 1)
            units[name] = (dimension, Fraction(size))
    return units


_UNITS = _units()
# 20 degrees may be 20 °C, and a year 365 days
_PERHAPS = ({"angle", "temperature"}, {"angle", "heat"}, {"time", "year"})
_POWERED = re.compile(r"(square |sq\.? ?|cubic |cu\.? ?)?(.+?)(?:\^\{?([23])\}?)?")
_CHANGES = re.compile(  # words that make another number of the one before them, or take it back
    r"(?:hundred|thousand|[mbtr]+illion|dozen|score|half|halve|quarter|tenth|third|fourth|"
    r"fifth|sixth|seventh|eighth|ninth|\w+th|squared?|cubed?|factorial|times|plus|minus|over|"
    r"mod(?:ulo)?|per ?cent(?:age)?|percent|point|to|or|and|not|no|wrong|incorrect|isn|but|by|"
    r"than|pi|root|power|log|base|pair|couple|gross|double|triple|if|unless|without|instead|"
    r"never|maybe|probably|about|approximately|around|almost|nearly|roughly|between|least|"
    r"most|equal|less|more|fewer|greater|divided|multiplied|sin|cos|tan|exp|sqrt|choose|false|"
    r"guess|error|invalid|unknown|unsure|remainder|reject|rejected|except|negative|binary|hex|"
    r"octal|lakh|crore|kilo|mega|giga|mil|bil|tril|m[il]n|bln|thou|doz|pct|(?:per|pro)?mille|"
    r"hmm|wait|actually|sorry|grand|inverse|prime|recurring|repeating|bar|conjugate|infinity|"
    r"twice|thrice|zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|"
    r"\w+teen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)s?",
)


@dataclass(frozen=True)
class Quantity:
    """A number with its unit: `unit` is (dimension, power, what one is), ("%",), ("word",
    words), or None where there is none.
    """

    value: Fraction
    unit: tuple | None = None


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


@lru_cache(4096)
def quantity(text: str) -> Quantity | None:
    """The number and unit that a tidy `text` (`normalise.tidy`) writes; None: it is no such
    thing, or not for sure. Raises nothing.
    """
    if len(text) > _LONGEST:
        return None
    match = _QUANTITY.fullmatch(text)
    if match is None or (match["sign"] and match["sign2"]):
        return None
    value = _value(match)
    unit = _unit(match["money"], match["unit"])
    if value is None or unit is False:
        return None
    if "-" in match["sign"] + match["sign2"]:
        value = -value
    return Quantity(value, unit or None)


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
    value = read("plain")
    exponent = match["exp"] or match["ten"] or match["power"]
    if value is None or not exponent:
        return value
    return value * Fraction(10) ** int(exponent)


def _unit(money: str, text: str) -> tuple | None | Literal[False]:
    """The unit that stands around a number, None where there is none; False where it may be
    something else than a unit.
    """
    if not money:
        unit = unit_of(text.strip())
        one_letter = len(text.rstrip("0123456789^{}")) == 1
        if text[:1].isalpha() and (one_letter or not unit or unit[0] == "word"):
            return False  # 5m and 2abc are products, perhaps
        return unit
    if text.strip() and unit_of(text.strip()) != unit_of(money.lower()):
        return False
    return unit_of(money.lower())


@lru_cache(1024)
def unit_of(text: str) -> tuple | None | Literal[False]:
    """The unit that `text` names, None for "", False where it may be none. Raises nothing."""
    if not text:
        return None
    if text in ("%", "percent", "per cent"):
        return ("%",)
    match = _POWERED.fullmatch(text)
    assert match is not None
    prefix, name, power = match.groups()
    unit = _named_unit(name)
    if unit and not (prefix and power):
        if prefix:
            size = 2 if prefix[0] == "s" else 3
        else:
            size = int(power or 1)
        if unit[0] == "volume" and size == 1:
            return ("length", 3, unit[1] / 1000)
        return (unit[0], size, unit[1] ** size)
    words = text.split()
    singular = [word.removesuffix("s") for word in words]
    if len(words) > 5 or not re.fullmatch(r"[A-Za-z]{3,20}(?: (?:[A-Za-z]{2,20}|a))*", text):
        return False
    first = words[0]
    if len(first) == 3 and list(first) == sorted(set(first)):  # abc, xyz: a product of letters
        return False
    if any(_CHANGES.fullmatch(word.lower()) for word in words + singular):
        return False
    return ("word", " ".join(singular).lower())


def _named_unit(name: str) -> tuple[str, Fraction] | None:
    if name in ("M", "S", "H", "G", "KM", "MM", "MG"):  # M is no metre
        return None
    forms = [name, name.lower()]
    if len(name) > 3:
        forms.append(name.lower().removesuffix("s"))
    for form in forms:
        if form in _UNITS:
            return _UNITS[form]
    return None


def compare(answer: Quantity, target: Quantity) -> bool | None:
    """Whether two quantities are equal; None where it cannot be known.

    A unit that only one of them names is taken as understood: the target 12 takes 12 cm, and 18
    takes $18. Units that can be converted are. Units that are words must be the same; whether
    different ones agree cannot be known. 50% is 0.5, and it is 50 too where that is a
    whole number beyond 1, because then the percent sign was left out; 0.5% against 0.5 cannot be
    known.
    """
    a = answer.unit
    b = target.unit
    same = answer.value == target.value
    if a == b:
        return same
    if a == ("%",) or b == ("%",):
        return _percent(answer, target)
    if a is None or b is None:
        if same:
            return True
        return _converted(answer.value, target.value, a or b)
    if a[0] == "word" or b[0] == "word" or {a[0], b[0]} in _PERHAPS:
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
    return True if other.value.denominator == 1 and abs(other.value) > 1 else None


def _converted(value: Fraction, other: Fraction, unit: tuple | None) -> bool | None:
    """None where one of two different numbers may be the other in another unit of the same kind,
    as 50 cents and 0.50; else False.
    """
    assert unit is not None
    if unit[0] == "word" or not other:
        return False
    ratios = set()
    for dimension, size in _UNITS.values():
        if dimension == unit[0]:
            ratios.add(unit[2] / size ** unit[1])
    if value / other in ratios or (value and other / value in ratios):
        return None
    return False
