"""Chains of thought: the states of problems in text."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from search.final_answer import Reading, spoken

GIVEN = "given"  #: how a step "ended" that the search put into the chain
BLOCK = 64  #: steps that the chains which go on from one another share as one


@dataclass(frozen=True)
class TextStep:
    """One line of reasoning: its text without delimiter, and the exact tokens that were sampled for
    it.

    finish   how it ended: "stop" (its delimiter), "last" (its delimiter, and the policy takes no
             more steps), "end" (end of text or turn), "length" (cut off: it goes on with the next),
             "given" (nobody sampled it: the search put it there, and no policy learns it)
    thought  whether it ends among the thoughts of a model, which are no answer. The policy knows:
             its prompt may have opened them
    log_probs  of each token under the distribution that it was sampled from, with its temperature
             and truncation; (): unknown. Steps that differ in them alone are equal
    """

    text: str
    tokens: tuple[int, ...] = ()
    finish: str = "stop"
    thought: bool = False
    log_probs: tuple[float, ...] = field(default=(), compare=False, repr=False)


class _Block:
    """`BLOCK` steps in a row, their text and their tokens."""

    __slots__ = ("steps", "text", "tokens")

    def __init__(self, steps: tuple[TextStep, ...]):
        self.steps = steps
        self.text = "".join(map(piece, steps))
        self.tokens = tuple(itertools.chain.from_iterable(step.tokens for step in steps))


class Chain(Sequence[TextStep]):
    """The state of a text problem: its steps, with what was read of their text so far. A plain
    tuple of them is the same state, equal and with the same hash.

    A chain shares its steps with those that go on from it, so that n states of one chain of n steps
    take memory in proportion to n.

    reading      of its text
    token_count  sampled tokens of all steps
    """

    __slots__ = ("_blocks", "_rest", "reading", "token_count")

    def __init__(self, steps: Iterable[TextStep] = ()):
        self._blocks: tuple[_Block, ...] = ()
        self._rest: tuple[TextStep, ...] = ()  # fewer than a block
        self.reading = Reading()
        self.token_count = 0
        for step in steps:
            self._add(step)

    def then(self, step: TextStep) -> Chain:
        """This chain with one more step."""
        after = Chain()
        after._blocks = self._blocks
        after._rest = self._rest
        after.reading = self.reading
        after.token_count = self.token_count
        after._add(step)
        return after

    def _add(self, step: TextStep) -> None:
        self._rest = (*self._rest, step)
        self.reading = self.reading.after(piece(step))
        self.token_count += len(step.tokens)
        if len(self._rest) == BLOCK:
            self._blocks = (*self._blocks, _Block(self._rest))
            self._rest = ()

    @property
    def text(self) -> str:
        """The pieces of all steps, one after another."""
        return "".join([*[block.text for block in self._blocks], *map(piece, self._rest)])

    @property
    def tokens(self) -> tuple[int, ...]:
        """The sampled tokens of all steps, one after another."""
        tokens: list[int] = []
        for block in self._blocks:
            tokens += block.tokens
        for step in self._rest:
            tokens += step.tokens
        return tuple(tokens)

    def __len__(self) -> int:
        return BLOCK * len(self._blocks) + len(self._rest)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return tuple(self)[place]
        first = BLOCK * len(self._blocks)  # of the rest
        if place < 0:
            place += first + len(self._rest)
        if place >= first:
            return self._rest[place - first]
        if place < 0:
            raise IndexError("the chain has no such step")
        return self._blocks[place // BLOCK].steps[place % BLOCK]

    def __iter__(self) -> Iterator[TextStep]:
        return itertools.chain(*[block.steps for block in self._blocks], self._rest)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Chain) and self._blocks == other._blocks:  # they share them
            return self._rest == other._rest
        if not isinstance(other, (Chain, tuple)):
            return NotImplemented
        return len(self) == len(other) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __add__(self, steps: tuple[TextStep, ...]) -> tuple[TextStep, ...]:
        return (*self, *steps)

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __reduce__(self) -> tuple[type[Chain], tuple[tuple[TextStep, ...]]]:
        return Chain, (tuple(self),)


def chain_of(state: Sequence[TextStep]) -> Chain:
    """A state as a chain; itself where it is one."""
    return state if isinstance(state, Chain) else Chain(state)


class Texts(Sequence[str]):
    """The texts of steps, each cut out when it is looked at."""

    def __init__(self, steps: Sequence[TextStep]):
        self._steps = steps

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [step.text.strip() for step in self._steps[place]]
        return self._steps[place].text.strip()


def piece(step: TextStep) -> str:
    """What a step adds to the text of its chain: a step that was cut off runs on into the next."""
    return step.text if step.finish == "length" else f"{step.text}\n"


def chain_text(state: Sequence[TextStep]) -> str:
    """The chain of thought as text, a line (or more) a step; a step that was cut off runs on
    into the next.
    """
    text = state.text if isinstance(state, Chain) else "".join(map(piece, state))
    return text.rstrip("\n")


def chain_tokens(state: Sequence[TextStep]) -> tuple[int, ...]:
    """The sampled tokens of a chain, those of all steps one after another."""
    if isinstance(state, Chain):
        return state.tokens
    return tuple(itertools.chain.from_iterable(step.tokens for step in state))


def token_count(state: Sequence[TextStep]) -> int:
    """How many they are."""
    if isinstance(state, Chain):
        return state.token_count
    return sum(len(step.tokens) for step in state)


def cut_text(state: Sequence[TextStep]) -> str:
    """The text of the last steps that were cut off: what comes next goes on with it."""
    first = len(state)
    while first and state[first - 1].finish == "length":
        first -= 1
    return "".join(step.text for step in state[first:])


def last_text(state: Sequence[TextStep]) -> str:
    """The text of the last step, with the parts of it that were cut off before, behind its
    thoughts.
    """
    first = len(state) - 1
    while first and state[first - 1].finish == "length":
        first -= 1
    return spoken("".join(step.text for step in state[first:])) or ""
