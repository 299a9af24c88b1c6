"""The selection rules and their methods on a scripted model, and that nothing compiles in
mid-search.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import replace

import numpy as np
import pytest
from fakes import scripted_guide
from numba.core import event

import search
from search.kernels.jit import digest
from search.methods.beam import _deal
from search.problems.countdown import Countdown
from search.tree import selection, sequential_halving, subtree_kernels
from search.tree.tree import Tree

PUZZLE = Countdown((4, 7, 8, 8), 24)
EVERY = [
    *(("mcts", {"rule": rule, "branch": 4}) for rule in ("puct", "alphazero", "normalised",
    "ucb1")),
    ("mcts", {"noise": 0.25}), ("gumbel", {}), ("beam", {}), ("beam", {"balance": 0.2}),
    ("beam", {"subtrees": 2}), ("sample", {}),
]  # fmt: skip


@pytest.mark.thorough
def test_a_kernel_compiles_once():
    """Every kernel has one signature and refuses others; once they are there no search compiles
    anything.
    """
    for kernel in (
        subtree_kernels.gather,
        subtree_kernels.uproot,
        subtree_kernels.read,
        subtree_kernels.reprior,
    ):
        kernel.prepare()
    for rule in (
        selection.puct(),
        selection.alphazero(),
        selection.alphazero(normalise=True),
        selection.ucb1(),
        selection.gumbel(),
    ):
        for kernel in rule.kernels[:4]:
            kernel.prepare()
            assert len(kernel.dispatcher.signatures) == 1
            with pytest.raises(TypeError):
                kernel(1, 2, 3)
    with event.install_recorder("numba:compile") as compiled:
        for method, options in EVERY:
            search.solve(PUZZLE, scripted_guide(), method, "tokens=400", seed=1, **options)
        forest = search.Forest(2, 5)
        forest.plant(np.full((2, 5), 0.2), [0.5, 0.5])
        forest.absorb(forest.select(3), np.full((6, 5), 0.2), np.full(6, 0.5))
        forest.advance([0], [int(forest.root_visits()[0].argmax())])
        forest.compact()
    assert not compiled.buffer


def test_a_rule_of_ones_own_is_compiled_by_what_it_says():
    """Code is found in the cache by the files and constants of a rule, so that a changed one is
    never taken for the former.
    """
    names = {
        digest(*pair)
        for pair in ((selection._plain, selection._puct), (selection._plain, selection._normalised))
    }
    assert len(names) == 2

    def closed(number):
        return lambda q: q + number

    assert digest(closed(1)) != digest(closed(2)) and digest(closed(1)) == digest(closed(1))

    def made(number):
        scope = {}
        exec(f"def outer():\n    def inner():\n        return {number}\n    return inner", scope)
        return scope["outer"]

    assert digest(made(1)) == digest(made(1)), "where code lies in memory says nothing"
    assert digest(made(1)) != digest(made(2))


def test_a_rule_says_whether_it_needs_notes():
    """By its field, not by its name: a rule of one's own gets them, too."""
    own = replace(selection.gumbel(), name="own")
    assert search.Forest(2, 3, rule=own).keeps_notes
    assert not search.Forest(2, 3, rule=selection.puct()).keeps_notes
    silent = replace(own, notes=False)
    assert not search.Forest(2, 3, rule=silent).keeps_notes
    search.Forest(2, 3, rule=silent).use(selection.puct(2.0))
    with pytest.raises(AssertionError, match="needs notes"):
        search.Forest(2, 3, rule=silent).use(own)


@pytest.mark.thorough
@pytest.mark.parametrize(("method", "options"), EVERY, ids=lambda value: str(value))
def test_every_rule_solves_a_puzzle_and_the_same_seed_gives_the_same_tree(method, options):
    one, other = (
        search.solve(PUZZLE, scripted_guide(slots=slots), method, "tokens=60000", seed=3, **options)
        for slots in (1, 64)
    )
    assert (
        one.tree.edges.tobytes() == other.tree.edges.tobytes()
        and one.tree.steps == other.tree.steps
    )
    assert one.verified is True or method == "beam"  # which has no second try
    if one.verified:
        assert PUZZLE.verify(one.steps) == 1.0


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (
            "mcts",
            {"rule": "best"},
            "unknown rule 'best': choose one of puct, alphazero, normalised, ucb1",
        ),
        ("mcts", {"noise": 1.5}, "noise=1.5"),
        ("gumbel", {"considered": 0}, "considered=0"),
        ("beam", {"balance": 0.0}, "balance=0.0"),
    ],
)
def test_bad_options_are_refused(method, options, message):
    with pytest.raises(ValueError, match=message):
        search.solve(PUZZLE, scripted_guide(), method, "tokens=100", **options)


def test_noise_gives_the_root_other_priors_that_sum_to_one():
    module = importlib.import_module("search.methods.mcts")
    assert set(module.RULES) == {"puct", "alphazero", "normalised", "ucb1"}
    priors = []
    for noise in (0.0, 0.5):
        tree = search.solve(
            PUZZLE, scripted_guide(), "mcts", "simulations=1", seed=4, branch=6, noise=noise
        ).tree
        priors.append([tree.at(edge, "prior") for edge in tree.block(0)])
    assert math.isclose(sum(priors[1]), 1, abs_tol=1e-3) and not np.allclose(
        priors[0], priors[1], atol=0.01
    )


def test_the_halving_of_the_paper():
    """Two phases of 16 simulations over four: each of four twice, then each of the better two
    four times more (fig. 1 of the paper).
    """
    wanted = sequential_halving.considered_visits(4, 16)
    assert wanted == [0] * 4 + [1] * 4 + [2] * 2 + [3] * 2 + [4] * 2 + [5] * 2
    assert (
        sequential_halving.considered_visits(1, 3) == [0, 1, 2]
        and len(sequential_halving.considered_visits(7, 50)) == 50
    )


def test_gumbel_search_finds_the_best_of_many_steps_with_few_simulations():
    """32 steps of equal prior, values known when visited: with 16 considered and 32 simulations
    a good one wins.
    """
    rng, chosen = np.random.default_rng(0), []
    for _ in range(20):
        worth = rng.random(32)
        tree = Tree("root")
        tree.use(selection.gumbel())
        tree.add(0, list(range(32)), list(range(32)), np.full(32, 1 / 32))
        tree.visit(0, 0.5)
        tree.set_note(0, 0.5)
        noise = rng.gumbel(size=32)
        for wanted in sequential_halving.considered_visits(16, 32):
            tree.point(0, sequential_halving.next_step(tree, 0, noise, wanted))
            leaf = tree.select(1, tree.rule)
            tree.backup(leaf, [worth[tree.steps[tree.edge_to(int(leaf[0]))]]])
        points, visits, policy = sequential_halving.root_points(tree, 0, noise)
        considered = np.argsort(-noise)[:16]
        assert visits[considered].all() and visits.sum() == 32
        chosen.append(
            (worth[considered] < worth[sequential_halving.best_step(points, visits)]).mean()
        )
        assert math.isclose(policy.sum(), 1) and policy[worth == worth[considered].max()] >= 1 / 32
    assert np.mean(chosen) > 0.7, "much better than one drawn of those considered"


def test_rebase_deals_steps_by_value():
    """Shares of exp(value / T), rounded; Wu et al. 2024, eq. 3."""
    values = [0.9, 0.5, 0.1, math.nan]
    weights = np.exp(np.array([0.9, 0.5, 0.1, 0.0]) / 0.2)
    assert _deal(values, 16, 0.2) == [round(16 * weight) for weight in weights / weights.sum()]
    assert _deal([0.5, 0.5], 8, 0.2) == [4, 4] and _deal([], 8, 0.2) == []
    assert sum(_deal([0.5] * 50, 4, 0.2)) >= 1, "the best gets one at least"
    tree = search.solve(
        PUZZLE, scripted_guide(), "beam", "tokens=3000", seed=2, width=4, branch=4, balance=0.05
    ).tree
    assert len(tree.nodes) > 4


def test_reroot_keeps_the_subtree():
    solution = search.solve(
        Countdown((1, 1, 1, 1), 99), scripted_guide(), "mcts", "tokens=2000", seed=1, branch=3
    )
    tree = solution.tree
    node = max(tree.block(0), key=lambda edge: tree.at(edge, "visits"))
    node = tree.child(node)
    below = [
        n
        for n in range(len(tree.nodes))
        if n == node or any(tree.child(edge) == node for edge in tree.path(n))
    ]
    told = {
        tuple(s.text for s in tree.chain(n)[1:]): (tree.visits(n), tree.mean(n), tree.states[n])
        for n in below
        if tree.visits(n)
    }
    counts = sorted(len(tree.block(n)) for n in below)
    tree.reroot(node)
    again = {
        tuple(s.text for s in tree.chain(n)): (tree.visits(n), tree.mean(n), tree.states[n])
        for n in range(len(tree.nodes))
        if tree.visits(n)
    }
    assert again == told and sorted(len(tree.block(n)) for n in range(len(tree.nodes))) == counts
    assert all(
        tree.behind(edge) is not None for n in range(len(tree.nodes)) for edge in tree.block(n)
    )
    leaves = tree.select(2, stop_at_collision=True)
    tree.backup(leaves, np.full(len(leaves), 0.5))
