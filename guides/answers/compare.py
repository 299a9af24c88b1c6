r"""Whether two answers, each written in the one notation of `normalise.tidy`, say the same:
numbers, algebra, lists and sets, choices, words.

`decide` answers True, False or None, which means that it cannot be known here; or it names the
function that has to be asked, in a process that can be killed (`guides.answers.proofs`). Nothing is
rounded, and the form of an expression is not judged: (x + 1)^2 is x^2 + 2x + 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from guides.answers import equality, grammar, intervals, lists, quantities
from guides.answers.evaluate import calculation
from guides.answers.grammar import measured
from guides.answers.names import assignments, named, of_several, out_of_order
from guides.answers.normalise import LONGEST
from guides.answers.proofs import prove_equal
from guides.answers.relations import COMPARES, RELATES, Asked, has_letter, relation
from guides.answers.styles import STYLES, AnswerStyle
from guides.answers.words import same_words

_BASE = re.compile(r"\(?(\d{1,200}|[A-F\d]{1,200}(?=\)?_\{16\}))\)?_\{?(\d\d?)\}?", re.ASCII)
_INFINITY = re.compile(r"([-+]?)\\infty")
_REMARK = re.compile(r"(.+?) [(\[]([^()\[\]]+)[)\]]")
_COMMAS = re.compile(r"[-\d.,]+", re.ASCII)  # 2,5 is a number to many
_REGION = re.compile(rf"{RELATES.pattern}|\\infty(?![a-zA-Z])|\breals?\b", re.IGNORECASE)
_ABOUT = re.compile(r"\\(?:approx|simeq)(?![a-zA-Z])")
_UNCLEAR = re.compile(
    r"\d, ?\d{3}(?!\d)|\d and (?:\d+/\d|\\frac)"
    r"|(?<![a-zA-Z])(?:hundred|thousand|[mbtr]+illion|dozen)s?(?![a-zA-Z])",
    re.ASCII,
)
_DEEPEST = 4  # lists in lists
_MEMBERS = 40  # of a list or matrix that is read
_PAIRS = 400  # of members of two sets, at most, those of sets in sets included
_TAIL = re.compile(
    r" (?!pi(?![a-zA-Z]))[a-zA-Z]+(?:\^\{?\d\}?)?(?:/[a-zA-Z]+(?:\^\{?\d\}?)?)?$", re.ASCII
)


@dataclass(frozen=True)
class Level:
    """How deep in lists of lists two answers stand, and the style by which they are read."""

    style: AnswerStyle
    at: int = 0

    @property
    def inside(self) -> Level:
        return Level(self.style, self.at + 1)

    @property
    def deepest(self) -> bool:
        return self.at >= _DEEPEST


T = TypeVar("T")
Decision = bool | None | Asked


def decide(answer: str, target: str, style: AnswerStyle) -> tuple[Decision, str]:
    """Whether a tidy answer is the tidy target, and by which way: "text", "numbers",
    "grammar", "pool" or "math-verify".
    """
    if answer == target:
        return True, "text"
    if max(len(answer), len(target)) > LONGEST:
        return None, "text"
    return _decide(answer, target, Level(style))


def _decide(answer: str, target: str, at: Level) -> tuple[Decision, str]:
    if answer == target:
        return True, "text"
    a = quantities.quantity(answer)
    b = quantities.quantity(target)
    if a is not None and b is not None:
        return quantities.compare(a, b), "numbers"
    for reader in (_by_words, _by_base, _by_infinity, _by_remark, _by_cells, _by_regions):
        if (equal := reader(answer, target, at)) is not NotImplemented:
            return equal, "grammar" if reader is not _by_words else "text"
    name, value = named(answer)
    wanted, worth = named(target)
    if (value, worth) != (answer, target) and (
        name == wanted
        or not (_relates(wanted, target) or out_of_order(name))
        or not (_relates(name, answer) or of_several(wanted))
    ):
        decision, way = _decide(value, worth, at)
        return (None if decision is False and _ABOUT.search(answer + target) else decision), way
    if (equal := _by_assignments(answer, target, at)) is not NotImplemented:
        return equal, "grammar"
    if name or wanted:
        return relation(answer, target)
    if (equal := _by_parts(answer, target, at)) is not NotImplemented:
        return equal, "grammar"
    if _measures(a) or _measures(b):
        return None, "text"  # a quantity, and what is none: 2cm is not 2mc
    return _by_grammar(answer, target, a, b)


def _relates(name: str, text: str) -> bool:
    """Whether a text says something of a name, or relates its parts."""
    return bool(name) or RELATES.search(text) is not None


def _measures(quantity: quantities.Quantity | None) -> bool:
    """Whether a quantity has a unit that is no angle and no letter."""
    if quantity is None or quantity.unit is None:
        return False
    return quantity.unit[0] != "angle" and not quantity.letter


def _by_words(answer: str, target: str, at: Level) -> bool | None:
    return same_words(answer, target)


def _by_base(answer: str, target: str, at: Level) -> bool | None:
    """Whole numbers of which one has a base at least: 101_2, and 5_{10}."""
    mine = _BASE.fullmatch(answer)
    other = _BASE.fullmatch(target)
    if mine is None and other is None:
        return NotImplemented
    if mine is None or other is None:
        alone, based = (answer, other) if mine is None else (target, mine)
        assert based is not None
        return _same_digits(alone, based[1]) if at.style.bases else None
    try:
        return int(mine[1], int(mine[2])) == int(other[1], int(other[2]))
    except ValueError:  # no digits of their base
        return None


def _same_digits(alone: str, digits: str) -> bool | None:
    return alone.lower() == digits.lower() if alone.isalnum() else None


def _by_infinity(answer: str, target: str, at: Level) -> bool | None:
    """Infinity is no number, and not what is less than all."""
    a = _INFINITY.fullmatch(answer)
    b = _INFINITY.fullmatch(target)
    if a is None and b is None:
        return NotImplemented
    if a is not None and b is not None:
        return (a[1] == "-") is (b[1] == "-")
    other = target if a is not None else answer
    return False if quantities.quantity(other) or grammar.read(other) else None


def _by_remark(answer: str, target: str, at: Level) -> bool | None:
    """A number and a remark in brackets: 72 (48 + 24), 18 (eggs). It may be a product, too."""
    match = _REMARK.fullmatch(answer)
    number = match and quantities.quantity(match[1])
    if not match or not number:
        return NotImplemented
    remark = match[2]
    alone = _plainly(match[1], target, at)
    if equality.surely(measured(match[1]), measured(remark)) or _plainly(remark, match[1], at):
        return alone
    words = quantities.unit_of(remark)
    if words and words[0] == "word" and number.unit is None:
        return alone
    product = measured(answer)[0]
    if product is None:
        return None
    other, _ = _by_grammar(answer, target, None, quantities.quantity(target))
    if alone is False or (other is True and has_letter(remark)):
        return None if isinstance(other, Asked) else other
    return None


# -- lists, tuples, sets, intervals


def _by_assignments(answer: str, target: str, at: Level) -> bool | None:
    """Names with values, by their names; or in their order, against values alone."""
    mine = assignments(answer)
    other = assignments(target)
    if mine is None and other is None:
        return NotImplemented
    if at.deepest:
        return None
    if mine is not None and other is not None:
        if set(mine) != set(other):
            return None
        return _each(list(mine.values()), list(map(other.__getitem__, mine)), at)
    values = list((mine or other or {}).values())
    listed = lists.structure(target if other is None else answer)
    if listed is None or listed[0] not in ("", "()"):
        return None
    if mine is None:
        return _in_order(listed[1], values, at, "")
    same = _in_order(values, listed[1], at, "")
    return None if out_of_order(mine) else same


def _by_parts(answer: str, target: str, at: Level) -> bool | None:
    mine = lists.structure(answer)
    other = lists.structure(target)
    if mine is None and other is None:
        return NotImplemented
    if mine is None:
        mine = lists.set_of_one(answer, other)
    if other is None:
        other = lists.set_of_one(target, mine)
    if at.deepest or mine is None or other is None:
        return _list_against_one(answer, target, mine or other, mine is None, at)
    brackets, a = mine
    others, b = other
    sets = "\\{\\}" in (brackets, others)
    if len(a) > _MEMBERS or len(b) > _MEMBERS:
        return None
    if COMPARES.search(answer + target) and (" or " in answer) != (" or " in target):
        return None  # x > 1 and x < 3, perhaps
    if brackets == others and brackets and not sets:
        if len(a) != len(b):
            return False
        return _each(a, b, at)
    if answer.count(",") * target.count(",") > _PAIRS:
        return None
    any_order = _either(answer, target) or at.style.ordered is False
    if sets or (brackets == others == "" and any_order):
        equal = _table(lambda x, y: _plainly(x, y, at.inside), a, b)
        both = {brackets, others} <= {"", "\\{\\}"}
        return _matched(equal, len(b)) if both else None
    if brackets != others:
        return _in_order(a, b, at, answer + target) and None
    return _in_order(a, b, at, answer + target)


def _either(answer: str, target: str) -> bool:
    """Whether one of two lists is joined by "or"."""
    return lists.alternatives(answer) or lists.alternatives(target)


def _in_order(a: Sequence[str], b: Sequence[str], at: Level, unclear: str) -> bool | None:
    """Whether two enumerations are equal, member by member; None where they are in another order,
    which may count or not, or where a comma may be part of a number.
    """
    equal = _table(lambda x, y: _plainly(x, y, at.inside), a, b)
    if len(a) == len(b):
        in_order = _each(a, b, at)
        if in_order is not False or at.style.ordered:
            return in_order
    if _matched(equal, len(b)) is not False or _UNCLEAR.search(unclear):
        return None
    return False


def _by_cells(answer: str, target: str, at: Level) -> bool | None:
    """Matrices and vectors, cell by cell; NotImplemented where none is one, or only one."""
    mine = lists.matrix(answer)
    other = lists.matrix(target)
    if mine is None or other is None:
        return _by_components(answer, target, at) if mine or other else NotImplemented
    if at.deepest or mine[0] != other[0]:  # a determinant is no matrix
        return None
    a = mine[1]
    b = other[1]
    if list(map(len, a)) != list(map(len, b)):
        return False
    return _cells(list(chain.from_iterable(a)), list(chain.from_iterable(b)), at)


def _by_components(answer: str, target: str, at: Level) -> bool | None:
    """A row or column of a matrix beside a tuple; NotImplemented where they are something else."""
    mine = lists.vector(answer)
    other = lists.vector(target)
    if mine is None or other is None:
        return NotImplemented
    if at.deepest or None not in (mine[0], other[0]):
        return None
    if len(mine[1]) != len(other[1]):
        return False
    return _cells(mine[1], other[1], at)


def _cells(a: Sequence[str], b: Sequence[str], at: Level) -> bool | None:
    if len(a) > _MEMBERS:
        return None
    return _each(list(map(str.strip, a)), list(map(str.strip, b)), at)


def _by_regions(answer: str, target: str, at: Level) -> bool | None:
    """Intervals and inequalities where one is more than a pair; NotImplemented where they are
    none, or unions of other pieces.
    """
    if not _REGION.search(answer) and not _REGION.search(target):
        return NotImplemented
    if (equation := intervals.same_equation(answer, target)) is not None:
        return equation
    mine = intervals.region(answer)
    other = intervals.region(target)
    if mine is None or other is None or at.deepest:
        return NotImplemented
    letter, a = mine
    other_letter, b = other
    if letter and other_letter and letter != other_letter:
        return None
    if (same := intervals.same_points(a, b)) is not None:
        return same
    same = _matched(_table(lambda x, y: _same_interval(x, y, at.inside), a, b), len(b))
    if same or len(a) == len(b) == 1:
        return same
    return NotImplemented


def _same_interval(a: intervals.Interval, b: intervals.Interval, at: Level) -> bool | None:
    ends = (_plainly(a.low, b.low, at), _plainly(a.high, b.high, at))
    return _all((a.with_low == b.with_low, a.with_high == b.with_high, *ends))


def _list_against_one(
    answer: str, target: str, found: tuple[str, list[str]] | None, mine_is_one: bool, at: Level
) -> bool | None:
    """One answer is no list of several, but what looks like a list may be a number in another
    country's writing, a quantity in several units, one answer in several writings, or a set.
    """
    assert found is not None
    one, several = target, answer
    if mine_is_one:
        one, several = answer, target
    brackets, members = found
    if at.deepest or len(members) > _MEMBERS:
        return None
    if _UNCLEAR.search(f"{answer} {target}") or _COMMAS.fullmatch(several):
        return None
    if brackets == "\\{\\}" and len(members) == 1:
        return None
    if quantities.of_one_kind(members) and not lists.alternatives(several):
        return None
    if quantities.quantity(one) is None and grammar.read(one) is None:
        return NotImplemented
    equal = [_plainly(part, one, at.inside) for part in members]
    if lists.alternatives(several) and not mine_is_one and _all(equal):
        return True
    return False if equal.count(False) == len(equal) else None


def _plainly(a: str, b: str, at: Level) -> bool | None:
    decision, _ = _decide(a, b, at)
    return None if isinstance(decision, Asked) else decision


def _each(a: Sequence[str], b: Sequence[str], at: Level) -> bool | None:
    """Whether each of `a` is the one of `b` in its place; there are as many."""
    return _all(map(lambda x, y: _plainly(x, y, at.inside), a, b))


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
    answer: str,
    target: str,
    mine: quantities.Quantity | None,
    number: quantities.Quantity | None,
) -> tuple[Decision, str]:
    a, unit = measured(answer)
    b, other = measured(target)
    if a is None or b is None:
        return relation(answer, target)
    if unit and other and unit[:2] != other[:2]:
        return False, "grammar"
    if unit and other and unit[2] != other[2]:
        a = ("mul", a, ("num", unit[2]))
        b = ("mul", b, ("num", other[2]))
    try:
        equal = equality.compare(a, b)
    except equality.Unproven:
        return Asked(prove_equal, (a, b)), "pool"
    if mine is None and number is not None and number.place is not None and equal is False:
        equal = equality.near(a, number.value, number.place / 2)
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
    return (a == answer) != (b == target) and _plainly(
        a, b, Level(STYLES["strict"], _DEEPEST)
    ) is not False
