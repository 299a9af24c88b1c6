"""A small policy-value network for board positions, its files, and the backend that answers
`Forward` requests with it.

A folder of such a network holds boardnet.json (`SHAPE`, and the problem classes it was trained on)
and boardnet.safetensors.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from models.checkpoints.digests import check_digests, write_digests
from search.scheduling.requests import Cancelled, Forward, Reply, Request, Usage

NOTES = "boardnet.json"
WEIGHTS = "boardnet.safetensors"
#: what makes the network: list of ints, and three ints
SHAPE = ("planes", "moves", "width", "depth")
#: passes have a multiple of this many rows: products of other shapes differ in their last bits
ROWS = 16
MOST = 4096  #: rows of one product
PRECISION = 2.0**-16  #: results are rounded to this, for the same reason


class BoardNet(nn.Module):
    """Fully connected residual network whose blocks begin as the identity (ReZero; Bachlechner et
    al. 2020), as in Jones (2021).

    planes  shape of one position, such as (2, 3, 3);  moves: logits of the policy;  width, depth:
            of the residual blocks
    seed    of the weights; both heads begin at 0: a uniform policy, and 1/2 as every value
    kinds   problem classes ("module:Class") it is trained on
    """

    def __init__(
        self,
        planes: Sequence[int],
        moves: int,
        width: int = 64,
        depth: int = 3,
        seed: int = 0,
        kinds: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if min(*planes, moves, width, depth) < 1:
            raise ValueError(
                f"a network of planes {list(planes)}, {moves} moves, width {width}, depth "
                f"{depth} is none: give numbers above 0"
            )
        self.planes = tuple(planes)
        self.moves = moves
        self.width = width
        self.depth = depth
        self.kinds = tuple(kinds)
        random = torch.Generator().manual_seed(seed)
        self.enter = _linear(math.prod(planes), width, random)
        self.blocks = nn.ModuleList(_linear(width, width, random) for _ in range(depth))
        self.gains = nn.Parameter(torch.zeros(depth))
        self.policy = _linear(width, moves, None)
        self.value = _linear(width, 1, None)

    def forward(self, planes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Planes float32 [n, *planes] to logits of the moves, float32 [n, moves], and of the
        mover's winning, float32 [n].
        """
        x = torch.relu(self.enter(planes.flatten(1)))
        for block, gain in zip(self.blocks, self.gains, strict=True):
            x = x + gain * torch.relu(block(x))
        return self.policy(x), self.value(x)[:, 0]

    def notes(self) -> dict[str, Any]:
        """What boardnet.json says."""
        return {
            "format": 1,
            "kinds": list(self.kinds),
            **{name: getattr(self, name) for name in SHAPE},
            "planes": list(self.planes),
        }

    @property
    def version(self) -> str:
        """16 hex digits: SHA-256 of notes and weights."""
        digest = hashlib.sha256(json.dumps(self.notes(), sort_keys=True).encode())
        for name, weights in sorted(self.state_dict().items()):
            digest.update(name.encode() + weights.detach().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: str | Path) -> Path:
        """Write the two files into `folder`, which is made where it is missing."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = self.state_dict()
        save_file(
            {name: state[name].detach().cpu().contiguous() for name in state}, folder / WEIGHTS
        )
        write_digests(folder)
        (folder / NOTES).write_text(json.dumps(self.notes(), indent=2) + "\n")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> BoardNet:
        """The network of a folder. Raises ValueError, saying what to do, where its files are
        missing, broken or do not fit.
        """
        folder = Path(folder)
        remedy = "give a folder that `copse train hex` wrote, such as best/ of its --out"
        try:
            notes = json.loads((folder / NOTES).read_text())
            if notes["format"] != 1:
                raise ValueError(f"format {notes['format']!r} is not 1")
            check_digests(folder)
            state = load_file(folder / WEIGHTS)
            most = sum(weights.numel() for weights in state.values())
            if max(*notes["planes"], notes["moves"], notes["width"], notes["depth"]) > most:
                raise ValueError(f"{NOTES} tells of a larger network than the weights are of")
            net = cls(**{name: notes[name] for name in SHAPE}, kinds=notes["kinds"])
            net.load_state_dict(state)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise ValueError(
                f"there is no board network in {folder} ({reason}): {remedy}"
            ) from error
        if not all(weights.isfinite().all() for weights in net.parameters()):
            raise ValueError(
                f"the board network in {folder} has weights that are no numbers: {remedy}"
            )
        return net


def _linear(inputs: int, outputs: int, random: torch.Generator | None) -> nn.Linear:
    """A layer that leaves the global random numbers alone; without `random`, all zeros."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    nn.init.zeros_(layer.bias)
    if random is None:
        nn.init.zeros_(layer.weight)
    else:
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=random)
    return layer


def _rounded(numbers: torch.Tensor) -> np.ndarray:
    return ((numbers / PRECISION).round() * PRECISION).cpu().numpy()


class Boards:
    """Backend of one network: each pass answers all `Forward` requests that wait.

    The planes of a request are float32 [*planes], one position, or [n, *planes]. Its result: logits
    of the policy, float32 [n, moves], and the mover's chances, float32 [n] in [0, 1], n = 1 for one
    position; not finite where the network gives no number.
    """

    computes = True
    wake: threading.Event | None = None

    def __init__(self, net: BoardNet, device: str = "cpu"):
        self.net = net.to(device).eval()
        self.device = device
        self.lock = threading.Lock()
        self.total_passes = self.total_rows = 0
        self._flops = 2.0 * sum(weights.numel() for weights in net.parameters())  # of one row
        self._waiting: list[Request] = []
        self._cancelled: list[Request] = []

    def submit(self, request: Request) -> None:
        """Queue a request. One that this network cannot read is answered with a ValueError."""
        self._waiting.append(request)

    def poll(self, seconds: float = 0.0) -> list[Reply]:
        """One pass over all that waits."""
        replies = [
            Reply(request, error=Cancelled("cancelled before it was answered"))
            for request in self._cancelled
        ]
        parts: dict[Request, np.ndarray] = {}
        for request in self._waiting:
            try:
                parts[request] = self._planes(request)
            except ValueError as error:
                replies.append(Reply(request, error=error))
        self._waiting = []
        self._cancelled = []
        if not parts:
            return replies
        planes = np.concatenate(list(parts.values()))
        policy, values = self._pass(planes)
        self.total_passes += 1
        self.total_rows += len(planes)
        end = 0
        slots = -(-len(planes) // ROWS) * ROWS
        for request, part in parts.items():
            begin = end
            end += len(part)
            flops = self._flops * len(part)
            usage = Usage(calls=1, flops=flops, passes=1, rows=len(planes), slots=slots)
            replies.append(Reply(request, (policy[begin:end], values[begin:end]), usage=usage))
        return replies

    def _planes(self, request: Request) -> np.ndarray:
        """[positions, *planes] of a request. Raises ValueError for one that cannot be read."""
        if not isinstance(request, Forward):
            raise ValueError(
                f"a board network cannot answer {type(request).__name__}: send it Forward "
                "requests only"
            )
        shape = np.shape(request.planes)
        lead = shape[: max(0, len(shape) - len(self.net.planes))]
        if shape[len(lead) :] != self.net.planes or len(lead) > 1 or 0 in lead:
            raise ValueError(
                f"this network reads planes {list(self.net.planes)}, not {list(shape)}: load "
                "one that was trained for this size of board"
            )
        return np.reshape(request.planes, (-1, *self.net.planes))

    def _pass(self, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits float32 [n, moves] and chances float32 [n]."""
        padded = np.zeros((-(-len(planes) // ROWS) * ROWS, *self.net.planes), np.float32)
        padded[: len(planes)] = planes
        with torch.inference_mode():
            whole = torch.from_numpy(padded)
            parts = [self.net(part.to(self.device)) for part in whole.split(MOST)]
            policy, odds = map(torch.cat, zip(*parts, strict=True))
            return _rounded(policy)[: len(planes)], _rounded(odds.sigmoid())[: len(planes)]

    def cancel(self, request: Request) -> None:
        """Give a waiting request up; idempotent."""
        if request in self._waiting:
            self._waiting.remove(request)
            self._cancelled.append(request)

    def close(self) -> None:
        """Drop what waits; idempotent."""
        self._waiting.clear()
        self._cancelled.clear()
