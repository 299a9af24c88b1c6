"""A forward pass of its own for models of the shape of Llama, on a processor in float32.

transformers' modules spend more than half of a small pass on dispatch and on small operations between the products. Here a layer is four
products, with query, key and value in one, gate and up in another, and four kernels. The products are oneDNN's on packed weights, which
use all of the processor where the default library does not. The weights are the model's own: `refresh` takes them anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from models import kernels
from models.attention import Plan, Unsupported
from models.kvstore import Store, memory_left

SHAPES = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
ROPES = {"default", "linear", "llama3", "yarn"}  # whose angles depend on the position alone
SMALL = 1 << 20  # weights of a product that takes no longer than its preparation
_dnn = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


class Linear:
    """[rows, in] -> [rows, out], float32, by oneDNN, where torch has it: 2.2 times as fast as its default from 16 rows on (an AMD Zen 5).

    A row's result is the same to the last bit beside any others. One row alone is a kernel of ours where that adds in oneDNN's order, which
    is tried out here, and where the product is small: preparing a call of oneDNN takes 10 us, as long as the product itself.
    Raises Unsupported for modules that do more than a product, as adapters do.
    """

    def __init__(self, *modules: Any):
        if any(type(module) is not torch.nn.Linear for module in modules):
            raise Unsupported("its products are not plain ones: adapters or quantised weights")
        weight = torch.cat([m.weight.detach() for m in modules])
        biases = [m.weight.new_zeros(len(m.weight)) if m.bias is None else m.bias.detach() for m in modules]
        self._bias = torch.cat(biases) if any(m.bias is not None for m in modules) else None
        self._weight = weight if _dnn is None else torch.ops.mkldnn._reorder_linear_weight(weight, None)
        self.block = 0  # inputs that `kernels.single` adds up at a time, 0: it is not used
        if _dnn is not None and weight.numel() <= SMALL:
            more = -len(weight) % 16
            self._flat = F.pad(weight.T, (0, more)).contiguous().numpy().reshape(-1)
            self._added = np.empty(0, np.float32) if self._bias is None else F.pad(self._bias, (0, more)).numpy()
            self._out = len(weight)
            x = torch.randn(2, weight.shape[1], generator=torch.Generator().manual_seed(0))
            wanted = self(x)[0]
            self.block = next((b for b in (weight.shape[1], 512, 1024) if torch.equal(self._single(x[:1], b)[0], wanted)), 0)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) == 1 and self.block:
            return self._single(x, self.block)
        return F.linear(x, self._weight, self._bias) if _dnn is None else _dnn(x, self._weight, self._bias, "none", [], "")

    def add(self, x: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        """The product plus `to`."""
        if len(x) == 1 and self.block or _dnn is None:
            return self(x).add_(to)
        return _dnn.binary(x, to, self._weight, self._bias, "add")

    def _single(self, x: torch.Tensor, block: int) -> torch.Tensor:
        out = np.empty(len(self._flat) // x.shape[1], np.float32)
        kernels.single(x.numpy()[0], self._flat, block, self._added, out)
        return torch.from_numpy(out[None, : self._out])


class Lean:
    """`Modules` for some models only. Raises Unsupported, saying why, for others."""

    name = "lean"

    def __init__(self, model: Any, store: Store):
        config = model.config.get_text_config()
        rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        if store.device.type != "cpu" or store.dtype != torch.float32:
            raise Unsupported("not on a CPU in float32")
        if type(model).__name__ not in SHAPES or config.hidden_act != "silu" or rope not in ROPES:
            raise Unsupported(f"{type(model).__name__} with {config.hidden_act} and {rope} positions has another shape")
        if model.get_memory_footprint() > memory_left() // 2:
            raise Unsupported("no room for its weights in a second order")
        self._model, self._dim, self._sizes = model, store.dim, np.array([store.heads, store.kv_heads, store.dim, store.padded])
        self._cosines = self._sines = np.empty((0, store.dim), np.float32)
        self.refresh()

    def size(self, tokens: int) -> int:
        """Tokens that a pass is padded to: few different numbers, as oneDNN prepares for each once; and two at least (`Linear`)."""
        step = 1 if tokens <= 16 else 8 if tokens <= 128 else 32 if tokens <= 512 else 128
        return max(self._least, -(-tokens // step) * step)

    def refresh(self) -> None:
        """Take the model's weights as they are now."""
        self._layers = [_Layer(layer) for layer in self._model.model.layers]
        self._final = _Norm(self._model.model.norm)
        self._head = Linear(self._model.get_output_embeddings())
        products = [self._head, *(p for layer in self._layers for p in (layer.qkv, layer.out, layer.up, layer.down))]
        self._least = 1 if all(product.block for product in products) else 2

    def __call__(self, ids: torch.Tensor, positions: np.ndarray, plan: Plan) -> torch.Tensor:
        """The hidden states after the final norm, float32 [tokens, hidden]. ids: int64 [tokens]."""
        store, kernel, count = plan.store, plan.kernel, len(ids)
        assert kernel is not None
        self._turn(int(positions.max()) + 1)
        x = F.embedding(ids, self._model.get_input_embeddings().weight)
        normed, scale = np.empty((count, x.shape[1]), np.float32), store.dim**-0.5
        inside, seen = torch.from_numpy(normed), torch.from_numpy(kernel.out)
        for i, layer in enumerate(self._layers):
            layer.before(x, normed)
            mixed = layer.qkv(inside).numpy()
            kernels.turn(
                mixed, plan.write, kernel.pool, self._sizes, i, kernel.step, positions, self._cosines, self._sines,
                layer.q_norm, layer.k_norm, layer.epsilon,
            )  # fmt: skip
            kernel.attend(i, mixed, scale, 0.0, layer.window)
            x = layer.out.add(seen, x)
            layer.between(x, normed)
            both = layer.up(inside).numpy()
            gated = np.empty((count, both.shape[1] // 2), np.float32)
            kernels.gate(both, gated)
            x = layer.down.add(torch.from_numpy(gated), x)
        plan.calls += store.layers
        out = np.empty_like(normed)
        self._final(x, out)
        return torch.from_numpy(out)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, vocabulary] of [rows, hidden]."""
        return self._head(hidden)

    def _turn(self, length: int) -> None:
        """Cosines and sines of `length` positions at least."""
        if length <= len(self._cosines):
            return
        count = max(length, 2 * len(self._cosines), 64)
        rotary = self._model.model.rotary_emb
        cosines, sines = rotary(torch.zeros(1, dtype=torch.float32), torch.arange(count)[None])
        self._cosines, self._sines = (np.ascontiguousarray(side[0].numpy()) for side in (cosines, sines))
        if self._cosines.shape[1] != self._dim:
            raise Unsupported("only a part of each head is rotated")


class _Norm:
    def __init__(self, module: Any):
        self._weight, self._epsilon = module.weight.detach().numpy(), module.variance_epsilon

    def __call__(self, x: torch.Tensor, out: np.ndarray) -> None:
        kernels.norm(x.numpy(), self._weight, self._epsilon, out)


class _Layer:
    def __init__(self, layer: Any):
        attention, mlp = layer.self_attn, layer.mlp
        self.before, self.between = _Norm(layer.input_layernorm), _Norm(layer.post_attention_layernorm)
        self.qkv = Linear(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out, self.up, self.down = Linear(attention.o_proj), Linear(mlp.gate_proj, mlp.up_proj), Linear(mlp.down_proj)
        norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        self.q_norm, self.k_norm = (np.empty(0, np.float32) if norm is None else norm.weight.detach().numpy() for norm in norms)
        self.epsilon = 0.0 if norms[0] is None else norms[0].variance_epsilon
        self.window = getattr(attention, "sliding_window", getattr(attention.config, "sliding_window", None)) or 0
