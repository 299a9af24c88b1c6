"""PUCT in rounds, a second time, in plain Python and float64: what root visits are compared with,
and the problem it is run on.

The rules: a root's evaluation is its first visit. A descent takes the move with the highest Q + c
sqrt(N) P / (1 + n), the lowest of equals; Q of an untaken move is the mean of its parent. A round
is k descents. Their visits count at once and their values when the round ends, so that a visit
under way counts as value 0. A leaf that was reached twice is evaluated once and backed up twice.
"""

from __future__ import annotations

import math
import struct

from benchmarks.tree.hashtree import CHILD, FIRST, ROOT, SECOND, SHIFT, VALUE, WEIGHT, WORD


def mix(x: int) -> int:
    x = (x ^ x >> 16) * FIRST & WORD
    x = (x ^ x >> 13) * SECOND & WORD
    return x ^ x >> 16


def root(tree: int, seed: int = 0) -> int:
    return mix(seed * ROOT + tree + 1 & WORD)


def child(position: int, move: int) -> int:
    return mix((position ^ (move + 1) * CHILD & WORD) + SHIFT & WORD)


def weight(position: int, move: int) -> int:
    return (mix(position + (move + 1) * WEIGHT & WORD) >> 12) + 1


def value(position: int) -> float:
    return (mix(position ^ VALUE) >> 8) / 2**24


def priors(position: int, moves: int) -> list[float]:
    """In float64."""
    found = [weight(position, move) for move in range(moves)]
    total = sum(found)
    return [one / total for one in found]


def single(number: float) -> float:
    """The float32 next to it."""
    return struct.unpack("f", struct.pack("f", number))[0]


class Node:
    """A position that was reached. children: a Node for each move that was taken, else None;
    None for all until it is expanded.
    """

    __slots__ = ("children", "position", "priors", "total", "visits")

    def __init__(self, position: int):
        self.position = position
        self.visits = 0
        self.total = 0.0
        self.priors: list[float] = []
        self.children: list[Node | None] = []

    def expand(self, moves: int, rounded: bool) -> None:
        self.priors = priors(self.position, moves)
        if rounded:
            self.priors = list(map(single, self.priors))
        self.children = [None] * moves


def descend(node: Node, c: float) -> list[Node]:
    """The path from `node` to a leaf. Visits are counted."""
    path = [node]
    while node.children:
        scale = c * math.sqrt(node.visits)
        mean = node.total / node.visits
        best = 0
        high = -math.inf
        for move, (prior, below) in enumerate(zip(node.priors, node.children, strict=True)):
            n = 0
            q = mean
            if below:
                n = below.visits
                q = below.total / n
            score = q + scale * (prior / (1 + n))
            if score > high:
                best = move
                high = score
        node.visits += 1
        below = node.children[best]
        if below is None:
            below = node.children[best] = Node(child(node.position, best))
        node = below
        path.append(node)
    node.visits += 1
    return path


def root_visits(
    tree: int,
    moves: int,
    simulations: int,
    k: int = 1,
    c: float = 1.25,
    seed: int = 0,
    rounded: bool = False,
) -> list[int]:
    """Visits of each move at the root of one tree. rounded: priors are rounded to float32, as a
    forest keeps them.
    """
    top = Node(root(tree, seed))
    top.expand(moves, rounded)
    top.visits = 1
    top.total = value(top.position)
    done = 0
    while done < simulations:
        paths = [descend(top, c) for _ in range(min(k, simulations - done))]
        for path in paths:
            if not path[-1].children:
                path[-1].expand(moves, rounded)
            judged = value(path[-1].position)
            for node in path:
                node.total += judged
        done += len(paths)
    return [below.visits if below else 0 for below in top.children]
