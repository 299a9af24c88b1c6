"""The truth about small boards of Hex, with none of the shipped rules: who wins a position, by
negamax with a memo over sets of cells.

A set of cells is an int, bit `row * n + column` for each.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator


@functools.cache
def sides(n: int) -> tuple[int, int, int, int]:
    """Top, bottom, left and right."""
    row = (1 << n) - 1
    column = sum(1 << (n * i) for i in range(n))
    return row, row << n * (n - 1), column, column << n - 1


def joined(n: int, stones: int, player: int) -> bool:
    """Whether these stones join the sides of player 0 (top and bottom) or 1 (left and right): a
    flood from the one side.
    """
    _, _, left, right = sides(n)
    begin, end = sides(n)[2 * player : 2 * player + 2]
    seen, last = stones & begin, 0
    while seen != last:
        last = seen
        # those with a cell to their left, to their right
        inner, outer = seen & ~left, seen & ~right
        seen |= (
            seen << n | seen >> n | outer << 1 | inner >> 1 | inner << n - 1 | outer >> n - 1
        ) & stones
    return bool(seen & end)


@functools.cache
def mover_wins(n: int, mine: int, theirs: int, player: int) -> bool:
    """Whether `player`, who moves and has the stones `mine`, wins with best play; nobody has won
    yet.
    """
    return any(
        wins(n, mine, theirs, player, cell)
        for cell in central(n)
        if not (mine | theirs) >> cell & 1
    )


def wins(n: int, mine: int, theirs: int, player: int, cell: int) -> bool:
    """Whether the move `cell` wins."""
    after = mine | 1 << cell
    return joined(n, after, player) or not mover_wins(n, theirs, after, 1 - player)


@functools.cache
def central(n: int) -> list[int]:
    """All cells, the middle first."""
    return sorted(
        range(n * n),
        key=lambda cell: (cell // n - (n - 1) / 2) ** 2 + (cell % n - (n - 1) / 2) ** 2,
    )


def stones(state: bytes) -> tuple[int, int, int]:
    """(the mover's stones, the other's, who moves) of a state of `Hex`."""
    player = (len(state) - 1 - state[:-1].count(0)) % 2
    sets = [
        sum(1 << cell for cell, owner in enumerate(state[:-1]) if owner == which)
        for which in (1, 2)
    ]
    return sets[player], sets[1 - player], player


def winning_moves(n: int, state: bytes) -> set[int]:
    """The moves that win with best play."""
    return {cell for cell in range(n * n) if not state[cell] and wins(n, *stones(state), cell)}


def positions(n: int) -> Iterator[bytes]:
    """Every unfinished position that alternating play can reach, as states of `Hex`."""
    level = {bytes(n * n + 1)}
    while level:
        yield from sorted(level)
        after = set()
        for state in level:
            mine, _, player = stones(state)
            for cell in range(n * n):
                if not state[cell] and not joined(n, mine | 1 << cell, player):
                    after.add(
                        state[:cell]
                        + bytes([player + 1])
                        + state[cell + 1 : -1]
                        + bytes([state[-1] + 1])
                    )
        level = after
