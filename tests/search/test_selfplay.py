"""Self-play, what is distilled from it, the match of the gate, and training rounds that go on
after a kill.
"""

from __future__ import annotations

import dataclasses
import json
import shutil

import hex_solver
import numpy as np
import pytest
import torch
from board_cases import random_net
from hypothesis import given, settings
from hypothesis import strategies as st

import guides
import search
from guides.iteration import alphazero
from guides.iteration.alphazero import BoardPlan, board_iteration, match, openings, train
from guides.policies.board import Board, board_guide, examples, outcomes, visit_targets
from models import BoardNet, Scripted
from search import Budget, Guide, Meter, RequestFailed, Trace, run
from search.cli.main import main
from search.methods.selfplay import selfplay, think
from search.problems.hex import Hex
from search.scheduling.scheduler import metered

TINY = BoardPlan(
    width=8, depth=1, games=6, simulations=8, window=2, epochs=1, batch=32, openings=4, opening=1
)


def play(guide, problem=None, budget="simulations=1000000", seed=0, **options):
    meter = Meter(Budget.parse(budget))
    asks = selfplay(
        problem or Hex(3),
        guide,
        meter,
        np.random.default_rng(seed),
        **{"games": 5, "simulations": 12, **options},
    )
    return run(metered(asks, meter), guide.backends), meter


def scripted_board(function) -> Guide:
    """A guide whose network is `function(planes) -> (logits, chances)`."""
    board = Board(Scripted(lambda request: function(request.planes)), "script")
    return Guide(board, board, Budget(simulations=50))


# -- traces


@pytest.mark.thorough
@pytest.mark.parametrize("opening", [0, 3])
def test_traces_are_games_that_replay(opening, tmp_path):
    guide = board_guide(random_net())
    traces, meter = play(guide, games=8, opening=opening)
    assert len(traces) == 8 and len({trace.id for trace in traces}) == 8
    reused = 0
    for trace in traces:
        states = trace.states()
        assert (
            trace.problem() == Hex(3)
            and trace.version == guide.version
            and trace.method == "search.methods.selfplay:selfplay"
        )
        assert trace.node_finished.tolist() == [False] * (len(states) - 1) + [True]
        assert trace.node_reward[-1] == 1.0 and np.isnan(trace.node_reward[:-1]).all()
        assert Hex(3).is_terminal(states[-1]) and not any(map(Hex(3).is_terminal, states[:-1]))
        came, searched = 0, 0  # visits through the move that led here; positions searched
        for node, state in enumerate(states[:-1]):
            edges = np.flatnonzero(trace.edge_node == node)
            assert [int(trace.steps[edge].text) for edge in edges] == Hex(3).actions(state)
            assert (trace.edge_child[edges] >= 0).sum() == 1 and trace.edge_prior[
                edges
            ].sum() == pytest.approx(1, abs=1e-5)
            taken = int(edges[trace.edge_child[edges] >= 0][0])
            assert (
                trace.edge_child[taken] == node + 1
                and trace.node_edge[node + 1] == taken
                and trace.node_parent[node + 1] == node
            )
            visits, sums = trace.edge_visits[edges], trace.edge_sum[edges]
            assert ((sums >= 0) & (sums <= visits)).all()
            if not visits.any():
                assert node < opening and searched == 0, "only an opening is not searched"
                continue
            assert visits.sum() == 12 + max(came - 1, 0), (
                "simulations and what was reused, less the root's own evaluation"
            )
            assert trace.edge_visits[taken] > 0
            came, searched, reused = (
                int(trace.edge_visits[taken]),
                searched + 1,
                reused + max(came - 1, 0),
            )
        assert trace.usage.simulations == 12 * searched
    assert reused > 0 and meter.usage.simulations == sum(
        trace.usage.simulations for trace in traces
    )
    assert Trace.load(Trace.save(traces, tmp_path / "games.parquet")) == traces
    lengths = {
        int((np.bincount(trace.edge_node, trace.edge_visits) == 0).sum()) for trace in traces
    }
    assert lengths == {0} if opening == 0 else 1 < len(lengths) <= opening + 1


@pytest.mark.thorough
def test_the_same_seed_gives_the_same_games_however_many_are_played_at_once():
    guide = board_guide(random_net())
    first, _ = play(guide, games=9, opening=2)
    for at_once in (1, 4, 20):
        again, meter = play(guide, games=9, opening=2, at_once=at_once)
        assert again == first
    assert [dataclasses.replace(trace, id="") for trace in play(guide, games=4, opening=2)[0]] == [
        dataclasses.replace(trace, id="") for trace in first[:4]
    ]
    other, _ = play(guide, games=9, opening=2, seed=1)
    assert [trace.steps for trace in other] != [trace.steps for trace in first] and not {
        t.id for t in other
    } & {t.id for t in first}


def test_one_request_a_simulation():
    asked = []

    def network(planes):
        asked.append(len(planes))
        return np.zeros((len(planes), 9), np.float32), np.full(len(planes), 0.5, np.float32)

    traces, meter = play(scripted_board(network), games=16, simulations=10)
    rounds = max(len(trace.node_parent) for trace in traces) - 1
    assert (
        rounds * 10 * 0.5
        < len(asked)
        <= 1 + 10 * rounds
        == meter.usage.calls + (1 + 10 * rounds - len(asked))
    )
    assert asked[0] == 16 and max(asked) <= 16


def test_temperature_and_noise():
    guide, problem = board_guide(random_net()), Hex(3)
    cold, _ = play(guide, games=4, temperature=0.0, noise=0.0)
    assert (
        len({tuple(trace.steps[edge].text for edge in trace.node_edge[1:]) for trace in cold}) == 1
    )
    for trace in cold:
        played = trace.edge_visits[trace.node_edge[1:]]
        assert (
            played
            == [trace.edge_visits[trace.edge_node == node].max() for node in range(len(played))]
        ).all()
    priors, _ = run(guide.policy.judge(problem, np.zeros((1, 10), np.uint8)), guide.backends)
    assert np.array_equal(cold[0].edge_prior[:9], priors[0])
    noisy, _ = play(guide, games=40, noise=0.25, simulations=1)
    roots = np.array([trace.edge_prior[:9] for trace in noisy])
    assert (roots >= 0.75 * priors[0] - 1e-5).all() and not np.allclose(roots[0], roots[1])
    assert np.allclose(roots.mean(0), 0.75 * priors[0] + 0.25 / 9, atol=0.04)
    late, _ = play(guide, games=30, warm=2, simulations=20, noise=0.0)
    starts = {tuple(trace.steps[edge].text for edge in trace.node_edge[1:3]) for trace in late}
    games = {tuple(trace.steps[edge].text for edge in trace.node_edge[1:]) for trace in late}
    assert 1 < len(starts) == len(games), "what follows the warm moves is decided by them"


@pytest.mark.thorough
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 900), st.integers(1, 80), st.integers(1, 6), st.integers(1, 6))
def test_budgets_are_kept_and_only_finished_games_come_back(simulations, calls, games, at_once):
    traces, meter = play(
        board_guide(random_net()),
        budget=f"simulations={simulations},calls={calls}",
        games=games,
        at_once=at_once,
        simulations=4,
    )
    assert (
        meter.usage.simulations <= simulations
        and meter.usage.calls <= calls
        and len(traces) <= games
    )
    for trace in traces:
        assert trace.node_reward[-1] == 1.0 and Hex(3).is_terminal(trace.states()[-1])
    whole, _ = play(board_guide(random_net()), games=games, simulations=4)
    assert {trace.id for trace in traces} <= {trace.id for trace in whole}, (
        "a game is the same beside any budget"
    )


def test_a_deadline_ends_it():
    def network(planes):
        return np.zeros((len(planes), 9), np.float32), np.full(len(planes), 0.5, np.float32)

    board = Board(Scripted(lambda request: network(request.planes), delay=0.02), "slow")
    traces, meter = play(Guide(board, board), budget="seconds=0.3", games=4, simulations=1000)
    assert traces == [] and meter.halted == "seconds"


@pytest.mark.parametrize("when", [1, 2, 30])
def test_a_network_that_gives_no_number_is_refused_by_name(when):
    passes = []

    def network(planes):
        passes.append(len(planes))
        logits, chances = (
            np.zeros((len(planes), 9), np.float32),
            np.full(len(planes), 0.5, np.float32),
        )
        if len(passes) == when:
            chances[-1] = np.nan
        return logits, chances

    with pytest.raises(
        RequestFailed,
        match=r"no number in tree 4$|no number in tree 4:|no number in tree 4 after move \d",
    ):
        play(scripted_board(network), games=5, simulations=30)


def test_what_cannot_be_played_is_refused():
    guide = board_guide(random_net())
    for wrong in (
        {"games": 0},
        {"simulations": 0},
        {"noise": 1.5},
        {"temperature": -1.0},
        {"opening": -1},
    ):
        with pytest.raises(ValueError, match="self-play takes"):
            play(guide, **wrong)
    with pytest.raises(ValueError, match=r"load_board"):
        play(Guide(search.Uniform()))
    with pytest.raises(ValueError, match="over before"):
        play(guide, Hex(2, (0, 1, 2)))
    with pytest.raises(ValueError, match="this size of board"):
        play(guide, Hex(4))


# -- distillers


def test_targets_of_a_game_by_hand():
    guide = board_guide(random_net())
    (trace,), _ = play(guide, games=1, opening=1, seed=4)
    states = trace.states()
    targets, ends = visit_targets(trace, 9), outcomes(trace)
    assert ends[-1] == 1.0 and (ends[::-1][::2] == 1).all() and (ends[::-1][1::2] == 0).all()
    assert not targets[-1].any()
    told = examples([trace])
    searched = [node for node in range(len(states) - 1) if targets[node].any()]
    assert len(told.planes) == len(told.policy) == len(told.chances) == 2 * len(searched), (
        "each position, and turned by half"
    )
    for i, node in enumerate(searched):
        mirrored = Hex(3).to_move(states[node]) == 1
        edges = np.flatnonzero(trace.edge_node == node)
        shares = np.zeros(9)
        for edge in edges:
            cell = int(trace.steps[edge].text)
            shares[cell % 3 * 3 + cell // 3 if mirrored else cell] = (
                trace.edge_visits[edge] / trace.edge_visits[edges].sum()
            )
        assert np.allclose(told.policy[i], shares) and np.allclose(
            told.policy[i + len(searched)], shares[::-1]
        )
        assert told.chances[i] == told.chances[i + len(searched)] == 1 - ends[node]
        assert np.array_equal(told.planes[i + len(searched)], told.planes[i][:, ::-1, ::-1])
    with pytest.raises(ValueError, match="no trace"):
        examples([])


# -- searching and matches


def perfect(strength: float) -> Guide:
    """A network that knows who wins on 3 x 3, and tells it with some strength."""

    def network(planes):
        logits, chances = np.zeros((len(planes), 9), np.float32), np.zeros(len(planes), np.float32)
        for i, position in enumerate(planes.reshape(-1, 2, 9)):
            mine, theirs = (
                sum(1 << cell for cell in np.flatnonzero(side).tolist()) for side in position
            )
            for cell in range(9):
                if not (mine | theirs) >> cell & 1 and hex_solver.wins(3, mine, theirs, 0, cell):
                    logits[i, cell] = 4 * strength
            chances[i] = 0.5 + 0.49 * strength * np.sign(logits[i].sum() - 0.01)
        return logits, chances

    return scripted_board(network)


@pytest.mark.parametrize("start", [(), (0,), (0, 6), (0, 3, 2)])
def test_solve_uses_the_network(start):
    problem, guide = Hex(3, start), perfect(0.5)
    solution = search.solve(problem, guide, "mcts", "simulations=30", leaves=2)
    tree = solution.tree
    best = max(tree.block(0), key=lambda edge: int(tree.edges[edge]["visits"]))
    assert tree.steps[best] in hex_solver.winning_moves(3, problem.initial())
    assert (
        solution.usage.simulations == 30 < solution.usage.calls
        and solution.trace.version == guide.version
    )


@pytest.mark.thorough
@pytest.mark.parametrize("start", [(), (0,), (0, 6), (0, 3, 2)])
def test_a_tree_of_solve_and_one_of_a_forest_are_the_same(start):
    """Two ways to the same search. (Priors that are not alike would differ in their last bits:
    `solve` takes them from log-probs.)
    """
    net, problem = random_net(), Hex(3, start)
    torch.nn.init.zeros_(net.policy.weight)
    torch.nn.init.zeros_(net.policy.bias)
    guide = board_guide(net)
    tree = search.solve(
        problem, guide, "mcts", "simulations=700", leaves=1, lookahead=0.0, c_puct=1.25
    ).tree
    forest = run(
        think(problem, guide, np.frombuffer(problem.initial(), np.uint8)[None], 700), guide.backends
    )
    visits = np.zeros(9, int)
    visits[[tree.steps[edge] for edge in tree.block(0)]] = [
        tree.edges[edge]["visits"] for edge in tree.block(0)
    ]
    assert visits.tolist() == forest.root_visits()[0].tolist() and tree.mean(0) == pytest.approx(
        forest.root_means()[0], abs=1e-9
    )


def test_a_match_tells_who_is_stronger():
    rng = np.random.default_rng(0)
    starts = openings(Hex(3), 30, rng)
    assert len(starts) == 30 == len(set(starts)) and starts[:9] == [(cell,) for cell in range(9)]
    assert len(openings(Hex(3), 1000, rng)) == 9 + 72
    good, bad = perfect(1.0), dataclasses.replace(board_guide(random_net(seed=3)))
    backends = {"board-script": good.backends["board-script"], **bad.backends}
    scores = run(match(Hex(3), [good, bad], starts, 8), backends)
    assert scores.shape == (30, 2) and set(np.unique(scores)) <= {0.0, 1.0}
    for moves, row in zip(starts, scores, strict=True):  # who begins won and knows how, wins
        state = Hex(3, moves).initial()
        mover_wins = bool(hex_solver.winning_moves(3, state))
        # 0: the good one moves next in the game where it is the first player
        good_to_move = Hex(3).to_move(state)
        if mover_wins:
            assert row[good_to_move] == 1.0
        else:
            assert row[1 - good_to_move] == 1.0
    assert scores.mean() > 0.5
    same = run(match(Hex(3), [good, good], starts, 8), backends)
    assert (same.sum(axis=1) == 1).all(), "one of two equals wins an opening with either colour"


def test_think_searches_each_position_in_its_own_tree():
    guide, problem = perfect(1.0), Hex(3)
    states = [state for state in hex_solver.positions(3) if hex_solver.winning_moves(3, state)][
        ::40
    ]
    rows = np.array([np.frombuffer(state, np.uint8) for state in states])
    forest = run(think(problem, guide, rows, 6), guide.backends)
    assert (forest.root_visits().sum(axis=1) == 6).all()
    for state, move in zip(states, forest.root_visits().argmax(axis=1), strict=True):
        assert int(move) in hex_solver.winning_moves(3, state)


# -- training


@pytest.mark.slow
def test_training_fits_what_the_traces_say():
    traces, _ = play(board_guide(random_net()), games=30, simulations=30)
    data, net = examples(traces), BoardNet((2, 3, 3), 9, width=32)
    plan = dataclasses.replace(TINY, epochs=60)
    before = net.version
    report = train(net, data, plan, seed=0)
    assert (
        net.version != before
        and report["examples"] == len(data.planes)
        and report["steps"] == 60 * -(-len(data.planes) // 32)
    )
    entropy = -(data.policy * np.log(np.maximum(data.policy, 1e-9))).sum(1).mean()
    assert entropy < report["policy"] < entropy + 0.3 and report["value"] < 0.4
    twin = BoardNet((2, 3, 3), 9, width=32)
    train(twin, data, plan, seed=0)
    assert twin.version == net.version
    with pytest.raises(ValueError, match="learning rate"):
        train(BoardNet((2, 3, 3), 9), data._replace(chances=data.chances * np.nan), plan, seed=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    assert board_iteration(Hex(2), out, rounds=2, plan=TINY) == out / "best"
    return out


@pytest.mark.thorough
def test_rounds(whole):
    for number in (1, 2):
        folder = whole / f"round-0{number}"
        assert {path.name for path in folder.iterdir()} == {
            "traces.parquet",
            "examples.npz",
            "checkpoint",
            "gate.json",
        }
        verdict = json.loads((folder / "gate.json").read_text())
        assert verdict["accepted"] == (verdict["score"] >= 0.5) and verdict["games"] == 8
        assert verdict["score"] == pytest.approx((verdict["first"] + verdict["second"]) / 2)
        assert len(Trace.load(folder / "traces.parquet")) == 6
    accepted = max(
        n
        for n in (0, 1, 2)
        if json.loads((whole / f"round-0{n}" / "gate.json").read_text())["accepted"]
    )
    assert (
        BoardNet.load(whole / "best").version
        == BoardNet.load(whole / f"round-0{accepted}" / "checkpoint").version
    )
    guides.load_board(whole / "best").check(Hex(2))


@pytest.mark.thorough
@pytest.mark.parametrize("stage", ["_play", "_distil", "_train", "_gate"])
@pytest.mark.parametrize("late", [False, True])
def test_a_killed_run_goes_on(whole, tmp_path, monkeypatch, stage, late):
    """Killed before a stage of round 2, or in the middle of it: nothing finished is done again,
    and the end is the same.
    """
    done = getattr(alphazero._Rounds, stage)

    def killed(self, number):
        if number == 2:
            if late:
                monkeypatch.setattr(alphazero.os, "replace", interrupt)
            else:
                interrupt()
        done(self, number)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(alphazero._Rounds, stage, killed)
        with pytest.raises(KeyboardInterrupt):
            board_iteration(Hex(2), tmp_path, rounds=2, plan=TINY)
    monkeypatch.undo()
    before = {
        path: path.stat().st_mtime_ns
        for path in tmp_path.rglob("round-*/*")
        if ".part" not in path.name
    }
    board_iteration(Hex(2), tmp_path, rounds=2, plan=TINY)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert BoardNet.load(tmp_path / "best").version == BoardNet.load(whole / "best").version
    for number in (1, 2):
        assert (tmp_path / f"round-0{number}/gate.json").read_text() == (
            whole / f"round-0{number}/gate.json"
        ).read_text()


def test_a_worse_network_is_rejected_and_the_accepted_one_plays_on(tmp_path, monkeypatch):
    monkeypatch.setattr(alphazero, "match", lambda *_: lost())

    async def lost():
        return np.array([[0.0, 0.5]])

    best = board_iteration(Hex(2), tmp_path, rounds=2, plan=TINY)
    first = BoardNet.load(tmp_path / "round-00/checkpoint").version
    assert BoardNet.load(best).version == first
    assert {trace.version for trace in Trace.load(tmp_path / "round-02/traces.parquet")} == {first}
    assert json.loads((tmp_path / "round-02/gate.json").read_text())["score"] == 0.25


def test_the_folder_of_another_run_and_bad_plans_are_refused(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    with pytest.raises(ValueError, match="other games"):
        board_iteration(
            Hex(2), tmp_path / "copy", rounds=2, plan=dataclasses.replace(TINY, games=7)
        )
    with pytest.raises(ValueError, match="at least 1"):
        board_iteration(Hex(2), tmp_path / "copy", rounds=0, plan=TINY)
    for wrong in ({"games": 0}, {"lr": 0.0}, {"seed": -1}):
        with pytest.raises(ValueError, match=r"give at least 1|correct them"):
            dataclasses.replace(TINY, **wrong)


def test_the_command(tmp_path, capsys):
    flags = {
        "size": 2,
        "rounds": 1,
        "games": 4,
        "simulations": 4,
        "width": 8,
        "depth": 1,
        "epochs": 1,
    }
    given = [text for name, flag in flags.items() for text in (f"--{name}", str(flag))]
    assert main(["train", "hex", "--out", str(tmp_path / "run"), *given]) == 0
    assert "guides.load_board" in capsys.readouterr().out
    assert guides.load_board(tmp_path / "run" / "best").kinds == ("search.problems.hex:Hex",)
    assert main(["train", "hex", "--out", str(tmp_path / "run"), "--size", "3"]) == 2
    assert "other" in capsys.readouterr().err
