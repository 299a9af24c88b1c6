"""What models do in their streams (`benchmarks.learning.streams`), and symbolic trees that they may
learn to walk (`benchmarks.learning.symbolic`).
"""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import search
from benchmarks import tasks
from benchmarks.learning import streams, symbolic
from benchmarks.learning.streams import Pool
from benchmarks.sweep.plan import Task
from benchmarks.verifiers import samples
from guides.data.behaviour import Behaviour
from guides.data.grading import Graded, Replay
from guides.data.labels import Labels
from guides.data.streams import Streaming, streams_of
from search.problem import TextStep
from search.problems.countdown import Countdown, generate
from search.problems.stream import Stream
from search.trace import Trace


def pool(right: list[bool], chains: list[tuple[float, float]]) -> Pool:
    """Samples, and chains of two attempts."""
    done = [Behaviour(3, agains=1, first=first, last=last, changed=0.5) for first, last in chains]
    answers = ["7" if one else None for one in right]
    return Pool(answers, right, list(map(asdict, done)), 100, 1e9)


def test_the_table_tells_what_attempts_gain(tmp_path: Path) -> None:
    plain = [pool([True, False], [])] * 10
    second = [pool([True, True], [(0.0, 1.0), (1.0, 1.0)])] * 10
    worse = [pool([False, False], [(1.0, 0.0), (0.0, 0.0)])] * 10
    measured = {"plain": [plain], "second": [second, second], "worse": [worse]}
    lines = streams.report(measured, tmp_path / "t.csv").splitlines()
    head = [cell.strip() for cell in lines[0].split("|")[1:-1]]
    rows = []
    for line in lines[2:]:
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        rows.append(dict(zip(head, cells, strict=True)))
    assert [row["right"].split()[0] for row in rows] == ["50.0", "100.0", "0.0"]
    assert [row["delta"].split()[0] for row in rows if row["delta"]] == ["+50.0", "-50.0"]
    assert [row["to_right"] for row in rows] == ["", "50.0", "0.0"]
    assert [row["to_wrong"] for row in rows] == ["", "0.0", "50.0"]
    assert rows[2]["over plain"].startswith("-50.0") and rows[1]["over plain"] == ""
    assert rows[0]["tokens"] == "50.0" and rows[0]["pass@2"] == "100.0"


def test_samples_of_a_stream_are_what_stands() -> None:
    """The first line is withdrawn, so that answer and steps are those of the others."""
    problem = Countdown((4, 7, 8, 8), 24)
    told = ["8+8=16", "Back to 0.", "8-7=1", "4-1=3", "8*3=24"]

    def policy(problem: Any, state: Any) -> list[TextStep]:
        return [TextStep(told[len(state)])] if len(state) < len(told) else []

    def all_three(problem: Any, steps: Any) -> bool:
        return [step.text for step in steps] == told[2:]

    task = Task("one", {"a": problem}, {}, all_three)
    guide = search.Guide(policy, stream={})
    found = samples.sample(task, guide, 3, progress=False)["a"]
    assert [one.right for one in found] == [one.steps_right for one in found] == [True] * 3
    assert {one.answer for one in found} == {"(4+7-8)*8"}
    pools: dict[str, Pool] = {}

    def finish(name: str, solution: search.Solution) -> None:
        pools[name] = streams.pooled(task, name, 3, solution, tasks.state_right)

    samples.searched(task, guide, 3, finish, progress=False)
    assert pools["a"].right == [True] * 3
    assert [chain["backs"] for chain in pools["a"].chains] == [1, 1, 1]


def test_models_are_named() -> None:
    found = streams.read_models("a=x-{seed}, b=builtin", [0, 3])
    assert found == {"a": ["x-0", "x-3"], "b": ["builtin"]}
    for wrong in ("builtin", "a=", "a=x,a=y"):
        with pytest.raises(ValueError, match="write name=checkpoint"):
            streams.read_models(wrong, [0])


@pytest.mark.thorough
def test_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second start samples nothing; chains that came to no end are in the pool."""
    file = tmp_path / "test.jsonl"
    rows = []
    for number, problem in enumerate(generate(3, 3, size=3)):
        rows.append(json.dumps({"id": number, "kind": "countdown", "problem": problem.to_json()}))
    file.write_text("\n".join(rows) + "\n")
    command = ["streams", "--models", "shipped=builtin", "--test", str(file), "--attempts", "2"]
    monkeypatch.setattr(
        "sys.argv", [*command, "--samples", "4", "--slots", "8", "--out", str(tmp_path / "out")]
    )
    streams.main()
    [kept] = (tmp_path / "out").glob("*.jsonl")
    pools = list(map(json.loads, kept.read_text().splitlines()))
    assert [len(one["right"]) for one in pools] == [4, 4, 4]
    assert all(len(one["chains"]) == 4 for one in pools)
    before = kept.stat().st_mtime_ns
    monkeypatch.setattr(streams, "searched", None)
    streams.main()
    assert kept.stat().st_mtime_ns == before


def legal(left: tuple[Fraction, ...]) -> set[str]:
    """All lines from whole numbers to whole numbers from 0 on, the larger number first."""
    found = set()
    for a, b in itertools.permutations(left, 2):
        if a < b:
            continue
        found |= {f"{a}+{b}={a + b}", f"{a}-{b}={a - b}", f"{a}*{b}={a * b}"}
        if b and a % b == 0:
            found.add(f"{a}/{b}={a // b}")
    return found


def test_lines_are_all_there_and_the_nearest_come_first() -> None:
    problem = Countdown((4, 7, 8, 8), 24)
    state = (TextStep("8-7=1"),)
    for at in ((), state):
        found = symbolic.lines(problem, at)
        assert len(found) == len(set(found)) and set(found) == legal(problem.left(at))
    distances = []
    for line in symbolic.lines(problem, state):
        left = problem.left((*state, TextStep(line)))
        distances.append(min(abs(number - 24) for number in left))
    assert distances == sorted(distances)


@pytest.mark.parametrize("order", ["depth", "breadth"])
def test_a_model_can_learn_to_walk_symbolic_trees(
    order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trees are read with the model's tokens; their streams are legal and end right."""
    file = tmp_path / "problems.jsonl"
    problems = list(generate(5, 6, size=3))
    rows = [json.dumps({"kind": "countdown", "problem": one.to_json()}) for one in problems]
    file.write_text("\n".join(rows) + "\n")
    command = ["symbolic", "--input", str(file), "--order", order, "--branch", "20"]
    monkeypatch.setattr(sys, "argv", [*command, "--traces", str(tmp_path / "traces")])
    symbolic.main()
    assert capsys.readouterr().out == "6 of 6 problems solved\n"
    backs = 0
    for trace in Trace.load(tmp_path / "traces"):
        assert all(step.tokens for step in trace.steps)
        replay = Replay(trace)
        outcomes = replay.grade(None)
        labels = Labels(*np.zeros((2, len(outcomes))))
        one = Graded(replay, outcomes, outcomes, labels, (9,))
        chosen = Streaming("walk", rate=0.99, order=order, checks="answers")
        [lines] = streams_of(one, chosen, np.random.default_rng(0))
        stream = Stream(replay.problem, moves=chosen.moves, checked=True)
        state: Any = stream.initial()
        for line in lines:
            state = stream.apply(state, TextStep(line.text))
        assert stream.is_terminal(state) and stream.verify(state) == 1.0
        backs += sum(line.text.startswith("Back") for line in lines)
    assert backs > 6


def test_depth_first_goes_down_first() -> None:
    problem = Countdown((2, 3, 5), 100)  # no solution: everything is walked

    def policy(problem: Any, state: Any) -> list[TextStep]:
        return list(map(TextStep, symbolic.lines(problem, state)[:2]))

    orders = {}
    for depth in (True, False):
        found = search.solve(problem, search.Guide(policy), symbolic.walked, branch=2, depth=depth)
        assert found.tree is not None
        orders[depth] = [len(state) for state in found.tree.states]
    assert orders[False] == [0, 1, 1, 2, 2, 2, 2] and sorted(orders[True]) == orders[False]


def test_tests_of_countdown_have_targets_that_training_has_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = {}
    for kind in ("training", "test"):
        command = ["tasks", kind, "--only", "countdown", "--size", "3", "--count", "40"]
        monkeypatch.setattr("sys.argv", command)
        tasks.main()
        rows = list(map(json.loads, capsys.readouterr().out.splitlines()))
        assert len(rows) == 40 and all(len(row["problem"]["numbers"]) == 3 for row in rows)
        targets[kind] = {row["problem"]["target"] for row in rows}
    assert targets["test"] <= tasks.UNSEEN and not targets["training"] & tasks.UNSEEN
