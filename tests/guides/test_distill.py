"""Distilling against brute force: on random small trees, every label and weight is counted again
chain by chain.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_cases import make

pytest.importorskip("torch")

from guides.data.distill import distill, split
from guides.data.examples import Segment
from guides.data.labels import Labels
from search.trace import Trace

PROMPT = (1, 2, 3)
POLICIES = ("solutions", "visits", "all", "none")


@st.composite
def trees(draw: st.DrawFn) -> tuple[Trace, np.ndarray]:
    """A random trace with random outcomes of its finished leaves, some not graded."""
    size = draw(st.integers(0, 12))
    parents = [draw(st.integers(0, i)) for i in range(size)]
    leaf = [i + 1 not in parents for i in range(size)]
    finished = [leaf[i] and draw(st.booleans()) for i in range(size)]
    visits = draw(st.lists(st.integers(0, 5), min_size=size, max_size=size))
    for i in reversed(range(size)):  # who comes to a node came through its parent
        if parents[i]:
            visits[parents[i] - 1] += visits[i]
    trace = make(
        parents,
        visits,
        finished,
        draw(st.booleans()),
        draw(st.integers(0, 2)),
        draw(st.integers(0, 2)),
    )
    outcomes = [
        draw(st.sampled_from([math.nan, 0.0, 0.25, 1.0])) if f else math.nan for f in finished
    ]
    return trace, np.array([math.nan, *outcomes])


def nodes_of(trace: Trace, example: list[Segment]) -> list[int]:
    """The node at the end of each segment, known by its tokens."""
    return [0 if i == 0 else segment.tokens[0] - 100 for i, segment in enumerate(example)]


@pytest.mark.thorough
@settings(max_examples=300, deadline=None)
@given(trees(), st.sampled_from(POLICIES), st.integers(1, 4))
def test_labels_and_weights_are_those_of_all_chains(
    tree: tuple[Trace, np.ndarray], policy: str, keep: int
) -> None:
    trace, outcomes = tree
    example = distill(
        trace, outcomes, PROMPT, policy=policy, keep=keep, rng=np.random.default_rng(0)
    )
    ancestors = {
        node: {0, *(int(trace.edge_child[edge]) for edge in trace.path(node))}
        for node in range(len(outcomes))
    }
    visits = {
        int(child): int(count)
        for child, count in zip(trace.edge_child, trace.edge_visits, strict=True)
    }
    graded = [node for node in range(1, len(outcomes)) if not math.isnan(outcomes[node])]
    chains = [
        (node, outcomes[node])
        for node in graded
        for _ in range(visits[node] if trace.independent else 1)
    ]
    # those that ended unfinished
    if trace.independent and len(graded) == trace.node_finished.sum():
        reached = {**visits, 0: trace.usage.simulations}
        for node in np.flatnonzero(~trace.node_finished):
            went_on = sum(
                visits[child]
                for child in range(1, len(outcomes))
                if trace.node_parent[child] == node
            )
            chains += [(int(node), 0.0)] * (reached[int(node)] - went_on)
    ends = [
        node
        for node in range(1, len(outcomes))
        if (trace.node_finished[node] if policy == "all" else outcomes[node] == 1)
    ]
    ends = [] if policy == "none" else ends
    arrivals: Counter[int] = Counter()
    for parent, count in zip(
        trace.node_parent[1:], (visits[node] for node in range(1, len(outcomes))), strict=True
    ):
        arrivals[int(parent)] += count
    wanted = {
        node
        for end in {*(end for end, _ in chains), *(ends if policy != "visits" else [])}
        for node in ancestors[end]
    }
    nodes = nodes_of(trace, example)
    if policy == "visits":
        wanted |= {
            node
            for node in visits
            if node > 0 and visits[node] and arrivals[int(trace.node_parent[node])] >= 2
        }
    elif len(ends) > keep:  # those that were not drawn may be missing
        wanted = {node for node in wanted if node in nodes} | {
            node for end, _ in chains for node in ancestors[end]
        }
    assert set(nodes) | {0} == wanted | {0} and bool(example) == bool(wanted - {0})
    for node, segment in zip(nodes, example, strict=True):
        below = [outcome for end, outcome in chains if node in ancestors[end]]
        assert segment.outcomes == len(below)
        assert (
            segment.value == pytest.approx(np.mean(below)) if below else math.isnan(segment.value)
        )
        assert segment.parent == (nodes.index(int(trace.node_parent[node])) if node else -1)
        if policy == "visits" and node:
            parent = int(trace.node_parent[node])
            assert segment.weight == pytest.approx(
                visits[node] / arrivals[parent] if arrivals[parent] >= 2 else 0
            )
        elif node and len(ends) <= keep:
            assert segment.weight == pytest.approx(
                sum(node in ancestors[end] for end in ends) / len(ends) if ends else 0
            )


@pytest.mark.thorough
@settings(max_examples=200, deadline=None)
@given(trees(), st.integers(1, 4), st.integers(0, 9))
def test_every_solved_problem_weighs_one(
    tree: tuple[Trace, np.ndarray], keep: int, seed: int
) -> None:
    """The weights below a node sum to its own, but for the chains that end there; from the root
    on to 1. `keep` chains are drawn.
    """
    trace, outcomes = tree
    example = distill(trace, outcomes, PROMPT, keep=keep, rng=np.random.default_rng(seed))
    right = {node for node in range(len(outcomes)) if outcomes[node] == 1}
    nodes = nodes_of(trace, example)
    drawn = [
        node
        for node, segment in zip(nodes, example, strict=True)
        if node in right and segment.weight > 0
    ]
    assert len(drawn) == min(keep, len(right))
    for i, node in enumerate(nodes):
        below = sum(segment.weight for segment in example if segment.parent == i)
        expected = 0 if node in drawn or not right else 1 if node == 0 else example[i].weight
        assert below == pytest.approx(expected)


def test_solutions_are_drawn_alike() -> None:
    trace, outcomes = make([0] * 5, [1] * 5, [True] * 5), np.array([math.nan, 1, 1, 1, 1, 0])
    rng, seen = np.random.default_rng(0), Counter[int]()
    for _ in range(600):
        example = distill(trace, outcomes, PROMPT, keep=2, rng=rng)
        seen.update(
            node
            for node, segment in zip(nodes_of(trace, example), example, strict=True)
            if segment.weight
        )
    assert set(seen) == {1, 2, 3, 4} and all(240 < count < 360 for count in seen.values()), seen


def test_a_sampled_chain_that_ended_unfinished_is_a_failure() -> None:
    """Of five chains one is right, two stop behind the first step, one at once, one is wrong; of
    a tree search nobody says so.
    """
    outcomes = np.array([math.nan, math.nan, 1.0, 0.0])
    for sampled, labels in ((True, [(0.2, 5), (0.25, 4)]), (False, [(0.5, 2), (0.5, 2)])):
        trace = make([0, 1, 1], [4, 1, 1], [False, True, True], sampled, lost=1)
        example = distill(trace, outcomes, PROMPT, rng=np.random.default_rng(0))
        assert [(segment.value, segment.outcomes) for segment in example[:2]] == labels


def test_failures_count_where_nothing_finished_and_not_beside_what_nobody_graded() -> None:
    for finished, outcome, labels in (
        (False, math.nan, [(0, 5), (0, 4)]),
        (True, math.nan, []),
        (True, 0.0, [(0, 5), (0, 4)]),
    ):
        trace = make([0, 1], [4, 3], [False, finished], True, lost=1)
        example = distill(
            trace, np.array([math.nan, math.nan, outcome]), PROMPT, rng=np.random.default_rng(0)
        )
        assert [(segment.value, segment.outcomes) for segment in example[:2]] == labels


def test_given_labels_stand_instead_of_counts() -> None:
    """What leads to a labelled step is read, even without a label of its own; a soft label stays
    a float.
    """
    outcomes = np.array([math.nan, math.nan, 1.0, 0.0])
    labels = Labels(np.array([1.0, 0.0, 9.0, 0.7]), np.array([math.inf, 0.0, 10.0, math.inf]))
    trace = make([0, 1, 1], [2, 1, 1], [False, True, True], True)
    example = distill(
        trace, outcomes, PROMPT, policy="none", rng=np.random.default_rng(0), labels=labels
    )
    assert [(segment.outcomes, segment.weight) for segment in example] == [
        (math.inf, 0),
        (0, 0),
        (10, 0),
        (math.inf, 0),
    ]
    assert [segment.value for segment in example] == pytest.approx(
        [1.0, math.nan, 0.9, 0.7], nan_ok=True
    )


def test_sampled_chains_count_each_and_a_tree_search_counts_leaves() -> None:
    """Three chains that are the same and wrong, and one that is right: 1 of 4 for independent
    samples, 1 of 2 for a tree search.
    """
    outcomes = np.array([math.nan, 0.0, 1.0])
    for sampled, count in ((True, 4), (False, 2)):
        root = distill(
            make([0, 0], [3, 1], [True, True], sampled),
            outcomes,
            PROMPT,
            rng=np.random.default_rng(0),
        )[0]
        assert root == Segment(PROMPT, 0.0, 1 / count, -1, count)


def test_only_sampled_tokens_are_trained() -> None:
    trace = make([0, 1], [1, 1], [False, True])
    example = distill(
        trace, np.array([math.nan, math.nan, 1.0]), PROMPT, rng=np.random.default_rng(0)
    )
    assert [segment.tokens for segment in example] == [
        PROMPT,
        trace.steps[0].tokens,
        trace.steps[1].tokens,
    ]
    assert [segment.weight for segment in example] == [0, 1, 1], "the prompt is read, not imitated"


@pytest.mark.parametrize("wrong", [{"policy": "worst"}, {"keep": 0}])
def test_unknown_ways_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"choose one of solutions|give at least 1"):
        distill(
            make([0], [1], [True]),
            np.array([math.nan, 1.0]),
            PROMPT,
            rng=np.random.default_rng(0),
            **wrong,
        )


@pytest.mark.thorough
@settings(max_examples=200, deadline=None)
@given(trees(), st.sampled_from(POLICIES), st.integers(1, 30))
def test_the_parts_of_an_example_are_the_example(
    tree: tuple[Trace, np.ndarray], policy: str, longest: int
) -> None:
    """Every chain stands in one part; every weight and label in one part; a part is short, or a
    single chain.
    """
    example = distill(*tree, PROMPT, policy=policy, rng=np.random.default_rng(0))
    parts = split(example, longest)
    if not example:
        assert parts == [[]]
        return

    def chain(segments: list[Segment], i: int) -> tuple[Any, ...]:
        return () if i < 0 else (*chain(segments, segments[i].parent), segments[i].tokens)

    told: Counter[Any] = Counter()
    for part in parts:
        assert (
            all(segment.parent < i for i, segment in enumerate(part)) and part[0].tokens == PROMPT
        )
        leaves = set(range(len(part))) - {segment.parent for segment in part}
        assert sum(len(segment.tokens) for segment in part) <= longest or len(leaves) == 1
        told.update(
            (chain(part, i), s.weight, s.value, s.outcomes)
            for i, s in enumerate(part)
            if s.weight or s.outcomes
        )
    assert told == Counter(
        (chain(example, i), s.weight, s.value, s.outcomes)
        for i, s in enumerate(example)
        if s.weight or s.outcomes
    )
    assert {chain(part, i) for part in parts for i in range(len(part))} == {
        chain(example, i) for i in range(len(example))
    }
