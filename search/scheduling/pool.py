"""Children that run side by side and end one after the other, in an order that does not depend on
arrival.

A pool lets a method act as soon as one of its children ends, without a barrier on the slowest.
Which child ends first must not depend on what shares the engine, or the same seed would not give
the same tree. So each child has a clock that counts the tokens it has generated, and children end
in the order of their clocks.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field
from typing import Any

from search.scheduling.budget import Grant
from search.scheduling.requests import Cancel, Generate, Progress, Reply, Request
from search.scheduling.scheduler import Asks, abandon, begin, exchange, granted


@dataclass(eq=False)
class Child:
    """One child of a pool: what asks, what it may spend, and what became of it.

    clock   tokens generated on its line so far, as far as its replies tell
    seen    tokens that its one running request is known to have generated beyond these
    result  of the coroutine that asks, once the child has ended
    """

    asks: Asks[Any]
    grant: Grant
    owner: Any
    clock: int
    number: int
    waiting: set[Request] = field(default_factory=set)
    seen: int = 0
    watched: Progress | None = None
    result: Any = None

    @property
    def earliest(self) -> tuple[int, int]:
        """A lower bound of (clock, number) when this child ends."""
        return self.clock + self.seen, self.number


class Pool:
    """Children under way, and those that have ended and were not handed out by `next` yet.

    clock    that of the last child that was handed out, in tokens
    ordered  False: children end in the order of arrival. For backends that repeat nothing anyway,
             such as servers, and that cannot tell how far a request is
    """

    def __init__(self, ordered: bool = True):
        self.ordered = ordered
        self.running: dict[int, Child] = {}
        self.clock = 0
        self._ended: list[tuple[int, int, Child]] = []
        self._owner: dict[Request, Child] = {}
        self._unsent: list[Request] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        """Children that were not handed out."""
        return len(self.running) + len(self._ended)

    def start(self, asks: Asks[Any], grant: Grant, owner: Any) -> None:
        """Begin a child; its clock starts where the last child that was handed out has ended."""
        child = Child(granted(asks, grant), grant, owner, self.clock, next(self._numbers))
        self.running[child.number] = child
        self._advance(child, None)

    async def next(self) -> Child:
        """The next child that ends. There must be one that was not handed out."""
        try:
            while True:
                ended = self._first()
                if ended is not None:
                    return ended
                orders = self._unsent + self._watch()
                self._unsent = []
                self._take(await exchange(orders))
        except GeneratorExit:
            self._close()
            raise
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Give up all children. What they asked for is cancelled and waited for, so that its
        cost is counted.
        """
        unsent = set(self._unsent)
        sent = [request for request in self._owner if request not in unsent]
        self._close()
        await abandon(sent)

    def _close(self) -> None:
        for child in self.running.values():
            child.asks.close()
        self.running.clear()
        self._ended.clear()
        self._owner.clear()
        self._unsent.clear()

    def _first(self) -> Child | None:
        """The first child in the order of the clocks that has ended, if no other can end before
        it.
        """
        if not self._ended:
            return None
        clock, number, child = self._ended[0]
        running = self.running.values()
        if self.ordered and any(other.earliest < (clock, number) for other in running):
            return None
        heapq.heappop(self._ended)
        self.clock = clock
        return child

    def _watch(self) -> list[Request]:
        """A request for a report when the child that holds the first ended one up has gone far
        enough; [] where there is nothing to wait for.
        """
        if not self._ended:
            return []
        clock, number, _ = self._ended[0]
        slowest = min(self.running.values(), key=lambda child: child.earliest)
        if slowest.watched is not None or len(slowest.waiting) != 1:
            return []
        (request,) = slowest.waiting
        if not isinstance(request, Generate):
            return []
        missing = clock - slowest.clock + (slowest.number < number)
        slowest.watched = Progress(request, missing)
        self._owner[slowest.watched] = slowest
        return [slowest.watched]

    def _take(self, replies: list[Reply]) -> None:
        turns: dict[int, list[Reply]] = {}
        for reply in replies:
            child = self._owner.pop(reply.request, None)
            if child is None:
                continue
            if reply.request is child.watched:
                child.watched = None
                if isinstance(reply.request, Progress) and reply.request.target in child.waiting:
                    child.seen = reply.request.tokens
                continue
            turns.setdefault(child.number, []).append(reply)
        for number in sorted(turns):
            child = self.running[number]
            for reply in turns[number]:
                child.waiting.discard(reply.request)
                child.clock += reply.usage.generated
            child.seen = 0
            self._advance(child, turns[number])

    def _advance(self, child: Child, replies: list[Reply] | None) -> None:
        try:
            requests = begin(child.asks) if replies is None else child.asks.send(replies)
        except StopIteration as stop:
            child.result = stop.value
            del self.running[child.number]
            heapq.heappush(self._ended, (child.clock, child.number, child))
            return
        except BaseException:
            del self.running[child.number]
            raise
        for request in requests:
            self._owner[request] = child
            if not isinstance(request, Cancel):
                child.waiting.add(request)
        self._unsent.extend(requests)
