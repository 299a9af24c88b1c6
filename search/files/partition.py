"""Which of many problems a process does, where several share the work (`--shard 2/8`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """The `number`-th of `count` disjoint shares of a sequence; `number` is from 1 to `count`.

    Share 2 of 8 has the items 2, 10, 18 and so on, by their places in the whole: shares differ in
    size by one at most, and a file that is sorted by difficulty is dealt out evenly.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that is written as "2/8". Raises ValueError."""
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if found is None:
            raise ValueError(
                f"cannot read the shard {text!r}: write which one of how many, such as 2/8"
            )
        shard = cls(int(found[1]), int(found[2]))
        if not 1 <= shard.number <= shard.count:
            raise ValueError(
                f"there is no shard {shard}: they are counted from 1, so give 1/{shard.count or 1} "
                f"to {shard.count or 1}/{shard.count or 1}"
            )
        return shard

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """The share of `items`, in their order. Raises ValueError where it is empty."""
        share = items[self.number - 1 :: self.count]
        if not share:
            raise ValueError(
                f"the shard {self} of {len(items)} is empty: give no more shards than there are "
                "problems or traces"
            )
        return share

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


#: all of the work, which nobody shares
WHOLE = Shard(1, 1)
