"""One forward pass over the rows of all searches, in two kinds with one interface.

`Packed` reads every token once: one packed row `[1, tokens]`, keys and values kept in a `Store`. `Plain` reads each row's whole
text anew in every pass: slow but right for any causal model. `choose` tries the first against the model itself and says why when
it takes the second.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from models import attention
from models.attention import Plan, Read, Unsupported
from models.kvstore import Store, bucket
from search.requests import Score, Scored

logger = logging.getLogger(__name__)


class Chunk(NamedTuple):
    """New tokens of one row to be read: `tokens` follow `past` tokens read before."""

    row: int
    tokens: tuple[int, ...]
    past: int


class Work:
    """Operations of passing tokens `start` to `stop` of a text: 2 x parameters for each, and 4 x layers x width for each token that it
    attends to (scores and sums, causal; Kaplan et al. 2020, table 1)."""

    def __init__(self, model: Any, store: Store):
        self._token = 2.0 * model.num_parameters()
        self._pair = 4.0 * store.layers * model.config.get_text_config().num_attention_heads * store.dim

    def __call__(self, start: int, stop: int) -> float:
        return self._token * (stop - start) + self._pair * (stop * (stop + 1) - start * (start + 1)) / 2


class Packed:
    """Passes over one packed row; the first tokens of it are one for each row of the bucket, then the chunks follow."""

    shares = True

    def __init__(self, model: Any, store: Store, limit: int):
        self.model, self.store, self.limit = model, store, limit
        self._backbone, self._head = model.base_model, model.get_output_embeddings()
        if self._head is None or self._backbone is model:
            raise Unsupported("no separate backbone and output embeddings")
        self._hidden = torch.empty(0)
        self._work = Work(model, store)

    def forward(self, last: np.ndarray, length: np.ndarray, active: np.ndarray, chunks: list[Chunk]) -> torch.Tensor:
        """Read one token in each active row and all chunks. last, length: int64 [rows]; active: bool [rows], rows a bucket or 0.

        Returns [rows + chunk tokens, hidden], after the final norm; what stands in an idle row means nothing.
        """
        store, rows = self.store, len(last)
        longest = max(int(length.max()) + 1 if rows else 0, max((c.past + len(c.tokens) for c in chunks), default=0))
        store.reserve(longest)
        ids, positions, owners = [np.where(active, last, 0)], [np.where(active, length, 0)], []
        owners.append(np.where(active, np.arange(rows), store.trash))
        reads, start = [], rows
        for chunk in chunks:
            stop, end = start + len(chunk.tokens), chunk.past + len(chunk.tokens)
            ids.append(np.array(chunk.tokens, np.int64))
            positions.append(np.arange(chunk.past, end))
            owners.append(np.full(stop - start, chunk.row))
            mask = None
            if chunk.past and stop - start > 1:
                mask = torch.ones(stop - start, end, dtype=torch.bool, device=store.device).tril(chunk.past)
            reads.append(Read(start, stop, chunk.row, chunk.past, mask))
            start = stop
        context, mask = 0, None
        if rows:
            context = min(-(-(int(positions[0].max()) + 1) // 16) * 16, store.capacity)
            hidden = np.where(np.arange(context) <= positions[0][:, None], 0, -np.inf).astype(np.float32)
            hidden = np.repeat(hidden, store.kv_heads, 0)[:, None]
            mask = torch.from_numpy(hidden).to(store.device, store.dtype)
        where = np.concatenate(positions)
        write = store.write_index(np.concatenate(owners), where)
        plan = Plan(store.rows[0], store.rows[1], write, rows, context, mask, self.limit, reads)
        with attention_of(self._backbone):
            out = self._backbone(
                input_ids=torch.from_numpy(np.concatenate(ids))[None].to(store.device),
                position_ids=torch.from_numpy(where)[None].to(store.device),
                use_cache=False,
                plan=plan,
            )
        if plan.calls != store.layers:
            raise Unsupported(f"{plan.calls} of {store.layers} layers use the attention interface")
        self._hidden = out.last_hidden_state[0]
        return self._hidden

    def next_logits(self, rows: np.ndarray) -> np.ndarray:
        """float32 [rows, vocabulary]: logits of the token after each row's text, from `store.hidden`."""
        size = bucket(int(rows[-1]) + 1)  # always a bucket of rows: the shape of a product changes its last bits
        logits = self._head(self.store.hidden[:size]).float().cpu().numpy()
        return logits if len(rows) == size else logits[rows]

    def read_logits(self, start: int, stop: int) -> torch.Tensor:
        """float32 [stop - start, vocabulary]: logits after tokens of the last pass, `forward`'s numbering."""
        return self._head(self._hidden[start:stop]).float()

    def move(self, source: int, target: int) -> None:
        self.store.move(source, target)

    def flops(self, row: int, start: int, stop: int) -> float:
        """Operations spent on the text of a row that leaves, read from token `start` to `stop`."""
        return self._work(start, stop)


class Plain:
    """The same interface by `model(input_ids)` on each row's whole text; nothing is stored between passes but the texts."""

    shares = False

    def __init__(self, model: Any, store: Store):
        self.model, self.store = model, store
        self._texts: dict[int, list[int]] = {}
        self._logits: dict[int, torch.Tensor] = {}
        self._read: list[tuple[int, torch.Tensor]] = []
        self._work = Work(model, store)
        self._flops: dict[int, float] = defaultdict(float)  # of the text that stands in each row

    def forward(self, last: np.ndarray, length: np.ndarray, active: np.ndarray, chunks: list[Chunk]) -> torch.Tensor:
        """As `Packed.forward`."""
        out = [self.store.hidden.new_zeros(len(last), self.store.hidden.shape[1])]
        self._read, start = [], len(last)
        for row in np.flatnonzero(active).tolist():
            self._texts[row].append(int(last[row]))
            out[0][row] = self._run(row)[0][-1]
        for chunk in chunks:
            self._texts[chunk.row] = [*self._texts.get(chunk.row, ())[: chunk.past], *chunk.tokens]
            hidden, logits = self._run(chunk.row)
            out.append(hidden[chunk.past :])
            self._read.append((start, logits[chunk.past :]))
            start += len(chunk.tokens)
        return torch.cat(out)

    def _run(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.tensor([self._texts[row]], device=self.store.device)
        out = self.model(input_ids=ids, use_cache=False, output_hidden_states=True)
        self._flops[row] += self._work(0, ids.shape[1])
        self._logits[row] = out.logits[0, -1].float()
        return out.hidden_states[-1][0], out.logits[0].float()

    def next_logits(self, rows: np.ndarray) -> np.ndarray:
        return torch.stack([self._logits[int(row)] for row in rows]).cpu().numpy()

    def read_logits(self, start: int, stop: int) -> torch.Tensor:
        first, logits = max((r for r in self._read if r[0] <= start), key=lambda r: r[0])
        return logits[start - first : stop - first]

    def move(self, source: int, target: int) -> None:
        self.store.hidden[target] = self.store.hidden[source]
        self._texts[target] = self._texts.pop(source)
        self._flops[target] = self._flops.pop(source, 0.0)
        if source in self._logits:
            self._logits[target] = self._logits.pop(source)

    def flops(self, row: int, start: int, stop: int) -> float:
        """As `Packed.flops`, what was read again in every pass included."""
        return self._flops.pop(row, 0.0)


def score(passes: Packed | Plain, request: Score, scored: Scored, chunk: Chunk, start: int) -> list[int]:
    """Fill in log-probs after the tokens of a chunk just read, `start` its first in the pass; returns which positions lie in it."""
    done, stop, read = chunk.past, chunk.past + len(chunk.tokens), list(request.read)
    for a in range(done, stop, 256):
        b = min(stop, a + 256)
        table = torch.log_softmax(passes.read_logits(start + a - done, start + b - done), -1)
        following = torch.tensor(request.tokens[a + 1 : b + 1], dtype=torch.int64, device=table.device)
        found = table[: len(following)].gather(1, following[:, None])[:, 0]
        scored.log_probs[a + 1 : a + 1 + len(following)] = found.cpu().numpy()
        for i, position in enumerate(request.positions):
            if a <= position < b:
                scored.reads[i] = table[position - a, read].cpu().numpy()
    return [i for i, p in enumerate(request.positions) if done <= p < stop]


@contextmanager
def attention_of(backbone: Any) -> Iterator[None]:
    """Let the model use the engine's attention function inside the block, its own outside."""
    config = backbone.config
    own = config._attn_implementation
    config._attn_implementation = attention.NAME
    try:
        yield
    finally:
        config._attn_implementation = own


@torch.inference_mode()
def choose(model: Any, store: Store, limit: int) -> Packed | Plain:
    """`Packed` if a few tokens read that way get the model's own logits, else `Plain` with a warning that says why."""
    vocabulary = model.config.get_text_config().vocab_size
    ids = tuple(int(i) % vocabulary for i in (11, 7, 5, 3, 2, 13, 17))[: max(3, min(limit, 7))]
    none = np.empty(0, np.int64)
    try:
        passes = Packed(model, store, limit)
        first = passes.forward(none, none, none.astype(bool), [Chunk(1, ids[:2], 0)])
        second = passes.forward(none, none, none.astype(bool), [Chunk(1, ids[2:-1], 2)]) if len(ids) > 3 else first[:0]
        active = np.arange(bucket(2)) == 1
        third = passes.forward(np.where(active, ids[-1], 0), np.where(active, len(ids) - 1, 0), active, [])
        hidden = torch.cat([first, second, third[1:2]])
        ours = passes._head(hidden).float()
        theirs = model(input_ids=torch.tensor([ids], device=store.device), use_cache=False).logits[0].float()
        worst, size = float((ours - theirs).abs().max()), float(theirs.abs().max())
        allowed = (1e-4 if store.dtype == torch.float32 else 0.05) * (1 + size)
        store.rows.zero_()
        if worst <= allowed:
            return passes
        reason = f"its logits would differ by {worst:.2g}"
    except (Unsupported, RuntimeError, TypeError, AttributeError, KeyError, IndexError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = str(error) or type(error).__name__
    logger.warning("%s is read anew in every pass, which is slow: %s", type(model).__name__, reason)
    return Plain(model, store)
