"""Kernels that need no selection rule: a node becomes a root, what no root reaches is dropped,
roots are read and get other priors.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from search.kernels.jit import as_f4, as_i4, bind, digest, inner, kernel
from search.tree import descent_kernels
from search.tree.descent_kernels import (
    CHILD,
    HERE,
    NODE,
    PRIOR,
    ROOM,
    STALE,
    VALUE,
    VISITS,
    f4_of,
    f8_of,
)

_names = dict(vars(descent_kernels))
for _name in ("entry", "move_at", "clear", "swap", "advance"):
    _names[_name] = inner(bind(getattr(descent_kernels, _name), _names, f"{_name}_plain"))
entry = _names["entry"]
move_at = _names["move_at"]
advance = _names["advance"]
_nodes = numba.from_dtype(NODE)[::1]
_words = numba.float64[::1]
_i4 = numba.int32[::1]
_i8 = numba.int64


def _kernel(signature: Any) -> Any:
    """`kernel`, kept under a name that changes with the layout."""
    stamp = digest(*descent_kernels.SOURCES)
    return lambda function: kernel(signature)(
        bind(function, globals(), f"{function.__name__}_{stamp}")
    )


@_kernel(numba.void(_nodes, _words, _nodes, _words, _i4, _i4, _i8[::1]))
def gather(nodes, words, new_nodes, new_words, roots, kept, sizes):
    """Copy what stands below `roots` into other arrays, level by level. roots: changed to the
    new numbers; kept: the old ones, in order.
    """
    new_i4 = as_i4(new_words)
    for t in range(len(roots)):
        old = roots[t]
        own = -2 - nodes[roots[t]].parent
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
            room = np.int64(record.room & ROOM) * 4
            start = 3 * np.int64(record.first)
            record.first = np.int32(sizes[1])
            for i in range(3 * room):
                new_words[3 * sizes[1] + i] = words[start + i]
            sizes[1] += room
            for place in range(record.count):
                at_child = f4_of(np.uint64(record.first) + np.uint64(place), CHILD)
                child = new_i4[at_child]
                if child >= 0:
                    node = np.int64(sizes[0])
                    kept[node] = child
                    new_nodes[node] = nodes[child]
                    new_nodes[node].parent = np.int32(at)
                    new_i4[at_child] = np.int32(node)
                    sizes[0] += 1
        at += 1


@_kernel(numba.void(_nodes, _words, _i8[::1], _i8))
def uproot(nodes, words, sizes, node):
    """Make `node` a root: it gets an edge of its own with what its edge knew, now in the view of
    the player who moves there.
    """
    f4 = as_f4(words)
    i4 = as_i4(words)
    record = nodes[np.uint64(node)]
    edge, turned = entry(nodes, record)
    own = np.uint64(sizes[1])
    sizes[1] += 4
    for i in range(np.uint64(12)):
        words[np.uint64(3) * own + np.uint64(i)] = 0.0
    visits = i4[f4_of(edge, VISITS)]
    total = words[f8_of(edge)]
    words[f8_of(own)] = visits - total if turned else total
    f4[f4_of(own, PRIOR)] = 1.0
    i4[f4_of(own, VALUE)] = i4[f4_of(edge, VALUE)]
    i4[f4_of(own, VISITS)] = visits
    i4[f4_of(own, CHILD)] = np.int32(node)
    record.parent = np.int32(-2 - np.int64(own))
    if record.best != HERE:
        record.best = STALE


@_kernel(
    numba.void(
        _nodes, _words, _i4, numba.int32[:, ::1], numba.float64[:, ::1], numba.float32[:, ::1]
    )
)
def read(nodes, words, roots, visits, sums, priors):
    """Visits, sums and priors of the edges of some nodes, by move; zero where there is none."""
    f4 = as_f4(words)
    i4 = as_i4(words)
    for t in range(len(roots)):
        record = nodes[np.uint64(roots[t])]
        if record.first < 0:
            continue
        for place in range(np.int64(record.room & ROOM) * 4):
            edge = np.uint64(record.first) + np.uint64(place)
            if f4[f4_of(edge, PRIOR)] < 0:
                continue
            move = move_at(i4, edge, place)
            priors[t, move] = f4[f4_of(edge, PRIOR)]
            if place < record.count:
                visits[t, move] = i4[f4_of(edge, VISITS)]
                sums[t, move] = words[f8_of(edge)]


@_kernel(numba.void(_nodes, _words, _i8, numba.float32[::1]))
def reprior(nodes, words, node, priors):
    """Give the edges of `node` other priors, by move; in an ordered block the best of those not
    taken comes up again.
    """
    f4 = as_f4(words)
    i4 = as_i4(words)
    record = nodes[np.uint64(node)]
    start = np.uint64(record.first)
    room = np.uint64((record.room & ROOM) * 4)
    last = np.uint64(record.count - 1)
    for place in range(room):
        edge = start + np.uint64(place)
        if f4[f4_of(edge, PRIOR)] >= 0:
            f4[f4_of(edge, PRIOR)] = priors[move_at(i4, edge, place)]
    if i4[f4_of(start + last, CHILD)] < 0:
        advance(words, f4, i4, start, last, room)
    record.best = STALE
