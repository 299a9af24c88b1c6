"""The parts of a guide: what a policy and a value function are, and what each of their answers must
be.

A part may be anybody's. Whatever a search gets from one goes through `examined`, `proposed` or
`completed`, which say in a sentence what is wrong with it and what to write instead.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import math
import tokenize
from collections.abc import Awaitable, Generator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, coroutine
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from search.chain import GIVEN
from search.problem import Mistake, Problem, State, Step, TextStep, apply
from search.scheduling.requests import Avoided, Backend, Reply, Request, RequestFailed
from search.scheduling.scheduler import Asks

T = TypeVar("T")
OURS = ("search", "models", "guides", "benchmarks")  #: packages whose parts were tested with them
#: priors and values are rounded to this before they enter a tree: logits differ in their last bits
#: with the batch
PRECISION = 2.0**-16
_ROUNDING = 1e-6  # that of float32 is no fault of a value function


@dataclass(frozen=True)
class Proposal:
    """A step that a policy proposes.

    log_prob  sum of the model's own token log-probs at temperature 1, untruncated, end of step
              included; nan where unknown
    prior     share of the samples that were proposed together, among the distinct steps; sums to 1
    value     the value head's in [0, 1] if the same pass gave it, else nan
    drawn     the distinct continuations that were sampled and mean this step, for `propose` to
              avoid at this state from now on; empty where the policy cannot avoid
    """

    step: Step
    log_prob: float
    prior: float
    value: float = math.nan
    drawn: tuple[Avoided, ...] = ()


class _Version:
    """The version of a part that names none: its class, a digest of its source, and its plain
    attributes.
    """

    def __get__(self, part: object, owner: type) -> str:
        return version_of(owner if part is None else part)


class Policy(Protocol):
    """Proposes steps. Derive from it and write `propose`; the rest has defaults, those of a policy
    that asks no model.

    backends     the backends its requests are addressed to, by name: {}
    step_tokens  the most tokens that one proposed step can take; 0 where nothing is generated
    max_steps    the most steps of a chain: 40
    chain_tokens the most tokens that `complete` can take: step_tokens * max_steps
    version      content hash of what it was made from: the class, a digest of its source, and its
                 plain attributes
    language     may be there: how it was told to ask its model, by the names of `guide.json`
                 (delimiter, prompt, step_tokens, ...)
    """

    # read-only for a type checker, so that an attribute and a property may both take their place
    if TYPE_CHECKING:

        @property
        def backends(self) -> Mapping[str, Backend]:
            return {}

        @property
        def step_tokens(self) -> int:
            return 0

        @property
        def max_steps(self) -> int:
            return 40

        @property
        def version(self) -> str:
            return ""
    else:
        backends = MappingProxyType({})
        step_tokens = 0
        max_steps = 40
        version = _Version()

    @property
    def chain_tokens(self) -> int:
        return self.step_tokens * self.max_steps

    async def propose(
        self,
        problem: Problem,
        state: State,
        n: int,
        rng: np.random.Generator,
        avoid: Sequence[Avoided] = (),
    ) -> list[Proposal]:
        """Up to `n` distinct next steps with priors, at most `n` requests. Raises the last
        RequestFailed if every request failed.

        avoid: what it gave as `Proposal.drawn` at this state before, and no more is wanted of. It
        is passed only where there is some, so a policy whose proposals carry no `drawn` may do
        without this argument. [] where nothing else is left.
        """

    async def complete(
        self, problem: Problem, state: State, rng: np.random.Generator
    ) -> list[Step]:
        """Sample on from `state`: the steps to a finished state, or as far as it went.

        By default step by step, each drawn from what `propose` gives for n=1, by the priors.
        """
        steps: list[Step] = []
        while len(steps) < self.max_steps and not problem.is_terminal(state):
            try:
                found = await proposed(self, problem, state, 1, rng)
            except RequestFailed:
                if not steps:
                    raise
                break
            if not found:
                break
            priors = np.array([proposal.prior for proposal in found])
            steps.append(found[int(rng.choice(len(found), p=priors / priors.sum()))].step)
            state = await apply(problem, state, steps[-1])
            if state is None:
                break
        return steps


class Value(Protocol):
    """Judges states. Derive from it and write `evaluate`; the rest has defaults, those of a value
    function that asks no model.

    backends  the backends its requests are addressed to, by name: {}
    tokens    the most tokens that judging one state can take; 0 where nothing is generated
    calls     the most requests that judging one state can take: 0
    version   content hash of what it was made from: the class, a digest of its source, and its
              plain attributes

    One that was not trained may have a `note`: a sentence on what it is and how much that is worth,
    which is logged once, as a warning, where a search or a choice goes by its values.
    """

    if TYPE_CHECKING:

        @property
        def backends(self) -> Mapping[str, Backend]:
            return {}

        @property
        def tokens(self) -> int:
            return 0

        @property
        def calls(self) -> int:
            return 0

        @property
        def version(self) -> str:
            return ""
    else:
        backends = MappingProxyType({})
        tokens = 0
        calls = 0
        version = _Version()

    async def evaluate(
        self, problem: Problem, states: Sequence[State], known: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray | Sequence[float]:
        """Float [states] in [0, 1]: probability of success for the player who led there; nan
        unknown.

        known: float32 [states], the policy's value where the same pass gave it, else nan.
        """


# -- what a part is called, and which one it is


def is_ours(part: object) -> bool:
    """Whether a part or a method, or the function that it is made of, is of one of our packages."""
    made = part if inspect.isfunction(part) else getattr(part, "function", type(part))
    module = getattr(made, "__module__", None) or ""
    return module.partition(".")[0] in OURS


def label(function: Any) -> str:
    """The name of a function, of what a functools.partial wraps, or of the class of a callable
    object.
    """
    function = getattr(function, "func", function)
    named: str = getattr(function, "__qualname__", type(function).__qualname__)
    return named.replace("<locals>.", "")


def version_of(part: object) -> str:
    """ "module:name-digest" of a function, a class or an object.

    The digest is of its source, where there is one, and of its settings that are text, numbers or
    None.
    """
    settings: list[object] = []
    if not inspect.isroutine(part) and hasattr(part, "func"):  # a functools.partial
        settings.append((part.args, sorted(part.keywords.items())))  # type: ignore[attr-defined]
        part = part.func
    named = part if inspect.isroutine(part) or isinstance(part, type) else type(part)
    own = named is not part and hasattr(part, "__dict__")
    settings.append(sorted(vars(part).items()) if own else [])
    name = f"{named.__module__}:{named.__qualname__}"
    try:
        source = inspect.getsource(named)
    # typed in, compiled, or from a text that is not this file
    except (OSError, TypeError, SyntaxError, tokenize.TokenError):
        source = ""
    of_kind = (str, int, float, type(None))
    plain = [setting for setting in _flat(settings) if isinstance(setting, of_kind)]
    if not source and not plain:
        return name
    return f"{name}-{hashlib.sha256(f'{source}{plain}'.encode()).hexdigest()[:16]}"


def _flat(things: object) -> list[object]:
    if isinstance(things, (list, tuple)):
        return list(itertools.chain.from_iterable(map(_flat, things)))
    return [things]


def short(thing: object) -> str:
    """What something is, in at most 80 characters."""
    text = " ".join(repr(thing).split())
    if len(text) > 80:
        return f"{text[:77]}..."
    return text


# -- running the code of others


async def awaited(made: Any, name: str) -> Any:
    """The result of a coroutine that others wrote, or `made` itself where a plain function gave it.

    Raises ValueError, naming the part, for a generator, an `await` that was forgotten, and one of a
    library with an event loop.
    """
    if inspect.isasyncgen(made) or (inspect.isgenerator(made) and not inspect.isawaitable(made)):
        raise Mistake(
            f"{name} is a generator: write `async def` for `def` and `await` for `yield "
            "from`, and return a list where it has `yield`"
        )
    if not inspect.isawaitable(made):
        return made
    try:
        result = await _requests_only(made, name)
    except (AttributeError, TypeError) as error:
        if "coroutine" in str(error):
            raise Mistake(
                f"{name} uses a coroutine as if it were its result ({error}): write `await` "
                "before the call"
            ) from error
        raise
    except RuntimeError as error:
        if any(words in str(error) for words in _LOOPLESS):
            raise Mistake(_loop(name)) from error
        raise
    if inspect.isawaitable(result):
        if hasattr(result, "close"):
            result.close()
        raise Mistake(
            f"{name} returned a coroutine: write `await` before the call whose result it returns"
        )
    return result


# what asyncio, trio and anyio say where there is no event loop
_LOOPLESS = ("no running event loop", "async context", "async library")


def _loop(name: str) -> str:
    return (
        f"{name} awaits something of a library that needs an event loop, and a search has "
        "none: call that library's blocking "
        "functions, or give what it serves as a backend and await search.ask(...)"
    )


@coroutine
def _requests_only(made: Any, name: str) -> Generator[list[Request], list[Reply], Any]:
    """Drive a coroutine as `await` does; an error of its own says whose it is. Raises ValueError
    where it awaits anything else than requests.
    """
    asks: Asks[Any] = made if hasattr(made, "send") else made.__await__()
    replies: list[Reply] | None = None
    try:
        while True:
            orders = asks.send(replies)
            if type(orders) is not list:
                raise Mistake(_loop(name))
            replies = yield orders
    except StopIteration as stop:
        return stop.value
    except Exception as error:
        ours = isinstance(error, (Mistake, RequestFailed))
        if not ours and not getattr(error, "__notes__", None):  # a function has said more already
            error.add_note(f"raised by {name}")
        raise
    finally:
        asks.close()


def part_name(part: object, method: str) -> str:
    """What a part is called in an error: its class and method, or its function."""
    function = getattr(part, "function", None)
    if function is None:
        return f"{type(part).__name__}.{method}"
    return f"the function {label(function)}"


# -- what parts answer


async def examined(
    value: Value,
    problem: Problem,
    states: Sequence[State],
    known: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """`value.evaluate`, examined: float64 [states] in [0, 1], nan unknown. Raises ValueError,
    naming the part, for anything else.
    """
    name = part_name(value, "evaluate")
    made = value.evaluate(problem, states, known, rng)
    if not isinstance(made, Awaitable) and not inspect.isgenerator(made):
        raise Mistake(f"{name} is no coroutine: write `async def`, even if it awaits nothing")
    returned = await (made if is_ours(value) else awaited(made, name))
    values = floats(returned)
    if values.shape != (len(states),):
        raise Mistake(
            f"{name} returned {short(returned)} for {len(states)} state(s): return one number "
            "for each, nan where unknown"
        )
    if ((values < -_ROUNDING) | (values > 1 + _ROUNDING)).any():
        raise Mistake(
            f"{name} returned {short(returned)}: a value is a probability in [0, 1], or nan "
            "where it is unknown"
        )
    return np.clip(values, 0.0, 1.0)


def floats(returned: Any) -> np.ndarray:
    """Numbers as float64, of lists, arrays and torch's tensors; an array without a number where
    something else is among them.
    """
    nothing = np.empty((0, 0))
    if hasattr(returned, "detach"):  # a tensor, perhaps with a gradient, in bfloat16 or on a GPU
        returned = returned.detach().cpu().double().numpy()
    elif isinstance(returned, (list, tuple)):
        returned = list(map(_plain, returned))
    try:
        array = np.array(returned)
        if array.dtype.kind == "O" and not all(hasattr(one, "__float__") for one in array.flat):
            return nothing
        if array.dtype.kind not in "biufO":
            return nothing
        return array.astype(np.float64)
    except (TypeError, ValueError, RuntimeError):
        return nothing


def _plain(number: Any) -> Any:
    """A number of numpy's or torch's as Python's; anything else as it is."""
    if hasattr(number, "item") and getattr(number, "ndim", 0) == 0:
        return number.item()
    return number


def given(policy: Policy, problem: Problem, state: State, **known: bool) -> TextStep | None:
    """The step that the search itself puts behind `state`, because the problem says that it is due
    (`search.problems.stream.Stream.due`); None: the policy goes on, or nobody where it is stuck.

    known  what else `due` is to know: stuck, enough
    """
    due = getattr(problem, "due", None)
    if due is None or (line := due(state, **known)) is None:
        return None
    if hasattr(policy, "given"):
        step: TextStep = policy.given(problem, state, line)
        return step
    return TextStep(line, finish=GIVEN)


async def proposed(
    policy: Policy,
    problem: Problem,
    state: State,
    n: int,
    rng: np.random.Generator,
    avoid: Sequence[Avoided] = (),
) -> list[Proposal]:
    """`policy.propose`, examined. Raises ValueError, naming the part, for anything else than a
    list of proposals.
    """
    if (step := given(policy, problem, state)) is not None:
        return [Proposal(step, 0.0, 1.0)]
    options: dict[str, Any] = {"avoid": avoid} if avoid else {}
    made = policy.propose(problem, state, n, rng, **options)
    if is_ours(policy):
        return await made
    name = part_name(policy, "propose")
    found = await awaited(made, name)
    is_list = isinstance(found, (list, tuple))
    if not is_list or not all(isinstance(proposal, Proposal) for proposal in found):
        raise Mistake(
            f"{name} returned {short(found)}: return a list of search.Proposal(step, log_prob, "
            "prior), [] where there is none"
        )
    for proposal in found:
        valued = math.isnan(proposal.value) or 0 <= proposal.value <= 1
        if not 0 <= proposal.prior <= 1 + _ROUNDING or not valued:
            raise Mistake(
                f"{name} returned {short(proposal)}: a prior is a share in [0, 1], a value is in "
                "[0, 1] or nan"
            )
    return list(found)


async def completed(
    policy: Policy, problem: Problem, state: State, rng: np.random.Generator
) -> list[Step]:
    """`policy.complete`, examined. Raises ValueError, naming the part, for anything else than a
    list of steps.
    """
    made = policy.complete(problem, state, rng)
    if is_ours(policy):
        return await made
    name = part_name(policy, "complete")
    steps = await awaited(made, name)
    if not isinstance(steps, (list, tuple)):
        raise Mistake(f"{name} returned {short(steps)}: return a list of steps")
    return list(steps)
