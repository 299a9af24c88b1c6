"""Which requests of a search failed for good, and what that means for its result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from search.scheduling.requests import (
    Call,
    Cancelled,
    Forward,
    Generate,
    Reply,
    Request,
    RequestFailed,
    Score,
    TooLong,
    failure,
)

FEWEST = 8  #: failed calls of a function that may end a search


class Failures:
    """What went wrong among the requests of one search.

    A request to a model that failed is made good by a later one that asks the same (the same text
    to go on from, the same tokens to read) and is answered. A function of the user's (`Call`) that
    crashes, hangs or needs too much memory may do so because of the step that it was given: that
    costs the step. Where most of its calls did not come back, the function itself, or its process,
    is what failed; of `FEWEST` calls or more that is `broken`, and ends the search at once. A call
    that was cancelled counts as none. A text beyond the model's context ends its chain; where
    nothing else came, that is a failure too.
    """

    def __init__(self) -> None:
        self._lost: Counter[Hashable] = Counter()  # what was asked in vain, and how often
        self._again: dict[Request, Hashable] = {}  # requests under way that ask once more
        self._last: RequestFailed | None = None
        self._too_long: TooLong | None = None
        self._calls: Counter[str] = Counter()  # of each function
        self._crashed: Counter[str] = Counter()
        self._crash: dict[str, RequestFailed] = {}  # the last of each function
        self._broken: RequestFailed | None = None

    @property
    def broken(self) -> bool:
        """Whether at some moment `FEWEST` calls of a function had failed, and nine times as many
        as had not: a verifier that fails at every second call goes on to the search's end.
        """
        return self._broken is not None

    def admit(self, request: Request) -> None:
        """Take note of what is sent."""
        if self._lost and (question := _question(request)) in self._lost:
            self._again[request] = question

    def settle(self, reply: Reply) -> None:
        """Take note of an answer."""
        error = failure(reply.error)
        again = self._again.pop(reply.request, None)
        if isinstance(reply.request, Call):
            if error is not None or not isinstance(reply.error, Cancelled):
                self._settle_call(reply.request, error)
        elif isinstance(error, TooLong):
            self._too_long = error
        elif error is not None:
            self._lost[_question(reply.request)] += 1
            self._last = error
        elif again is not None and reply.error is None and again in self._lost:
            self._lost[again] -= 1
            self._lost += Counter()  # without those at 0

    def _settle_call(self, call: Call, error: RequestFailed | None) -> None:
        name = str(getattr(call.function, "__qualname__", call.function))
        self._calls[name] += 1
        if error is not None:
            self._crashed[name] += 1
            self._crash[name] = error
        crashed = self._crashed[name]
        good = self._calls[name] - crashed
        if crashed >= max(FEWEST, 9 * good) and self._broken is None:
            self._broken = self._mostly_failed(name)

    def _mostly_failed(self, name: str) -> RequestFailed | None:
        """That more than half of a function's calls failed; None where they did not."""
        crashes = self._crashed[name]
        calls = self._calls[name]
        if crashes * 2 <= calls:
            return None
        share = f"all {calls}" if crashes == calls else f"{crashes} of {calls}"
        return _summary(f"{share} calls of {name} failed", self._crash[name])

    def verdict(self, answered: bool) -> RequestFailed | None:
        """Why the result of this search is not what it would have been; None where nothing failed
        for good.

        answered  whether the search found an answer
        """
        if self._broken is not None:
            return self._broken
        for name in self._crashed:
            failed = self._mostly_failed(name)
            if failed is not None:
                return failed
        if self._lost:
            count = self._lost.total()
            assert self._last is not None
            return _summary(f"{count} request{'s' if count > 1 else ''} failed", self._last)
        return None if answered else self._too_long

    def crashes(self) -> list[tuple[str, int, int, RequestFailed]]:
        """Functions that failed now and then: name, calls that failed, all calls, the last
        failure.
        """
        found = []
        for name, crashes in self._crashed.items():
            found.append((name, crashes, self._calls[name], self._crash[name]))
        return found


def _summary(what: str, last: RequestFailed) -> RequestFailed:
    error = RequestFailed(f"{what}, the last: {last}")
    error.__cause__ = last
    return error


def _question(request: Request) -> Hashable:
    """What a request asks, equal for one that asks the same with other random numbers."""
    if isinstance(request, Generate):
        return ("generate", request.to, request.prompt)
    if isinstance(request, Score):
        return ("score", request.to, request.tokens)
    if isinstance(request, Forward):
        return ("forward", request.to, request.planes.tobytes())
    return request


def described(error: Exception) -> str:
    """An error in one line: its class, its message, and which part of the user's raised it."""
    return f"{type(error).__name__}: {error}{noted(error)}"


def noted(error: Exception) -> str:
    """What was noted with an error, in brackets, without tracebacks; "" for nothing."""
    notes = [note for note in getattr(error, "__notes__", ()) if "\n" not in note]
    return f" ({'; '.join(notes)})" if notes else ""
