"""Many trees in one arena: searched whole in one call (fused), or leaf by leaf for a batched
evaluator outside (split).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from search.tree import subtree_kernels
from search.tree.descent_kernels import FULL, NO_OUTCOME, NO_VALUE, OK, ROOM, SECOND
from search.tree.game_kernels import Game, GameKernels, fuse
from search.tree.selection import Rule, puct
from search.tree.storage import Arena, check_count, check_rows

_OUTCOMES = (
    "give 1 for a win of the player who just moved, 0 for a loss and 0.5 for a draw, (z + 1) / 2 "
    "of z = -1, 0, 1"
)


class Forest(Arena):
    """Trees of one game, or of anything whose states the caller keeps.

    trees     how many;  moves: the most edges of a node
    game      the rules as compiled functions (`Game`); needed for `start`, `simulate` and
              `positions`
    rule      of selection, see `search.tree.selection`;  players: 1, or 2 who move in turns;
              discount in (0, 1]
    nodes     room that is reserved: a search makes at most one node and `moves` edges a simulation,
              and one root a tree
    ordered   whether of the untaken edges of a node only the likeliest is looked at; None: where
              nodes have more than four edges

    roots     int32 [trees]
    positions uint8 [nodes in use, size]: the position of each node (with a game)

    Values in [0, 1] are those of the player who chose the step to a node, at a root those of the
    player who moves there. Simulations do not count a root's own evaluation, which is its first
    visit. The view of an array is good until the next call that makes nodes.
    """

    def __init__(
        self,
        trees: int,
        moves: int = 0,
        *,
        game: Game | None = None,
        rule: Rule | None = None,
        players: int = 1,
        discount: float = 1.0,
        nodes: int = 0,
        ordered: bool | None = None,
    ):
        if game:
            moves = game.moves
            players = game.players
        if trees < 1 or moves < 1:
            raise ValueError(
                f"a forest of {trees} trees with {moves} moves cannot be searched: give at least "
                "one of each"
            )
        check_count(moves)
        self.moves = moves
        self.game = game
        self.ordered = moves > 4 if ordered is None else ordered
        edges = nodes * self._edges_each + 4 * trees if nodes else 0
        super().__init__(rule or puct(), players, discount, nodes, edges)
        self.roots = self.sow(trees)
        self._positions = np.zeros((0, 0), np.uint8)
        self._game: GameKernels | None = None
        if game:
            self._positions = np.zeros((len(self._nodes), game.size), np.uint8)
            self._game = fuse(self.rule.name, self.rule.prepare, self.rule.score, game)
        self._filled = trees  # nodes whose positions are written
        self._litter = False  # whether some nodes may be reached from no root
        self._owed = 0  # leaves that were selected and not absorbed
        self._kept = trees  # nodes that the last `compact` left
        self._scratch = np.zeros(self._edges_each, np.float32)

    @property
    def positions(self) -> np.ndarray:
        return self._positions[: self._sizes[0]]

    # -- whole searches

    def start(self, positions: np.ndarray | None = None) -> None:
        """Fresh trees, each root evaluated and expanded by the game; room is kept.

        positions  uint8 [trees, size]; None: the game's first
        """
        game = self._needs_game()
        self._sizes[:] = 0
        self._room(len(self.roots), len(self.roots) * (self._edges_each + 4))
        self.roots = self.sow(len(self.roots))
        if positions is None:
            game.first(self._positions, self.roots)
        else:
            self._positions[: len(self.roots)] = positions
        state, tree = game.begin(
            *self._arrays, self._positions, self.roots, self._scratch, self.ordered, self._params
        )
        self._settled(len(self.roots))
        self._check_fused(state, tree)

    def simulate(self, simulations: int, k: int = 1) -> None:
        """So many more simulations in every tree, in rounds of `k` leaves; nothing comes between
        them. Needs a game.

        Raises ValueError for an evaluation that is not allowed, MemoryError for lack of room; what
        was done until then stays.
        """
        game = self._needs_game()
        if simulations < 0 or k < 1:
            raise ValueError(f"simulations={simulations} and k={k} must be at least 0 and 1")
        done = np.zeros(len(self.roots), np.int64)
        leaves = np.empty(k, np.int32)
        values = np.empty(k)
        while True:
            state, tree = game.simulate(
                *self._arrays, self._positions, self.roots, done, simulations, k,
                self._scratch, leaves, values, self.ordered, self._params,
            )  # fmt: skip
            self._filled = int(self._sizes[0])
            if state != FULL:
                break
            left = max(k, min(int(simulations * len(done) - done.sum()), len(self._nodes)))
            self._room(left, left * self._edges_each)
        self._check_fused(state, tree)

    # -- leaf by leaf

    def plant(
        self,
        priors: Any,
        values: Any,
        positions: np.ndarray | None = None,
        trees: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        """Fresh roots, of all trees (which then are nodes 0, 1, ...) or of those named.

        priors     float [n, moves], sum 1 within 1e-3, 0: illegal; all 0: finished.  values: float
                   [n] in [0, 1], of the player who moves
        positions  uint8 [n, size]; None: the game's first
        """
        which = self._which(trees)
        rows, values = self._rows(priors, values, len(which))
        if np.isnan(values).any():
            raise ValueError(
                f"the value of tree {int(which[np.isnan(values).argmax()])} is nan: give every "
                "root a value in [0, 1]"
            )
        check_rows(rows, values, which, "tree")
        if trees is None:
            self._sizes[:] = 0
            self._owed = 0
        self._room(len(which), len(which) * (self._edges_each + 4))
        fresh = self.sow(len(which), visits=1)
        if self.game and self._game:
            if positions is None:
                self._game.first(self._positions, fresh)
            else:
                self._positions[fresh] = positions
        self._filled = int(self._sizes[0])
        self.roots[which] = fresh
        self._litter = trees is not None
        self.kernels.absorb(*self._arrays, fresh, rows, values, self.ordered, self._params)

    def select(
        self,
        k: int = 1,
        stop_at_collision: bool = False,
        trees: Sequence[int] | np.ndarray | None = None,
    ) -> np.ndarray:
        """A round of up to `k` descents in each tree (or those named). int32 [leaves], tree
        after tree; each is owed an `absorb`.
        """
        self._room(k * len(self._which(trees)), 0)
        # only now: making room may have moved them
        roots = self.roots if trees is None else self.roots[self._which(trees)]
        picked = np.empty(k * len(roots), np.int32)
        found = self.kernels.select(
            *self._arrays, roots, k, stop_at_collision, self._params, picked
        )
        self._follow()
        self._owed += found
        return picked[:found]

    def absorb(self, leaves: np.ndarray, priors: Any, values: Any) -> None:
        """Expand the leaves and back their values up. priors: float [leaves, moves], a row of
        zeros: finished; a value of nan: release.

        Raises ValueError that names leaf and move for what is not allowed, before anything is
        written.
        """
        rows, values = self._rows(priors, values, len(leaves))
        self._room(0, len(leaves) * self._edges_each, keep=True)
        state, where = self.kernels.absorb(
            *self._arrays, leaves, rows, values, self.ordered, self._params
        )
        if state != OK:
            check_rows(rows, values, leaves, "leaf")
        self._owed -= len(leaves)

    def step(self, leaves: np.ndarray, priors: Any, values: Any, k: int = 1) -> np.ndarray:
        """`absorb`, and `select` of the next round in all trees, in one call."""
        rows, values = self._rows(priors, values, len(leaves))
        count = k * len(self.roots)
        self._room(count, len(leaves) * self._edges_each, keep=True)
        picked = np.empty(count, np.int32)
        state, found = self.kernels.step(
            *self._arrays, self.roots, k, self._params, leaves, rows, values, self.ordered, picked
        )
        if state != OK:
            check_rows(rows, values, leaves, "leaf")
        self._follow()
        self._owed += found - len(leaves)
        return picked[:found]

    def outcomes(self, leaves: np.ndarray) -> np.ndarray:
        """float64 [leaves]: values of finished positions, nan of the others. Needs a game.
        Raises ValueError for one outside [0, 1].
        """
        values = np.empty(len(leaves))
        self._needs_game().outcomes(self._positions, np.asarray(leaves, np.int32), values)
        wrong = np.flatnonzero((values < 0) | (values > 1))
        if len(wrong):
            raise ValueError(f"`outcome` of the game gave {values[wrong[0]]}: {_OUTCOMES}")
        return values

    # -- moving on

    def advance(self, trees: Sequence[int] | np.ndarray, moves: Sequence[int] | np.ndarray) -> None:
        """Play a move in some trees: the node behind it becomes the root, with its statistics and
        all below. Nothing may be in flight.

        A move that was never taken, or never evaluated, leaves a root without edges: `expanded`
        tells, `plant` mends it. Raises ValueError for an illegal move.
        """
        for tree, move in zip(self._which(trees), moves, strict=True):
            root = int(self.roots[tree])
            place = self._place_of(root, int(move))
            if place is None:
                raise ValueError(
                    f"tree {tree} has no move {move} at its root: take one with a prior above 0"
                )
            record = self._nodes[root]
            child = int(self.field(root, "child")[place]) if place < record["count"] else -1
            self._room(1, 4)
            root = int(self.roots[tree])
            if child < 0:
                second = bool(self._nodes[root]["room"] & SECOND) ^ (self.players == 2)
                fresh = self.root(int(second))
                if self.game and self._game:
                    self._positions[fresh] = self._positions[root]
                    self._game.moved(self._positions, fresh, int(move))
            else:
                fresh = int(self.field(root, "child")[place])
                subtree_kernels.uproot(self._nodes, self._words, self._sizes, fresh)
            self.roots[tree] = fresh
            self._filled = int(self._sizes[0])
            self._litter = True

    def expanded(self, trees: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """bool [n]: whether these roots have edges."""
        return self._nodes["first"][self.roots[self._which(trees)]] >= 0

    def reprior(self, trees: Sequence[int] | np.ndarray, priors: Any) -> None:
        """Other priors at roots that have edges, float [n, moves], sum 1: for example mixed with
        Dirichlet noise (`dirichlet`).
        """
        which = self._which(trees)
        rows, values = self._rows(priors, np.zeros(len(which)), len(which))
        check_rows(rows, values, which, "tree")
        for tree, row in zip(which, rows, strict=True):
            if self._nodes["first"][self.roots[tree]] < 0:
                raise ValueError(
                    f"the root of tree {tree} has no edges to give priors to: `plant` it first"
                )
            subtree_kernels.reprior(self._nodes, self._words, int(self.roots[tree]), row)

    def compact(self) -> None:
        """Drop what no root reaches; node numbers change. With a game it is done anyway where
        room is short and no leaf is awaited.
        """
        kept = self.gather(self.roots)
        if self.game:
            self._positions[: len(kept)] = self._positions[kept]
        self._settled(len(kept))

    def _settled(self, nodes: int) -> None:
        """All `nodes` are reached from roots, and have their positions."""
        self._filled = nodes
        self._litter = False
        self._kept = nodes

    def snapshot(self) -> dict[str, np.ndarray]:
        """A copy of all that is in use."""
        return {
            **super().snapshot(),
            "roots": self.roots.copy(),
            "positions": self.positions.copy(),
        }

    def restore(self, snapshot: dict[str, np.ndarray]) -> None:
        """Be again what a snapshot of this forest held."""
        super().restore(snapshot)
        self._fit_positions()
        self._positions[: len(snapshot["positions"])] = snapshot["positions"]
        self.roots = snapshot["roots"].copy()
        self._filled = int(self._sizes[0])
        self._litter = True
        self._owed = 0

    # -- reading

    def root_visits(self) -> np.ndarray:
        """int32 [trees, moves]."""
        return self._read()[0]

    def root_values(self) -> np.ndarray:
        """float64 [trees, moves]: mean value of each move for its player, nan where it was not
        taken.
        """
        visits, sums, _ = self._read()
        return np.where(visits > 0, sums / np.maximum(visits, 1), np.nan)

    def root_priors(self) -> np.ndarray:
        """float32 [trees, moves]; 0 where there is no such edge."""
        return self._read()[2]

    def root_means(self) -> np.ndarray:
        """float64 [trees]: mean value of each root for the player who moves there, its own
        evaluation included.
        """
        edges = np.array([self.edge_to(int(root)) for root in self.roots])
        return self._get(edges, "sum") / np.maximum(self._get(edges, "visits"), 1)

    def principal_variation(self, tree: int) -> list[int]:
        """The most visited moves from the root of a tree on, the lowest of equals."""
        node = int(self.roots[tree])
        line: list[int] = []
        while self._nodes[node]["count"]:
            visits = self.field(node, "visits")
            children = self.field(node, "child")
            moves = self.field(node, "value").view(np.int32) & 65_535
            best = min(range(len(visits)), key=lambda place: (-visits[place], moves[place]))
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
        edges = np.array([self.edge_to(int(node)) for node in nodes], np.int64)
        return self._get(edges, "value").view(np.int32) & 65_535

    # -- inner parts

    @property
    def _arrays(self) -> tuple[np.ndarray, ...]:
        return self._nodes, self._words, self._notes, self._sizes

    @property
    def _edges_each(self) -> int:
        return (self.moves + 3) // 4 * 4

    def _needs_game(self) -> Any:
        if self._game is None:
            raise ValueError(
                "this forest knows no game: give one with game=, or evaluate the leaves of "
                "`select` yourself"
            )
        return self._game

    def _which(self, trees: Sequence[int] | np.ndarray | None) -> np.ndarray:
        if trees is None:
            return np.arange(len(self.roots))
        which = np.asarray(trees, np.int64)
        if len(which) and not (which.min() >= 0 and which.max() < len(self.roots)):
            raise ValueError(
                f"there are {len(self.roots)} trees, numbered from 0: {which.tolist()[:5]} names "
                "others"
            )
        return which

    def _room(self, nodes: int, edges: int, keep: bool = False) -> None:
        """Room for so many more; what is no longer reached goes first, unless node numbers are
        to be kept.
        """
        words = 3 * (self._sizes[1] + edges)
        short = self._sizes[0] + nodes > len(self._nodes) or words > len(self._words)
        # too little can have become litter since the last time
        often = self._sizes[0] < 2 * self._kept
        if short and self._litter and self.game and not keep and not self._owed and not often:
            self.compact()
        self.reserve(nodes, edges)
        try:
            self._fit_positions()
        except MemoryError as error:
            raise MemoryError(
                f"no memory for the positions of {len(self._nodes):,} nodes: the forest is "
                "as it was; search with fewer simulations"
            ) from error

    def _fit_positions(self) -> None:
        if self.game and len(self._positions) < len(self._nodes):
            larger = np.empty((len(self._nodes), self.game.size), np.uint8)
            larger[: len(self._positions)] = self._positions
            self._positions = larger

    def _follow(self) -> None:
        """Positions of the nodes that were made."""
        if self._game:
            self._game.follow(
                self._nodes, self._words, self._positions, self._filled, int(self._sizes[0])
            )
        self._filled = int(self._sizes[0])

    def _rows(self, priors: Any, values: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.ascontiguousarray(priors, np.float32)
        values = np.ascontiguousarray(values, np.float64)
        if rows.shape != (count, self.moves) or values.shape != (count,):
            raise ValueError(
                f"priors {rows.shape} and values {values.shape} must be [{count}, {self.moves}] "
                f"and [{count}]"
            )
        if self.moves < self._edges_each:  # kernels take four at a time
            missing = np.zeros((count, self._edges_each - self.moves), np.float32)
            rows = np.concatenate([rows, missing], axis=1)
        return rows, values

    def _check_fused(self, state: int, tree: int) -> None:
        if state == OK:
            return
        if state == NO_OUTCOME:
            raise ValueError(
                f"`outcome` of the game gave a value outside [0, 1] in tree {tree}: {_OUTCOMES}"
            )
        fault = "priors that do not sum to 1, or are negative or not finite"
        if state == NO_VALUE:
            fault = "a value outside [0, 1] or nan"
        raise ValueError(
            f"`evaluate` of the game gave {fault} in tree {tree}: correct it; what was searched "
            "before is there"
        )

    def _read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = (len(self.roots), self.moves)
        visits = np.zeros(shape, np.int32)
        sums = np.zeros(shape)
        priors = np.zeros(shape, np.float32)
        subtree_kernels.read(self._nodes, self._words, self.roots, visits, sums, priors)
        return visits, sums, priors

    def _place_of(self, node: int, move: int) -> int | None:
        """The place of a move, looked at or not."""
        record = self._nodes[node]
        if record["first"] < 0:
            return None
        edges = np.arange(int(record["room"] & ROOM) * 4) + int(record["first"])
        there = self._get(edges, "prior") >= 0
        found = np.flatnonzero(there & (self._get(edges, "value").view(np.int32) & 65_535 == move))
        return int(found[0]) if len(found) else None
