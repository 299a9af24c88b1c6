r"""Whether two answers, each written in the one notation of `normalise.tidy`, say the same:
numbers, algebra, lists and sets, choices, words.

`decide` answers True, False or None, which means that it cannot be known here; or it names the
function that has to be asked, in a process that can be killed (`guides.answers.proofs`). Nothing is
rounded, and the form of an expression is not judged: (x + 1)^2 is x^2 + 2x + 1.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

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
    r"(?:\\(?:le|ge|ne|in|cup|cap|infty|frac|sqrt|pi|pm|setminus|emptyset|"
    r"varnothing|subset|sin|cos|tan|ln|log|alpha|beta|theta|"
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
_MEMBERS = 40  # of a list or matrix that is read
_PAIRS = 400  # of members of two sets, at most, those of sets in sets included
_TAIL = re.compile(
    r" (?!pi(?![a-zA-Z]))[a-zA-Z]+(?:\^\{?\d\}?)?(?:/[a-zA-Z]+(?:\^\{?\d\}?)?)?$", re.ASCII
)


@dataclass(frozen=True)
class Asked:
    """What has to be asked of `mathpool`: whether `function(*args)` is True."""

    function: Callable[..., bool | None]
    args: tuple


T = TypeVar("T")
Decision = bool | None | Asked


def decide(answer: str, target: str) -> tuple[Decision, str]:
    """Whether a tidy answer is the tidy target, and by which way: "text", "numbers",
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
    a = quantities.quantity(answer)
    b = quantities.quantity(target)
    if a is not None and b is not None:
        return quantities.compare(a, b), "numbers"
    if (equal := _by_words(answer, target)) is not NotImplemented:
        return equal, "text"
    for reader in (_by_cells, _by_regions):
        if (equal := reader(answer, target, depth)) is not NotImplemented:
            return equal, "grammar"
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
    if (equal := _by_parts(answer, target, depth)) is not NotImplemented:
        return equal, "grammar"
    if _measures(a) or _measures(b):
        return None, "text"  # a quantity, and what is none: 2cm is not 2mc
    return _by_grammar(answer, target, b)


def _measures(quantity: quantities.Quantity | None) -> bool:
    """Whether a quantity has a unit that is no angle."""
    return quantity is not None and quantity.unit is not None and quantity.unit[0] != "angle"


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
    choice = _CHOICE.fullmatch(target)
    chosen = _CHOICE.fullmatch(answer) or _CHOSEN.fullmatch(answer)
    if choice is not None and (choice[1] or choice[2].isupper()):
        if chosen is None:
            return None  # what the choice says, perhaps
        mine = chosen[2] or chosen[1]
        if choice[1] or chosen.group(0).startswith("("):
            return mine.upper() == choice[2].upper()
        if mine == choice[2]:
            return True
        return None if mine.islower() else False
    if not _WORDS.fullmatch(answer) or not _WORDS.fullmatch(target):
        return NotImplemented
    mine = _bare(answer)
    other = _bare(target)
    if mine != other:
        return False if any(mine in pair and other in pair for pair in _OPPOSITES) else None
    one_in_capitals = answer.isupper() != target.isupper()
    if one_in_capitals and len(mine) == 3 and list(mine) == sorted(set(mine)):
        return None  # ABC may be a product, and abc another
    return True if len(mine) > 2 or mine == "no" else None  # AB may not be ab


def _bare(words: str) -> str:
    """In small letters and without an article."""
    return re.sub(r"^(?:the|a|an) ", "", words.lower())


# -- lists, tuples, sets, intervals


def structure(text: str) -> tuple[str, list[str]] | None:
    r"""The brackets around a list ("()", "[)", "\{\}", "" for none) and what stands between its
    commas; None where it is no list.
    """
    for left, right in _BRACKETS:
        if text.startswith(left) and text.endswith(right) and len(text) >= len(left + right):
            inside = parts(text[len(left) : len(text) - len(right)], thousands=False)
            if inside is None or (len(inside) == 1 and left != "\\{"):
                continue
            brackets = "\\{\\}" if left == "{" else left + right
            return brackets, [] if inside == [""] else inside
    if len(_EITHER_SIGN.findall(text)) == 1 and "," not in text:
        return "\\{\\}", [_EITHER_SIGN.sub(sign, text) for sign in "+-"]
    found = parts(_CONJUNCTION.sub(", ", text), thousands=True)
    if found is None or len(found) == 1 or not all(found):
        return None
    return "", found


def _by_parts(answer: str, target: str, depth: int) -> bool | None:
    mine = structure(answer)
    other = structure(target)
    if mine is None and other is None:
        return NotImplemented
    if depth >= _DEEPEST or mine is None or other is None:
        return _list_against_one(answer, target, mine or other, mine is None, depth)
    brackets, a = mine
    others, b = other
    sets = "\\{\\}" in (brackets, others)
    if len(a) > _MEMBERS or len(b) > _MEMBERS:
        return None
    if _COMPARES.search(answer + target) and (" or " in answer) != (" or " in target):
        return None  # x > 1 and x < 3, perhaps
    if brackets == others and brackets and not sets:
        if len(a) != len(b):
            return False
        return _all(_plainly(x, y, depth + 1) for x, y in zip(a, b, strict=True))
    if answer.count(",") * target.count(",") > _PAIRS:
        return None
    equal = _table(lambda x, y: _plainly(x, y, depth + 1), a, b)
    if sets:
        both = {brackets, others} <= {"", "\\{\\}"}
        return _matched(equal, len(b)) if both else None
    in_order: bool | None = False
    if len(a) == len(b):
        in_order = _all(equal[i][i] for i in range(len(a)))
    if brackets != others:
        return None if in_order is not False else _matched(equal, len(b)) and None
    # an enumeration: its order may count or not
    if in_order is not False:
        return in_order
    if _matched(equal, len(b)) is not False or _unclear(answer, target):
        return None
    return False


def _by_cells(answer: str, target: str, depth: int) -> bool | None:
    """Matrices, cell by cell; NotImplemented where neither is one."""
    mine = _MATRIX.fullmatch(answer)
    other = _MATRIX.fullmatch(target)
    if mine is None and other is None:
        return NotImplemented
    if depth >= _DEEPEST or mine is None or other is None:
        return None
    if mine[1] != other[1] and "v" in (mine[1], other[1]):  # a determinant is no matrix
        return None
    a = _rows(mine[2])
    b = _rows(other[2])
    if list(map(len, a)) != list(map(len, b)):
        return False
    cells = zip(itertools.chain.from_iterable(a), itertools.chain.from_iterable(b), strict=True)
    if sum(map(len, a)) > _MEMBERS:
        return None
    return _all(_plainly(x.strip(), y.strip(), depth + 1) for x, y in cells)


def _rows(matrix: str) -> list[list[str]]:
    """The cells of each row."""
    return [row.split("&") for row in matrix.strip().removesuffix("\\\\").split("\\\\")]


def _by_regions(answer: str, target: str, depth: int) -> bool | None:
    """Intervals and inequalities where one is more than a pair; NotImplemented where they are
    none, or unions of other pieces.
    """
    if not _RELATES.search(answer) and not _RELATES.search(target):
        return NotImplemented
    if (equation := intervals.same_equation(answer, target)) is not None:
        return equation
    mine = intervals.region(answer)
    other = intervals.region(target)
    if mine is None or other is None or depth >= _DEEPEST:
        return NotImplemented
    letter, a = mine
    other_letter, b = other
    if letter and other_letter and letter != other_letter:
        return None
    if (same := intervals.same_points(a, b)) is not None:
        return same
    same = _matched(_table(lambda x, y: _same_interval(x, y, depth + 1), a, b), len(b))
    if same or len(a) == len(b) == 1:
        return same
    return NotImplemented


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
    one, several = target, answer
    if mine_is_one:
        one, several = answer, target
    brackets, members = found
    if depth >= _DEEPEST or len(members) > _MEMBERS:
        return None
    if _unclear(answer, target) or _COMMAS.fullmatch(several):
        return None
    if brackets == "\\{\\}" and len(members) == 1:
        return None
    if quantities.quantity(one) is None and grammar.read(one) is None:
        return NotImplemented
    return False if all(_plainly(part, one, depth + 1) is False for part in members) else None


def _unclear(answer: str, target: str) -> bool:
    """Whether a comma, or an and, may be part of a number: 1, 234 or 2 and 1/2."""
    return (
        re.search(r"\d, ?\d{3}(?!\d)|\d and (?:\d+/\d|\\frac)", answer + " " + target, re.ASCII)
        is not None
    )


def _plainly(a: str, b: str, depth: int) -> bool | None:
    if _INFINITY.fullmatch(a) or _INFINITY.fullmatch(b):
        return a.lstrip("+") == b.lstrip("+")
    decision, _ = _decide(a, b, depth)
    return None if isinstance(decision, Asked) else decision


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    """Whether all are True; False where one is False, else None where one is not known."""
    verdicts = list(verdicts)
    if False in verdicts:
        return False
    return None if None in verdicts else True


def _table(
    same: Callable[[T, T], bool | None], a: Sequence[T], b: Sequence[T]
) -> list[list[bool | None]]:
    """A row for each of `a`, in it whether it is the same as each of `b`."""
    rows = []
    for x in a:
        rows.append([same(x, y) for y in b])
    return rows


def _matched(equal: Sequence[list[bool | None]], others: int) -> bool | None:
    """Whether each row has a column of its own that is True, and each column a row."""
    lines = list(equal)
    for column in range(others):
        lines.append([row[column] for row in equal])
    if any(line.count(False) == len(line) for line in lines):
        return False
    once = all(line.count(True) == 1 for line in lines)
    return True if once and len(equal) == others else None


# -- algebra


def _by_grammar(
    answer: str, target: str, number: quantities.Quantity | None
) -> tuple[Decision, str]:
    a, unit = measured(answer)
    b, other = measured(target)
    if a is None or b is None:
        return _relation(answer, target)
    if unit and other and unit[:2] != other[:2]:
        return False, "grammar"
    if unit and other and unit[2] != other[2]:
        a = ("mul", a, ("num", unit[2]))
        b = ("mul", b, ("num", other[2]))
    try:
        equal = equality.compare(a, b)
    except equality.Unproven:
        return Asked(prove_equal, (a, b)), "pool"
    if equal and number is not None and calculation(a):
        equal = None  # 2 + 3 is not yet 5
    if equal is False and (bool(unit) != bool(other) or _unit_perhaps(answer, target)):
        equal = None
    return equal, "grammar"


def _unit_perhaps(answer: str, target: str) -> bool:
    """Whether letters at the end of one of the two, which make them differ, may be a unit, as in
    3 m/s or 5 N.
    """
    a = _TAIL.sub("", answer)
    b = _TAIL.sub("", target)
    return (a == answer) != (b == target) and _plainly(a, b, _DEEPEST) is not False


@lru_cache(2048)
def measured(text: str) -> tuple[Node | None, tuple | None]:
    """The expression of a text, and the unit after it where there is one that we know, as in
    2\\sqrt{3} cm.
    """
    node = grammar.read(text)
    body, _, tail = text.rpartition(" ")
    if body and (node is None or tail[1:2].isalpha()):
        unit = quantities.unit_of(tail)
        if unit and unit[0] not in ("%", "word"):
            return grammar.read(body.strip()), unit
    if node is None:
        quantity = quantities.quantity(text)
        if quantity is not None and quantity.unit is None:
            return ("num", quantity.value), None
    return node, None


def _relation(answer: str, target: str) -> tuple[Decision, str]:
    asked = for_math_verify(answer, target)
    if asked is None:
        return None, "text"
    return (asked if installed() else None), "math-verify"


def for_math_verify(answer: str, target: str) -> Asked | None:
    """The question for math-verify; None where it is none for it: words and units, of which it
    drops some, and what relates nothing.
    """
    texts = [answer, target]
    if not all(len(text) <= 400 and _FOR_MATH_VERIFY.fullmatch(text) for text in texts):
        return None
    if not any(map(_RELATES.search, texts)):
        return None
    for text in texts:
        # equations, of which it thinks too well, and 1 < 2
        if "=" in text or (_COMPARES.search(text) and not _has_letter(text)):
            return None
    members = [_MEMBER.match(text) for text in texts]
    if all(members) and len({member[1] for member in members if member}) > 1:
        return None
    regions = [_MEMBER.sub("", text) for text in texts]
    if any(map(_has_letter, regions)):
        # the letter that one of them names must be the one that the other is of
        for member, other in zip(members, texts[::-1], strict=True):
            if member and member[1] not in _BARE.sub("", other):
                return None
    return Asked(math_verify_equal, tuple(regions))


def _has_letter(text: str) -> bool:
    """Whether a letter stands in a text that is no name of a command."""
    return _LETTER.search(_BARE.sub("", text)) is not None
