"""Trees whose answers, votes and turns are known, for the page."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from search.problem import TextStep
from search.scheduling.requests import Usage
from search.trace import Trace

NAN = math.nan
#: what ends a script tag, opens others, or separates lines where JSON is read as a script
HOSTILE = (
    "</script><script>window.hit=1</script><img src=x onerror='window.hit=1'><!-- ]]> "
    "{{7*7}} ${window.hit=1} \u2028\u2029 &lt;b&gt; \ud800 \u202e"
)


def planted(**other: Any) -> Trace:
    """Independent chains of which the value function prefers 7 and the majority gives 5.

    start -> a (4 visits, mean 0.85) -> a0 "#### 7" (2, 0.9)
             b (5, 0.6) -> b0 "#### 5" (3, 0.2), b1 "#### 5" (2, 0.3)
             c, never taken, of value 0.25 to the policy
    Nodes, in the order of their making: start, b, b0, a, a0, b1.
    """
    texts = ("a", "b", "c", "#### 5", "#### 5", "#### 7")
    fields = {
        "id": "planted",
        "kind": "search.problem:TextProblem",
        "arguments": {"statement": "What is 3 + 4?"},
        "method": "search.methods.mcts:mcts",
        "options": {"c_puct": 2.0},
        "seed": 7,
        "version": "v",
        "usage": Usage(generated=1234, simulations=9, seconds=0.5),
        "node_parent": np.array([-1, 0, 1, 0, 3, 1], np.int32),
        "node_edge": np.array([-1, 1, 3, 0, 5, 4], np.int32),
        "node_finished": np.array([False, False, True, False, True, True]),
        "node_reward": np.full(6, NAN),
        "edge_node": np.array([0, 0, 0, 1, 1, 3], np.int32),
        "edge_child": np.array([3, 1, -1, 2, 5, 4], np.int32),
        "edge_visits": np.array([4, 5, 0, 3, 2, 2], np.int32),
        "edge_sum": np.array([3.4, 3.0, 0.0, 0.6, 0.6, 1.8]),
        "edge_prior": np.array([0.5, 0.3, 0.2, 0.6, 0.4, 1.0], np.float32),
        "edge_value": np.array([NAN, NAN, 0.25, NAN, NAN, NAN], np.float32),
        "edge_log_prob": np.full(6, -1.0),
        "steps": tuple(TextStep(f"{text}\n", (1,) * len(text)) for text in texts),
        "independent": True,
    }
    trace = Trace(**{**fields, **other})
    trace.check()
    return trace


def renamed(text: str, **other: Any) -> Trace:
    """`planted`, of another problem."""
    return planted(arguments={"statement": text}, **other)


def root_alone() -> Trace:
    """A search that never had a step."""
    trace = planted()
    empty = {
        name: np.zeros(0, getattr(trace, name).dtype)
        for name in vars(trace)
        if name.startswith("edge_")
    }
    return planted(
        node_parent=np.array([-1], np.int32),
        node_edge=np.array([-1], np.int32),
        node_finished=np.zeros(1, bool),
        node_reward=np.full(1, NAN),
        steps=(),
        **empty,
    )


def deep(nodes: int) -> Trace:
    """One chain."""
    chain = np.arange(nodes, dtype=np.int32)
    return planted(
        node_parent=chain - 1,
        node_edge=chain - 1,
        node_finished=np.zeros(nodes, bool),
        node_reward=np.full(nodes, NAN),
        edge_node=chain[:-1],
        edge_child=chain[1:],
        edge_visits=np.ones(nodes - 1, np.int32),
        edge_sum=np.ones(nodes - 1),
        edge_prior=np.ones(nodes - 1, np.float32),
        edge_value=np.full(nodes - 1, NAN, np.float32),
        edge_log_prob=np.zeros(nodes - 1),
        steps=tuple(TextStep(f"{i}\n") for i in range(nodes - 1)),
    )
