"""Traces that others have made, or that were damaged: each is read as it was written, or refused by
name, in little memory.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.parquet as parquet
import pytest
from command_cases import run
from fakes import scripted_guide
from trace_cases import make

import search
from search import Trace, shards
from search.parquet_footer import Column, columns
from search.problem import TextStep
from search.problems.countdown import Countdown
from search.scheduling.requests import Usage


@pytest.fixture(scope="module")
def whole():
    """start -> 1 -> 2, start -> 3, and an edge at each that was never taken."""
    return make([0, 1, 0], [3, 2, 1], [False, True, True], spare=1)


def stored(trace, tmp_path):
    """Only for what the writer takes: a trace of any kind, read again; None where it is refused."""
    Trace.save([trace], tmp_path / "t" / "a.parquet")
    found = Trace.load(tmp_path / "t")
    return found[0] if found else None


def changed(trace, name, place, value):
    array = getattr(trace, name).copy()
    array[place] = value
    return replace(trace, **{name: array})


def test_a_whole_trace_is_read(whole, tmp_path):
    assert stored(whole, tmp_path) == whole


FAULTS = {
    "a circle": lambda t: changed(t, "node_parent", 1, 2),
    "its own parent": lambda t: changed(t, "node_parent", 1, 1),
    "a parent that is not there": lambda t: changed(t, "node_parent", 3, 9),
    "another parent": lambda t: changed(t, "node_parent", 2, 0),
    "no parent": lambda t: changed(t, "node_parent", 2, -1),
    "a root below something": lambda t: changed(t, "node_parent", 0, 0),
    "an edge that is not there": lambda t: changed(t, "node_edge", 1, 99),
    "an edge below -1": lambda t: changed(t, "node_edge", 1, -5),
    "another's edge": lambda t: changed(t, "node_edge", 1, 1),
    "an edge of no node": lambda t: changed(t, "edge_node", 0, 77),
    "an edge of a negative node": lambda t: changed(t, "edge_node", 0, -1),
    "a child that is not there": lambda t: changed(t, "edge_child", 0, 50),
    "a child twice": lambda t: changed(t, "edge_child", 2, 1),
    "visits below 0": lambda t: changed(t, "edge_visits", 0, -1),
    "a reward of 7": lambda t: changed(t, "node_reward", 2, 7.0),
    "a prior of 2": lambda t: changed(t, "edge_prior", 0, 2.0),
    "a value below 0": lambda t: changed(t, "edge_value", 0, -0.5),
    "no nodes": lambda t: replace(
        t, **{name: getattr(t, name)[:0] for name in vars(t) if name.startswith("node_")}
    ),
    "fewer nodes in one column": lambda t: replace(t, node_reward=t.node_reward[:-1]),
    "fewer edges in one column": lambda t: replace(t, edge_sum=t.edge_sum[:-1]),
    "fewer steps": lambda t: replace(t, steps=t.steps[:-1]),
    "a negative token": lambda t: replace(t, steps=(TextStep("x", (-3,)), *t.steps[1:])),
    "no such finish": lambda t: replace(t, steps=(TextStep("x", (), "never"), *t.steps[1:])),
    "a step without text": lambda t: replace(t, steps=(TextStep(None), *t.steps[1:])),
    "a list of arguments": lambda t: replace(t, arguments=[1]),
    "text for options": lambda t: replace(t, options="x"),
    "usage in words": lambda t: replace(t, usage=Usage(generated="many")),
    "endless usage": lambda t: replace(t, usage=Usage(seconds=float("inf"))),
    "no kind": lambda t: replace(t, kind=None),
    "an id that is a path": lambda t: replace(t, id="../x"),
}


@pytest.mark.thorough
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_what_is_no_tree_is_refused(capsys, whole, tmp_path, caplog, fault):
    assert stored(fault(whole), tmp_path) is None
    assert "skipped the trace shard" in caplog.text
    capsys.readouterr()  # the log of another test's command
    code, out, err = run(capsys, "view", tmp_path / "t")
    assert code == 2 and out == "" and "Traceback" not in err


@pytest.mark.thorough
def test_no_bit_of_a_shard_can_flip_unseen(tmp_path):
    """What is read is what was written, or nothing."""
    solved = search.solve(
        Countdown((4, 7, 8, 8), 24), scripted_guide(), budget="tokens=60", seed=1
    ).trace
    path = tmp_path / "a.parquet"
    Trace.save([solved], path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    read = 0
    for place in rng.choice(8 * len(good), 150, replace=False).tolist():
        bad = bytearray(good)
        bad[place // 8] ^= 1 << place % 8
        path.write_bytes(bad)
        found = Trace.load(path)
        assert found in ([], [solved]), f"bit {place} of {8 * len(good)}"
        read += len(found)
    assert read < 100


BOMBS = {
    "numbers": lambda t: replace(t, edge_sum=np.zeros(200_000)),
    "steps": lambda t: replace(t, steps=(TextStep("x", (), "stop"),) * 5_000),
    "tokens": lambda t: replace(t, steps=(TextStep("x", (7,) * 50_000), *t.steps[1:])),
    "text": lambda t: replace(t, steps=(TextStep("x" * 2_000_000), *t.steps[1:])),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_small_file_cannot_fill_the_memory(whole, tmp_path, monkeypatch, caplog, bomb):
    """What repeats is packed into a few kB: it is refused before a column is read."""
    path = tmp_path / "a.parquet"
    Trace.save([bomb(whole)], path)
    assert path.stat().st_size < 40_000
    monkeypatch.setattr(shards, "ROOM", 1_000_000)
    monkeypatch.setattr(shards, "RATIO", 1)
    monkeypatch.setattr(parquet, "ParquetFile", None)
    assert Trace.load(path) == [] and "made to fill the memory" in caplog.text


def test_texts_that_repeat_are_counted_as_often_as_they_come(tmp_path, monkeypatch, caplog):
    """A text of many steps stands in the file once, and in a chain a thousand times."""
    count = 1_000
    chain = make(list(range(count)), [1] * count, [False] * count)
    long = replace(chain, steps=(TextStep("x" * 10_000),) * count)
    Trace.save([long], tmp_path / "a.parquet")
    assert len(Trace.load(tmp_path)) == 1
    monkeypatch.setattr(shards, "ROOM", 5_000_000)
    assert Trace.load(tmp_path) == [] and "characters" in caplog.text


def test_the_sizes_in_a_footer_are_those_that_pyarrow_reads(whole, tmp_path):
    Trace.save([whole] * 3, tmp_path / "a.parquet")
    about = parquet.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0)
    expected = []
    for number in range(about.num_columns):
        column = about.column(number)
        name = column.path_in_schema.partition(".")[0]
        expected.append(Column(name, column.num_values, column.total_uncompressed_size))
    assert list(columns(tmp_path / "a.parquet")) == expected


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1" * 3, b"PAR1" + b"\xff" * 40 + b"\x28\0\0\0PAR1", b"x" * 99]
)
def test_what_is_no_parquet_file(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(ValueError):
        list(columns(tmp_path / "a.parquet"))
