"""Traces to label, and what labels say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from search.problem import TextStep

pytest.importorskip("torch")
from fakes import Characters, listed_player
from trace_cases import make

from guides.data.labellers import by_rollouts
from guides.engines import Loaded
from guides.policies.lm import LM
from models import Scripted
from search.scheduling.driver import run
from search.trace import Trace

Z = 4.5  # standard errors that a mean may be off: 7 in a million


def walker(p: float = 1.0, function: Any = None, **backend: Any) -> LM:
    """A policy that writes "g" with probability p, else "b"."""
    function = function or listed_player(
        lambda prompt: {line: q for line, q in (("g", p), ("b", 1 - p)) if q}
    )
    return LM(
        Loaded(
            Scripted(function, **backend),
            Characters(),
            {"delimiter": "\n", "step_tokens": 4, "prompt": "{problem}\n"},
            "w",
            False,
        )
    )


def walks(*chains: str, length: int | None = None, name: str = "t") -> Trace:
    """The trace of chains such as "ggb", which share their beginnings; finished are those of
    `length` steps.
    """
    length = length or max(map(len, chains))
    texts = sorted(
        {chain[:i] for chain in chains for i in range(1, len(chain) + 1)},
        key=lambda text: (len(text), text),
    )
    place = {"": 0} | {text: i for i, text in enumerate(texts, 1)}
    trace = make(
        [place[text[:-1]] for text in texts],
        [1] * len(texts),
        [len(text) == length for text in texts],
    )
    letters = {place[text]: text[-1] for text in texts}
    steps = tuple(TextStep(letters[int(c)], (ord(letters[int(c)]), 10)) for c in trace.edge_child)
    return replace(
        trace, id=name, kind=f"{__name__}:Walk", arguments={"length": length}, steps=steps
    )


def texts_of(trace: Trace) -> list[str]:
    """The chain of each node, as letters."""
    return [
        "".join(trace.steps[edge].text for edge in trace.path(node))
        for node in range(len(trace.node_parent))
    ]


def rolled(
    trace: Trace, policy: LM, count: int, seed: int = 0, labeller: Any = by_rollouts, **options: Any
) -> Any:
    return run(labeller(trace, "1", policy, count, seed, **options), policy.backends)


@dataclass(frozen=True)
class Walk:
    """A walk of `length` steps; its answer is "1" if no step was "b". From a good prefix of t steps
    a policy that writes "g" with probability p gets there with p ** (length - t), from another one
    never.
    """

    length: int
    players = 1
    inline = True

    def initial(self) -> tuple[TextStep, ...]:
        return ()

    def actions(self, state: Any) -> None:
        return None

    def apply(self, state: Any, step: TextStep) -> Any:
        return (*state, step)

    def is_terminal(self, state: Any) -> bool:
        return len(state) == self.length

    def verify(self, state: Any) -> None:
        return None

    def answer(self, state: Any) -> str | None:
        return "0" if any(step.text == "b" for step in state) else "1"

    def prompt(self, state: Any) -> str:
        return "walk"

    def key(self, state: Any, step: TextStep) -> str:
        return step.text

    def to_json(self) -> dict[str, Any]:
        return {"length": self.length}
