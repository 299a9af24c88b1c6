"""The losses of preferences: pure functions of a batch of trees (`guides.data.examples.collate`).

    x = log(p / q) of the preferred text - log(p / q) of the other, p: the policy, q: the reference
    "dpo"  -log sigmoid(beta x)        (Rafailov et al. 2023, eq. 7)
    "ipo"  (x - 1 / (2 beta))^2        (Azar et al. 2024, eq. 17, with tau = beta)

What the two texts of a pair have in common stands in a tree once and is no part of the sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from guides.training.options import PreferenceLoss


def paths(batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """bool [pairs, tokens] each: the tokens of the preferred text of each pair, and of the other,
    without those that both have.
    """
    rows, better, worse = batch["pairs"].unbind(1)
    ends = batch["ends"][rows]
    place = torch.arange(ends.shape[1], device=ends.device)

    def above(last: torch.Tensor) -> torch.Tensor:
        return (place <= last[:, None]) & (last[:, None] < ends)

    return above(better) & ~above(worse), above(worse) & ~above(better)


def paired(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """bool [rows, tokens]: the tokens that any pair's log-probs are the sums of."""
    ours, theirs = paths(batch)
    times = torch.zeros(batch["tokens"].shape, dtype=torch.int64, device=ours.device)
    return times.index_add(0, batch["pairs"][:, 0], (ours | theirs).long()) > 0


def preference_loss(
    log_probs: torch.Tensor, batch: Mapping[str, torch.Tensor], loss: PreferenceLoss
) -> torch.Tensor:
    """The sum of the loss over the pairs of a batch, a float32 scalar.

    log_probs  float32 [rows, tokens], of the tokens that are `paired`; 0 elsewhere
    batch      with "reference", the same of the reference
    """
    rows = batch["pairs"][:, 0]
    ratios = (log_probs - batch["reference"])[rows]
    sums = []
    for own in paths(batch):
        summed = torch.where(own, ratios, 0.0).sum(1)
        sums.append(summed / own.sum(1) if loss.per_token else summed)
    ahead = sums[0] - sums[1]
    if loss.kind == "ipo":
        return ((ahead - 1 / (2 * loss.beta)) ** 2).sum()
    return -nn.functional.logsigmoid(loss.beta * ahead).sum()
