"""The attention function of the engine: one packed row of tokens, each attending to the keys and
values of its own text.

transformers calls it through `AttentionInterface`; no modelling code is touched and no `Cache` is
needed: everything it must know arrives in one keyword, `plan`, that `model(...)` hands through.
Anything it does not implement is refused, never ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from models.engine import gpu, llama_kernels, tree_attention_cpu
from models.engine.kv_pool import Store, numbers

NAME = "copse"


class Unsupported(Exception):
    """This model's attention needs something that `attend` does not have."""


class Plan:
    """Where the tokens of one pass belong.

    rows    int64 [steps]: the rows that read one token each, the first tokens of the pass in this
            order
    ends    int64 [steps]: tokens of their texts, the new one included
    chunks  int64 [chunks, 4]: row, first token in the pass, tokens read before, new tokens
    write   int64 [tokens]: cells of the new tokens, padding included
    longest  text of any row in this pass
    calls   times a layer attended: 0 after a pass means that the model does not use `attend`
    """

    def __init__(
        self,
        store: Store,
        rows: np.ndarray,
        ends: np.ndarray,
        chunks: np.ndarray,
        write: np.ndarray,
    ):
        self.store = store
        self.rows = rows
        self.ends = ends
        self.chunks = chunks
        self.write = write
        self.calls = 0
        self.longest = int(max(ends.max(initial=0), (chunks[:, 2] + chunks[:, 3]).max(initial=0)))
        self.queries = len(rows) + int(chunks[:, 3].sum())
        self.kernel: _Kernel | None = None
        self.gpu: Any = None
        if gpu.has_kernels(store.device) and store.dtype.itemsize <= 4:
            from models.engine.tree_attention_gpu import TreeAttention  # loads Triton

            self.gpu = TreeAttention.of(store, rows, ends, chunks, write)
        elif store.device.type == "cpu" and store.dtype in (torch.float32, torch.bfloat16):
            self.kernel = _Kernel(self)
        self._gathered: _Gathered | None = None

    @classmethod
    def fixed(cls, store: Store, attention: Any) -> Plan:
        """A pass whose numbers stand on a GPU: a `TreeAttention`."""
        plan = cls.__new__(cls)
        plan.store = store
        plan.kernel = None
        plan.gpu = attention
        plan.calls = 0
        return plan

    @property
    def gathered(self) -> _Gathered:
        """What the path without kernels needs, made at the first layer: float types but float32
        on a CPU, devices without Triton.
        """
        if self._gathered is None:
            store = self.store
            length = min(-(-int(self.ends.max(initial=0)) // 16) * 16, store.table.shape[1])
            chunks = []
            for row, start, past, new in self.chunks.tolist():
                cells = _sent(store.table[row, : past + new].astype(np.int64), store.device)
                chunks.append(_Chunk(cells, start, start + new, past))
            self._gathered = _Gathered(
                steps=len(self.rows),
                cells=_sent(store.table[self.rows, :length].astype(np.int64), store.device),
                at=_sent(self.ends - 1, store.device)[:, None],
                positions=torch.arange(length, device=store.device),
                write=_sent(self.write, store.device),
                chunks=chunks,
            )
        return self._gathered


class _Kernel:
    """A pass for the kernel of `tree_attention_cpu.attention`: on a CPU, with keys and values in
    float32 or bfloat16.

    result  [tokens, heads * dim] of the pool's type: what `attend` writes, 0 for tokens that are no
            query
    """

    def __init__(self, plan: Plan):
        store = plan.store
        spans = np.empty((plan.queries, 4), np.int32)
        parts = np.empty((2 * plan.queries + 1, 4), np.int32)
        self.sizes = np.array([store.heads, store.kv_heads, store.dim, store.padded])
        order = np.empty(len(plan.rows), np.int64)
        group = store.heads // store.kv_heads
        spanned, shared = llama_kernels.plan(
            store.table, plan.rows, plan.ends, plan.chunks, group, order, spans, parts
        )
        assert spanned == plan.queries
        self.spans = spans
        self.parts = parts[:shared]
        self.table = store.table
        self._cells = plan.write
        work, offsets = tree_attention_cpu.scratch(plan.queries, store.heads, store.padded)
        self.work = np.empty(work, np.float32)
        self.offsets = np.empty(offsets, np.int64)
        self.result = torch.zeros(len(plan.write), store.heads * store.dim, dtype=store.dtype)
        self.pool = numbers(store.pool.view(-1))
        self._out = numbers(self.result)
        self.step = store.pool.stride(1)
        self.longest = plan.longest
        half = store.dtype == torch.bfloat16
        self._write = llama_kernels.loops(half).write
        self._attend = tree_attention_cpu.attention(store.padded, half)

    def write(self, layer: int, keys: np.ndarray, values: np.ndarray) -> None:
        """Put the new tokens' keys and values, [tokens, kv_heads * dim], into the pool."""
        self._write(keys, values, self._cells, self.pool, self.sizes, layer, self.step)

    def attend(self, layer: int, query: np.ndarray, scale: float, cap: float, window: int) -> None:
        """Fill `result`. query: float32 [tokens, >= heads * dim], rotated."""
        if window >= self.longest:
            window = 0
        keys = 2 * layer * self.step
        self._attend(
            query, self.pool, self.table, self.spans, self.parts, self.sizes, keys,
            keys + self.step, scale, cap, window,
            self.work, self.offsets, self._out,
        )  # fmt: skip


@dataclass(slots=True)
class _Chunk:
    cells: torch.Tensor  # int64 [past + new], of its text
    start: int
    stop: int
    past: int


@dataclass(slots=True)
class _Gathered:
    """A pass for plain torch: the cells of each row's text as indices. Keys and values are
    gathered anew in every layer.
    """

    steps: int
    cells: torch.Tensor  # int64 [steps, longest]: of the texts of rows that read one token
    at: torch.Tensor  # int64 [steps, 1]: positions of those tokens
    positions: torch.Tensor  # int64 [longest]: 0, 1, ...
    write: torch.Tensor  # int64 [tokens]
    chunks: list[_Chunk]


def _sent(array: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(array).to(device)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    plan: Plan | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one packed row. query: [1, heads, tokens, dim]; key, value: [1, kv_heads,
    tokens, dim], of the new tokens.

    Returns ([1, tokens, heads, dim], None). Raises Unsupported for a mask, sinks, or keys and
    values of unequal size.
    """
    if plan is None:
        raise Unsupported(
            "the attention function got no plan: this model does not hand keyword arguments through"
        )
    if attention_mask is not None or kwargs.get("s_aux") is not None or key.shape != value.shape:
        raise Unsupported("attention with a mask of its own, sinks or unequal key and value sizes")
    store = plan.store
    layer = module.layer_idx
    if not sliding_window and _sees_less(getattr(module, "config", None), layer):
        raise Unsupported(f"layer {layer} sees a part of the text and does not say which")
    if (query.shape[1], key.shape[1], key.shape[3]) != (store.heads, store.kv_heads, store.dim):
        raise Unsupported(f"layer {layer} has other heads than its config says")
    plan.calls += 1
    scale = store.dim**-0.5 if scaling is None else scaling
    cap = softcap or 0.0
    window = sliding_window or 0
    tokens = query.shape[2]
    if plan.kernel is not None:
        kernel = plan.kernel
        kernel.write(layer, numbers(_flat(key)), numbers(_flat(value)))
        kernel.attend(layer, _flat(query).float().numpy(), scale, cap, window)
        return kernel.result.view(1, tokens, store.heads, store.dim), None
    if plan.gpu is not None:
        plan.gpu.put(layer, key[0].transpose(0, 1), value[0].transpose(0, 1))
        flat = query[0].transpose(0, 1).reshape(tokens, -1)
        out = plan.gpu.attend(layer, flat, scale, cap, window)
        return out.view(1, tokens, store.heads, store.dim), None
    return _plain(plan.gathered, store.pool[layer], query, key, value, scale, cap, window), None


def _sees_less(config: Any, layer: int) -> bool:
    """Whether the config says that a layer does not see the whole text: it may be longer than
    those that `forward.choose` tries.
    """
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return bool(kinds[layer] != "full_attention")
    return bool(getattr(config, "sliding_window", None))


def _flat(heads: torch.Tensor) -> torch.Tensor:
    """[1, heads, tokens, dim] as [tokens, heads * dim]."""
    return heads.transpose(1, 2).reshape(heads.shape[2], -1).contiguous()


def _plain(
    plan: _Gathered,
    pool: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    cap: float,
    window: int,
) -> torch.Tensor:
    """The same in torch, on any device. pool: [2, cells, kv_heads, padded]."""
    # pairs: [kv_heads, heads of each, tokens, dim]
    dim = query.shape[3]
    pairs = query[0].unflatten(0, (key.shape[1], -1))
    pool[0, :, :, :dim].index_copy_(0, plan.write, key[0].transpose(0, 1))
    pool[1, :, :, :dim].index_copy_(0, plan.write, value[0].transpose(0, 1))
    out = query.new_zeros(query.shape[2], query.shape[1], dim)
    if plan.steps:
        seen = plan.positions <= plan.at
        if window:
            seen &= plan.positions > plan.at - window
        keys, values = (side[:, :, :dim][plan.cells].transpose(1, 2) for side in pool)
        asked = pairs[:, :, : plan.steps].permute(2, 0, 1, 3)
        found = _attention(asked, keys, values, seen[:, None, None], scale, cap)
        out[: plan.steps] = found.flatten(1, 2)
    for chunk in plan.chunks:
        keys, values = (side[:, :, :dim][chunk.cells].transpose(0, 1)[None] for side in pool)
        length = chunk.past + chunk.stop - chunk.start
        at = torch.arange(chunk.past, length, device=out.device)[:, None]
        positions = torch.arange(length, device=out.device)
        seen = positions <= at
        if window:
            seen &= positions > at - window
        # a number that is not finite would reach tokens before it: 0 times nan is nan
        bad = ~(keys.isfinite() & values.isfinite()).all(-1).all(1)[0]
        keys = keys.masked_fill(bad[:, None], 0)
        values = values.masked_fill(bad[:, None], 0)
        asked = pairs[:, :, chunk.start : chunk.stop].flatten(1, 2)[None]
        found = _attention(asked, keys, values, seen.repeat(pairs.shape[1], 1), scale, cap)[0]
        found = found.unflatten(1, (pairs.shape[1], -1)).flatten(0, 1).transpose(0, 1)
        hit = (seen & bad).any(-1)[:, None, None]
        out[chunk.start : chunk.stop] = found.masked_fill(hit, torch.nan)
    return out[None]


def _attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    seen: torch.Tensor,
    scale: float,
    cap: float,
) -> torch.Tensor:
    """[rows, kv_heads, queries, dim] of queries and what they see: bool, True where allowed.

    The queries are those of all heads that share keys, side by side, so keys and values are never
    repeated, and torch's fused kernels, which know no groups, serve.
    """
    if not cap:
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=seen, scale=scale)
    scores = cap * torch.tanh(query @ keys.transpose(2, 3) * scale / cap)
    weights = torch.softmax(scores.masked_fill(~seen, -torch.inf), -1, dtype=torch.float32)
    return weights.to(values.dtype) @ values


def register() -> None:
    """Register `attend` with transformers under `NAME`; not at import, as
    `models.engine.llama_cpu` serves without transformers.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
