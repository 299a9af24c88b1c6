"""Hex: its rules against a graph's connectivity, its searches against an exact solver
(`hex_solver`).
"""

from __future__ import annotations

import itertools

import hex_solver
import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import search
from guides import Rollout
from search.guide import Guide, Uniform
from search.kinds import build
from search.problem import IllegalStep, TextStep, check_problem
from search.problems import hex as rules
from search.problems.hex import Hex, connects, game, places, planes
from search.scheduling.budget import Budget
from search.tree.forest import Forest


def graph_winners(n: int, cells) -> list[int]:
    """The players (1, 2) whose sides are connected: each side is a node of the graph beside its
    cells.
    """
    winners = []
    for player, ends in ((1, [(-1, 0), (n, 0)]), (2, [(0, -1), (0, n)])):
        graph = nx.Graph()
        graph.add_nodes_from(ends)
        own = {(i // n, i % n) for i in range(n * n) if cells[i] == player}
        for r, c in own:
            graph.add_edges_from(
                ((r, c), beside)
                for beside in ((r, c + 1), (r + 1, c), (r + 1, c - 1))
                if beside in own
            )
            along = r if player == 1 else c
            graph.add_edges_from(
                ((r, c), end) for end, edge in zip(ends, (0, n - 1), strict=True) if along == edge
            )
        if nx.has_path(graph, *ends):
            winners.append(player)
    return winners


def row_of(cells) -> np.ndarray:
    return np.array([*cells, np.count_nonzero(cells)], np.uint8)


boards = st.integers(2, 11).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, n * n), st.integers(0, 2**32))
)


@pytest.mark.thorough
@settings(max_examples=150, deadline=None)
@given(boards)
def test_who_is_connected_is_what_a_graph_says(board):
    n, stones, seed = board
    cells = np.zeros(n * n, np.uint8)
    cells[np.random.default_rng(seed).permutation(n * n)[:stones]] = 1 + np.arange(stones) % 2
    assert [player for player in (1, 2) if connects(row_of(cells), player)] == graph_winners(
        n, cells
    )


@pytest.mark.parametrize("n", [2, 3])
def test_every_full_board_has_exactly_one_winner(n):
    for cells in itertools.product((1, 2), repeat=n * n):
        winners = [player for player in (1, 2) if connects(row_of(cells), player)]
        assert winners == graph_winners(n, cells) and len(winners) == 1


@pytest.mark.thorough
@settings(max_examples=60, deadline=None)
@given(st.integers(2, 11), st.integers(0, 2**32))
def test_a_game_ends_with_the_move_that_connects(n, seed):
    problem, state = Hex(n), Hex(n).initial()
    for count, cell in enumerate(np.random.default_rng(seed).permutation(n * n).tolist()):
        assert problem.to_move(state) == count % 2 and sorted(problem.actions(state)) == [
            i for i in range(n * n) if not state[i]
        ]
        before, state = state, problem.apply(state, cell)
        assert [i for i in range(n * n) if state[i] != before[i]] == [cell] and state[
            cell
        ] == 1 + count % 2
        winners = graph_winners(n, state)
        assert problem.is_terminal(state) == bool(winners)
        if winners:
            assert winners == [1 + count % 2] and problem.verify(state) == 1.0
            assert (
                problem.answer(state) == ("first", "second")[count % 2]
                and problem.actions(state) == []
            )
            with pytest.raises(IllegalStep, match="over"):
                problem.apply(state, 0)
            return
        assert problem.verify(state) == 0.0 and problem.answer(state) is None
    raise AssertionError("a full board has a winner")


def test_as_a_problem():
    problem = Hex(3, (4, 0))
    check_problem(problem)
    assert isinstance(problem, search.Problem)
    assert problem == build("search.problems.hex:Hex", problem.to_json()) and problem.to_json() == {
        "size": 3,
        "start": [4, 0],
    }
    assert problem.initial() == Hex(3).apply(
        Hex(3).apply(Hex(3).initial(), 4), 0
    ) and "after 4, 0" in problem.prompt(problem.initial())
    state = problem.initial()
    assert (
        problem.apply(state, TextStep("7"))
        == problem.apply(state, 7)
        == problem.apply(state, np.int64(7))
    )
    assert problem.key(state, TextStep("7")) == problem.key(state, 7)
    for step in (4, -1, 9, True, 1.5, "7", None, TextStep("b2"), TextStep("[7]"), TextStep("true")):
        with pytest.raises(IllegalStep):
            problem.apply(state, step)


@pytest.mark.parametrize("size", [1, 12, True, 3.0, "3"])
def test_a_size_that_is_none_is_refused(size):
    for make in (Hex, game):
        with pytest.raises(ValueError, match="from 2 to 11"):
            make(size)


@pytest.mark.parametrize("start", [(0, 0), (9,), (0, 1, 3, 4, 6, 7), ("a",)])
def test_a_start_against_the_rules_is_refused(start):
    with pytest.raises(ValueError, match="give legal moves"):
        Hex(3, start)


@pytest.mark.thorough
def test_random_games_win_as_often_as_chance_has_it():
    """Over many positions the mean of `evaluate` is that of the exact shares of won fillings.
    Priors are uniform, the row is as before.
    """
    rng, told, exact = np.random.default_rng(0), [], []
    for _ in range(400):
        stones = int(rng.integers(2, 8))
        row = np.zeros(10, np.uint8)
        for move in rng.permutation(9)[:stones]:
            rules.play(row, move)
        before, priors = row.copy(), np.zeros(9, np.float32)
        told.append(rules.evaluate(row, priors))
        assert told[-1] == rules.evaluate(row, priors) and (row == before).all()
        free = np.flatnonzero(row[:9] == 0)
        assert (priors[free] == np.float32(1 / len(free))).all() and priors.sum() == pytest.approx(
            1
        )
        last = 2 - stones % 2
        wins = []
        # the player who just moved gets the smaller half
        for mine in itertools.combinations(free, len(free) // 2):
            cells = np.where(row[:9] == 0, 3 - last, row[:9])
            cells[list(mine)] = last
            wins.append(last in graph_winners(3, cells))
        exact.append(np.mean(wins))
    assert np.mean(told) == pytest.approx(np.mean(exact), abs=3 * 0.5 / np.sqrt(len(told)))
    assert np.corrcoef(told, exact)[0, 1] > 0.3


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**32))
def test_a_network_sees_its_own_side_top_to_bottom(n, seed):
    """Where the second player moves, the planes are those of the mirrored board in which the
    first player moves.
    """
    rng = np.random.default_rng(seed)
    row = np.zeros(n * n + 1, np.uint8)
    for move in rng.permutation(n * n)[: int(rng.integers(n * n))]:
        rules.play(row, move)
    mover = 1 + row[-1] % 2
    board = row[:-1].reshape(n, n)
    seen = board if mover == 1 else board.T
    told = planes(row)
    assert (
        told.dtype == np.float32
        and (told[0] == (seen == mover)).all()
        and (told[1] == (seen == 3 - mover)).all()
    )
    where = places(row)
    assert ((where >= 0) == (row[:-1] == 0)).all()
    for move in np.flatnonzero(where >= 0):
        after = row.copy()
        after[move] = mover  # without the change of turn
        assert np.flatnonzero(planes(after)[0].ravel() - told[0].ravel()).tolist() == [where[move]]
    both = np.stack([row, row])
    assert (planes(both)[1] == told).all() and (places(both)[1] == where).all()
    turned, policy = Hex(n).turned(told[None], np.maximum(where, 0)[None])
    assert (turned[0, :, 0, 0] == told[:, -1, -1]).all() and policy[0, 0] == max(where[-1], 0)


# -- searches against the truth


@pytest.mark.thorough
def test_the_solver_itself():
    """Known: the first player wins on every board (Nash). And it agrees with minimax by the
    shipped rules on late positions.
    """
    assert all(hex_solver.mover_wins(n, 0, 0, 0) for n in (2, 3))
    assert not hex_solver.mover_wins(4, 0, 1 << 6, 1), "the first player's 6 wins on 4 x 4"
    problem = Hex(3)

    def best(state) -> bool:
        return any(
            problem.is_terminal(after := problem.apply(state, move)) or not best(after)
            for move in problem.actions(state)
        )

    for state in itertools.islice(hex_solver.positions(3), 400, None, 97):
        assert best(state) == bool(hex_solver.winning_moves(3, state))


def fused_moves(n: int, states, simulations: int) -> list[int]:
    """The most visited move of each state, by a fused search with roll-outs."""
    rows = np.array([np.frombuffer(state, np.uint8) for state in states])
    forest = Forest(len(states), game=game(n))
    priors = np.zeros((len(states), n * n), np.float32)
    values = [
        1.0 - rules.evaluate(row, prior) for row, prior in zip(rows.copy(), priors, strict=True)
    ]
    forest.plant(priors, values, rows)
    forest.simulate(simulations)
    return forest.root_visits().argmax(axis=1).tolist()


@pytest.mark.thorough
def test_rollouts_play_every_won_3x3_position_perfectly():
    states = [state for state in hex_solver.positions(3) if hex_solver.winning_moves(3, state)]
    assert len(states) == 3401
    moves = fused_moves(3, states, 4000)
    lost = [
        state
        for state, move in zip(states, moves, strict=True)
        if move not in hex_solver.winning_moves(3, state)
    ]
    assert not lost


@pytest.mark.slow
def test_rollouts_play_won_4x4_positions_perfectly():
    rng, states, problem = np.random.default_rng(1), [], Hex(4)
    while len(states) < 100:
        state = problem.initial()
        for move in rng.permutation(16)[: int(rng.integers(5, 10))].tolist():
            state = state if problem.is_terminal(state) else problem.apply(state, move)
        if not problem.is_terminal(state) and 0 < len(hex_solver.winning_moves(4, state)) < state[
            :-1
        ].count(0):
            states.append(state)
    moves = fused_moves(4, states, 50_000)
    lost = [
        state
        for state, move in zip(states, moves, strict=True)
        if move not in hex_solver.winning_moves(4, state)
    ]
    assert not lost


@pytest.mark.thorough
@pytest.mark.parametrize("start", [(), (0,), (0, 6), (0, 3, 2)])
def test_solve_finds_a_winning_move(start):
    problem = Hex(3, start)
    guide = Guide(Uniform(), Rollout(Uniform(), 2), Budget(simulations=600))
    solution = search.solve(problem, guide, "mcts", seed=3, leaves=1)
    tree = solution.tree
    best = max(tree.block(0), key=lambda edge: int(tree.edges[edge]["visits"]))
    assert tree.steps[best] in hex_solver.winning_moves(3, problem.initial())
    assert solution.usage.simulations == 600 and solution.answer in ("first", "second")
