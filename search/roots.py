"""An arena with numbered roots, and what can be read of them."""

from __future__ import annotations

import numpy as np

from search import replant
from search.arena import Arena
from search.kernels import ROOM


class Roots(Arena):
    """Trees whose steps are moves: whole numbers from 0 to `moves`.

    roots  int32 [trees]: the node of each
    """

    roots: np.ndarray
    moves: int

    def root_visits(self) -> np.ndarray:
        """int32 [trees, moves]."""
        return self._read()[0]

    def root_values(self) -> np.ndarray:
        """float64 [trees, moves]: mean value of each move for who makes it, nan where it was not taken."""
        visits, sums, _ = self._read()
        return np.where(visits > 0, sums / np.maximum(visits, 1), np.nan)

    def root_priors(self) -> np.ndarray:
        """float32 [trees, moves]; 0 where there is no such edge."""
        return self._read()[2]

    def root_means(self) -> np.ndarray:
        """float64 [trees]: mean value of each root for the player who moves there, its own evaluation included."""
        return np.array([self.own(int(root), "sum") / max(int(self.own(int(root), "visits")), 1) for root in self.roots])

    def principal_variation(self, tree: int) -> list[int]:
        """The most visited moves from the root of a tree on, the lowest of equals."""
        node, line = int(self.roots[tree]), []
        while self._nodes[node]["count"]:
            visits, children, values = (self.field(node, name) for name in ("visits", "child", "value"))
            moves = values.view(np.int32) & 65_535
            best = min(range(len(visits)), key=lambda slot: (-visits[slot], moves[slot]))
            if visits[best] == 0:
                break
            line.append(int(moves[best]))
            node = int(children[best])
        return line

    def parents(self, nodes: np.ndarray) -> np.ndarray:
        """int32 [n], negative for roots."""
        return self._nodes["parent"][nodes]

    def moves_of(self, nodes: np.ndarray) -> np.ndarray:
        """int32 [n]: the move that led to each node."""
        return np.array([int(self.own(int(node), "value").view(np.int32)) & 65_535 for node in nodes], np.int32)

    def _read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = (len(self.roots), self.moves)
        visits, sums, priors = np.zeros(shape, np.int32), np.zeros(shape), np.zeros(shape, np.float32)
        replant.read(self._nodes, self._words, self.roots, visits, sums, priors)
        return visits, sums, priors

    def _slot_of(self, node: int, move: int) -> int | None:
        """The slot of a move, looked at or not."""
        record = self._nodes[node]
        if record["first"] < 0:
            return None
        edges = np.arange(int(record["room"] & ROOM) * 4) + int(record["first"])
        there = self._get(edges, "prior") >= 0
        found = np.flatnonzero(there & (self._get(edges, "value").view(np.int32) & 65_535 == move))
        return int(found[0]) if len(found) else None
