"""The search tree: one root of an arena with its states and steps.

A node is a reached state, an edge a step proposed from it. The edges of a node stand in one
contiguous block; an edge is known by its number in the arena. An edge's child node is made when the
edge is first taken. Visits count at once when a descent passes (an unfinished visit counts as value
0); values are added by `backup`, so visits and sums agree only between rounds.

Sums and values of an edge are in the view of the player who chooses it; the root has an edge of its
own, in the root player's view.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import Any, TypeVar

import numpy as np

from search.scheduling.requests import Avoided
from search.tree import subtree_kernels
from search.tree.descent_kernels import HERE, IN_FLIGHT, ROOM, SECOND
from search.tree.selection import Rule, puct
from search.tree.storage import Arena, check_count, unknown

T = TypeVar("T")

_DEFAULT = puct()
_CLOSED = 1e-30  #: the least that a closed edge has for a prior, below 0


class Tree(Arena):
    """One root, its arena, and the states and steps of a search.

    states        state of each node
    steps         step of each edge; None for the root's own edge, gaps, and blocks that were moved
    finished      node -> reward in [0, 1] of a finished state, None where only the label could tell
    log_probs     of each edge's step, nan where unknown
    drawn         of each node that was asked for steps, what was sampled there (`Proposal.drawn`),
                  illegal steps included, by tokens
    samples       of each node that was given steps, what was drawn of each step of its block: name
                  -> (log-prob, share of the draws)
    exhausted     nothing is left to explore
    independent   the chains are independent samples of the policy, and the visits of a finished
                  node tell how often it was drawn; a method that samples sets it
    proposed, unusable, example   proposals seen, of them illegal or cut off, and one such step
    refused       node -> the illegal steps that were sampled there, and how often each was; a
                  method that samples keeps them
    """

    def __init__(self, state: Any, player: int = 0, discount: float = 1.0, players: int = 1):
        if player not in range(players):
            raise ValueError(
                f"player={player} is none of {players}: give players=2 for a game of two"
            )
        super().__init__(_DEFAULT, players, discount, notes=True)
        self.root(player)
        self.states: list[Any] = [state]
        self.steps: list[Any] = [None] * 4
        self.finished: dict[int, float | None] = {}
        self.log_probs: list[float] = [math.nan] * 4
        self.drawn: dict[int, dict[tuple[int, ...], Avoided]] = {}
        self.samples: dict[int, list[dict[Hashable, tuple[float, float]]]] = {}
        self.exhausted = False
        self.independent = False
        self.proposed = self.unusable = 0
        self.example: Any = None
        self.refused: dict[int, Counter[Any]] = defaultdict(Counter)
        # edge -> state and player behind it, until its node is made
        self._next: dict[int, tuple[Any, int]] = {}
        # nodes never to be widened, and what else would be their unseen probability
        self._full: dict[int, float] = {}

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

        priors  float [old and new edges], of the whole block in its order; each >= 0, sum 1 within
                1e-3 (ValueError)
        values  float [new edges], the policy's own values in [0, 1], nan unknown
        players who moves behind each new edge, 0 or 1; None: who moves at `node`
        """
        old = int(self._nodes[node]["count"])
        count = old + len(steps)
        if values is None:
            values = [math.nan] * len(steps)
        own = np.asarray(values, np.float64)
        outside = (own < 0) | (own > 1)
        if outside.any():
            edge = int(outside.argmax())
            raise ValueError(
                f"the value of edge {old + edge} of node {node} is {own[edge]}: give values in "
                "[0, 1], or nan"
            )
        if players is not None and not set(players) <= set(range(self.players)):
            raise ValueError(
                f"players={list(players)} names others than the {self.players} of this tree: "
                "make it with players=2"
            )
        check_count(count)
        priors = _checked(priors, count, node)
        first = self._block(node, count)
        self._priors(node, first, count, priors)
        for name, fresh in (("sum", 0.0), ("visits", 0), ("child", -1)):
            self._put(first + np.arange(old, count), name, fresh)
        own = np.where(np.isnan(own), unknown(np.arange(old, count)), own.astype(np.float32))
        self._put(first + np.arange(old, count), "value", own.astype(np.float32, copy=False))
        self._nodes[node]["count"] = count
        self.steps[first + old : first + count] = steps
        if log_probs is None:
            log_probs = [math.nan] * len(steps)
        self.log_probs[first + old : first + count] = log_probs
        if players is None:
            players = [self.player(node)] * len(steps)
        for edge, behind in enumerate(zip(states, players, strict=True), first + old):
            self._next[edge] = behind
        self.forget(node)
        return range(first + old, first + count)

    def set_priors(self, node: int, priors: np.ndarray) -> None:
        """Other priors for the edges of `node`: float [edges], each >= 0, sum 1 within 1e-3
        (ValueError).
        """
        count = int(self._nodes[node]["count"])
        self._priors(node, int(self._nodes[node]["first"]), count, _checked(priors, count, node))
        self.forget(node)

    def set_unseen(self, node: int, probability: float) -> None:
        """Say how probable, in [0, 1], the steps of `node` are together that are not proposed
        yet; 0 at a new node.
        """
        if node in self._full:
            self._full[node] = probability
        else:
            self._notes[node] = probability
            self.forget(node)

    def unseen(self, node: int) -> float:
        """What `set_unseen` was given, 0 where the node is never to be widened."""
        return float(self._notes[node])

    def _priors(self, node: int, first: int, count: int, priors: np.ndarray) -> None:
        """Write priors; closed edges stay closed."""
        edges = first + np.arange(count)
        closed = self._get(edges, "prior") < 0
        closed[int(self._nodes[node]["count"]) :] = False
        self._put(edges, "prior", np.where(closed, -np.maximum(priors, _CLOSED), priors))

    def _block(self, node: int, count: int) -> int:
        """Start of a block with room for `count` edges at `node`; an existing block is moved to
        where there is more room if need be.
        """
        record = self._nodes[node]
        first = int(record["first"])
        old = int(record["count"])
        if first >= 0 and count <= self._room_of(node):
            return first
        if first < 0:
            size = (count + 3) // 4 * 4
        else:
            size = max(8, 1 << math.ceil(math.log2(count)))
        self.reserve(0, size)
        start = int(self._sizes[1])
        self._sizes[1] += size
        self.steps.extend([None] * size)
        self.log_probs.extend([math.nan] * size)
        for name in ("sum", "prior", "value", "visits", "child"):
            self._put(start + np.arange(size), name, -1 if name in ("prior", "child") else 0)
            if first >= 0:
                self._put(start + np.arange(old), name, self._get(first + np.arange(old), name))
        if first >= 0:
            self.steps[start : start + old] = self.steps[first : first + old]
            self.log_probs[start : start + old] = self.log_probs[first : first + old]
            self.steps[first : first + old] = [None] * old
            for i in range(old):
                if first + i in self._next:
                    self._next[start + i] = self._next.pop(first + i)
        self._nodes[node]["first"] = start
        self._nodes[node]["room"] = (int(self._nodes[node]["room"]) & ~ROOM) | size // 4
        return start

    def _room_of(self, node: int) -> int:
        return int(self._nodes[node]["room"] & ROOM) * 4

    def open(self, node: int, edge: int) -> int:
        """The node behind `edge` of `node`, made now if it was never taken. No visit is counted."""
        child = self.child(edge)
        if child < 0:
            self.reserve(1, 0)
            child = int(self._sizes[0])
            self._sizes[0] += 1
            place = edge - int(self._nodes[node]["first"])
            self._nodes[child] = (-1, node, 0, place, HERE, 0)
            self._notes[child] = 0.0
            self._put(edge, "child", child)
            self._fill()
        return child

    def _fill(self) -> None:
        """States and players of nodes that were made since the last call."""
        for node in range(len(self.states), int(self._sizes[0])):
            state, player = self._next.pop(self.edge_to(node))
            self.states.append(state)
            self._notes[node] = 0.0
            flag = SECOND if player else 0
            self._nodes[node]["room"] = (int(self._nodes[node]["room"]) & ~SECOND) | flag

    def close(self, node: int) -> None:
        """Never descend to `node` again: there is nothing more to find below it. Its statistics
        stay.
        """
        if node > 0:
            edge = self.edge_to(node)
            self._put(edge, "prior", -max(abs(float(self._get(edge, "prior"))), _CLOSED))
            self.forget(self.parent(node))

    def fill_up(self, node: int) -> None:
        """Never widen `node` again: there are no more steps from it."""
        self._full.setdefault(node, float(self._notes[node]))
        self._notes[node] = 0.0
        self.forget(node)

    def reopen(self) -> None:
        """Open every closed node that is not finished, and let all be widened again."""
        for node in range(1, len(self.states)):
            if node not in self.finished:
                edge = self.edge_to(node)
                self._put(edge, "prior", abs(float(self._get(edge, "prior"))))
        for node, probability in self._full.items():
            self._notes[node] = probability
        self._full.clear()
        self.forget(slice(None))

    # -- simulations

    def select(
        self, k: int, rule: Rule = _DEFAULT, stop_at_collision: bool = False, widen: float = 0.0
    ) -> np.ndarray:
        """A round: up to `k` descents. int32 [descents]: the leaves, in order; each must be given
        to `backup` once.

        widen  weight of the steps not proposed yet: their prior is widen * unseen / (1 + edges);
               where they score best the node is a leaf again
        stop_at_collision  end the round at the first leaf that it reaches twice, without counting
                           that descent
        """
        self.use(rule, widen)
        self.reserve(k, 0)
        leaves = np.empty(k, np.int32)
        roots = np.zeros(1, np.int32)
        done = self.kernels.select(
            self._nodes,
            self._words,
            self._notes,
            self._sizes,
            roots,
            k,
            stop_at_collision,
            self._params,
            leaves,
        )
        self._fill()
        return leaves[:done]

    def backup(
        self, leaves: np.ndarray | Sequence[int], values: np.ndarray | Sequence[float]
    ) -> None:
        """Add values in [0, 1] (of the player who chose the leaf's step) along the paths; nan
        releases the visit.
        """
        leaves = np.asarray(leaves, np.int32)
        values = np.asarray(values, np.float64)
        assert len(leaves) == len(values) and not ((values < 0) | (values > 1)).any(), (
            "values must lie in [0, 1]"
        )
        self.kernels.backup(self._nodes, self._words, self._notes, leaves, values, self._params)

    def extend(self, node: int, edge: int) -> int:
        """Take a pending visit of `node` on along `edge`; returns the node behind it, which must
        be given to `backup` instead.
        """
        child = self.open(node, edge)
        self._nodes[node]["room"] = int(self._nodes[node]["room"]) & ~IN_FLIGHT
        self._put(edge, "visits", self._get(edge, "visits") + 1)
        self.forget(node)
        return child

    def visit(self, node: int, value: float) -> None:
        """One visit of `node` without a descent: counts along its path and adds `value`."""
        passed = node
        while passed >= 0:
            edge = self.edge_to(passed)
            self._put(edge, "visits", self._get(edge, "visits") + 1)
            passed = int(self._nodes[passed]["parent"])
        self.backup([node], [value])

    def reroot(self, node: int) -> None:
        """Make `node` the root: its subtree stays with its statistics, all else is dropped; numbers
        of nodes and edges change.

        Nothing may be in flight. What was found outside the subtree is no longer in `finished` and
        `drawn`.
        """
        before = [self.block(old) for old in range(len(self.nodes))]
        steps = self.steps
        log_probs = self.log_probs
        waiting = self._next
        if node:
            self.reserve(0, 4)
            subtree_kernels.uproot(self._nodes, self._words, self._sizes, node)
        kept = [int(old) for old in self.gather(np.array([node], np.int32))]
        new = {old: i for i, old in enumerate(kept)}
        size = int(self._sizes[1])
        self.steps = [None] * size
        self.log_probs = [math.nan] * size
        self._next = {}
        for i, old in enumerate(kept):
            first = int(self._nodes[i]["first"])
            for place, edge in enumerate(before[old]):
                self.steps[first + place] = steps[edge]
                self.log_probs[first + place] = log_probs[edge]
                if edge in waiting:
                    self._next[first + place] = waiting[edge]
        self.states = [self.states[old] for old in kept]
        self.finished = _renumbered(self.finished, new)
        self.drawn = _renumbered(self.drawn, new)
        self.samples = _renumbered(self.samples, new)
        self._full = _renumbered(self._full, new)

    # -- reading

    def at(self, edge: int, name: str) -> float:
        """A number of an edge: its sum, prior, value (the policy's own, nan unknown), visits or
        child (-1: never taken).
        """
        number = self._get(edge, name)
        return abs(float(number)) if name == "prior" else number.item()

    def child(self, edge: int) -> int:
        """The node behind `edge`, closed ones included; -1 if it was never taken."""
        return int(self._get(edge, "child"))

    def block(self, node: int) -> range:
        """The edges of `node`."""
        first = int(self._nodes[node]["first"])
        return range(first, first + int(self._nodes[node]["count"]))

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

    def chain(self, node: int) -> list[Any]:
        """Steps from the root to `node`."""
        return [self.steps[edge] for edge in self.path(node)]

    def behind(self, edge: int) -> Any:
        """The state behind `edge`, whether its node is made or not."""
        child = self.child(edge)
        return self.states[child] if child >= 0 else self._next[edge][0]

    @property
    def verified(self) -> int | None:
        """The first node whose reward is 1, None while there is none."""
        return next((node for node, reward in self.finished.items() if reward == 1.0), None)


def _renumbered(by_node: dict[int, T], new: dict[int, int]) -> dict[int, T]:
    """The entries of the nodes that are kept, under their new numbers."""
    return {new[old]: entry for old, entry in by_node.items() if old in new}


def _checked(priors: Any, count: int, node: int) -> np.ndarray:
    priors = np.asarray(priors, np.float64)
    if len(priors) != count or not abs(priors.sum() - 1) <= 1e-3 or (priors < 0).any():
        raise ValueError(
            f"priors of all {count} edges of node {node} must be given and sum to 1, not "
            f"{priors.tolist()}"
        )
    return priors
