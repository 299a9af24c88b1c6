"""Chains that are written side by side: which goes on next, and what it may spend.

Tokens are kept back for what a running request may use, not for the longest chain there could be.
All decisions rest on children that have ended, in the order of their clocks
(`search.scheduling.pool`), so the same seed gives the same tree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from search.guide import Guide
from search.scheduling.budget import Grant, Meter
from search.scheduling.pool import Child, Pool
from search.scheduling.scheduler import Asks

PRIOR = 2  #: guesses that count beside the lanes that have ended
#: tokens of a chain before any has ended, at most a third of the longest there could be
GUESS = 256
TAIL = 1 / 4  #: of a mean lane: the least that one under way is expected to take yet


@dataclass(eq=False)
class Lane:
    """One chain or simulation under way.

    number  in the order of beginning: older ones are served first
    first   whether it may use all tokens, though no chain has ended yet
    used    tokens that it has spent, as far as its ended pieces tell
    since   clock at which its running piece began; None: none runs
    node, state, job  for the method: where the lane is and what is done there
    """

    number: int
    first: bool
    used: int = 0
    since: int | None = None
    node: int = 0
    state: Any = None
    job: str = ""


@dataclass(eq=False)
class _Piece:
    """Something to do on a lane that waits for its grant."""

    lane: Lane
    asks: Asks[Any]
    tokens: int
    calls: int
    requests: int


class InFlight:
    """Lanes of one search and their budget.

    width    lanes at once
    first    share of the tokens that only the first lane may use until a chain has ended, in [0,
             1): a budget of 1 / first chains gives an answer. 0: all lanes share alike from the
             start
    guess    tokens of a lane, before any has ended; None: of a chain, by the policy's
             `chain_tokens`, on which the tree depends so
    alive    lanes that have begun and not ended
    spent    tokens of all children that `next` has returned
    """

    def __init__(
        self, meter: Meter, guide: Guide, width: int, first: float, guess: float | None = None
    ):
        self.meter = meter
        self.width = width
        self.alive: list[Lane] = []
        self.spent = 0
        self._pool = Pool(all(getattr(b, "ordered", True) for b in guide.backends.values()))
        self._waiting: list[_Piece] = []
        self._tokens = meter.tokens_left
        self._calls = meter.calls_left
        self._granted = 0.0  # tokens of grants in use
        self._pot = math.inf
        if math.isfinite(self._tokens):
            self._pot = self._tokens - math.ceil(first * self._tokens)
        self._settled = not first  # whether a chain has ended
        if guess is None:
            guess = min(GUESS, guide.policy.chain_tokens / 3)
        self._guess = guess
        self._texts = 0
        self._begun = 0
        self._ended = 0
        self._used = 0  # tokens of lanes that have ended

    def new(self, counts: bool = True, last: bool = False) -> Lane | None:
        """A new lane (and simulation, if it counts), where there is room for it and the tokens are
        likely to last; None otherwise.

        Towards the end of the budget only as many lanes go on as are likely to come to their ends,
        the oldest first. last: where none is under way one begins all the same, since it may go on
        with a chain that is nearly at its end.
        """
        if len(self.alive) >= self.width or self._waiting:
            return None
        lane = Lane(self._begun, first=not self.alive and not self._settled)
        expected = self._expected
        if not self.alive and self._ended:
            expected = self._used / self._ended  # no other one would go without
        fits = self._rest() + expected <= self._tokens + self._granted
        if self._left(lane) < 1 or (not fits and (self.alive or (self._ended and not last))):
            self.meter.short_of = "tokens"
            return None
        if self._calls < 1:
            self.meter.short_of = "calls"
            return None
        if counts and not self.meter.begin_promised(1):
            return None
        self.meter.short_of = None
        self._begun += 1
        self.alive.append(lane)
        return lane

    def start(
        self, lane: Lane, asks: Asks[Any], tokens: int, calls: int, requests: int = 1
    ) -> None:
        """Let `asks` run on a lane as soon as it can be granted enough.

        tokens, calls  the most that it can use, 0 for nothing;  requests: generating ones that it
                       sends at once
        """
        self._waiting.append(_Piece(lane, asks, tokens, calls, requests))
        self._waiting.sort(key=lambda piece: piece.lane.number)
        self._serve()

    async def next(self) -> Child | None:
        """The next child that ends, its `owner` the lane; None: nothing runs, and nothing more
        can be granted.
        """
        self._serve()
        if not len(self._pool):
            if self._waiting and not self.meter.halted:
                self.meter.short_of = "tokens" if self._calls >= 1 else "calls"
            return None
        child = await self._pool.next()
        lane = child.owner
        grant = child.grant
        self._granted -= grant.tokens
        self._tokens += grant.tokens - grant.usage.generated
        self._calls += grant.calls - grant.usage.calls
        if not lane.first and not self._settled:
            self._pot += grant.tokens - grant.usage.generated
        lane.used += grant.usage.generated
        lane.since = None
        self.spent += grant.usage.generated
        self._texts += grant.texts
        return child

    def end(self, lane: Lane, finished: bool, counts: bool | None = True) -> None:
        """A lane is done.

        finished  a chain has come to its end on it
        counts    it is a finished simulation; False: one to give back; None: none was begun with it
        """
        self.alive.remove(lane)
        if counts is not None:
            self.meter.finish(int(counts), 1)
        if lane.used:
            self._ended += 1
            self._used += lane.used
        self._settled = self._settled or finished or (lane.first and lane.used > 0)

    async def close(self) -> None:
        """Give up what runs and what waits; `alive` tells which lanes have not ended."""
        for piece in self._waiting:
            piece.asks.close()
        self._waiting.clear()
        await self._pool.close()

    @property
    def _expected(self) -> float:
        """Tokens of a whole lane: the mean of those that have ended and of `PRIOR` guesses, as
        the first to end are short ones.
        """
        return (PRIOR * self._guess + self._used) / (PRIOR + self._ended)

    def _taken(self, lane: Lane) -> float:
        """Tokens that a lane has taken, the running piece included as far as the clock tells."""
        if lane.since is None:
            return lane.used
        return lane.used + self._pool.clock - lane.since

    def _rest(self, number: float = math.inf) -> float:
        """Tokens that the lanes alive are likely to take yet, those up to this number."""
        mean = self._expected
        older = [lane for lane in self.alive if lane.number <= number]
        return sum(max(mean - self._taken(lane), mean * TAIL) for lane in older)

    def _left(self, lane: Lane) -> float:
        """Tokens that a lane may have."""
        if lane.first or self._settled:
            return self._tokens
        return min(self._tokens, self._pot)

    def _floor(self) -> int:
        """Tokens that a typical request takes."""
        if not self._texts:
            return 64
        return max(16, math.ceil(1.5 * self.spent / self._texts))

    def _serve(self) -> None:
        """Start what waits, the oldest lane first, as far as there are grants."""
        while self._waiting:
            grant = None if self.meter.halted else self._grant(self._waiting[0])
            if grant is None:
                return
            piece = self._waiting.pop(0)
            piece.lane.since = self._pool.clock
            self._pool.start(piece.asks, grant, piece.lane)

    def _grant(self, piece: _Piece) -> Grant | None:
        if piece.calls and self._calls < 1:
            return None
        tokens = floor = 0
        if piece.tokens:
            tokens, floor = self._share(piece)
            if not tokens:
                return None
        calls = min(piece.calls, self._calls)
        self._calls -= calls
        self._tokens -= tokens
        self._granted += tokens
        if not piece.lane.first and not self._settled:
            self._pot -= tokens
        return Grant(self.meter, tokens, calls, floor)

    def _share(self, piece: _Piece) -> tuple[int, int]:
        """Tokens for a piece, and the fewest that are of use to one of its requests; (0, 0)
        where there is too little now.
        """
        left = self._left(piece.lane)
        if self._granted and self._rest(piece.lane.number) > self._tokens + self._granted:
            return 0, 0  # older ones are likely to need it all
        floor = min(self._floor(), max(1, piece.tokens // piece.requests))
        if left < floor * piece.requests:
            if len(self._pool) or left < 1:
                return 0, 0
            return int(min(piece.tokens, left)), 1  # nothing will become free any more
        if not math.isfinite(left):
            return piece.tokens, floor
        alike = left / max(1, self.width - len(self._pool))
        # little at a time, so that others can begin with what this one may not need
        if self._ended:
            alike = max(2 * floor, left / (2 * self.width))
        wanted = max(floor * piece.requests, int(alike))
        return int(min(piece.tokens, wanted, left)), floor
