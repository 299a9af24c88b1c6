"""Chains: modular arithmetic over definitions that depend on one another (iGSM without English; Ye
et al. 2024, "Physics of Language Models: Part 2.1"). One answer is right, and nothing but an answer
key can tell which: `verify` never does.

A statement gives some values and defines the other variables, each from two others, in any order;
some are not needed:

    mod 11: i=c-a A3 e=b+a B7 c=a*b; e?          capital letter and number: the value of that
    variable

A state is the tuple of `TextStep`s so far. There are two kinds of line. A plan copies a definition;
a value copies it too, looks up what it needs and computes. The chain ends with the value of the
variable that was asked for:

    i=c-a                   (the plan: what is needed, from the question backwards)
    c=a*b
    c=a*b A3 B7 C10         (the values, forwards)
    i=c-a C10 A3 I7

Whatever this grammar can read is a legal step: false equations, wrong operands, definitions that
are nowhere and lines that lead nowhere included. Nothing here computes a value that is not given:
the answer key is with the labels, outside what a search can reach.
"""

from __future__ import annotations

import operator
import random
import re
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any

from search.problem import IllegalStep, TextStep
from search.problems.splits import split_of

LETTERS = "abcefghijklnpqrstuvwxyz"  #: names of variables; those of "mod" are not among them
OPERATORS = "+-*"
_COMPUTE: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}
WINDOW = 6  #: one operand of a definition is among this many variables made last
_DEFINITION = rf"([{LETTERS}])=([{LETTERS}])([-+*])([{LETTERS}])"
_GIVEN = rf"([{LETTERS.upper()}])(0|[1-9][0-9]{{0,2}})"
_LINE = re.compile(rf"{_DEFINITION}(?: {_GIVEN} {_GIVEN} {_GIVEN})?")
_STATEMENT = re.compile(
    rf"mod ([1-9][0-9]{{0,2}}): ((?:(?:{_DEFINITION}|{_GIVEN}) ?)+); ?([{LETTERS}])\?"
)
_REMEDY = "write it like: mod 11: i=c-a A3 B7 c=a*b; i?"

State = tuple[TextStep, ...]
Definition = tuple[str, str, str]  #: first operand, operator, second operand


@dataclass(frozen=True)
class Chains:
    """Find the value of `query` modulo `modulus`.

    modulus      2 to 997
    definitions  "A3" or "c=a*b" each, one a variable, in any order, never in a circle
    query        the variable that is asked for, one that is defined from others
    Raises ValueError for anything else.
    """

    modulus: int
    definitions: tuple[str, ...]
    query: str

    players = 1
    inline = True
    verifies = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "definitions", tuple(self.definitions))
        if type(self.modulus) is not int or not 2 <= self.modulus <= 997:
            raise ValueError(
                f"the modulus of chains is a whole number from 2 to 997, not {self.modulus!r}; "
                f"{_REMEDY}"
            )
        for text in self.definitions:
            if not isinstance(text, str) or not re.fullmatch(f"{_DEFINITION}|{_GIVEN}", text):
                raise ValueError(f"{text!r} defines no variable; {_REMEDY}")
        if len({text[0].lower() for text in self.definitions}) < len(self.definitions):
            raise ValueError(f"a variable is defined twice; {_REMEDY}")
        if any(value >= self.modulus for value in self.given.values()):
            raise ValueError(f"a value is not below the modulus {self.modulus}; {_REMEDY}")
        if self.query not in self.defined:
            raise ValueError(
                f"the question is for {self.query!r}, which is not defined from others; {_REMEDY}"
            )
        used = set[str]().union(*self.operands().values())
        undefined = used - self.given.keys() - self.defined.keys()
        if undefined:
            raise ValueError(f"{', '.join(sorted(undefined))} must be given or defined; {_REMEDY}")
        try:
            TopologicalSorter(self.operands()).prepare()
        except CycleError:
            raise ValueError(f"definitions go round in a circle; {_REMEDY}") from None

    @cached_property
    def given(self) -> dict[str, int]:
        """Variable -> value, of those that the statement gives."""
        return {text[0].lower(): int(text[1:]) for text in self.definitions if text[0].isupper()}

    @cached_property
    def defined(self) -> dict[str, Definition]:
        """Variable -> definition, of the others."""
        return {
            text[0]: (text[2], text[3], text[4]) for text in self.definitions if text[0].islower()
        }

    def operands(self) -> dict[str, set[str]]:
        """Variable -> those from which it is defined, of the others."""
        return {name: {a, b} for name, (a, _, b) in self.defined.items()}

    def initial(self) -> State:
        return ()

    def actions(self, state: State) -> None:
        return None

    def apply(self, state: State, step: TextStep) -> State:
        """`state` with `step` added. Raises IllegalStep if the grammar cannot read it or it was
        cut off.
        """
        if step.finish == "length":
            raise IllegalStep(f"the line {step.text[:80]!r} was cut off; allow more tokens a step")
        read(step.text)
        return (*state, step)

    def is_terminal(self, state: State) -> bool:
        return self.answer(state) is not None

    def verify(self, state: State) -> None:
        """None: only an answer key could tell."""

    def answer(self, state: State) -> str | None:
        """The value that the last line gives to the variable asked for; None while it does not."""
        if not state:
            return None
        _, values = read(state[-1].text)
        return str(values[2][1]) if values and values[2][0] == self.query else None

    def prompt(self, state: State) -> str:
        """The statement."""
        return f"mod {self.modulus}: {' '.join(self.definitions)}; {self.query}?"

    def key(self, state: State, step: TextStep) -> Hashable:
        """The line without spaces around it. Raises IllegalStep."""
        self.apply(state, step)
        return step.text.strip(" ")

    def to_json(self) -> dict[str, Any]:
        """The arguments that make this problem again: Chains(**problem.to_json())."""
        return {"modulus": self.modulus, "definitions": list(self.definitions), "query": self.query}

    def needed(self) -> list[str]:
        """The variables that must be computed, from the query on, each in the place where it is
        first met: the plan.
        """
        plan = [self.query]
        for name in plan:
            a, _, b = self.defined[name]
            for operand in (a, b):
                if operand in self.defined and operand not in plan:
                    plan.append(operand)
        return plan

    def canonical(self) -> str:
        """What must be computed, with names and distractors removed: equal for problems that
        differ in those only.
        """
        plan = self.needed()
        shown = {name: str(value) for name, value in self.given.items()}
        shown |= {name: f"v{i}" for i, name in enumerate(plan)}
        lines = []
        for name in plan:
            a, sign, b = self.defined[name]
            lines.append(f"{shown[a]}{sign}{shown[b]}")
        return f"{self.modulus}: {' '.join(lines)}"

    def split(self) -> str:
        """ "train" (90 %), "validation" (5 %) or "test" (5 %), by a hash of the canonical form."""
        return split_of(self.canonical())


def compute(a: int, sign: str, b: int, modulus: int) -> int:
    """a `sign` b modulo `modulus`, in 0..modulus-1."""
    return _COMPUTE[sign](a, b) % modulus


def read(text: str) -> tuple[tuple[str, str, str, str], tuple[tuple[str, int], ...]]:
    """(variable, operand, operator, operand) of a line, and its three (variable, value), none in
    a plan. Raises IllegalStep.
    """
    match = _LINE.fullmatch(text.strip(" "))
    if not match:
        raise IllegalStep(
            f"{text[:80]!r} is no step; write a plan like c=a*b or values like c=a*b A3 B7 C10"
        )
    name, a, sign, b, *values = match.groups()
    pairs = zip(values[::2], values[1::2], strict=True) if values[0] else ()
    return (name, a, sign, b), tuple((letter.lower(), int(value)) for letter, value in pairs)


def parse(text: str) -> Chains | None:
    """The problem that `text` states; None if it is none of ours (does not begin with "mod" and a
    number).

    Raises ValueError if it is ours but malformed.
    """
    text = text.strip()
    if not re.match(r"mod [0-9]", text, re.IGNORECASE):
        return None
    text = "m" + text[1:]
    match = _STATEMENT.fullmatch(text)
    if not match:
        raise ValueError(f"{text[:80]!r} is no chain of definitions; {_REMEDY}")
    return Chains(int(match[1]), tuple(match[2].split()), match[match.lastindex or 0])


def generate(
    seed: int,
    count: int,
    operations: int = 4,
    distractors: int = 2,
    modulus: int = 11,
    shuffle: bool = True,
    split: str | None = None,
) -> Iterator[Chains]:
    """`count` different problems (by canonical form), deterministic in the arguments.

    operations   definitions that must be computed, 1 to 12;  distractors: definitions that need
                 not, 0 to 4
    shuffle      definitions in random order, else each after those it needs;  split: only problems
                 of this split
    Raises ValueError for other sizes: there are 23 letters.
    """
    if not 1 <= operations <= 12 or not 0 <= distractors <= 4:
        raise ValueError(
            f"chains of {operations} operations and {distractors} distractors are not made: give "
            "1 to 12 and 0 to 4"
        )
    rng = random.Random(seed)
    seen: set[str] = set()
    while len(seen) < count:
        problem = draw(rng, operations, distractors, modulus, shuffle)
        if problem is None:
            continue
        form = problem.canonical()
        if form not in seen and split in (None, split_of(form)):
            seen.add(form)
            yield problem


def draw(
    rng: random.Random, operations: int, distractors: int, modulus: int, shuffle: bool = True
) -> Chains | None:
    """A random problem, or None: draw again. One in which some variable needs exactly
    `operations` definitions, itself included.
    """
    leaves = max(2, operations // 2 + 1)
    names = rng.sample(LETTERS, leaves + operations + distractors)
    texts = [f"{name.upper()}{rng.randrange(modulus)}" for name in names[:leaves]]
    needs: dict[str, frozenset[str]] = {name: frozenset() for name in names[:leaves]}
    for i, name in enumerate(names[leaves:], leaves):
        operands = [rng.choice(names[max(0, i - WINDOW) : i]), rng.choice(names[:i])]
        rng.shuffle(operands)
        texts.append(f"{name}={operands[0]}{rng.choice(OPERATORS)}{operands[1]}")
        needs[name] = needs[operands[0]] | needs[operands[1]] | {name}
    queries = [name for name in names if len(needs[name]) == operations]
    if not queries:
        return None
    query = rng.choice(queries)
    if shuffle:
        rng.shuffle(texts)
    return Chains(modulus, tuple(texts), query)
