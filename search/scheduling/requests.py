"""What a search asks of a backend, and what comes back.

A method or a guide never calls a model: it awaits its requests (`search.scheduling.scheduler`).
Everything slow, random or remote crosses this border, so it can be batched, counted, cancelled,
replayed and faked.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True, eq=False)
class Request:
    """Base of all requests. Compared by identity: two equal questions are two questions."""


@dataclass(frozen=True)
class Avoided:
    """A continuation that was sampled before and is not to come again.

    log_probs  of each token, the model's own at temperature 1, untruncated (`Generated.log_probs`);
               finite
    """

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]

    @property
    def probability(self) -> float:
        """Of the whole continuation under the model, in [0, 1]."""
        return min(1.0, math.exp(math.fsum(self.log_probs)))


@dataclass(frozen=True, eq=False)
class Generate(Request):
    """Sample a continuation of `prompt`. Answered by a `Generated`.

    prompt       token ids, not empty
    stop         strings; generation ends with the whole token in which one of them completes
    max_tokens   at most this many tokens are generated, stop token included
    temperature  0 is greedy; log-probs of the reply are always the model's own at temperature 1
    seed         draws depend on (seed, index of the token) and the model's numbers, never on what
                 else runs; the same seed draws other tokens on a GPU than on a CPU, of the same
                 distribution
    avoid        distinct continuations, as sampled from this prompt with this `stop` and
                 `max_tokens`, that must not come again. At temperature 1 without truncation the
                 draw then has exactly the model's distribution given that it is none of them (Shi,
                 Bieber and Singh 2020, "Incremental sampling without replacement for sequence
                 models"). Otherwise their share is taken from the model's own probabilities first,
                 then come temperature and truncation: none of them is returned, but the draw is not
                 exactly that conditional. `NothingLeft` where they are all there is
    scope        requests of another scope share no keys with it: what they have read, it reads
                 again. 0: of the scope of all
    to           name of the backend in `Guide.backends`

    Backends that cannot avoid (servers) ignore `avoid`.
    """

    prompt: tuple[int, ...]
    stop: tuple[str, ...] = ()
    max_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    avoid: tuple[Avoided, ...] = ()
    scope: int = 0
    to: str = "policy"


def check_sampling(temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    """Raises ValueError for options of sampling that no backend can follow."""
    if not 0 <= temperature < math.inf:
        raise ValueError(
            f"temperature={temperature} is impossible: give 0 (greedy) or a finite number above"
        )
    if isinstance(top_k, bool) or not hasattr(top_k, "__index__") or top_k < 0:
        raise ValueError(
            f"top_k={top_k} is impossible: give a whole number from 1 on, or 0 for all tokens"
        )
    if not 0 < top_p <= 1:
        raise ValueError(
            f"top_p={top_p} is impossible: give a number above 0 and up to 1, which keeps all "
            "tokens"
        )
    if not 0 <= min_p <= 1:
        raise ValueError(
            f"min_p={min_p} is impossible: give a number from 0, which keeps all tokens, to 1"
        )


@dataclass(frozen=True, eq=False)
class Score(Request):
    """Read `tokens` without generating. Answered by a `Scored`.

    positions  indices into `tokens` at which `read` and the head's value are wanted
    read       token ids whose log-probs are wanted for the token *after* each position
    log_probs  whether those of the tokens themselves are wanted, which takes the logits of every
               one
    states     whether the model's hidden states at `positions` are wanted, which no server tells
    scope      as of `Generate`
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    read: tuple[int, ...] = ()
    log_probs: bool = True
    states: bool = False
    scope: int = 0
    to: str = "value"


@dataclass(frozen=True, eq=False)
class Forward(Request):
    """One pass of a policy-value network. Answered by logits of the policy, float32 [n, moves], and
    the mover's chances, float32 [n].

    planes  float32 [planes, ...], one position (n = 1), or [n, planes, ...]
    """

    planes: np.ndarray
    to: str = "policy"


@dataclass(frozen=True, eq=False)
class Call(Request):
    """Run `function(*args)` in a worker process, killed after `seconds`."""

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    seconds: float = 10.0
    to: str = "workers"


@dataclass(frozen=True, eq=False)
class Cancel(Request):
    """Ask that `target` be given up. Answered at once by the driver; `target` still gets its own
    one reply.
    """

    target: Request


@dataclass(frozen=True, eq=False)
class Timer(Request):
    """Answered by the driver once `search.scheduling.stopwatch.now()` reaches `at` or `event` is
    set, whichever is first.
    """

    at: float
    event: threading.Event | None = None


@dataclass(frozen=True, eq=False)
class Progress(Request):
    """Answered when `target` has generated `tokens` tokens.

    Answered by the driver then, or once `target` has been answered. A backend without a method
    `progress(request) -> int` is never known to have generated any before it answers.
    """

    target: Request
    tokens: int


@dataclass(frozen=True)
class Generated:
    """Result of `Generate`.

    tokens             what was sampled, stop and end-of-text tokens included
    text               decoded tokens; text after the stop string and end tokens are not in it
    log_probs          float32 [tokens], the model's own at temperature 1, untruncated; nan where
                       the backend has none
    sampled_log_probs  float32 [tokens], of the distribution that was sampled (without `avoid`,
                       after temperature and truncation)
    value              the head's value at the last token, in [0, 1]; nan without a head or when cut
                       by max_tokens
    finish             "stop" (a stop string), "end" (an end-of-text or end-of-turn token) or
                       "length"
    """

    tokens: tuple[int, ...]
    text: str
    log_probs: np.ndarray
    sampled_log_probs: np.ndarray
    value: float
    finish: str


@dataclass(frozen=True)
class Scored:
    """Result of `Score`.

    log_probs  float32 [tokens]; of each token given those before it; the first is nan, and all are
               where they were not wanted
    reads      float32 [positions, read]; log-probs of the `read` ids as the next token
    values     float32 [positions]; the head's value there, in [0, 1]; nan without a head. Not
               rounded, as several may become one
    states     float32 [positions, hidden]; the last hidden states there, after the final norm; None
               where they were not wanted
    """

    log_probs: np.ndarray
    reads: np.ndarray
    values: np.ndarray
    states: np.ndarray | None = None


class RequestFailed(Exception):
    """A backend could not answer this one request (time-out, server error, a row that is not a
    number).
    """


class TooLong(RequestFailed):
    """The request does not fit into the model's context or pool: it fails whenever it is asked."""


class Untold(RequestFailed):
    """The backend answered, but cannot tell what was asked: a server names the likeliest tokens
    only.
    """


class NothingLeft(RequestFailed):
    """All continuations that the model could give are among those to avoid."""


class Cancelled(RequestFailed):
    """The request was cancelled; the tokens spent until then are in the reply's usage.

    `__cause__`: the `RequestFailed` after which it was being asked again, where there was one.
    """


class BudgetSpent(RequestFailed):
    """The request was not sent: the search that asked has no budget left for it."""


def failure(error: Exception | None) -> RequestFailed | None:
    """Where a reply's error is a failure of its backend, that failure, else None.

    None for what the search itself did not want (cancelled, beyond its budget), for the answers
    that `NothingLeft` and `Untold` are, and for exceptions of the user's functions. A request that
    was cancelled while it was asked again after a failure counts as that failure: nobody answered
    it.
    """
    if isinstance(error, Cancelled):
        error = error.__cause__ if isinstance(error.__cause__, Exception) else None
    if not isinstance(error, RequestFailed) or isinstance(
        error, (BudgetSpent, Cancelled, NothingLeft, Untold)
    ):
        return None
    return error


@dataclass(frozen=True)
class Usage:
    """What was spent. Usages add.

    simulations  finished select-expand-evaluate-backup cycles (mcts), expanded states (beam) or
                 chains (sample)
    calls        requests sent to a language model or a value network
    generated    tokens sampled, by policy and guide together
    prefilled    prompt tokens read, by policy and value function;  reused: prompt tokens whose keys
                 were already there
    seconds      wall-clock time of the search; of searches that run side by side each has its even
                 share
    flops        2 x parameters x tokens that passed through a model, plus attention
    passes, rows, slots  forward passes that this search's rows took part in, and the rows and slots
                         of those passes, summed
    """

    simulations: int = 0
    calls: int = 0
    generated: int = 0
    prefilled: int = 0
    reused: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    passes: int = 0
    rows: int = 0
    slots: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Usage)))

    @property
    def mean_rows(self) -> float:
        """Rows in an average forward pass that a row of this search was in; nan without passes."""
        return self.rows / self.passes if self.passes else math.nan

    @property
    def slot_use(self) -> float:
        """Share of the engine's slots that were busy in those passes, in [0, 1]; nan without
        passes.
        """
        return self.rows / self.slots if self.slots else math.nan


@dataclass(frozen=True)
class Reply:
    """Answer to one request: exactly one of `result` and `error` counts (`error` is None on
    success).
    """

    request: Request
    result: Any = None
    error: Exception | None = None
    usage: Usage = field(default_factory=Usage)


class Backend(Protocol):
    """Performs requests. Every submitted request is answered exactly once, cancelled ones included.

    Two may be left out: `progress(request) -> int`, the tokens that a running request has so far
    (`Progress`), and `ordered`, False for one that repeats nothing, so that no search waits for an
    order of arrival (`search.scheduling.pool`).

    lock      held by `run` from start to end: one driver at a time
    wake      set by a backend that works by itself (threads, processes, servers) when a reply is
              ready; `run` installs it
    computes  True where `poll` itself does the work (an in-process engine): `run` then never sleeps
              while rows wait
    """

    lock: Any
    wake: threading.Event | None
    computes: bool

    def submit(self, request: Request) -> None: ...

    def poll(self, seconds: float) -> list[Reply]: ...

    def cancel(self, request: Request) -> None: ...

    def close(self) -> None: ...


def check_backend(
    backend: Backend, request: Callable[[int], Request], seconds: float = 60.0
) -> None:
    """Examine a backend: each request answered exactly once, same seed same result, cancellation
    answered.

    `request(i)` makes the i-th test request (equal i, equal request). Raises AssertionError naming
    what is broken.
    """

    def drain(waiting: list[Request]) -> dict[int, Reply]:
        answered: dict[int, Reply] = {}
        deadline = time.monotonic() + seconds
        while len(answered) < len(waiting):
            assert time.monotonic() < deadline, (
                f"{len(waiting) - len(answered)} requests were never answered"
            )
            for reply in backend.poll(0.05):
                matches = [i for i, r in enumerate(waiting) if r is reply.request]
                assert matches, "a reply names a request that was not submitted"
                assert matches[0] not in answered, f"request {matches[0]} was answered twice"
                answered[matches[0]] = reply
        return answered

    def values(reply: Reply) -> Any:
        assert reply.error is None, f"a plain request failed: {reply.error}"
        return getattr(reply.result, "tokens", reply.result)

    first, second = [request(i) for i in range(4)], [request(i) for i in range(4)]
    for r in first:
        backend.submit(r)
    together = drain(first)
    for i in reversed(range(4)):
        backend.submit(second[i])
        alone = drain([second[i]])[0]
        assert _same(values(alone), values(together[i])), (
            f"request {i} has another result alone than among others"
        )
    cancelled = request(4)
    backend.submit(cancelled)
    backend.cancel(cancelled)
    backend.cancel(cancelled)
    reply = drain([cancelled])[0]
    assert reply.error is None or isinstance(reply.error, Cancelled), (
        "a cancelled request must end in a result or Cancelled"
    )
    assert not backend.poll(0), "a reply came for nothing"


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return all(map(_same, a, b))
    if isinstance(a, np.ndarray):
        return bool(np.array_equal(a, b))
    return bool(a == b)
