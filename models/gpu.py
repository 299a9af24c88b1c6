"""What the engine must know of a GPU: whether its kernels run there, and how numbers get there.

Devices without them (Apple's, or CUDA without Triton) are served by the engine's torch code.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

import numpy as np
import torch


def has_kernels(device: torch.device) -> bool:
    """True on CUDA with Triton, which torch brings along on Linux."""
    return device.type == "cuda" and _triton()


@lru_cache
def _triton() -> bool:
    return find_spec("triton") is not None


def send(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """A copy on the device; on a GPU it is under way when this returns, and the host does not wait for what was asked before."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
