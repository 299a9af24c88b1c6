r"""Names before answers, and chains of equals: x = 5, \angle ABC = 60°, (x, y) = (3, 2), a + b = 5,
x = 7/2 = 3.5, 2\sqrt{3} \approx 3.46.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

from guides.answers import equality
from guides.answers.grammar import measured
from guides.answers.lists import structure
from guides.answers.normalise import parts
from guides.answers.quantities import quantity
from guides.answers.units import unit_of

_NAME = re.compile(
    r"""[a-zA-Z](?:_\w|_\{\w+\})?'*
    |[a-zA-Z]\([^()=<>]{1,20}\)
    |\\[a-z]+
    |\\(?:overline|overrightarrow|vec|widehat|hat)\ ?\{[A-Za-z]{1,3}\}
    |(?:m\ ?)?\\angle\ ?[A-Z]{1,3}|\|[A-Z]{2}\||[A-Z]{2,4}
    |\\(?:sin|cos|tan|cot)\ ?(?:\\[a-z]+|[A-Z]|\\angle\ ?[A-Z]{1,3})
    |\([a-zA-Z](?:,\ ?[a-zA-Z])+\)""",
    re.ASCII | re.VERBOSE,
)
_TOGETHER = re.compile(r"[a-zA-Z]+(?:[-+*/][a-zA-Z]+)+|[a-z]{2,3}", re.ASCII)  # a+b, xy
_MEMBER = re.compile(r"([a-zA-Z]) ?\\in(?![a-z]) ?([^=<>]+)", re.ASCII)
_ABOUT = re.compile(r" ?\\(?:approx|simeq)(?![a-zA-Z]) ?")
_TUPLE = re.compile(r"\(([^()=]+)\) ?= ?(\([^=]+\))")


def named(text: str) -> tuple[str, str]:
    """("x", "5") of x = 5, ("x", "[1, 2]") of x in [1, 2], ("a+b", "3.5") of a + b = 7/2 = 3.5,
    ("", "5") of 2 + 3 = 5; ("", text) where there is no name, or the chain does not hold.
    """
    member = _MEMBER.fullmatch(text)
    if member is not None:
        return member[1], member[2]
    sides = text.split("=")
    last, *about = _ABOUT.split(sides[-1])
    sides = list(map(str.strip, (*sides[:-1], last)))
    if (len(sides) == 1 and not about) or not all(sides) or re.search(r"[<>]", text):
        return "", text
    name = sides.pop(0) if is_name(sides[0]) else ""
    if not sides or not _equal(sides) or not all(_near(sides[-1], decimal) for decimal in about):
        return "", text
    if len(name) == 1 and re.search(rf"(?<![a-zA-Z\\]){name}(?![a-zA-Z])", sides[-1]):
        return "", text
    worked_out = list(filter(quantity, sides))
    return name, (worked_out or sides)[-1]


def is_name(text: str) -> bool:
    """Whether something that is asked for is called so: x, f(2), AB, Area, a + b."""
    if _NAME.fullmatch(text):
        return True
    if of_several(text):
        return len(set(re.findall("[a-zA-Z]", text))) > 1
    return bool((unit_of(text) or ("",))[0] == "word")


def of_several(name: str) -> bool:
    """Whether a name is made of several letters: x + y = 5 may be a line, too."""
    return _TOGETHER.fullmatch(name) is not None


def out_of_order(names: str | Iterable[str]) -> bool:
    """Whether several names, or those of a tuple, are not in the order of the alphabet: whether
    bare values beside them are meant in their order cannot be known.
    """
    several = list(names)
    if isinstance(names, str):
        several = re.findall("[a-zA-Z]", names) if names.startswith("(") else []
    return several != sorted(several)


def _equal(sides: list[str]) -> bool:
    """Whether all sides of a chain are surely worth the same."""
    return all(equality.surely(measured(a), measured(b)) for a, b in pairwise(sides))


def _near(text: str, decimal: str) -> bool:
    """Whether a number is about a decimal: off by less than one in its last place."""
    node, _ = measured(text)
    about = quantity(decimal)
    if node is None or about is None:
        return False
    digits = re.search(r"\.(\d+)", decimal)
    place = 10 ** -len(digits[1]) if digits else 1
    return equality.near(node, about.value, place)


def assignments(text: str) -> dict[str, str] | None:
    """{"x": "3", "y": "2"} of x = 3, y = 2 and of (x, y) = (3, 2); None where it is no such
    thing, or a name comes twice.
    """
    pair = _TUPLE.fullmatch(text)
    if pair is not None:
        names = parts(pair[1], thousands=False) or []
        values = structure(pair[2])
        if values is None or len(values[1]) != len(names) or not all(map(is_name, names)):
            return None
        found = list(zip(names, values[1], strict=True))
    else:
        listed = structure(text)
        if listed is None or listed[0] not in ("", "()") or "=" not in text:
            return None
        found = list(map(named, listed[1]))
    assigned = dict(found)
    if "" in assigned or len(assigned) < len(found) or len(found) < 2:
        return None
    return assigned
