"""The search tree: one arena of nodes and edges, the kernels that walk it, and `Tree`, one root with its states and steps.

A node is a reached state, an edge a step proposed from it. The edges of a node stand in one contiguous block. An edge's child node
is made when the edge is first taken. Visits count at once when a descent passes (an unfinished visit counts as value 0); values are
added by `backup`, so visits and sums agree only between rounds.

Sums and values of an edge are in the view of the player who chooses it; the root has an edge of its own, in the root player's view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from search import kernels
from search.kernels import EDGE, FULL, NODE, SECOND
from search.requests import Avoided


class Tree:
    """One root, its arena, and the states and steps of a search.

    nodes, edges  the arena's records in use (`NODE`, `EDGE`)
    states        state of each node
    steps         step of each edge; None for the root's own edge and for blocks that were moved
    finished      node -> reward in [0, 1] of a finished state, None where only the label could tell
    log_probs     of each edge's step, nan where unknown
    drawn         of each node that was asked for steps, what was sampled there (`Proposal.drawn`), illegal steps included, by tokens
    exhausted     nothing is left to explore
    proposed, unusable, example   proposals seen, of them illegal or cut off, and one such step
    """

    def __init__(self, state: Any, player: int = 0, discount: float = 1.0):
        self._nodes, self._edges = np.zeros(16, NODE), np.zeros(64, EDGE)
        self._sizes = np.array([1, 1], np.int64)
        self._nodes[0] = (-1, 0, 0, SECOND if player else 0, 0, -1, 0.0)
        self._edges[0] = (0.0, 1.0, math.nan, 0, 0)
        self.discount = discount
        self.states: list[Any] = [state]
        self.steps: list[Any] = [None]
        self.finished: dict[int, float | None] = {}
        self.log_probs: list[float] = [math.nan]
        self.drawn: dict[int, dict[tuple[int, ...], Avoided]] = {}
        self.exhausted = False
        self.proposed = self.unusable = 0
        self.example: Any = None
        self._next: dict[int, tuple[Any, int]] = {}  # edge -> state and player behind it, until its node is made

    @property
    def nodes(self) -> np.ndarray:
        return self._nodes[: self._sizes[0]]

    @property
    def edges(self) -> np.ndarray:
        return self._edges[: self._sizes[1]]

    # -- growing

    def add(
        self,
        node: int,
        steps: Sequence[Any],
        states: Sequence[Any],
        priors: np.ndarray,
        values: Sequence[float] | None = None,
        log_probs: Sequence[float] | None = None,
        players: Sequence[int] | None = None,
    ) -> range:
        """Give `node` new edges, behind those it has; returns the new edges.

        priors  float [old and new edges], of the whole block in its order; each > 0, sum 1 within 1e-3 (ValueError)
        values  float [new edges], the policy's own values in [0, 1], nan unknown
        """
        record = self._nodes[node]
        old, count = int(record["count"]), int(record["count"]) + len(steps)
        priors = np.asarray(priors, np.float64)
        if len(priors) != count or abs(priors.sum() - 1) > 1e-3 or (priors < 0).any():
            raise ValueError(f"priors of all {count} edges must be given and sum to 1, not {priors.tolist()}")
        if count > 65_535:
            raise ValueError(f"a node cannot have {count} edges: 65,535 is the most")
        first = self._room(node, count)
        block = self._edges[first : first + count]
        block["prior"] = priors
        fresh = block[old:]
        fresh["sum"], fresh["visits"], fresh["child"] = 0.0, 0, -1
        fresh["value"] = math.nan if values is None else values
        self.steps[first + old : first + count] = steps
        self.log_probs[first + old : first + count] = [math.nan] * len(steps) if log_probs is None else log_probs
        mover = int(record["flags"]) & SECOND
        for i, state in enumerate(states):
            self._next[first + old + i] = (state, players[i] if players is not None else mover)
        record["count"] = count
        return range(first + old, first + count)

    def set_unseen(self, node: int, probability: float) -> None:
        """Tell how probable, in [0, 1], the steps of `node` are together that are not proposed yet; 0 at a new node."""
        self._nodes[node]["unseen"] = probability

    def _room(self, node: int, count: int) -> int:
        """Start of a block with room for `count` edges at `node`; an existing block is moved to a larger place if need be."""
        record = self._nodes[node]
        first, old, room = int(record["first"]), int(record["count"]), int(record["room"])
        if first >= 0 and count <= (1 << room if room else old):
            return first
        room = 0 if first < 0 else max(2, math.ceil(math.log2(count)))
        size = count if not room else 1 << room
        start = int(self._sizes[1])
        if start + size > len(self._edges):
            self._edges = np.concatenate([self._edges, np.zeros(max(len(self._edges), size), EDGE)])
        self._sizes[1] += size
        self._edges[start : start + size]["child"] = -1
        self.steps.extend([None] * size)
        self.log_probs.extend([math.nan] * size)
        if first >= 0:
            self._edges[start : start + old] = self._edges[first : first + old]
            self.steps[start : start + old] = self.steps[first : first + old]
            self.log_probs[start : start + old] = self.log_probs[first : first + old]
            self.steps[first : first + old] = [None] * old
            for i in range(old):
                if first + i in self._next:
                    self._next[start + i] = self._next.pop(first + i)
                child = self.child(start + i)
                if child >= 0:
                    self._nodes[child]["edge"] = start + i
        record["first"], record["room"] = start, room
        return start

    def _reserve(self, nodes: int) -> None:
        if self._sizes[0] + nodes > len(self._nodes):
            self._nodes = np.concatenate([self._nodes, np.zeros(max(len(self._nodes), nodes), NODE)])

    def open(self, node: int, edge: int) -> int:
        """The node behind `edge` of `node`, made now if it was never taken. No visit is counted."""
        child = self.child(edge)
        if child < 0:
            self._reserve(1)
            child = int(self._sizes[0])
            self._sizes[0] += 1
            self._nodes[child] = (-1, 0, 0, 0, edge, node, 0.0)
            self._edges[edge]["child"] = child
            self._fill()
        return child

    def _fill(self) -> None:
        """States and players of nodes that were made since the last call."""
        for node in range(len(self.states), int(self._sizes[0])):
            state, player = self._next.pop(int(self._nodes[node]["edge"]))
            self.states.append(state)
            self._nodes[node]["flags"] |= SECOND if player else 0

    def close(self, node: int) -> None:
        """Never descend to `node` again: its subtree has nothing more to tell. Its statistics stay."""
        edge = int(self._nodes[node]["edge"])
        if edge and self._edges[edge]["child"] >= 0:
            self._edges[edge]["child"] = -2 - node

    def fill_up(self, node: int) -> None:
        """Never widen `node` again: there are no more steps from it."""
        self._nodes[node]["flags"] |= FULL

    def reopen(self) -> None:
        """Open every closed node that is not finished, and let all be widened again."""
        for node in range(1, len(self.states)):
            if node not in self.finished:
                self._edges[self._nodes[node]["edge"]]["child"] = node
        self.nodes["flags"] &= ~np.uint8(FULL)

    # -- simulations

    def select(
        self, k: int, c: float = 1.25, fpu_reduction: float = 0.0, stop_at_collision: bool = False, widen: float = 0.0
    ) -> np.ndarray:
        """A round: up to `k` descents by PUCT. int32 [descents]: the leaves, in order; each must be given to `backup` once.

        widen  weight of the steps not proposed yet: their prior is widen * unseen / (1 + edges); where they score best the node is a
               leaf again
        stop_at_collision  end the round at the first leaf that it reaches twice, and undo that descent
        """
        self._reserve(k)
        leaves = np.empty(k, np.int32)
        done = kernels.select(self._nodes, self._edges, self._sizes, 0, k, c, fpu_reduction, widen, stop_at_collision, leaves)
        self._fill()
        return leaves[:done]

    def backup(self, leaves: np.ndarray | Sequence[int], values: np.ndarray | Sequence[float]) -> None:
        """Add values in [0, 1] (of the player who chose the leaf's step) along the paths; nan releases the visit."""
        leaves, values = np.asarray(leaves, np.int32), np.asarray(values, np.float64)
        assert len(leaves) == len(values) and not ((values < 0) | (values > 1)).any(), "values must lie in [0, 1]"
        kernels.backup(self._nodes, self._edges, leaves, values, self.discount)

    def visit(self, node: int, value: float) -> None:
        """One visit of `node` without a descent: counts along its path and adds `value`."""
        for edge in self.path(node):
            self._edges[edge]["visits"] += 1
        self._edges[0]["visits"] += 1
        self.backup([node], [value])

    # -- reading

    def child(self, edge: int) -> int:
        """The node behind `edge`, closed ones included; -1 if it was never taken."""
        child = int(self._edges[edge]["child"])
        return child if child >= -1 else -2 - child

    def block(self, node: int) -> range:
        """The edges of `node`."""
        first, count = int(self._nodes[node]["first"]), int(self._nodes[node]["count"])
        return range(first, first + count) if count else range(0)

    def is_open(self, edge: int) -> bool:
        return bool(self._edges[edge]["child"] >= -1)

    def path(self, node: int) -> list[int]:
        """Edges from the root to `node`."""
        edges: list[int] = []
        while node > 0:
            edges.append(int(self._nodes[node]["edge"]))
            node = int(self._nodes[node]["parent"])
        return edges[::-1]

    def depth(self, node: int) -> int:
        return len(self.path(node))

    def chain(self, node: int) -> list[Any]:
        """Steps from the root to `node`."""
        return [self.steps[edge] for edge in self.path(node)]

    def parent(self, node: int) -> int:
        return int(self._nodes[node]["parent"])

    def visits(self, node: int) -> int:
        return int(self._edges[self._nodes[node]["edge"]]["visits"])

    def mean(self, node: int) -> float:
        """Mean of the values backed up through the node's edge, in [0, 1]; nan without visits."""
        edge = self._edges[self._nodes[node]["edge"]]
        return float(edge["sum"] / edge["visits"]) if edge["visits"] else math.nan

    def value(self, node: int) -> float:
        """The policy's own value of the node's edge, in [0, 1]; nan unknown."""
        return float(self._edges[self._nodes[node]["edge"]]["value"])

    def behind(self, edge: int) -> Any:
        """The state behind `edge`, whether its node is made or not."""
        child = self.child(edge)
        return self.states[child] if child >= 0 else self._next[edge][0]

    @property
    def verified(self) -> int | None:
        """The first node whose reward is 1, None while there is none."""
        return next((node for node, reward in self.finished.items() if reward == 1.0), None)
