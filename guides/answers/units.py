"""Units: which text names one, of which dimension it is, and what one of them is worth.

A unit is a tuple: (dimension, power, size in the dimension's own unit), as ("length", 2,
Fraction(1, 10000)) for square centimetres; ("%",); or ("word", words) for what is counted. A rate
is of a dimension of its own: ("length per time", 1, size).
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Literal

Unit = tuple

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
    "unit": "unit 1",
}
_RATES = {"mph": "mile/hour", "kph": "km/hour", "kmh": "km/hour"}
_COUNTERS = frozenset("个只条本张件名位人次岁棵元")  # what follows a number in Chinese
#: 20 degrees may be 20 °C, a year 365 days, and a unit a metre
PERHAPS = (
    {"angle", "temperature"},
    {"angle", "heat"},
    {"time", "year"},
    {"unit", "length"},
    {"unit", "volume"},
)


def _units() -> dict[str, tuple[str, Fraction]]:
    """Name -> dimension, and what one is."""
    units = {}
    for dimension, entries in _TABLE.items():
        for entry in entries.split(","):
            name, size = entry.strip().rsplit(" ", 1)
            units[name] = (dimension, Fraction(size))
    return units


_UNITS = _units()
_POWERED = re.compile(r"(square |sq\.? ?|cubic |cu\.? ?)?(.+?)(?:\^\{?([23])\}?)?")
_PER = re.compile(r"(.+?)(?: ?/ ?| per )(.+)")
_WORDS = re.compile(r"[A-Za-z]{3,20}(?: (?:[A-Za-z]{2,20}|a))*")
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


@lru_cache(1024)
def unit_of(text: str) -> Unit | None | Literal[False]:
    """The unit that `text` names, None for "", False where it may be none. Raises nothing."""
    if not text:
        return None
    if text in ("%", "percent", "per cent", "percentage"):
        return ("%",)
    text = _RATES.get(text, text)
    rate = _PER.fullmatch(text)
    if rate is not None and (found := _rate(*rate.groups())) is not None:
        return found
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
    if text in _COUNTERS:
        return ("word", text)
    words = text.split()
    singular = [word.removesuffix("s") for word in words]
    if len(words) > 5 or not _WORDS.fullmatch(text):
        return False
    first = words[0]
    if len(first) == 3 and list(first) == sorted(set(first)):  # abc, xyz: a product of letters
        return False
    if any(_CHANGES.fullmatch(word.lower()) for word in words + singular):
        return False
    return ("word", " ".join(singular).lower())


def _rate(above: str, below: str) -> Unit | None:
    """The unit of so much of one for each of another; None where one of the two is not known."""
    top = unit_of(above)
    bottom = unit_of(below)
    if not top or not bottom or len(top) < 3 or len(bottom) < 3:
        return None
    return (f"{_kind(top)} per {_kind(bottom)}", 1, top[2] / bottom[2])


def _kind(unit: Unit) -> str:
    return unit[0] if unit[1] == 1 else f"{unit[0]}^{unit[1]}"


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


@lru_cache(64)
def ratios(unit: Unit) -> frozenset[Fraction]:
    """What one of `unit` is in each of the units of its kind that have a name."""
    dimension, power, size = unit
    found = set()
    top, _, bottom = dimension.partition(" per ")
    for above in _sizes(top):
        for below in _sizes(bottom) if bottom else (Fraction(1),):
            found.add(size / (above / below) ** power)
    return frozenset(found)


def _sizes(dimension: str) -> list[Fraction]:
    name, _, power = dimension.partition("^")
    return [size ** int(power or 1) for kind, size in _UNITS.values() if kind == name]
