"""What the engine must know of a GPU: whether its kernels run there, and how numbers get there.

Devices without them (Apple's, older ones of CUDA, or CUDA without Triton) are served by the
engine's torch code.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch


def has_kernels(device: torch.device) -> bool:
    """True on CUDA with Triton, which torch brings along on Linux, and tensor cores that take
    bfloat16 (since Ampere).
    """
    return device.type == "cuda" and _has_kernels(device)


@lru_cache
def _has_kernels(device: torch.device) -> bool:
    return find_spec("triton") is not None and torch.cuda.get_device_capability(device) >= (8, 0)


def current(device: torch.device) -> AbstractContextManager[Any]:
    """A block in which kernels are launched on this device, which need not be the first."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def send(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """A copy on the device; on a GPU it is under way when this returns, and the host does not
    wait for earlier work.
    """
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
