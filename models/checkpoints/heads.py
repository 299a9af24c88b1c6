"""The value head: the chance that a text which ends here ends well.

It is one linear layer and a sigmoid on the last hidden state (after the final norm), the vector
that the next token is drawn from, so it costs nothing beside the pass that reads the step's last
token. It lives in `value_head.safetensors` beside the checkpoint, because a tensor inside the
model's own files would be "unexpected" to `AutoModelForCausalLM`. The heads of published reward
models (`models.checkpoints.head_layouts`) become the same: the softmax of two classes is the
sigmoid of their difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from models.checkpoints.head_layouts import HEAD, LAYOUTS, files_of

GRID = 2.0**16


class ValueHead(nn.Module):
    """Linear and sigmoid. `weight` float32 [1, hidden], `bias` float32 [1], both 0 at birth
    (value 1/2 everywhere).
    """

    def __init__(self, hidden: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, hidden))
        self.bias = nn.Parameter(torch.zeros(1))

    def odds(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> [...], of the same float type: log-odds of success."""
        return hidden @ self.weight[0].to(hidden.dtype) + self.bias.to(hidden.dtype)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., hidden] of any float type -> float32 [...]: log-odds of success, what a
        cross-entropy wants.
        """
        return self.odds(hidden.float()).float()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., hidden] of any float type -> float32 [...], in [0, 1]."""
        return torch.sigmoid(self.logits(hidden))


class DeepHead(ValueHead):
    """A value head behind a linear layer with a ReLU. `inner_weight` float32 [hidden, hidden],
    `inner_bias` float32 [hidden].
    """

    def __init__(self, hidden: int):
        super().__init__(hidden)
        self.inner_weight = nn.Parameter(torch.zeros(hidden, hidden))
        self.inner_bias = nn.Parameter(torch.zeros(hidden))

    def odds(self, hidden: torch.Tensor) -> torch.Tensor:
        """As `ValueHead.odds`."""
        inner = nn.functional.linear(
            hidden, self.inner_weight.to(hidden.dtype), self.inner_bias.to(hidden.dtype)
        )
        return super().odds(torch.relu(inner))


def values(head: ValueHead | None, hidden: torch.Tensor) -> np.ndarray:
    """float32 [rows], in [0, 1], of [rows, hidden]: the head's values, rounded to 2^-16 as all that
    enters a tree; nan without a head.

    After the rounding the number of rows does not show.
    """
    return (np.rint(exact_values(head, hidden) * GRID) / GRID).astype(np.float32)


def exact_values(head: ValueHead | None, hidden: torch.Tensor) -> np.ndarray:
    """float64 [rows], in [0, 1], of [rows, hidden]: the values before they are rounded, to make
    one of several; nan without a head.
    """
    if head is None or not len(hidden):
        return np.full(len(hidden), np.nan)
    return torch.sigmoid(head.odds(hidden.double())).cpu().numpy()


def load_head(folder: str | Path, hidden: int) -> ValueHead | None:
    """The head in the file beside a checkpoint, or None where there is no file of that name.

    Raises ValueError that names a missing, surplus, misshapen or non-finite tensor: a head is never
    filled with random numbers.
    """
    path = Path(folder) / HEAD
    if not path.exists():
        return None
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): save the checkpoint again, or remove the file to "
            "go without a head"
        ) from None
    head = ValueHead(hidden)
    _check(path, tensors, {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()})
    head.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return head.eval().requires_grad_(False)


def published_head(folder: str | Path, layout: str, hidden: int) -> ValueHead:
    """The head among a published checkpoint's own tensors, where its layout (a name in `LAYOUTS`)
    says.

    Raises ValueError as `load_head` does: `AutoModelForTokenClassification` would only warn of a
    missing head, and judge at random.
    """
    folder = Path(folder)
    kind = LAYOUTS[layout]
    tensors: dict[str, torch.Tensor] = {}
    for file, name in files_of(folder, kind.prefix):
        with safe_open(file, "pt") as opened:
            tensors[name] = opened.get_tensor(name)
    wanted: dict[str, tuple[int, ...]] = {}
    for name, rows in kind.layers:
        wanted |= {f"{name}.weight": (rows or hidden, hidden), f"{name}.bias": (rows or hidden,)}
    optional: tuple[str, ...] = ()
    if not kind.biased:
        optional = tuple(name for name in wanted if name.endswith(".bias"))
    _check(folder, tensors, wanted, optional)
    *inner, (last, _) = kind.layers
    weight = tensors[f"{last}.weight"].double()
    bias = tensors.get(f"{last}.bias", torch.zeros(len(weight))).double()
    # of one row: minus nothing
    state = {"weight": weight[-1:] - weight[:-1].sum(0), "bias": bias[-1:] - bias[:-1].sum()}
    for name, _ in inner:
        state |= {"inner_weight": tensors[f"{name}.weight"], "inner_bias": tensors[f"{name}.bias"]}
    head = DeepHead(hidden) if inner else ValueHead(hidden)
    head.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return head.eval().requires_grad_(False)


def _check(
    where: Path,
    tensors: Mapping[str, torch.Tensor],
    wanted: Mapping[str, tuple[int, ...]],
    optional: tuple[str, ...] = (),
) -> None:
    """Raises ValueError that names a tensor of a head that is missing, surplus, misshapen or not
    finite.
    """
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors:
            if name in optional:
                continue
            raise ValueError(
                f"{where} has no tensor {name!r}: save or copy the checkpoint again with its head"
            )
        if name not in wanted:
            raise ValueError(
                f"{where} has an unknown tensor {name!r}: its head holds {' and '.join(wanted)} "
                "only; save or copy it again"
            )
        if tuple(tensors[name].shape) != wanted[name]:
            raise ValueError(
                f"{where}: {name} has shape {tuple(tensors[name].shape)}, the model needs "
                f"{wanted[name]}: use the head that was "
                "trained with this model"
            )
        if not bool(torch.isfinite(tensors[name]).all()):
            raise ValueError(
                f"{where}: {name} holds numbers that are not finite: train the head again, or "
                "copy it again"
            )


def save_head(folder: str | Path, head: ValueHead) -> Path:
    """Write the head's file into `folder`; returns its path."""
    path = Path(folder) / HEAD
    tensors = {
        name: tensor.detach().float().cpu().contiguous()
        for name, tensor in head.state_dict().items()
    }
    save_file(tensors, path, metadata={"format": "pt"})
    return path
