"""The benchmark of the tree core: its problem bit for bit, its reference against the tests' own,
planted engines side by side.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import reference
from typer.testing import CliRunner

from benchmarks.processes import interleave
from benchmarks.tree import core, hashgame, hashtree, reference_puct, rivals

ROOT = Path(__file__).resolve().parent.parent.parent
YARDSTICKS = Path(os.environ.get("COPSE_YARDSTICKS") or ROOT.parent / "shared" / "yardsticks")
POSITIONS = [0, 1, 2**31, 2**32 - 1, *(random.Random(0).getrandbits(32) for _ in range(300))]


def yardstick(name):
    """A module of the yardsticks, which come apart from this repository."""
    path = YARDSTICKS / f"{name}.py"
    if not path.exists():
        pytest.skip(f"{path} is not there: name its folder in COPSE_YARDSTICKS")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


# -- the problem


def murmur(x):
    """MurmurHash3's finaliser, its steps written out."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x = ((x ^ (x >> shift)) * factor) % 2**32
    return x


def test_the_mixer_is_the_finaliser_of_murmur_hash_3():
    assert murmur(1) == 0x514E28B7  # a published pair
    assert [reference_puct.mix(x) for x in POSITIONS] == [murmur(x) for x in POSITIONS]
    assert reference_puct.root(0) == 0x514E28B7 and reference_puct.root(3, seed=2) == murmur(
        (2 * 0x27D4EB2F + 4) % 2**32
    )


@pytest.mark.thorough
@pytest.mark.parametrize("moves", [1, 2, 4, 7, 16, 63, 64])
def test_numpy_and_compiled_functions_say_what_plain_python_says(moves):
    positions = np.array(POSITIONS, np.uint32)
    game, rows = hashgame.game(moves), hashtree.rows(positions)
    shares = np.array([reference_puct.priors(x, moves) for x in POSITIONS]).astype(np.float32)
    values = np.array([reference_puct.value(x) for x in POSITIONS])
    assert (hashtree.positions(rows) == positions).all() and [
        int.from_bytes(bytes(row), "little") for row in rows
    ] == POSITIONS
    assert (hashtree.priors(positions, moves) == shares).all() and (
        hashtree.values(positions) == values
    ).all()
    for row, share, value in zip(rows, shares, values, strict=True):
        found = np.full(moves, np.nan, np.float32)
        assert (
            game.evaluate(row, found) == value
            and (found == share).all()
            and np.isnan(game.outcome(row))
        )
    for move in range(0, moves, 5):
        below = [reference_puct.child(x, move) for x in POSITIONS]
        assert hashtree.children(positions, np.full(len(positions), move)).tolist() == below
        after = rows.copy()
        for row in after:
            game.play(row, move)
        assert hashtree.positions(after).tolist() == below


@pytest.mark.thorough
def test_roots_are_those_of_tree_and_seed():
    rows, priors, values = np.empty((5, 4), np.uint8), np.empty((5, 3), np.float32), np.empty(5)
    hashgame.planted(2, 9, rows, priors, values)
    roots = [reference_puct.root(tree, 9) for tree in range(2, 7)]
    assert hashtree.positions(rows).tolist() == roots and hashtree.roots(7, 9)[2:].tolist() == roots
    assert values.tolist() == [reference_puct.value(x) for x in roots]
    hashgame.start(rows[0])
    assert hashtree.positions(rows[:1]).tolist() == [reference_puct.root(0)]
    with pytest.raises(ValueError, match="1 to 64"):
        hashgame.game(65)


def test_the_yardstick_says_the_same():
    synth, puct = yardstick("synth"), None
    for x in POSITIONS:
        assert reference_puct.value(x) == synth.value(x) and reference_puct.priors(
            x, 5
        ) == synth.prior(x, 5)
        assert [reference_puct.child(x, a) for a in range(3)] == [
            synth.child(x, a) for a in range(3)
        ]
    assert reference_puct.root(7, 3) == synth.root(7, 3)
    sys.modules["synth"] = synth
    try:
        puct = yardstick("puct_ref")
    finally:
        del sys.modules["synth"]
    for moves, k, c in ((4, 1, 1.25), (3, 8, 0.4), (16, 16, 2.0)):
        theirs, _ = puct.root_visits(3, moves, 100, 5, c=c, K=k)
        assert theirs == [
            reference_puct.root_visits(tree, moves, 100, k, c, 5) for tree in range(3)
        ]


# -- searches


def by_the_slow_twin(tree, moves, simulations, k, c, seed):
    """Root visits, and nodes on all paths, by the tests' own PUCT."""
    top, walked = reference.Node(), 0
    top.position = reference_puct.root(tree, seed)

    def expand(node):
        for move, prior in enumerate(reference_puct.priors(node.position, moves)):
            child = reference.Node()
            child.position, child.prior = (
                reference_puct.child(node.position, move),
                float(np.float32(prior)),
            )
            node.children.append(child)

    expand(top)
    top.visits, top.total, done = 1, reference_puct.value(top.position), 0
    while done < simulations:
        paths = [reference.descend(top, c, 0.0) for _ in range(min(k, simulations - done))]
        for path in paths:
            if not path[-1].children:
                expand(path[-1])
            reference.backup(path, reference_puct.value(path[-1].position), 1.0)
            walked += len(path)
        done += len(paths)
    return [child.visits for child in top.children], walked


@pytest.mark.parametrize(
    ("moves", "k", "c"),
    [
        pytest.param(2, 1, 1.25, marks=pytest.mark.thorough),
        pytest.param(4, 8, 0.5, marks=pytest.mark.slow),
        pytest.param(16, 16, 3.0, marks=pytest.mark.thorough),
        pytest.param(5, 1, 0.1, marks=pytest.mark.slow),
    ],
)
def test_all_searches_visit_what_the_slow_twin_visits(moves, k, c):
    twin = [by_the_slow_twin(tree, moves, 90, k, c, 4) for tree in range(3)]
    visits = [visits for visits, _ in twin]
    assert [
        reference_puct.root_visits(tree, moves, 90, k, c, 4, rounded=True) for tree in range(3)
    ] == visits
    for kind in (hashgame.HashTree, hashgame.HashTreeSplit):
        engine = kind()
        engine.K = k
        engine.prepare(3, moves, 90, c, 4)
        told = [engine.run() for _ in range(3)][-1]
        assert engine.root_visits().tolist() == visits and told["seconds"] > 0
        assert told.get("nodes") == (sum(walked for _, walked in twin) if k == 1 else None)


@pytest.mark.thorough
def test_runs_reuse_memory_and_threads_change_nothing(monkeypatch):
    monkeypatch.setattr(hashgame.HashTree, "most", 100)
    found = []
    for threads in (1, 3):
        engine = core.HashTree()
        engine.K, engine.threads = 1, threads
        engine.prepare(7, 4, 200, 1.25, 0)
        assert len(engine.parts) == threads
        first = [part.forest.bytes for part in engine.parts]
        for _ in range(4):
            engine.run()
        assert [part.forest.bytes for part in engine.parts] == first
        found.append(engine.root_visits())
    assert (found[0] == found[1]).all() and found[0].sum() == 7 * 200


def test_a_split_search_tells_its_parts():
    engine = core.HashTreeSplit()
    engine.K = 8
    engine.prepare(4, 4, 60)
    told = engine.run()
    assert told["rounds"] == 8 and told["leaves"] == 4 * 60
    assert 0 < told["core_seconds"] < told["seconds"] and told["replayed"] > 0


# -- side by side


class Planted:
    """An engine of which the numbers are known."""

    def prepare(self, B, A, S, c, seed):
        self.asked = (B, A, S)

    def run(self):
        sys.stdout.write("what a library prints is no answer\n")
        trees, _, simulations = self.asked
        return {
            "seconds": 2e-3 * trees,
            "cpu": 1e-3 * trees,
            "core": 0.25,
            "nodes": trees * simulations * 3,
        }

    def root_visits(self):
        return np.full(self.asked[:2], 7)


class Failing(Planted):
    def prepare(self, B, A, S, c, seed):
        if A == 4:
            raise OSError("no licence")
        os._exit(3)


@pytest.fixture
def engines(monkeypatch):
    """Child processes that find this file, closed at the end."""
    monkeypatch.setenv(
        "PYTHONPATH",
        os.pathsep.join([str(ROOT), str(Path(__file__).parent), str(ROOT / "tests" / "helpers")]),
    )
    started = []

    def start(kind, **more):
        started.append(interleave.Engine(f"test_tree_core:{kind}", **more))
        return started[-1]

    yield start
    for engine in started:
        engine.__exit__()


@pytest.mark.thorough
def test_engines_take_turns_and_their_failures_are_told(engines):
    core_ = min(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else None
    pair = [
        ("copse", engines("Planted", core=core_)),
        ("free", engines("Planted")),
        ("bad", engines("Failing")),
    ]
    searches = [{"B": 2, "S": 10, "A": 4}, {"B": 4, "S": 10, "A": 2}]
    rows = interleave.interleaved(pair, searches, 2, least=0.0)
    found = {(row["engine"], row["A"]): row for row in rows}
    assert (
        len(rows) == 6
        and found["copse", 4]["time"] == (2e-3 if core_ is not None else 4e-3)
        and found["free", 4]["time"] == 4e-3
    )
    assert found["free", 2]["rate"] == pytest.approx(40 / 8e-3) and found["free", 2][
        "core_rate"
    ] == pytest.approx(40 / 2e-3)
    assert (
        found["copse", 4]["of"] == 2
        and found["copse", 4]["visits"] == [[7] * 4] * 2
        and found["copse", 4]["rss"] > 1e6
    )
    assert found["bad", 4]["error"] == "OSError: no licence" and "ended" in found["bad", 2]["error"]
    with pytest.raises(RuntimeError, match="bad failed: OSError"):
        interleave.done(found["bad", 4])


def test_tables_divide_by_the_best_of_a_kind():
    def row(engine, rate, **more):
        return {"engine": engine, "B": 2, "S": 10, "A": 4, "rate": rate, "nodes": 90, **more}

    rows = [
        row("copse", 6e6, visits=[[5, 5], [4, 6]]),
        row("mctx-muzero", 2e5, visits=[[5, 5], [6, 4]]),
        row("mctx-gumbel", 3e5),
        row("openspiel", 1e6, core_rate=3e6),
        {"engine": "reasoners", "B": 2, "S": 10, "A": 4, "error": "none"},
    ]
    text = interleave.compared(rows).splitlines()
    assert text[0] == (
        "| B | S | A | path | copse | mctx-muzero | mctx-gumbel | openspiel | reasoners | "
        "copse / mctx | copse / openspiel "
        "| copse / openspiel core | copse / reasoners |"
    )
    assert (
        text[2]
        == "| 2 | 10 | 4 | 4.5 | 6,000 | 200 | 300 | 1,000 (3,000) | failed | 20.0 | 6.0 | 2.0 "
        "| - |"
    )
    assert "the same root visits in 1 of 2 trees" in text[-1]
    assert core.line_through([(n, 3 + 0.5 * n) for n in (1, 4, 32, 900)]) == pytest.approx((3, 0.5))


def test_which_pythons_have_a_package():
    assert interleave.installed("numpy", sys.executable) and not interleave.installed(
        "no_such_package", sys.executable
    )
    with pytest.raises(ValueError, match="give --python"):
        interleave.installed("numpy", "no/such/python")


def test_a_written_tree_has_the_values_of_its_leaves():
    lines = rivals.written(reference_puct.root(0), 3, 2).splitlines()
    leaves = [
        reference_puct.child(reference_puct.child(reference_puct.root(0), a), b)
        for a in range(3)
        for b in range(3)
    ]
    payoffs = [2 * reference_puct.value(leaf) - 1 for leaf in leaves]
    assert [float(line.split()[-3]) for line in lines if line.startswith("t")] == pytest.approx(
        payoffs, abs=1e-6
    )
    assert sum(line.startswith("p") for line in lines) == 4 and len(lines) == 14
    assert {line.split()[-3] for line in rivals.written(5, 3, 1, 0.0).splitlines()[2:]} <= {
        "0.000000",
        "-0.000000",
    }


# -- commands


def run(*flags):
    return CliRunner().invoke(core.app, list(flags))


def test_check_counts_trees_that_differ(monkeypatch):
    small = (
        "check",
        "--moves",
        "4",
        "--k",
        "1,8",
        "--c",
        "1.25",
        "--seeds",
        "1",
        "--simulations",
        "40",
    )
    found = run(*small)
    assert found.exit_code == 0 and "| 4 | 8 | 2 | 0 | 0 | 0 |" in found.output, found.output
    monkeypatch.setattr(core.HashTreeSplit, "root_visits", lambda self: np.zeros((2, 4), np.int32))
    found = run(*small)
    assert found.exit_code == 1 and "| 4 | 1 | 2 | 0 | 2 | 0 |" in found.output


def test_flags_that_say_nothing_are_refused():
    assert (
        "NAME=PATH" in run("compare", "--python", "mctx").output
        and "commas" in run("growth", "--simulations", "many").output
    )


@pytest.mark.slow
def test_growth_split_and_compare_write_tables_and_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(core, "RIVALS", {"mctx-muzero": None})
    monkeypatch.setattr(core, "installed", lambda module, python: False)
    begin = time.monotonic()
    out = tmp_path / "x.json"
    found = run(
        "compare",
        "--moves",
        "4",
        "--simulations",
        "16",
        "--rounds",
        "1",
        "--least",
        "0",
        "--core",
        "-1",
        "--out",
        str(out),
    )
    assert (
        found.exit_code == 0
        and "| B | S | A | path | copse |" in found.output
        and "skipped" in found.output
    ), found.output
    assert json.loads(out.read_text())["rows"][0]["nodes"] > 0
    found = run("growth", "--simulations", "1e3", "--rounds", "1", "--core", "-1")
    assert "| 1e+03 | 6.6 |" in found.output, found.output
    found = run(
        "split",
        "--trees",
        "1,2",
        "--k",
        "1",
        "--simulations",
        "20",
        "--rounds",
        "1",
        "--core",
        "-1",
    )
    assert "us a leaf (A = 4)" in found.output, found.output
    assert time.monotonic() - begin < 60
