"""Attention for rows that are trees: each token of a row is computed once, and a row's memory
grows with its tokens, not with their square.

Rows stand depth first, so a token is followed by all that continues it: token i attends to token j
where j <= i < ends[j] (`guides.data.examples`). Then the part of a text that nothing branches off
attends to itself, what lies below it attends to the whole of it, and a pass is a list of such dense
blocks. Their results are merged by the logarithms of their sums (FlashAttention; Dao et al. 2022,
section 3.1), which the backward pass needs no more than the merged ones of.

Trees of at most `SMALL` tokens are one block each, with a mask, and blocks of about the same size
are one batch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "copse_trees"  #: of the attention, as transformers knows it
SMALL = 128  #: tokens of a tree that is computed with a mask
ROUND = 16  #: block sizes are multiples of it, so that more of them are one batch
FAR = 0.01  #: of the largest logit: a model that reads a tree otherwise than its texts differs more

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Batch(NamedTuple):
    """Small trees of at most `size` tokens each, padded to it.

    read   int64 [trees * size], the tokens; of padding: token 0
    write  the same; of padding: one behind the last token
    mask   float32 [trees, 1, size, size], added to the scores; padding sees itself
    """

    size: int
    read: Tensor
    write: Tensor
    mask: Tensor


class Plan(NamedTuple):
    """The blocks of a pass.

    batches  small trees
    chains   (start, stop): tokens that attend to those before them in it
    below    (start, stop, end): tokens from stop to end that attend to all from start to stop
    """

    batches: list[Batch]
    chains: list[tuple[int, int]]
    below: list[tuple[int, int, int]]


def use_trees(model: PreTrainedModel) -> None:
    """Let `model` read rows of trees, in place: `tree_states` of its decoder.

    Raises ValueError for a model that reads a tree otherwise than the tree's texts one by one, such
    as one with sliding windows or a recurrence, and one whose logits are not its output embeddings
    times the last hidden states.
    """
    if model.config._attn_implementation == NAME:
        return
    text = model.config.get_text_config()
    window = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None) or ["sliding_attention"]
    slides = "sliding_attention" in kinds and getattr(text, "use_sliding_window", True)
    if slides and window is not None and window < text.max_position_embeddings:
        raise ValueError(
            f"{_kind(model)} attends to the last {window} tokens in some layers (a sliding "
            "window), which training on trees does not know: choose a model without"
        )
    was_training = model.training
    model.eval()
    tokens = torch.arange(7, device=model.device)[None] % text.vocab_size
    # 0 1 2 is followed by 3 and 4, and by 5 and 6
    ends = torch.tensor([[7, 7, 7, 5, 5, 7, 7]], device=model.device)
    positions = torch.tensor([[0, 1, 2, 3, 4, 3, 4]], device=model.device)
    texts = torch.tensor([[0, 1, 2, 3, 4], [0, 1, 2, 5, 6]], device=model.device)
    try:
        with torch.no_grad():
            alone = model(input_ids=tokens[0][texts], use_cache=False).logits
            model.set_attn_implementation(NAME if model.device.type == "cpu" else "sdpa")
            hidden = tree_states(model.get_decoder(), tokens, ends, positions)
            packed = model.get_output_embeddings()(hidden)[0][texts]
    except (RuntimeError, TypeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{_kind(model)} cannot read trees ({reason[:200]}): choose a model of another family"
        ) from error
    finally:
        model.train(was_training)
    if not (packed - alone).abs().max() <= FAR * alone.abs().max():
        raise ValueError(
            f"{_kind(model)} reads a tree otherwise than its texts one by one: choose a model "
            "whose layers attend to all earlier tokens and whose logits are not scaled"
        )


def _kind(model: PreTrainedModel) -> str:
    return f"a model of the type {model.config.model_type}"


def tree_states(decoder: nn.Module, tokens: Tensor, ends: Tensor, positions: Tensor) -> Tensor:
    """The last hidden states, float [rows, tokens, hidden], of a model that `use_trees` was given.
    tokens, ends and positions: int64 [rows, tokens].
    """
    if ends.device.type == "cpu" and decoder.config._attn_implementation != NAME:
        raise RuntimeError("this model reads rows as texts: call use_trees(model) first")
    mask = ends[:, None, None]  # of four dimensions, which transformers hands on as it is
    if ends.device.type != "cpu":
        mask = added(visible(ends), torch.get_autocast_dtype(ends.device.type))
        if not torch.is_autocast_enabled(ends.device.type):
            mask = mask.float()
    out = decoder(input_ids=tokens, position_ids=positions, attention_mask=mask, use_cache=False)
    return out.last_hidden_state


def visible(ends: Tensor) -> Tensor:
    """bool [rows, tokens, tokens], [:, i, j]: token i attends to token j. ends: int64 [rows,
    tokens].
    """
    place = torch.arange(ends.shape[1], device=ends.device)
    return (place <= place[:, None]) & (place[:, None] < ends[:, None])


def added(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the attention scores: [rows, 1, tokens, tokens].

    Padding sees itself: of a row that sees nothing, fused kernels compute the gradient as 0 times
    infinity.
    """
    seen = seen | torch.eye(seen.shape[1], dtype=torch.bool, device=seen.device)
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, -1e9)[:, None]


def plan_of(ends: np.ndarray) -> Plan:
    """The blocks of int64 `ends` [tokens], 0: padding."""
    bounds = np.flatnonzero(np.diff(ends, prepend=-1, append=-1))
    stops = dict(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
    small: dict[int, list[tuple[int, int]]] = {}
    chains = []
    below = []
    at = 0
    while at < len(ends):
        end = int(ends[at])
        stop = stops[at]
        if not end:
            at = stop
            continue
        if end - at <= SMALL:
            stop = end
        elif stop < end:
            below.append((at, stop, end))
        size = stop - at
        if size <= SMALL:
            small.setdefault(-(-size // ROUND) * ROUND, []).append((at, stop))
        else:
            chains.append((at, stop))
        at = stop
    return Plan([_batch(ends, size, blocks) for size, blocks in small.items()], chains, below)


def _batch(ends: np.ndarray, size: int, blocks: list[tuple[int, int]]) -> Batch:
    starts = np.array([start for start, _ in blocks])[:, None]
    lengths = np.array([stop - start for start, stop in blocks])[:, None]
    place = np.arange(size)
    real = place < lengths
    read = np.where(real, starts + place, 0)
    until = np.where(real, np.minimum(ends[read] - starts, lengths), 0)
    seen = (place <= place[:, None]) & (place[:, None] < until[:, None]) | np.eye(size, dtype=bool)
    mask = np.where(seen, np.float32(0), np.float32(-np.inf))[:, None]
    write = np.where(real, read, len(ends))
    parts = [torch.from_numpy(array) for array in (read.ravel(), write.ravel(), mask)]
    return Batch(size, *parts)


@functools.lru_cache(maxsize=16)
def _stored_plan(content: bytes, rows: int) -> Plan:
    ends = np.frombuffer(content, np.int64).reshape(rows, -1)
    before = np.arange(rows)[:, None] * ends.shape[1]
    return plan_of(np.where(ends > 0, ends + before, 0).ravel())


def _plan(ends: Tensor) -> Plan:
    """The plan of rows one behind the other; layers share it. ends: int64 [rows, tokens]."""
    return _stored_plan(ends.numpy().tobytes(), len(ends))


def _flat(array: Tensor) -> Tensor:
    """[rows, heads, tokens, size] as [rows * tokens, heads, size]."""
    return array.transpose(1, 2).flatten(0, 1)


def _heads(array: Tensor) -> Tensor:
    """[tokens, heads, size] as [1, heads, tokens, size]."""
    return array.transpose(0, 1)[None]


def _padded(array: Tensor, batch: Batch) -> Tensor:
    """Of [tokens, heads, ...]: [trees, heads, size, ...]."""
    return array.index_select(0, batch.read).unflatten(0, (-1, batch.size)).transpose(1, 2)


@torch.library.custom_op("copse::tree_attention", mutates_args=())
def _attend(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """What every token attends to, [rows, tokens, heads, size], and the logarithms of its sums,
    [rows * tokens, heads]. q, k, v: [rows, heads, tokens, size]; padding: 0.
    """
    plan = _plan(ends)
    queries, keys, values = map(_flat, (q, k, v))
    count, heads, size = queries.shape
    exact = torch.promote_types(q.dtype, torch.float32)
    out = torch.zeros(count + 1, heads, size, dtype=exact)
    sums = torch.zeros(count + 1, heads, dtype=exact)
    for batch in plan.batches:
        parts = [_padded(array, batch) for array in (queries, keys, values)]
        part, logs = _flash(*parts, attn_mask=batch.mask.to(q.dtype), scale=scale)
        out.index_copy_(0, batch.write, part.transpose(1, 2).flatten(0, 1).to(exact))
        sums.index_copy_(0, batch.write, logs.transpose(1, 2).flatten(0, 1))
    for start, stop in plan.chains:
        own = slice(start, stop)
        parts = [_heads(array[own]) for array in (queries, keys, values)]
        part, logs = _flash(*parts, is_causal=True, scale=scale)
        out[own] = part[0].transpose(0, 1)
        sums[own] = logs[0].transpose(0, 1)
    for start, stop, end in plan.below:
        own = slice(stop, end)
        above = slice(start, stop)
        parts = [_heads(queries[own]), _heads(keys[above]), _heads(values[above])]
        part, logs = _flash(*parts, scale=scale)
        added_sums = logs[0].transpose(0, 1)
        share = (added_sums - sums[own]).sigmoid_()
        out[own].lerp_(part[0].transpose(0, 1).to(exact), share[..., None])
        sums[own] = torch.logaddexp(sums[own], added_sums)
    return out[:-1].to(q.dtype).unflatten(0, (len(ends), -1)), sums[:-1].clone()


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    rows, heads, tokens, size = q.shape
    exact = torch.promote_types(q.dtype, torch.float32)
    sums = q.new_empty(rows * tokens, heads, dtype=exact)
    return q.new_empty(rows, tokens, heads, size), sums


@torch.library.custom_op("copse::tree_attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor, ends: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of q, k and v, [rows, heads, tokens, size]. A block's own share of them needs
    the merged results only.
    """
    plan = _plan(ends)
    queries, keys, values = map(_flat, (q, k, v))
    grads = grad.flatten(0, 1)
    outs = out.flatten(0, 1)
    exact = torch.promote_types(q.dtype, torch.float32)
    found = [torch.zeros(len(queries) + 1, *queries.shape[1:], dtype=exact) for _ in range(3)]
    for batch in plan.batches:
        rows = [_padded(array, batch) for array in (grads, queries, keys, values, outs)]
        # padding reads token 0 and sees itself; what comes of it is written behind the last token
        logs = _padded(sums, batch)
        mask = batch.mask.to(q.dtype)
        parts = _flash_backward(*rows, logs, 0.0, False, attn_mask=mask, scale=scale)
        for whole, part in zip(found, parts, strict=True):
            whole.index_copy_(0, batch.write, part.transpose(1, 2).flatten(0, 1).to(exact))
    for start, stop, end, causal in _slices(plan):
        own = slice(start if causal else stop, end)
        above = slice(start, stop)
        rows = [_heads(array[own]) for array in (grads, queries)]
        rows += [_heads(array[above]) for array in (keys, values)]
        rows.append(_heads(outs[own]))
        parts = _flash_backward(*rows, _heads(sums[own]), 0.0, causal, scale=scale)
        for whole, part, place in zip(found, parts, (own, above, above), strict=True):
            whole[place] += part[0].transpose(0, 1)
    shape = (len(ends), -1)
    dq, dk, dv = (whole[:-1].to(q.dtype).unflatten(0, shape).transpose(1, 2) for whole in found)
    return dq.contiguous(), dk.contiguous(), dv.contiguous()


def _slices(plan: Plan) -> Iterator[tuple[int, int, int, bool]]:
    """The start, stop and end of chains and of what is below them, and whether it is a chain."""
    for start, stop in plan.chains:
        yield start, stop, stop, True
    for start, stop, end in plan.below:
        yield start, stop, end, False


@_attend_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ends, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, *output, ends)


def _differentiate(ctx: Any, grad: Tensor, grad_sums: Tensor) -> tuple[Tensor | None, ...]:
    return *_attend_backward(grad.contiguous(), *ctx.saved_tensors, ctx.scale), None, None


_attend.register_autograd(_differentiate, setup_context=_keep)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it; attention_mask: int64 [rows, 1, 1, tokens], the `ends`. There is no
    dropout.
    """
    if softcap is not None or s_aux is not None:
        raise TypeError("its attention caps its scores or has sinks")
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key = key.repeat_interleave(groups, 1)
        value = value.repeat_interleave(groups, 1)
    if scaling is None:
        scaling = query.shape[-1] ** -0.5
    query = query.to(value.dtype)  # what some families leave in float32 below autocast
    out, _ = _attend(query, key.to(value.dtype), value, attention_mask[:, 0, 0], scaling)
    return out, None


ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
