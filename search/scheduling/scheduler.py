"""The whole of scheduling: searches ask, one driver acts (`search.scheduling.driver`).

A method or guide is a coroutine (`async def`) that awaits what it asks: `await ask(request)`,
`await parallel(children)`. It performs nothing itself. Beneath, a coroutine yields the requests
that it wants started and is sent the replies that arrived (`Asks`); only `exchange` and `ask` do so
themselves, and only `run` drives a coroutine to its end. No event loop is needed: `asyncio` is not
used.
"""

from __future__ import annotations

import itertools
import math
import threading
import types
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from search.scheduling.budget import Grant, Meter
from search.scheduling.requests import (
    BudgetSpent,
    Cancel,
    Progress,
    Reply,
    Request,
    Timer,
)

DRIVERS_OWN = (Cancel, Timer, Progress)  #: requests that the driver answers itself

T = TypeVar("T")
#: what an `async def` that asks returns when it is called
Asks = Coroutine[list[Request], list[Reply] | None, T]


async def ask(request: Request) -> Any:
    """The result of one request. Raises the backend's error here, where it was asked."""
    reply = await _reply(request)
    if reply.error is not None:
        raise reply.error
    return reply.result


@types.coroutine
def _reply(request: Request) -> Generator[list[Request], list[Reply], Reply]:
    replies = yield [request]
    while True:
        for reply in replies:
            if reply.request is request:
                return reply
        replies = yield []


@types.coroutine
def exchange(orders: list[Request]) -> Generator[list[Request], list[Reply], list[Reply]]:
    """Have `orders` started; the replies that arrived next, whichever child asked for them. For
    combinators such as `parallel` alone.
    """
    return (yield orders)


def begin(asks: Asks[Any]) -> list[Request]:
    """The first orders of a coroutine. Raises StopIteration with its result where it asks for
    nothing; TypeError where it is none.
    """
    if type(asks) is not types.CoroutineType:
        check_coroutine(asks, "what runs here")
    return asks.send(None)


def check_coroutine(asks: object, what: str) -> None:
    """Raises TypeError, naming `what` it is, where `asks` is no coroutine."""
    if isinstance(asks, Coroutine):
        return
    if isinstance(asks, Generator):
        raise TypeError(
            f"{what} is a generator: write `async def` for `def` and `await` for `yield from`, "
            "and leave out a `yield` that asks for nothing"
        )
    made = type(asks).__name__
    raise TypeError(
        f"{what} is no coroutine but {made}: write `async def`, and give what the function "
        "returns when it is called"
    )


class _Side:
    """Coroutines that run side by side, and which of them asked for what.

    running  those that have not ended, by their numbers;  results: of those that have
    """

    def __init__(self) -> None:
        self.running: dict[int, Asks[Any]] = {}
        self.results: dict[int, Any] = {}
        self._owner: dict[Request, int] = {}
        self._numbers = itertools.count()
        self._wanted: list[Request] = []

    def start(self, child: Asks[Any]) -> None:
        """Begin one more. Raises what it raises, TypeError where it is no coroutine."""
        number = next(self._numbers)
        self.running[number] = child
        self._advance(number, None)

    async def go_on(self) -> None:
        """Have what they want started, and give them what arrives next. Raises what one raises."""
        orders = self._wanted
        self._wanted = []
        replies = await exchange(orders)
        for number, mine in _by_owner(self._owner, replies).items():
            if number in self.running:
                self._advance(number, mine)

    def close(self) -> list[Request]:
        """Close them all; what they had asked for and did not get."""
        _close(self.running.values())
        unsent = set(self._wanted)
        return [request for request in self._owner if request not in unsent]

    def _advance(self, number: int, replies: list[Reply] | None) -> None:
        child = self.running[number]
        try:
            requests = begin(child) if replies is None else child.send(replies)
        except StopIteration as stop:
            self.results[number] = stop.value
            del self.running[number]
            return
        except BaseException:
            del self.running[number]
            raise
        for request in requests:
            self._owner[request] = number
        self._wanted.extend(requests)


async def parallel(children: Iterable[Asks[T]], limit: int | None = None) -> list[T]:
    """Run coroutines that ask side by side, at most `limit` at once; their results in order.

    Children start in order and only when there is room, so `children` may be a long lazy iterable.
    When one raises, its siblings are closed, what they asked for is cancelled and waited for, and
    the exception continues here. Raises TypeError for a child that is no coroutine.
    """
    waiting = iter(children)
    side = _Side()
    try:
        exhausted = False
        while True:
            while not exhausted and (limit is None or len(side.running) < limit):
                child = next(waiting, None)
                if child is None:
                    exhausted = True
                    break
                side.start(child)
            if not side.running:
                return [side.results[number] for number in range(len(side.results))]
            await side.go_on()
    except GeneratorExit:
        side.close()
        _close(_unstarted(children, waiting))
        raise
    except BaseException:
        outstanding = side.close()
        _close(_unstarted(children, waiting))
        await abandon(outstanding)
        raise


async def attended(
    door: Callable[[int], Iterable[Asks[None]] | None], bell: threading.Event
) -> None:
    """Run coroutines that ask side by side as they come in, until the door is closed. One that
    raises ends all, as in `parallel`.

    door  of how many run: what is to begin now. None: nothing will come any more, and what runs
          is closed. It is asked after each exchange
    bell  set, by any thread, when something has come in
    """
    side = _Side()
    listening = 0

    async def listen() -> None:
        nonlocal listening
        listening = 1
        await ask(Timer(math.inf, bell))
        listening = 0

    try:
        while True:
            bell.clear()
            came = door(len(side.running) - listening)
            if came is None:
                await abandon(side.close())
                return
            for child in came:
                side.start(child)
            if not listening:
                side.start(listen())
            await side.go_on()
            side.results.clear()
    except GeneratorExit:
        side.close()
        raise
    except BaseException:
        await abandon(side.close())
        raise


def _unstarted(children: Iterable[Asks[T]], waiting: Iterable[Asks[T]]) -> list[Asks[T]]:
    """Those of a sequence that were not begun; a lazy iterable has not even made them."""
    return list(waiting) if isinstance(children, Sequence) else []


def _close(children: Iterable[Asks[Any]]) -> None:
    for child in children:
        if isinstance(child, Coroutine):
            child.close()


def _by_owner(owner: dict[Request, int], replies: list[Reply]) -> dict[int, list[Reply]]:
    shares: dict[int, list[Reply]] = {}
    for reply in replies:
        index = owner.pop(reply.request, None)
        if index is not None:
            shares.setdefault(index, []).append(reply)
    return shares


async def abandon(outstanding: list[Request]) -> None:
    """Cancel requests whose owner is gone and wait for their replies, so that their meter counts
    their cost.
    """
    left = {request for request in outstanding if not isinstance(request, DRIVERS_OWN)}
    orders: list[Request] = [Cancel(request) for request in outstanding]
    while left:
        replies = await exchange(orders)
        orders = []
        left.difference_update(reply.request for reply in replies)


async def metered(asks: Asks[T], meter: Meter) -> T:
    """Drive `asks` within `meter`: what is beyond it is answered `BudgetSpent`, what arrives is
    counted.

    At the deadline or interrupt of a search's meter, or where most calls of a function failed, all
    that is outstanding is cancelled, and nothing more is sent.
    """
    sent: dict[Request, Request] = {}  # what was sent -> what was asked
    broken = False
    alarm = meter.alarm()
    orders: list[Request] = [] if alarm is None else [alarm]
    try:
        requests = begin(asks)
        while True:
            answers = []
            share = meter.share(requests)
            for request in requests:
                order = meter.admit(request, share)
                if order is None:
                    spent = BudgetSpent("the budget of this search is spent")
                    answers.append(Reply(request, error=spent))
                    continue
                if isinstance(order, (Cancel, Progress)):
                    target = order.target
                    target = next((s for s, asked in sent.items() if asked is target), target)
                    order = replace(order, target=target)
                sent[order] = request
                orders.append(order)
            while not answers:
                replies = await exchange(orders)
                orders = []
                for reply in replies:
                    meter.settle(reply)
                    # others have shared the time
                    if reply.request is alarm and meter.halted is None:
                        alarm = meter.alarm()
                        orders = [] if alarm is None else [alarm]
                    elif reply.request is alarm:
                        orders = _cancelling(sent)
                        if orders:
                            meter.halt()
                    elif reply.request in sent:
                        asked = sent.pop(reply.request)
                        answers.append(Reply(asked, reply.result, reply.error, reply.usage))
                if meter.halted == "error" and not broken:
                    broken = True
                    orders += _cancelling(sent)
            requests = asks.send(answers)
    except StopIteration as stop:
        if alarm is not None:
            await _reply(Cancel(alarm))
        return stop.value
    finally:
        _close([asks])


def _cancelling(sent: Iterable[Request]) -> list[Request]:
    """Orders to cancel what backends have."""
    return [Cancel(request) for request in sent if not isinstance(request, DRIVERS_OWN)]


def granted(asks: Asks[T], grant: Grant) -> Asks[T]:
    """Drive one child of a round within its grant, turn by turn: it goes on when all it asked for
    has arrived, in the order of asking, so that what it gets does not depend on the order of
    arrival.
    """
    return metered(_in_turns(asks), grant)


async def _in_turns(asks: Asks[T]) -> T:
    try:
        requests = begin(asks)
        while True:
            arrived: dict[Request, Reply] = {}
            orders = requests
            while len(arrived) < len(requests):
                replies = await exchange(orders)
                orders = []
                arrived.update((reply.request, reply) for reply in replies)
            requests = asks.send([arrived[request] for request in requests])
    except StopIteration as stop:
        return stop.value
    finally:
        _close([asks])
