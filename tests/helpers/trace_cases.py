"""Traces whose tree is written down by hand."""

from __future__ import annotations

import math

import numpy as np

from search.problem import TextStep
from search.scheduling.requests import Usage
from search.trace import Trace


def make(
    parents: list[int],
    visits: list[int],
    finished: list[bool],
    sampled: bool = False,
    spare: int = 0,
    lost: int = 0,
) -> Trace:
    """A trace of nodes 1, 2, ... below `parents`; its edges in the order of their nodes, `spare`
    more at each that were never taken.

    sampled: its chains are independent samples;  lost: simulations that never left the root.

    The step to node i has i % 3 + 1 tokens, all of them 100 + i.
    """
    nodes = range(1, len(parents) + 1)
    children: dict[int, list[int]] = {
        node: [i for i in nodes if parents[i - 1] == node] + [-1] * spare
        for node in range(len(nodes) + 1)
    }
    edges = [(node, child) for node in children for child in children[node]]
    place = {child: edge for edge, (_, child) in enumerate(edges) if child > 0}
    size = len(edges)
    return Trace(
        id="t", kind="search.problem:TextProblem", arguments={"statement": "?"}, method="my:tree",
        options={}, seed=0, version="v",
        usage=Usage(simulations=lost + sum(visits[i] for i,
        parent in enumerate(parents) if parent == 0)),
        node_parent=np.array([-1, *parents], np.int32),
        node_edge=np.array([-1, *(place[i] for i in nodes)], np.int32),
        node_finished=np.array([False, *finished]), node_reward=np.full(len(nodes) + 1, math.nan),
        edge_node=np.array([node for node, _ in edges], np.int32),
        edge_child=np.array([child for _, child in edges], np.int32),
        edge_visits=np.array([visits[child - 1] if child > 0 else 0 for _, child in edges],
        np.int32),
        edge_sum=np.zeros(size), edge_prior=np.full(size, 1.0, np.float32),
        edge_value=np.full(size, math.nan, np.float32),
        edge_log_prob=np.zeros(size), independent=sampled,
        steps=tuple(TextStep(str(c), (100 + c,) * (c % 3 + 1)) for _, c in edges),
    )  # fmt: skip
