"""A forward pass of its own for models of the shape of Llama, on a GPU.

A layer is four products, with query, key and value in one, gate and up in another, and four kernels
besides attention: residual and norm, rotation with the writing of keys and values into the pool,
gate, residual and norm. The products are torch's. (`torch.compile` of a layer would fuse about as
much, but compiles for each shape, for tens of seconds, in every process.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from models.engine import gpu
from models.engine.attention import Plan, Unsupported
from models.engine.kv_pool import Store
from models.engine.llama_cpu import check_plain, check_shape, weight_and_bias, window_of
from models.engine.tree_attention_gpu import power_of_two

GATE = 1024  # numbers that a program of the gate takes


@triton.jit
def _norm_kernel(
    x, delta, weight, out, x_stride, delta_stride, out_stride, epsilon,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """One token: x += delta, and its RMS norm (Zhang and Sennrich 2019), rounded where
    transformers rounds.
    """
    row = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BLOCK)
    own = tl.load(x + row * x_stride + n, mask=n < SIZE, other=0.0)
    if ADD:
        own = (
            own.to(tl.float32)
            + tl.load(delta + row * delta_stride + n, mask=n < SIZE, other=0.0).to(tl.float32)
        ).to(own.dtype)
        tl.store(x + row * x_stride + n, own, mask=n < SIZE)
    wide = own.to(tl.float32)
    normed = wide / tl.sqrt(tl.sum(wide * wide, 0) / SIZE + epsilon)
    scaled = normed.to(own.dtype).to(tl.float32) * tl.load(weight + n, mask=n < SIZE, other=0.0).to(
        tl.float32
    )
    tl.store(out + row * out_stride + n, scaled.to(own.dtype), mask=n < SIZE)


@triton.jit
def _turn_kernel(
    mixed, positions, cosines, sines, q_norm, k_norm, query, keys, values, write,
    mixed_stride, query_stride, cell_stride, head_stride, epsilon,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
    NORMED: tl.constexpr,
):  # fmt: skip
    """One token and head: a query is rotated into `query`, a key into the pool, a value is copied
    into the pool.

    Rotated by halves, (a, b) -> (a cos - b sin, b cos + a sin), as in Llama; before it queries and
    keys are normed where the model does.
    """
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    half: tl.constexpr = DIM // 2
    n = tl.arange(0, BLOCK)
    inside = n < half
    source = mixed + token * mixed_stride + head * DIM + n
    a = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(source + half, mask=inside, other=0.0).to(tl.float32)
    if head < HEADS + KV_HEADS:
        if NORMED:
            scale = 1.0 / tl.sqrt((tl.sum(a * a, 0) + tl.sum(b * b, 0)) / DIM + epsilon)
            weight = q_norm
            if head >= HEADS:
                weight = k_norm
            a = a * scale * tl.load(weight + n, mask=inside, other=0.0).to(tl.float32)
            b = b * scale * tl.load(weight + half + n, mask=inside, other=0.0).to(tl.float32)
        turn = tl.load(positions + token) * DIM + n
        cosine = tl.load(cosines + turn, mask=inside, other=0.0)
        sine = tl.load(sines + turn, mask=inside, other=0.0)
        turned = a * cosine - b * sine
        b = b * cosine + a * sine
        a = turned
    kind = mixed.dtype.element_ty
    if head < HEADS:
        target = query + token * query_stride + head * DIM + n
        tl.store(target, a.to(kind), mask=inside)
        tl.store(target + half, b.to(kind), mask=inside)
    else:
        cell = tl.load(write + token).to(tl.int64) * cell_stride
        if head < HEADS + KV_HEADS:
            target = keys + cell + (head - HEADS) * head_stride + n
            tl.store(target, a.to(kind), mask=inside)
            tl.store(target + half, b.to(kind), mask=inside)
        else:
            target = values + cell + (head - HEADS - KV_HEADS) * head_stride + n
            tl.store(target, a.to(kind), mask=inside)
            tl.store(target + half, b.to(kind), mask=inside)


@triton.jit
def _gate_kernel(both, out, both_stride, out_stride, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """silu(gate) * up of a part of a token's numbers: both holds gate, then up."""
    token = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(both + token * both_stride + n, mask=n < SIZE, other=0.0)
    up = tl.load(both + token * both_stride + SIZE + n, mask=n < SIZE, other=0.0).to(tl.float32)
    wide = gate.to(tl.float32)
    opened = (wide / (1.0 + tl.exp(-wide))).to(gate.dtype).to(tl.float32)
    tl.store(out + token * out_stride + n, (opened * up).to(gate.dtype), mask=n < SIZE)


class LlamaGPU:
    """`forward.Modules` for the shape of Llama, Mistral, Qwen2 and Qwen3. Raises Unsupported,
    saying why, for other models and devices.

    The model's own parameters become parts of the joint matrices (`_joined`), so that no weight is
    there twice.
    """

    name = "fused"

    def __init__(self, model: Any, store: Store):
        computed = store.dtype in (torch.float32, torch.float16, torch.bfloat16)
        if not gpu.has_kernels(store.device) or not computed:
            raise Unsupported("not on a GPU with Triton in float32, float16 or bfloat16")
        config = check_shape(model)
        self._model = model
        longest = getattr(config, "max_position_embeddings", None) or store.trash
        positions = torch.arange(min(longest, store.trash) + 1, device=store.device)[None]
        like = torch.zeros(1, device=store.device, dtype=torch.float32)
        cosines, sines = model.model.rotary_emb(like, positions)
        self._cosines = cosines[0].float().contiguous()
        self._sines = sines[0].float().contiguous()
        if self._cosines.shape[1] != store.dim or store.dim % 2:
            raise Unsupported("only a part of each head is rotated")
        self.refresh()

    @staticmethod
    def size(tokens: int) -> int:
        """Tokens that a pass is padded to: to none."""
        return tokens

    def refresh(self) -> None:
        """Take the model's weights as they are now."""
        self._layers = [_Layer(layer) for layer in self._model.model.layers]
        self._final = self._model.model.norm
        self._head = self._model.get_output_embeddings()

    def __call__(
        self, ids: torch.Tensor, positions: np.ndarray | torch.Tensor, plan: Plan
    ) -> torch.Tensor:
        """The hidden states after the final norm, [tokens, hidden]. ids: int64 [tokens];
        positions: int32 or int64 [tokens].
        """
        store = plan.store
        kernel = plan.gpu
        assert kernel is not None
        positions = torch.as_tensor(positions, device=ids.device)
        x = F.embedding(ids, self._model.get_input_embeddings().weight)
        normed = torch.empty_like(x)
        query = x.new_empty(len(x), store.heads * store.dim)
        delta: torch.Tensor | None = None
        for i, layer in enumerate(self._layers):
            norm(x, delta, layer.before, normed)
            mixed = F.linear(normed, *layer.qkv)
            self._turn(mixed, positions, layer, query, store.pool[i], kernel.write, store)
            seen = kernel.attend(i, query, store.dim**-0.5, 0.0, layer.window)
            delta = F.linear(seen, *layer.out)
            norm(x, delta, layer.between, normed)
            delta = F.linear(gated(F.linear(normed, *layer.up)), *layer.down)
        plan.calls += store.layers
        norm(x, delta, self._final, normed)
        return normed

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, vocabulary] of [rows, hidden]."""
        return self._head(hidden)

    def _turn(
        self, mixed: torch.Tensor, positions: torch.Tensor, layer: _Layer, query: torch.Tensor,
        pool: torch.Tensor, write: torch.Tensor, store: Store,
    ) -> None:  # fmt: skip
        keys, values = pool
        normed = layer.q_norm is not None
        _turn_kernel[(len(mixed), store.heads + 2 * store.kv_heads)](
            mixed, positions, self._cosines, self._sines, layer.q_norm, layer.k_norm, query, keys,
            values, write,
            mixed.stride(0), query.stride(0), keys.stride(0), keys.stride(1), layer.epsilon,
            HEADS=store.heads, KV_HEADS=store.kv_heads, DIM=store.dim,
            BLOCK=power_of_two(store.dim // 2), NORMED=normed, num_warps=1,
        )  # fmt: skip


class _Layer:
    """Views of a layer's weights: each product is (weight, bias or None)."""

    def __init__(self, layer: Any):
        attention = layer.self_attn
        mlp = layer.mlp
        self.before = layer.input_layernorm
        self.between = layer.post_attention_layernorm
        self.qkv = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = _joined(attention.o_proj)
        self.down = _joined(mlp.down_proj)
        self.up = _joined(mlp.gate_proj, mlp.up_proj)
        self.q_norm: torch.Tensor | None = None
        self.k_norm: torch.Tensor | None = None
        self.epsilon = 0.0
        if getattr(attention, "q_norm", None) is not None:
            self.q_norm = attention.q_norm.weight.detach()
            self.k_norm = attention.k_norm.weight.detach()
            self.epsilon = attention.q_norm.variance_epsilon
        self.window = window_of(attention)


def _joined(*modules: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weights and biases of products of the same input, one after the other; those of the modules
    become views of them.

    Raises Unsupported for modules that do more than a product, as adapters do.
    """
    for module in modules:
        check_plain(module)
    if len(modules) == 1:
        (module,) = modules
        return module.weight.detach(), None if module.bias is None else module.bias.detach()
    # what is made in inference mode could never be trained
    with torch.inference_mode(False), torch.no_grad():
        weight, bias = weight_and_bias(modules)
        start = 0
        for module in modules:
            stop = start + len(module.weight)
            module.weight.data = weight[start:stop]
            if module.bias is not None and bias is not None:
                module.bias.data = bias[start:stop]
            start = stop
    return weight, bias


def norm(x: torch.Tensor, delta: torch.Tensor | None, module: Any, out: torch.Tensor) -> None:
    """x += delta, where that is not None, and out = the module's RMS norm of it. All [tokens,
    size].
    """
    size = x.shape[1]
    _norm_kernel[(len(x),)](
        x, delta, module.weight, out, x.stride(0), 0 if delta is None else delta.stride(0),
        out.stride(0), module.variance_epsilon,
        SIZE=size, BLOCK=power_of_two(size), ADD=delta is not None, num_warps=4,
    )  # fmt: skip


def gated(both: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up, [tokens, size], of [tokens, 2 * size]: gate, then up."""
    out = both.new_empty(len(both), both.shape[1] // 2)
    size = out.shape[1]
    block = min(GATE, power_of_two(size))
    _gate_kernel[(len(both), -(-size // block))](
        both, out, both.stride(0), out.stride(0), SIZE=size, BLOCK=block, num_warps=4
    )
    return out
