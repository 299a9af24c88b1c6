"""Whole searches in one call: the kernels of a game, as templates over those of
`search.tree.descent_kernels` and `search.tree.batch_kernels`.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np

from search.kernels.jit import as_f4, as_i4, bare, bind, copy_row, cut, digest, inner, kernel
from search.tree.batch_kernels import TOGETHER, backup, select
from search.tree.descent_kernels import (
    FULL,
    NO_OUTCOME,
    NO_VALUE,
    NOT_ONE,
    OK,
    PLAYERS,
    SOURCES,
    descend,
    entry,
    grow,
    move_at,
    rise,
    walk,
)
from search.tree.selection import Rule, _arena


class Game(NamedTuple):
    """A game as four functions over one position: a row, uint8 [size]. Numba compiles them where
    `numba.njit` did not.

    start(row)              write the first position
    play(row, move)         change the position; move in [0, moves)
    outcome(row)            a finished position's value in [0, 1], nan where it is not finished
    evaluate(row, priors)   the value of a position in [0, 1]; writes its float32 priors [moves],
                            sum 1, exactly 0 for an illegal move
    size, moves             bytes of a position, and the most moves of one
    players                 1, or 2 who move in turns

    Values are those of the player who just moved.
    """

    start: Callable[..., Any]
    play: Callable[..., Any]
    outcome: Callable[..., Any]
    evaluate: Callable[..., Any]
    size: int
    moves: int
    players: int = 1


def reach(nodes, words, i4, positions, leaf, filled):
    """Write the position of a node that was made just now: its number is not below `filled`."""
    if leaf >= filled:
        record = nodes[leaf]
        copy_row(positions, leaf, np.uint64(record.parent), np.uint64(SIZE))
        edge, _ = entry(nodes, record)
        play(positions[leaf], np.int64(move_at(i4, edge, record.place)))


def expand(nodes, words, f4, i4, notes, sizes, positions, leaf, priors, ordered, params):
    """Evaluate a node and expand it unless it is finished. (OK or what is wrong, its value)."""
    value = outcome(positions[leaf])
    if value < 0.0 or value > 1.0:
        return NO_OUTCOME, value
    if value != value:
        value = evaluate(positions[leaf], cut(priors, MOVES))
        if not 0.0 <= value <= 1.0:
            return NO_VALUE, value
        if grow(nodes, words, f4, i4, sizes, leaf, cut(priors, ROOM), ordered) != OK:
            return NOT_ONE, value
    if nodes[leaf].parent < 0 and params[PLAYERS] == 2.0:
        value = 1.0 - value  # a root's value is that of the player who moves there
    if len(notes) > leaf:
        notes[leaf] = value
    return OK, value


def begin(nodes, words, notes, sizes, positions, roots, priors, ordered, params):
    """Evaluate and expand each root. (OK or what is wrong, which tree)."""
    nodes = bare(nodes)
    words = bare(words)
    notes = bare(notes)
    sizes = bare(sizes)
    positions = bare(positions)
    roots = bare(roots)
    priors = bare(priors)
    params = bare(params)
    f4 = as_f4(words)
    i4 = as_i4(words)
    for t in range(len(roots)):
        state, value = expand(
            nodes,
            words,
            f4,
            i4,
            notes,
            sizes,
            positions,
            np.uint64(roots[t]),
            priors,
            ordered,
            params,
        )
        if state != OK:
            return state, t
        walk(nodes, words, f4, i4, roots[t], 1, value, True, params)
    return OK, 0


def simulate(
    nodes,
    words,
    notes,
    sizes,
    positions,
    roots,
    done,
    simulations,
    k,
    priors,
    leaves,
    values,
    ordered,
    params,
):
    """Search every tree until it had `simulations`, in rounds of `k`. done: int64 [trees], how many
    each had.

    (OK, FULL where there is no room for the next round, or what is wrong; which tree). All that is
    counted in `done` is finished.
    """
    nodes = bare(nodes)
    words = bare(words)
    notes = bare(notes)
    sizes = bare(sizes)
    positions = bare(positions)
    roots = bare(roots)
    done = bare(done)
    priors = bare(priors)
    leaves = bare(leaves)
    values = bare(values)
    params = bare(params)
    f4 = as_f4(words)
    i4 = as_i4(words)
    room = len(priors)
    for group in range(0, len(roots), TOGETHER):
        going = True
        while going:
            going = False
            for t in range(group, min(group + TOGETHER, len(roots))):
                if done[t] >= simulations:
                    continue
                going = True
                many = min(k, simulations - done[t])
                if sizes[0] + many > len(nodes) or 3 * (sizes[1] + many * room) > len(words):
                    return FULL, t
                filled = np.uint64(sizes[0])
                if many == 1:
                    leaf = descend(nodes, words, f4, i4, notes, sizes, roots[t], params)
                    reach(nodes, words, i4, positions, leaf, filled)
                    state, value = expand(
                        nodes, words, f4, i4, notes, sizes, positions, leaf, priors, ordered, params
                    )
                    if state != OK:
                        return state, t
                    rise(nodes, words, f4, i4, notes, leaf, value, True, params)
                else:
                    found = select(
                        nodes, words, notes, sizes, roots[t : t + 1], many, False, params, leaves
                    )
                    wrong = OK
                    for i in range(found):
                        leaf = np.uint64(leaves[i])
                        reach(nodes, words, i4, positions, leaf, filled)
                        values[i] = math.nan
                        if nodes[leaf].first < 0 and wrong == OK:
                            state, values[i] = expand(
                                nodes,
                                words,
                                f4,
                                i4,
                                notes,
                                sizes,
                                positions,
                                leaf,
                                priors,
                                ordered,
                                params,
                            )
                            wrong = state
                        for j in range(i):  # reached twice in this round: evaluated once
                            if leaves[j] == leaves[i]:
                                values[i] = values[j]
                    for i in range(found):
                        values[i] = values[i] if wrong == OK else math.nan
                    backup(nodes, words, notes, leaves[:found], values[:found], params)
                    if wrong != OK:
                        return wrong, t
                done[t] += many
    return OK, 0


def follow(nodes, words, positions, filled, total):
    """Write the positions of the nodes from `filled` to `total`."""
    nodes = bare(nodes)
    words = bare(words)
    positions = bare(positions)
    i4 = as_i4(words)
    for node in range(filled, total):
        reach(nodes, words, i4, positions, np.uint64(node), np.uint64(0))


def outcomes(positions, leaves, values):
    """Values of finished positions, nan of the others."""
    positions = bare(positions)
    leaves = bare(leaves)
    values = bare(values)
    for i in range(len(leaves)):
        values[i] = outcome(positions[np.uint64(leaves[i])])


def first(positions, rows):
    """Write the first position into some rows."""
    positions = bare(positions)
    rows = bare(rows)
    for row in rows:
        start(positions[np.uint64(row)])


def moved(positions, row, move):
    """Play a move in one row."""
    positions = bare(positions)
    play(positions[np.uint64(row)], move)


class GameKernels(NamedTuple):
    """The compiled kernels of one game under one rule."""

    begin: Any
    simulate: Any
    follow: Any
    outcomes: Any
    first: Any
    moved: Any


_i4 = numba.int32[::1]
_i8 = numba.int64
_f8 = numba.float64[::1]
_bool = numba.boolean
_positions = numba.uint8[:, ::1]
_pair = numba.types.UniTuple(numba.int64, 2)
_more = (_i8[::1], _positions, _i4)
SIGNATURES = {
    "begin": _pair(*_arena, *_more, numba.float32[::1], _bool, _f8),
    "simulate": _pair(
        *_arena, *_more, _i8[::1], _i8, _i8, numba.float32[::1], _i4, _f8, _bool, _f8
    ),
    "follow": numba.void(*_arena[:2], _positions, _i8, _i8),
    "outcomes": numba.void(_positions, _i4, _f8),
    "first": numba.void(_positions, _i4),
    "moved": numba.void(_positions, _i8, _i8),
}


def _importable(function: Callable[..., Any]) -> bool:
    """Whether another process finds the function's module."""
    return bool(getattr(sys.modules.get(function.__module__), "__file__", None))


@functools.cache
def fuse(
    rule_name: str, prepare: Callable[..., Any], score: Callable[..., Any], game: Game
) -> GameKernels:
    """Compiled once for each game and rule, from the cache where they are there."""
    names = {**globals(), **Rule(rule_name, prepare, score, ()).kernels.names}
    for part in ("start", "play", "outcome", "evaluate"):
        rule = getattr(game, part)
        names[part] = rule if hasattr(rule, "py_func") else numba.njit(error_model="numpy")(rule)
    # constants, so that loops over them unroll
    names |= {"MOVES": game.moves, "ROOM": (game.moves + 3) // 4 * 4, "SIZE": game.size}
    version = digest(prepare, score, reach, select, *SOURCES, *game[:4])
    name = f"{rule_name}_{game.moves}_{game.size}_{version}"
    for template in (reach, expand):
        names[template.__name__] = inner(bind(template, names, f"{template.__name__}_{name}"))
    compiled = {}
    for outer, signature in SIGNATURES.items():
        compiled[outer] = kernel(signature, cache=all(map(_importable, game[:4])))(
            bind(globals()[outer], {**globals(), **names}, f"{outer}_{name}")
        )
    return GameKernels(**compiled)
