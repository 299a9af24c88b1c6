"""In-process language model for all searches at once: rows join and leave at every pass.

`submit` queues; `poll` admits rows while slots last, draws the next token of every row that has a hidden state, runs one forward
pass over all rows, and returns the replies of those that ended. A prompt is read once for all requests that share it: keys and
values stay in a pool (`models.kvtree`), and the first token below a finished step is drawn from the step's last hidden state.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections import deque
from typing import Any

import numpy as np
import torch

from models.heads import ValueHead, values
from models.kvstore import Store, bucket, default_pool
from models.kvtree import Match
from models.passes import Chunk, choose, score
from models.rows import ALL_GIVEN, FRESH, STEP, Key, Row, Rows, check_request, unanswerable
from models.sampling import draw
from models.text import Texts
from search.requests import Cancelled, Generate, NothingLeft, Reply, Request, RequestFailed

logger = logging.getLogger(__name__)

CHUNK = 2048  # prompt tokens read in one pass at most
OVERLAP = 8  # a request waits for another that is reading at least so many tokens it needs too
NOT_NUMBERS = "the model's numbers are not finite for this text"


class Engine:
    """Backend for `Generate` and `Score` over a transformers causal language model and an optional value head.

    model        on its device, any float type; `eval` mode is set. Models whose attention is not plain causal attention are served by
                 reading every text anew in every pass (one warning)
    slots        rows of a pass at most
    pool_tokens  tokens whose keys and values are kept for reuse; default 1 GiB of them on a CPU, a quarter of a GPU's free memory
    context      longest text, prompt included; default the model's, at most `pool_tokens`

    A request longer than the context gets RequestFailed; one that reaches it ends with finish "length". Logits that are not finite
    fail their own request only. After a change of the weights call `clear`.
    """

    computes = True
    wake: threading.Event | None = None

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        head: ValueHead | None = None,
        slots: int = 64,
        device: str | torch.device | None = None,
        pool_tokens: int | None = None,
        name: str = "policy",
        context: int | None = None,
    ):
        if slots < 1:
            raise ValueError(f"slots={slots} is impossible: give at least 1")
        self.model = model.eval() if device is None else model.to(device).eval()
        self.tokenizer, self.slots, self.name = tokenizer, slots, name
        self.head = None if head is None else head.to(self.model.device).eval()
        self.lock = threading.Lock()
        self.texts = Texts(tokenizer, model)
        text = self.model.config.get_text_config()
        self.vocab, self.parameters = int(text.vocab_size), int(self.model.num_parameters())
        self.pool_tokens = pool_tokens or default_pool(model.config, self.model.device, self.model.dtype)
        self.context = min(context or 1 << 30, getattr(text, "max_position_embeddings", None) or 1 << 30, self.pool_tokens)
        self._queue: deque[Any] = deque()
        self._ready: list[Reply] = []
        self._closed = False
        self._reset(slots)
        self._pass = choose(self.model, self._store, self.context)

    def submit(self, request: Request) -> None:
        """Queue a request. Raises TypeError or ValueError for one that no language model can answer."""
        if self._closed:
            raise RuntimeError(f"engine {self.name!r} is closed: make a new one")
        tokens = check_request(request, self.vocab)
        error = unanswerable(request, len(tokens), self.context, self.pool_tokens)
        if error is not None:
            self._ready.append(Reply(request, error=error))
            return
        self._queue.append(request)

    def poll(self, seconds: float = 0.0) -> list[Reply]:
        """One forward pass over all rows; the replies of those that ended. Returns at once where nothing is to be done."""
        if self._queue or self._rows.running:
            if self.model.training:
                self.model.eval()
            try:
                with torch.inference_mode():
                    self._admit()
                    self._draw()
                    self._forward()
            except torch.OutOfMemoryError:
                self._shrink()
        replies, self._ready = self._ready, []
        return replies

    def cancel(self, request: Request) -> None:
        """Give a request up: `Cancelled` with what was spent, at the next poll. Nothing happens if it is not here any more."""
        row = self._rows.running.get(request)
        if row is not None:
            with torch.inference_mode():
                self._keep_cut(row)
                self._leave(row, error=Cancelled("cancelled"))
        elif request in self._queue:
            self._queue.remove(request)
            self._ready.append(Reply(request, error=Cancelled("cancelled before it began")))

    def clear(self) -> None:
        """Forget all keys and values: the weights have changed. Raises RuntimeError while rows run."""
        if self._rows.running:
            raise RuntimeError(f"{len(self._rows.running)} rows still run: clear the engine when all replies are there")
        self._store.clear()

    def close(self) -> None:
        """Drop what is queued or running and free the storage. Idempotent."""
        self._closed = True
        self._queue.clear()
        self._ready.clear()
        if self._rows.running:
            self._reset(self.slots)
        self._store.clear()

    def _reset(self, slots: int) -> None:
        self.slots = slots
        self._store = Store(self.model.config, slots, self.pool_tokens, self.model.device, self.model.dtype)
        self._rows = Rows(slots)
        self._reading: dict[Key, Row] = {}
        self._passes = self._row_passes = 0  # passes so far, and rows in them summed

    def _admit(self) -> None:
        waiting = []
        try:
            while self._queue and self._rows.free:
                request = self._queue.popleft()
                generate = isinstance(request, Generate)
                prompt = tuple(request.prompt if generate else request.tokens)
                match, key = None, None
                if generate and self._pass.shares:
                    match = self._store.tree.match(prompt)
                    known = match.length - (match.hidden < 0 and match.length == len(prompt))
                    if known < len(prompt):
                        key = (id(match.node), known, prompt[known])
                        if self._is_read(key, prompt):
                            waiting.append(request)
                            continue
                self._join(request, prompt, match, key)
        finally:
            self._queue.extendleft(reversed(waiting))
        self._rows.compact(self._pass.move)

    def _is_read(self, key: Key, prompt: tuple[int, ...]) -> bool:
        """Whether a row is just reading what a request with this prompt needs too: then it may as well wait."""
        other, same = self._reading.get(key), min(len(prompt), key[1] + OVERLAP)
        return other is not None and other.prompt[:same] == prompt[:same]

    def _join(self, request: Any, prompt: tuple[int, ...], match: Match | None, key: Key | None) -> None:
        known = 0 if match is None else (key[1] if key else match.length)
        row = Row(request, prompt, heapq.heappop(self._rows.free), known, self._passes, self._row_passes, key=key)
        self._rows.join(row, self.texts, self.context)
        if match is not None:
            self._store.join(row.slot, match.slots[:known], match.hidden if key is None else -1)
        if key is not None:
            self._reading.setdefault(key, row)

    def _draw(self) -> None:
        """Draw the next token of every row whose text has been read."""
        rows = np.flatnonzero(self._rows.stage == FRESH)
        if not len(rows):
            return
        logits = self._pass.next_logits(rows)
        drawn = draw(logits, *self._rows.parameters(rows), self._rows.thinned(rows))
        self._rows.last[rows] = drawn.tokens
        self._rows.count[rows] += 1
        self._rows.stage[rows] = STEP
        lists = (drawn.finite, drawn.left, drawn.tokens, drawn.log_probs, drawn.sampled_log_probs)
        for slot, finite, left, *what in zip(rows.tolist(), *(a.tolist() for a in lists), strict=True):
            row = self._rows[slot]
            if not finite or not left:
                self._fail(row, NothingLeft(ALL_GIVEN) if finite else RequestFailed(NOT_NUMBERS))
                continue
            row.add(*what)
            finish = row.tail.add(row.tokens[-1])
            if finish is not None:
                row.finish = finish
            elif len(row.tokens) >= row.limit:
                row.finish = "length"
                self._keep_cut(row)
                self._leave(row, row.generated(float("nan")))

    def _forward(self) -> None:
        """Pass the drawn tokens and a chunk of the prompts, all in one row, and take in what comes out."""
        if not self._rows.running:
            return
        active = self._rows.stage == STEP
        steps = np.flatnonzero(active)
        size = bucket(int(steps[-1]) + 1) if len(steps) else 0
        chunks, readers, room = [], [], CHUNK
        for row in self._rows.to_read:
            done = int(self._rows.length[row.slot])
            tokens = row.prompt[done : done + room]
            if tokens:
                chunks.append(Chunk(row.slot, tokens, done))
                readers.append(row)
            room -= len(tokens)
        hidden = self._pass.forward(self._rows.last[:size], self._rows.length[:size], active[:size], chunks)
        self._passes += 1
        self._row_passes += len(self._rows.running)
        starts = np.cumsum([size] + [len(c.tokens) for c in chunks])
        slots = np.concatenate([steps, np.array([r.slot for r in readers], np.int64)])
        ends = torch.from_numpy(np.concatenate([steps, starts[1:] - 1])).to(hidden.device)
        last = hidden.index_select(0, ends)
        finite = last.isfinite().all(-1).tolist()
        self._store.hidden.index_copy_(0, torch.from_numpy(slots).to(hidden.device), last)
        self._rows.length[steps] += 1
        self._rows.stage[steps] = FRESH
        for row, chunk, start, good in zip(readers, chunks, starts.tolist(), finite[len(steps) :], strict=False):
            self._rows.length[row.slot] += len(chunk.tokens)
            if good:
                self._read(row, chunk, start, hidden)
        for slot in slots[np.logical_not(finite)].tolist():
            self._fail(self._rows[slot], RequestFailed(NOT_NUMBERS))
        self._close_steps([row for row in map(self._rows.__getitem__, steps.tolist()) if row is not None and row.finish])

    def _read(self, row: Row, chunk: Chunk, start: int, hidden: torch.Tensor) -> None:
        """Take in one chunk of a prompt that was read."""
        if row.scored is not None:
            inside = score(self._pass, row.request, row.scored, chunk, start)
            at = [start + row.request.positions[i] - chunk.past for i in inside]
            row.scored.values[inside] = values(self.head, hidden[at])
        if self._rows.length[row.slot] < len(row.prompt):
            return
        self._rows.to_read.remove(row)
        if row.scored is not None:
            good = np.isfinite(row.scored.log_probs[1:]).all() and not np.isnan(row.scored.reads).any()
            self._leave(row, row.scored if good else None, None if good else RequestFailed(NOT_NUMBERS))
            return
        self._rows.stage[row.slot] = FRESH
        self._forget_reading(row)
        if self._pass.shares:
            self._store.keep(row.slot, row.prompt, True)

    def _close_steps(self, rows: list[Row]) -> None:
        """Reply to rows whose last token has been passed, and store their text with the state at its end."""
        if not rows:
            return
        judged = values(self.head, self._store.hidden[[row.slot for row in rows]])
        for row, value in zip(rows, judged.tolist(), strict=True):
            if self._pass.shares:
                self._store.keep(row.slot, row.prompt + tuple(row.tokens), True)
            self._leave(row, row.generated(value))

    def _keep_cut(self, row: Row) -> None:
        """Store what a row has read, without the state at its end."""
        if self._pass.shares and isinstance(row.request, Generate):
            self._store.keep(row.slot, (row.prompt + tuple(row.tokens))[: int(self._rows.length[row.slot])], False)

    def _fail(self, row: Row, error: RequestFailed) -> None:
        self._store.wipe(row.slot)
        self._leave(row, error=error)

    def _forget_reading(self, row: Row) -> None:
        if row.key and self._reading.get(row.key) is row:
            del self._reading[row.key]

    def _leave(self, row: Row, result: Any = None, error: Exception | None = None) -> None:
        """Free the slot and reply."""
        length, passes = int(self._rows.length[row.slot]), self._passes - row.passes
        flops = self._pass.flops(row.slot, row.reused, length)
        usage = row.usage(length, passes, self._row_passes - row.row_passes, passes * self.slots, flops)
        self._forget_reading(row)
        self._rows.leave(row)
        self._ready.append(Reply(row.request, result, error, usage))

    def _shrink(self) -> None:
        """The device is out of memory: begin again with half the slots; every request draws what it would have drawn."""
        pool, each = self._store.bytes
        if self.slots == 1:
            name = getattr(self.model.config, "_name_or_path", "") or type(self.model).__name__
            sizes = f"{self.model.get_memory_footprint()} bytes of weights, {pool} of pool, {each} of its one slot"
            raise MemoryError(f"{name} does not fit: {sizes}: give a smaller pool_tokens or context, or use another device")
        logger.warning("out of memory at %d slots of %d bytes: going on with %d", self.slots, each, self.slots // 2)
        self._queue.extendleft(reversed(self._rows.running))
        del self._store, self._pass.store
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        self._reset(self.slots // 2)
        self._pass.store = self._store
