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
_dnn = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


class Linear:
    """[rows, in] -> [rows, out], float32, by oneDNN, where torch has it: 2.2 times as fast as its default from 16 rows on (an AMD Zen 5),
    and a row's result is the same to the last bit beside any others, from 2 rows on."""

    def __init__(self, *modules: Any):
        self._weight = torch.cat([m.weight.detach() for m in modules])
        biases = [m.bias.detach() for m in modules if m.bias is not None]
        if biases and len(biases) < len(modules):
            biases = [m.weight.new_zeros(len(m.weight)) if m.bias is None else m.bias.detach() for m in modules]
        self._bias = torch.cat(biases) if biases else None
        self._packed = None if _dnn is None else torch.ops.mkldnn._reorder_linear_weight(self._weight, None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._packed is None:
            return F.linear(x, self._weight, self._bias)
        return _dnn(x, self._packed, self._bias, "none", [], "")  # type: ignore[misc]

    def add(self, x: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        """The product plus `to`."""
        if self._packed is None:
            return F.linear(x, self._weight, self._bias).add_(to)
        return _dnn.binary(x, to, self._packed, self._bias, "add")  # type: ignore[union-attr]


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
        self._model, self._store, self._sizes = model, store, np.array([store.heads, store.kv_heads, store.dim, store.padded])
        self._cosines = self._sines = np.empty((0, store.dim), np.float32)
        self.refresh()

    @staticmethod
    def size(tokens: int) -> int:
        """Tokens that a pass is padded to: two at least (`Linear`), and few different numbers, as each is prepared for once."""
        step = 1 if tokens <= 16 else 8 if tokens <= 128 else 32 if tokens <= 512 else 128
        return max(2, -(-tokens // step) * step)

    def refresh(self) -> None:
        """Take the model's weights as they are now."""
        self._layers = [_Layer(layer) for layer in self._model.model.layers]
        self._final = _Norm(self._model.model.norm)
        self._head = Linear(self._model.get_output_embeddings())

    def __call__(self, ids: torch.Tensor, positions: np.ndarray, plan: Plan) -> torch.Tensor:
        """The hidden states after the final norm, float32 [tokens, hidden]. ids: int64 [tokens]."""
        store, kernel, count = self._store, plan.kernel, len(ids)
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
        if self._cosines.shape[1] != self._store.dim:
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
