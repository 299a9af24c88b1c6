"""What a `Score` wants of a text that has been read, from the hidden states of its tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from models.checkpoints.heads import ValueHead, exact_values
from search.scheduling.requests import Score, Scored

BLOCK = 256  # tokens whose logits are computed at once


def score(
    request: Score,
    hidden: torch.Tensor,
    read: Callable[[Any], torch.Tensor],
    head: ValueHead | None,
) -> Scored | None:
    """The reply, None where it holds numbers that are not finite.

    hidden  [tokens, hidden];  read: from indices into the tokens to the logits there, [indices,
            vocabulary]
    """
    tokens = torch.tensor(request.tokens, device=hidden.device)
    positions = list(request.positions)
    log_probs = np.full(len(tokens), np.nan, np.float32)
    if request.log_probs:
        for a in range(0, len(tokens) - 1, BLOCK):
            following = tokens[a + 1 : a + BLOCK + 1]
            stop = a + len(following)
            table = torch.log_softmax(read(slice(a, stop)).float(), -1)
            found = table.gather(1, following[:, None])[:, 0]
            log_probs[a + 1 : stop + 1] = found.cpu().numpy()
    reads = np.full((len(positions), len(request.read)), np.nan, np.float32)
    if request.read:
        for a in range(0, len(positions), BLOCK):
            table = torch.log_softmax(read(positions[a : a + BLOCK]).float(), -1)
            reads[a : a + BLOCK] = table[:, list(request.read)].cpu().numpy()
    if (
        not hidden[[*positions, -1]].isfinite().all()
        or (request.log_probs and np.isnan(log_probs[1:]).any())
        or np.isnan(reads).any()
    ):
        return None
    asked = hidden[positions]
    worth = exact_values(head, asked).astype(np.float32)
    states = asked.float().cpu().numpy() if request.states else None
    return Scored(log_probs, reads, worth, states)
