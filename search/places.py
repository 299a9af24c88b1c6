"""An arena of one tree, read edge by edge: an edge is known by its place in the arena, a node by its number."""

from __future__ import annotations

import math

from search.arena import Arena
from search.kernels import ROOM, SECOND


class Places(Arena):
    """What can be asked of a tree without knowing its states and steps. The root is node 0, its own edge 0."""

    def at(self, edge: int, name: str) -> float:
        """A number of an edge: its sum, prior, value (the policy's own, nan unknown), visits or child (-1: never taken)."""
        number = self._get(edge, name)
        return abs(float(number)) if name == "prior" else number.item()

    def child(self, edge: int) -> int:
        """The node behind `edge`, closed ones included; -1 if it was never taken."""
        return int(self._get(edge, "child"))

    def block(self, node: int) -> range:
        """The edges of `node`."""
        first, count = int(self._nodes[node]["first"]), int(self._nodes[node]["count"])
        return range(first, first + count) if count else range(0)

    def is_open(self, edge: int) -> bool:
        return bool(self._get(edge, "prior") >= 0)

    def path(self, node: int) -> list[int]:
        """Edges from the root to `node`."""
        edges: list[int] = []
        while node > 0:
            edges.append(self.edge_to(node))
            node = int(self._nodes[node]["parent"])
        return edges[::-1]

    def depth(self, node: int) -> int:
        return len(self.path(node))

    def parent(self, node: int) -> int:
        """-1: the root has none."""
        return max(-1, int(self._nodes[node]["parent"]))

    def player(self, node: int) -> int:
        """0 or 1: who moves at `node`."""
        return int(bool(self._nodes[node]["room"] & SECOND))

    def visits(self, node: int) -> int:
        return int(self.own(node, "visits"))

    def mean(self, node: int) -> float:
        """Mean of the values backed up through the node's edge, in [0, 1]; nan without visits."""
        visits = self.visits(node)
        return float(self.own(node, "sum")) / visits if visits else math.nan

    def value(self, node: int) -> float:
        """The policy's own value of the node's edge, in [0, 1]; nan unknown."""
        return float(self.own(node, "value"))

    def _room_of(self, node: int) -> int:
        return int(self._nodes[node]["room"] & ROOM) * 4
