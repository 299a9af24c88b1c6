r"""Whether two answers, each written in the one notation of `normalise.tidy`, say the same:
numbers, algebra, lists and sets, choices, words.

`decide` answers True, False or None, which means that it cannot be known here; or it names the
function that has to be asked, in a process that can be killed (`guides.answers.proofs`). Nothing is
rounded, and the form of an expression is not judged: (x + 1)^2 is x^2 + 2x + 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from guides.answers import equality, grammar, intervals, quantities
from guides.answers.evaluate import calculation
from guides.answers.grammar import Node
from guides.answers.normalise import LONGEST, parts
from guides.answers.proofs import installed, math_verify_equal, prove_equal

_NAMED = re.compile(
    r"([a-zA-Z](?:_\w|_\{\w+\})?|[a-zA-Z]\([a-zA-Z]\)|\\[a-z]+) ?(?:=|\\in(?![a-z])) ?([^=<>]+)",
    re.ASCII,
)
_CHOICE = re.compile(r"(\()?([A-Za-z])(?(1)\))")
_CHOSEN = re.compile(
    r"(?:\(([A-Z])\)|([A-Z])[).:] )(?!.*(?:n['’]t\b|\b(?:[A-Z]|(?i:or|and|not?|nor|none|neither|"
    r"never|cannot|impossible|ruled|"
    r"excluded|eliminated|except|wrong|incorrect|false))\b)).*"
)
_WORDS = re.compile(r"[A-Za-z]{2,}(?: [A-Za-z]{2,})*")
_OPPOSITES = (("yes", "no"), ("true", "false"))
_INFINITY = re.compile(r"[-+]?\\infty")
_CONJUNCTION = re.compile(r",? (?:or|and) ")
_EITHER_SIGN = re.compile(r" ?\\pm(?![a-zA-Z]) ?")
_COMMAS = re.compile(r"[-\d.,]+", re.ASCII)  # 2,5 is a number to many
_BRACKETS = (("(", ")"), ("[", "]"), ("(", "]"), ("[", ")"), ("\\{", "\\}"), ("{", "}"))
_FOR_MATH_VERIFY = re.compile(
    r"(?:\\(?:le|ge|ne|in|cup|cap|infty|frac|sqrt|pi|pm|setminus|emptyset|varnothing|subset|sin|cos|tan|ln|log|alpha|beta|theta|"
    r"mathbb\{[RZQNC]\})(?![a-zA-Z])|\\[\\{}]|(?<![a-zA-Z])[a-zA-Z](?![a-zA-Z])|[-+*/^=<>()\[\]{}|"
    r",;.!&_ ]|\d)+",
    re.ASCII,
)
_RELATES = re.compile(r"[=<>]|\\(?:le|ge|ne|in|cup|cap|setminus|pm|emptyset|mathbb)(?![a-zA-Z])")
_MATRIX = re.compile(r"\\begin\{([pbv]?)matrix\}((?:(?!\\begin|\\end).)*)\\end\{\1matrix\}")
_COMPARES = re.compile(r"[<>]|\\(?:le|ge|ne)(?![a-zA-Z])")
_MEMBER = re.compile(r"^([a-zA-Z]) ?\\in(?![a-z]) ?", re.ASCII)
_BARE = re.compile(r"\\(?:mathbb\{.\}|[a-zA-Z]+)")
_LETTER = re.compile(r"[a-zA-Z]")
_DEEPEST = 4  # lists in lists
_PAIRS = 400  # of members of two sets, at most, those of sets in sets included
_TAIL = re.compile(
    r" (?!pi(?![a-zA-Z]))[a-zA-Z]+(?:\^\{?\d\}?)?(?:/[a-zA-Z]+(?:\^\{?\d\}?)?)?$", re.ASCII
)


@dataclass(frozen=True)
class Asked:
    """What has to be asked of `mathpool`: whether `function(*args)` is True."""

    function: Callable[..., bool | None]
    args: tuple


Decision = bool | None | Asked


def decide(answer: str, target: str) -> tuple[Decision, str]:
    """Whether a tidy answer is the tidy target, and which way told: "text", "numbers",
    "grammar", "pool" or "math-verify".
    """
    if answer == target:
        return True, "text"
    if max(len(answer), len(target)) > LONGEST:
        return None, "text"
    return _decide(answer, target, 0)


def _decide(answer: str, target: str, depth: int) -> tuple[Decision, str]:
    if answer == target:
        return True, "text"
    a, b = quantities.quantity(answer), quantities.quantity(target)
    if a is not None and b is not None:
        return quantities.compare(a, b), "numbers"
    if (said := _by_words(answer, target)) is not NotImplemented:
        return said, "text"
    for reader in (_by_cells, _by_regions):
        if (said := reader(answer, target, depth)) is not NotImplemented:
            return said, "grammar"
    name, value = named(answer)
    wanted, worth = named(target)
    if (
        name == wanted != ""
        or (name and not _RELATES.search(target))
        or (wanted and not _RELATES.search(answer))
    ):
        return _decide(value, worth, depth)
    if name or wanted:
        return _relation(answer, target)
    if (said := _by_parts(answer, target, depth)) is not NotImplemented:
        return said, "grammar"
    if any(one is not None and one.unit is not None and one.unit[0] != "angle" for one in (a, b)):
        return None, "text"  # a quantity, and what is none: 2cm is not 2mc
    return _by_grammar(answer, target, b)


def named(text: str) -> tuple[str, str]:
    """("x", "5") of x = 5, ("x", "[1, 2]") of x in [1, 2]; ("", text) where no name stands
    before the answer.
    """
    match = _NAMED.fullmatch(text)
    if match is None or (
        match[1].isalpha() and re.search(rf"(?<![a-zA-Z\\]){match[1]}(?![a-zA-Z])", match[2])
    ):
        return "", text
    return match[1], match[2]


def _by_words(answer: str, target: str) -> bool | None:
    """Choices, yes and no, and equal words; NotImplemented where they are something else."""
    choice, chosen = (
        _CHOICE.fullmatch(target),
        _CHOICE.fullmatch(answer) or _CHOSEN.fullmatch(answer),
    )
    if choice is not None and (choice[1] or choice[2].isupper()):
        if chosen is None:
            return None  # what the choice says, perhaps
        mine = chosen[2] or chosen[1]
        if choice[1] or chosen.group(0).startswith("("):
            return mine.upper() == choice[2].upper()
        return mine == choice[2] or (None if mine.islower() else False)
    if not _WORDS.fullmatch(answer) or not _WORDS.fullmatch(target):
        return NotImplemented
    mine, other = (re.sub(r"^(?:the|a|an) ", "", text.lower()) for text in (answer, target))
    if mine == other:
        if (
            {answer.isupper(), target.isupper()} == {True, False}
            and len(mine) == 3
            and list(mine) == sorted(set(mine))
        ):
            return None  # ABC may be a product, and abc another
        return True if len(mine) > 2 or mine == "no" else None  # AB may not be ab
    return False if any(mine in pair and other in pair for pair in _OPPOSITES) else None


# -- lists, tuples, sets, intervals


def structure(text: str) -> tuple[str, list[str]] | None:
    r"""The brackets around a list ("()", "[)", "\{\}", "" for none) and what stands between its
    commas; None where it is no list.
    """
    for left, right in _BRACKETS:
        if text.startswith(left) and text.endswith(right) and len(text) >= len(left + right):
            inside = parts(text[len(left) : len(text) - len(right)], thousands=False)
            if inside is not None and (len(inside) > 1 or left == "\\{"):
                return ("\\{\\}" if left == "{" else left + right), inside if inside != [""] else []
    if len(_EITHER_SIGN.findall(text)) == 1 and "," not in text:
        return "\\{\\}", [_EITHER_SIGN.sub(sign, text) for sign in "+-"]
    found = parts(_CONJUNCTION.sub(", ", text), thousands=True)
    return ("", found) if found is not None and len(found) > 1 and all(found) else None


def _by_parts(answer: str, target: str, depth: int) -> bool | None:
    mine, other = structure(answer), structure(target)
    if mine is None and other is None:
        return NotImplemented
    if depth >= _DEEPEST or mine is None or other is None:
        return _list_against_one(answer, target, mine or other, mine is None, depth)
    (brackets, a), (others, b) = mine, other
    sets = [kind == "\\{\\}" for kind in (brackets, others)]
    if (
        len(a) > 40
        or len(b) > 40
        or (_COMPARES.search(answer + target) and (" or " in answer) != (" or " in target))
    ):
        return None  # too many; or x > 1 and x < 3, perhaps
    if brackets == others and brackets and not any(sets):
        return (
            _all(_plainly(x, y, depth + 1) for x, y in zip(a, b, strict=True))
            if len(a) == len(b)
            else False
        )
    if answer.count(",") * target.count(",") > _PAIRS:
        return None
    told = [[_plainly(x, y, depth + 1) for y in b] for x in a]
    in_order = _all(told[i][i] for i in range(len(a))) if len(a) == len(b) else False
    if any(sets):
        return (
            _matched(told, len(b))
            if brackets in ("", "\\{\\}") and others in ("", "\\{\\}")
            else None
        )
    if brackets == others == "":  # an enumeration: its order may count or not
        return in_order or (
            None
            if in_order is None or _matched(told, len(b)) is not False or _unclear(answer, target)
            else False
        )
    return None if in_order is not False else _matched(told, len(b)) and None


def _by_cells(answer: str, target: str, depth: int) -> bool | None:
    """Matrices, cell by cell; NotImplemented where neither is one."""
    mine, other = _MATRIX.fullmatch(answer), _MATRIX.fullmatch(target)
    if mine is None and other is None:
        return NotImplemented
    if (
        depth >= _DEEPEST
        or mine is None
        or other is None
        or ("v" in (mine[1], other[1]) and mine[1] != other[1])
    ):
        return None
    a, b = (
        [row.split("&") for row in found[2].strip().removesuffix("\\\\").split("\\\\")]
        for found in (mine, other)
    )
    if [len(row) for row in a] != [len(row) for row in b]:
        return False
    cells = [
        (x.strip(), y.strip())
        for left, right in zip(a, b, strict=True)
        for x, y in zip(left, right, strict=True)
    ]
    return _all(_plainly(x, y, depth + 1) for x, y in cells) if len(cells) <= 40 else None


def _by_regions(answer: str, target: str, depth: int) -> bool | None:
    """Intervals and inequalities where one is more than a pair; NotImplemented where they are
    none, or unions of other pieces.
    """
    if not _RELATES.search(answer) and not _RELATES.search(target):
        return NotImplemented
    if (equation := intervals.same_equation(answer, target)) is not None:
        return equation
    mine, other = intervals.region(answer), intervals.region(target)
    if mine is None or other is None or depth >= _DEEPEST:
        return NotImplemented
    if mine[0] and other[0] and mine[0] != other[0]:
        return None
    if (said := intervals.same_points(mine[1], other[1])) is not None:
        return said
    said = _matched(
        [[_same_interval(a, b, depth + 1) for b in other[1]] for a in mine[1]], len(other[1])
    )
    return said if said or len(mine[1]) == len(other[1]) == 1 else NotImplemented


def _same_interval(a: intervals.Interval, b: intervals.Interval, depth: int) -> bool | None:
    ends = (_plainly(a.low, b.low, depth), _plainly(a.high, b.high, depth))
    return _all((a.with_low == b.with_low, a.with_high == b.with_high, *ends))


def _list_against_one(
    answer: str, target: str, found: tuple[str, list[str]] | None, mine_is_one: bool, depth: int
) -> bool | None:
    """One answer is no list of several, but what looks like a list may be a number in another
    country's writing, or a set.
    """
    assert found is not None
    one = answer if mine_is_one else target
    if (
        depth >= _DEEPEST
        or len(found[1]) > 40
        or _unclear(answer, target)
        or _COMMAS.fullmatch(answer if not mine_is_one else target)
    ):
        return None
    if found[0] == "\\{\\}" and len(found[1]) == 1:
        return None
    if quantities.quantity(one) is None and grammar.read(one) is None:
        return NotImplemented
    return False if all(_plainly(part, one, depth + 1) is False for part in found[1]) else None


def _unclear(answer: str, target: str) -> bool:
    """Whether a comma, or an and, may be part of a number: 1, 234 or 2 and 1/2."""
    return (
        re.search(r"\d, ?\d{3}(?!\d)|\d and (?:\d+/\d|\\frac)", answer + " " + target, re.ASCII)
        is not None
    )


def _plainly(a: str, b: str, depth: int) -> bool | None:
    if _INFINITY.fullmatch(a) or _INFINITY.fullmatch(b):
        return a.lstrip("+") == b.lstrip("+")
    said, _ = _decide(a, b, depth)
    return None if isinstance(said, Asked) else said


def _all(told: object) -> bool | None:
    verdicts = list(told)  # type: ignore[call-overload]
    return False if False in verdicts else None if None in verdicts else True


def _matched(told: Sequence[Sequence[bool | None]], others: int) -> bool | None:
    """Whether each row has a column of its own that is True, and each column a row."""
    columns = [[row[j] for row in told] for j in range(others)]
    if any(all(said is False for said in line) for line in [*told, *columns]):
        return False
    once = all(list(line).count(True) == 1 for line in [*told, *columns])
    return True if once and len(told) == others else None


# -- algebra


def _by_grammar(
    answer: str, target: str, number: quantities.Quantity | None
) -> tuple[Decision, str]:
    (a, unit), (b, other) = measured(answer), measured(target)
    if a is None or b is None:
        return _relation(answer, target)
    if unit and other and unit[:2] != other[:2]:
        return False, "grammar"
    if unit and other and unit[2] != other[2]:
        a, b = ("mul", a, ("num", unit[2])), ("mul", b, ("num", other[2]))
    try:
        said = equality.compare(a, b)
    except equality.Unproven:
        return Asked(prove_equal, (a, b)), "pool"
    if said and number is not None and calculation(a):
        said = None  # 2 + 3 is not yet 5
    if said is False and (bool(unit) != bool(other) or _unit_perhaps(answer, target)):
        said = None
    return said, "grammar"


def _unit_perhaps(answer: str, target: str) -> bool:
    """Whether letters at the end of one of the two, which make them differ, may be a unit, as in
    3 m/s or 5 N.
    """
    a, b = _TAIL.sub("", answer), _TAIL.sub("", target)
    return (a == answer) != (b == target) and _plainly(a, b, _DEEPEST) is not False


@lru_cache(2048)
def measured(text: str) -> tuple[Node | None, tuple | None]:
    """The expression of a text, and the unit after it where there is one that we know, as in
    2\\sqrt{3} cm.
    """
    node = grammar.read(text)
    body, _, tail = text.rpartition(" ")
    if (
        (node is None or tail[1:2].isalpha())
        and body
        and (unit := quantities.unit_of(tail))
        and unit[0] not in ("%", "word")
    ):
        return grammar.read(body.strip()), unit
    quantity = quantities.quantity(text) if node is None else None
    return (
        (("num", quantity.value), None)
        if quantity is not None and quantity.unit is None
        else (node, None)
    )


def _relation(answer: str, target: str) -> tuple[Decision, str]:
    asked = for_math_verify(answer, target)
    if asked is None:
        return None, "text"
    return (asked if installed() else None), "math-verify"


def for_math_verify(answer: str, target: str) -> Asked | None:
    """The question for math-verify; None where it is none for it: words and units, of which it
    drops some, and what relates nothing.
    """
    texts = (answer, target)
    if not all(len(text) <= 400 and _FOR_MATH_VERIFY.fullmatch(text) for text in texts) or not any(
        map(_RELATES.search, texts)
    ):
        return None
    if any(
        "=" in text or (_COMPARES.search(text) and not _LETTER.search(_BARE.sub("", text)))
        for text in texts
    ):
        return None  # equations, of which it thinks too well, and 1 < 2
    members = [_MEMBER.match(text) for text in texts]
    if all(members) and len({member[1] for member in members if member}) > 1:
        return None
    if any(
        member and member[1] not in _BARE.sub("", other)
        for member, other in zip(members, texts[::-1], strict=True)
    ):
        # of another letter
        texts = tuple(
            text for text in texts if not _LETTER.search(_BARE.sub("", _MEMBER.sub("", text)))
        )
    return (
        Asked(math_verify_equal, tuple(_MEMBER.sub("", text) for text in texts))
        if len(texts) == 2
        else None
    )
