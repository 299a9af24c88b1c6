"""What is to be solved: states, steps and rules, never the label."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

from search.asks import Asks, ask
from search.final import final_answer
from search.requests import Call

State = Any
Step = Any


class IllegalStep(ValueError):
    """The rules of the problem do not allow this step from this state."""


@dataclass(frozen=True)
class TextStep:
    """One line of reasoning: its text without delimiter, and the exact tokens that were sampled for it.

    finish  how it ended: "stop" (its delimiter), "end" (end of text or turn), "length" (cut off: never a finished chain)
    """

    text: str
    tokens: tuple[int, ...] = ()
    finish: str = "stop"


@runtime_checkable
class Problem(Protocol):
    """Rules of one problem. A problem never holds its label, so no search can peek at it.

    A kind whose `verify` can never tell says so with `verifies = False`: then nobody waits for it where results are to be graded.
    """

    players: int  #: 1 or 2
    inline: bool  #: False: `apply` and `verify` run in worker processes

    def initial(self) -> State: ...

    def actions(self, state: State) -> Sequence[Step] | None:
        """All legal steps, or None: open-ended, only a policy can propose."""

    def apply(self, state: State, step: Step) -> State:
        """The state after `step`. Raises IllegalStep."""

    def is_terminal(self, state: State) -> bool: ...

    def verify(self, state: State) -> float | None:
        """Reward in [0, 1] of a finished state; None where only the label could tell."""

    def answer(self, state: State) -> str | None:
        """Canonical answer: equal answers vote together. None: there is none."""

    def prompt(self, state: State) -> str:
        """The statement only."""

    def key(self, state: State, step: Step) -> Hashable:
        """What makes two steps from `state` the same step. Raises IllegalStep where it can tell at once."""


class TextProblem:
    r"""An open text problem: the chain of thought is free text, one `TextStep` after another.

    statement  what the model is asked
    verify     function of the chain's text: a reward in [0, 1] (or a bool), None where it cannot tell; no function: never
    answer     function of the chain's text: the final answer, or None while there is none. Default: `final_answer`; a string is
               a regular expression with one group
    inline     False: `verify` runs in a worker process (it must then be importable: module and name), at most `seconds` long

    A chain is finished when its answer is there or its last step ended the text (`TextStep.finish == "end"`).
    """

    players = 1

    def __init__(
        self,
        statement: str,
        verify: Callable[[str], float | bool | None] | None = None,
        answer: Callable[[str], str | None] | str | None = None,
        inline: bool = True,
        seconds: float = 10.0,
    ):
        if not statement.strip():
            raise ValueError("the problem is empty: write what is to be solved")
        self.statement, self.inline, self.seconds = statement, inline, seconds
        self._verify = verify
        if isinstance(answer, str):
            pattern = re.compile(answer)
            if pattern.groups != 1:
                raise ValueError(f"the answer pattern {answer!r} has {pattern.groups} groups: mark the answer with exactly one (...)")
            self._answer: Callable[[str], str | None] = partial(_last_group, pattern)
        else:
            self._answer = answer or final_answer

    @property
    def verifies(self) -> bool:
        return self._verify is not None

    def __repr__(self) -> str:
        return f"TextProblem({self.statement!r})"

    def initial(self) -> tuple[TextStep, ...]:
        return ()

    def actions(self, state: tuple[TextStep, ...]) -> None:
        return None

    def key(self, state: tuple[TextStep, ...], step: TextStep) -> Hashable:
        return step.text.strip()

    def apply(self, state: tuple[TextStep, ...], step: TextStep) -> tuple[TextStep, ...]:
        if not step.text.strip() and step.finish != "end":
            raise IllegalStep("an empty step leads nowhere")
        return (*state, step)

    def is_terminal(self, state: tuple[TextStep, ...]) -> bool:
        if not state or state[-1].finish == "length":
            return False
        return state[-1].finish == "end" or self.answer(state) is not None

    def verify(self, state: tuple[TextStep, ...]) -> float | None:
        reward = self._verify(chain_text(state)) if self._verify else None
        return None if reward is None else min(1.0, max(0.0, float(reward)))

    def answer(self, state: tuple[TextStep, ...]) -> str | None:
        return self._answer(chain_text(state))

    def prompt(self, state: tuple[TextStep, ...]) -> str:
        return self.statement

    def to_json(self) -> dict[str, Any]:
        """Arguments that make this problem again. A `verify` or `answer` function is not among them."""
        return {"statement": self.statement}


def chain_text(state: Sequence[TextStep]) -> str:
    """The chain of thought as text, a line (or more) a step; a step that was cut off runs on into the next."""
    return "".join(step.text + ("" if step.finish == "length" else "\n") for step in state).rstrip("\n")


def _last_group(pattern: re.Pattern[str], text: str) -> str | None:
    found = list(pattern.finditer(text))
    return (found[-1].group(1).strip() or None) if found else None


def build(kind: str, arguments: dict) -> Problem:
    """A problem again from its class path ("module:Class") and JSON arguments, as a trace or a problems file names it."""
    module, _, name = kind.partition(":")
    try:
        made = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise ValueError(f"there is no problem class {kind!r}: write it as module:Class and make its module importable") from None
    if not (isinstance(made, type) and hasattr(made, "apply")):  # a file must not have any function of any module called
        raise ValueError(f"{kind!r} is no problem class: name one with the methods of search.Problem")
    return made(**arguments)


# -- asking functions: the only way in which methods call a problem's rules


def _limit(problem: Problem) -> float:
    return float(getattr(problem, "seconds", 10.0))


def apply(problem: Problem, state: State, step: Step) -> Asks[State | None]:
    """The state after `step`, None where it is illegal. Answered inline, or by a worker process."""
    try:
        if problem.inline:
            return problem.apply(state, step)
        return (yield from ask(Call(problem.apply, (state, step), _limit(problem))))
    except IllegalStep:
        return None


def verify(problem: Problem, state: State) -> Asks[float | None]:
    """`problem.verify(state)`, inline or by a worker process. Raises ValueError for a reward outside [0, 1]."""
    reward = problem.verify(state) if problem.inline else (yield from ask(Call(problem.verify, (state,), _limit(problem))))
    if reward is not None and not 0.0 <= reward <= 1.0:
        raise ValueError(f"{type(problem).__name__}.verify returned {reward!r}: a reward lies in [0, 1], or is None where nobody can tell")
    return None if reward is None else float(reward)


def check_problem(problem: Problem, steps: Sequence[Step] = ()) -> None:
    """Examine a problem by walking `steps` (or its first actions) from the start. Raises AssertionError naming what is broken."""
    assert problem.players in (1, 2), "players must be 1 or 2"
    assert isinstance(problem.inline, bool), "inline must be a bool"
    state = problem.initial()
    assert isinstance(problem.prompt(state), str) and problem.prompt(state), "prompt must give the statement as text"
    assert problem.initial() == state, "initial must give equal states each time"
    walk = list(steps)
    while not problem.is_terminal(state):
        actions = problem.actions(state)
        if not walk and not actions:
            return
        step = walk.pop(0) if walk or not actions else actions[0]
        before = repr(state)
        after = problem.apply(state, step)
        assert repr(state) == before, "apply changed the state it was given: states are immutable"
        assert problem.apply(state, step) == after, "apply must be deterministic"
        assert hash(problem.key(state, step)) == hash(problem.key(state, step)), "equal steps must have equal keys"
        state = after
    reward = problem.verify(state)
    assert reward is None or 0.0 <= reward <= 1.0, f"verify gave {reward!r}, outside [0, 1]"
    assert problem.verify(state) == reward, "verify must be deterministic"
    answer = problem.answer(state)
    assert answer is None or isinstance(answer, str), "answer must be text or None"
