"""Hex: two players fill a board of n x n hexagons, a cell a move; the first to join their two sides
wins. There is no swap rule.

The first player joins top and bottom, the second left and right. Cells are numbered row by row from
the top left corner. The cell (r, c) touches (r-1, c), (r-1, c+1), (r, c+1), (r+1, c), (r+1, c-1)
and (r, c-1). A full board has exactly one winner.

A position is a row of uint8 [n * n + 1]: the cells (0 empty, 1 the first player's, 2 the second's),
then the number of stones. A state is its bytes. The four jitted functions of `game` are the only
rules: a forest compiles them in, `Hex` calls them.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from search.kernels import kernel_cache
from search.problem import IllegalStep, Step, TextStep

if TYPE_CHECKING:
    from search.tree.game_kernels import Game

SMALLEST = 2
LARGEST = 11
ROLLOUTS = 1  #: random games that `evaluate` plays out

# the six neighbours, clockwise
_DOWN = (-1, -1, 0, 1, 1, 0)
_RIGHT = (0, 1, 1, 0, -1, -1)


def _rule(function: Any) -> Any:
    """Compiled by itself at its first call for each type, and kept, for a game played without a
    tree.
    """
    return kernel_cache.keep(numba.njit(nogil=True, error_model="numpy")(function))


@_rule
def start(row):  # type: ignore[no-untyped-def]
    """The empty board."""
    row[:] = 0


@_rule
def play(row, move):  # type: ignore[no-untyped-def]
    """Put the mover's stone on an empty cell."""
    row[move] = 1 + (row[-1] & 1)
    row[-1] += 1


@_rule
def connects(row, player):  # type: ignore[no-untyped-def]
    """Whether `player` (1 or 2) has joined their sides, empty cells counted as the other's.

    Then all cells have an owner, and the line between the two colours that begins in the top left
    corner, the first player's stones on its one hand and the second's on the other, ends at the
    bottom where the first player has won, else at the right.
    """
    n = int(math.sqrt(len(row)))
    # a cell of the first player's at the line; the second's lies in direction `turn` of it
    down = -1
    right = 0
    turn = 4
    while True:
        ahead = (turn + 5) % 6
        r = down + _DOWN[ahead]
        c = right + _RIGHT[ahead]
        if r >= n:
            return player == 1
        if c >= n:
            return player == 2
        if r < 0 or c < 0:
            first = r < 0
        else:
            first = row[r * n + c] == 1 or (row[r * n + c] == 0 and player == 2)
        if first:
            down = r
            right = c
            turn = (turn + 1) % 6
        else:
            turn = ahead


@_rule
def outcome(row):  # type: ignore[no-untyped-def]
    """1.0 where the player who just moved has won, else nan: that player alone can have."""
    stones = int(row[-1])
    n = int(math.sqrt(len(row)))
    return 1.0 if stones >= 2 * n - 1 and connects(row, 2 - (stones & 1)) else math.nan


@_rule
def evaluate(row, priors):  # type: ignore[no-untyped-def]
    """Share of `ROLLOUTS` random games from here that the player who just moved wins; uniform
    priors of the empty cells.

    A game is played out by filling the board, since stones that come after a win change nothing.
    The random numbers are a hash of the position, so the same position has the same value always.
    """
    cells = len(row) - 1
    stones = int(row[-1])
    noise = np.uint64(0xCBF29CE484222325)
    for i in range(cells):
        priors[i] = 1.0 / (cells - stones) if row[i] == 0 else 0.0
        noise = (noise ^ np.uint64(row[i])) * np.uint64(0x100000001B3)
    before = 2 - (stones & 1)
    wins = 0
    for _ in range(ROLLOUTS):
        # empty cells, and how many the player who just moved will get
        left = cells - stones
        theirs = (cells - stones) // 2
        for i in range(cells):
            if priors[i] > 0:
                noise = noise * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
                mixed = (noise ^ (noise >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
                # 24 bits of it, as a share
                if float(mixed >> np.uint64(40)) * left < theirs * 16777216.0:
                    row[i] = before
                    theirs -= 1
                else:
                    row[i] = 3 - before
                left -= 1
        wins += connects(row, before)
        for i in range(cells):
            if priors[i] > 0:
                row[i] = 0
    return wins / ROLLOUTS


@functools.cache
def game(n: int) -> Game:
    """The rules of the n x n board for `search.Forest`. Raises ValueError for a size that is
    none.
    """
    from search.tree.game_kernels import Game

    _check_size(n)
    return Game(start, play, outcome, evaluate, size=n * n + 1, moves=n * n, players=2)


def planes(rows: np.ndarray) -> np.ndarray:
    """What a network sees of positions uint8 [..., size]: float32 [..., 2, n, n], 1 at the mover's
    stones, 1 at the other's.

    The second player's board is mirrored at its diagonal, so that the mover always joins top and
    bottom.
    """
    n = math.isqrt(rows.shape[-1])
    cells = rows[..., :-1].reshape(*rows.shape[:-1], n, n)
    second = (rows[..., -1] & 1).astype(bool)[..., None, None]
    seen = np.where(second, cells.swapaxes(-1, -2), cells)
    mover = 1 + second.astype(np.uint8)
    return np.stack([seen == mover, seen == 3 - mover], axis=-3).astype(np.float32)


def places(rows: np.ndarray) -> np.ndarray:
    """Where each move is in a network's output for `planes(rows)`: int64 [..., moves], -1 where
    it is illegal.
    """
    n = math.isqrt(rows.shape[-1])
    first = np.arange(n * n)
    second = first.reshape(n, n).T.ravel()
    return np.where(rows[..., :-1] == 0, np.where((rows[..., -1:] & 1) == 1, second, first), -1)


@dataclass(frozen=True)
class Hex:
    """Hex on a board of `size` x `size`, from the position after the moves `start`. A step is the
    number of a cell.

    size   2 to 11
    start  cells, the first player's, the second's, and so on
    Raises ValueError for anything else, and for a start that breaks the rules.
    """

    size: int
    start: tuple[int, ...] = ()

    players = 2
    inline = True

    def __post_init__(self) -> None:
        _check_size(self.size)
        object.__setattr__(self, "start", tuple(self.start))
        try:
            self.initial()
        except IllegalStep as error:
            raise ValueError(
                f"this board cannot begin with {list(self.start)}: {error}; give legal moves"
            ) from None

    @property
    def game(self) -> Game:
        """The rules that `apply` and a forest share."""
        return game(self.size)

    def initial(self) -> bytes:
        state = bytes(self.size**2 + 1)
        for move in self.start:
            state = self.apply(state, move)
        return state

    def to_move(self, state: bytes) -> int:
        """0 or 1: who moves."""
        return state[-1] & 1

    def actions(self, state: bytes) -> list[int]:
        """The empty cells, [] where the game is over."""
        if self.is_terminal(state):
            return []
        return [cell for cell in range(self.size**2) if not state[cell]]

    def apply(self, state: bytes, step: Step) -> bytes:
        """The position after a move, which may also stand as the text of a step. Raises
        IllegalStep.
        """
        move = self.key(state, step)
        if self.is_terminal(state):
            raise IllegalStep("the game is over")
        if not 0 <= move < self.size**2:
            raise IllegalStep(f"there is no cell {move}: cells are 0 to {self.size**2 - 1}")
        if state[move]:
            raise IllegalStep(f"cell {move} is taken")
        row = np.frombuffer(state, np.uint8).copy()
        play(row, move)
        return row.tobytes()

    def is_terminal(self, state: bytes) -> bool:
        return not math.isnan(outcome(np.frombuffer(state, np.uint8).copy()))

    def verify(self, state: bytes) -> float:
        """1.0 where the player who made the last move has won, 0.0 in a game that is not over."""
        return float(self.is_terminal(state))

    def answer(self, state: bytes) -> str | None:
        """Who has won, "first" or "second"; None while nobody has."""
        return ("second", "first")[state[-1] & 1] if self.is_terminal(state) else None

    def prompt(self, state: bytes) -> str:
        """The statement: size and first moves."""
        moves = f", after {', '.join(map(str, self.start))}" if self.start else ""
        return (
            f"Hex on {self.size} x {self.size} cells{moves}: the first player joins top and "
            "bottom, the second left and right."
        )

    def key(self, state: bytes, step: Step) -> Any:
        """The cell, an int. Raises IllegalStep where `step` does not name one."""
        try:
            move = json.loads(step.text) if isinstance(step, TextStep) else step
        except ValueError:
            move = None
        if isinstance(move, bool) or not isinstance(move, (int, np.integer)):
            raise IllegalStep(f"{step!r} is no move: give the number of a cell")
        return int(move)

    def planes(self, positions: np.ndarray) -> np.ndarray:
        """`planes` of positions uint8 [n, size]."""
        return planes(positions)

    def places(self, positions: np.ndarray) -> np.ndarray:
        """`places` of positions uint8 [n, size]."""
        return places(positions)

    def turned(self, planes: np.ndarray, policy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Planes [n, 2, size, size] and policies [n, moves] with the board turned by half, which
        changes nothing in Hex.
        """
        return planes[..., ::-1, ::-1], policy[..., ::-1]

    def to_json(self) -> dict[str, Any]:
        """The arguments that make this problem again: Hex(**problem.to_json())."""
        return {"size": self.size, "start": list(self.start)}


def _check_size(n: Any) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or not SMALLEST <= n <= LARGEST:
        raise ValueError(
            f"there is no Hex board of size {n!r}: give a whole number from {SMALLEST} to {LARGEST}"
        )
