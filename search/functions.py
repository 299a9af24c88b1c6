"""Plain functions as parts of a guide, and checks of what is given as a part.

A function of one parameter gets text: the problem's statement and the steps so far, a line each. A
function of two gets the problem and its states (a policy: one state). Either may be `async`. All
else is a class: `search.Value`, `search.Policy`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from search.chain import Chain
from search.parts import Policy, Proposal, Value, awaited, floats, is_ours, label, short, version_of
from search.problem import IllegalStep, Mistake, Problem, State, Step, TextStep, chain_text
from search.scheduling.requests import Avoided

#: (text) -> float, or (problem, states) -> floats; either may be async
PlainValue: TypeAlias = Callable[[str], Any] | Callable[[Any, Any], Any]
#: (text) -> list of the next steps as str, or (problem, state) -> list of steps; either may be
#: async
PlainPolicy: TypeAlias = Callable[[str], Any] | Callable[[Any, Any], Any]

# names of a parameter that shows that no text is expected
_NOT_TEXT = {"problem", "state", "states", "node", "nodes"}


class FunctionValue(Value):
    """A function as value function: it asks no model, so it costs neither tokens nor calls.

    function  (text) -> float, or (problem, states) -> floats; of_text: which of the two
    """

    version: str

    def __init__(self, function: PlainValue, of_text: bool):
        self.function: Callable[..., Any] = function
        self.of_text = of_text
        self.version = version_of(function)

    async def evaluate(
        self, problem: Problem, states: Sequence[State], known: np.ndarray, rng: np.random.Generator
    ) -> Sequence[float]:
        """What the function returns. Raises ValueError for text of a problem that has none, and
        where one text gets no number.
        """
        if not self.of_text:
            return await _call(self.function, problem, states)
        values = []
        for state in states:
            returned = await _call(self.function, text_of(problem, state, self.function))
            value = floats(returned)
            if value.size != 1:
                raise Mistake(
                    f"the function {label(self.function)} returned {short(returned)} for a text: "
                    "return a number in [0, 1], nan where unknown"
                )
            values.append(float(value.reshape(())))
        return values


class FunctionPolicy(Policy):
    """A function as policy: all the steps that it returns are proposed, equally likely, at most
    `max_steps` in a chain.

    function  (text) -> list of str, or (problem, state) -> list of steps; of_text: which of the two

    A str becomes a `TextStep`. No model is asked, so it costs neither tokens nor calls.
    """

    version: str

    def __init__(self, function: PlainPolicy, of_text: bool):
        self.function: Callable[..., Any] = function
        self.of_text = of_text
        self.version = version_of(function)

    async def propose(
        self,
        problem: Problem,
        state: State,
        n: int,
        rng: np.random.Generator,
        avoid: Sequence[Avoided] = (),
    ) -> list[Proposal]:
        """The steps that the function returns, equal ones once. Raises ValueError where it
        returns no list of steps.
        """
        name = f"the function {label(self.function)}"
        is_text = _is_text(state)
        length = len(state) if is_text else 0
        if length >= self.max_steps:
            return []
        if self.of_text:
            returned = await _call(self.function, text_of(problem, state, self.function))
        else:
            returned = await _call(self.function, problem, state)
        if not isinstance(returned, (list, tuple)):
            raise Mistake(
                f"{name} returned {short(returned)}: return a list of steps, [] where there is none"
            )
        finish = "last" if length + 1 >= self.max_steps else "stop"
        steps: list[Step] = []
        for step in returned:
            if isinstance(step, str) and is_text:
                step = TextStep(step, finish=finish)
            steps.append(step)
        if self.of_text and not all(isinstance(step, TextStep) for step in steps):
            raise Mistake(
                f"{name} returned {short(returned)}: return the next steps as text, a list of str"
            )
        distinct: dict[Any, Step] = {}
        for step in steps:
            try:
                key = problem.key(state, step)
            except IllegalStep:  # the search finds that out, and counts it
                key = object()
            distinct.setdefault(key, step)
        count = max(1, len(distinct))
        return [Proposal(step, -math.log(count), 1.0 / count) for step in distinct.values()]


async def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of the user's returns, awaited if it is async; an error of its own says
    where it was.
    """
    name = f"the function {label(function)}"
    try:
        return await awaited(function(*arguments), name)
    except Exception as error:
        error.add_note(f"{name} was called with {', '.join(map(short, arguments))}")
        raise


def text_of(problem: Problem, state: State, function: Callable[..., Any]) -> str:
    """What a function of text gets: the statement and the steps so far, a line each. Raises
    ValueError where a state is no text.
    """
    if not _is_text(state):
        raise Mistake(
            f"the function {label(function)} takes text, and a state of "
            f"{type(problem).__name__} is none ({short(state)}): "
            "write a function of two parameters, which gets the problem and its states"
        )
    statement = problem.prompt(state)
    return f"{statement}\n{chain_text(state)}" if state else statement


def _is_text(state: State) -> bool:
    if isinstance(state, Chain):
        return True
    return isinstance(state, tuple) and all(isinstance(step, TextStep) for step in state)


# -- what is given as a part


def value_of(given: Any) -> Value:
    """A value function of what was given as `value=`. Raises ValueError that says what to give."""
    if hasattr(given, "evaluate") and not isinstance(given, type):
        if not is_ours(given):
            attributes = ("backends", "tokens", "calls", "version")
            _check_methods(given, Value, {"evaluate": 4}, attributes)
        return given
    if hasattr(given, "propose") and not isinstance(given, type):
        raise Mistake(f"{type(given).__name__} proposes steps and judges none: give it as policy=")
    example = "a value function, for example guides.PRM(path)"
    _check_function(given, "value", "(problem, states) or (text)", example)
    return FunctionValue(given, _takes_text(given, "states", "list of states"))


def policy_of(given: Any) -> Policy:
    """A policy of what was given as `policy=`. Raises ValueError that says what to give."""
    if hasattr(given, "propose") and not isinstance(given, type):
        if not is_ours(given):
            attributes = ("backends", "step_tokens", "chain_tokens", "max_steps", "version")
            _check_methods(given, Policy, {"propose": 4, "complete": 3}, attributes)
        return given
    if hasattr(given, "policy") and hasattr(given, "value"):
        raise Mistake("policy= was given a whole guide: give its policy, guide.policy")
    if hasattr(given, "evaluate") and not isinstance(given, type):
        raise Mistake(f"{type(given).__name__} judges states and proposes none: give it as value=")
    example = "a policy, for example guides.LM(path)"
    _check_function(given, "policy", "(text) or (problem, state)", example)
    return FunctionPolicy(given, _takes_text(given, "state", "state"))


def _check_methods(
    part: Any, base: type, methods: dict[str, int], attributes: Sequence[str]
) -> None:
    """Raises ValueError where an object lacks what its protocol `base` has, or one of its
    methods takes other arguments.
    """
    name = type(part).__name__
    missing = [attribute for attribute in (*methods, *attributes) if not hasattr(part, attribute)]
    if missing:
        raise Mistake(
            f"{name} has no {' and no '.join(missing)}: derive it from search.{base.__name__}, "
            "which has defaults"
        )
    for method, count in methods.items():
        function = getattr(part, method)
        inherited = getattr(function, "__func__", None) is getattr(base, method)
        if inherited and method in ("evaluate", "propose"):
            raise Mistake(
                f"{name} has no {method} of its own: write `async def {method}`, as "
                f"search.{base.__name__} describes it"
            )
        expected = [*inspect.signature(getattr(base, method)).parameters][1 : count + 1]
        try:
            inspect.signature(function).bind(*expected)
        except TypeError:
            takes = ", ".join(inspect.signature(function).parameters) or "nothing"
            raise Mistake(
                f"{name}.{method} takes ({takes}) and is called with "
                f"({', '.join(expected)}): write "
                f"`async def {method}(self, {', '.join(expected)})`, or give a plain "
                f"function as {base.__name__.lower()}="
            ) from None
        except ValueError:  # it does not tell
            pass


def _check_function(given: Any, word: str, forms: str, example: str) -> None:
    """Raises ValueError where what was given as a part is no function."""
    if isinstance(given, type):
        hint = "an object or a function"
        if hasattr(given, "evaluate") or hasattr(given, "propose"):
            hint = f"{given.__name__}(...)"
        raise Mistake(f"{word}={given.__name__} is a class: give {hint}")
    if not callable(given):
        raise Mistake(
            f"{word}={short(given)} is no {word}: give {example}, or a function of {forms}"
        )
    if inspect.isgeneratorfunction(given) or inspect.isasyncgenfunction(given):
        raise Mistake(
            f"the function {label(given)} is a generator: return a list where it has `yield`, "
            "and write `await` for `yield from`"
        )


def _takes_text(function: Callable[..., Any], second: str, plural: str) -> bool:
    """Whether a function takes one parameter, text, or two, the problem and `second`. Raises
    ValueError where that is not clear.
    """
    name = label(function)
    forms = f"one parameter (text) or two (problem, {second})"
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise Mistake(
            f"the parameters of {name} cannot be read: wrap it in a function of {forms}"
        ) from None
    needed = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if needed:
        raise Mistake(
            f"the function {name} needs {' and '.join(needed)}: give them by functools.partial "
            "or a default"
        )
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in places if p.default is p.empty]
    rest = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if required == [second, "problem"]:
        raise Mistake(
            f"the function {name} takes ({second}, problem): it is called with (problem, "
            f"{second}), so write them in this order"
        )
    if len(required) == 2 and not rest:
        return False
    if (len(required) == 1 or len(places) == 1) and not rest:
        first = places[0].name
        if first in _NOT_TEXT or (len(places) > 1 and places[1].name == second):
            raise Mistake(
                f"the function {name} takes ({', '.join(p.name for p in places)}), and a "
                "function of one parameter gets text: "
                f"write (problem, {second}), both without a default, to get the {plural}"
            )
        return True
    takes = ", ".join(str(p) for p in parameters)
    raise Mistake(
        f"the function {name} takes ({takes}): write {forms} without defaults, so that it is "
        "clear what it gets"
    )
