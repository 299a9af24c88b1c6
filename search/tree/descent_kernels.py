"""The kernels of the tree: loops over one arena, shared by everything that searches.

How a kernel is made. The functions here are templates, as are those of `search.tree.batch_kernels`
(which Python calls) and `search.tree.game_kernels`. A template calls names that its module does not
have: `prepare` and `score` of a selection rule; `start`, `play`, `outcome`, `evaluate`, `SIZE`,
`MOVES` and `ROOM` of a game. `selection._compiled` and `game_kernels.fuse` make a dictionary of all
these names and of the other templates, and give each template a copy of its code that looks its
globals up there (`jit.bind`). An inner function becomes a piece of its callers (`jit.inner`); an
outer one is compiled for its signature at its first call (`jit.kernel`). So each rule and each game
has a set of its own, without a call through a pointer. They are no closures, because Numba's cache
knows a closure by a pickle that differs from run to run. Nor does the cache look at globals, so the
name of a copy ends with a digest of the files that it is made of.

Arrays, everywhere:

nodes  NODE [capacity];  sizes: int64 [2], how many nodes and edges are in use
words  float64 [3 x capacity of edges], 24 bytes an edge. The edges of a node stand in one
       contiguous block of `room` places (a multiple of four), in groups of four, field after field,
       so that one load takes in the four: sums f8 [4], priors f4 [4], values f4 [4], visits i4 [4],
       children i4 [4]. An edge's number is the start of its block + its place there, which tells
       all indices (`f8_of`, `f4_of`); f4 and i4 are `words` seen as 32-bit numbers
notes  float32 [nodes], what the rule needs to know of each node: the probability of the steps not
       proposed yet (PUCT, where the tree may be widened), the node's own value (Gumbel). Never read
       by the other rules
params float64 [PARAMS], of the rule

A block may be *ordered*: the places below `count` are those that were taken and, last, the best of
the others by prior; more than these need not be looked at, because untaken edges without a value of
their own differ by their prior alone. What lies behind `count` is neither cleared nor counted; a
place that holds no edge has the prior -1.

Each node keeps the place that it takes next (`best`). It is found when the path is written, where
nothing waits for it, so that a descent only follows pointers. STALE: not known; HERE: the node
itself is the leaf.
"""

from __future__ import annotations

import math

import numpy as np

from search.kernels.jit import bind, inner
from search.kernels.simd import (
    lane_argmax,
    lane_of,
    lane_sum,
    load4,
    loader,
    spread,
    store,
    unless_nan,
    where_positive,
)
from search.tree.edge_vectors import add_to_lane, count_up, loaded, prefetch, ranked

#: 16 bytes: start of the block (-1: none), parent (-2 - edge: a root, whose own edge is that one),
#: edges to be looked at, place of its own edge in the parent's block, place it takes next, room of
#: the block in fours together with two flags
NODE = np.dtype(
    [
        ("first", "i4"),
        ("parent", "i4"),
        ("count", "u2"),
        ("place", "u2"),
        ("best", "u2"),
        ("room", "u2"),
    ]
)
EDGE_BYTES = 24
#: Fields of a group, in 32-bit numbers from its start
PRIOR = 8
VALUE = 12
VISITS = 16
CHILD = 20
#: Values of `best`
STALE = 65_535
HERE = 65_534
#: Of `room`: the second player moves here; reached in this round; the room itself
SECOND = 32_768
IN_FLIGHT = 16_384
ROOM = 16_383
MOST_EDGES = 65_520  #: of a node
#: bits of a value that is not known: nan, the move (which of the proposals) in its low 16 bits
UNKNOWN = 0x7FC00000
C, BASE, REDUCTION, WIDEN, SCALE, FLOOR, PLAYERS, DISCOUNT, PARAMS = range(
    9
)  #: indices in `params`
#: What a kernel came to: done; priors that do not sum to 1; a value out of range; no room; an
#: outcome out of range
OK, NOT_ONE, NO_VALUE, FULL, NO_OUTCOME = range(5)


@inner
def f8_of(edge):
    """The index of an edge's sum in `words`. All uint64."""
    return edge + np.uint64(2) * (edge & ~np.uint64(3))


@inner
def f4_of(edge, field):
    """The index of another field in f4 and i4: PRIOR, VALUE, VISITS or CHILD."""
    return edge + np.uint64(5) * (edge & ~np.uint64(3)) + np.uint64(field)


@inner
def four_of(edge, field):
    """`f4_of` for the first edge of a group, where it is one multiplication; its sum is at half
    of that for field 0.
    """
    return np.uint64(6) * edge + np.uint64(field)


def entry(nodes, record):
    """(edge that leads to a node, whether another player moves there than chose it)."""
    if record.parent < 0:
        return np.uint64(-2 - record.parent), False
    above = nodes[np.uint64(record.parent)]
    turned = ((above.room ^ record.room) & SECOND) != 0
    return np.uint64(above.first) + np.uint64(record.place), turned


def rate(words, f4, i4, edge, n, own, turned, look, params):
    """(highest score, its lane) of the four edges from `edge` on. An untaken one has its own value
    as Q if known, else the node's mean in the chooser's view, less the reduction. own: sum of the
    node's values. Both means are one division.
    """
    taken = load4(i4, four_of(edge, VISITS))
    prior = load4(f4, four_of(edge, PRIOR))
    mean = where_positive(taken, load4(words, np.uint64(3) * edge), spread(own)) / where_positive(
        taken, taken, spread(float(max(n, 1)))
    )
    first_play = (spread(1.0) - mean if turned else mean) - params[REDUCTION]
    q = where_positive(taken, mean, unless_nan(load4(f4, four_of(edge, VALUE)), first_play))
    return lane_argmax(score(q, prior, taken, n, look, params), prior)


def move_at(i4, edge, place):
    """The move of an edge at this place in its block: which of the proposals it was."""
    bits = i4[f4_of(edge, VALUE)]
    return bits & 65_535 if (bits & UNKNOWN) == UNKNOWN else np.int32(place)


def refresh(nodes, words, f4, i4, notes, node, way, params):
    """Find what `node` takes next: the edge with the highest score; of equals, the first. way:
    `entry` of the node.
    """
    record = nodes[node]
    count = np.uint64(record.count)
    if count == 0:
        record.best = HERE
        return
    edge, turned = way
    start = np.uint64(record.first)
    n = i4[f4_of(edge, VISITS)]
    own = words[f8_of(edge)]
    mean = own / max(n, 1)
    mean = 1.0 - mean if turned else mean
    look = prepare(words, f4, i4, start, count, n, mean, notes, node, params)
    high, best = rate(words, f4, i4, start, n, own, turned, look, params)
    for e in range(np.uint64(4), count, np.uint64(4)):
        e = np.uint64(e)
        points, lane = rate(words, f4, i4, start + e, n, own, turned, look, params)
        best = e + lane if points > high else best
        high = points if points > high else high
    best = best if high > -math.inf else np.uint64(HERE)
    if params[WIDEN] > 0.0 and best != HERE:  # the steps not proposed yet are one more untaken edge
        more = params[WIDEN] * notes[node] / (1 + record.count)
        points = score(spread(mean - params[REDUCTION]), spread(more), spread(0.0), n, look, params)
        if more > 0.0 and lane_of(points, np.uint64(0)) > high:
            best = np.uint64(HERE)
    record.best = best


def clear(words, i4, edge):
    """Four edges from `edge` on that nothing was taken of."""
    store(words, np.uint64(3) * edge, spread(0.0))
    store(i4, four_of(edge, VISITS), spread(0.0))
    store(i4, four_of(edge, CHILD), spread(-1.0))


def swap(i4, one, other):
    """Exchange two edges that nothing was taken of."""
    for field in (PRIOR, VALUE):
        a = f4_of(one, field)
        b = f4_of(other, field)
        i4[a], i4[b] = i4[b], i4[a]


def advance(words, f4, i4, start, place, room):
    """Bring the best of a block's places from `place` on to `place`, of equals that of the lowest
    move; whether there is one.
    """
    if place >= room:
        return False
    edge = start + (place & ~np.uint64(3))
    top = ranked(f4, four_of(edge, PRIOR), i4, four_of(edge, VALUE), place & np.uint64(3))
    # of the group that has the best and of the one looked at: their places behind the first one
    found = spread(0.0)
    now = spread(0.0)
    for four in range(edge + np.uint64(4), start + room, np.uint64(4)):
        four = np.uint64(four)
        keys = ranked(f4, four_of(four, PRIOR), i4, four_of(four, VALUE), np.uint64(0))
        better = keys - top
        now = now + 4.0
        top = where_positive(better, keys, top)
        found = where_positive(better, now, found)
    high, lane = lane_argmax(top, top)
    if high < 0.0:
        return False
    if (place & np.uint64(3)) == 0:
        clear(words, i4, start + place)
    swap(i4, start + place, edge + np.uint64(lane_of(found, lane)) + lane)
    return True


def descend(nodes, words, f4, i4, notes, sizes, root, params):
    """The leaf that `root` comes to. Nothing is counted; the node behind an edge that was never
    taken is made.
    """
    node = np.uint64(root)
    while True:
        if nodes[node].best >= HERE:
            if nodes[node].best == STALE:
                refresh(nodes, words, f4, i4, notes, node, entry(nodes, nodes[node]), params)
            if nodes[node].best == HERE:
                return node
        record = nodes[node]
        edge = np.uint64(record.first) + np.uint64(record.best)
        child = i4[f4_of(edge, CHILD)]
        prefetch(words, np.uint64(3) * (edge & ~np.uint64(3)))  # the way back up comes here
        if child < 0:
            return open_(nodes, words, f4, i4, sizes, node, np.uint64(record.best), params)
        node = np.uint64(child)


def open_(nodes, words, f4, i4, sizes, node, place, params):
    """Make the node behind an edge that was never taken; in an ordered block the best of the
    others comes up.
    """
    record = nodes[node]
    start = np.uint64(record.first)
    child = np.uint64(sizes[0])
    sizes[0] += 1
    fresh = nodes[child]
    fresh.first = -1
    fresh.parent = np.int32(node)
    fresh.count = 0
    fresh.place = place
    fresh.best = HERE
    mover = record.room & SECOND
    fresh.room = mover ^ SECOND if params[PLAYERS] == 2.0 else mover
    i4[f4_of(start + place, CHILD)] = np.int32(child)
    if place + np.uint64(1) == record.count and advance(
        words, f4, i4, start, place + np.uint64(1), np.uint64((record.room & ROOM) * 4)
    ):
        record.count += 1
    return child


def above(nodes, node, value, params):
    """The value at a node's parent of a value at the node, each in the view of the player who
    chose the step to it.
    """
    if params[PLAYERS] == 1.0:
        return params[DISCOUNT] * value
    parent = nodes[np.uint64(nodes[node].parent)]
    if parent.parent >= 0 and ((nodes[np.uint64(parent.parent)].room ^ parent.room) & SECOND) != 0:
        value = 1.0 - value
    return 0.5 + params[DISCOUNT] * (value - 0.5)


def count_at(words, i4, edge, visits, value):
    """Add visits and, unless it is nan, a value to an edge, as whole groups: the next load of
    four need not wait for the cache then.
    """
    lane = edge & np.uint64(3)
    add_to_lane(words, np.uint64(3) * (edge - lane), lane, value if value == value else 0.0)
    add_to_lane(i4, four_of(edge - lane, VISITS), lane, visits)


def walk(nodes, words, f4, i4, leaf, visits, value, fresh, params):
    """Add visits and, unless it is nan, a value along the path to `leaf`. What its nodes take next
    is not known then.

    fresh  the leaf was expanded just now: it still takes the likeliest of its edges
    """
    node = forget(nodes, leaf, fresh)
    count_at(words, i4, entry(nodes, nodes[node])[0], visits, value)
    while nodes[node].parent >= 0:
        value = above(nodes, node, value, params)
        node = np.uint64(nodes[node].parent)
        count_at(words, i4, entry(nodes, nodes[node])[0], visits, value)
        nodes[node].best = STALE


def rise(nodes, words, f4, i4, notes, leaf, value, fresh, params):
    """`walk` with one visit that finds anew at once what the nodes before the leaf take next."""
    node = forget(nodes, leaf, fresh)
    count_at(words, i4, entry(nodes, nodes[node])[0], 1, value)
    while nodes[node].parent >= 0:
        value = above(nodes, node, value, params)
        node = np.uint64(nodes[node].parent)
        way = entry(nodes, nodes[node])
        count_at(words, i4, way[0], 1, value)
        refresh(nodes, words, f4, i4, notes, node, way, params)


def forget(nodes, leaf, fresh):
    """The leaf of a path. What it takes next is not known any more, unless it has no edges or
    was expanded just now.
    """
    node = np.uint64(leaf)
    if not fresh and nodes[node].count > 0:
        nodes[node].best = STALE
    return node


def settle(nodes, words, f4, i4, notes, leaf, params):
    """Find anew what the nodes on the path to `leaf` take next, up to where that is known."""
    node = np.uint64(leaf)
    if nodes[node].best != STALE and nodes[node].parent >= 0:
        node = np.uint64(nodes[node].parent)
    while nodes[node].best == STALE:
        refresh(nodes, words, f4, i4, notes, node, entry(nodes, nodes[node]), params)
        if nodes[node].parent < 0:
            return
        node = np.uint64(nodes[node].parent)


def grow(nodes, words, f4, i4, sizes, node, priors, ordered):
    """Give `node`, which has none, an edge for each move of prior > 0. OK or NOT_ONE.

    priors: float32 [a multiple of four], sum 1 within 1e-3, 0 for an illegal move and where there
    is no such move
    """
    record = nodes[node]
    start = np.uint64(sizes[1])
    room = np.uint64(len(priors))
    total = spread(0.0)
    positive = spread(0.0)
    high = 0.0
    best = np.uint64(0)
    for a in range(np.uint64(0), room, np.uint64(4)):
        a = np.uint64(a)
        four = load4(priors, a)
        total = total + four
        positive = positive + where_positive(four, spread(1.0), spread(0.0))
        store(f4, four_of(start + a, PRIOR), where_positive(four, four, spread(-1.0)))
        count_up(i4, four_of(start + a, VALUE), np.int32(UNKNOWN + a))
        top, lane = lane_argmax(four, four)
        best = a + lane if top > high else best
        high = top if top > high else high
    if not abs(lane_sum(total) - 1.0) <= 1e-3:
        return NOT_ONE
    legal = np.uint64(lane_sum(positive))
    if legal < room:  # close the gaps
        end = start
        for a in range(room):
            prior = priors[np.uint64(a)]
            if not prior >= 0.0:
                return NOT_ONE
            if prior > 0.0:
                best = end - start if np.uint64(a) == best else best
                f4[f4_of(end, PRIOR)] = prior
                i4[f4_of(end, VALUE)] = UNKNOWN | a
                end += np.uint64(1)
        room = (legal + np.uint64(3)) & ~np.uint64(3)
        for e in range(end, start + room):
            f4[f4_of(np.uint64(e), PRIOR)] = -1.0
            i4[f4_of(np.uint64(e), VALUE)] = UNKNOWN
    sizes[1] += np.int64(room)
    record.first = np.int32(start)
    record.room = (record.room & SECOND) | (record.room & IN_FLIGHT) | (room >> np.uint64(2))
    for e in range(np.uint64(0), np.uint64(4) if ordered else room, np.uint64(4)):
        clear(words, i4, start + np.uint64(e))
    if ordered:
        swap(i4, start, start + best)
    record.count = np.uint64(1) if ordered else legal
    record.best = np.uint64(0) if ordered else best
    return OK


#: Functions whose files all compiled code depends on, for its stamp
SOURCES = (f8_of, bind, loader, loaded)
