"""The rows of an engine: which request stands in which slot, and how far it is.

What every pass needs of all rows lives in arrays, one entry a slot; what only the request itself
needs, in a `Row`.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.detokenizer import Tail, Texts
from models.engine.sampling import LEAST, Parameters, Thinned
from search.scheduling.budget import Usage
from search.scheduling.requests import (
    Avoided,
    Generate,
    Generated,
    NothingLeft,
    Request,
    RequestFailed,
    Score,
    TooLong,
    check_sampling,
)

# Stages of a slot. FREE: it has no row. READ: its row's prompt is being read. DRAW: the next token
# can be drawn. STEP: the token that was drawn waits for its pass. DONE: the last token has been
# passed, and the reply is to be made.
FREE, READ, DRAW, STEP, DONE = range(5)
NOT_NUMBERS = "the model's numbers are not finite for this text"
ALL_GIVEN = "the model has no continuation left beside those to avoid"


@dataclass
class Counts:
    """What an engine has done.

    rows    in all passes, summed;  read: tokens that went through the model
    stored  tokens that got a cell of the pool: distinct ones, and again those that were forgotten;
            peak: most cells in use at once
    """

    passes: int = 0
    rows: int = 0
    read: int = 0
    stored: int = 0
    peak: int = 0

    def summary(self, slots: int, each: int) -> str:
        """In words, for an engine of `slots` rows whose tokens take `each` bytes."""
        ratio = self.read / max(1, self.stored)
        rows = self.rows / max(1, self.passes)
        return (
            f"{self.read:,} tokens read for {self.stored:,} stored ones (ratio {ratio:.2f}), "
            f"{self.passes:,} passes of {rows:.1f} rows "
            f"({100 * rows / slots:.0f} % of the slots), at most {self.peak:,} tokens at "
            f"once ({self.peak * each / 2**20:.1f} MiB)"
        )


@dataclass(eq=False, slots=True)
class Row:
    """A request in a slot.

    limit  tokens that it may generate
    read   tokens of its prompt that were read for it;  passes, row_passes: the engine's counts when
           it joined
    avoid  continuations to avoid that begin with `tokens`, each with the log-prob of what follows
           every length of it
    """

    request: Any
    prompt: tuple[int, ...]
    slot: int
    passes: int
    row_passes: int
    limit: int = 0
    read: int = 0
    tail: Tail | None = None  # of a Generate
    finish: str = ""
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    sampled: list[float] = field(default_factory=list)
    avoid: list[tuple[tuple[int, ...], list[float]]] = field(default_factory=list)

    def add(self, token: int, log_prob: float, sampled: float) -> None:
        """Take a token that was drawn."""
        if self.avoid:
            self.avoid = [s for s in self.avoid if s[0][len(self.tokens)] == token]
        self.tokens.append(token)
        self.log_probs.append(log_prob)
        self.sampled.append(sampled)

    def look(self) -> str | None:
        """Why the text ends with the last token: "stop", "end", or None where it does not."""
        assert self.tail is not None
        found = None
        for token in self.tokens[self.tail.count :]:
            found = self.tail.add(token)
        return found

    def keep(self) -> dict[int, float]:
        """Next token -> share of its probability that leads to none of what is to be avoided, 0
        or at least LEAST.
        """
        at = len(self.tokens)
        gone = dict[int, float]()
        for tokens, after in self.avoid:
            gone[tokens[at]] = gone.get(tokens[at], 0.0) + math.exp(after[at + 1])
        left = dict.fromkeys(gone, 0.0)
        for token, mass in gone.items():
            if mass <= 1 - LEAST:
                left[token] = 1 - mass
        return left

    def generated(self, value: float) -> Generated:
        """The reply of a row that has ended."""
        assert self.tail is not None
        self.look()
        log_probs = np.array(self.log_probs, np.float32)
        sampled = np.array(self.sampled, np.float32)
        return Generated(tuple(self.tokens), self.tail.text, log_probs, sampled, value, self.finish)

    def usage(self, passes: int, rows: int, slots: int, flops: float) -> Usage:
        """What it cost, as in Usage."""
        return Usage(
            calls=1,
            generated=len(self.tokens),
            prefilled=self.read,
            reused=len(self.prompt) - self.read,
            flops=flops,
            passes=passes,
            rows=rows,
            slots=slots,
        )


class Rows:
    """All rows.

    stage int8; last (token drawn), length (tokens that have cells), count (tokens drawn), reserve
    (cells that it may still take), watch (its number in `Texts.watched`) int64; flops float64
    (operations spent on it): all [slots]
    running  rows by request;  to_read: rows whose prompt is not read yet, in order of arrival;
             free: a heap of free slots
    """

    def __init__(self, slots: int):
        self.running: dict[Any, Row] = {}
        self.to_read: list[Row] = []
        self.free = list(range(slots))
        self.stage = np.zeros(slots, np.int8)
        self.last = np.zeros(slots, np.int64)
        self.length = np.zeros(slots, np.int64)
        self.count = np.zeros(slots, np.int64)
        self.reserve = np.zeros(slots, np.int64)
        self.watch = np.zeros(slots, np.int64)
        self.flops = np.zeros(slots)
        self._seed = np.zeros(slots, np.uint64)
        self._temperature = np.zeros(slots)
        self._top_k = np.zeros(slots, np.int64)
        self._top_p = np.zeros(slots)
        self._min_p = np.zeros(slots)
        self._at: list[Any] = [None] * slots  # the Row in each slot
        self._avoiding: set[int] = set()

    def __getitem__(self, slot: int) -> Any:
        """The Row in a slot, None where it is free."""
        return self._at[slot]

    def join(self, row: Row, texts: Texts) -> None:
        """Take a row into its slot; its prompt is to be read."""
        request = row.request
        slot = row.slot
        self.running[request] = self._at[slot] = row
        self.length[slot] = len(row.prompt)
        self.count[slot] = 0
        self.reserve[slot] = row.limit
        self.flops[slot] = 0
        self.stage[slot] = READ
        self.to_read.append(row)
        if isinstance(request, Generate):
            row.tail = Tail(texts, request.stop, row.prompt)
            self.watch[slot] = texts.watch(tuple(request.stop))
            row.avoid = [(s.tokens, _after(s)) for s in request.avoid]
            if row.avoid:
                self._avoiding.add(slot)
            self._seed[slot] = request.seed % 2**64
            self._temperature[slot] = request.temperature
            self._top_k[slot] = request.top_k
            self._top_p[slot] = request.top_p
            self._min_p[slot] = request.min_p

    def close_prompts(self, table: np.ndarray, ready: np.ndarray) -> None:
        """Let rows go on whose prompt has been read. table, ready: the pool's (`kv_pool.Store`)."""
        waiting = self.to_read
        self.to_read = []
        for row in waiting:
            if not ready[table[row.slot, len(row.prompt) - 1]]:
                self.to_read.append(row)
            elif isinstance(row.request, Score):
                self.stage[row.slot] = DONE
            else:
                self.stage[row.slot] = DRAW

    def leave(self, row: Row) -> None:
        """Free a row's slot."""
        if self.stage[row.slot] == READ and row in self.to_read:
            self.to_read.remove(row)
        self.stage[row.slot] = FREE
        self._at[row.slot] = None
        self._avoiding.discard(row.slot)
        del self.running[row.request]
        heapq.heappush(self.free, row.slot)

    def parameters(self, slots: np.ndarray) -> Parameters:
        """How the next tokens of the rows in `slots` are drawn."""
        return Parameters(
            self._seed[slots],
            self.count[slots],
            self._temperature[slots],
            self._top_k[slots],
            self._top_p[slots],
            self._min_p[slots],
        )

    def thinned(self, slots: np.ndarray) -> Thinned | None:
        """What `sampling.draw` is to take from the rows in `slots`, None if nothing."""
        if not self._avoiding:
            return None
        found: list[tuple[int, int, float]] = []
        for i, slot in enumerate(slots.tolist()):
            if slot in self._avoiding:
                found += [(i, token, keep) for token, keep in self._at[slot].keep().items()]
        if not found:
            return None
        return Thinned(*map(np.array, zip(*found, strict=True)))


def tokens_of(request: Generate | Score) -> tuple[int, ...]:
    """What is to be read: a prompt, or a text to be scored."""
    return tuple(request.prompt if isinstance(request, Generate) else request.tokens)


def check_request(request: Request, vocab: int) -> tuple[int, ...]:
    """The tokens that a request brings. Raises TypeError or ValueError for one that no language
    model can answer.
    """
    if not isinstance(request, (Generate, Score)):
        raise TypeError(
            f"a language model cannot answer {type(request).__name__}: send Generate or Score"
        )
    tokens = tokens_of(request)
    if not tokens:
        raise ValueError(
            "a request without tokens: give at least one, such as the beginning-of-text token"
        )
    if min(tokens) < 0 or max(tokens) >= vocab:
        raise ValueError(
            f"token ids {min(tokens)} to {max(tokens)}, the model knows 0 to {vocab - 1}: use "
            "its tokenizer"
        )
    if isinstance(request, Generate):
        _check_generate(request)
    elif any(not 0 <= p < len(tokens) for p in request.positions):
        raise ValueError(
            f"positions {request.positions} of {len(tokens)} tokens: give indices into the tokens"
        )
    elif request.read and (min(request.read) < 0 or max(request.read) >= vocab):
        raise ValueError(
            f"token ids to read {request.read}, the model knows 0 to {vocab - 1}: use its tokenizer"
        )
    return tokens


def _check_generate(request: Generate) -> None:
    if request.max_tokens < 1:
        raise ValueError(f"max_tokens={request.max_tokens} is impossible: give at least 1")
    check_sampling(request.temperature, request.top_k, request.top_p, request.min_p)
    if isinstance(request.stop, str) or not all(isinstance(stop, str) for stop in request.stop):
        raise ValueError(f"stop={request.stop!r}: give a tuple of strings")
    for avoided in request.avoid:
        whole = avoided.tokens and len(avoided.tokens) == len(avoided.log_probs)
        if not whole or not math.isfinite(sum(avoided.log_probs)):
            raise ValueError(
                "a continuation to avoid without tokens or without a finite log-prob of each: "
                "give both as Generated has them"
            )


def unanswerable(
    request: Request, length: int, context: int, pool_tokens: int
) -> RequestFailed | None:
    """Why a request of `length` tokens cannot be answered by any pass, None if it can."""
    longest = context - isinstance(request, Generate)
    if length > longest:
        return TooLong(
            f"{length} tokens, but the context takes {longest} (pool {pool_tokens}): shorten the "
            "text or enlarge the pool"
        )
    if (
        isinstance(request, Generate)
        and math.fsum(s.probability for s in request.avoid) > 1 - LEAST
    ):
        return NothingLeft(ALL_GIVEN)
    return None


def _after(avoided: Avoided) -> list[float]:
    """Log-prob of what follows each length of a continuation: [tokens + 1], the last 0."""
    sums = [0.0]
    for log_prob in reversed(avoided.log_probs):
        sums.append(sums[-1] + log_prob)
    return sums[::-1]
