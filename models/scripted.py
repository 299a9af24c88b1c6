"""A backend from a Python function: the fake that every test uses, shipped so that users can test
methods and problems of their own.

It batches like the engine: each `poll` is one pass over at most `slots` of the waiting requests, so
what would share a pass with a real model can be counted without one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from search.scheduling.requests import (
    Cancelled,
    Generate,
    Generated,
    Reply,
    Request,
    RequestFailed,
    Score,
    Usage,
)


class Scripted:
    """Answers each request by `function(request) -> result`, deterministically.

    function  returns Generated, Scored or what else the request is answered by; may raise
              RequestFailed, which fails that request only. A str is turned into a Generated of its
              characters (`scripted`). Anything else it raises is a programming error
    slots     requests held by one pass at most
    delay     seconds that each pass takes; None: no time
    shuffle   a seed: requests are then answered in a random order, each pass taking any of those
              that wait

    total_passes, total_rows: int, of all passes so far.
    """

    computes = True
    wake: threading.Event | None = None

    def __init__(
        self,
        function: Callable[[Request], Any],
        slots: int = 64,
        delay: float | None = None,
        shuffle: int | None = None,
    ):
        if slots < 1:
            raise ValueError(f"slots={slots} is impossible: give at least 1")
        self.function = function
        self.slots = slots
        self.delay = delay
        self.lock = threading.Lock()
        self.total_passes = self.total_rows = 0
        self._rng = None if shuffle is None else np.random.default_rng(shuffle)
        self._waiting: deque[Request] = deque()
        self._cancelled: list[Request] = []
        self._closed = False

    def submit(self, request: Request) -> None:
        """Queue a request."""
        if self._closed:
            raise RuntimeError("this backend is closed: make a new one")
        self._waiting.append(request)

    def poll(self, seconds: float = 0.0) -> list[Reply]:
        """One pass: answer up to `slots` waiting requests, and all that were cancelled."""
        replies = [
            Reply(request, error=Cancelled("cancelled before it was answered"))
            for request in self._cancelled
        ]
        self._cancelled = []
        if not self._waiting:
            return replies
        if self.delay:
            time.sleep(self.delay)
        if self._rng is not None:
            order = self._rng.permutation(len(self._waiting))
            self._waiting = deque(self._waiting[i] for i in order)
        batch = [self._waiting.popleft() for _ in range(min(self.slots, len(self._waiting)))]
        self.total_passes += 1
        self.total_rows += len(batch)
        try:
            return replies + [self._answer(request, len(batch)) for request in batch]
        except BaseException:
            self._waiting.extendleft(reversed(batch))  # nobody was told: they can be cancelled
            raise

    def cancel(self, request: Request) -> None:
        """Give a waiting request up; idempotent."""
        if request in self._waiting:
            self._waiting.remove(request)
            self._cancelled.append(request)

    def close(self) -> None:
        """Drop what waits; idempotent."""
        self._closed = True
        self._waiting.clear()
        self._cancelled.clear()

    def _answer(self, request: Request, rows: int) -> Reply:
        usage = {"calls": 1, "passes": 1, "rows": rows, "slots": self.slots}
        if isinstance(request, Generate):
            usage["prefilled"] = len(request.prompt)
        elif isinstance(request, Score):
            usage["prefilled"] = len(request.tokens)
        try:
            result = self.function(request)
        except RequestFailed as error:
            return Reply(request, error=error, usage=Usage(**usage))
        if isinstance(result, str):
            if not isinstance(request, Generate):
                raise TypeError(
                    f"a script answered {type(request).__name__} with a str: only Generate may "
                    "be answered so"
                )
            result = scripted(request, result)
        if isinstance(result, Generated):
            usage["generated"] = len(result.tokens)
        return Reply(request, result, usage=Usage(**usage))


END = 3  # end of text, as in ASCII


def text_tokens(text: str) -> tuple[int, ...]:
    """The tokenizer of scripts: one token a character, its code point."""
    return tuple(map(ord, text))


def token_text(tokens: Any) -> str:
    """The text of `text_tokens`, without end-of-text tokens."""
    return "".join(chr(t) for t in tokens if t != END)


def scripted(
    request: Generate, text: str, log_prob: float = -0.1, value: float = float("nan")
) -> Generated:
    """The reply of a model that would write `text` and then end: cut at `request.stop` and
    `request.max_tokens`, as the engine does.

    log_prob  of every token;  value: the head's at the last token, in [0, 1], nan where
              `max_tokens` cut the text
    """
    cuts = [(at + len(stop), at) for stop in request.stop if stop and (at := text.find(stop)) >= 0]
    length, shown = min(cuts, default=(len(text), len(text)))
    tokens = text_tokens(text[:length])
    finish = "stop"
    if not cuts:
        tokens = (*tokens, END)
        finish = "end"
    if len(tokens) > request.max_tokens:
        tokens = tokens[: request.max_tokens]
        shown = len(tokens)
        finish = "length"
        value = float("nan")
    each = np.full(len(tokens), log_prob, np.float32)
    spelled = token_text(tokens)[:shown]
    return Generated(tokens, spelled, each, each.copy(), value, finish)
