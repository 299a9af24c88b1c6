"""Quantised checkpoints as plain ones: each tensor is read, multiplied out and written in bfloat16
(float16 where its scales are).

What is read: 8-bit floats with scales of blocks or rows (DeepSeek's layout and that of
compressed-tensors), AWQ of 4 bits, GPTQ of 2, 4 and 8. Any other method is refused in a sentence.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

SHARD = 1 << 30  # bytes of a file that is written
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column whose number stands at each four bits of a word
KNOWN = ("fp8", "compressed-tensors", "gptq", "awq")


def quantised(folder: Path) -> dict[str, Any] | None:
    """The `quantization_config` of a checkpoint, None where its weights are plain. Raises
    ValueError for a method that is not read here.
    """
    try:
        raw = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return None  # what reads the config next raises
    method = raw.get("quantization_config") if isinstance(raw, dict) else None
    if not method:
        return None
    if not isinstance(method, dict):
        raise ValueError(
            f"quantization_config is not an object in {folder / 'config.json'}: correct it, or "
            "copy it again"
        )
    name = str(method.get("quant_method"))
    if not _reads(name, method):
        raise ValueError(
            f"{folder} is quantised by {name}, which is not read here: give its original in "
            "16 bits, a GGUF file, "
            "or one in GPTQ, AWQ or 8-bit floats; or serve it (vLLM, llama.cpp) and give the server"
        )
    return dict(method)


def _reads(name: str, method: dict[str, Any]) -> bool:
    """Whether a method of this name, with these options, is read here."""
    bits = method.get("bits", 4)
    if name not in KNOWN or (name != "fp8" and bits not in (2, 4, 8)):
        return False
    if name == "awq":
        return bits == 4 and str(method.get("version", "gemm")).lower() == "gemm"
    if name == "compressed-tensors":
        layout = str(method.get("format", ""))
        return layout.startswith(("float-quantized", "naive-quantized"))
    return True


def dequantise(source: Path, folder: Path, method: dict[str, Any]) -> None:
    """Write the checkpoint `source`, whose `quantization_config` is `method`, as a plain one into
    `folder`.

    Raises ValueError, naming it, for a tensor that does not fit its scales.
    """
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    places: dict[str, Path] = {}
    for file in sorted(source.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            places |= dict.fromkeys(opened.keys(), file)

    def read(name: str) -> torch.Tensor:
        with safe_open(places[name], "pt") as opened:
            return opened.get_tensor(name)

    shard: dict[str, torch.Tensor] = {}
    where: dict[str, str] = {}
    size = 0

    def flush() -> None:
        nonlocal size
        file = f"model-{len(set(where.values())):05d}.safetensors"
        save_file(shard, folder / file, {"format": "pt"})
        where.update(dict.fromkeys(shard, file))
        shard.clear()
        size = 0

    packed, scales = _suffixes(str(method["quant_method"]))
    aside = (
        ".qzeros",
        ".scales",
        ".g_idx",
        ".weight_scale",
        ".weight_scale_inv",
        ".input_scale",
        ".weight_zero_point",
    )
    dtype = None
    for name in places:
        stem = name.removesuffix(packed)
        if name.endswith(aside) and name.rpartition(".")[0] + packed in places:
            continue
        try:
            if name.endswith(packed) and any(stem + scale in places for scale in scales):
                parts = {key: read(stem + key) for key in (packed, *aside) if stem + key in places}
                tensor = _multiplied(parts, method)
                name = f"{stem}.weight"
            else:
                tensor = read(name)
        except (RuntimeError, IndexError, KeyError, ValueError, SafetensorError) as error:
            raise ValueError(
                f"{source}: {name} does not fit its scales ({error}): copy the checkpoint again"
            ) from error
        if tensor.dtype == torch.float16 and dtype is None:
            dtype = torch.float16
        shard[name] = tensor.contiguous()
        size += tensor.nbytes
        if size >= SHARD:
            flush()
    flush()
    total = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(total))
    config = json.loads((source / "config.json").read_text())
    del config["quantization_config"]
    config.pop("torch_dtype", None)
    config["dtype"] = "float16" if dtype is not None else "bfloat16"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = (".safetensors", ".safetensors.index.json", ".bin")
    for file in source.iterdir():
        if file.is_file() and file.name != "config.json" and not file.name.endswith(weights):
            shutil.copy(file, folder)
    if (source / "value_head.safetensors").exists():
        shutil.copy(source / "value_head.safetensors", folder)


def _suffixes(name: str) -> tuple[str, tuple[str, ...]]:
    """How the name of a packed tensor ends, and those of its scales."""
    if name in ("gptq", "awq"):
        return ".qweight", (".scales",)
    return ".weight", (".weight_scale_inv", ".weight_scale")


def _multiplied(parts: dict[str, Any], method: dict[str, Any]) -> Any:
    """The weights [out, in] of one linear layer."""
    import torch

    name = str(method["quant_method"])
    if name not in ("gptq", "awq"):
        scale = parts.get(".weight_scale_inv")
        if scale is None:
            scale = parts[".weight_scale"]
        weight = parts[".weight"].float()
        return (weight * _spread(scale.float(), weight.shape, method)).to(torch.bfloat16)
    bits = int(method.get("bits", 4))
    numbers = _unpacked(parts[".qweight"], bits, 1 if name == "awq" else 0)
    zeros = _unpacked(parts[".qzeros"], bits, 1)
    if name == "awq":
        order = torch.tensor(AWQ_ORDER).argsort()
        numbers = numbers.unflatten(1, (-1, 8))[:, :, order].flatten(1)
        zeros = zeros.unflatten(1, (-1, 8))[:, :, order].flatten(1)
    elif method.get("checkpoint_format", "gptq") != "gptq_v2":
        zeros = zeros + 1  # the first layout keeps them less one
    size = int(method.get("group_size", 128))
    rows = len(numbers)
    if ".g_idx" in parts:
        groups = parts[".g_idx"].long()
    else:
        groups = torch.arange(rows) // (size if size > 0 else rows)
    scales = parts[".scales"]
    found = (numbers - zeros[groups]).float() * scales.float()[groups]
    return found.T.to(scales.dtype)


def _unpacked(words: Any, bits: int, axis: int) -> Any:
    """int32 words as the numbers that are packed in them along an axis, the lowest bits first."""
    import torch

    shifts = torch.arange(0, 32, bits)
    if axis == 0:
        return ((words[:, None, :] >> shifts[None, :, None]) & (2**bits - 1)).flatten(0, 1)
    return ((words[:, :, None] >> shifts[None, None, :]) & (2**bits - 1)).flatten(1)


def _spread(scale: Any, shape: Any, method: dict[str, Any]) -> Any:
    """Scales of blocks as one number for each weight; those of rows, or of the whole tensor,
    spread by themselves.
    """
    block = method.get("weight_block_size")
    if scale.dim() == 1 and len(scale) != 1:
        return scale[:, None]
    if scale.dim() < 2 or not block or scale.shape[1] == 1:
        return scale
    rows, columns = (int(side) for side in block)
    return scale.repeat_interleave(rows, 0).repeat_interleave(columns, 1)[: shape[0], : shape[1]]
