"""Kernels that need no selection rule: a node becomes a root, what no root reaches is dropped, roots are read and given other priors."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from search import kernels
from search.jit import bind, digest, kernel
from search.kernels import HERE, NODE, ROOM, SECOND, STALE

_names = dict(vars(kernels))
for _name in ("places", "block", "entry", "move_at", "clear", "advance"):
    _names[_name] = numba.njit(error_model="numpy", forceinline=True)(bind(getattr(kernels, _name), _names, f"{_name}_plain"))
block, entry, move_at, advance = (_names[_name] for _name in ("block", "entry", "move_at", "advance"))
_nodes, _words, _i4, _i8 = numba.from_dtype(NODE)[::1], numba.float64[::1], numba.int32[::1], numba.int64


def _kernel(signature: Any) -> Any:
    """`kernel`, kept under a name that changes with the layout."""
    stamp = digest(*kernels.SOURCES)
    return lambda function: kernel(signature)(bind(function, globals(), f"{function.__name__}_{stamp}"))


@_kernel(numba.void(_nodes, _words, _i8[::1], _i4, _i8, _i8))
def sow(nodes, words, sizes, roots, second, visits):
    """New roots without edges; their numbers go to `roots`. second: the second player moves there."""
    f4, i4 = words.view(np.float32), words.view(np.int32)
    for t in range(len(roots)):
        node, own = np.uint64(sizes[0]), np.uint64(sizes[1])
        sizes[0] += 1
        sizes[1] += 4
        record = nodes[node]
        record.first, record.parent, record.count, record.slot, record.best = -1, np.int32(-2 - np.int64(own)), 0, 0, HERE
        record.room = SECOND if second else 0
        for i in range(np.uint64(12)):
            words[np.uint64(3) * own + np.uint64(i)] = 0.0
        f4[np.uint64(6) * own + np.uint64(8)] = 1.0
        f4[np.uint64(6) * own + np.uint64(12)] = np.nan
        i4[np.uint64(6) * own + np.uint64(16)] = visits
        i4[np.uint64(6) * own + np.uint64(20)] = np.int32(node)
        roots[t] = np.int32(node)


@_kernel(numba.void(_nodes, _words, _nodes, _words, _i4, _i4, _i8[::1]))
def gather(nodes, words, new_nodes, new_words, roots, kept, sizes):
    """Copy what stands below `roots` into other arrays, level by level. roots: changed to the new numbers; kept: the old ones, in order."""
    new_i4 = new_words.view(np.int32)
    for t in range(len(roots)):
        old, own = roots[t], -2 - nodes[roots[t]].parent
        node = np.int64(sizes[0])
        kept[node] = old
        new_nodes[node] = nodes[old]
        new_nodes[node].parent = np.int32(-2 - sizes[1])
        for i in range(12):
            new_words[3 * sizes[1] + i] = words[3 * own + i]
        sizes[0] += 1
        sizes[1] += 4
        roots[t] = np.int32(node)
    at = 0
    while at < sizes[0]:
        record = new_nodes[at]
        if record.first >= 0:
            room, start = np.int64(record.room & ROOM) * 4, 3 * np.int64(record.first)
            record.first = np.int32(sizes[1])
            for i in range(3 * room):
                new_words[3 * sizes[1] + i] = words[start + i]
            sizes[1] += room
            children = block(record)[4]
            for slot in range(np.uint64(record.count)):
                child = new_i4[children + np.uint64(slot)]
                if child >= 0:
                    node = np.int64(sizes[0])
                    kept[node] = child
                    new_nodes[node] = nodes[child]
                    new_nodes[node].parent = np.int32(at)
                    new_i4[children + np.uint64(slot)] = np.int32(node)
                    sizes[0] += 1
        at += 1


@_kernel(numba.void(_nodes, _words, _i8[::1], _i8))
def uproot(nodes, words, sizes, node):
    """Make `node` a root: it gets an edge of its own with what its edge knew, now in the view of the player who moves there."""
    f4, i4 = words.view(np.float32), words.view(np.int32)
    record = nodes[np.uint64(node)]
    ws, vs, turned = entry(nodes, record)
    place = block(nodes[np.uint64(record.parent)])
    slot = np.uint64(record.slot)
    own = np.int64(sizes[1])
    sizes[1] += 4
    for i in range(12):
        words[3 * own + i] = 0.0
    words[3 * own] = i4[vs] - words[ws] if turned else words[ws]
    f4[6 * own + 8] = 1.0
    f4[6 * own + 12] = f4[place[2] + slot]
    i4[6 * own + 16] = i4[vs]
    i4[6 * own + 20] = np.int32(node)
    record.parent = np.int32(-2 - own)
    if record.best != HERE:
        record.best = STALE


@_kernel(numba.void(_nodes, _words, _i4, numba.int32[:, ::1], numba.float64[:, ::1], numba.float32[:, ::1]))
def read(nodes, words, roots, visits, sums, priors):
    """Visits, sums and priors of the edges of some nodes, by move; zero where there is none."""
    f4, i4 = words.view(np.float32), words.view(np.int32)
    for t in range(len(roots)):
        record = nodes[np.uint64(roots[t])]
        if record.first < 0:
            continue
        place = block(record)
        for slot in range(place[5]):
            slot = np.uint64(slot)
            if f4[place[1] + slot] < 0:
                continue
            move = move_at(i4, place, slot)
            priors[t, move] = f4[place[1] + slot]
            if slot < record.count:
                visits[t, move] = i4[place[3] + slot]
                sums[t, move] = words[place[0] + slot]


@_kernel(numba.void(_nodes, _words, _i8, numba.float32[::1]))
def reprior(nodes, words, node, priors):
    """Give the edges of `node` other priors, by move; in an ordered block the best of those not taken comes up again."""
    f4, i4 = words.view(np.float32), words.view(np.int32)
    record = nodes[np.uint64(node)]
    place = block(record)
    for slot in range(place[5]):
        slot = np.uint64(slot)
        if f4[place[1] + slot] >= 0:
            f4[place[1] + slot] = priors[move_at(i4, place, slot)]
    last = np.uint64(record.count - 1)
    if i4[place[4] + last] < 0:
        advance(words, i4, place, last)
    record.best = STALE
