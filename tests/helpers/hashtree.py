"""The search problem hashtree-1, for the tests of the core: a compiled game, and the same in plain
Python with an exact search.

A state is a 32-bit hash of the path to it; children, priors and values are hashes of it (murmur3's
finaliser).
"""

from __future__ import annotations

import math

import numba
import numpy as np

import search

M = 0xFFFFFFFF
u32 = np.uint32


def mix(x):
    x ^= x >> 16
    x = x * 0x85EBCA6B & M
    x ^= x >> 13
    x = x * 0xC2B2AE35 & M
    return x ^ x >> 16


def root(tree, seed=0):
    return mix(seed * 0x27D4EB2F + tree + 1 & M)


def child(state, move):
    return mix((state ^ ((move + 1) * 0x9E3779B1 & M)) + 0x7F4A7C15 & M)


def priors(state, moves):
    weights = [1 + (mix(state + (a + 1) * 0x85EBCA6B & M) >> 12) for a in range(moves)]
    return [weight / sum(weights) for weight in weights]


def value(state):
    return (mix(state ^ 0xC2B2AE35) >> 8) * 2.0**-24


class Node:
    def __init__(self, state, moves):
        self.state, self.n, self.w, self.p, self.kids = state, 0, 0.0, None, [None] * moves


def puct_visits(state, moves, simulations, c=1.25, k=1, reduction=0.0):
    """Visits of the root's moves by the rule book, in float64, with objects."""

    def expand(node):
        node.p = priors(node.state, moves)

    top = Node(state, moves)
    top.n, top.w = 1, value(state)
    expand(top)
    done = 0
    while done < simulations:
        paths = []
        for _ in range(min(k, simulations - done)):
            node, path = top, [top]
            while node.p is not None:
                first_play, scale = node.w / node.n - reduction, c * math.sqrt(node.n)
                node.n += 1
                scores = [
                    (kid.w / kid.n if kid and kid.n else first_play)
                    + scale * (p / (1 + (kid.n if kid else 0)))
                    for p, kid in zip(node.p, node.kids, strict=True)
                ]
                move = scores.index(max(scores))
                if node.kids[move] is None:
                    node.kids[move] = Node(child(node.state, move), moves)
                node = node.kids[move]
                path.append(node)
            node.n += 1
            paths.append(path)
        for path in paths:
            if path[-1].p is None:
                expand(path[-1])
        for path in paths:
            for node in path:
                node.w += value(path[-1].state)
        done += len(paths)
    return [kid.n if kid else 0 for kid in top.kids]


@numba.njit(inline="always")
def _mix(x):
    x = u32(x ^ (x >> u32(16)))
    x = u32(x * u32(0x85EBCA6B))
    x = u32(x ^ (x >> u32(13)))
    x = u32(x * u32(0xC2B2AE35))
    return u32(x ^ (x >> u32(16)))


@numba.njit(inline="always")
def _state(row):
    return (
        u32(row[0])
        | u32(u32(row[1]) << u32(8))
        | u32(u32(row[2]) << u32(16))
        | u32(u32(row[3]) << u32(24))
    )


@numba.njit
def _start(row):
    pass  # the test writes it


@numba.njit
def _play(row, move):
    state = _mix(u32(u32(_state(row) ^ u32(u32(move + 1) * u32(0x9E3779B1))) + u32(0x7F4A7C15)))
    for i in range(4):
        row[i] = (state >> u32(8 * i)) & u32(255)


@numba.njit
def _outcome(row):
    return np.nan


@numba.njit
def _evaluate(row, priors):
    state, total = _state(row), np.int32(0)
    for a in range(len(priors)):
        weight = np.int32(1 + (_mix(u32(state + u32(u32(a + 1) * u32(0x85EBCA6B)))) >> u32(12)))
        total = np.int32(total + weight)
        priors[a] = weight
    for a in range(len(priors)):
        priors[a] = np.float64(priors[a]) / total
    return (_mix(u32(state ^ u32(0xC2B2AE35))) >> u32(8)) * 2.0**-24


def game(moves, players=1):
    return search.Game(_start, _play, _outcome, _evaluate, 4, moves, players)


def rows(trees, seed=0):
    return (
        np.array([root(t, seed) for t in range(trees)], np.uint32).view(np.uint8).reshape(trees, 4)
    )


def fused(trees, moves, simulations, rule, seed=0, k=1):
    forest = search.Forest(trees, game=game(moves), rule=rule)
    forest.start(rows(trees, seed))
    forest.simulate(simulations, k)
    return forest


def answers(states, moves):
    """(priors float32 [n, moves], values [n]) of states."""
    states = [int(state) for state in states]
    return np.array([priors(s, moves) for s in states], np.float32).reshape(-1, moves), np.array(
        [value(s) for s in states]
    )


def split(trees, moves, simulations, rule, seed=0, k=1, **options):
    """The same search with the evaluator outside, by `step`."""
    forest = search.Forest(trees, moves, rule=rule, **options)
    states = {t: root(t, seed) for t in range(trees)}
    forest.plant(*answers(states.values(), moves))
    done = min(k, simulations)
    leaves = forest.select(done)
    while True:
        for leaf, parent, move in zip(
            leaves, forest.parents(leaves), forest.moves_of(leaves), strict=True
        ):
            states[int(leaf)] = child(states[int(parent)], int(move))
        found = answers([states[int(leaf)] for leaf in leaves], moves)
        more = min(k, simulations - done)
        if not more:
            forest.absorb(leaves, *found)
            return forest
        leaves = forest.step(leaves, *found, more)
        done += more
