"""Rounds of simulations: the kernels that Python calls, as templates over those of
`search.tree.descent_kernels`, which tells what the arrays are.
"""

from __future__ import annotations

import math

import numpy as np

from search.kernels.jit import as_f4, as_i4, bare
from search.tree.descent_kernels import (
    IN_FLIGHT,
    NO_VALUE,
    NOT_ONE,
    OK,
    descend,
    grow,
    rise,
    settle,
    walk,
)

#: Trees that take turns in one call: while what one takes next is worked out, the other's descent
#: is under way (1.1 times faster)
TOGETHER = 2


def select(nodes, words, notes, sizes, roots, k, stop_at_collision, params, leaves):
    """A round in every tree: up to `k` descents, whose visits count at once. The leaves go to
    `leaves`, tree after tree; their number.

    leaves             int32 [at least k x roots]
    stop_at_collision  end a tree's round at the first leaf that it reaches twice, without counting
                       that descent
    There must be room for k x roots more nodes.
    """
    nodes = bare(nodes)
    words = bare(words)
    notes = bare(notes)
    sizes = bare(sizes)
    roots = bare(roots)
    params = bare(params)
    leaves = bare(leaves)
    f4 = as_f4(words)
    i4 = as_i4(words)
    for group in range(0, len(roots), TOGETHER):
        for j in range(k):
            for t in range(group, min(group + TOGETHER, len(roots))):
                if j > 0 and leaves[t * k + j - 1] < 0:
                    leaves[t * k + j] = -1
                    continue
                leaf = descend(nodes, words, f4, i4, notes, sizes, roots[t], params)
                if stop_at_collision and (nodes[leaf].room & IN_FLIGHT) != 0:
                    leaves[t * k + j] = -1
                    continue
                nodes[leaf].room |= IN_FLIGHT
                if j + 1 < k:
                    rise(nodes, words, f4, i4, notes, leaf, math.nan, False, params)
                else:
                    walk(nodes, words, f4, i4, leaf, 1, math.nan, False, params)
                leaves[t * k + j] = np.int32(leaf)
    done = 0
    for i in range(k * len(roots)):
        if leaves[i] >= 0:
            leaves[done] = leaves[i]
            done += 1
    return done


def backup(nodes, words, notes, leaves, values, params):
    """Add each leaf's value along its path. A value that is nan releases the visit instead:
    nothing is known of it.
    """
    nodes = bare(nodes)
    words = bare(words)
    notes = bare(notes)
    leaves = bare(leaves)
    values = bare(values)
    params = bare(params)
    f4 = as_f4(words)
    i4 = as_i4(words)
    for i in range(len(leaves)):
        leaf = np.uint64(leaves[i])
        nodes[leaf].room &= ~IN_FLIGHT
        walk(
            nodes,
            words,
            f4,
            i4,
            leaf,
            0 if values[i] == values[i] else -1,
            values[i],
            False,
            params,
        )
    for i in range(len(leaves)):
        settle(nodes, words, f4, i4, notes, leaves[i], params)


def absorb(nodes, words, notes, sizes, leaves, priors, values, ordered, params):
    """Expand the leaves that have no edges yet and back all up. priors: float32 [leaves, moves],
    all 0: the leaf is finished.

    (OK or what is wrong, the index of the leaf): nothing is backed up where something is wrong.
    """
    nodes = bare(nodes)
    words = bare(words)
    notes = bare(notes)
    sizes = bare(sizes)
    leaves = bare(leaves)
    priors = bare(priors)
    values = bare(values)
    params = bare(params)
    f4 = as_f4(words)
    i4 = as_i4(words)
    for i in range(len(leaves)):
        if values[i] < 0.0 or values[i] > 1.0:
            return NO_VALUE, i
    for i in range(len(leaves)):
        leaf = np.uint64(leaves[i])
        if nodes[leaf].first < 0 and values[i] == values[i]:
            if grow(nodes, words, f4, i4, sizes, leaf, priors[i], ordered) != OK:
                for p in priors[i]:
                    if p != 0:  # else it is finished
                        return NOT_ONE, i
            if len(notes) > leaf:
                notes[leaf] = values[i]
    backup(nodes, words, notes, leaves, values, params)
    return OK, 0


def step(nodes, words, notes, sizes, roots, k, params, leaves, priors, values, ordered, picked):
    """`absorb`, then `select`, in one call: (OK or what is wrong, the index of the leaf or the
    number of leaves picked).
    """
    nodes = bare(nodes)
    words = bare(words)
    notes = bare(notes)
    sizes = bare(sizes)
    roots = bare(roots)
    params = bare(params)
    leaves = bare(leaves)
    priors = bare(priors)
    values = bare(values)
    picked = bare(picked)
    state, where = absorb(nodes, words, notes, sizes, leaves, priors, values, ordered, params)
    if state != OK:
        return state, where
    return OK, select(nodes, words, notes, sizes, roots, k, False, params, picked)
