"""Which problems are for training and which are held back, for the kinds that are generated."""

from __future__ import annotations

from hashlib import blake2b


def split_of(canonical: str) -> str:
    """Of the problem with this canonical form: "train" (90 %), "validation" (5 %) or "test"
    (5 %), by a hash of it.
    """
    bucket = int.from_bytes(blake2b(canonical.encode(), digest_size=8).digest()) % 20
    return {0: "validation", 1: "test"}.get(bucket, "train")
