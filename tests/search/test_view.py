"""The drawing of a tree: a planted trace, read line by line."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from rich.console import Console

from search import view
from search.plain_text import harmless
from search.problem import TextStep
from search.scheduling.requests import Usage
from search.trace import Trace


def planted(rewards=(math.nan, math.nan, math.nan, math.nan), finished=(), steps=None, **other):
    """start -> a (5 visits: a0 of 3, a1 of 1), b (2 visits), c (never taken)."""
    nan = math.nan
    fields = {
        "id": "x", "kind": "search.problem:TextProblem", "arguments": {"statement": "What is it?"},
        "method": "m:m",
        "options": {"branch": 3},
        "seed": 7, "version": "v", "usage": Usage(),
        "node_parent": np.array([-1, 0, 0, 1, 1], np.int32),
        "node_edge": np.array([-1, 0, 1, 3, 4], np.int32),
        "node_finished": np.array([node in finished for node in range(5)]),
        "node_reward": np.array([nan, *rewards]),
        "edge_node": np.array([0, 0, 0, 1, 1], np.int32),
        "edge_child": np.array([1, 2, -1, 3, 4], np.int32),
        "edge_visits": np.array([5, 2, 0, 3, 1], np.int32),
        "edge_sum": np.array([3.0, 1.0, 0.0, 1.5, 0.9]),
        "edge_prior": np.array([0.5, 0.3, 0.2, 0.6, 0.4], np.float32),
        "edge_value": np.array([nan, nan, 0.25, nan, nan], np.float32),
        "edge_log_prob": np.full(5, -1.0),
        "steps": steps or tuple(TextStep(text) for text in ("a", "b", "c", "a0", "a1")),
    }  # fmt: skip
    return Trace(**{**fields, **other})


def lines(trace, *args, **options):
    console = Console(file=io.StringIO(), width=200, highlight=False)
    console.print(view.draw(trace, *args, **options), soft_wrap=True)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_numbers_order_and_marks():
    assert lines(planted()) == [
        "start  7 visits below  * best path",
        "├── * a  5 visits  value 0.60  prior 0.50",
        "│   ├── * a0  3 visits  value 0.50  prior 0.60",
        "│   └── a1  1 visit  value 0.90  prior 0.40",
        "├── b  2 visits  value 0.50  prior 0.30",
        "└── c  not visited  value 0.25  prior 0.20",
    ]


def test_limits_fold_what_is_left_out():
    assert lines(planted(), width=1) == [
        "start  7 visits below  * best path",
        "├── * a  5 visits  value 0.60  prior 0.50",
        "│   ├── * a0  3 visits  value 0.50  prior 0.60",
        "│   └── ... 1 more step, 1 visit",
        "└── ... 2 more steps, 2 visits",
    ]
    assert lines(planted(), depth=1)[2] == "│   └── ... 2 steps deeper"
    assert len(lines(planted(), depth=1)) == 5


def test_the_marked_path_is_never_folded_away():
    drawn = lines(planted(), [TextStep("b")], width=1)
    assert (
        drawn[1] == "├── * b  2 visits  value 0.50  prior 0.30"
        and sum("* " in line for line in drawn[1:]) == 1
    )


def test_best_prefers_reward_then_value():
    assert view.best(planted()) == 3, "nothing finished: the most visited path"
    assert view.best(planted(finished=(2, 4))) == 4, "value 0.9 before 0.5"
    assert view.best(planted(finished=(2, 4), rewards=(math.nan, 1.0, math.nan, 0.0))) == 2, (
        "a reward counts before a value"
    )
    assert (
        "reward 0" in lines(planted(finished=(4,), rewards=(math.nan, math.nan, math.nan, 0.0)))[2]
    )
    assert "finished" in lines(planted(finished=(2,)))[1]


def test_steps_stay_in_one_harmless_line():
    assert view.printable("one\n\n  two\n") == "one / two"
    assert (
        view.printable("\x1b[31mred\x07")
        == "\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}"
    )
    assert len(view.printable("x" * 500)) < 80
    assert (
        harmless("a\u00a0b\n\t\x1b\x9b\ud800") == "a\u00a0b\n\t" + 3 * "\N{REPLACEMENT CHARACTER}"
    )
    steps = tuple(
        TextStep(text, finish=finish)
        for text, finish in (
            ("[red]a[/red]", "stop"),
            ("", "end"),
            ("cut", "length"),
            ("", "stop"),
            ("", "stop"),
        )
    )
    drawn = lines(planted(steps=steps))
    assert "[red]a[/red]" in drawn[1], "a step is no markup"
    assert any("cut off" in line for line in drawn) and any("(empty)" in line for line in drawn)


def test_a_tree_deeper_than_the_recursion_limit():
    n = 3000
    chain = np.arange(n, dtype=np.int32)
    trace = planted(
        node_parent=chain - 1, node_edge=chain - 1, node_finished=np.zeros(n, bool),
        node_reward=np.full(n, math.nan),
        edge_node=chain[:-1], edge_child=chain[1:], edge_visits=np.ones(n - 1, np.int32),
        edge_sum=np.ones(n - 1),
        edge_prior=np.ones(n - 1, np.float32), edge_value=np.full(n - 1, math.nan, np.float32),
        edge_log_prob=np.zeros(n - 1),
        steps=tuple(TextStep(str(i)) for i in range(n - 1)),
    )  # fmt: skip
    assert view.best(trace) == n - 1
    assert len(lines(trace, depth=20)) == 22


def test_a_tree_of_the_root_alone():
    names = (
        "edge_node",
        "edge_child",
        "edge_visits",
        "edge_sum",
        "edge_prior",
        "edge_value",
        "edge_log_prob",
    )
    roots = {
        "node_parent": np.array([-1]),
        "node_edge": np.array([-1]),
        "node_finished": np.zeros(1, bool),
        "node_reward": np.full(1, math.nan),
    }
    trace = planted(
        steps=(), **roots, **{name: np.zeros(0, getattr(planted(), name).dtype) for name in names}
    )
    assert lines(trace) == ["start  0 visits below"]


def test_statements_need_nothing_foreign():
    assert view.statement(planted()) == "What is it?"
    assert view.statement(
        planted(
            kind="search.problems.countdown:Countdown", arguments={"numbers": [1, 2], "target": 3}
        )
    ).startswith("Use 1")
    assert view.statement(
        planted(kind="search.problems.countdown:Countdown", arguments={"letters": "x"})
    ).endswith('{"letters": "x"}')
    assert (
        view.statement(planted(kind="no.such.module:Problem", arguments={"n": 1}))
        == 'no.such.module:Problem {"n": 1}'
    )


def test_picking():
    texts = ["make 24", "make 6", "2 apples"]
    assert [view.pick(texts, wanted) for wanted in (None, "2", "make 6", "apples", "make")] == [
        0,
        1,
        1,
        2,
        0,
    ]
    for wanted in ("0", "4", "pears"):
        with pytest.raises(ValueError, match="from 1 to 3"):
            view.pick(texts, wanted)
