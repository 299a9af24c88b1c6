"""The search problem "hashtree-1": endless trees of hashes, the same bit for bit in any language.
Needs nothing but NumPy.

A position is a 32-bit number; all arithmetic is modulo 2**32, moves a count from 0:

    mix(x)        the finaliser of MurmurHash3
    root(t)       mix(seed 0x27D4EB2F + t + 1), of tree t
    child(h, a)   mix((h xor (a + 1) 0x9E3779B1) + 0x7F4A7C15)
    weight(h, a)  1 + (mix(h + (a + 1) 0x85EBCA6B) >> 12), of 2**20 at most; the prior of a move is
                  its share of the weights
    value(h)      (mix(h xor 0xC2B2AE35) >> 8) / 2**24

No position is finished, there is one player, and values are not discounted. All functions here take
and give arrays.
"""

from __future__ import annotations

import numpy as np

FIRST = 0x85EBCA6B  # the multipliers of `mix`
SECOND = 0xC2B2AE35
ROOT = 0x27D4EB2F
CHILD = 0x9E3779B1
SHIFT = 0x7F4A7C15
WEIGHT = FIRST
VALUE = SECOND
SIZE = 4  # bytes of a position in a row, lowest first
WORD = 0xFFFFFFFF


def mix(x: np.ndarray) -> np.ndarray:
    """uint32, any shape."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(FIRST)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(SECOND)
    return x ^ (x >> np.uint32(16))


def roots(trees: int, seed: int = 0) -> np.ndarray:
    """uint32 [trees]."""
    start = np.uint32(seed * ROOT + 1 & WORD)
    return mix(np.arange(trees, dtype=np.uint32) + start)


def children(positions: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """uint32 [n], of positions uint32 [n] and a move of each, int [n]."""
    turn = (moves.astype(np.uint32) + np.uint32(1)) * np.uint32(CHILD)
    return mix((positions ^ turn) + np.uint32(SHIFT))


def weights(positions: np.ndarray, moves: int) -> np.ndarray:
    """uint32 [n, moves], of positions uint32 [n]."""
    turn = np.arange(1, moves + 1, dtype=np.uint32) * np.uint32(WEIGHT)
    return (mix(positions[:, None] + turn) >> np.uint32(12)) + np.uint32(1)


def priors(positions: np.ndarray, moves: int) -> np.ndarray:
    """float32 [n, moves]."""
    found = weights(positions, moves)
    return (found / found.sum(1, dtype=np.int64)[:, None]).astype(np.float32)


def values(positions: np.ndarray) -> np.ndarray:
    """float64 [n], exact in float32 too."""
    return (mix(positions ^ np.uint32(VALUE)) >> np.uint32(8)) * 2.0**-24


def rows(positions: np.ndarray) -> np.ndarray:
    """uint8 [n, SIZE] of uint32 [n]."""
    return positions.astype("<u4").view(np.uint8).reshape(-1, SIZE)


def positions(rows: np.ndarray) -> np.ndarray:
    """uint32 [n] of uint8 [n, SIZE], which must be contiguous."""
    return rows.view("<u4").ravel()
