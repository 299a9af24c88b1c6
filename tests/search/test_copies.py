"""What a search found can be pickled, copied and taken apart into a dictionary."""

from __future__ import annotations

import copy
import pickle
from dataclasses import asdict, replace

import numpy as np
import pytest
from fakes import scripted_guide

import search
from search.methods.presets import SEARCHES
from search.solution import Solution
from search.tree.forest import Forest
from search.tree.tree import Tree

PUZZLES = ["Use 4, 7, 8 and 8 to make 24.", "Use 1, 2, 4 and 7 to make 24."]
WAYS = {"pickle": lambda thing: pickle.loads(pickle.dumps(thing)), "deepcopy": copy.deepcopy}


def solutions(method: str, keep_trees: bool) -> list[Solution]:
    return search.solve_many(
        PUZZLES, scripted_guide(), method, budget="tokens=300", keep_trees=keep_trees
    )


def rows(tree: Tree) -> list[list[object]]:
    """All that a tree tells of its edges and states."""
    edges = [repr(record) for record in tree.edges.tolist()]
    steps = [repr(step) for step in tree.steps[: len(edges)]]
    return [edges, steps, [repr(state) for state in tree.states], sorted(tree.finished.items())]


@pytest.mark.thorough
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("keep_trees", [True, False])
@pytest.mark.parametrize("method", SEARCHES)
def test_solutions_of_every_method(method, keep_trees, way):
    for solution in solutions(method, keep_trees):
        copied = WAYS[way](solution)
        assert repr(copied) == repr(solution) and str(copied) == str(solution)
        assert copied.candidates == solution.candidates and copied.steps == solution.steps
        assert copied.usage == solution.usage
        for name in ("tree", "trace"):
            assert (getattr(copied, name) is not None) == keep_trees
        if keep_trees:
            assert rows(copied.tree) == rows(solution.tree)
            assert copied.trace.problem().initial() == solution.trace.problem().initial()
            assert np.array_equal(copied.trace.edge_sum, solution.trace.edge_sum)


@pytest.mark.thorough
@pytest.mark.parametrize("keep_trees", [True, False])
@pytest.mark.parametrize("method", SEARCHES)
def test_as_a_dictionary(method, keep_trees):
    (solution, _) = solutions(method, keep_trees)
    told = asdict(solution)
    assert set(told) == set(solution.__dataclass_fields__)
    assert (
        told["answer"] == solution.answer and told["usage"]["generated"] == solution.usage.generated
    )
    assert (told["tree"] is None) != keep_trees
    if keep_trees:
        assert rows(told["tree"]) == rows(solution.tree) and told["trace"]["seed"] == 0


@pytest.mark.parametrize("way", WAYS)
def test_a_search_that_failed(way):
    (solution, _) = solutions("sample", True)
    failed = replace(solution, error=search.RequestFailed("the server went away"), stopped="error")
    copied = WAYS[way](failed)
    assert type(copied.error) is search.RequestFailed and str(copied) == str(failed)
    assert str(asdict(failed)["error"]) == "the server went away"


@pytest.mark.parametrize("way", WAYS)
def test_a_copied_tree_grows_as_the_original_and_without_it(way):
    def grown(tree: Tree) -> list[list[object]]:
        for _ in range(40):
            (leaf,) = tree.select(1)
            if not tree.block(leaf):
                tree.add(leaf, list("abcde"), list("ABCDE"), np.full(5, 0.2))
            tree.backup([leaf], [0.25])
        return rows(tree)

    tree = Tree("root")
    grown(tree)
    before = rows(tree)
    copied = WAYS[way](tree)
    for array in (copied._nodes, copied._words):
        assert array.ctypes.data % 64 == 0, "the kernels read whole cache lines"
    after = grown(copied)
    assert rows(tree) == before != after
    assert grown(tree) == after


@pytest.mark.parametrize("way", WAYS)
def test_what_is_pickled_has_no_room_in_it(way):
    tree = Tree("root")
    tree.reserve(100_000, 400_000)
    assert tree.bytes > 10e6 and len(pickle.dumps(tree)) < 10_000
    assert WAYS[way](tree).bytes < 10_000


def test_a_forest_of_the_callers_states():
    forest = Forest(3, 4)
    copied = pickle.loads(pickle.dumps(forest))
    assert np.array_equal(copied.roots, forest.roots) and np.array_equal(copied.nodes, forest.nodes)


@pytest.mark.parametrize(
    "wrong", ["Use 4, 7, 8 and 8 to make 24.", "", 24, search.TextProblem("What is 1 + 1?")]
)
def test_one_problem_where_a_list_is_wanted(wrong):
    with pytest.raises(ValueError, match=r"give a list of problems.*or use solve") as caught:
        search.solve_many(wrong)
    assert "\n" not in str(caught.value)
