"""Which keys and values are stored where: token prefixes as a radix tree over the slots of a pool.

A node is a segment of tokens; the path from the root to it is a prefix. Every token of every node owns one slot of the pool, so
what several prefixes share is stored once. A node may also name the hidden state at its end (a row of another table), from which
the first token below it can be drawn without a pass. This module knows neither torch nor models: it deals in slot numbers.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import numpy as np


@dataclass(eq=False, slots=True)
class Segment:
    """A node: `tokens` below `parent`, their pool `slots` (int64 [tokens]), and the row of the hidden state at its end or -1."""

    tokens: tuple[int, ...]
    slots: np.ndarray
    parent: Segment | None
    hidden: int = -1
    last_use: int = 0
    children: dict[int, Segment] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """Longest stored prefix of some tokens.

    length   tokens found;  slots: int64 [length], where their keys and values are
    hidden   row of the hidden state after the last of them, -1 where none is stored
    node     the deepest segment reached (perhaps only in part)
    """

    length: int
    slots: np.ndarray
    hidden: int
    node: Segment


class Tree:
    """Prefixes over a pool of `capacity` slots. When the pool is full the longest unused leaves are forgotten.

    Every slot is at any time either free or owned by exactly one segment, and every hidden row is free or named by one segment
    (`check` verifies it).
    """

    def __init__(self, capacity: int):
        if capacity < 1:
            raise ValueError(f"a pool of {capacity} tokens is impossible: give at least 1")
        self.capacity = capacity
        self.clear()

    def clear(self) -> None:
        """Forget everything (the weights have changed)."""
        self.root = Segment((), np.empty(0, np.int64), None)
        self._free = np.arange(self.capacity - 1, -1, -1, dtype=np.int64)  # a stack: the first `_free_count` entries are free
        self._free_count = self.capacity
        self._free_hidden: list[int] = []
        self._hidden_rows = 0  # rows ever used: the table must have as many
        self._clock = 0

    @property
    def stored(self) -> int:
        """Tokens stored now."""
        return self.capacity - self._free_count

    @property
    def hidden_rows(self) -> int:
        """Rows that the table of hidden states needs."""
        return self._hidden_rows

    def match(self, tokens: tuple[int, ...]) -> Match:
        """The longest stored prefix of `tokens`; its segments count as used now."""
        parts, node, done, whole = self._walk(tokens)
        slots = np.concatenate(parts) if parts else np.empty(0, np.int64)
        return Match(done, slots, node.hidden if whole and done else -1, node)

    def _walk(self, tokens: tuple[int, ...]) -> tuple[list[np.ndarray], Segment, int, bool]:
        """Slots along the way, deepest segment, tokens matched, and whether that segment was matched to its end."""
        self._clock += 1
        node, done, parts, whole = self.root, 0, [], True
        while whole and done < len(tokens):
            child = node.children.get(tokens[done])
            if child is None:
                break
            node = child
            node.last_use = self._clock
            if tokens[done : done + len(node.tokens)] == node.tokens:
                length = len(node.tokens)
            else:
                length, whole = _common(node.tokens, tokens, done), False
            parts.append(node.slots[:length])
            done += length
        return parts, node, done, whole

    def insert(self, tokens: tuple[int, ...], hidden: bool) -> tuple[int, np.ndarray, int]:
        """Store `tokens` as far as the pool allows; returns (start, slots, row).

        start, slots  the caller writes keys and values of `tokens[start : start + len(slots)]` into `slots` (int64)
        row           the caller writes the hidden state after the last token into this row, -1 where it is not wanted: `hidden`
                      is False, it is stored already, or the pool could not take all the tokens
        """
        _, node, done, whole = self._walk(tokens)
        fresh = np.empty(0, np.int64)
        if done < len(tokens):
            fresh = self._take(len(tokens) - done)
            if len(fresh):
                if not whole:
                    node = self._split(node, done)
                child = Segment(tokens[done : done + len(fresh)], fresh, node, last_use=self._clock)
                node.children[child.tokens[0]] = child
                node = child
        elif not whole and hidden:
            node = self._split(node, done)
        if not hidden or done + len(fresh) < len(tokens) or node.hidden >= 0 or node is self.root:
            return done, fresh, -1
        node.hidden = self._take_hidden()
        return done, fresh, node.hidden

    def _split(self, node: Segment, depth: int) -> Segment:
        """Cut `node` where the path has `depth` tokens; returns the new upper half."""
        above, parent = 0, node.parent
        while parent is not None:
            above, parent = above + len(parent.tokens), parent.parent
        cut = depth - above
        assert node.parent is not None and 0 < cut < len(node.tokens)
        upper = Segment(node.tokens[:cut], node.slots[:cut], node.parent, last_use=self._clock)
        node.parent.children[upper.tokens[0]] = upper
        node.tokens, node.slots, node.parent = node.tokens[cut:], node.slots[cut:], upper
        upper.children[node.tokens[0]] = node
        return upper

    def _take(self, count: int) -> np.ndarray:
        """Up to `count` free slots, after evicting leaves that were used before the current clock."""
        if count > self._free_count:
            self._evict(max(count, self.capacity // 16))
        count = min(count, self._free_count)
        self._free_count -= count
        return self._free[self._free_count : self._free_count + count].copy()

    def _take_hidden(self) -> int:
        if self._free_hidden:
            return self._free_hidden.pop()
        self._hidden_rows += 1
        return self._hidden_rows - 1

    def _evict(self, wanted: int) -> None:
        leaves = [(s.last_use, i, s) for i, s in enumerate(self.segments()) if not s.children]
        heapq.heapify(leaves)
        serial = self.capacity
        while leaves and self._free_count < wanted:
            used, _, leaf = heapq.heappop(leaves)
            parent = leaf.parent
            if used >= self._clock or parent is None:
                continue
            del parent.children[leaf.tokens[0]]
            self._free[self._free_count : self._free_count + len(leaf.slots)] = leaf.slots
            self._free_count += len(leaf.slots)
            if leaf.hidden >= 0:
                self._free_hidden.append(leaf.hidden)
            if not parent.children and parent is not self.root:
                serial += 1
                heapq.heappush(leaves, (parent.last_use, serial, parent))

    def segments(self) -> list[Segment]:
        """All segments but the root."""
        found, stack = [], list(self.root.children.values())
        while stack:
            node = stack.pop()
            found.append(node)
            stack.extend(node.children.values())
        return found

    def check(self) -> None:
        """Raise AssertionError if a slot or hidden row is lost or owned twice, or the tree is malformed."""
        segments = self.segments()
        owned = np.concatenate([s.slots for s in segments] + [self._free[: self._free_count]])
        assert np.array_equal(np.sort(owned), np.arange(self.capacity)), "a slot is lost or owned twice"
        rows = sorted([s.hidden for s in segments if s.hidden >= 0] + self._free_hidden)
        assert rows == list(range(self._hidden_rows)), "a hidden row is lost or owned twice"
        for s in segments:
            assert s.parent is not None and s.parent.children[s.tokens[0]] is s and len(s.tokens) == len(s.slots) > 0


def _common(segment: tuple[int, ...], tokens: tuple[int, ...], start: int) -> int:
    """How many leading tokens of `segment` equal `tokens[start:]`."""
    for i, (a, b) in enumerate(zip(segment, tokens[start : start + len(segment)], strict=False)):
        if a != b:
            return i
    return min(len(segment), len(tokens) - start)
