"""What a search may spend and what it has spent.

Tokens, calls and simulations are promises: they are granted before anything is asked, so they are never exceeded. Seconds are a
deadline on `search.stopwatch`: what is running then is cancelled. Everything else in `Usage` is reported, never limited.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, fields, replace

from search import stopwatch
from search.requests import Call, Cancel, Generate, Reply, Request, Timer, Usage


@dataclass(frozen=True)
class Budget:
    """Limits of one search; None is no limit, all None is refused.

    simulations, calls, tokens  never exceeded (`tokens` counts what policy and guide generate)
    seconds                     a deadline, from the start of the search
    """

    simulations: int | None = None
    calls: int | None = None
    tokens: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        limits = {f.name: getattr(self, f.name) for f in fields(self)}
        if all(limit is None for limit in limits.values()):
            raise ValueError("a budget without any limit would never end: give at least one of " + ", ".join(limits))
        for name, limit in limits.items():
            if limit is None:
                continue
            if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit > 0 or math.isinf(limit):
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
                raise ValueError(f"cannot read budget part {part.strip()!r}: write name=number with a name of {', '.join(allowed)}")
            if name in limits:
                raise ValueError(f"budget {name} is given twice: give it once")
            try:
                limits[name] = float(number) if name == "seconds" else int(number)
            except ValueError:
                raise ValueError(f"budget {name}={number!r} is not a number: write for example tokens=2000,seconds=10") from None
        return cls(**limits)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return ",".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self) if getattr(self, f.name) is not None)


class Meter:
    """What one search has spent and may still spend.

    The method asks `begin` before simulations and `grant` before children; `search.asks.metered` calls `admit` for each request
    and `settle` for each reply.
    """

    def __init__(self, budget: Budget, interrupt: threading.Event | None = None):
        self.budget = budget
        self.interrupt = interrupt
        self.started = stopwatch.now()
        self.deadline = math.inf if budget.seconds is None else self.started + budget.seconds
        self._limits = {n: math.inf if getattr(budget, n) is None else getattr(budget, n) for n in ("simulations", "calls", "tokens")}
        self._usage = Usage()
        self._promised: dict[Request, int] = {}  # outstanding requests and the tokens kept back for them
        self._kept_back = 0  # sum of the above
        self._begun = 0  # simulations begun, finished ones included

    @property
    def usage(self) -> Usage:
        """The usage so far, with the wall-clock seconds since the start."""
        return replace(self._usage, seconds=stopwatch.now() - self.started)

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
        """ "interrupted" or "seconds" where nothing more may be sent, else None."""
        if self.interrupt is not None and self.interrupt.is_set():
            return "interrupted"
        return "seconds" if stopwatch.now() >= self.deadline else None

    @property
    def stopped(self) -> str | None:
        """Why the search must end: "interrupted", "seconds", "tokens", "calls", "simulations"; None: it may go on."""
        left = {"tokens": self.tokens_left, "calls": self.calls_left, "simulations": self.simulations_left}
        return self.halted or next((name for name, amount in left.items() if amount <= 0), None)

    # -- for methods

    def begin(self, simulations: int) -> int:
        """Begin up to `simulations` of them; returns how many may begin, 0 when the search must end."""
        begun = 0 if self.stopped else int(min(simulations, self.simulations_left))
        self._begun += begun
        return begun

    def finish(self, simulations: int, begun: int) -> None:
        """Count finished simulations of `begun`; the others are given back."""
        self._begun -= begun - simulations
        self._usage += Usage(simulations=simulations)

    def grant(self, children: int, tokens_each: int | None = None, calls_each: int | None = None) -> list[Grant]:
        """Divide what is left among `children` in their order; fewer grants are returned when it does not suffice for all.

        tokens_each, calls_each  the most that one child can use; 0: it asks for none; None: an equal share of what is left
        What a child does not use stays here, because each reply is settled here too.
        """
        grants: list[Grant] = []
        tokens, calls = self.tokens_left, self.calls_left
        if self.halted:
            return grants
        for child in range(children):
            share = [_share(tokens, tokens_each, children - child), _share(calls, calls_each, children - child)]
            if (share[0] < 1 and tokens_each != 0) or (share[1] < 1 and calls_each != 0):
                break
            tokens, calls = tokens - share[0], calls - share[1]
            grants.append(Grant(self, *share))
        return grants

    # -- for `metered`

    def alarm(self) -> Timer | None:
        """The timer that ends this search, None where neither a deadline nor an interrupt can."""
        return None if self.deadline == math.inf and self.interrupt is None else Timer(self.deadline, self.interrupt)

    def admit(self, request: Request) -> Request | None:
        """What to send instead of `request`, its `max_tokens` within what is left; None: beyond it."""
        if isinstance(request, (Cancel, Timer)):
            return request
        if self.halted:
            return None
        if isinstance(request, Call):
            return request
        if self.calls_left < 1:
            return None
        tokens = 0
        if isinstance(request, Generate):
            tokens = int(min(request.max_tokens, self.tokens_left))
            if tokens < 1:
                return None
            if tokens < request.max_tokens:
                request = replace(request, max_tokens=tokens)
        self._promised[request] = tokens
        self._kept_back += tokens
        return request

    def settle(self, reply: Reply) -> None:
        """Count what a reply cost and free what was kept back for it."""
        tokens = self._promised.pop(reply.request, None)
        if tokens is not None:
            self._kept_back -= tokens
            self._usage += reply.usage


def _share(left: float, each: int | None, children: int) -> float:
    if each is not None:
        return min(left, each)
    return left if left == math.inf else left // children


class Grant(Meter):
    """The part of a search's meter that one child of a round may use (`search.asks.granted`)."""

    def __init__(self, whole: Meter, tokens: float, calls: float):
        self.__dict__.update(whole.__dict__)
        self._limits = {"simulations": math.inf, "calls": calls, "tokens": tokens}
        self._usage, self._promised, self._kept_back = Usage(), {}, 0

    def alarm(self) -> None:
        """None: the search's own meter has the alarm."""
