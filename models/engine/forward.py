"""One forward pass over the rows of all searches: two classes with one interface.

`Packed` reads every token once: one packed row `[1, tokens]`, keys and values kept in a `Store`;
through the model's own modules, or through `models.engine.llama_cpu`. `Plain` reads each row's
whole text anew in every pass: slow but right for any causal model. `choose` tries the first against
the model itself (`models.engine.forward_check`) and says why when it takes the second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from models.checkpoints.llama_weights import Llama
from models.engine import attention, forward_check, gpu
from models.engine.attention import Plan, Unsupported
from models.engine.kv_pool import Store
from models.engine.llama_cpu import Lean

logger = logging.getLogger(f"copse.{__name__}")


class Chunk(NamedTuple):
    """New tokens of one row to be read: `tokens` follow `past` tokens read before. whole: the
    logits of all tokens will be wanted.
    """

    row: int
    tokens: tuple[int, ...]
    past: int
    whole: bool = False


class Work:
    """Operations of passing tokens `start` to `stop` of a text: 2 x parameters for each, and 4 x
    layers x width for each token that it attends to (scores and sums, causal; Kaplan et al. 2020,
    table 1).
    """

    def __init__(self, model: Any, store: Store):
        self._token = 2.0 * model.num_parameters()
        self._pair = 4.0 * store.layers * store.heads * store.dim

    def __call__(self, start: int, stop: int) -> float:
        return (
            self._token * (stop - start)
            + self._pair * (stop * (stop + 1) - start * (start + 1)) / 2
        )


class Modules:
    """The model's own modules over one packed row, with the engine's attention function."""

    name = "modules"

    def __init__(self, model: Any, store: Store):
        self._backbone = model.base_model
        self._head = model.get_output_embeddings()
        self._cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        if self._head is None or self._backbone is model:
            raise Unsupported("no separate backbone and output embeddings")
        attention.register()

    @staticmethod
    def size(tokens: int) -> int:
        """Tokens that a pass is padded to: 16, 32, 64, ..., as the number of rows changes the
        last bits of a product.
        """
        return max(16, 1 << (tokens - 1).bit_length())

    def refresh(self) -> None:
        """The weights are the model's: nothing is to be done."""

    def __call__(
        self, ids: torch.Tensor, positions: np.ndarray | torch.Tensor, plan: Plan
    ) -> torch.Tensor:
        """The hidden states after the final norm, [tokens, hidden]. ids, positions: int64
        [tokens].
        """
        where = torch.as_tensor(positions, device=ids.device)[None]
        with attention_of(self._backbone):
            out = self._backbone(
                input_ids=ids[None], position_ids=where, use_cache=False, plan=plan
            )
        return out.last_hidden_state[0]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, vocabulary] of [rows, hidden]."""
        logits: torch.Tensor = self._head(hidden)
        if self._cap:
            logits = self._cap * torch.tanh(logits / self._cap)
        return logits


class Packed:
    """Passes over one packed row: a token of each row that steps, then the chunks."""

    shares = True

    def __init__(self, model: Any, store: Store, forward: Modules | Lean):
        self.inner = forward
        self.path = forward.name
        self._work = Work(model, store)
        self.renew(store)

    def renew(self, store: Store | None) -> None:
        """Go on with another store; with none, let go of all that belongs to this one."""
        self.store: Any = store
        self._graphs: Any = None
        if store is not None and gpu.has_kernels(store.device) and store.dtype.itemsize <= 4:
            from models.engine.cuda_graphs import Graphs  # loads Triton

            self._graphs = Graphs(self.inner, store, record=store.device.type == "cuda")

    def refresh(self) -> None:
        """The model's weights have changed."""
        self.inner.refresh()
        self.renew(self.store)

    def forward(
        self, rows: np.ndarray, last: np.ndarray, ends: np.ndarray, chunks: list[Chunk]
    ) -> torch.Tensor:
        """Read token `last` in each of `rows`, and all chunks; their cells stand in the table.
        rows, last, ends: int64 [rows], as in `Plan`.

        Returns [tokens, hidden], after the final norm; the tokens of the chunks follow those of the
        rows.
        """
        store = self.store
        # prompts' last tokens: steps, too
        if self._graphs is not None and chunks and all(len(chunk.tokens) == 1 for chunk in chunks):
            rows = np.concatenate([rows, [chunk.row for chunk in chunks]])
            last = np.concatenate([last, [chunk.tokens[0] for chunk in chunks]])
            ends = np.concatenate([ends, [chunk.past + 1 for chunk in chunks]])
            chunks = []
        steps = len(rows)
        if self._graphs is not None and steps and not chunks:
            return self._graphs(rows, last, ends)
        counts = [len(chunk.tokens) for chunk in chunks]
        total = steps + sum(counts)
        size = self.inner.size(total)
        ids = np.zeros(size, np.int64)
        positions = np.zeros(size, np.int64)
        write = np.full(size, store.trash, np.int64)
        ids[:steps] = last
        positions[:steps] = ends - 1
        write[:steps] = store.table[rows, ends - 1]
        spans = np.empty((len(chunks), 4), np.int64)
        at = steps
        for i, (chunk, count) in enumerate(zip(chunks, counts, strict=True)):
            ids[at : at + count] = chunk.tokens
            positions[at : at + count] = np.arange(chunk.past, chunk.past + count)
            write[at : at + count] = store.table[chunk.row, chunk.past : chunk.past + count]
            spans[i] = chunk.row, at, chunk.past, count
            at += count
        plan = Plan(store, rows, ends, spans, write)
        hidden = self.inner(torch.from_numpy(ids).to(store.device), positions, plan)
        if plan.calls != store.layers:
            raise Unsupported(f"{plan.calls} of {store.layers} layers use the attention interface")
        return hidden[:total]

    def logits(self, states: torch.Tensor, rows: np.ndarray | None = None) -> torch.Tensor:
        """[n, vocabulary] of hidden states [n, hidden]. rows: int64 [n], the running rows whose
        last ones they are.
        """
        size = self.inner.size(len(states))
        return self.inner.logits(F.pad(states, (0, 0, 0, size - len(states))))[: len(states)]

    def reader(self, row: int, hidden: torch.Tensor) -> Callable[[Any], torch.Tensor]:
        """From indices into a row's text to the logits there, [indices, vocabulary]; hidden: its
        hidden states.
        """
        return lambda at: self.logits(hidden[at])

    def cost(self, start: Any, stop: Any) -> Any:
        """Operations spent on reading tokens `start` to `stop` of a text."""
        return self._work(start, stop)


class Plain:
    """The same interface by `model(input_ids)` on each row's whole text; what is reused is the
    hidden states alone.
    """

    shares = False
    path = "plain"

    def __init__(self, model: Any, store: Store):
        self.model = model
        self.store: Any = store
        self._logits: dict[int, torch.Tensor] = {}
        self._work = Work(model, store)

    def refresh(self) -> None:
        """The weights are the model's: nothing is to be done."""

    def renew(self, store: Store | None) -> None:
        """As `Packed.renew`."""
        self.store = store
        self._logits = {}

    def forward(
        self, rows: np.ndarray, last: np.ndarray, ends: np.ndarray, chunks: list[Chunk]
    ) -> torch.Tensor:
        """As `Packed.forward`."""
        out = [self.store.hidden[:0]]
        for row, end in zip(rows.tolist(), ends.tolist(), strict=True):
            out.append(self._run(row, end, end - 1))
        for chunk in chunks:
            stop = chunk.past + len(chunk.tokens)
            out.append(self._run(chunk.row, stop, chunk.past, chunk.whole))
        return torch.cat(out)

    def _run(self, row: int, stop: int, start: int, whole: bool = False) -> torch.Tensor:
        ids = self.store.tree.tokens[self.store.table[row, :stop]].astype(np.int64)
        out = self.model(
            input_ids=torch.from_numpy(ids)[None].to(self.store.device),
            use_cache=False,
            output_hidden_states=True,
        )
        self._logits[row] = out.logits[0] if whole else out.logits[0, -1:].clone()
        return out.hidden_states[-1][0, start:]

    def logits(self, states: torch.Tensor, rows: np.ndarray | None = None) -> torch.Tensor:
        """As `Packed.logits`, of running rows only."""
        assert rows is not None
        return torch.cat([self._logits[row][-1:] for row in rows.tolist()])

    def reader(self, row: int, hidden: torch.Tensor) -> Callable[[Any], torch.Tensor]:
        """As `Packed.reader`, of a row whose chunks were `whole`, once: many logits are not
        kept.
        """
        logits = self._logits.pop(row)
        return lambda at: logits[at]

    def cost(self, start: Any, stop: Any) -> Any:
        """As `Packed.cost`: the whole text is read anew."""
        return self._work(0, stop)


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
def choose(model: Any, store: Store, limit: int, texts: list[list[int]]) -> Packed | Plain:
    """The first of `kinds` that gets the model's own logits for some texts, else `Plain` with a
    warning that says why.

    limit  tokens of the longest text;  texts: some ordinary ones, as tokens (`forward_check.texts`)

    A `Llama` has no forward but `Lean`, which the tests hold against transformers.
    """
    if isinstance(model, Llama):
        return Packed(model, store, Lean(model, store))
    tried = forward_check.Trial(model, texts, min(limit, forward_check.LENGTH))
    reason = ""
    own = Store(model.config, tried.rows, tried.tokens, store.device, store.dtype)
    for kind in kinds(store):
        try:
            _check_positions(model.config.get_text_config(), limit)
            forward = kind(model, store)
            fault = tried.fault(_read(Packed(model, own, forward), tried.texts))
            if fault is None:
                return Packed(model, store, forward)
            reason = fault
        except (
            Unsupported,
            RuntimeError,
            TypeError,
            AttributeError,
            KeyError,
            IndexError,
            ValueError,
        ) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            reason = str(error) or type(error).__name__
    logger.warning("%s is read anew in every pass, which is slow: %s", type(model).__name__, reason)
    return Plain(model, store)


def kinds(store: Store) -> tuple[Any, ...]:
    """The forwards that are tried for a model of this store, in order."""
    if not gpu.has_kernels(store.device):
        return (Lean, Modules)
    from models.engine.llama_gpu import LlamaGPU  # loads Triton

    return (LlamaGPU, Modules)


def _check_positions(config: Any, limit: int) -> None:
    """Raises Unsupported where a position means something else in a longer text, and so keys of
    a shorter one cannot be used again.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope] if "rope_type" in rope else list(rope.values())  # one for each kind of layer
    trained = getattr(config, "original_max_position_embeddings", None) or 0
    for kind in kinds:
        if not isinstance(kind, dict):
            continue
        own = kind.get("original_max_position_embeddings") or trained
        if kind.get("rope_type") == "longrope" and limit > own:
            raise Unsupported(
                f"its positions change in texts of more than {own} tokens: give context={own} "
                "where that is enough"
            )


def _read(passes: Packed, texts: np.ndarray) -> torch.Tensor:
    """Logits [texts, tokens, vocabulary] of texts that are read as two chunks each and a step,
    beside a row that shares the first text.

    texts: int64 [texts, tokens]. The last row's step takes the place of the first row's.
    """
    store = passes.store
    count, length = texts.shape
    cut = (length - 1) // 2
    none = np.empty(0, np.int64)
    store.table[:count, :length] = np.arange(count * length).reshape(count, length)
    store.table[count, :length] = [*range(length - 1), count * length]
    read: list[list[torch.Tensor]] = [[] for _ in texts]
    for start, stop in ((0, cut), (cut, length - 1)):
        chunks = []
        for row, text in enumerate(texts):
            chunks.append(Chunk(row, tuple(text[start:stop].tolist()), start))
        hidden = passes.forward(none, none, none, chunks).clone()
        for row, part in enumerate(hidden.split(stop - start)):
            read[row].append(part)
    rows = np.arange(count + 1)[::-1].copy()
    last = texts[rows % count, -1]
    hidden = passes.forward(rows, last, np.full(count + 1, length), [])
    for row, state in zip(rows[:-1].tolist(), hidden, strict=False):
        read[row % count].append(state[None])
    return torch.stack([passes.logits(torch.cat(parts)) for parts in read])
