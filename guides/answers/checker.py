r"""Is this answer the target? RIGHT and WRONG are only given where they are certain, UNDECIDED
elsewhere.

    check("so he pays \\boxed{\\frac{1}{2}}", "0.5")    RIGHT
    check("12 cm", "12 m")                              WRONG
    check("1/2x", "x/2")                                UNDECIDED: it has two readings

What is read, in this order: equal text; numbers (exactly: nothing is rounded), units, percents and
money; choices such as (B), yes and no, equal words; matrices, intervals, inequalities and
equations; lists, tuples and sets; algebra, by values at drawn points; then other sets and
inequalities by math-verify, in a process that can be killed. A unit on one side only is taken as
understood. What an expression is worth counts, not its form. Text is never evaluated.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from guides.answers import compare, equality, quantities
from guides.answers.grammar import measured
from guides.answers.lists import structure
from guides.answers.names import named
from guides.answers.normalise import LONGEST, tidy
from guides.answers.relations import Asked
from guides.answers.styles import STYLES, AnswerStyle, style_of
from guides.answers.units import unit_of
from guides.answers.words import bare
from search.final_answer import final_answers, spoken


class Verdict(enum.Enum):
    """What `check` says. UNDECIDED: it cannot be known, or not within the limits; never take it
    for a RIGHT.
    """

    RIGHT = "right"
    WRONG = "wrong"
    UNDECIDED = "undecided"


_VERDICTS = {True: Verdict.RIGHT, False: Verdict.WRONG, None: Verdict.UNDECIDED}
#: where none of these stands, no answer is marked
_MARKS = ("\\", "#", ":", "nswer", "NSWER", "<", "[T", "答案", "\u25c1")
_NUMBER = re.compile(r"-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?", re.ASCII)
# a unit right behind the box of a number, unless it may be part of another one
_BEHIND = re.compile(
    r"\s*\}(?:\\[)\]]|\$|\s|\\,)*"
    r"(?:\\(?:text|mathrm)\{\s*([a-zA-Z]{1,12})|(?!in\b)([a-zA-Z]{2,12})|(°)|\\?(%))"
    r"(?![a-zA-Z]|\}?\s*(?:per\b|/|\^|[²³]|an?\b|each\b|squared|cubed))"
)
_BOXES = re.compile(r"\\(?:boxed|fbox)|</answer>|\[/ANSWER\]", re.IGNORECASE)
_BULLET = re.compile(r"- +[\d.]", re.ASCII)


def extract(text: str) -> str | None:
    """The final answer that a solution's text marks (`search.final_answer`); None where it marks
    none, or not for sure.

    Not for sure are a box or a `<think>` that is not closed, an empty mark, and two boxes with
    different contents.
    """
    return _marked(text, STYLES["strict"]) or None


def check(
    text: str, target: str, *, seconds: float = 5.0, style: str | AnswerStyle = "strict"
) -> Verdict:
    """Whether `text`, an answer or a whole solution, gives the `target`.

    seconds  the most that a process computes for it; more is UNDECIDED. Starting the first process
             does not count
    style    how several boxes, the order of enumerations, missing bases and a text without a mark
             are read: "strict", "math", "gsm8k" or an `AnswerStyle`

    A text that marks no answer is the answer itself if it is short; a long one is UNDECIDED,
    whatever numbers stand in it. An empty one is WRONG. The target may be a solution with a marked
    answer too. Raises ValueError for an empty target and for a style that is none.
    """
    decision, _ = _decide(text, target, style_of(style))
    if isinstance(decision, Asked):
        return _ask([decision], seconds)[0]
    return _VERDICTS[decision]


def check_many(
    pairs: Iterable[tuple[str, str]],
    *,
    seconds: float = 5.0,
    style: str | AnswerStyle = "strict",
) -> list[Verdict]:
    """`check` of (text, target) pairs, in order. What must be proved is proved by all processes
    at once; equal pairs are checked once.
    """
    return [verdict for verdict, _ in examine(pairs, seconds=seconds, style=style)]


def examine(
    pairs: Iterable[tuple[str, str]],
    *,
    seconds: float = 5.0,
    style: str | AnswerStyle = "strict",
) -> list[tuple[Verdict, str]]:
    """As `check_many`, with the way by which it was decided: "text", "numbers", "grammar", "pool"
    (sympy) or "math-verify".
    """
    pairs = list(pairs)
    chosen = style_of(style)
    found: dict[tuple[str, str], tuple[Verdict, str]] = {}
    asked: dict[tuple[str, str], tuple[Asked, str]] = {}
    for pair in dict.fromkeys(pairs):
        decision, way = _decide(*pair, chosen)
        if isinstance(decision, Asked):
            asked[pair] = decision, way
        else:
            found[pair] = _VERDICTS[decision], way
    verdicts = _ask([question for question, _ in asked.values()], seconds)
    for (pair, (_, way)), verdict in zip(asked.items(), verdicts, strict=True):
        found[pair] = verdict, way
    return [found[pair] for pair in pairs]


def classes(answers: Sequence[str], *, seconds: float = 5.0) -> list[int]:
    r"""The class of each answer, int from 0 on in order of appearance: equal answers, such as 1/2,
    0.5 and \frac12, share one.

    Answers are put into buckets by their values at drawn points, and compared with the first of
    each class in their bucket: a thousand answers are a thousand readings, not a million
    comparisons. An answer without a unit joins the same number with one.
    """
    tidied = list(map(_short, answers))
    firsts: dict[object, list[str]] = {}
    class_of: dict[str, tuple[object, int]] = {}
    for text in sorted(dict.fromkeys(tidied), key=_lacks_unit):
        bucket = _bucket(text)
        earlier = firsts.setdefault(bucket, [])
        place = 0
        while place < len(earlier) and not _same(text, earlier[place], seconds):
            place += 1
        if place == len(earlier):
            earlier.append(text)
        class_of[text] = (bucket, place)
    numbers: dict[tuple[object, int], int] = {}
    return [numbers.setdefault(class_of[text], len(numbers)) for text in tidied]


def _short(answer: str) -> str:
    """An answer in one notation; of a long one, the plain number that it is, or itself."""
    if len(answer) <= LONGEST:
        return _tidied(answer.strip())
    return repr(quantities.plain(answer) or answer)


def _lacks_unit(text: str) -> bool:
    quantity = quantities.quantity(text)
    return quantity is None or quantity.unit is None


def _decide(text: str, target: str, style: AnswerStyle) -> tuple[compare.Decision, str]:
    equal = _equal_numbers(text, target)
    if equal is not None:
        return equal, "numbers"
    right = _target(target)
    answer = _marked(text, style)
    if answer is None:
        answer = (spoken(text) or "").strip()
        if style.last_number and (numbers := _NUMBER.findall(answer)):
            answer = numbers[-1]
        if not answer:
            return False, "text"
    if not answer:
        return None, "text"
    if answer == right:
        return True, "text"
    equal = _equal_numbers(answer, right)
    if equal is not None:
        return equal, "numbers"
    # "- 5" may be the first of a list
    if max(len(answer), len(right)) > LONGEST or _BULLET.match(answer):
        return None, "text"
    return compare.decide(_tidied(answer), _tidied(right), style)


def _unit_behind(text: str, answer: str) -> str:
    """The unit, or a word such as million, that stands behind the last box with a number in it, ""
    for none.
    """
    if quantities.plain(answer) is None:
        return ""
    behind = text.rpartition("boxed{")[2]
    match = _BEHIND.match(behind, len(answer)) if behind.startswith(answer) else None
    if match is None:
        return ""
    word = str(match[match.lastindex or 0])
    unit = unit_of(word)
    if word not in quantities.SCALES and (not unit or unit[0] == "word"):
        return ""
    return f" {word}"


def _equal_numbers(answer: str, target: str) -> bool | None:
    """Whether two plain decimals are equal; None where they are not both such, or where the target
    may be a rounding of the answer.
    """
    mine = quantities.plain(answer)
    if mine is None:
        return None
    other = quantities.plain(target)
    if other is None:
        return None
    if mine != other and quantities.may_be_rounded(mine, other):
        return None
    return mine == other


@lru_cache(1024)
def _target(target: str) -> str:
    right = (_marked(target, STYLES["strict"]) or target).strip()
    if not right:
        raise ValueError("the target is empty: give the right answer as text")
    return right


@lru_cache(4096)
def _tidied(text: str) -> str:
    return tidy(text)


def _marked(text: str, style: AnswerStyle) -> str | None:
    """The answer that a text marks; "" where it marks one that cannot be read; None where it
    marks none.
    """
    if len(text) < 4 or not any(mark in text for mark in _MARKS):
        return None
    found = final_answers(text)
    if found is None:
        return ""
    if not found:
        return None
    if style.boxes == "first" and _several(text):
        return found[0]
    if style.boxes == "all" and _several(text):
        last = found[-1]
        if len(last) <= LONGEST:
            last = _tidied(last)
        for other in set(found[:-1]) - {found[-1]}:
            if len(other) > LONGEST or not _equal(_tidied(other), last):
                return ""
    return found[-1] + _unit_behind(text, found[-1])


def _several(text: str) -> bool:
    """Whether answers are marked by boxes or tags, which must agree."""
    return _BOXES.search(spoken(text) or "") is not None


def _equal(one: str, other: str) -> bool:
    """Whether two tidy answers are surely equal, without a proof; one may be a rounding."""
    strict = STYLES["strict"]
    if compare.decide(one, other, strict)[0] is True:
        return True
    return compare.decide(other, one, strict)[0] is True


def _ask(asked: Sequence[Asked], seconds: float) -> list[Verdict]:
    if not asked:
        return []
    from guides.answers.proofs import pool, results

    futures = [pool().submit(one.function, one.args, seconds) for one in asked]
    return list(map(_VERDICTS.__getitem__, results(futures)))


def _same(text: str, first: str, seconds: float) -> bool:
    decision, _ = compare.decide(text, first, STYLES["strict"])
    if isinstance(decision, Asked):
        return _ask([decision], seconds)[0] is Verdict.RIGHT
    return decision is True


def _bucket(text: str, depth: int = 0) -> object:
    """What equal answers share: their values to 12 digits, else their text."""
    if len(text) > LONGEST:
        return text
    _, value = named(text)
    if (quantity := quantities.quantity(value)) is not None:
        return equality.fingerprint(("num", quantity.value))
    if depth < 3 and (found := structure(value)) is not None:
        brackets, members = found
        inside = [_bucket(member, depth + 1) for member in members]
        if brackets == "\\{\\}":
            inside.sort(key=repr)
        return (brackets, *inside)
    node, _ = measured(value)
    return (node and equality.fingerprint(node)) or bare(value)
