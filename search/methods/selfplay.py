"""Self-play: many games side by side in one forest, one request a simulation; each game becomes a
trace (Silver et al. 2017, 2018).

A producer of traces, not a method: `solve` on a board problem uses `mcts`. The problem is a board's
(`BoardProblem`), and the policy judges many positions at once (`BoardPolicy`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from search.guide import Guide
from search.kinds import kind_of
from search.problem import Problem, TextStep
from search.scheduling.budget import Meter
from search.scheduling.requests import BudgetSpent, Cancelled, RequestFailed, Usage
from search.scheduling.scheduler import Asks
from search.trace import Trace
from search.tree.forest import Forest
from search.tree.selection import dirichlet, puct

if TYPE_CHECKING:
    from search.tree.game_kernels import Game

METHOD = "search.methods.selfplay:selfplay"


class BoardProblem(Problem, Protocol):
    """A problem with the rules of a `Game`; its states are positions as bytes, its steps the
    game's moves.
    """

    @property
    def game(self) -> Game: ...

    def planes(self, positions: np.ndarray) -> np.ndarray:
        """What a network sees of positions uint8 [n, size]: float32 [n, planes, ...], from the
        mover's side.
        """

    def places(self, positions: np.ndarray) -> np.ndarray:
        """Where the network's output has each move of positions: int64 [n, moves], -1 where it is
        illegal.
        """


class BoardPolicy(Protocol):
    """What the policy of a guide must be, to play with."""

    def judge(
        self, problem: BoardProblem, positions: np.ndarray
    ) -> Asks[tuple[np.ndarray, np.ndarray]]:
        """Priors float32 [n, moves], sum 1, 0: illegal, and values float [n] in [0, 1] of the
        player who just moved.
        """


async def selfplay(
    problem: BoardProblem,
    guide: Guide,
    meter: Meter,
    rng: np.random.Generator,
    *,
    games: int = 256,
    simulations: int = 64,
    at_once: int = 256,
    c_puct: float = 1.25,
    noise: float = 0.25,
    temperature: float = 1.0,
    warm: int = 8,
    opening: int = 0,
) -> list[Trace]:
    """Play `games` games of the guide against itself; their traces, in order.

    simulations  of each move; what the move before it found below is kept beside them
    at_once      games that are played side by side; where one ends, the next begins
    noise        share of Dirichlet noise in the priors of the root, `tree.selection.dirichlet`
    temperature  of the first `warm` moves, drawn by visits ** (1 / temperature); then, and at 0,
                 the most visited is played, of equals the first
    opening      up to so many first moves of a game are drawn alike, each number as often; they
                 have no visits in the trace

    A game depends on the generator's seed and its number alone. Where the budget ends, the games
    under way are dropped, since their results are not known. A node of the trace is a position of
    the game, its edges are all moves there with the visits, sums and (noisy) priors of the search,
    and the reward of the last is that of who made the last move. Raises RequestFailed that names
    game and move where the network gives no number.
    """
    if (
        min(games, simulations, at_once) < 1
        or not 0 <= noise <= 1
        or min(temperature, warm, opening) < 0
    ):
        raise ValueError(
            "self-play takes games, simulations and at_once from 1 on, noise in [0, 1], "
            "temperature, warm and opening from 0 on: correct what is not"
        )
    if not hasattr(guide.policy, "judge"):
        raise ValueError(
            f"{type(guide.policy).__name__} cannot judge many positions at once: play with "
            "guides.load_board(folder)"
        )
    if problem.is_terminal(problem.initial()):
        raise ValueError("the game is over before its first move: there is nothing to play")
    options = {
        "simulations": simulations, "c_puct": c_puct, "noise": noise,
        "temperature": temperature, "warm": warm, "opening": opening,
    }  # fmt: skip
    spawned = enumerate(rng.spawn(games))
    waiting = (_Play(problem, number, child, opening) for number, child in spawned)
    room = min(games, at_once)
    forest = Forest(room, problem.game.moves, game=problem.game, rule=puct(c_puct))
    seats: dict[int, _Play] = {}  # tree -> the game that is played in it
    done: list[_Play] = []
    try:
        while True:
            await _seat(problem, guide, forest, seats, waiting)
            if not seats:
                break
            trees = np.array(list(seats))
            if noise:
                priors = forest.root_priors()
                noisy = [_noisy(priors[tree], noise, play.rng) for tree, play in seats.items()]
                forest.reprior(trees, noisy)
            await simulate(forest, problem, guide, simulations, trees, meter)
            temperatures = {
                tree: temperature if len(play.moves) < warm else 0.0 for tree, play in seats.items()
            }
            done += _move(forest, seats, simulations, temperatures)
    except (BudgetSpent, Cancelled):
        pass
    done.sort(key=lambda play: play.number)
    return [play.trace(options, guide.version) for play in done]


async def think(
    problem: BoardProblem,
    guide: Guide,
    positions: np.ndarray,
    simulations: int,
    meter: Meter | None = None,
    c_puct: float = 1.25,
) -> Forest:
    """Search each of some unfinished positions, uint8 [n, size], in a tree of its own, without
    noise.
    """
    forest = Forest(len(positions), problem.game.moves, game=problem.game, rule=puct(c_puct))
    priors, values = await guide.policy.judge(problem, positions)  # type: ignore[attr-defined]
    _refuse_nan(priors, values, np.arange(len(positions)))
    forest.plant(priors, 1.0 - values, positions)
    await simulate(forest, problem, guide, simulations, np.arange(len(positions)), meter)
    return forest


async def simulate(
    forest: Forest,
    problem: BoardProblem,
    guide: Guide,
    simulations: int,
    trees: np.ndarray,
    meter: Meter | None = None,
) -> None:
    """So many more simulations in each of these trees, one request a simulation. Raises
    BudgetSpent where the meter has fewer left.
    """
    for _ in range(simulations):
        begun = len(trees) if meter is None else meter.begin(len(trees))
        if begun < len(trees):
            if meter is not None:
                meter.finish(0, begun)
            raise BudgetSpent("the budget of this search is spent")
        finished = 0
        try:
            leaves = forest.select(trees=trees)
            values = forest.outcomes(leaves)
            priors = np.zeros((len(leaves), forest.moves), np.float32)
            open_ = np.flatnonzero(np.isnan(values))
            if len(open_):
                positions = forest.positions[leaves[open_]]
                judged = await guide.policy.judge(problem, positions)  # type: ignore[attr-defined]
                priors[open_], values[open_] = judged
                _refuse_nan(priors[open_], values[open_], trees[open_], forest, leaves[open_])
            forest.absorb(leaves, priors, values)
            finished = begun
        finally:
            if meter is not None:
                meter.finish(finished, begun)


def _refuse_nan(
    priors: np.ndarray,
    values: np.ndarray,
    trees: np.ndarray,
    forest: Forest | None = None,
    leaves: np.ndarray | None = None,
) -> None:
    wrong = np.flatnonzero(~(np.isfinite(priors).all(axis=1) & np.isfinite(values)))[:1]
    if len(wrong):
        move = ""
        if forest is not None and leaves is not None:
            move = f" after move {forest.moves_of(leaves[wrong])[0]}"
        raise RequestFailed(
            f"the network gave no number in tree {trees[wrong][0]}{move}: train it again, with a "
            "lower learning rate"
        )


def _noisy(priors: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Priors [moves] mixed with Dirichlet noise over the legal ones; these stay above 0."""
    legal = np.flatnonzero(priors)
    mixed = priors.astype(np.float64)
    mixed[legal] += share * (dirichlet(rng, len(legal)) - mixed[legal])
    mixed[legal] = np.maximum(mixed[legal], 1e-6)
    return mixed / mixed.sum()


async def _seat(
    problem: BoardProblem,
    guide: Guide,
    forest: Forest,
    seats: dict[int, _Play],
    waiting: Iterator[_Play],
) -> None:
    """Begin games in the trees without one."""
    empty = [tree for tree in range(len(forest.roots)) if tree not in seats]
    fresh = dict(zip(empty, waiting, strict=False))
    if fresh:
        positions = np.array([play.row for play in fresh.values()])
        priors, values = await guide.policy.judge(problem, positions)  # type: ignore[attr-defined]
        _refuse_nan(priors, values, np.array(list(fresh)))
        forest.plant(priors, 1.0 - values, positions, trees=list(fresh))
        seats.update(fresh)


def _move(
    forest: Forest,
    seats: dict[int, _Play],
    simulations: int,
    temperatures: dict[int, float],
) -> list[_Play]:
    """Play a move in every game; those that it ends."""
    visits = forest.root_visits()
    values = forest.root_values()
    priors = forest.root_priors()
    sums = np.where(visits > 0, np.nan_to_num(values) * visits, 0.0)
    ended: list[_Play] = []
    moves: dict[int, int] = {}
    for tree, play in list(seats.items()):
        moves[tree] = _choose(visits[tree], temperatures[tree], play.rng)
        play.note(visits[tree], sums[tree], priors[tree], simulations)
        play.go(moves[tree])
        if not math.isnan(play.reward):
            ended.append(seats.pop(tree))
            del moves[tree]
    forest.advance(list(moves), list(moves.values()))
    return ended


def _choose(visits: np.ndarray, temperature: float, rng: np.random.Generator) -> int:
    if temperature <= 0:
        return int(visits.argmax())
    weights = (visits / visits.max()) ** (1 / temperature)
    return int(rng.choice(len(weights), p=weights / weights.sum()))


@dataclass
class _Play:
    """One game: where it is, and what is noted of every position so far (moves, visits, sums,
    priors).
    """

    problem: BoardProblem
    number: int
    rng: np.random.Generator
    opening: int
    reward: float = math.nan  # of who made the last move, once the game is over
    simulations: int = 0
    moves: list[int] = field(default_factory=list)
    notes: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.row = np.frombuffer(self.problem.initial(), np.uint8).copy()
        for _ in range(int(self.rng.integers(self.opening + 1))):
            legal = np.array(self.problem.actions(self.row.tobytes()))
            before = self.row.copy()
            self.go(int(self.rng.choice(legal)))
            if not math.isnan(self.reward):  # a game does not end in its opening
                self.row = before
                self.reward = math.nan
                self.moves.pop()
                return
            zeros = np.zeros(len(legal))
            self.notes.append((legal, zeros, zeros, np.full(len(legal), 1 / len(legal))))

    def note(
        self, visits: np.ndarray, sums: np.ndarray, priors: np.ndarray, simulations: int
    ) -> None:
        legal = np.flatnonzero(priors)
        self.notes.append((legal, visits[legal], sums[legal], priors[legal]))
        self.simulations += simulations

    def go(self, move: int) -> None:
        self.problem.game.play(self.row, move)
        self.reward = float(self.problem.game.outcome(self.row))
        self.moves.append(move)

    def trace(self, options: dict[str, Any], version: str) -> Trace:
        source: Any = self.rng.bit_generator.seed_seq  # type: ignore[attr-defined]
        length = len(self.moves)
        legal, visits, sums, priors = map(np.concatenate, zip(*self.notes, strict=True))
        node = np.repeat(np.arange(length), [len(note[0]) for note in self.notes])
        played = np.flatnonzero(legal == np.array(self.moves)[node])
        child = np.full(len(legal), -1, np.int32)
        child[played] = np.arange(1, length + 1)
        unknown = np.full(len(legal), np.nan)
        name = f"{source.entropy} {source.spawn_key} {version} {options}"
        return Trace(
            id=hashlib.sha256(name.encode()).hexdigest()[:32],
            kind=kind_of(self.problem),
            arguments=self.problem.to_json(),  # type: ignore[attr-defined]
            method=METHOD,
            options=options,
            seed=source.entropy % 2**63 if isinstance(source.entropy, int) else 0,
            version=version,
            usage=Usage(simulations=self.simulations),
            node_parent=np.arange(-1, length, dtype=np.int32),
            node_edge=np.append(-1, played).astype(np.int32),
            node_finished=np.arange(length + 1) == length,
            node_reward=np.append(np.full(length, np.nan), self.reward),
            edge_node=node.astype(np.int32),
            edge_child=child,
            edge_visits=visits.astype(np.int32),
            edge_sum=sums,
            edge_prior=priors.astype(np.float32),
            edge_value=unknown.astype(np.float32),
            edge_log_prob=unknown,
            steps=tuple(TextStep(json.dumps(move)) for move in legal.tolist()),
        )
