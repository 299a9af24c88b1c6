"""The kernels of the tree: loops over the arena's records, shared by everything that searches.

`nodes` and `edges` are arrays of `NODE` and `EDGE`, `sizes` int64 [2] how many of each are in use.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from search.jit import kernel

#: 20 bytes: block start and length, log2 of the room of a widened block, flags, the edge that leads here, the parent node, the
#: probability of the steps that are not proposed yet
NODE = np.dtype([("first", "i4"), ("count", "u2"), ("room", "u1"), ("flags", "u1"), ("edge", "i4"), ("parent", "i4"), ("unseen", "f4")])
#: 24 bytes: sum of values, prior, the policy's own value (nan: unknown), visits, child (-1: none yet; -2 - node: a closed child)
EDGE = np.dtype([("sum", "f8"), ("prior", "f4"), ("value", "f4"), ("visits", "i4"), ("child", "i4")])

SECOND, IN_FLIGHT, FULL = 1, 2, 4  # flags: the second player moves here; reached in this round; not to be widened

_nodes = numba.from_dtype(NODE)[::1]
_edges = numba.from_dtype(EDGE)[::1]
_i8, _f8 = numba.int64, numba.float64


@numba.njit(inline="always")
def puct(edge, scale, first_play):  # type: ignore[no-untyped-def]
    """Q + c sqrt(N) P / (1 + n) (Silver et al. 2017). An unvisited edge has its own value as Q if known, else `first_play`."""
    if edge.visits > 0:
        q = edge.sum / edge.visits
    elif edge.value == edge.value:
        q = float(edge.value)
    else:
        q = first_play
    return q + scale * (edge.prior / (1 + edge.visits))


@kernel(_i8(_nodes, _edges, _i8[::1], _i8, _i8, _f8, _f8, _f8, numba.boolean, numba.int32[::1]))
def select(nodes, edges, sizes, root, k, c, fpu_reduction, widen, stop_at_collision, leaves):  # type: ignore[no-untyped-def]
    """Up to `k` descents from `root`; the leaves reached go to `leaves`, their number is returned.

    A leaf is a node without open edges, or one whose best edge scores below the steps that are not proposed yet. These count as
    one more unvisited edge of prior widen * unseen / (1 + edges), unless the node is FULL or that prior is 0. New child nodes are made
    in the arena, which must have room for `k` of them.
    """
    done = 0
    while done < k:
        node = root
        while True:
            entry = nodes[node].edge
            visits = edges[entry].visits
            mean = edges[entry].sum / max(visits, 1)
            edges[entry].visits = visits + 1
            player, parent = nodes[node].flags & 1, nodes[node].parent
            if parent >= 0 and (nodes[parent].flags & 1) != player:
                mean = 1.0 - mean
            first_play, scale = mean - fpu_reduction, c * math.sqrt(visits)
            best, best_score = -1, -1e300
            first, count = nodes[node].first, nodes[node].count
            for e in range(first, first + count):
                if edges[e].child < -1:
                    continue
                score = puct(edges[e], scale, first_play)
                if score > best_score:
                    best, best_score = e, score
            more = 0.0 if nodes[node].flags & 4 else widen * nodes[node].unseen / (1 + count)
            if best < 0 or (more > 0 and first_play + scale * more > best_score):
                break
            child = edges[best].child
            if child < 0:
                child = sizes[0]
                sizes[0] += 1
                nodes[child].first, nodes[child].count, nodes[child].room = -1, 0, 0
                nodes[child].flags, nodes[child].edge, nodes[child].parent, nodes[child].unseen = 0, best, node, 0.0
                edges[best].child = child
            node = child
        if nodes[node].flags & 2 and stop_at_collision:
            while node >= 0:
                edges[nodes[node].edge].visits -= 1
                node = nodes[node].parent
            return done
        nodes[node].flags |= 2
        leaves[done] = node
        done += 1
    return done


@kernel(numba.void(_nodes, _edges, numba.int32[::1], _f8[::1], _f8))
def backup(nodes, edges, leaves, values, discount):  # type: ignore[no-untyped-def]
    """Add each leaf's value along its path. A value that is nan releases the visit instead: nothing is known of it."""
    for i in range(len(leaves)):
        node, v = leaves[i], values[i]
        nodes[node].flags &= 253
        while True:
            entry, parent = nodes[node].edge, nodes[node].parent
            if v == v:
                edges[entry].sum += v
            else:
                edges[entry].visits -= 1
            if parent < 0:
                break
            above = nodes[parent].parent
            changes = above >= 0 and (nodes[above].flags & 1) != (nodes[parent].flags & 1)
            if changes:
                v = 1.0 - v
            v = 0.5 + discount * (v - 0.5) if changes else discount * v
            node = parent
