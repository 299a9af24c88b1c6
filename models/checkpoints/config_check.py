"""What stands in a config.json, before anything is made of it: a model has as many layers as its
config says, whatever its weights are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from models.checkpoints.head_layouts import tensor_names
from models.memory import weight_bytes

LAYERS = "num_hidden_layers"
SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads",
    "num_key_value_heads", "head_dim",
)  # fmt: skip
POSITIONS = "max_position_embeddings"
REALS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "rope_theta")
LONGEST = 2**31  #: positions
_SHAPES: dict[str, tuple[type, str]] = {
    "text_config": (dict, "an object"),
    "rope_parameters": (dict, "an object"),
    "rope_scaling": (dict, "an object"),
    "architectures": (list, "a list"),
    "layer_types": (list, "a list"),
    "model_type": (str, "text"),
}


def check_config(folder: Path, raw: Any) -> None:
    """Raise ValueError for a config.json with a number that no model of these weights can have.

    raw  what the file holds
    """
    file = folder / "config.json"
    if not isinstance(raw, dict):
        raise ValueError(f"{file} is no JSON object: copy the checkpoint again")
    for name, (kind, what) in _SHAPES.items():
        if raw.get(name) is not None and not isinstance(raw[name], kind):
            raise ValueError(f"{name} is not {what} in {file}: correct it, or copy it again")
    texts = raw.get("text_config") or {}
    if not all(isinstance(name, str) for name in raw.get("architectures") or []):
        raise ValueError(f"architectures are no names in {file}: correct it, or copy it again")
    tensors = sum(1 for _ in tensor_names(folder))
    size = weight_bytes([folder])
    for part in (raw, texts):
        if tensors:
            _check_whole(file, part, (LAYERS,), tensors)
            _check_whole(file, part, SIZES, size)
        _check_whole(file, part, (POSITIONS,), LONGEST)
        _check_reals(file, part)


def _check_whole(file: Path, part: Mapping[str, Any], names: tuple[str, ...], most: int) -> None:
    for name in names:
        for value in _values(part.get(name)):
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(
                    f"{name} is {str(value)[:40]} in {file}, and a model with these weights has a "
                    f"whole number from 1 to {most:,}: correct it, or copy the checkpoint again"
                )


def _check_reals(file: Path, part: Mapping[str, Any]) -> None:
    for name in REALS:
        for value in _values(part.get(name)):
            if type(value) not in (int, float) or not 0 <= value < math.inf:
                raise ValueError(
                    f"{name} is {str(value)[:40]} in {file}, which is no number from 0 on: correct "
                    "it, or copy the checkpoint again"
                )


def _values(given: Any) -> Iterator[Any]:
    """What a config gives: a value, one a layer, or none."""
    if isinstance(given, list):
        yield from given
    elif given is not None:
        yield given
