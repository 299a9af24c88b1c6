"""In-process language model for all searches at once: rows join and leave at every pass.

`submit` queues; `poll` admits rows while slots and the pool last, draws the next token of every row
that has a hidden state, runs one forward pass over all rows, and returns the replies of those that
ended. On a GPU it returns while the pass is still computed: rows that ended with it are answered by
the next poll, and what asked for others goes on meanwhile. No token is read twice below the same
prefix, whichever row drew it: its keys, values and hidden state stand in a pool
(`models.engine.prefix_tree`), from which no running row is ever driven out.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from models.checkpoints.heads import ValueHead, values
from models.detokenizer import Texts
from models.engine import forward_check, gpu, scoring
from models.engine.forward import Chunk, choose
from models.engine.gpu import send
from models.engine.kv_pool import Store, bytes_per_token, default_pool, numbers
from models.engine.prefix_tree import ROOT, root_of
from models.engine.sampling import Drawn, draw
from models.engine.sequences import (
    ALL_GIVEN,
    DONE,
    DRAW,
    NOT_NUMBERS,
    STEP,
    Counts,
    Row,
    Rows,
    check_request,
    tokens_of,
    unanswerable,
)
from search.scheduling.requests import (
    Cancelled,
    Generate,
    Generated,
    NothingLeft,
    Reply,
    Request,
    RequestFailed,
    Score,
    Scored,
)

logger = logging.getLogger(f"copse.{__name__}")

CHUNK = 1024  # prompt tokens read in one pass at most: with more, a CPU reads a fifth more slowly


class Engine:
    """Backend for `Generate` and `Score` over a transformers causal language model and an optional
    value head.

    model        on its device, any float type; `eval` mode is set. Models whose attention the
                 engine does not know are served by reading every text anew in every pass (one
                 warning)
    slots        rows of a pass at most
    pool_tokens  tokens whose keys and values have room, of running rows and for reuse; default 1
                 GiB of them on a CPU, a quarter of a GPU's free memory
    context      longest text, prompt included; default the model's, at most `pool_tokens`

    path    which forward serves the model: "lean" (`models.engine.llama_cpu`), "modules" (its own)
            or "plain" (its own, reading anew)
    counts  what was done so far

    A request longer than the context gets RequestFailed; one that reaches it ends with finish
    "length". Logits that are not finite fail their own request only. After a change of the weights
    call `clear`. Raises ValueError for numbers that are impossible.
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
        if slots < 1 or (context is not None and context < 1):
            raise ValueError(f"slots={slots}, context={context} are impossible: give at least 1")
        self.model = model.eval() if device is None else model.to(device).eval()
        self.tokenizer = tokenizer
        self.slots = slots
        self.name = name
        self.head = head
        if head is not None:
            head.to(self.model.device).eval()
        self.texts = Texts(tokenizer, model)
        text = self.model.config.get_text_config()
        self.vocab = int(text.vocab_size)
        if pool_tokens is None:
            pool_tokens = default_pool(model.config, self.model.device, self.model.dtype)
        self.pool_tokens = pool_tokens
        self.context = min(
            context or 1 << 30,
            getattr(text, "max_position_embeddings", None) or 1 << 30,
            self.pool_tokens,
        )
        self.lock = threading.Lock()
        self.counts = Counts()
        self._queue: OrderedDict[Any, None] = OrderedDict()  # any can be taken out at once
        self._ready: list[Reply] = []
        self._closed = False
        self._storage: Store | None = None
        self._alone = ROOT
        # whether host and device work at the same time
        self._overlaps = gpu.has_kernels(self.model.device)
        self._reset(slots)
        with gpu.current(self.model.device):
            self._pass = choose(
                self.model, self._store, self.context, forward_check.texts(tokenizer, self.vocab)
            )
        self.path = self._pass.path
        self.kv_bytes_per_token = bytes_per_token(model.config, self.model.device, self.model.dtype)

    def submit(self, request: Request) -> None:
        """Queue a request. Raises TypeError or ValueError for one that no language model can
        answer, or that is under way.
        """
        if self._closed:
            raise RuntimeError(f"engine {self.name!r} is closed: make a new one")
        if request in self._queue or request in self._rows.running:
            raise ValueError("this very request is under way: make another one of the same kind")
        tokens = check_request(request, self.vocab)
        error = unanswerable(request, len(tokens), self.context, self.pool_tokens)
        if error is None:
            self._queue[request] = None
        else:
            self._ready.append(Reply(request, error=error))

    def poll(self, seconds: float = 0.0) -> list[Reply]:
        """One forward pass over all rows; the replies of those that ended. Returns at once where
        nothing is to be done.
        """
        if self._queue or self._rows.running:
            if self.model.training:
                self.model.eval()
            fits = False
            with (
                torch.inference_mode(),
                gpu.current(self.model.device),
                suppress(torch.OutOfMemoryError),
            ):
                self._admit()
                if not self._overlaps:
                    self._close()
                drawn = self._draw()
                if self._overlaps:  # what the last pass ended, now that the host has waited for it
                    self._close()
                    self._admit()
                try:
                    self._forward()
                finally:
                    self._record(drawn)
                if not self._overlaps:
                    self._close()
                fits = True
            if not fits:  # out here, as an error holds on to its pass, and so to the pool
                self._shrink()
        replies = self._ready
        self._ready = []
        return replies

    def cancel(self, request: Request) -> None:
        """Give a request up: `Cancelled` with what was spent, at the next poll. Nothing happens
        if it is not here any more.
        """
        row = self._rows.running.get(request)
        if row is not None:
            self._leave(row, error=Cancelled("cancelled"))
        elif request in self._queue:
            del self._queue[request]
            self._ready.append(Reply(request, error=Cancelled("cancelled before it began")))

    def progress(self, request: Request) -> int:
        """Tokens that a running request has generated so far; 0 for one that is not running."""
        row = self._rows.running.get(request)
        return 0 if row is None else len(row.tokens)

    def clear(self) -> None:
        """Forget all keys and values: the weights have changed. Raises RuntimeError while rows
        run, and when closed.
        """
        if self._closed:
            raise RuntimeError(f"engine {self.name!r} is closed: make a new one")
        if self._rows.running:
            raise RuntimeError(
                f"{len(self._rows.running)} rows still run: clear the engine when all replies "
                "are there"
            )
        self._store.tree.clear()
        self._pass.refresh()

    def close(self) -> None:
        """Drop what is queued or running and free the pool. Idempotent."""
        self._closed = True
        self._rows = Rows(self.slots)
        self._storage = None
        self._queue.clear()
        self._ready.clear()
        self._pass.renew(None)

    @property
    def _store(self) -> Store:
        assert self._storage is not None, "the engine is closed"
        return self._storage

    @property
    def held(self) -> int:
        """Cells of the pool that running rows hold or may still take."""
        return self._store.tree.held + self._reserved

    def check(self) -> None:
        """Raise AssertionError if a row or a cell of the pool is lost, owned twice or counted
        wrongly. It looks at all cells: for tests.
        """
        rows = self._rows
        running = [row.slot for row in rows.running.values()]
        assert sorted([*rows.free, *running]) == list(range(self.slots)), (
            "a row is lost or stands in two slots"
        )
        assert self._reserved == rows.reserve[running].sum(), (
            "what rows may still take is counted wrongly"
        )
        self._store.tree.check([self._store.table[slot, : rows.length[slot]] for slot in running])

    def report(self) -> str:
        """What was done so far, in a line."""
        return f"{self.name}: {self.counts.summary(self.slots, self.kv_bytes_per_token)}"

    def _reset(self, slots: int) -> None:
        self.slots = slots
        self._storage = Store(
            self.model.config, slots, self.pool_tokens, self.model.device, self.model.dtype
        )
        self._rows = Rows(slots)
        self._reserved = 0  # cells of the pool that running rows may still take

    def _admit(self) -> None:
        """Give requests rows, in order, as long as the pool can promise that these come to their
        ends.
        """
        while self._queue and self._rows.free:
            request = next(iter(self._queue))
            tree = self._store.tree
            prompt = tokens_of(request)
            limit = 0
            if isinstance(request, Generate):
                limit = min(request.max_tokens, self.context - len(prompt))
            tokens = np.array(prompt, np.int64)
            root = root_of(request.scope) if self._pass.shares else self._next_root()
            present, fresh = tree.look(tokens, root)
            if tree.held + fresh + self._reserved + limit > tree.capacity:
                break
            del self._queue[request]
            slot = heapq.heappop(self._rows.free)
            row = Row(request, prompt, slot, self.counts.passes, self.counts.rows, limit)
            self._store.reserve(len(prompt) + limit)
            tree.join(tokens, present, self._store.table[slot, : len(prompt)], root)
            self._reserved += limit
            self._rows.join(row, self.texts)
        self._rows.close_prompts(self._store.table, self._store.tree.ready)

    def _next_root(self) -> int:
        """The root of a text that shares with no other."""
        self._alone -= 1
        if self._alone < -(1 << 30):
            self._alone = ROOT - 1
        return self._alone

    def _draw(self) -> list[np.ndarray] | None:
        """Draw the next token of every row whose text has been read, and see which rows end.

        Returns slots, tokens and their two log-probs, [rows], that `_record` is to write down where
        host and device overlap: it need not be done before the device can go on.
        """
        rows = np.flatnonzero(self._rows.stage == DRAW)
        if not len(rows):
            return None
        ends = send(self._store.table[rows, self._rows.length[rows] - 1], self._store.device)
        logits = self._pass.logits(self._store.hidden.index_select(0, ends), rows)
        if logits.device.type == "cpu" and not self._overlaps:
            logits = numbers(logits if logits.dtype == torch.bfloat16 else logits.float())
        drawn = self._pick(logits, rows)
        self._rows.last[rows] = drawn.tokens
        self._rows.count[rows] += 1
        self._rows.stage[rows] = STEP
        good = drawn.finite & drawn.left
        looks = self.texts.watched[self._rows.watch[rows], drawn.tokens]
        added = [rows, drawn.tokens, drawn.log_probs, drawn.sampled_log_probs]
        marks = [good, drawn.finite, looks]
        later = None
        if self._overlaps:
            ending = ~good | looks | (self._rows.reserve[rows] <= 1)
            later = [column[~ending] for column in added]
            added = [column[ending] for column in added]
            marks = [column[ending] for column in marks]
        for fine, finite, look, slot, *token in _transposed([*marks, *added]):
            row = self._rows[slot]
            if not fine:
                error = NothingLeft(ALL_GIVEN) if finite else RequestFailed(NOT_NUMBERS)
                self._leave(row, error=error)
                continue
            row.add(*token)
            if look and (finish := row.look()) is not None:
                row.finish = finish
            elif len(row.tokens) >= row.limit:
                row.finish = "length"
                self._leave(row, row.generated(float("nan")))
        return later

    def _record(self, drawn: list[np.ndarray] | None) -> None:
        """Write down what was drawn, in rows that do not end with it: what `_draw` returned."""
        for slot, *token in _transposed(drawn or []):
            self._rows[slot].add(*token)

    def _pick(self, logits: Any, rows: np.ndarray) -> Drawn:
        """Draw a token for each of the rows in slots `rows`. logits: as `sampling.draw` takes
        them, [rows, vocabulary].
        """
        parameters = self._rows.parameters(rows)
        thinned = self._rows.thinned(rows)
        if isinstance(logits, torch.Tensor) and gpu.has_kernels(logits.device):
            from models.engine.sampling_gpu import draw_on  # loads Triton

            return draw_on(logits, *parameters, thinned=thinned)
        return draw(logits, *parameters, thinned=thinned)

    def _forward(self) -> None:
        """Pass the drawn tokens and a chunk of the prompts, all in one row, and take in what comes
        out.

        A token that another text has read below the same prefix is not passed again, and one that
        several texts drew is passed once.
        """
        rows = self._rows
        store = self._store
        if not rows.running:
            return
        drawn = np.flatnonzero(rows.stage == STEP)
        ends = self._grow(drawn)
        fresh = np.flatnonzero(store.tree.ready[ends] == 0)
        if len(fresh) > 1:
            fresh = fresh[np.sort(np.unique(ends[fresh], return_index=True)[1])]
        steps = drawn[fresh]
        store.tree.ready[ends] = 1
        chunks = self._chunks()
        if len(steps) or chunks:
            self._run(steps, ends[fresh], chunks)
        self.counts.peak = max(self.counts.peak, store.tree.stored)
        self.counts.stored = store.tree.ever
        rows.stage[drawn] = DRAW
        for slot in drawn.tolist():
            if rows[slot].finish:
                rows.stage[slot] = DONE
        self._rows.close_prompts(self._store.table, self._store.tree.ready)

    def _grow(self, drawn: np.ndarray) -> np.ndarray:
        """Give the tokens that the rows `drawn` have drawn their cells: int64 [drawn]."""
        rows = self._rows
        table = self._store.table
        before = table[drawn, rows.length[drawn] - 1].astype(np.int64)
        ends = self._store.tree.step(before, rows.last[drawn])
        table[drawn, rows.length[drawn]] = ends
        rows.length[drawn] += 1
        rows.reserve[drawn] -= 1
        self._reserved -= len(drawn)
        return ends

    def _run(self, steps: np.ndarray, ends: np.ndarray, chunks: list[Chunk]) -> None:
        """Pass the last tokens of the rows `steps`, which stand in the cells `ends`, and chunks."""
        rows = self._rows
        store = self._store
        parts = [ends]
        for chunk in chunks:
            parts.append(store.table[chunk.row, chunk.past : chunk.past + len(chunk.tokens)])
        cells = np.concatenate(parts, dtype=np.int64)
        try:
            hidden = self._pass.forward(steps, rows.last[steps], rows.length[steps], chunks)
            store.hidden.index_copy_(0, send(cells, store.device), hidden)
        except BaseException:  # Ctrl-C, too: no row may count as read what was not
            store.tree.ready[cells] = 0
            raise
        rows.flops[steps] += self._pass.cost(rows.length[steps] - 1, rows.length[steps])
        self.counts.passes += 1
        self.counts.rows += len(rows.running)
        self.counts.read += len(cells)

    def _chunks(self) -> list[Chunk]:
        """What of the prompts is read in this pass."""
        rows = self._rows
        store = self._store
        chunks = []
        room = CHUNK
        for row in rows.to_read:
            cells = store.table[row.slot, : len(row.prompt)]
            unread = np.flatnonzero(store.tree.ready[cells] == 0)
            if not room or not len(unread):
                continue
            done = int(unread[0])
            tokens = row.prompt[done : done + room]
            store.tree.ready[cells[done : done + len(tokens)]] = 1
            chunks.append(Chunk(row.slot, tokens, done, isinstance(row.request, Score)))
            row.read += len(tokens)
            rows.flops[row.slot] += self._pass.cost(done, done + len(tokens))
            room -= len(tokens)
        return chunks

    def _close(self) -> None:
        """Reply to rows whose last token has been passed; the host waits for the pass."""
        slots = np.flatnonzero(self._rows.stage == DONE)
        if not len(slots):
            return
        done = [self._rows[slot] for slot in slots.tolist()]
        store = self._store
        ended = [row for row in done if isinstance(row.request, Generate)]
        if ended:
            slots = np.array([row.slot for row in ended])
            ends = send(store.table[slots, self._rows.length[slots] - 1], store.device)
            hidden = store.hidden.index_select(0, ends)
            finite = hidden.isfinite().all(-1).tolist()
            worth = values(self.head, hidden).tolist()
            for row, value, good in zip(ended, worth, finite, strict=True):
                self._leave(row, row.generated(value) if good else None)
        for row in done:
            if isinstance(row.request, Score):
                cells = store.table[row.slot, : len(row.prompt)].astype(np.int64)
                hidden = store.hidden[send(cells, store.device)]
                read = self._pass.reader(row.slot, hidden)
                self._leave(row, scoring.score(row.request, hidden, read, self.head))

    def _leave(
        self, row: Row, result: Generated | Scored | None = None, error: Exception | None = None
    ) -> None:
        """Free the slot and reply: with an error, a result, or that there were no finite numbers.
        What was read stays in the pool until its room is wanted.
        """
        if result is None and error is None:
            error = RequestFailed(NOT_NUMBERS)
        slot = row.slot
        passes = self.counts.passes - row.passes
        usage = row.usage(
            passes,
            self.counts.rows - row.row_passes,
            passes * self.slots,
            float(self._rows.flops[slot]),
        )
        cells = self._store.table[slot, : self._rows.length[slot]]
        self._store.tree.leave(cells)
        # else the next row of this slot would gather them, with numbers that may not be finite
        cells[:] = self._store.trash
        self._reserved -= int(self._rows.reserve[slot])
        self._rows.leave(row)
        self._ready.append(Reply(row.request, result, error, usage))

    def _shrink(self) -> None:
        """The device is out of memory: begin again with half the slots; every request draws what
        it would have drawn.
        """
        if self.slots == 1:
            sizes = (
                f"{self.model.get_memory_footprint()} bytes of weights, "
                f"{self._store.pool.nbytes} of pool"
            )
            raise MemoryError(
                f"{self.name} does not fit: {sizes}: give a smaller pool_tokens or context, or "
                "use another device"
            )
        logger.warning("out of memory at %d slots: going on with %d", self.slots, self.slots // 2)
        self._queue = OrderedDict.fromkeys([*self._rows.running, *self._queue])
        self._storage = None  # its memory is wanted for the next one
        self._pass.renew(None)
        torch.cuda.empty_cache()  # nothing without CUDA
        self._reset(self.slots // 2)
        self._pass.renew(self._store)


def _transposed(columns: list[np.ndarray]) -> Iterator[tuple[Any, ...]]:
    """The rows of a table of arrays, in plain Python's types."""
    return zip(*map(np.ndarray.tolist, columns), strict=True)
