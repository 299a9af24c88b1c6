"""Countdown: use every number exactly once, with + - * /, to make the target ("Stream of Search",
Gandhi et al. 2024). With four numbers and the target 24 it is the Game of 24.

A state is the tuple of `TextStep`s so far. A step is one line, `8-7=1`, that takes two of the
numbers left and puts back the result. (Lines that also name the other numbers left, `8-7=1 4,8`,
were measured to be learnt worse; see the built-in model's card.) Arithmetic is exact:

    line      number op number = number      op: + - * /      one space is allowed beside op and =
    number    12      digits 0-9 without leading zeros, at most 40 of them
              (-3)    a negative number, in parentheses; a minus sign stands nowhere else
              (2/3)   a fraction in lowest terms with denominator above 1, in parentheses; also
                      (-2/3)

Everything else is no step: decimals, `**`, `//`, other digits than ASCII, two operations in one
line, division by zero, a wrong result, a number that is not left. Nothing is ever evaluated as
code.
"""

from __future__ import annotations

import operator
import random
import re
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from search.problem import IllegalStep, TextStep
from search.problems.splits import split_of

OPERATORS = "+-*/"
_COMPUTE: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_DIGITS = r"(?:0|[1-9][0-9]{0,39})"
_NUMBER = rf"(?:{_DIGITS}|\(-?{_DIGITS}(?:/{_DIGITS})?\))"
_LINE = re.compile(rf"({_NUMBER}) ?([-+*/]) ?({_NUMBER}) ?= ?({_NUMBER})")
_NUMBERS = r"(?:the numbers )?([0-9]{1,6}(?:(?: ?, ?and | ?, ?| and | & | )[0-9]{1,6})+)"
_STATEMENT = re.compile(
    rf"use {_NUMBERS} to (?:make|get|reach) ([0-9]{{1,6}}) ?[.!]?", re.IGNORECASE
)
_TURNED = re.compile(
    rf"(?:make|get|reach) ([0-9]{{1,6}}) (?:from|with|using|out of) {_NUMBERS} ?[.!]?",
    re.IGNORECASE,
)
_REMEDY = "write it like: Use 4, 7, 8 and 8 to make 24."

State = tuple[TextStep, ...]


@dataclass(frozen=True)
class Countdown:
    """Make `target` from `numbers`, each used exactly once. Verifies itself.

    numbers  2 to 12 whole numbers in 0..999999
    target   a whole number in 0..999999
    Raises ValueError for anything else.
    """

    numbers: tuple[int, ...]
    target: int

    players = 1
    inline = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", tuple(self.numbers))
        if not 2 <= len(self.numbers) <= 12:
            raise ValueError(f"Countdown takes 2 to 12 numbers, not {len(self.numbers)}; {_REMEDY}")
        for number in (*self.numbers, self.target):
            if type(number) is not int or not 0 <= number <= 999_999:
                raise ValueError(
                    f"Countdown takes whole numbers from 0 to 999999, not {number!r}; {_REMEDY}"
                )

    def initial(self) -> State:
        return ()

    def actions(self, state: State) -> None:
        return None

    def apply(self, state: State, step: TextStep) -> State:
        """`state` with `step` added. Raises IllegalStep if the line breaks a rule or was cut
        off.
        """
        if step.finish == "length":
            raise IllegalStep(f"the line {step.text[:80]!r} was cut off; allow more tokens a step")
        _position(self.numbers, (*_texts(state), step.text))
        return (*state, step)

    def is_terminal(self, state: State) -> bool:
        return len(state) == len(self.numbers) - 1

    def verify(self, state: State) -> float:
        """1.0 if one number is left and it is the target, else 0.0."""
        left = self.left(state)
        return float(len(left) == 1 and left[0] == self.target)

    def answer(self, state: State) -> str | None:
        """The whole expression, with sums and products flattened and sorted; None while more
        than one number is left.
        """
        position = _position(self.numbers, _texts(state))
        return _write(position[0][1]) if len(position) == 1 else None

    def prompt(self, state: State) -> str:
        """The statement, its numbers sorted: the same for every state and every order of the
        numbers.
        """
        *first, last = sorted(self.numbers)
        return f"Use {', '.join(map(str, first))} and {last} to make {self.target}."

    def key(self, state: State, step: TextStep) -> Hashable:
        """(operator, a, b), a >= b where the order is free: equal for steps that do the same.
        Raises IllegalStep.
        """
        self.apply(state, step)
        a, sign, b, _ = _parse_line(step.text)
        if sign in "+*":
            return sign, max(a, b), min(a, b)
        return sign, a, b

    def left(self, state: State) -> tuple[Fraction, ...]:
        """The numbers left in `state`, ascending."""
        return tuple(value for value, _ in _position(self.numbers, _texts(state)))

    def to_json(self) -> dict[str, Any]:
        """The arguments that make this problem again: Countdown(**problem.to_json())."""
        return {"numbers": list(self.numbers), "target": self.target}

    def canonical(self) -> str:
        """Equal for problems that differ only in the order of their numbers: "4,7,8,8 24"."""
        return f"{','.join(map(str, sorted(self.numbers)))} {self.target}"

    def split(self) -> str:
        """ "train" (90 %), "validation" (5 %) or "test" (5 %), by a hash of the canonical form."""
        return split_of(self.canonical())


def parse(text: str) -> Countdown | None:
    """The problem that `text` states, in small or capital letters; None if it is none of ours.

    "Use 4, 7, 8 and 8 to make 24." may also be said as "Make 24 from 4, 7, 8 and 8".
    Raises ValueError if it is ours, with "Use ... to make ...", but malformed.
    """
    text = " ".join(text.split())
    match = _STATEMENT.fullmatch(text)
    if match:
        return _puzzle(match[1], match[2])
    match = _TURNED.fullmatch(text)
    if match:
        return _puzzle(match[2], match[1])
    if text.lower().startswith("use") and "to make" in text:
        raise ValueError(f"{text[:80]!r} is no Countdown puzzle; {_REMEDY}")
    return None


def _puzzle(numbers: str, target: str) -> Countdown:
    return Countdown(tuple(int(number) for number in re.findall("[0-9]+", numbers)), int(target))


def generate(
    seed: int,
    count: int,
    size: int = 4,
    largest: int = 13,
    targets: Iterable[int] = range(1, 101),
    split: str | None = None,
) -> Iterator[Countdown]:
    """`count` different solvable problems of `size` numbers in 1..largest, from random combinations
    of whole numbers.

    targets  only problems with one of these; split: only problems of this split. Runs on for ever
             if there are too few.
    """
    rng = random.Random(seed)
    wanted = frozenset(targets)
    seen: set[str] = set()
    while len(seen) < count:
        numbers = sorted(rng.randint(1, largest) for _ in range(size))
        left = list(numbers)
        while len(left) > 1:
            a, b = sorted((left.pop(rng.randrange(len(left))) for _ in range(2)), reverse=True)
            results = [a + b, a - b, a * b]
            if b and a % b == 0:
                results.append(a // b)
            left.append(rng.choice(results))
        if left[0] not in wanted:
            continue
        problem = Countdown(tuple(numbers), left[0])
        if problem.canonical() not in seen and split in (None, problem.split()):
            seen.add(problem.canonical())
            yield problem


def _texts(state: State) -> tuple[str, ...]:
    return tuple(step.text for step in state)


# An expression is a number (an int), or (kind, terms): kind "+" or "*", terms the sorted tuple of
# (inverted, expression), where inverted terms are subtracted or divided by, and no term is of its
# parent's kind.
Expression = Any
Position = tuple[tuple[Fraction, Expression], ...]


@lru_cache(maxsize=1 << 16)
def _position(numbers: tuple[int, ...], texts: tuple[str, ...]) -> Position:
    """The numbers left after `texts`, ascending, each with its expression. Raises IllegalStep."""
    if not texts:
        return tuple((Fraction(n), n) for n in sorted(numbers))
    left = list(_position(numbers, texts[:-1]))
    a, sign, b, result = _parse_line(texts[-1])
    x = _take(left, a, texts[-1])
    y = _take(left, b, texts[-1])
    if sign == "/" and b == 0:
        raise IllegalStep(f"division by zero in {texts[-1][:80]!r}")
    if result != _COMPUTE[sign](a, b):
        raise IllegalStep(f"wrong result in {texts[-1][:80]!r}")
    left.append((result, _combine(x, sign, y)))
    left.sort(key=lambda item: (item[0], repr(item[1])))
    return tuple(left)


def _take(left: list[tuple[Fraction, Expression]], number: Fraction, text: str) -> Expression:
    """Remove `number` from `left` and return its expression. Raises IllegalStep if it is not
    there.
    """
    for i, (value, expression) in enumerate(left):
        if value == number:
            del left[i]
            return expression
    raise IllegalStep(f"{number} is not left in {text[:80]!r}")


@lru_cache(maxsize=1 << 16)
def _parse_line(text: str) -> tuple[Fraction, str, Fraction, Fraction]:
    """(a, operator, b, result) of a line. Raises IllegalStep."""
    match = _LINE.fullmatch(text.strip(" "))
    if not match:
        raise IllegalStep(f"{text[:80]!r} is no step; write one operation, like 8-7=1")
    a, sign, b, result = match.groups()
    return _number(a), sign, _number(b), _number(result)


def _number(text: str) -> Fraction:
    """The value of a matched number. Raises IllegalStep where it is not written as the rules
    say.
    """
    if not text.startswith("("):
        return Fraction(int(text))
    numerator, _, denominator = text[1:-1].partition("/")
    if denominator == "0":
        raise IllegalStep(f"division by zero in {text!r}")
    value = Fraction(int(numerator), int(denominator or 1))
    if text != _write_number(value):
        raise IllegalStep(f"{text!r} must be written {_write_number(value)!r}")
    return value


def _write_number(value: Fraction) -> str:
    return str(value) if value >= 0 and value.denominator == 1 else f"({value})"


def _combine(x: Expression, sign: str, y: Expression) -> Expression:
    """The expression `x sign y`, flattened and sorted."""
    kind = "+" if sign in "+-" else "*"
    terms: list[tuple[bool, Expression]] = []
    for flip, part in ((False, x), (sign in "-/", y)):
        inner = ((False, part),)
        if isinstance(part, tuple) and part[0] == kind:
            inner = part[1]
        terms += [(flip != inverse, term) for inverse, term in inner]
    terms.sort(key=lambda term: (term[0], isinstance(term[1], int), repr(term[1])))
    return kind, tuple(terms)


def _write(expression: Expression, outer: str = "+") -> str:
    """The expression as text, with parentheses only where they are needed."""
    if isinstance(expression, int):
        return str(expression)
    kind, terms = expression
    inverse = {"+": "-", "*": "/"}[kind]
    text = "".join((inverse if flip else kind) + _write(term, kind) for flip, term in terms)[1:]
    return f"({text})" if kind == "+" and outer == "*" else text
