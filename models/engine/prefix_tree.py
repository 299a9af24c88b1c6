"""Which keys and values are stored where: all texts as one tree of tokens over the cells of a pool.

A token below a prefix has one cell, whichever row reads or draws it: what several texts share is
stored once and read once. A running text holds its cells; a cell that no text holds stays until its
room is wanted. This module knows neither torch nor models: it deals in numbers of cells.
"""

from __future__ import annotations

import numpy as np

from models.engine import prefix_tree_kernels
from models.engine.prefix_tree_kernels import (
    CLOCK,
    EVER,
    FREE,
    FREE_COUNT,
    HELD,
    HOLDS,
    KIDS,
    LIVE,
    PARENT,
    READY,
    TOKEN,
)

ROOT = -1  # of all texts that share; one that shares with none has a root of its own, below
_ALONE = 1 << 30  # roots of texts that share with none are above -_ALONE, those of scopes below


def root_of(scope: int) -> int:
    """The root of the texts of a scope; `ROOT` of the scope of all, 0."""
    return ROOT if scope == 0 else -_ALONE - 1 - scope % (_ALONE - 1)


class PrefixTree:
    """Texts over a pool of `capacity` cells. When it is full the longest unused ends of texts
    that none holds are forgotten.
    """

    def __init__(self, capacity: int):
        if capacity < 1:
            raise ValueError(f"a pool of {capacity} tokens is impossible: give at least 1")
        self.capacity = capacity
        self._nodes = np.zeros((8, capacity), np.int32)
        self._used = np.zeros(capacity, np.int64)
        self._heads = np.empty(1 << capacity.bit_length(), np.int32)
        self._counts = np.zeros(4, np.int64)
        self._tree = (self._nodes, self._used, self._heads, self._counts)
        self.clear()

    def clear(self) -> None:
        """Forget everything (the weights have changed); nothing may be held."""
        self._nodes[LIVE] = 0
        self._nodes[FREE] = np.arange(self.capacity - 1, -1, -1)
        self._heads[:] = -1
        self._counts[FREE_COUNT] = self.capacity
        self._counts[HELD] = 0

    @property
    def held(self) -> int:
        """Slots that running texts hold."""
        return int(self._counts[HELD])

    @property
    def stored(self) -> int:
        """Slots in use."""
        return self.capacity - int(self._counts[FREE_COUNT])

    @property
    def ever(self) -> int:
        """Slots that were given out so far: distinct tokens, and again those that were forgotten
        in between.
        """
        return int(self._counts[EVER])

    @property
    def ready(self) -> np.ndarray:
        """int32 [capacity]: 1 where a cell's keys and values are there."""
        return self._nodes[READY]

    @property
    def tokens(self) -> np.ndarray:
        """int32 [capacity]: the token in each cell."""
        return self._nodes[TOKEN]

    def look(self, tokens: np.ndarray, root: int = ROOT) -> tuple[int, int]:
        """How many of `tokens` (int64) are there already, and how many cells `join` would make
        held.
        """
        present, fresh = prefix_tree_kernels.look(*self._tree, tokens, root)
        return present, fresh

    def join(self, tokens: np.ndarray, present: int, cells: np.ndarray, root: int = ROOT) -> None:
        """Hold a text, of which `present` tokens are there already (`look`), and write where its
        tokens are into `cells`, int32 [tokens].

        Raises MemoryError where the pool has no room beside what is held.
        """
        self._counts[CLOCK] += 1
        prefix_tree_kernels.join(*self._tree, tokens, root, 0, present, cells)
        self._make_room(len(tokens) - present)
        prefix_tree_kernels.join(*self._tree, tokens, root, present, len(tokens), cells)

    def step(self, parents: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Let held texts that end in cells `parents` grow by a token each, both int64: the cells of
        these, int64, held.

        Raises MemoryError where the pool has no room beside what is held.
        """
        self._counts[CLOCK] += 1
        self._make_room(len(parents))
        cells = np.empty(len(parents), np.int64)
        prefix_tree_kernels.step(*self._tree, parents, tokens, cells)
        return cells

    def leave(self, cells: np.ndarray) -> None:
        """Let go of a text. cells: int32, its cells."""
        prefix_tree_kernels.leave(*self._tree, cells)

    def _make_room(self, count: int) -> None:
        if count <= self._counts[FREE_COUNT]:
            return
        unused = np.flatnonzero((self._nodes[LIVE] == 1) & (self._nodes[HOLDS] == 0))
        order = unused[np.argsort(self._used[unused], kind="stable")]
        if prefix_tree_kernels.evict(*self._tree, order, max(count, self.capacity // 16)) < count:
            free = self._counts[FREE_COUNT]
            raise MemoryError(
                f"{count} cells are wanted and {free} of {self.capacity} are free, {self.held} held"
            )

    def check(self, texts: list[np.ndarray]) -> None:
        """Raise AssertionError if a cell is lost or counted wrongly, or the tree is malformed.
        texts: the cells of each running text.
        """
        nodes = self._nodes
        live = np.flatnonzero(self._nodes[LIVE])
        free = nodes[FREE, : self._counts[FREE_COUNT]]
        assert np.array_equal(np.sort(np.concatenate([free, live])), np.arange(self.capacity)), (
            "a cell is lost or owned twice"
        )
        holds = np.zeros(self.capacity, np.int64)
        kids = np.zeros(self.capacity, np.int64)
        for text in texts:
            holds[text] += 1
        assert np.array_equal(holds[live], nodes[HOLDS, live]) and self.held == (holds > 0).sum(), (
            "held cells are counted wrongly"
        )
        parents = nodes[PARENT, live]
        np.add.at(kids, parents[parents >= 0], 1)
        assert (
            np.array_equal(kids[live], nodes[KIDS, live])
            and nodes[LIVE, parents[parents >= 0]].all()
        ), "a parent is gone"
        pairs = {(int(p), int(t)) for p, t in zip(parents, nodes[TOKEN, live], strict=True)}
        assert len(pairs) == len(live), "a token below a prefix has two cells"
        for parent, token, cell in zip(
            parents.tolist(), nodes[TOKEN, live].tolist(), live.tolist(), strict=True
        ):
            assert prefix_tree_kernels.find(nodes, self._heads, parent, token) == cell, (
                "a cell is not found"
            )
