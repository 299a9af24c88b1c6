"""What is to be solved: states, steps and rules, never the label."""

from __future__ import annotations

import contextlib
import copy
import inspect
import numbers
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast, runtime_checkable

from search.chain import Chain, Texts, TextStep, chain_of, chain_text, last_text
from search.final_answer import boxed, final_answer
from search.patterns import Pattern
from search.repetition import repeats, stutters
from search.sandbox.functions import SandboxedFunction, Wish
from search.scheduling.requests import Call
from search.scheduling.scheduler import ask

State = Any
Step = Any


class IllegalStep(ValueError):
    """The rules of the problem do not allow this step from this state."""


class Mistake(ValueError):
    """What was given as a part or a problem is none; the sentence says what to write. Raised by
    the checks of Copse alone, never by the part itself.
    """


@runtime_checkable
class Problem(Protocol):
    """Rules of one problem. It is never given a target, and no search asks it for one.

    What computes the answer of a generated problem from its statement is for grading and for making
    data. It stands outside the problem, so that no search can reach it.

    Derive from it and write `initial`, `apply`, `is_terminal` and `prompt`; the rest has defaults:
    one player, rules that run inline, no list of actions, no verifier, no answer, and steps that
    are the same where they are equal.

    A kind whose `verify` can never tell says so with `verifies = False`: then grading does not
    wait for it.
    """

    players: int = 1  #: 1 or 2; a problem of two has `to_move(state)`, 0 or 1
    inline: bool = True  #: False: `apply` and `verify` run in worker processes

    def initial(self) -> State:
        """The first state. States are immutable, and equal where they are the same."""

    def actions(self, state: State) -> Sequence[Step] | None:
        """All legal steps, or None: open-ended, only a policy can propose."""
        return None

    def apply(self, state: State, step: Step) -> State:
        """The state after `step`. Raises IllegalStep."""

    def is_terminal(self, state: State) -> bool:
        """Whether nothing follows."""

    def verify(self, state: State) -> float | None:
        """Reward in [0, 1] of a finished state; None where only the label could tell."""
        return None

    def answer(self, state: State) -> str | None:
        """Canonical answer: equal answers vote together. None: there is none."""
        return None

    def prompt(self, state: State) -> str:
        """The statement only."""

    def key(self, state: State, step: Step) -> Hashable:
        """What makes two steps from `state` the same step. Raises IllegalStep where it can tell
        at once.
        """
        return step.text.strip() if isinstance(step, TextStep) else cast("Hashable", step)


class TextProblem:
    r"""An open text problem: the chain of thought is free text, one `TextStep` after another.

    statement  what the model is asked
    verify     function of the chain's text: a reward in [0, 1] (or a bool), None where it cannot
               tell; no function: never
    answer     where the answer stands: a regular expression with one group, or a function of the
               text behind the model's thoughts that gives the final answer, or None while there is
               none. Default: a box, and of a finished chain `final_answer`
    ends       regular expression of what ends a chain beside a box, where there is no `answer`; it
               is looked for in the last step
    inline     False: `verify` runs in a worker process (it must then be importable: module and
               name), at most `seconds` long
    sandbox    True for a `verify` that does what a model wrote: each call runs in a sandbox of its
               own (`search.sandbox`), at most `seconds` long, never inline. `Limits`: other limits.
               "none": without protection

    A chain is finished when its last step ended the text (`TextStep.finish == "end"`) or its answer
    is there: what `answer` finds, else a completed box or what `ends` finds. Weaker marks, such as
    "the answer is", end no chain: they are read of one that has ended. Of a step that was cut off,
    only what is surely whole counts. Raises ValueError for an empty statement, a pattern that is
    none, a `verify` that cannot cross; `search.sandbox.SandboxMissing` where there is no sandbox.
    """

    players = 1
    open_answers = True  #: answers are free text: which are equal is for a checker to say

    def __init__(
        self,
        statement: str,
        verify: Callable[[str], float | bool | None] | None = None,
        answer: Callable[[str], str | None] | str | None = None,
        inline: bool = True,
        seconds: float = 10.0,
        ends: str | None = None,
        sandbox: Wish = False,
    ):
        if not isinstance(statement, str):
            raise ValueError(
                f"a problem's statement is text, and this is {statement!r}: write what is to be "
                "solved"
            )
        if not statement.strip():
            raise ValueError("the problem is empty: write what is to be solved")
        _check_text_function("verify", verify)
        _check_text_function("answer", None if isinstance(answer, str) else answer)
        self.statement = statement
        self.inline = inline and sandbox is False
        self.seconds = seconds
        self._verify = verify
        if sandbox is not False:
            self._verify = SandboxedFunction(verify, "TextProblem.verify", seconds, sandbox)
            self.seconds = self._verify.longest
        self._pattern = Pattern(answer, groups=1) if isinstance(answer, str) else None
        self._function = answer if callable(answer) else None
        self._ends = None if ends is None else Pattern(ends)

    def asked(self, answer: str | None, ends: str | None) -> TextProblem:
        """This problem for a model that was asked to mark its answer so; itself where it says
        already where the answer stands.
        """
        own = self._pattern or self._function or self._ends
        if own or (answer is None and ends is None):
            return self
        other = copy.copy(self)
        other._pattern = None if answer is None else Pattern(answer, groups=1)
        other._ends = None if ends is None else Pattern(ends)
        return other

    @property
    def verifies(self) -> bool:
        return self._verify is not None

    def __repr__(self) -> str:
        return f"TextProblem({self.statement!r})"

    def initial(self) -> Chain:
        return Chain()

    def actions(self, state: Sequence[TextStep]) -> None:
        return None

    def key(self, state: Sequence[TextStep], step: TextStep) -> Hashable:
        """The text of the step; of one that ended the chain where the same text with its delimiter
        does not, and of one that was cut off, how it ended as well.
        """
        if step.finish == "length":
            return (step.text, "length")
        text = step.text.strip()
        if step.finish == "end":
            open_ended = chain_of(state).then(replace(step, finish="stop"))
            if not self.is_terminal(open_ended):
                return (text, "end")
        return text

    def apply(self, state: Sequence[TextStep], step: TextStep) -> Chain:
        """`state` with `step` added. Raises IllegalStep for an empty step, and for one that goes
        round in a circle (`search.repetition`).
        """
        # a part of a step may be blank
        within = step.finish == "length" or (bool(state) and state[-1].finish == "length")
        if not step.text.strip() and step.finish != "end" and not within:
            raise IllegalStep("an empty step leads nowhere")
        after = chain_of(state).then(step)
        if step.finish != "end" and repeats(Texts(after)):
            raise IllegalStep(f"the chain repeats {step.text[:80]!r} again and again")
        if step.finish == "length" and stutters(step.text):
            raise IllegalStep(f"the step repeats {step.text[-80:]!r} again and again")
        return after

    def is_terminal(self, state: Sequence[TextStep]) -> bool:
        if not state or state[-1].finish == "end":
            return bool(state)
        state = chain_of(state)
        reading = state.reading
        if state[-1].thought or reading.thinking:
            return False
        cut = state[-1].finish == "length"
        if self._function is not None:
            return not cut and self._function(_behind_thoughts(state) or "") is not None
        if self._pattern is not None:
            return self._marked(_behind_thoughts(state) or "", cut)
        if state[-1].finish == "last" and final_answer(_behind_thoughts(state) or "") is not None:
            return True
        if reading.box and boxed(_behind_thoughts(state) or ""):
            return True
        return not cut and self._ends is not None and self._ends.found_in(last_text(state))

    def _marked(self, text: str, cut: bool) -> bool:
        """Whether an answer pattern has found an answer. cut: its end may be missing."""
        assert self._pattern is not None
        for match in self._pattern.matches(text):
            whole = match.end(1) < len(text) or not cut
            if whole and match[1] and match[1].strip():
                return True
        return False

    def verify(self, state: Sequence[TextStep]) -> float | None:
        """The reward. Raises ValueError where the function gives what is none."""
        reward = self._verify(chain_text(state)) if self._verify else None
        if reward is None:
            return None
        return checked_reward(reward, "the function verify of a TextProblem")

    def answer(self, state: Sequence[TextStep]) -> str | None:
        """The answer of a finished chain; None where there is none."""
        text = _behind_thoughts(state)
        if text is None:
            return None
        if self._function is not None:
            return self._function(text)
        if self._pattern is not None:
            return _last_group(self._pattern, text)
        return final_answer(text)

    def prompt(self, state: Sequence[TextStep]) -> str:
        return self.statement

    def to_json(self) -> dict[str, Any]:
        """Arguments that make this problem again. A `verify` or `answer` function is not among
        them.
        """
        return {"statement": self.statement}


def checked_reward(reward: Any, what: str) -> float:
    """A reward as float in [0, 1]. Raises ValueError, naming `what` gave it, for all else than a
    number in [0, 1] or a bool.
    """
    plain = reward
    if hasattr(reward, "item"):  # a number of numpy's or torch's; larger arrays have no item
        with contextlib.suppress(ValueError, RuntimeError):
            plain = reward.item()
    if not isinstance(plain, numbers.Real) or not 0.0 <= float(plain) <= 1.0:
        raise ValueError(
            f"{what} returned {reward!r}: give a number in [0, 1], a bool, or None where nobody "
            "can tell"
        )
    return float(plain)


def _behind_thoughts(state: Sequence[TextStep]) -> str | None:
    """The text of a chain behind the thoughts of the model; None while it thinks."""
    chain = chain_of(state)
    if chain.reading.thinking or (chain and chain[-1].thought):
        return None
    return chain_text(chain)[chain.reading.start :]


def _last_group(pattern: Pattern, text: str) -> str | None:
    found = pattern.matches(text)
    if not found:
        return None
    return (found[-1].group(1) or "").strip() or None


# -- asking functions: the only way in which methods call a problem's rules


def _limit(problem: Problem) -> float:
    return float(getattr(problem, "seconds", 10.0))


async def apply(problem: Problem, state: State, step: Step) -> State | None:
    """The state after `step`, None where it is illegal. Answered inline, or by a worker process."""
    try:
        if problem.inline or type(problem).apply is TextProblem.apply:  # ours, and soon done
            after = problem.apply(state, step)
        else:
            after = await ask(Call(problem.apply, (state, step), _limit(problem)))
    except IllegalStep:
        return None
    if after is None:
        raise Mistake(
            f"{type(problem).__name__}.apply returned None: return the new state, or raise "
            "search.IllegalStep"
        )
    return after


async def verify(problem: Problem, state: State) -> float | None:
    """`problem.verify(state)`, inline or by a worker process. Raises ValueError for a reward
    outside [0, 1].
    """
    own = problem._verify if type(problem).verify is TextProblem.verify else None  # type: ignore
    if problem.inline:
        reward = problem.verify(state)
    elif isinstance(own, SandboxedFunction):
        reward = await ask(Call(own, (chain_text(state),), own.longest))
    else:
        reward = await ask(Call(problem.verify, (state,), _limit(problem)))
    if reward is None:
        return None
    return checked_reward(reward, f"{type(problem).__name__}.verify")


# -- examiners


def _check_text_function(name: str, function: Any) -> None:
    """Raises ValueError where `function` of a TextProblem is no plain function of one text."""
    if function is None:
        return
    if not callable(function):
        raise ValueError(f"{name}={function!r} is no function: give a function of the chain's text")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise ValueError(
            f"the function {name} of a TextProblem is asynchronous or a generator: write a "
            "plain `def` that returns its result"
        )
    try:
        inspect.signature(function).bind("text")
    except TypeError:
        takes = ", ".join(inspect.signature(function).parameters) or "nothing"
        raise ValueError(
            f"the function {name} of a TextProblem takes ({takes}): it is called with the "
            "chain's text alone"
        ) from None
    except ValueError:  # it does not tell what it takes
        pass


#: what every problem must write itself
REQUIRED = ("initial", "apply", "is_terminal", "prompt")


def check_members(problem: Any) -> None:
    """Raises ValueError that names what a problem lacks, and for what is no problem at all."""
    if isinstance(problem, type) and hasattr(problem, "apply"):
        raise Mistake(f"{problem.__name__} is a class: give a problem, {problem.__name__}(...)")
    if not any(hasattr(problem, member) for member in ("initial", "apply")):
        raise Mistake(
            f"{problem!r} is no problem: give text, or an object with the methods of search.Problem"
        )
    name = type(problem).__name__
    missing = [member for member in _MEMBERS if not hasattr(problem, member)]
    if missing:
        raise Mistake(
            f"the problem {name} has no {' and no '.join(missing)}: derive it from "
            "search.Problem, which has defaults for most"
        )
    for member in REQUIRED:
        if getattr(type(problem), member, None) is getattr(Problem, member):
            raise Mistake(
                f"the problem {name} has no {member} of its own: write it, as search.Problem "
                "describes it"
            )


_MEMBERS = (
    "players", "inline", "initial", "actions", "apply", "is_terminal", "verify", "answer", "prompt",
    "key",
)  # fmt: skip


def check_start(problem: Problem) -> Any:
    """Examine a problem as far as that takes no step; its first state. Raises ValueError
    that says what to write.
    """
    check_members(problem)
    name = f"the problem {type(problem).__name__}"
    _require(problem.players in (1, 2), f"{name} has players={problem.players!r}: give 1 or 2")
    _require(
        isinstance(problem.inline, bool),
        f"{name} has inline={problem.inline!r}: give True or False",
    )
    _require(
        problem.players == 1 or hasattr(problem, "to_move"),
        f"{name} is for two players: write to_move(state), which returns 0 or 1",
    )
    state = problem.initial()
    _require(state is not None, f"initial of {name} returned None: return the first state")
    _require(
        problem.initial() == state,
        f"initial of {name} gives another state each time: states that are the same must be equal",
    )
    statement = problem.prompt(state)
    _require(
        isinstance(statement, str) and bool(statement),
        f"prompt of {name} returned {statement!r}: return the statement as text",
    )
    terminal = problem.is_terminal(state)
    _require(terminal is not None, f"is_terminal of {name} returned None: return True or False")
    return state


def check_problem(problem: Problem, steps: Sequence[Step] = ()) -> None:
    """Examine a problem by walking `steps` (or its first actions) from the start. Raises
    ValueError that says what is broken.
    """
    state = check_start(problem)
    name = f"the problem {type(problem).__name__}"
    walk = list(steps)
    _require(
        not isinstance(problem, TextProblem) or not any(isinstance(step, str) for step in walk),
        "steps of a text problem are search.TextStep: write search.TextStep(text)",
    )
    while not problem.is_terminal(state):
        actions = problem.actions(state)
        if not walk and not actions:
            return
        step = walk.pop(0) if walk else actions[0]  # type: ignore[index]
        before = repr(state)
        after = problem.apply(state, step)
        _require(
            after is not None,
            f"apply of {name} returned None: return the new state, or raise search.IllegalStep",
        )
        _require(
            repr(state) == before,
            f"apply of {name} changed the state it was given: return a new one",
        )
        _require(
            problem.apply(state, step) == after,
            f"apply of {name} gives another state each time: it must be deterministic",
        )
        _require(
            hash(problem.key(state, step)) == hash(problem.key(state, step)),
            f"key of {name} changes: equal steps must have equal keys",
        )
        state = after
    reward = problem.verify(state)
    if reward is not None:
        checked_reward(reward, f"verify of {name}")
    _require(
        problem.verify(state) == reward,
        f"verify of {name} changes its mind: it must be deterministic",
    )
    answer = problem.answer(state)
    _require(
        answer is None or isinstance(answer, str),
        f"answer of {name} returned {answer!r}: return text, or None",
    )


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise Mistake(sentence)
