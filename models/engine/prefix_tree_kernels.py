"""The loops of `models.engine.prefix_tree`: a tree of tokens in arrays. A node is one token below a
prefix, and its number is the cell of its keys.

nodes   int32 [8, capacity]: what stands in a cell, by the rows named below
used    int64 [capacity]: when a text with this token last began or grew
heads   int32 [power of two]: first cell of each hash chain, -1: none
counts  int64 [4]: free cells, held cells, cells ever given out, the clock
"""

from __future__ import annotations

import numba
import numpy as np

from search.kernels.jit import bare, inner, kernel, part

PARENT, TOKEN, KIDS, HOLDS, NEXT, READY, FREE, LIVE = range(8)
FREE_COUNT, HELD, EVER, CLOCK = range(4)
_i4s = numba.int32[:, ::1]
_i4 = numba.int32[::1]
_i8 = numba.int64[::1]
_n = numba.int64
_tree = (_i4s, _i8, _i4, _i8)


@inner
def _chain(heads, parent, token):
    """The hash chain of a token below a cell (or a root, below 0): splitmix64 (Steele et al.
    2014).
    """
    z = (np.uint64(parent) << np.uint64(32)) ^ np.uint64(token) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((z ^ (z >> np.uint64(31))) & np.uint64(heads.size - 1))


@inner
def _find(nodes, heads, parent, token):
    cell = heads[_chain(heads, parent, token)]
    while cell >= 0 and (nodes[PARENT, cell] != parent or nodes[TOKEN, cell] != token):
        cell = nodes[NEXT, cell]
    return cell


@inner
def _insert(nodes, heads, counts, parent, token):
    """A new token below `parent`; there is a free cell."""
    counts[FREE_COUNT] -= 1
    counts[EVER] += 1
    cell = nodes[FREE, counts[FREE_COUNT]]
    chain = _chain(heads, parent, token)
    nodes[PARENT, cell] = parent
    nodes[TOKEN, cell] = token
    nodes[KIDS, cell] = 0
    nodes[HOLDS, cell] = 0
    nodes[NEXT, cell] = heads[chain]
    nodes[READY, cell] = 0
    nodes[LIVE, cell] = 1
    heads[chain] = cell
    if parent >= 0:
        nodes[KIDS, parent] += 1
    return cell


@inner
def _hold(nodes, used, counts, cell):
    if nodes[HOLDS, cell] == 0:
        counts[HELD] += 1
    nodes[HOLDS, cell] += 1
    used[cell] = counts[CLOCK]


@kernel(_n(_i4s, _i4, _n, _n))
def find(nodes, heads, parent, token):
    """The cell of a token below `parent`, below 0 where there is none."""
    return _find(nodes, heads, np.int32(parent), token)


@kernel(numba.types.UniTuple(_n, 2)(*_tree, _i8, _n))
def look(nodes, used, heads, counts, tokens, root):
    """How many of `tokens` stand below `root` already, and how many cells a text that begins
    with them would hold newly.
    """
    nodes = bare(nodes)
    heads = bare(heads)
    tokens = bare(tokens)
    cell = np.int32(root)
    fresh = len(tokens)
    for i in range(len(tokens)):
        cell = _find(nodes, heads, cell, tokens[i])
        if cell < 0:
            return i, fresh
        fresh -= nodes[HOLDS, cell] > 0
    return len(tokens), fresh


@kernel(numba.void(*_tree, _i8, _n, _n, _n, _i4))
def join(nodes, used, heads, counts, tokens, root, start, stop, cells):
    """Hold tokens start to stop of a text, adding those that are not there: there is room.
    Writes their cells into `cells`.
    """
    nodes = bare(nodes)
    used = bare(used)
    heads = bare(heads)
    counts = bare(counts)
    tokens = bare(tokens)
    cells = bare(cells)
    cell = np.int32(root) if start == 0 else cells[start - 1]
    for i in range(start, stop):
        found = _find(nodes, heads, cell, tokens[i])
        cell = found if found >= 0 else _insert(nodes, heads, counts, cell, tokens[i])
        _hold(nodes, used, counts, cell)
        cells[i] = cell


@kernel(numba.void(*_tree, _i8, _i8, _i8))
def step(nodes, used, heads, counts, parents, tokens, cells):
    """Let each text grow by one token below its last cell (or root): `cells` get the new ones',
    held. There is room for all.
    """
    nodes = bare(nodes)
    used = bare(used)
    heads = bare(heads)
    counts = bare(counts)
    parents = bare(parents)
    tokens = bare(tokens)
    cells = bare(cells)
    for i in range(len(parents)):
        parent = np.int32(parents[i])
        cell = _find(nodes, heads, parent, tokens[i])
        if cell < 0:
            cell = _insert(nodes, heads, counts, parent, tokens[i])
        _hold(nodes, used, counts, cell)
        cells[i] = cell


@part
def _forget(nodes, heads, counts, cell):
    parent = nodes[PARENT, cell]
    chain = _chain(heads, parent, nodes[TOKEN, cell])
    if heads[chain] == cell:
        heads[chain] = nodes[NEXT, cell]
    else:
        before = heads[chain]
        while nodes[NEXT, before] != cell:
            before = nodes[NEXT, before]
        nodes[NEXT, before] = nodes[NEXT, cell]
    if parent >= 0:
        nodes[KIDS, parent] -= 1
    nodes[LIVE, cell] = 0
    nodes[FREE, counts[FREE_COUNT]] = cell
    counts[FREE_COUNT] += 1


@kernel(numba.void(*_tree, _i4))
def leave(nodes, used, heads, counts, cells):
    """Let go of a text. What was never read does not stay."""
    nodes = bare(nodes)
    heads = bare(heads)
    counts = bare(counts)
    cells = bare(cells)
    for i in range(len(cells) - 1, -1, -1):
        cell = cells[i]
        nodes[HOLDS, cell] -= 1
        if nodes[HOLDS, cell] == 0:
            counts[HELD] -= 1
            if nodes[READY, cell] == 0 and nodes[KIDS, cell] == 0:
                _forget(nodes, heads, counts, cell)


@kernel(_n(*_tree, _i8, _n))
def evict(nodes, used, heads, counts, order, wanted):
    """Forget leaves that nobody holds, in the order given (longest unused first), until `wanted`
    cells are free; how many are then.

    A token whose last continuation goes is a leaf, too: it goes next where it is unused for as
    long.
    """
    nodes = bare(nodes)
    used = bare(used)
    heads = bare(heads)
    counts = bare(counts)
    order = bare(order)
    for i in range(len(order)):
        cell = np.int64(order[i])
        since = used[cell]
        while (
            cell >= 0
            and nodes[LIVE, cell]
            and nodes[HOLDS, cell] == 0
            and nodes[KIDS, cell] == 0
            and used[cell] <= since
        ):
            if counts[FREE_COUNT] >= wanted:
                return counts[FREE_COUNT]
            parent = np.int64(nodes[PARENT, cell])
            _forget(nodes, heads, counts, cell)
            cell = parent
    return counts[FREE_COUNT]
