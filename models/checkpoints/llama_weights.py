"""Checkpoints of the shape of Llama without transformers: their config as a dataclass, their
weights read once, straight from the files.

`Llama` stands where the engine expects a transformers model, but has no forward of its own:
`models.engine.llama_cpu` computes it. A config with options that this module does not read is left
to transformers.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from models.checkpoints.head_layouts import LAYOUTS, head_layout
from models.checkpoints.safetensors_files import Tensors

SHAPES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
#: names in a config that change no number of a forward pass
IDLE = frozenset((
    "_attn_implementation_autoset", "_model_name_or_path", "_name_or_path", "architectures",
    "attention_dropout", "auto_map", "bad_words_ids", "chunk_size_feed_forward", "dtype",
    "finetuning_task", "id2label", "initializer_range", "is_llama_config", "label2id",
    "num_labels", "output_hidden_states", "pad_token_id", "pretraining_tp", "problem_type",
    "return_dict", "sep_token_id", "task_specific_params", "tokenizer_class", "torch_dtype",
    "transformers.js_config", "transformers_version", "unk_token_id", "unsloth_fixed",
    "unsloth_version", "use_cache",
))  # fmt: skip
#: names that are read below
READ = frozenset((
    "attention_bias", "bos_token_id", "eos_token_id", "head_dim", "hidden_act", "hidden_size",
    "intermediate_size", "layer_types", "max_position_embeddings", "max_window_layers",
    "mlp_bias", "model_type", "num_attention_heads", "num_hidden_layers", "num_key_value_heads",
    "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta", "sliding_window",
    "tie_word_embeddings", "use_sliding_window", "vocab_size",
))  # fmt: skip


@dataclass(frozen=True)
class Config:
    """What decides the forward pass of a checkpoint, under transformers' names.

    rope     rope_type, rope_theta and what else that type has
    windows  of each layer: keys that a query sees at most, 0: all
    biases   names of the products in a layer that have a bias
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    rope: dict[str, Any]
    windows: tuple[int, ...]
    biases: tuple[str, ...]
    head_norms: bool
    eos_token_id: Any = None
    bos_token_id: Any = None

    def get_text_config(self) -> Config:
        """Itself, as there is nothing but text."""
        return self


ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
GATED = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def read_config(raw: dict[str, Any]) -> Config | None:
    """The config of a checkpoint, from what its config.json holds; None where that is not all
    understood, and transformers must read it.
    """
    kind = raw.get("model_type")
    if kind not in SHAPES or raw.get("hidden_act", "silu") != "silu" or raw.get("rope_interleaved"):
        return None
    given = {name for name, value in raw.items() if value not in (None, False)}
    if given - IDLE - READ - {"rope_interleaved"}:
        return None
    try:
        layers = int(raw["num_hidden_layers"])
        heads = int(raw["num_attention_heads"])
        rope = _rope(raw)
        windows = _windows(raw, kind, layers)
        if rope is None or windows is None:
            return None
        return Config(
            architecture=SHAPES[kind],
            vocab_size=int(raw["vocab_size"]),
            hidden_size=int(raw["hidden_size"]),
            intermediate_size=int(raw["intermediate_size"]),
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=int(raw.get("num_key_value_heads") or heads),
            head_dim=int(raw.get("head_dim") or int(raw["hidden_size"]) // heads),
            max_position_embeddings=int(raw["max_position_embeddings"]),
            rms_norm_eps=float(raw["rms_norm_eps"]),
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
            rope=rope,
            windows=windows,
            biases=_biases(raw, kind),
            head_norms=kind == "qwen3",
            eos_token_id=raw.get("eos_token_id"),
            bos_token_id=raw.get("bos_token_id"),
        )
    except (KeyError, TypeError, ValueError):
        return None  # transformers knows a default, or says what is wrong


def _biases(raw: dict[str, Any], kind: str) -> tuple[str, ...]:
    """Names of the products in a layer that have a bias."""
    biases: tuple[str, ...] = ()
    if kind == "qwen2":
        biases = ATTENTION[:3]
    elif raw.get("attention_bias") and kind in ("llama", "qwen3"):
        biases = ATTENTION
    if raw.get("mlp_bias") and kind == "llama":
        biases += GATED
    return biases


def _rope(raw: dict[str, Any]) -> dict[str, Any] | None:
    """Rotation as transformers 5 writes it (`rope_parameters`), or 4 (`rope_theta`,
    `rope_scaling`); None for a type that is not computed here.
    """
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    rope["rope_type"] = rope.get("rope_type") or rope.pop("type", None) or "default"
    rope.setdefault("rope_theta", raw.get("rope_theta", 10_000.0))
    options = {
        "default": {"rope_theta"},
        "linear": {"rope_theta", "factor"},
        "llama3": {
            "rope_theta",
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        },
    }
    named = {name for name, value in rope.items() if value is not None} - {"rope_type"}
    return rope if options.get(rope["rope_type"]) == named else None


def _windows(raw: dict[str, Any], kind: str, layers: int) -> tuple[int, ...] | None:
    window = raw.get("sliding_window")
    types = raw.get("layer_types")
    if kind == "llama" or not window or (kind != "mistral" and not raw.get("use_sliding_window")):
        return (0,) * layers if set(types or ()) <= {"full_attention"} else None
    if kind == "mistral":
        return (int(window),) * layers if not types else None
    sizes = {"full_attention": 0, "sliding_attention": int(window)}
    if types is None:
        whole = max(0, min(layers, raw.get("max_window_layers", 28)))
        types = ["full_attention"] * whole + ["sliding_attention"] * (layers - whole)
    if len(types) != layers or not sizes.keys() >= set(types):
        return None
    return tuple(sizes[one] for one in types)


class Llama:
    """A checkpoint as `models.Engine` takes it in place of a transformers model, and the weights
    that `models.engine.llama_cpu` packs.

    config             `Config`
    generation_config  with eos_token_id, of generation_config.json

    The weights are on disk: each is read once, when it is packed. The table of embeddings is read
    where it lies in the file.
    """

    training = False
    device = torch.device("cpu")

    def __init__(
        self, folder: Path, config: Config, tensors: Tensors, prefix: str, dtype: torch.dtype
    ):
        self.config = config
        self.dtype = dtype
        self.folder = folder
        self._tensors = tensors
        self._ignored = prefix
        try:
            generation = json.loads((folder / "generation_config.json").read_text())
        except (OSError, ValueError):
            generation = {}
        self.generation_config = SimpleNamespace(eos_token_id=generation.get("eos_token_id"))
        self.embedding = tensors.mapped("model.embed_tokens.weight")

    @classmethod
    def open(cls, folder: Path, dtype: torch.dtype) -> Llama | None:
        """The checkpoint in a folder; None where its config or its tensors are others than this
        module computes.

        Raises ValueError for files that are broken or cut short.
        """
        try:
            raw = json.loads((folder / "config.json").read_text())
        except (OSError, ValueError):
            return None
        config = read_config(raw)
        published = LAYOUTS.get(head_layout(folder) or "")
        if config is None or (
            published is None and raw.get("architectures") not in ([config.architecture], None)
        ):
            return None
        tensors = Tensors(folder)
        prefix = published.prefix if published else ""
        tied = config.tie_word_embeddings or (
            published is not None and "lm_head.weight" not in tensors
        )
        found = {}
        for name in tensors:
            ignored = prefix and name.startswith(prefix)
            if not ignored and not name.endswith("rotary_emb.inv_freq"):
                found[name] = tensors.shape(name)
        if tied:
            found.pop("lm_head.weight", None)
        if found != _wanted(config, tied) or None in tensors.dtypes():
            return None
        return cls(folder, config, tensors, prefix, dtype)

    @property
    def head(self) -> torch.Tensor:
        """The output layer, [vocabulary, hidden], of the type computed in."""
        own = "lm_head.weight"
        if self.config.tie_word_embeddings or own not in self._tensors:
            own = "model.embed_tokens.weight"
        return self._tensors.read(own).to(self.dtype)

    def product(self, *names: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weights [out, in] and bias [out] or None of one or more linear layers side by side, of
        the type computed in.
        """
        found = [self._tensors.read(f"model.{name}.weight").to(self.dtype) for name in names]
        weight = torch.cat(found) if len(found) > 1 else found[0]
        if not any(name.endswith(self.config.biases) for name in names):
            return weight, None
        biases = [self._tensors.read(f"model.{name}.bias").to(self.dtype) for name in names]
        return weight, torch.cat(biases)

    def norm(self, name: str) -> tuple[np.ndarray, float]:
        """Weights, float32, and epsilon of a norm; none where the model does not have it."""
        if f"model.{name}.weight" not in self._tensors:
            return np.empty(0, np.float32), 0.0
        return self._tensors.read(f"model.{name}.weight").float().numpy(), self.config.rms_norm_eps

    def window(self, layer: int) -> int:
        """Keys that a query of the layer sees at most, 0: all."""
        return self.config.windows[layer]

    def angles(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and sines of the positions 0 to count - 1, float32 [count, head_dim] (Su et
        al. 2021; `_rates`).
        """
        turns = torch.arange(count).float()[:, None] * _rates(self.config)[None]
        turns = torch.cat([turns, turns], -1)
        return turns.cos().numpy(), turns.sin().numpy()

    def eval(self) -> Llama:
        """Itself: it cannot be trained."""
        return self

    def to(self, device: Any) -> Llama:
        """Itself. Raises ValueError for another device than a CPU."""
        if torch.device(device).type != "cpu":
            raise ValueError(
                "these weights are packed for a CPU: load the checkpoint with device= instead of "
                "moving it"
            )
        return self

    def num_parameters(self) -> int:
        """Numbers in all tensors, a tied output layer counted once."""
        names = [
            name for name in self._tensors if not (self._ignored and name.startswith(self._ignored))
        ]
        if self.config.tie_word_embeddings and "lm_head.weight" in names:
            names.remove("lm_head.weight")
        return sum(math.prod(self._tensors.shape(name)) for name in names)

    def get_memory_footprint(self) -> int:
        """Bytes of the weights."""
        return self.num_parameters() * self.dtype.itemsize


def _wanted(config: Config, tied: bool) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor."""
    width = config.hidden_size
    inner = config.intermediate_size
    dim = config.head_dim
    queries = config.num_attention_heads * dim
    keys = config.num_key_value_heads * dim
    products = dict(
        zip(
            ATTENTION,
            ((queries, width), (keys, width), (keys, width), (width, queries)),
            strict=True,
        )
    )
    products |= dict(zip(GATED, ((inner, width), (inner, width), (width, inner)), strict=True))
    wanted: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, width),
        "model.norm.weight": (width,),
    }
    if not tied:
        wanted["lm_head.weight"] = (config.vocab_size, width)
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}."
        for name, shape in products.items():
            wanted[f"{layer}{name}.weight"] = shape
        for name in config.biases:
            wanted[f"{layer}{name}.bias"] = products[name][:1]
        for name in ("input_layernorm", "post_attention_layernorm"):
            wanted[f"{layer}{name}.weight"] = (width,)
        if config.head_norms:
            wanted[f"{layer}self_attn.q_norm.weight"] = (dim,)
            wanted[f"{layer}self_attn.k_norm.weight"] = (dim,)
    return wanted


def _rates(config: Config) -> torch.Tensor:
    """Radians that each pair of numbers turns a position, float32 [head_dim / 2].

    "linear" divides them by a factor (Chen et al. 2023, arXiv 2306.15595); "llama3" those of waves
    longer than the context it was first trained on, with a smooth passage (Llama 3.1's model card).
    """
    rope = config.rope
    dim = config.head_dim
    rates = 1.0 / (float(rope["rope_theta"]) ** (torch.arange(0, dim, 2).float() / dim))
    if rope["rope_type"] == "linear":
        return rates / float(rope["factor"])
    if rope["rope_type"] == "default":
        return rates
    factor = float(rope["factor"])
    low = float(rope["low_freq_factor"])
    high = float(rope["high_freq_factor"])
    trained = float(rope["original_max_position_embeddings"])
    waves = 2 * math.pi / rates
    smooth = (trained / waves - low) / (high - low)
    between = (1 - smooth) * rates / factor + smooth * rates
    rates_of_long = torch.where(waves > trained / low, rates / factor, rates)
    middle = (waves <= trained / low) & (waves >= trained / high)
    return torch.where(middle, between, rates_of_long)
