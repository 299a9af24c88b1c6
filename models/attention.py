"""The attention function of the engine: one packed row of tokens, each attending to the keys and values of its own text.

transformers calls it through `AttentionInterface`; no modelling code is touched and no `Cache` is needed: everything it must know
arrives in one keyword, `plan`, that `model(...)` hands through. Anything it does not implement is refused, never ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

NAME = "copse"


class Unsupported(Exception):
    """This model's attention needs something that `attend` does not have."""


@dataclass(slots=True)
class Read:
    """Consecutive new tokens `start:stop` of the packed row that belong to `row` and follow `past` tokens read before."""

    start: int
    stop: int
    row: int
    past: int
    mask: torch.Tensor | None = None


@dataclass(slots=True)
class Plan:
    """Where the tokens of one pass belong. The first `decode` tokens are one each of rows 0 .. decode - 1; the rest are `reads`.

    keys, values  [layers, rows, kv_heads, capacity, dim]: of the running rows, written and read by the pass
    write         int64 [kv_heads * tokens]: where the new keys go, an index into [rows * kv_heads * capacity]
    mask          [decode * kv_heads, 1, context]: 0 where a decode row may look, -inf where not
    limit         longest text that a row may have; a sliding window at least that long changes nothing
    calls         times `attend` was called: 0 after a pass means that the model does not use it
    """

    keys: torch.Tensor
    values: torch.Tensor
    write: torch.Tensor
    decode: int
    context: int
    mask: torch.Tensor | None
    limit: int
    reads: list[Read] = field(default_factory=list)
    calls: int = 0


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
    """Attention of one packed row. query: [1, heads, tokens, dim]; key, value: [1, kv_heads, tokens, dim], of the new tokens.

    Returns ([1, tokens, heads, dim], None). Raises Unsupported for a mask, a sliding window below `plan.limit`, soft cap or sinks.
    """
    if plan is None:
        raise Unsupported("the attention function got no plan: this model does not hand keyword arguments through")
    if attention_mask is not None or softcap or kwargs.get("s_aux") is not None or key.shape != value.shape:
        raise Unsupported("attention with a mask of its own, soft cap, sinks or unequal key and value sizes")
    if sliding_window and sliding_window < plan.limit:
        raise Unsupported(f"a sliding window of {sliding_window} tokens, below the context of {plan.limit}")
    plan.calls += 1
    keys, values = plan.keys[module.layer_idx], plan.values[module.layer_idx]
    kv_heads, dim = key.shape[1], key.shape[3]
    heads, groups = query.shape[1], query.shape[1] // kv_heads
    scale = dim**-0.5 if scaling is None else scaling
    keys.view(-1, dim).index_copy_(0, plan.write, key.reshape(-1, dim))
    values.view(-1, dim).index_copy_(0, plan.write, value.reshape(-1, dim))
    out = query.new_empty(query.shape[2], heads, dim)
    if plan.decode:
        # measured at 64 rows, 4 heads, context 40: bmm on [rows * heads, context, dim] 0.14 ms, SDPA 0.18 to 0.20 ms a layer
        n, context = plan.decode, plan.context
        q = query[0, :, :n].reshape(kv_heads, groups, n, dim).permute(2, 0, 1, 3).reshape(n * kv_heads, groups, dim)
        k = keys[:n].view(n * kv_heads, -1, dim)[:, :context]
        v = values[:n].view(n * kv_heads, -1, dim)[:, :context]
        scores = torch.baddbmm(plan.mask, q, k.transpose(1, 2), alpha=scale)
        weights = torch.softmax(scores, -1, dtype=torch.float32).to(q.dtype)
        out[:n] = torch.bmm(weights, v).view(n, heads, dim)
    for read in plan.reads:
        length = read.past + read.stop - read.start
        seen = F.scaled_dot_product_attention(
            query[:, :, read.start : read.stop],
            keys[read.row : read.row + 1, :, :length],
            values[read.row : read.row + 1, :, :length],
            attn_mask=read.mask,
            is_causal=read.past == 0 and length > 1,
            scale=scale,
            enable_gqa=groups > 1,
        )
        out[read.start : read.stop] = seen[0].transpose(0, 1)
    return out.unsqueeze(0), None


AttentionInterface.register(NAME, attend)
