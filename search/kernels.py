"""The kernels of the tree: loops over one arena, shared by everything that searches.

The functions here are templates, as are those of `search.rounds`, which Python calls: `search.rules` gives each selection rule a compiled
set of them (`prepare` and `score` are the rule's), `search.fused` one more for each game. Arrays, everywhere:

nodes  NODE [capacity];  sizes: int64 [2], how many nodes and edges are in use
words  float64 [3 x capacity of edges], 24 bytes an edge. The edges of a node stand in one contiguous block of `room` slots (a multiple of
       four), field after field, so that one load takes in several of them: sums f8 [room], priors f4 [room], values f4 [room], visits i4
       [room], children i4 [room]. `block` tells the places; f4 and i4 are `words` seen as 32-bit numbers
notes  float32 [nodes], what the rule needs to know of each node: the probability of the steps not proposed yet (PUCT, where the tree may
       be widened), the node's own value (Gumbel). Never read by the other rules
params float64 [PARAMS], of the rule

A block may be *ordered*: the slots below `count` are those that were taken and, last, the best of the others by prior; more than these need
not be looked at, because untaken edges without a value of their own differ by their prior alone. What lies behind `count` is neither
cleared nor counted; a slot that holds no edge has the prior -1.

Each node keeps the slot that it takes next (`best`). It is found when the path is written, where nothing waits for it, so that a descent
only follows pointers. STALE: not known; HERE: the node itself is the leaf.
"""

from __future__ import annotations

import numpy as np

from search.jit import bind
from search.lanes import count_up, fetch, first, highest, known, lanes, load, over, positive, spread, store, together

#: 16 bytes: start of the block (-1: none), parent (-2 - edge: a root, whose own edge is that one), edges to be looked at, slot of its own
#: edge in the parent's block, slot it takes next, room of the block in fours together with two flags
NODE = np.dtype([("first", "i4"), ("parent", "i4"), ("count", "u2"), ("slot", "u2"), ("best", "u2"), ("room", "u2")])
EDGE_BYTES = 24
STALE, HERE = 65_535, 65_534  #: values of `best`
SECOND, IN_FLIGHT, ROOM = 32_768, 16_384, 16_383  #: of `room`: the second player moves here; reached in this round; the room itself
MOST_EDGES = 65_520  #: of a node
UNKNOWN = 0x7FC00000  #: bits of a value that is not known: nan, the move (place among the proposals) in its low 16 bits
C, BASE, REDUCTION, WIDEN, SCALE, FLOOR, PLAYERS, DISCOUNT, PARAMS = range(9)  #: places in `params`
BITS = np.array([i.bit_count() for i in range(16)], np.uint8)  # of four lanes: how many are set
LAST = np.array([i.bit_length() for i in range(16)], np.uint8)  # and the place behind the last of them
OK, NOT_ONE, NO_VALUE, FULL = range(4)  #: what a kernel came to: done; priors that do not sum to 1; a value out of range; no room


def places(first, room):
    """(sums in f8, priors in f4, values in f4, visits in i4, children in i4, room) of a block that begins at edge `first`. All uint64."""
    sums = np.uint64(3) * first
    priors = np.uint64(2) * (sums + room)
    return sums, priors, priors + room, priors + np.uint64(2) * room, priors + np.uint64(3) * room, room


def block(record):
    """`places` of a node's block."""
    return places(np.uint64(record.first), np.uint64((record.room & ROOM) * 4))


def entry(nodes, record):
    """(sum in f8, visits in i4, whether the node's mover is another than who chose it) of the edge that leads to a node."""
    if record.parent < 0:
        own = np.uint64(-2 - record.parent)
        return np.uint64(3) * own, np.uint64(6) * own + np.uint64(16), False
    above = nodes[np.uint64(record.parent)]
    sums, _, _, visits, _, _ = block(above)
    slot = np.uint64(record.slot)
    return sums + slot, visits + slot, ((above.room ^ record.room) & SECOND) != 0


def rate(words, f4, i4, place, slot, n, first_play, look, params):
    """(highest score, its slot) of four slots. An untaken edge has its own value as Q if known, else `first_play`."""
    sums, priors, values, visits, _, _ = place
    taken, prior = load(i4, visits + slot), load(f4, priors + slot)
    other = known(load(f4, values + slot), lanes(first_play))
    q = over(taken, load(words, sums + slot), other) / over(taken, taken, lanes(1.0))
    points, lane = highest(score(q, prior, taken, n, look, params), prior)
    return points, slot + lane


def move_at(i4, place, slot):
    """The move of a slot: its place among the proposals."""
    bits = i4[place[2] + slot]
    return bits & 65_535 if (bits & UNKNOWN) == UNKNOWN else np.int32(slot)


def refresh(nodes, words, f4, i4, notes, node, way, params):
    """Find what `node` takes next: the edge with the highest score; of equals, the first. way: `entry` of the node."""
    record = nodes[node]
    count = np.uint64(record.count)
    if count == 0:
        record.best = HERE
        return
    ws, vs, turned = way
    n = i4[vs]
    mean = words[ws] / max(n, 1)
    mean = 1.0 - mean if turned else mean
    first_play = mean - params[REDUCTION]
    place = block(record)
    look = prepare(words, f4, i4, place, count, n, mean, notes, node, params)
    high, best = -1e300, np.uint64(HERE)
    for e in range(np.uint64(0), count, np.uint64(4)):
        points, slot = rate(words, f4, i4, place, np.uint64(e), n, first_play, look, params)
        best, high = (slot if points > high else best), (points if points > high else high)
    if params[WIDEN] > 0.0 and best != HERE:  # the steps not proposed yet are one more untaken edge
        more = params[WIDEN] * notes[node] / (1 + record.count)
        points = score(lanes(first_play), lanes(more), lanes(0.0), n, look, params)
        if more > 0.0 and first(points) > high:
            best = np.uint64(HERE)
    record.best = best


def clear(words, i4, place, slot):
    """Four slots from `slot` on that nothing was taken of."""
    sums, _, _, visits, children, _ = place
    for e in range(slot, slot + np.uint64(4)):
        e = np.uint64(e)
        words[sums + e] = 0.0
        i4[visits + e] = 0
        i4[children + e] = -1


def advance(words, i4, place, slot):
    """Bring the best of the slots from `slot` on to `slot`, of equals that of the lowest move; whether there is one."""
    _, priors, values, _, _, room = place
    if slot >= room:
        return False
    key = np.int64(-1)
    for e in range(slot, room):  # the bits of floats >= 0 are ordered like the floats, those of -1 are below 0
        e = np.uint64(e)
        bits = (np.int64(i4[priors + e]) << 32) | ((65_535 - np.int64(i4[values + e] & 65_535)) << 16) | np.int64(e)
        key = max(key, bits)
    if key < 0:
        return False
    if (slot & np.uint64(3)) == 0:
        clear(words, i4, place, slot)
    found = np.uint64(key & 65_535)
    i4[priors + slot], i4[priors + found] = i4[priors + found], i4[priors + slot]
    i4[values + slot], i4[values + found] = i4[values + found], i4[values + slot]
    return True


def descend(nodes, words, f4, i4, notes, sizes, root, params):
    """The leaf that `root` comes to. Nothing is counted; the node behind an edge that was never taken is made."""
    node = np.uint64(root)
    while True:
        if nodes[node].best >= HERE:
            if nodes[node].best == STALE:
                refresh(nodes, words, f4, i4, notes, node, entry(nodes, nodes[node]), params)
            if nodes[node].best == HERE:
                return node
        record = nodes[node]
        children = np.uint64(record.first) * np.uint64(6) + np.uint64(5) * np.uint64((record.room & ROOM) * 4)  # as `block` has it
        child = i4[children + np.uint64(record.best)]
        fetch(words, np.uint64(record.first) * np.uint64(3))  # the way back up comes here
        fetch(i4, children - np.uint64(1))
        if child < 0:
            return open_(nodes, words, f4, i4, sizes, node, np.uint64(record.best), params)
        node = np.uint64(child)


def open_(nodes, words, f4, i4, sizes, node, slot, params):
    """Make the node behind an edge that was never taken; in an ordered block the best of the others comes up."""
    record = nodes[node]
    place = block(record)
    child = np.uint64(sizes[0])
    sizes[0] += 1
    fresh = nodes[child]
    fresh.first, fresh.parent, fresh.count, fresh.slot, fresh.best = -1, np.int32(node), 0, slot, HERE
    mover = record.room & SECOND
    fresh.room = mover ^ SECOND if params[PLAYERS] == 2.0 else mover
    i4[place[4] + slot] = np.int32(child)
    if slot + np.uint64(1) == record.count and advance(words, i4, place, slot + np.uint64(1)):
        record.count += 1
    return child


def above(nodes, node, value, params):
    """The value at a node's parent, in the view of who chose the step to that, of a value at the node."""
    if params[PLAYERS] == 1.0:
        return params[DISCOUNT] * value
    parent = nodes[np.uint64(nodes[node].parent)]
    if parent.parent >= 0 and ((nodes[np.uint64(parent.parent)].room ^ parent.room) & SECOND) != 0:
        value = 1.0 - value
    return 0.5 + params[DISCOUNT] * (value - 0.5)


def walk(nodes, words, f4, i4, leaf, visits, value, fresh, params):
    """Add visits and, unless it is nan, a value along the path to `leaf`. What its nodes take next is not known then.

    fresh  the leaf was expanded just now: it still takes the likeliest of its edges
    """
    plain = params[PLAYERS] == 1.0 and params[DISCOUNT] == 1.0
    leaf = np.uint64(leaf)
    node = leaf
    while True:
        ws, vs, _ = entry(nodes, nodes[node])
        if value == value:
            words[ws] += value
        i4[vs] += visits
        if node != leaf or (not fresh and nodes[node].count > 0):
            nodes[node].best = STALE
        if nodes[node].parent < 0:
            return
        if not plain:
            value = above(nodes, node, value, params)
        node = np.uint64(nodes[node].parent)


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


def foresee(nodes, words, f4, i4, notes, leaf, params):
    """Of the path to `leaf` the root and the node below it, which the next descents of a round are likely to come to."""
    node, below = np.uint64(leaf), np.uint64(leaf)
    while nodes[node].parent >= 0:
        below, node = node, np.uint64(nodes[node].parent)
    refresh(nodes, words, f4, i4, notes, node, entry(nodes, nodes[node]), params)
    if below != node and nodes[below].best == STALE:
        refresh(nodes, words, f4, i4, notes, below, entry(nodes, nodes[below]), params)


def grow(nodes, words, f4, i4, sizes, node, priors, ordered):
    """Give `node`, which has none, an edge for each move of prior > 0. OK or NOT_ONE.

    priors: float32 [a multiple of four], sum 1 within 1e-3, 0 for an illegal move and where there is no such move
    """
    record = nodes[node]
    start, room = np.uint64(sizes[1]), np.uint64(len(priors))
    place = places(start, room)
    total, high, best = lanes(0.0), 0.0, np.uint64(0)
    legal, last = np.uint64(0), np.uint64(0)
    for a in range(np.uint64(0), room, np.uint64(4)):
        a = np.uint64(a)
        four = load(priors, a)
        total = total + four
        store(f4, place[1] + a, over(four, four, lanes(-1.0)))
        count_up(i4, place[2] + a, np.int32(UNKNOWN + a))
        top, slot = highest(four, four)
        best, high = (a + slot if top > high else best), (top if top > high else high)
        bits = positive(four)
        legal += np.uint64(BITS[bits])
        last = a + np.uint64(LAST[bits]) if bits else last
    if not abs(together(total) - 1.0) <= 1e-3:
        return NOT_ONE
    if legal < room:
        for a in range(room):
            if not priors[np.uint64(a)] >= 0.0:
                return NOT_ONE
    if legal < last:  # close the gaps
        room = (legal + np.uint64(3)) & ~np.uint64(3)
        place = places(start, room)
        e = np.uint64(0)
        for a in range(len(priors)):
            if priors[np.uint64(a)] > 0:
                best = e if np.uint64(a) == best else best
                f4[place[1] + e] = priors[np.uint64(a)]
                i4[place[2] + e] = UNKNOWN | a
                e += np.uint64(1)
        for e in range(legal, room):
            f4[place[1] + np.uint64(e)] = -1.0
            i4[place[2] + np.uint64(e)] = UNKNOWN
    sizes[1] += np.int64(room)
    record.first, record.room = np.int32(start), (record.room & SECOND) | (record.room & IN_FLIGHT) | (room >> np.uint64(2))
    if ordered:
        clear(words, i4, place, np.uint64(0))
        i4[place[1]], i4[place[1] + best] = i4[place[1] + best], i4[place[1]]
        i4[place[2]], i4[place[2] + best] = i4[place[2] + best], i4[place[2]]
        record.count, record.best = 1, 0
    else:
        for e in range(np.uint64(0), room, np.uint64(4)):
            clear(words, i4, place, np.uint64(e))
        record.count, record.best = legal, best
    return OK


#: Functions whose files all compiled code depends on, for its stamp
SOURCES = (block, bind, spread)
