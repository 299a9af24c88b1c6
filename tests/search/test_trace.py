"""Traces: reloaded exactly, replayed, damaged and foreign shards skipped by name, a full disk
leaves nothing half-written.
"""

from __future__ import annotations

import errno
import math
import os

import networkx as nx
import numpy as np
import pytest
from fakes import scripted_guide

import search
from search.problems.countdown import Countdown
from search.shards import SCHEMA
from search.trace import Trace, TraceWriter


@pytest.fixture(scope="module")
def solutions():
    problems = [Countdown((4, 7, 8, n), 24) for n in (8, 2, 3)]
    return search.solve_many(problems, scripted_guide(), budget="tokens=300", seed=1)


def test_a_trace_is_the_tree(solutions):
    tree, trace = solutions[0].tree, solutions[0].trace
    assert len(trace.node_parent) == len(tree.nodes)
    assert trace.edge_visits.sum() == sum(
        int(tree.edges[e]["visits"]) for n in range(len(tree.nodes)) for e in tree.block(n)
    )
    for node in range(1, len(tree.nodes)):
        assert [trace.steps[e] for e in trace.path(node)] == tree.chain(node)
        edge = int(trace.node_edge[node])
        assert trace.edge_child[edge] == node and trace.edge_node[edge] == trace.node_parent[node]
        assert trace.edge_visits[edge] == tree.visits(node)
    assert (
        trace.options["branch"] == 1
        and trace.method == "search.methods.mcts:mcts"
        and trace.version == "fake"
    )
    assert "target" not in trace.options and trace.arguments["numbers"]


def test_saved_and_reloaded_exactly(solutions, tmp_path):
    traces = [s.trace for s in solutions]
    Trace.save(traces, tmp_path / "a.parquet")
    assert Trace.load(tmp_path) == traces == Trace.load(tmp_path / "a.parquet")
    assert os.listdir(tmp_path) == ["a.parquet"]


def test_states_are_made_again_by_replay(solutions, tmp_path):
    Trace.save([solutions[0].trace], tmp_path / "a.parquet")
    trace = Trace.load(tmp_path)[0]
    problem = trace.problem()
    assert problem == solutions[0].problem
    assert trace.states() == solutions[0].tree.states
    for node, state in enumerate(trace.states()):
        if trace.node_finished[node]:
            assert problem.verify(state) == trace.node_reward[node]


def test_a_networkx_tree(solutions):
    trace = solutions[0].trace
    graph = trace.to_networkx()
    assert nx.is_arborescence(graph) and len(graph) == len(trace.node_parent)
    for node in graph:
        below = sum(graph.nodes[child]["visits"] for child in graph.successors(node))
        assert below <= graph.nodes[node]["visits"] or node == 0
        value = graph.nodes[node]["value"]
        assert math.isnan(value) or 0 <= value <= 1


def test_damaged_and_foreign_shards_are_named_and_skipped(solutions, tmp_path, caplog):
    import pyarrow as pa
    import pyarrow.parquet as pq

    Trace.save([s.trace for s in solutions[:2]], tmp_path / "good.parquet")
    whole = (tmp_path / "good.parquet").read_bytes()
    (tmp_path / "half.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.parquet").write_text("hello")
    table = pq.read_table(tmp_path / "good.parquet")
    pq.write_table(
        table.set_column(0, "schema", pa.array([SCHEMA + 1] * len(table), pa.int32())),
        tmp_path / "newer.parquet",
    )
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    assert Trace.load(tmp_path) == [s.trace for s in solutions[:2]]
    for name in ("half", "text", "newer", "other"):
        assert f"{name}.parquet" in caplog.text
    assert f"schema {SCHEMA + 1}" in caplog.text
    with pytest.raises(FileNotFoundError, match="copse solve --traces"):
        Trace.load(tmp_path / "nothing")


def test_the_writer_keeps_each_trace_at_once_and_merges_at_the_end(solutions, tmp_path):
    writer = TraceWriter(tmp_path)
    for i, solution in enumerate(solutions):
        writer.write(solution.trace)
        assert len(Trace.load(tmp_path)) == i + 1
    writer.close()
    assert len(os.listdir(tmp_path)) == 1
    assert sorted(t.id for t in Trace.load(tmp_path)) == sorted(s.trace.id for s in solutions)
    half_merged = TraceWriter(tmp_path)
    # as after a kill between merging and removing: each trace once all the same
    half_merged.write(solutions[0].trace)
    assert len(Trace.load(tmp_path)) == 3


def test_a_full_disk_leaves_nothing_half_written(solutions, tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    def full(table, where, **options):
        with open(where, "wb") as file:
            file.write(b"PAR1")
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = TraceWriter(tmp_path)
    writer.write(solutions[0].trace)
    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space"):
        writer.write(solutions[1].trace)
    writer.close()
    assert len(os.listdir(tmp_path)) == 1 and Trace.load(tmp_path) == [solutions[0].trace]


async def draws(session):
    """A sampler of a user's own: a step from the root until the budget ends."""
    session.tree.independent = True
    while not session.over:
        await session.expand([0], 1)


def test_who_samples_says_that_chains_are_independent(solutions, tmp_path):
    problem = solutions[0].problem
    sampled, own = (
        search.solve(problem, scripted_guide(), method=method, budget="tokens=60", seed=1)
        for method in ("sample", draws)
    )
    assert sampled.tree.independent and sampled.trace.independent and own.trace.independent
    assert own.trace.method.endswith("draws")
    assert not any(solution.trace.independent for solution in solutions)
    traces = [sampled.trace, own.trace, solutions[0].trace]
    Trace.save(traces, tmp_path / "a.parquet")
    assert [trace.independent for trace in Trace.load(tmp_path)] == [True, True, False]


def test_a_shard_from_before_it_told_is_read_by_its_method(solutions, tmp_path):
    import pyarrow.parquet as pq

    problem = solutions[0].problem
    sampled = search.solve(problem, scripted_guide(), method="sample", budget="tokens=60", seed=1)
    Trace.save([sampled.trace, solutions[0].trace], tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet").drop_columns(["independent", "digest"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert Trace.load(tmp_path) == [sampled.trace, solutions[0].trace]


def test_nan_and_tokens_survive(solutions):
    trace = solutions[0].trace
    assert trace.edge_prior.dtype == np.float32 and trace.edge_sum.dtype == np.float64
    assert all(isinstance(step.tokens, tuple) and step.tokens for step in trace.steps)
