"""What a search may spend and what it has spent.

Tokens, calls and simulations are promises: they are granted before anything is asked, so they are
never exceeded. Seconds are a deadline on `search.scheduling.stopwatch`: what is running then is
cancelled. They count from the start of each search, and searches that run side by side share the
time (`search.scheduling.clock`). Everything else in `Usage` is reported, never limited.
"""

from __future__ import annotations

import difflib
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from search.scheduling import stopwatch
from search.scheduling.clock import Clock
from search.scheduling.failures import Failures
from search.scheduling.requests import (
    Call,
    Cancel,
    Generate,
    Progress,
    Reply,
    Request,
    Score,
    Timer,
    Usage,
)

TICK = 0.02  #: seconds between two looks at a clock that others share


@dataclass(frozen=True)
class Budget:
    """Limits of one search; None is no limit, all None is refused.

    simulations, calls, tokens  never exceeded (`tokens` counts what policy and guide generate)
    seconds                     a deadline, from the start of the search; of n searches side by side
                                each has 1/n of the time
    """

    simulations: int | None = None
    calls: int | None = None
    tokens: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        limits = {f.name: getattr(self, f.name) for f in fields(self)}
        if all(limit is None for limit in limits.values()):
            raise ValueError(
                "a budget without any limit would never end: give at least one of "
                + ", ".join(limits)
            )
        for name, limit in limits.items():
            if limit is None:
                continue
            is_number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
            if not is_number or not limit > 0 or math.isinf(limit):
                raise ValueError(f"budget {name}={limit!r} is impossible: give a number above 0")
            if name != "seconds" and limit != int(limit):
                raise ValueError(f"budget {name}={limit!r} is impossible: give a whole number")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `tokens=2000,seconds=10`. Raises ValueError that says what is allowed."""
        limits: dict[str, float] = {}
        allowed = [f.name for f in fields(cls)]
        for part in text.split(","):
            name, equals, number = part.strip().partition("=")
            if not equals or name not in allowed:
                raise ValueError(
                    f"cannot read budget part {part.strip()!r}: {_meant(name, allowed)}"
                )
            if name in limits:
                raise ValueError(f"budget {name} is given twice: give it once")
            try:
                limits[name] = float(number) if name == "seconds" else int(number)
            except ValueError:
                kind = "a number" if name == "seconds" else "a whole number in digits"
                raise ValueError(
                    f"budget {name}={number!r} is not {kind}: write {name}={_digits(name, number)}"
                ) from None
        return cls(**limits)  # type: ignore[arg-type]

    def within(self, other: Budget) -> Budget:
        """The smaller one of each limit."""
        both = {}
        for name in (f.name for f in fields(self)):
            limits = [getattr(self, name), getattr(other, name)]
            both[name] = min((limit for limit in limits if limit is not None), default=None)
        return Budget(**both)

    def __str__(self) -> str:
        limits = ((f.name, getattr(self, f.name)) for f in fields(self))
        return ",".join(f"{name}={limit}" for name, limit in limits if limit is not None)


def _meant(part: str, allowed: Sequence[str]) -> str:
    """What a part of a budget should have been."""
    if part.isdigit() and int(part):
        return f"write tokens={part}"
    close = difflib.get_close_matches(part, allowed, n=1)
    if part in _ELSEWHERE:
        close = [_ELSEWHERE[part]]
    if close:
        return f"did you mean {close[0]}? write for example {close[0]}=10"
    return f"write name=number with a name of {', '.join(allowed)}"


_ELSEWHERE = {  # names of limits in other libraries
    "timeout": "seconds",
    "time": "seconds",
    "max_tokens": "tokens",
    "num_simulations": "simulations",
}


def _digits(name: str, number: str) -> str:
    """A number as a budget wants it, as near to what was written as can be."""
    try:
        return str(max(1, round(float(number))))
    except (ValueError, OverflowError):
        return "10" if name == "seconds" else "2000"


class Meter:
    """What one search has spent and may still spend.

    The method asks `begin` before simulations and `grant` before children;
    `search.scheduling.scheduler.metered` calls `admit` for each request and `settle` for each
    reply.

    clock  that of all searches which run side by side; the caller who gives one calls its `leave`
           when the search has ended. None: a clock for this search alone
    scope  of all its requests to language models (`requests.Generate`)
    """

    def __init__(
        self,
        budget: Budget,
        interrupt: threading.Event | None = None,
        clock: Clock | None = None,
        scope: int = 0,
    ):
        self.budget = budget
        self.interrupt = interrupt
        self.scope = scope
        self.started = stopwatch.now()
        self._clock = Clock() if clock is None else clock
        self._start = self._clock.enter()
        self._limits: dict[str, float] = {}
        for name in ("simulations", "calls", "tokens"):
            limit = getattr(budget, name)
            self._limits[name] = math.inf if limit is None else limit
        self._usage = Usage()
        # outstanding requests and the tokens kept back for them
        self._promised: dict[Request, int] = {}
        self._kept_back = 0  # sum of the above
        self._texts = 0  # Generate requests that were answered with some tokens
        self._floor = 1  # fewer tokens than this are of no use to a request that wants more
        self._begun = 0  # simulations begun, finished ones included
        self._cut = threading.Event()  # shared with the grants of this meter
        # "tokens" or "calls": too few are left for what the method would do next
        self.short_of: str | None = None
        self.failures = Failures()
        self._of_search = self.failures  # also in the grants of this meter
        self.tree: Any = None  # what the method grows, for progress reports; None: none is shown

    @property
    def usage(self) -> Usage:
        """The usage so far, with the search's own seconds since its start."""
        return replace(self._usage, seconds=self._clock.seconds - self._start)

    # -- what is left

    @property
    def tokens_left(self) -> float:
        """Tokens that may still be promised to requests; inf without a limit."""
        return self._limits["tokens"] - self._usage.generated - self._kept_back

    @property
    def calls_left(self) -> float:
        """Requests that may still be sent; inf without a limit."""
        return self._limits["calls"] - self._usage.calls - len(self._promised)

    @property
    def simulations_left(self) -> float:
        """Simulations that may still begin; inf without a limit."""
        return self._limits["simulations"] - self._begun

    @property
    def halted(self) -> str | None:
        """ "interrupted", "time_limit" (of all searches together), "error" (most calls of one of
        the user's functions failed) or "seconds" where nothing more may be sent, else None.
        """
        if self.interrupt is not None and self.interrupt.is_set():
            return "interrupted"
        if self._clock.ended:
            return "time_limit"
        if self._of_search.broken:
            return "error"
        return "seconds" if self._seconds_left <= 0 else None

    @property
    def cut(self) -> bool:
        """Whether what `halted` tells of has kept the search from something: what it found then
        may be another than it would have been.
        """
        return self._cut.is_set()

    def halt(self) -> bool:
        """Whether nothing more may be sent, noted in `cut`: for who would send something."""
        if not self.halted:
            return False
        self._cut.set()
        return True

    @property
    def _seconds_left(self) -> float:
        if self.budget.seconds is None:
            return math.inf
        return self.budget.seconds - (self._clock.seconds - self._start)

    @property
    def stopped(self) -> str | None:
        """Why the search must end: "interrupted", "time_limit", "error", "seconds", "tokens",
        "calls", "simulations"; None: it may go on.
        """
        left = {
            "tokens": self.tokens_left,
            "calls": self.calls_left,
            "simulations": self.simulations_left,
        }
        return self.halted or next((name for name, amount in left.items() if amount <= 0), None)

    @property
    def typical(self) -> int:
        """Tokens of a typical request so far and half as many again, at least 16; 64 before any
        was answered.
        """
        if not self._texts:
            return 64
        return max(16, math.ceil(1.5 * self._usage.generated / self._texts))

    # -- for methods

    def begin(self, simulations: int) -> int:
        """Begin up to `simulations` of them; returns how many may begin, 0 when the search must
        end.
        """
        if self.halt() or self.stopped:
            return 0
        return self.begin_promised(simulations)

    def begin_promised(self, simulations: int) -> int:
        """As `begin`, whatever of the tokens and calls is promised to requests: for a method
        that keeps its own count of them.
        """
        begun = 0 if self.halt() else int(min(simulations, self.simulations_left))
        self._begun += begun
        return begun

    def finish(self, simulations: int, begun: int) -> None:
        """Count finished simulations of `begun`; the others are given back."""
        self._begun -= begun - simulations
        self._usage += Usage(simulations=simulations)

    def grant(
        self,
        children: int,
        tokens_each: int | None = None,
        calls_each: int | None = None,
        requests: int = 1,
    ) -> list[Grant]:
        """Divide what is left among `children` in their order; fewer grants are returned when it
        does not suffice for all.

        tokens_each, calls_each  the most that one child can use; 0: it asks for none; None: an
                                 equal share of what is left
        requests  that a child sends at once. Where the tokens do not last for the most that all can
                  use, as many children as get a `typical` text for each of their requests share
                  them alike
        What a child does not use stays here, because each reply is settled here too.
        """
        grants: list[Grant] = []
        tokens = self.tokens_left
        calls = self.calls_left
        if self.halt():
            return grants
        floor = 1
        if tokens_each and tokens < children * tokens_each:
            floor = min(self.typical, max(1, tokens_each // requests))
            children = min(children, max(1, int(tokens // (floor * requests))))
            tokens_each = min(tokens_each, int(tokens // children))
            floor = min(floor, max(1, tokens_each // requests))
        for child in range(children):
            own_tokens = _share(tokens, tokens_each, children - child)
            own_calls = _share(calls, calls_each, children - child)
            if (own_tokens < 1 and tokens_each != 0) or (own_calls < 1 and calls_each != 0):
                break
            tokens -= own_tokens
            calls -= own_calls
            grants.append(Grant(self, own_tokens, own_calls, floor))
        return grants

    # -- for `metered`

    def alarm(self) -> Timer | None:
        """A timer for the first moment at which this search may have to end, None where no time and
        no interrupt can end it.

        Where others have shared the time until then, `halted` is still None: then it wants another
        one.
        """
        at = min(self._clock.end, stopwatch.now() + max(TICK, self._seconds_left))
        if at == math.inf and self.interrupt is None:
            return None
        return Timer(at, self.interrupt)

    def share(self, requests: Sequence[Request]) -> float:
        """The most tokens that each of these requests of one turn gets, so that they share what is
        left alike; inf: all they want.

        Where the share would be of no use, fewer of them get one; those behind are beyond the
        meter.
        """
        wanted = [request.max_tokens for request in requests if isinstance(request, Generate)]
        if sum(wanted) <= self.tokens_left:
            return math.inf
        served = min(len(wanted), max(1, int(self.tokens_left // max(1, self._floor))))
        return self.tokens_left // served

    def admit(self, request: Request, share: float = math.inf) -> Request | None:
        """What to send instead of `request`, its `max_tokens` within its `share` and what is
        left; None: beyond it.
        """
        if isinstance(request, (Cancel, Timer, Progress)):
            return request
        if self.halt():
            return None
        if isinstance(request, Call):
            return request
        if self.calls_left < 1:
            return None
        tokens = 0
        if isinstance(request, Generate):
            tokens = int(min(request.max_tokens, self.tokens_left, share))
            if tokens < min(request.max_tokens, self._floor):
                return None
            if tokens < request.max_tokens:
                request = replace(request, max_tokens=tokens)
        if isinstance(request, (Generate, Score)) and request.scope != self.scope:
            request = replace(request, scope=self.scope)
        self._promised[request] = tokens
        self._kept_back += tokens
        self.failures.admit(request)
        return request

    def settle(self, reply: Reply) -> None:
        """Count what a reply cost, free what was kept back for it, and note a failure."""
        self.failures.settle(reply)
        tokens = self._promised.pop(reply.request, None)
        if tokens is not None:
            self._kept_back -= tokens
            self._usage += reply.usage
            self._texts += isinstance(reply.request, Generate) and reply.usage.generated > 0


def _share(left: float, each: int | None, children: int) -> float:
    if each is not None:
        return min(left, each)
    if left == math.inf:
        return left
    return left // children


class Grant(Meter):
    """The part of a search's meter that one child of a round may use
    (`search.scheduling.scheduler.granted`).
    """

    def __init__(self, whole: Meter, tokens: float, calls: float, floor: int = 1):
        self.__dict__.update(whole.__dict__)
        self.tokens = tokens
        self.calls = calls
        # then a step may take several requests (`guides.policies.steps`)
        free = whole._limits["calls"] == math.inf
        self._limits = {
            "simulations": math.inf,
            "calls": math.inf if free else calls,
            "tokens": tokens,
        }
        self._usage = Usage()
        self._promised = {}
        self._kept_back = 0
        self._texts = 0
        self._floor = floor
        self.failures = Failures()

    @property
    def texts(self) -> int:
        """Generating requests that were answered with some tokens."""
        return self._texts

    @property
    def short(self) -> bool:
        """Whether too little is left for one more request."""
        return self.tokens_left < self._floor or self.calls_left < 1

    def alarm(self) -> None:
        """None: the search's own meter has the alarm."""
