"""The value head: the chance that a text which ends here ends well.

It is one linear layer and a sigmoid on the last hidden state (after the final norm), the vector that the next token is drawn from,
so it costs nothing beside the pass that reads the step's last token. It lives in `value_head.safetensors` beside the checkpoint,
because a tensor inside the model's own files would be "unexpected" to `AutoModelForCausalLM`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

FILE = "value_head.safetensors"
GRID = 2.0**16


class ValueHead(nn.Module):
    """Linear and sigmoid. `weight` float32 [1, hidden], `bias` float32 [1], both 0 at birth (value 1/2 everywhere)."""

    def __init__(self, hidden: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, hidden))
        self.bias = nn.Parameter(torch.zeros(1))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., hidden] of any float type -> float32 [...]: log-odds of success, what a cross-entropy wants."""
        return (hidden.float() @ self.weight[0] + self.bias).float()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., hidden] of any float type -> float32 [...], in [0, 1]."""
        return torch.sigmoid(self.logits(hidden))


def values(head: ValueHead | None, hidden: torch.Tensor) -> np.ndarray:
    """float32 [rows], in [0, 1], of [rows, hidden]: the head's values, rounded to 2^-16 as all that enters a tree; nan without a head.

    Computed in float64, so that the number of rows does not show after the rounding.
    """
    if head is None or not len(hidden):
        return np.full(len(hidden), np.nan, np.float32)
    odds = hidden.double() @ head.weight[0].double() + head.bias.double()
    return (np.rint(torch.sigmoid(odds).cpu().numpy() * GRID) / GRID).astype(np.float32)


def load_head(folder: str | Path, hidden: int) -> ValueHead | None:
    """The head beside a checkpoint, or None where there is no file of that name.

    Raises ValueError that names a missing, surplus, misshapen or non-finite tensor: a head is never filled with random numbers.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return None
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}): save the checkpoint again, or remove the file to go without a head") from None
    head = ValueHead(hidden)
    wanted = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors:
            raise ValueError(f"{path} has no tensor {name!r}: save the head again with models.save_model")
        if name not in wanted:
            raise ValueError(f"{path} has an unknown tensor {name!r}: a value head holds weight and bias only")
        if tuple(tensors[name].shape) != wanted[name]:
            raise ValueError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, the model needs {wanted[name]}: use the head that was "
                "trained with this model"
            )
        if not bool(torch.isfinite(tensors[name]).all()):
            raise ValueError(f"{path}: {name} holds numbers that are not finite: train the head again")
    head.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return head.eval().requires_grad_(False)


def save_head(folder: str | Path, head: ValueHead) -> Path:
    """Write the head's file into `folder`; returns its path."""
    path = Path(folder) / FILE
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in head.state_dict().items()}
    save_file(tensors, path, metadata={"format": "pt"})
    return path
