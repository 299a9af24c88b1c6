"""A forward pass of its own for models of the shape of Llama, on a CPU in float32 or bfloat16.

transformers' modules spend more than half of a small pass on dispatch and on small operations
between the products. Here a layer is four products, with query, key and value in one, gate and up
in another, and four kernels. The products are oneDNN's on packed weights, which use all of the CPU
where the default library does not. In bfloat16 weights, keys, values and what goes into a product
are rounded; the sum that runs through the layers, norms, rotation and attention stay in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from models.checkpoints.checkpoint import BAR
from models.checkpoints.llama_weights import SHAPES, Llama
from models.engine import llama_kernels
from models.engine.attention import Plan, Unsupported
from models.engine.kv_pool import Store, numbers
from models.memory import memory_left

ROPES = {"default", "linear", "llama3", "yarn"}  # whose angles depend on the position alone
CONVERTED = 1 << 22  # weights of bfloat16 that are converted to float32 at a time
SMALL = 1 << 20  # weights of a product that takes no longer than its preparation
_dnn: Any = None
if torch.backends.mkldnn.is_available():
    _dnn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def has_bfloat16_products() -> bool:
    """Whether oneDNN multiplies bfloat16 numbers on this CPU."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def check_shape(model: Any) -> Any:
    """The text config of a transformers model. Raises Unsupported, saying why, unless the model has
    the shape of Llama.
    """
    config = model.config.get_text_config()
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    alike = type(model).__name__ in SHAPES.values()
    if not alike or config.hidden_act != "silu" or rope not in ROPES:
        raise Unsupported(
            f"{type(model).__name__} with {config.hidden_act} and {rope} positions has "
            "another shape"
        )
    return config


def check_plain(module: Any) -> torch.nn.Linear:
    """The module. Raises Unsupported where it does more than a product, as adapters do."""
    if type(module) is not torch.nn.Linear:
        raise Unsupported("its products are not plain ones: adapters or quantised weights")
    return module


def window_of(attention: Any) -> int:
    """Keys that a query of a transformers layer sees at most, 0: all."""
    own = getattr(attention.config, "sliding_window", None)
    return getattr(attention, "sliding_window", own) or 0


def weight_and_bias(modules: Sequence[torch.nn.Linear]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Of products of the same input, one after the other: copies. A missing bias is 0 where another
    one has one.
    """
    weight = torch.cat([module.weight for module in modules])
    if all(module.bias is None for module in modules):
        return weight, None
    biases = []
    for module in modules:
        nothing = module.weight.new_zeros(len(module.weight))
        biases.append(nothing if module.bias is None else module.bias)
    return weight, torch.cat(biases)


class Linear:
    """[rows, in] -> [rows, out] by oneDNN, where torch has it: 2.2 times as fast as its default
    from 16 rows on in float32 (an AMD Zen 5).

    A row's result is the same to the last bit beside any others. One row alone is oneDNN's too
    where it gives these bits, as in bfloat16; else, in a model of small products, a kernel of ours
    where that adds in oneDNN's order. Both are tried out here. Preparing a call of oneDNN takes 10
    us, as long as a small product itself.

    A CPU without products of bfloat16 (AVX-512 or AVX-NE-CONVERT) computes in float32, from weights
    that are converted at each call, a few million at a time: six times as fast as torch's default
    there with 64 rows.

    weight  [out, in], float32 or bfloat16;  bias: [out] or None;  small: whether to keep the
            weights for that kernel too
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, small: bool):
        self._bias = bias
        self._out = len(weight)
        width = weight.shape[1]
        self._weight = weight
        self._converts = (
            _dnn is not None and weight.dtype == torch.bfloat16 and not has_bfloat16_products()
        )
        if self._converts:
            if bias is not None:
                self._bias = bias.float()
            self.block = 0
            self.alone = False
            return
        if _dnn is not None:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        self.block = 0  # inputs that `llama_kernels.single` adds up at a time, 0: it is not used
        x = torch.randn(2, width, generator=torch.Generator().manual_seed(0)).to(weight.dtype)
        wanted = self(x)[0]
        if _dnn is not None and small:
            more = -len(weight) % 16
            self._flat = F.pad(weight.T, (0, more)).contiguous().numpy().reshape(-1)
            self._added = np.empty(0, np.float32)
            if bias is not None:
                self._added = F.pad(bias, (0, more)).numpy()
            self.block = next(
                (b for b in (width, 512, 1024) if torch.equal(self._single(x[:1], b)[0], wanted)), 0
            )
        #: whether one row can be computed by itself
        self.alone = bool(self.block) or torch.equal(self(x[:1])[0], wanted)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._converts:
            return self._converted(x)
        if len(x) == 1 and self.block:
            return self._single(x, self.block)
        if _dnn is None:
            return F.linear(x, self._weight, self._bias)
        return _dnn(x, self._weight, self._bias, "none", [], "")

    def add(self, x: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        """The product plus `to`, float32, which may be changed."""
        if x.dtype != torch.float32:
            return to.add_(self(x))
        if len(x) == 1 and self.block or _dnn is None:
            return self(x).add_(to)
        return _dnn.binary(x, to, self._weight, self._bias, "add")

    def _converted(self, x: torch.Tensor) -> torch.Tensor:
        out = x.new_empty(len(x), self._out)
        x = x.float()
        step = max(1, CONVERTED // x.shape[1])
        for first in range(0, self._out, step):
            part = slice(first, first + step)
            bias = None if self._bias is None else self._bias[part]
            out[:, part] = _dnn(x, self._weight[part].float(), bias, "none", [], "")
        return out

    def _single(self, x: torch.Tensor, block: int) -> torch.Tensor:
        out = np.empty(len(self._flat) // x.shape[1], np.float32)
        llama_kernels.single(x.numpy()[0], self._flat, block, self._added, out)
        return torch.from_numpy(out[None, : self._out])


class Modules:
    """The weights of a transformers model, as `models.checkpoints.llama_weights.Llama` gives those
    on disk. They stay the model's: it may be trained on.

    Raises Unsupported, saying why, for models of another shape and for modules that do more than a
    product, as adapters do.
    """

    def __init__(self, model: Any):
        config = check_shape(model)
        if model.get_memory_footprint() > memory_left() // 2:
            raise Unsupported("no room for its weights in a second order")
        self._model = model
        self.config = config
        self.dtype = model.dtype

    @property
    def embedding(self) -> torch.Tensor:
        """[vocabulary, hidden]."""
        return self._model.get_input_embeddings().weight.detach()

    @property
    def head(self) -> torch.Tensor:
        """The output layer, [vocabulary, hidden]."""
        return check_plain(self._model.get_output_embeddings()).weight.detach()

    def product(self, *names: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As `Llama.product`."""
        with torch.no_grad():
            find = self._model.model.get_submodule
            return weight_and_bias([check_plain(find(name)) for name in names])

    def norm(self, name: str) -> tuple[np.ndarray, float]:
        """As `Llama.norm`."""
        above, _, last = name.rpartition(".")
        module = getattr(self._model.model.get_submodule(above), last, None)
        if module is None:
            return np.empty(0, np.float32), 0.0
        return module.weight.detach().float().numpy(), module.variance_epsilon

    def window(self, layer: int) -> int:
        """As `Llama.window`."""
        return window_of(self._model.model.layers[layer].self_attn)

    def angles(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Llama.angles`."""
        positions = torch.arange(count)[None]
        like = torch.zeros(1, dtype=torch.float32)
        cosines, sines = self._model.model.rotary_emb(like, positions)
        return np.ascontiguousarray(cosines[0].numpy()), np.ascontiguousarray(sines[0].numpy())


class Lean:
    """`forward.Modules` for some models only. Raises Unsupported, saying why, for others."""

    name = "lean"

    def __init__(self, model: Any, store: Store):
        if store.device.type != "cpu" or store.dtype not in (torch.float32, torch.bfloat16):
            raise Unsupported("not on a CPU in float32 or bfloat16")
        self._source: Any = model if isinstance(model, Llama) else Modules(model)
        if self._source.dtype != store.dtype:
            raise Unsupported("its weights are of several types")
        self._half = store.dtype == torch.bfloat16
        self._loops = llama_kernels.loops(self._half)
        self._dim = store.dim
        self._sizes = np.array([store.heads, store.kv_heads, store.dim, store.padded])
        self._cosines = self._sines = np.empty((0, store.dim), np.float32)
        self._pack()

    def size(self, tokens: int) -> int:
        """Tokens that a pass is padded to: few different numbers, as oneDNN prepares for each
        once; and two at least (`Linear`).
        """
        if tokens <= 16:
            step = 1
        elif tokens <= 128:
            step = 8
        elif tokens <= 512:
            step = 32
        else:
            step = 128
        return max(self._least, -(-tokens // step) * step)

    def refresh(self) -> None:
        """Take the weights as they are now; those on disk do not change."""
        if not isinstance(self._source, Llama):
            self._pack()

    def _pack(self) -> None:
        source = self._source
        config = self._source.config
        largest = max(config.vocab_size, 2 * config.intermediate_size) * config.hidden_size
        small = largest <= SMALL and not self._half
        self._layers: list[_Layer] = []
        # else transformers showed its own bar
        watched = isinstance(source, Llama) and source.get_memory_footprint() >= BAR
        bar = tqdm(
            total=config.num_hidden_layers,
            desc="loading weights",
            unit="layer",
            leave=False,
            disable=None if watched else True,
        )
        with bar:
            for i in range(config.num_hidden_layers):
                self._layers.append(_Layer(source, i, small))
                bar.update()
        self._norm, self._epsilon = source.norm("norm")
        self._head = Linear(source.head, None, small)
        products = [self._head]
        for layer in self._layers:
            products += [layer.qkv, layer.out, layer.up, layer.down]
        self._least = 1 if all(product.alone for product in products) else 2

    def __call__(self, ids: torch.Tensor, positions: np.ndarray, plan: Plan) -> torch.Tensor:
        """The hidden states after the final norm, [tokens, hidden] of the type computed in. ids:
        int64 [tokens].
        """
        store = plan.store
        kernel = plan.kernel
        count = len(ids)
        loops = self._loops
        assert kernel is not None
        self._turn(int(positions.max()) + 1)
        x = F.embedding(ids, self._source.embedding).float()
        normed = torch.empty(count, x.shape[1], dtype=store.dtype)
        scale = store.dim**-0.5
        queries: np.ndarray | None = None
        if self._half:
            queries = np.empty((count, store.heads * store.dim), np.float32)
        seen = kernel.result
        for i, layer in enumerate(self._layers):
            loops.norm(x.numpy(), layer.before, layer.epsilon, numbers(normed))
            mixed = numbers(layer.qkv(normed))
            q = mixed if queries is None else queries
            loops.turn(
                mixed, q, plan.write, kernel.pool, self._sizes, i, kernel.step, positions,
                self._cosines, self._sines,
                layer.q_norm, layer.k_norm, layer.epsilon,
            )  # fmt: skip
            kernel.attend(i, q, scale, 0.0, layer.window)
            x = layer.out.add(seen, x)
            loops.norm(x.numpy(), layer.between, layer.epsilon, numbers(normed))
            both = layer.up(normed)
            gated = torch.empty(count, both.shape[1] // 2, dtype=store.dtype)
            loops.gate(numbers(both), numbers(gated))
            x = layer.down.add(gated, x)
        plan.calls += store.layers
        loops.norm(x.numpy(), self._norm, self._epsilon, numbers(normed))
        return normed

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, vocabulary] of [rows, hidden]."""
        return self._head(hidden)

    def _turn(self, length: int) -> None:
        """Cosines and sines of `length` positions at least."""
        if length <= len(self._cosines):
            return
        self._cosines, self._sines = self._source.angles(max(length, 2 * len(self._cosines), 64))
        if self._cosines.shape[1] != self._dim:
            raise Unsupported("only a part of each head is rotated")


class _Layer:
    def __init__(self, source: Any, layer: int, small: bool):
        name = f"layers.{layer}."

        def linear(*parts: str) -> Linear:
            weight, bias = source.product(*(name + part for part in parts))
            return Linear(weight, bias, small)

        self.before, self.epsilon = source.norm(f"{name}input_layernorm")
        self.between, epsilon = source.norm(f"{name}post_attention_layernorm")
        self.qkv = linear("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        self.out = linear("self_attn.o_proj")
        self.up = linear("mlp.gate_proj", "mlp.up_proj")
        self.down = linear("mlp.down_proj")
        self.q_norm, first = source.norm(f"{name}self_attn.q_norm")
        self.k_norm, second = source.norm(f"{name}self_attn.k_norm")
        if {epsilon, first or epsilon, second or epsilon} != {self.epsilon}:
            raise Unsupported("its norms have several epsilons")
        self.window = source.window(layer)
