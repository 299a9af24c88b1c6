"""hashtree-1 as a game of compiled functions, and our core on it: whole searches in one call, or
leaf by leaf with a NumPy evaluator.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np

from benchmarks.processes.watch import Watch
from benchmarks.tree import hashtree
from benchmarks.tree.hashtree import CHILD, FIRST, ROOT, SECOND, SHIFT, SIZE, VALUE, WEIGHT
from search.tree.forest import Forest
from search.tree.game_kernels import Game
from search.tree.selection import puct

# every intermediate is cast: numba takes uint32 x uint32 for uint64, which LLVM does not narrow
# again
u4 = np.uint32
_compiled = numba.njit(error_model="numpy")
_inlined = numba.njit(error_model="numpy", inline="always")


@_inlined
def _mix(x):  # type: ignore[no-untyped-def]
    x = u4(u4(x ^ u4(x >> u4(16))) * u4(FIRST))
    x = u4(u4(x ^ u4(x >> u4(13))) * u4(SECOND))
    return u4(x ^ u4(x >> u4(16)))


@_inlined
def _read(row):  # type: ignore[no-untyped-def]
    low = u4(row[0]) | u4(u4(row[1]) << u4(8))
    high = u4(u4(row[2]) << u4(16)) | u4(u4(row[3]) << u4(24))
    return u4(u4(low) | u4(high))


@_inlined
def _write(row, h):  # type: ignore[no-untyped-def]
    for i in range(SIZE):
        row[i] = np.uint8(u4(h >> u4(8 * i)) & u4(255))


@_compiled
def start(row):  # type: ignore[no-untyped-def]
    """The root of tree 0 of seed 0. `planted` gives all others."""
    _write(row, _mix(u4(1)))


@_compiled
def play(row, move):  # type: ignore[no-untyped-def]
    _write(row, _mix(u4(u4(_read(row) ^ u4(u4(move + 1) * u4(CHILD))) + u4(SHIFT))))


@_compiled
def outcome(row):  # type: ignore[no-untyped-def]
    return np.nan


@_compiled
def evaluate(row, priors):  # type: ignore[no-untyped-def]
    """The product with 1 / total rounds to the same float32 as the quotient up to 64 moves: no
    share of weights lies within 2**-51 of the middle between two float32, relatively, and the
    product is within 2**-52 of the share.
    """
    h = _read(row)
    total = np.int32(0)
    for a in range(len(priors)):
        weight = np.int32(u4(u4(1) + u4(_mix(u4(h + u4(u4(a + 1) * u4(WEIGHT)))) >> u4(12))))
        priors[a] = np.float32(weight)
        total += weight
    share = 1.0 / total
    for a in range(len(priors)):
        priors[a] = np.float32(priors[a] * share)
    return float(u4(_mix(u4(h ^ u4(VALUE))) >> u4(8))) * 2.0**-24


@_compiled
def planted(first, seed, rows, priors, values):  # type: ignore[no-untyped-def]
    """Roots of the trees from `first` on: their positions uint8 [n, SIZE], priors float32 [n,
    moves] and values float64 [n].
    """
    for t in range(len(rows)):
        _write(rows[t], _mix(u4(u4(seed) * u4(ROOT) + u4(first + t + 1))))
        values[t] = evaluate(rows[t], priors[t])


def game(moves: int) -> Game:
    """moves: at most 64, for priors that are exact."""
    if not 1 <= moves <= 64:
        raise ValueError(f"moves={moves}: hashtree-1 is stated exactly for 1 to 64 moves here")
    return Game(start, play, outcome, evaluate, SIZE, moves)


@numba.njit
def _visited(parents):  # type: ignore[no-untyped-def]
    """Nodes on the paths of all simulations, if each reached a new leaf: the depths of all
    nodes, the root's counting too.
    """
    depths = np.zeros(len(parents), np.int32)
    total = 0
    for node in range(len(parents)):
        if parents[node] >= 0:
            depths[node] = depths[parents[node]] + 1
            total += depths[node] + 1
    return total


class _Trees:
    """Some of the trees of an adapter, in a forest of their own; memory is kept from run to run."""

    def __init__(self, first: int, trees: int, moves: int, simulations: int, c: float, seed: int):
        self.first = first
        self.seed = seed
        self.forest = Forest(trees, game=game(moves), rule=puct(c), nodes=trees * (simulations + 1))
        self.roots = (
            np.empty((trees, SIZE), np.uint8),
            np.empty((trees, moves), np.float32),
            np.empty(trees),
        )
        planted(first, seed, *self.roots)  # compiled here, not in the first run

    def plant(self) -> Forest:
        rows, priors, values = self.roots
        planted(self.first, self.seed, rows, priors, values)
        self.forest.plant(priors, values, rows)
        return self.forest

    def search(self, simulations: int, k: int) -> None:
        self.forest.start(self.roots[0])
        self.forest.simulate(simulations, k)


class HashTree:
    """Whole searches in one call, the evaluator compiled into them.

    K        leaves a round;  threads: with more than one, and work for them, trees are dealt out to
                              that many forests

    `prepare` once, then `run` as often as you like; `root_visits` reads the last run.
    """

    K = 1
    threads = 1
    most = 16_384  # simulations: below, a second thread costs more than it does

    def prepare(self, B: int, A: int, S: int, c: float = 1.25, seed: int = 0) -> None:
        """B trees of A moves with S simulations each."""
        parts = 1
        if self.most <= B * S:
            parts = max(1, min(self.threads, B))
        edges = [B * part // parts for part in range(parts + 1)]
        self.parts = [
            _Trees(low, high - low, A, S, c, seed)
            for low, high in zip(edges, edges[1:], strict=False)
        ]
        self.simulations = S
        self.pool = ThreadPoolExecutor(parts) if parts > 1 else None
        self.bytes = 0
        for part in self.parts:
            self.bytes += part.forest.bytes + part.forest.positions.base.nbytes
        self._nodes = 0

    def run(self) -> dict[str, Any]:
        """seconds and cpu, roots included; nodes: how many all descents came by, where K is 1."""
        watch = Watch()
        if self.pool:
            list(self.pool.map(lambda part: part.search(self.simulations, self.K), self.parts))
        else:
            self.parts[0].search(self.simulations, self.K)
        return {**watch.read(), **self._walked()}

    def root_visits(self) -> np.ndarray:
        """int32 [B, A]."""
        return np.concatenate([part.forest.root_visits() for part in self.parts])

    def _walked(self) -> dict[str, int]:
        if self.K == 1 and not self._nodes:
            for part in self.parts:
                nodes = np.arange(len(part.forest.positions))
                self._nodes += int(_visited(part.forest.parents(nodes)))
        return {"nodes": self._nodes} if self._nodes else {}


class HashTreeSplit(HashTree):
    """Leaf by leaf: `select`, a NumPy evaluator for the leaves of all trees, `step`. On one
    thread.
    """

    def prepare(self, B: int, A: int, S: int, c: float = 1.25, seed: int = 0) -> None:
        self.threads = 1
        super().prepare(B, A, S, c, seed)
        self.moves = A
        self.sizes = [self.K] * (S // self.K) + ([S % self.K] if S % self.K else [])

    def run(self) -> dict[str, Any]:
        """Also core_seconds: what is spent outside the evaluator; replayed: CPU time of the
        same search, the evaluator's answers being there already; rounds and leaves: how many of
        each.
        """
        clock = time.perf_counter
        spent = 0.0  # seconds of the evaluator
        answers = []
        watch = Watch()
        forest = self.parts[0].plant()
        leaves = forest.select(self.sizes[0])
        for k in [*self.sizes[1:], 0]:
            asked = clock()
            positions = hashtree.positions(forest.positions[leaves])
            answers.append((hashtree.priors(positions, self.moves), hashtree.values(positions)))
            spent += clock() - asked
            leaves = _answer(forest, leaves, answers[-1], k)
        total = watch.read()
        watch = Watch()
        forest = self.parts[0].plant()
        leaves = forest.select(self.sizes[0])
        count = 0
        for k, answer in zip([*self.sizes[1:], 0], answers, strict=True):
            count += len(leaves)
            leaves = _answer(forest, leaves, answer, k)
        replayed = watch.read()["cpu"]
        core = {
            "core_seconds": total["seconds"] - spent,
            "replayed": replayed,
            "rounds": len(self.sizes),
            "leaves": count,
        }
        return {**total, **core, **self._walked()}


def _answer(
    forest: Forest, leaves: np.ndarray, answer: tuple[np.ndarray, np.ndarray], k: int
) -> np.ndarray:
    if k:
        return forest.step(leaves, *answer, k)
    forest.absorb(leaves, *answer)
    return leaves
