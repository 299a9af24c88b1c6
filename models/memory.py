"""Whether a model fits into memory, by the sizes of its files, before anything of them is read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

REMEDY = "use a smaller one or another device, or serve it elsewhere and give the server"


def memory_left() -> int:
    """Bytes of main memory that can be taken without swapping (on Linux; elsewhere half of all)."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def weight_bytes(folders: Iterable[Path]) -> int:
    """Bytes of the weights in these folders, as they are stored."""
    size = 0
    for folder in folders:
        size += sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return size


def check_loading(folder: Path, device: str, stored: str, kind: str) -> None:
    """Raise ValueError where a checkpoint's weights are larger than the memory that its device has
    left.

    device        as torch names it;  stored, kind: the float types of its files, and that in which
                  it will be computed
    """
    import torch

    own = getattr(torch, stored).itemsize
    wanted = getattr(torch, kind).itemsize
    needed = weight_bytes([folder]) * wanted // own
    if device.startswith("cuda"):
        left = torch.cuda.mem_get_info(device)[0]
    else:
        left = memory_left()
    if needed <= left:
        return
    remedy = REMEDY
    if kind == "float32" and own == 2:
        remedy = f"try dtype bfloat16, {REMEDY}"
    raise _too_large(folder, needed, f"of memory in {kind}", left, remedy)


def check_anywhere(source: Path, needed: int) -> None:
    """Raise ValueError where `needed` bytes of weights are more than the main memory and any GPU
    have left.
    """
    left = memory_left()
    if needed <= left:
        return
    import torch

    for number in range(torch.cuda.device_count()):
        left = max(left, torch.cuda.mem_get_info(number)[0])
    if needed > left:
        raise _too_large(source, needed, "of memory at least", left, REMEDY)


def check_making(source: Path, needed: int) -> None:
    """Raise ValueError where a plain checkpoint cannot be made of `source`, which takes `needed`
    bytes of main memory meanwhile.
    """
    left = memory_left()
    if needed > left:
        raise _too_large(
            source, needed, "of main memory while it is made a plain checkpoint", left, REMEDY
        )


def _too_large(source: Path, needed: int, what: str, left: int, remedy: str) -> ValueError:
    return ValueError(
        f"{source} takes {needed / 1e9:.1f} GB {what}, and {left / 1e9:.1f} GB are left: {remedy}"
    )
