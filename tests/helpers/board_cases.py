"""Networks for boards with random weights."""

from __future__ import annotations

import torch

from models import BoardNet

HEX = "search.problems.hex:Hex"


def random_net(size: int = 3, seed: int = 0, **shape) -> BoardNet:
    """A network whose heads say something."""
    net = BoardNet(
        (2, size, size), size * size, seed=seed, kinds=(HEX,), **{"width": 16, "depth": 2, **shape}
    )
    random = torch.Generator().manual_seed(seed)
    for weights in net.parameters():
        torch.nn.init.normal_(weights.data, std=0.5, generator=random)
    return net
