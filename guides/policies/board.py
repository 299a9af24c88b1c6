"""Board networks as guides, and what they learn from traces of self-play."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from models.boardnet import BoardNet, Boards
from search.guide import PRECISION, Guide, Proposal
from search.methods.selfplay import BoardProblem
from search.problem import State, Step
from search.scheduling.budget import Budget
from search.scheduling.requests import Avoided, Backend, Forward, RequestFailed
from search.scheduling.scheduler import ask
from search.trace import Trace

SIMULATIONS = 400  #: of a search without a budget of its own


class Board:
    """Policy and value function of one network, for problems like
    `search.methods.selfplay.BoardProblem`.
    """

    step_tokens = chain_tokens = tokens = 0
    calls = 1
    max_steps = 1_000

    def __init__(self, backend: Backend, version: str):
        self.version = version
        self._name = f"board-{version}"
        self.backends: Mapping[str, Backend] = {self._name: backend}

    async def judge(
        self, problem: BoardProblem, positions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Priors float32 [n, moves], 0: illegal, and values float64 [n] in [0, 1] of the player who
        just moved: one request.

        positions: uint8 [n, size], not finished. What is no number in the network's answer is nan
        here.
        """
        logits, chances = await ask(Forward(problem.planes(positions), self._name))
        places = problem.places(positions)
        legal = places >= 0
        of_moves = np.take_along_axis(logits.astype(np.float64), np.maximum(places, 0), axis=1)
        scores = np.where(legal, of_moves, -np.inf)
        with np.errstate(invalid="ignore"):  # inf - inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            weights /= weights.sum(axis=1, keepdims=True)
        # a legal move stays above 0
        rounded = np.maximum(np.round(weights / PRECISION) * PRECISION, PRECISION)
        weights = np.where(legal, rounded, 0.0)
        priors = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
        return priors, 1.0 - chances.astype(np.float64)

    async def _one(self, problem: Any, state: State) -> tuple[np.ndarray, float]:
        priors, values = await self.judge(problem, np.frombuffer(state, np.uint8)[None])
        if not (np.isfinite(priors).all() and np.isfinite(values).all()):
            raise RequestFailed(
                "the network gave no number: train it again, with a lower learning rate"
            )
        return priors[0].astype(np.float64), float(values[0])

    async def propose(
        self,
        problem: Any,
        state: State,
        n: int,
        rng: np.random.Generator,
        avoid: Sequence[Avoided] = (),
    ) -> list[Proposal]:
        """All legal moves, however many are wanted."""
        priors, _ = await self._one(problem, state)
        total = priors.sum()
        return [
            Proposal(int(move), float(np.log(priors[move])), float(priors[move] / total))
            for move in np.flatnonzero(priors)
        ]

    async def complete(self, problem: Any, state: State, rng: np.random.Generator) -> list[Step]:
        """Moves drawn by the policy to the end of the game."""
        steps: list[Step] = []
        while not problem.is_terminal(state):
            priors, _ = await self._one(problem, state)
            steps.append(int(rng.choice(len(priors), p=priors / priors.sum())))
            state = problem.apply(state, steps[-1])
        return steps

    async def evaluate(
        self, problem: Any, states: Sequence[State], known: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """float32 [states] in [0, 1], the chances of the player who led to each; nan where the
        network gives no number.
        """
        _, values = await self.judge(problem, _stacked(states))
        return values.astype(np.float32)


def board_guide(net: BoardNet, device: str = "cpu") -> Guide:
    """A guide of a network, with a budget of 400 simulations. Sets torch to one thread, unless
    OMP_NUM_THREADS is set.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # its products are too small to share
    board = Board(Boards(net, device), net.version)
    return Guide(board, board, Budget(simulations=SIMULATIONS), kinds=net.kinds or None)


def load_board(folder: str | Path, device: str = "cpu") -> Guide:
    """The guide of a folder that `copse train hex` wrote. Raises ValueError, saying what to do,
    for one that is none.
    """
    return board_guide(BoardNet.load(folder), device)


def _stacked(states: Sequence[State]) -> np.ndarray:
    """uint8 [states, size]."""
    return np.array([np.frombuffer(state, np.uint8) for state in states])


# -- distillers


def visit_targets(trace: Trace, moves: int) -> np.ndarray:
    """float64 [nodes, moves]: each move's share of the visits at its node; all 0 where nothing
    was visited: the end, and an opening.
    """
    shares = np.zeros((len(trace.node_parent), moves))
    shares[trace.edge_node, [int(step.text) for step in trace.steps]] = trace.edge_visits
    return shares / np.maximum(shares.sum(axis=1, keepdims=True), 1)


def outcomes(trace: Trace) -> np.ndarray:
    """float64 [nodes] in [0, 1]: how the game ended for the player who made the move to each
    node.
    """
    before_end = np.arange(len(trace.node_parent))[::-1]
    return np.where(before_end % 2 == 0, trace.node_reward[-1], 1.0 - trace.node_reward[-1])


class Examples(NamedTuple):
    """What a network is trained on: all from the side of the player who moves.

    planes  float32 [positions, planes, ...];  policy: float32 [positions, moves], sums to 1;
            chances: float32 [positions] in [0, 1]
    """

    planes: np.ndarray
    policy: np.ndarray
    chances: np.ndarray


def examples(traces: Iterable[Trace]) -> Examples:
    """An example of each position that was searched, and of the same turned where the problem
    has `turned`. Traces of one board.
    """
    planes = []
    policy = []
    chances = []
    for trace in traces:
        problem: Any = trace.problem()
        targets = visit_targets(trace, problem.game.moves)
        searched = np.flatnonzero(targets.any(axis=1))
        positions = _stacked(trace.states(problem))[searched]
        places = problem.places(positions)
        seen = np.zeros_like(targets[searched])
        row, move = np.nonzero(places >= 0)
        seen[row, places[row, move]] = targets[searched][row, move]
        views = [(problem.planes(positions), seen.astype(np.float32))]
        if hasattr(problem, "turned"):
            views.append(problem.turned(*views[0]))
        for view in views:
            planes.append(view[0])
            policy.append(view[1])
            chances.append((1.0 - outcomes(trace)[searched]).astype(np.float32))
    if not planes:
        raise ValueError(
            "there is no trace to learn from: play more games, or with a larger budget"
        )
    return Examples(np.concatenate(planes), np.concatenate(policy), np.concatenate(chances))
