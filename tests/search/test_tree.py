"""The tree against the slow twin, conservation laws, and blocks that move."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Node, backup, descend

from search.tree.descent_kernels import IN_FLIGHT, NODE
from search.tree.selection import puct
from search.tree.storage import EDGE
from search.tree.tree import Tree


def test_records_are_as_small_as_promised():
    assert NODE.itemsize == 16 and EDGE.itemsize == 24


def _grow_twin(
    tree: Tree, twin: dict[int, Node], node: int, rng: np.random.Generator, players: int
) -> None:
    count = int(rng.integers(1, 6))
    priors = rng.dirichlet(np.ones(count)).astype(np.float32).astype(np.float64)
    values = np.where(rng.random(count) < 0.5, np.nan, rng.random(count)).astype(np.float32)
    movers = [int(rng.integers(players)) for _ in range(count)]
    tree.add(node, list(range(count)), list(range(count)), priors, values, players=movers)
    for prior, value, mover in zip(priors, values, movers, strict=True):
        child = Node(mover)
        child.prior, child.value = float(np.float32(prior)), float(value)
        twin[node].children.append(child)
    twin[node].unseen = float(np.float32(rng.choice([0.0, rng.random(), 1.0])))
    tree.set_unseen(node, twin[node].unseen)


@pytest.mark.thorough
@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 2),
    st.integers(1, 9),
    st.booleans(),
    st.sampled_from([1.0, 0.9]),
    st.sampled_from([0.0, 0.6]),
)
def test_equals_the_slow_twin(seed, players, k, stop, discount, widen):
    rng = np.random.default_rng(seed)
    tree = Tree("root", player=0, discount=discount, players=players)
    root = Node(0)
    twin = {0: root}
    tree.visit(0, 0.3)
    root.visits, root.total = 1, 0.3
    _grow_twin(tree, twin, 0, rng, players)
    for _ in range(25):
        picked = tree.select(k, puct(1.5, 0.1), stop_at_collision=stop, widen=widen)
        paths: list[list[Node]] = []
        while len(paths) < k:
            path = descend(root, 1.5, 0.1, widen)
            if stop and any(path[-1] is other[-1] for other in paths):
                for node in path:
                    node.visits -= 1
                break
            paths.append(path)
        assert len(picked) == len(paths)
        for leaf, path in zip(picked, paths, strict=True):
            twin[int(leaf)] = path[-1]
            assert tree.depth(int(leaf)) == len(path) - 1
        values = {
            int(leaf): float(rng.random()) if rng.random() < 0.8 else math.nan for leaf in picked
        }
        for leaf in values:
            if tree.block(leaf) and rng.random() < 0.3:
                tree.fill_up(leaf)
                twin[leaf].full = True
            elif not tree.block(leaf) and rng.random() < 0.8:
                _grow_twin(tree, twin, leaf, rng, players)
        tree.backup(picked, [values[int(leaf)] for leaf in picked])
        for leaf, path in zip(picked, paths, strict=True):
            if math.isnan(values[int(leaf)]):
                for node in path:
                    node.visits -= 1
            else:
                backup(path, values[int(leaf)], discount, players)
        for node, slow in twin.items():
            assert tree.visits(node) == slow.visits
            if slow.visits:
                assert tree.mean(node) == pytest.approx(slow.total / slow.visits, abs=1e-12)
    nodes, edges = tree.nodes, tree.edges
    # a node's visits are its own evaluations and those of its children
    for node in range(len(nodes)):
        below = sum(int(edges[edge]["visits"]) for edge in tree.block(node))
        assert below <= tree.visits(node)
    assert not (nodes["room"] & IN_FLIGHT).any(), "nothing is in flight between rounds"


def test_widening_moves_a_block_and_keeps_what_it_knew():
    tree = Tree("root")
    tree.visit(0, 0.5)
    tree.add(0, ["a", "b"], ["A", "B"], np.array([0.5, 0.5]))
    leaf = int(tree.select(1)[0])
    tree.backup([leaf], [1.0])
    for i in range(30):
        count = 3 + i
        tree.add(0, [f"s{i}"], [f"S{i}"], np.full(count, 1 / count))
    assert [tree.steps[e] for e in tree.block(0)][:3] == ["a", "b", "s0"] and len(
        tree.block(0)
    ) == 32
    assert tree.chain(leaf) == ["a"] and tree.states[leaf] == "A" and tree.visits(leaf) == 1
    other = tree.open(0, tree.block(0)[20])
    assert tree.states[other] == "S18" and tree.chain(other) == ["s18"]
    assert len(tree.edges) < 200, "moving must not square the memory"


def test_closed_children_are_never_taken_again_and_a_settled_node_is_a_leaf():
    tree = Tree("root")
    tree.visit(0, 0.5)
    tree.add(0, ["a", "b"], ["A", "B"], np.array([0.9, 0.1]))
    first, second = (tree.open(0, edge) for edge in tree.block(0))
    tree.close(first)
    picked = tree.select(4)
    assert set(picked.tolist()) == {second}
    tree.backup(picked, np.ones(4))
    tree.close(second)
    picked = tree.select(4, stop_at_collision=True)
    assert picked.tolist() == [0]
    tree.backup(picked, [math.nan])
    assert tree.visits(0) == 5 and tree.child(tree.block(0)[0]) == first


def test_bad_priors_are_refused():
    tree = Tree("root")
    with pytest.raises(ValueError, match="sum to 1"):
        tree.add(0, ["a", "b"], ["A", "B"], np.array([0.5, 0.6]))
    with pytest.raises(ValueError, match="must be given"):
        tree.add(0, ["a", "b"], ["A", "B"], np.array([1.0]))
