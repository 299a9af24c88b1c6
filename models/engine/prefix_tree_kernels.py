"""The loops of `models.engine.prefix_tree`: a tree of tokens in arrays. A node is one token below a
prefix, and its number is the slot of its keys.

nodes   int32 [8, capacity]: what stands in a slot, by the rows named below
used    int64 [capacity]: when a text with this token last began or grew
heads   int32 [power of two]: first slot of each hash chain, -1: none
counts  int64 [4]: free slots, held slots, slots ever given out, the clock
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
def _chain(heads, parent, token):  # type: ignore[no-untyped-def]
    """The hash chain of a token below a slot (or a root, below 0): splitmix64 (Steele et al.
    2014).
    """
    z = (np.uint64(parent) << np.uint64(32)) ^ np.uint64(token) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((z ^ (z >> np.uint64(31))) & np.uint64(heads.size - 1))


@inner
def _find(nodes, heads, parent, token):  # type: ignore[no-untyped-def]
    slot = heads[_chain(heads, parent, token)]
    while slot >= 0 and (nodes[PARENT, slot] != parent or nodes[TOKEN, slot] != token):
        slot = nodes[NEXT, slot]
    return slot


@inner
def _place(nodes, heads, counts, parent, token):  # type: ignore[no-untyped-def]
    """A new token below `parent`; there is a free slot."""
    counts[FREE_COUNT] -= 1
    counts[EVER] += 1
    slot = nodes[FREE, counts[FREE_COUNT]]
    chain = _chain(heads, parent, token)
    nodes[PARENT, slot] = parent
    nodes[TOKEN, slot] = token
    nodes[KIDS, slot] = 0
    nodes[HOLDS, slot] = 0
    nodes[NEXT, slot] = heads[chain]
    nodes[READY, slot] = 0
    nodes[LIVE, slot] = 1
    heads[chain] = slot
    if parent >= 0:
        nodes[KIDS, parent] += 1
    return slot


@inner
def _hold(nodes, used, counts, slot):  # type: ignore[no-untyped-def]
    if nodes[HOLDS, slot] == 0:
        counts[HELD] += 1
    nodes[HOLDS, slot] += 1
    used[slot] = counts[CLOCK]


@kernel(_n(_i4s, _i4, _n, _n))
def find(nodes, heads, parent, token):  # type: ignore[no-untyped-def]
    """The slot of a token below `parent`, below 0 where there is none."""
    return _find(nodes, heads, np.int32(parent), token)


@kernel(numba.types.UniTuple(_n, 2)(*_tree, _i8, _n))
def look(nodes, used, heads, counts, tokens, root):  # type: ignore[no-untyped-def]
    """How many of `tokens` stand below `root` already, and how many slots a text that begins
    with them would hold newly.
    """
    nodes = bare(nodes)
    heads = bare(heads)
    tokens = bare(tokens)
    slot = np.int32(root)
    fresh = len(tokens)
    for i in range(len(tokens)):
        slot = _find(nodes, heads, slot, tokens[i])
        if slot < 0:
            return i, fresh
        fresh -= nodes[HOLDS, slot] > 0
    return len(tokens), fresh


@kernel(numba.void(*_tree, _i8, _n, _n, _n, _i4))
def join(nodes, used, heads, counts, tokens, root, start, stop, places):  # type: ignore[no-untyped-def]
    """Hold tokens start to stop of a text, adding those that are not there: there is room.
    Writes their slots into `places`.
    """
    nodes = bare(nodes)
    used = bare(used)
    heads = bare(heads)
    counts = bare(counts)
    tokens = bare(tokens)
    places = bare(places)
    slot = np.int32(root) if start == 0 else places[start - 1]
    for i in range(start, stop):
        found = _find(nodes, heads, slot, tokens[i])
        slot = found if found >= 0 else _place(nodes, heads, counts, slot, tokens[i])
        _hold(nodes, used, counts, slot)
        places[i] = slot


@kernel(numba.void(*_tree, _i8, _i8, _i8))
def step(nodes, used, heads, counts, parents, tokens, slots):  # type: ignore[no-untyped-def]
    """Let each text grow by one token below its last slot (or root): `slots` get the new ones',
    held. There is room for all.
    """
    nodes = bare(nodes)
    used = bare(used)
    heads = bare(heads)
    counts = bare(counts)
    parents = bare(parents)
    tokens = bare(tokens)
    slots = bare(slots)
    for i in range(len(parents)):
        parent = np.int32(parents[i])
        slot = _find(nodes, heads, parent, tokens[i])
        if slot < 0:
            slot = _place(nodes, heads, counts, parent, tokens[i])
        _hold(nodes, used, counts, slot)
        slots[i] = slot


@part
def _forget(nodes, heads, counts, slot):  # type: ignore[no-untyped-def]
    parent = nodes[PARENT, slot]
    chain = _chain(heads, parent, nodes[TOKEN, slot])
    if heads[chain] == slot:
        heads[chain] = nodes[NEXT, slot]
    else:
        before = heads[chain]
        while nodes[NEXT, before] != slot:
            before = nodes[NEXT, before]
        nodes[NEXT, before] = nodes[NEXT, slot]
    if parent >= 0:
        nodes[KIDS, parent] -= 1
    nodes[LIVE, slot] = 0
    nodes[FREE, counts[FREE_COUNT]] = slot
    counts[FREE_COUNT] += 1


@kernel(numba.void(*_tree, _i4))
def leave(nodes, used, heads, counts, places):  # type: ignore[no-untyped-def]
    """Let go of a text. What was never read does not stay."""
    nodes = bare(nodes)
    heads = bare(heads)
    counts = bare(counts)
    places = bare(places)
    for i in range(len(places) - 1, -1, -1):
        slot = places[i]
        nodes[HOLDS, slot] -= 1
        if nodes[HOLDS, slot] == 0:
            counts[HELD] -= 1
            if nodes[READY, slot] == 0 and nodes[KIDS, slot] == 0:
                _forget(nodes, heads, counts, slot)


@kernel(_n(*_tree, _i8, _n))
def evict(nodes, used, heads, counts, order, wanted):  # type: ignore[no-untyped-def]
    """Forget leaves that nobody holds, in the order given (longest unused first), until `wanted`
    slots are free; how many are then.

    A token whose last continuation goes is a leaf, too: it goes next where it is unused for as
    long.
    """
    nodes = bare(nodes)
    used = bare(used)
    heads = bare(heads)
    counts = bare(counts)
    order = bare(order)
    for i in range(len(order)):
        slot = np.int64(order[i])
        since = used[slot]
        while (
            slot >= 0
            and nodes[LIVE, slot]
            and nodes[HOLDS, slot] == 0
            and nodes[KIDS, slot] == 0
            and used[slot] <= since
        ):
            if counts[FREE_COUNT] >= wanted:
                return counts[FREE_COUNT]
            parent = np.int64(nodes[PARENT, slot])
            _forget(nodes, heads, counts, slot)
            slot = parent
    return counts[FREE_COUNT]
