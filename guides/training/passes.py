"""What is read at once in training: a batch is computed in passes that fit into memory, and its
gradient is the sum of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: bytes that a pass may keep for its backward pass, by the estimate of `most_tokens`
MEMORY = 8 << 30
#: float32 numbers that are kept of each token: so many times the hidden size a layer, and so many
#: times the vocabulary. Measured on models of the Llama type with 3 and 135 million parameters
A_LAYER = 28
A_VOCABULARY = 3


def most_tokens(model: PreTrainedModel) -> int:
    """How many tokens, padding included, a training pass of `model` may have."""
    config = model.config.get_text_config()
    layers = A_LAYER * config.num_hidden_layers * config.hidden_size
    return max(1, MEMORY // (4 * (layers + A_VOCABULARY * config.vocab_size)))


def passes(batch: Mapping[str, torch.Tensor], most: int) -> Iterator[dict[str, torch.Tensor]]:
    """The batch (`guides.data.examples.collate`) in parts of neighbouring rows, each with at most
    `most` tokens, padding included, or of one row.
    """
    lengths = (batch["ends"] > 0).sum(1).tolist()
    start = longest = 0
    for row, length in enumerate(lengths):
        if row > start and max(longest, length) * (row + 1 - start) > most:
            yield _part(batch, start, row, longest)
            start = row
            longest = 0
        longest = max(longest, length)
    yield _part(batch, start, len(lengths), longest)


def _part(
    batch: Mapping[str, torch.Tensor], start: int, stop: int, longest: int
) -> dict[str, torch.Tensor]:
    """Rows `start` to `stop` without the padding that none of them needs."""
    part = {}
    for name, array in batch.items():
        if name != "pairs":
            part[name] = array[start:stop, :longest]
    pairs = batch["pairs"]
    pairs = pairs[(pairs[:, 0] >= start) & (pairs[:, 0] < stop)]
    part["pairs"] = pairs - pairs.new_tensor([start, 0, 0])
    return part
