"""How well trained networks play small boards, by the exact solver. `pytest -m slow
--log-cli-level=INFO` shows the numbers.
"""

from __future__ import annotations

import logging

import hex_solver
import numpy as np
import pytest

import guides
from guides.iteration.alphazero import BoardPlan, board_iteration
from search import Guide, run
from search.methods.selfplay import think
from search.problems.hex import Hex

log = logging.getLogger(__name__)


def moves_of(guide: Guide, problem: Hex, states, simulations: int) -> list[int]:
    """The most visited move of each position, or for 0 simulations the policy's likeliest."""
    chosen: list[int] = []
    for at in range(0, len(states), 2048):
        rows = np.array([np.frombuffer(state, np.uint8) for state in states[at : at + 2048]])
        if simulations:
            scores = run(think(problem, guide, rows, simulations), guide.backends).root_visits()
        else:
            scores, _ = run(guide.policy.judge(problem, rows), guide.backends)
        chosen += scores.argmax(axis=1).tolist()
    return chosen


def thrown_away(guide: Guide, size: int, states, simulations: int) -> tuple[int, int]:
    """(in how many of these positions the mover had a win and lost it, how many were won)."""
    good = [hex_solver.winning_moves(size, state) for state in states]
    won = [(state, moves) for state, moves in zip(states, good, strict=True) if moves]
    chosen = moves_of(guide, Hex(size), [state for state, _ in won], simulations)
    return sum(move not in moves for move, (_, moves) in zip(chosen, won, strict=True)), len(won)


def against_all(guide: Guide, size: int, role: int, simulations: int) -> tuple[int, int]:
    """`thrown_away` of all positions that come about when it plays one side and the opponent
    tries everything.
    """
    problem = Hex(size)
    level, lost, won = {problem.initial()}, 0, 0
    while level:
        ours = sorted(state for state in level if problem.to_move(state) == role)
        steps = [
            (state, move)
            for state in level
            if problem.to_move(state) != role
            for move in problem.actions(state)
        ]
        steps += zip(ours, moves_of(guide, problem, ours, simulations), strict=True)
        bad, good = thrown_away(guide, size, ours, simulations)
        lost, won = lost + bad, won + good
        level = {
            after
            for state, move in steps
            if not problem.is_terminal(after := problem.apply(state, move))
        }
    return lost, won


@pytest.mark.slow
def test_3x3_is_learnt_in_seconds(tmp_path):
    """Its own play never leads to a position in which a modest search throws a win away."""
    guide = guides.load_board(
        board_iteration(Hex(3), tmp_path, rounds=5, plan=BoardPlan(games=256, width=48, depth=2))
    )
    assert against_all(guide, 3, 0, 64)[0] == against_all(guide, 3, 1, 64)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_search_plays_3x3_perfectly(tmp_path, seed):
    guide = guides.load_board(
        board_iteration(Hex(3), tmp_path, rounds=10, plan=BoardPlan(seed=seed))
    )
    everywhere = {n: thrown_away(guide, 3, list(hex_solver.positions(3)), n) for n in (0, 16, 64)}
    reached = {n: (against_all(guide, 3, 0, n), against_all(guide, 3, 1, n)) for n in (0, 16, 64)}
    told = (
        f"simulations: (wins thrown away, won positions): everywhere {everywhere}, reached as "
        f"first and second player {reached}"
    )
    log.info("%s", told)
    assert everywhere[64] == (0, 3401) and everywhere[0][0] < 35, told
    assert all(lost == 0 for n in (16, 64) for lost, _ in reached[n]), told


@pytest.mark.slow
def test_4x4_is_won_by_who_begins(tmp_path):
    guide = guides.load_board(board_iteration(Hex(4), tmp_path, rounds=20))
    reached = {n: (against_all(guide, 4, 0, n), against_all(guide, 4, 1, n)) for n in (0, 64)}
    told = f"simulations: (wins thrown away, won positions) as first and second player: {reached}"
    log.info("%s", told)
    assert reached[64][0][0] == 0 and reached[64][1][0] < 20, told
