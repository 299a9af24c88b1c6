"""Where two texts part, and where one ends."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any


def common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many items two sequences share at their beginning."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def parting(one: Sequence[Any], other: Sequence[Any]) -> int | None:
    """The first place in which two sequences differ, from 0; None where one only ends earlier."""
    place = common(one, other)
    return place if place < min(len(one), len(other)) else None


def length(tokens: Sequence[int], ends: Collection[int]) -> int:
    """Tokens until the first end, which counts."""
    for place, token in enumerate(tokens, 1):
        if token in ends:
            return place
    return len(tokens)


def ends_of(model: Any) -> set[int]:
    """The tokens that end a text of a model of transformers."""
    ends = model.generation_config.eos_token_id
    return set(ends if isinstance(ends, list) else [ends])
