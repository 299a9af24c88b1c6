"""Chains of thought: the states of problems in text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from search.final_answer import Reading, spoken


@dataclass(frozen=True)
class TextStep:
    """One line of reasoning: its text without delimiter, and the exact tokens that were sampled for
    it.

    finish   how it ended: "stop" (its delimiter), "last" (its delimiter, and the policy takes no
             more steps), "end" (end of text or turn), "length" (cut off: it goes on with the next)
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


class Chain(tuple[TextStep, ...]):
    """The state of a text problem: its steps, with what was read of their text so far. A plain
    tuple of them is the same state.
    """

    reading: Reading | None = None


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


def reading_of(state: Sequence[TextStep]) -> Reading:
    """What was read of a chain's text; read now for a plain tuple."""
    found = getattr(state, "reading", None)
    if found is None:
        found = Reading()
        for step in state:
            found = found.after(piece(step))
    return found


def piece(step: TextStep) -> str:
    """What a step adds to the text of its chain: a step that was cut off runs on into the next."""
    return step.text if step.finish == "length" else f"{step.text}\n"


def chain_text(state: Sequence[TextStep]) -> str:
    """The chain of thought as text, a line (or more) a step; a step that was cut off runs on
    into the next.
    """
    # the loop of `piece`, which is too slow to be called for each step of a long chain
    ends = {"length": ""}
    return "".join([step.text + ends.get(step.finish, "\n") for step in state]).rstrip("\n")


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
