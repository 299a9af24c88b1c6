"""Forests against the rule book in plain Python, against mctx, and in what must never happen."""

from __future__ import annotations

import json
from pathlib import Path

import hashtree
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import search
from search.kernels.simd import FOUR
from search.tree import selection, sequential_halving
from search.tree.descent_kernels import IN_FLIGHT, NODE, UNKNOWN

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "mctx.json").read_text())


@pytest.mark.thorough
@pytest.mark.parametrize("moves", [2, 3, 4, 16, 64])
@pytest.mark.parametrize(
    ("k", "c", "reduction", "seed"), [(1, 1.25, 0.0, 0), (8, 1.25, 0.0, 1), (16, 0.3, 0.2, 2)]
)
def test_fused_and_split_searches_give_the_visits_of_the_rule_book(moves, k, c, reduction, seed):
    trees, simulations = (2, 300) if moves > 4 else (3, 600)
    truth = [
        hashtree.puct_visits(hashtree.root(t, seed), moves, simulations, c, k, reduction)
        for t in range(trees)
    ]
    rule = selection.puct(c, reduction)
    assert hashtree.fused(trees, moves, simulations, rule, seed, k).root_visits().tolist() == truth
    small = simulations if moves <= 4 else 100
    truth = (
        truth
        if small == simulations
        else [
            hashtree.puct_visits(hashtree.root(t, seed), moves, small, c, k, reduction)
            for t in range(trees)
        ]
    )
    assert hashtree.split(trees, moves, small, rule, seed, k).root_visits().tolist() == truth


def test_four_thousand_simulations():
    truth = [hashtree.puct_visits(hashtree.root(0, 7), 4, 4096)]
    assert hashtree.fused(1, 4, 4096, selection.puct(1.25), 7).root_visits().tolist() == truth


@pytest.mark.thorough
def test_ordered_and_unordered_blocks_are_the_same_search():
    for rule in (
        selection.puct(),
        selection.alphazero(),
        selection.ucb1(),
        selection.gumbel(),
        selection.alphazero(normalise=True),
    ):
        one, other = (
            hashtree.split(3, 7, 120, rule, ordered=ordered, k=3) for ordered in (True, False)
        )
        assert one.root_visits().tolist() == other.root_visits().tolist()
        assert np.allclose(one.root_values(), other.root_values(), equal_nan=True)


@pytest.mark.parametrize(
    "case", GOLDEN["cases"], ids=lambda case: f"{case['moves']}x{case['simulations']}"
)
def test_gumbel_and_normalised_searches_are_those_of_mctx(case):
    trees, moves, simulations, seed = (
        case[name] for name in ("trees", "moves", "simulations", "seed")
    )
    forest = search.Forest(trees, moves, rule=selection.gumbel(), ordered=False)
    states = {t: hashtree.root(t, seed) for t in range(trees)}
    forest.plant(*hashtree.answers(states.values(), moves))
    noise = np.array(case["noise"])
    for wanted in sequential_halving.considered_visits(min(case["considered"], moves), simulations):
        for t, root in enumerate(forest.roots):
            forest.point(root, sequential_halving.next_step(forest, root, noise[t], wanted))
        leaves = forest.select()
        for leaf, parent, move in zip(
            leaves, forest.parents(leaves), forest.moves_of(leaves), strict=True
        ):
            states[int(leaf)] = hashtree.child(states[int(parent)], int(move))
        forest.absorb(leaves, *hashtree.answers([states[int(leaf)] for leaf in leaves], moves))
    assert forest.root_visits().tolist() == case["visits"]
    found = [
        sequential_halving.root_points(forest, root, noise[t])
        for t, root in enumerate(forest.roots)
    ]
    assert np.allclose([policy for _, _, policy in found], case["policy"], atol=1e-5)
    assert [sequential_halving.best_step(points, visits) for points, visits, _ in found] == case[
        "action"
    ]
    plain = hashtree.split(trees, moves, simulations, selection.alphazero(normalise=True), seed)
    assert plain.root_visits().tolist() == case["normalised"]


def test_ucb1_finds_the_better_arm_at_its_rate():
    """Two arms of 0.9 and 0.1, finished at once: the worse is drawn about 8 ln(n) / gap^2 times
    at the most (Auer et al. 2002).
    """
    forest = search.Forest(1, 2, rule=selection.ucb1())
    forest.plant([[0.5, 0.5]], [0.5])
    for _ in range(2000):
        leaves = forest.select()
        values = np.where(forest.moves_of(leaves) == 0, 0.9, 0.1)
        forest.absorb(leaves, np.zeros((1, 2)), values)
    visits = forest.root_visits()[0]
    assert 2 <= visits[1] <= 8 * np.log(2000) / 0.8**2 and visits.sum() == 2000


def test_one_tree_does_not_depend_on_its_neighbours():
    alone, among = (
        hashtree.fused(trees, 16, 200, selection.puct(), k=4).root_visits() for trees in (1, 9)
    )
    assert (among[0] == alone[0]).all()


def _checks(forest):
    """Conservation: a node's visits are its own evaluations and those of its children; nothing
    is in flight.
    """
    assert not (forest.nodes["room"] & IN_FLIGHT).any()
    for node in range(len(forest.nodes)):
        if forest.nodes["count"][node]:
            below, own = int(forest.field(node, "visits").sum()), int(forest.own(node, "visits"))
            assert below + 1 == own or own == 0
        assert 0 <= forest.own(node, "sum") <= forest.own(node, "visits") + 1e-9


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 9),
    st.integers(1, 6),
    st.sampled_from([1, 2]),
    st.booleans(),
)
def test_visits_are_conserved_and_released_leaves_leave_no_mark(seed, moves, k, players, stop):
    rng = np.random.default_rng(seed)
    forest = search.Forest(3, moves, players=players)
    forest.plant(rng.dirichlet(np.ones(moves), 3), rng.random(3))
    total = 0
    for _ in range(20):
        before = forest.root_visits(), forest.root_values()
        leaves = forest.select(k, stop_at_collision=stop)
        assert not stop or len(set(leaves.tolist())) == len(leaves)
        if rng.random() < 0.3:
            forest.absorb(leaves, np.zeros((len(leaves), moves)), np.full(len(leaves), np.nan))
            assert (forest.root_visits() == before[0]).all() and np.array_equal(
                forest.root_values(), before[1], equal_nan=True
            )
            continue
        alike = {
            leaf: (rng.dirichlet(np.ones(moves)), rng.random()) for leaf in set(leaves.tolist())
        }
        forest.absorb(
            leaves,
            [alike[leaf][0] for leaf in leaves.tolist()],
            [alike[leaf][1] for leaf in leaves.tolist()],
        )
        total += len(leaves)
    assert (
        forest.root_visits().sum() == total
        and forest.own(0, "visits") == forest.root_visits()[0].sum() + 1
    )
    if k == 1:
        _checks(forest)


@pytest.mark.thorough
@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.sampled_from([1, 2]))
def test_advancing_keeps_what_was_known_below(seed, moves, players):
    rng = np.random.default_rng(seed)
    forest = search.Forest(2, game=hashtree.game(moves, players))
    forest.start(hashtree.rows(2, seed % 1000))
    forest.simulate(int(rng.integers(1, 120)))
    move = int(forest.root_visits()[0].argmax())
    node = int(
        forest.field(int(forest.roots[0]), "child")[
            (forest.field(int(forest.roots[0]), "value").view(np.int32) & 65535)
            .tolist()
            .index(move)
        ]
    )
    visits, mean, position = (
        forest.own(node, "visits"),
        forest.own(node, "sum") / forest.own(node, "visits"),
        forest.positions[node].copy(),
    )
    line, other = forest.principal_variation(0), forest.root_visits()[1].copy()
    forest.advance([0], [move])
    root = int(forest.roots[0])
    assert forest.own(root, "visits") == visits and (forest.positions[root] == position).all()
    assert forest.root_means()[0] == pytest.approx(mean if players == 1 else 1 - mean)
    assert forest.principal_variation(0) == line[1:] and (forest.root_visits()[1] == other).all()
    below = forest.root_visits()[0].copy()
    forest.compact()
    assert (forest.root_visits()[0] == below).all() and (
        forest.positions[forest.roots[0]] == position
    ).all()
    forest.simulate(30)
    assert (
        forest.root_visits()[0].sum() == below.sum() + 30
        and forest.root_visits()[1].sum() == other.sum() + 30
    )


@pytest.mark.thorough
def test_a_compacted_forest_goes_on_as_if_nothing_had_happened():
    one, other = (hashtree.fused(4, 9, 150, selection.puct()) for _ in range(2))
    for forest in (one, other):
        forest.advance([0, 2], [int(forest.root_visits()[t].argmax()) for t in (0, 2)])
    other.compact()
    assert len(other.nodes) < len(one.nodes)
    one.simulate(200)
    other.simulate(200)
    assert (one.root_visits() == other.root_visits()).all() and np.array_equal(
        one.root_values(), other.root_values(), equal_nan=True
    )


def test_a_snapshot_brings_a_forest_back():
    forest = hashtree.fused(2, 5, 100, selection.puct())
    kept, visits = forest.snapshot(), forest.root_visits()
    forest.simulate(500)
    after = forest.root_visits()
    forest.restore(kept)
    assert (forest.root_visits() == visits).all()
    forest.simulate(500)
    assert (forest.root_visits() == after).all()


def test_a_forest_grows_on_demand_and_reserved_room_changes_nothing():
    grown, reserved = (
        search.Forest(2, game=hashtree.game(5)),
        search.Forest(2, game=hashtree.game(5), nodes=4000),
    )
    for forest in (grown, reserved):
        forest.start(hashtree.rows(2))
        forest.simulate(1500, 4)
    assert (grown.root_visits() == reserved.root_visits()).all()


def test_no_memory_is_a_clear_error_and_leaves_the_tree_usable(monkeypatch):
    forest = hashtree.fused(1, 4, 50, selection.puct())
    before = forest.root_visits()

    def full(*args):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("search.tree.storage._larger", full)
        with pytest.raises(MemoryError, match="fewer simulations"):
            forest.simulate(100_000)
    assert forest.root_visits().sum() >= before.sum()
    done = int(forest.root_visits().sum())
    forest.simulate(10)
    assert forest.root_visits().sum() == done + 10
    monkeypatch.setattr("search.tree.storage._LIMIT", 100)
    with pytest.raises(MemoryError, match="holds at most 100 nodes"):
        forest.simulate(1_000_000)


@pytest.mark.thorough
def test_root_noise_moves_the_search_and_priors_come_back_by_move():
    forest = hashtree.fused(2, 9, 40, selection.puct())
    priors = forest.root_priors()
    assert np.allclose(priors, [hashtree.priors(hashtree.root(t), 9) for t in range(2)], atol=1e-7)
    noise = np.eye(9, dtype=np.float32)[[8, 8]]
    before = forest.root_visits()
    forest.reprior([0, 1], 0.1 * priors + 0.9 * noise)
    assert np.allclose(forest.root_priors(), 0.1 * priors + 0.9 * noise, atol=1e-6)
    forest.simulate(100)
    assert (forest.root_visits()[:, 8] - before[:, 8] > 60).all()


# -- bad input and corners


def test_nan_priors_values_and_sums_are_refused_by_name_and_the_leaf_stays_owed():
    forest = search.Forest(2, 3)
    forest.plant(np.full((2, 3), 1 / 3), [0.5, 0.5])
    leaves = forest.select()
    good = np.full((2, 3), 1 / 3)
    for row, value, message in [
        ([np.nan, 0.5, 0.5], 0.5, "not finite, the first at move 0"),
        ([0.5, np.inf, 0.5], 0.5, "move 1"),
        ([1.5, -0.5, 0.0], 0.5, "below 0, the first at move 1"),
        ([0.5, 0.5, 0.5], 0.5, "sum to 1.5"),
        ([0.2, 0.3, 0.5], 1.5, "is 1.5"),
        ([0.2, 0.3, 0.5], np.inf, "is inf"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            forest.absorb(leaves, [good[0], row], [0.5, value])
        assert f"leaf {leaves[1]}" in str(error.value)
    forest.absorb(leaves, good, [0.5, 0.5])
    assert forest.root_visits().sum() == 2
    with pytest.raises(ValueError, match="tree 1.*nan"):
        forest.plant(good, [0.5, np.nan])
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        forest.absorb(leaves, good[:, :2], [0.5, 0.5])


@pytest.mark.thorough
def test_an_evaluator_that_gives_nonsense_is_named_and_what_was_done_stays():
    @numba.njit
    def evaluate(row, priors):
        row[0] += 1
        for a in range(len(priors)):
            priors[a] = 1.0 / len(priors) if row[0] < 5 else np.nan
        return 0.5

    game = hashtree.game(6)._replace(evaluate=evaluate)
    for k in (1, 4):
        forest = search.Forest(1, game=game)
        with pytest.raises(ValueError, match="priors that do not sum to 1.*tree 0"):
            forest.start(np.zeros((1, 4), np.uint8))
            forest.simulate(200, k)
        assert not (forest.nodes["room"] & IN_FLIGHT).any()


@pytest.mark.thorough
@pytest.mark.parametrize("players", [1, 2])
def test_an_outcome_outside_0_to_1_is_named(players):
    """AlphaZero's -1 for a loss, and a draw of 0 that nobody can tell from it, whole searches
    and leaf by leaf.
    """
    for worth in (-1.0, 1.5, -np.inf):
        game = _nim()._replace(outcome=_lost_by(worth), players=players)
        for k in (1, 4):
            forest = search.Forest(2, game=game)
            forest.start()
            with pytest.raises(
                ValueError,
                match=r"`outcome` of the game gave a value outside \[0, 1\] in tree 0: give 1 for "
                r"a win",
            ):
                forest.simulate(200, k)
            assert not (forest.nodes["room"] & IN_FLIGHT).any()
        forest = search.Forest(1, game=game)
        forest.plant([[0.5, 0.5, 0.0]], [0.5], np.full((1, 1), 2, np.uint8))
        leaves = forest.select()
        with pytest.raises(
            ValueError, match=f"`outcome` of the game gave {worth}: give 1 for a win"
        ):
            forest.outcomes(forest.absorb(leaves, [[1.0, 0.0, 0.0]], [0.5]) or forest.select())


def _lost_by(worth):
    def outcome(row):
        return worth if row[0] == 0 else np.nan

    return outcome


@pytest.mark.thorough
def test_corners():
    dead = search.Forest(1, 4)
    # a root that is finished: every simulation is its own value again
    dead.plant(np.zeros((1, 4)), [0.25])
    for _ in range(3):
        dead.absorb(dead.select(), np.zeros((1, 4)), [0.25])
    assert (
        dead.root_means()[0] == 0.25
        and dead.own(0, "visits") == 4
        and not dead.expanded().any()
        and dead.principal_variation(0) == []
    )
    one = hashtree.fused(1, 1, 50, selection.puct())  # one move a node: a chain
    assert one.root_visits().tolist() == [[50]] and len(one.nodes) == 51
    assert len(one.principal_variation(0)) == 50
    nothing = hashtree.fused(2, 4, 0, selection.puct())
    assert nothing.root_visits().sum() == 0 and nothing.expanded().all()
    for trees, moves, players, discount in (
        (0, 3, 1, 1.0),
        (1, 0, 1, 1.0),
        (1, 3, 3, 1.0),
        (1, 3, 1, 0.0),
    ):
        with pytest.raises(ValueError, match=r"forest of|players|discount"):
            search.Forest(trees, moves, players=players, discount=discount)
    with pytest.raises(ValueError, match="65,520 is the most"):
        search.Forest(1, 70_000)
    with pytest.raises(ValueError, match="knows no game"):
        dead.simulate(3)
    with pytest.raises(ValueError, match="no move 3"):
        search.Forest(1, 4).advance([0], [3])
    with pytest.raises(ValueError, match="names others"):
        one.advance([1], [0])
    for rule in (
        lambda: selection.puct(c=float("nan")),
        lambda: selection.puct(fpu_reduction=-1),
        lambda: selection.alphazero(base=0),
    ):
        with pytest.raises(ValueError, match="correct the selection rule"):
            rule()


def test_moves_survive_in_the_bits_of_unknown_values():
    bits = np.array([UNKNOWN | 64_999], np.int32).view(np.float32)
    assert np.isnan(bits[0]) and int(bits.view(np.int32)[0]) & 65_535 == 64_999
    assert NODE.itemsize == 16 and FOUR.name == "float64x4"


def test_a_node_of_many_edges():
    moves = 3000
    rng = np.random.default_rng(0)
    priors = rng.dirichlet(np.ones(moves)).astype(np.float32)
    forest = search.Forest(1, moves, rule=selection.puct(5.0))
    forest.plant([priors], [0.5])
    for _ in range(200):
        leaves = forest.select()
        forest.absorb(leaves, np.zeros((1, moves)), [0.5])
    taken = np.flatnonzero(forest.root_visits()[0])
    assert set(taken) == set(np.argsort(-priors, kind="stable")[: len(taken)]), (
        "the likeliest come first"
    )


@pytest.mark.slow
def test_a_game_of_functions_that_no_module_holds_is_compiled_anew_each_time():
    """From the cache a later process could not load what calls them."""
    text = """
def start(row):
    row[0] = 9
def play(row, move):
    row[0] -= move + 1
def outcome(row):
    return 1.0 if row[0] == 0 else nan
def evaluate(row, priors):
    for move in range(3):
        priors[move] = 1.0 / min(3, row[0]) if move < row[0] else 0.0
    return 0.5
"""
    for _ in range(2):
        names = {"nan": np.nan, "__name__": "nowhere"}
        exec(text, names)
        nim = search.Game(
            *(names[part] for part in ("start", "play", "outcome", "evaluate")),
            size=1,
            moves=3,
            players=2,
        )
        forest = search.Forest(1, game=nim, rule=selection.puct(1.0))
        forest.start()
        forest.simulate(1000)
        assert forest.root_visits()[0].argmax() == 0, "one of nine leaves eight: won"
        stats = forest._game.simulate.dispatcher.stats
        assert stats.cache_path is None or not sum(stats.cache_hits.values())


@pytest.mark.thorough
def test_two_players_see_the_same_game_from_their_own_side():
    """A pile of n: who moves at a multiple of four loses. The root's mean tells it for who moves
    there.
    """
    for pile in range(1, 10):
        forest = search.Forest(1, game=_nim(), rule=selection.puct(1.0))
        forest.start(np.array([[pile]], np.uint8))
        forest.simulate(3000)
        assert (forest.root_means()[0] > 0.5) == (pile % 4 != 0), pile
        if pile % 4:
            assert forest.root_visits()[0].argmax() == pile % 4 - 1
            forest.advance([0], [pile % 4 - 1])
            assert forest.root_means()[0] < 0.5 or pile < 4


def _nim():
    return search.Game(_begin, _take, _ended, _fair, 1, 3, 2)


def _begin(row):
    row[0] = 9


def _take(row, move):
    row[0] -= move + 1


def _ended(row):
    return 1.0 if row[0] == 0 else np.nan


def _fair(row, priors):
    for move in range(3):
        priors[move] = 1.0 / min(3, row[0]) if move < row[0] else 0.0
    return 0.5


@pytest.mark.thorough
def test_a_roots_own_value_is_told_for_who_moves_there():
    for players, mean in ((1, 0.9), (2, 0.1)):
        game = _nim()._replace(evaluate=_glad, players=players)
        forest = search.Forest(1, game=game)
        forest.start()
        assert forest.root_means()[0] == pytest.approx(mean)
        forest.simulate(1)
        assert forest.root_values()[0][0] == pytest.approx(0.9) and forest.root_means()[
            0
        ] == pytest.approx((mean + 0.9) / 2)


def _glad(row, priors):
    for move in range(3):
        priors[move] = 1.0 if move == 0 else 0.0
    return 0.9
