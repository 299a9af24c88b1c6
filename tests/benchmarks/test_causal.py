"""Whether answers rest on their chains (`benchmarks.learning.causal`), of planted models:
one reads what it wrote, one ignores it, one falls silent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import search
from benchmarks.learning import causal
from benchmarks.learning.causal import Chain, Change, Cut, Probe
from benchmarks.sweep.plan import Task
from search.chain import GIVEN
from search.problem import TextProblem, TextStep
from search.problems.chains import Chains
from search.problems.countdown import Countdown
from search.problems.stream import Stream

NUMBERS = {"a": (11, 12, 13, 14), "b": (21, 15, 30, 16, 10), "c": (40, 20)}
TASK = Task(
    "sums",
    {name: TextProblem(f"Sum: {' '.join(map(str, own))}") for name, own in NUMBERS.items()},
    {name: str(sum(own)) for name, own in NUMBERS.items()},
)
SMALL = Chains(11, ("A3", "B7", "c=a*b", "i=c-a", "k=i-i", "n=k+c"), "n")


def numbers(text: str) -> list[int]:
    return list(map(int, re.findall("[0-9]+", text)))


class Writer(search.Policy):
    """Adds the numbers one after the other, a line each, then gives its answer."""

    version = "writer"

    def __init__(self, follows: bool):
        self.follows = follows
        self.asked = 0

    async def propose(self, problem: Any, state: Any, n: int, rng: Any, avoid: Any = ()) -> Any:
        self.asked += 1
        own = numbers(problem.prompt(state))
        lines = [step.text for step in state if "box" not in step.text]
        if self.follows:
            before = numbers(lines[-1])[-1] if lines else 0
        else:
            before = sum(own[: len(lines)])
        told = len(lines) < len(own)
        text = f"So far {before + own[len(lines)]}." if told else f"\\boxed{{{before}}}"
        if any("box" in step.text for step in state):  # it is asked for the answer
            text = f"\\boxed{{{before if self.follows else sum(own)}}}"
        return [search.Proposal(TextStep(text), 0.0, 1.0)]


class Silent(Writer):
    """Says nothing behind what it did not write itself."""

    async def propose(self, problem: Any, state: Any, n: int, rng: Any, avoid: Any = ()) -> Any:
        if any(step.finish == GIVEN for step in state):
            return []
        return await super().propose(problem, state, n, rng)


def probed(policy: search.Policy, task: Task = TASK, **settings: Any) -> dict[str, Chain]:
    return Probe(search.Guide(policy), task, **settings).chains(list(task.problems))


def cells(text: str) -> list[dict[str, list[str]]]:
    """The tables of a report: first cell of a row -> the others."""
    tables = []
    for part in text.split("\n\n"):
        if part.startswith("|"):
            rows = [list(map(str.strip, row.split("|")[1:-1])) for row in part.splitlines()]
            tables.append({row[0]: row[1:] for row in rows})
    return tables


@pytest.mark.parametrize("follows", [True, False])
def test_a_model_that_reads_its_chain_is_told_from_one_that_ignores_it(follows: bool) -> None:
    found = probed(Writer(follows))
    for name, chain in found.items():
        own = NUMBERS[name]
        assert chain.right and chain.answer == str(sum(own)) and len(chain.steps) == len(own) + 1
        assert [one.place for one in chain.changes] == [
            place / len(own) for place in range(len(own))
        ]
        for one in chain.changes:
            assert len(one.before) == len(one.after) and one.before != one.after
            shift = int(one.after) - int(one.before) if follows else 0
            assert one.answer == str(sum(own) + shift) and one.due is None
        assert [one.share for one in chain.cuts] == list(causal.SHARES)
        for one in chain.cuts:
            kept = sum(own[: int(one.share * len(own))])
            assert one.answer == str(kept if follows else sum(own))
            assert one.right == (not follows or one.share == 1.0)
    changes, cuts = cells(causal.report(list(found.values())))
    share = "100.0 [100.0, 100.0]" if follows else "0.0 [0.0, 0.0]"
    assert changes["any"] == ["11", share, "0.0 [0.0, 0.0]", "-", "-"]
    assert changes["part 1 of 4"][0] == "4" and changes["part 4 of 4"][0] == "2"
    right = "0.0 [0.0, 0.0]" if follows else "100.0 [100.0, 100.0]"
    assert cuts["0%"][0] == cuts["75%"][0] == right and cuts["100%"][0].startswith("100.0")
    fall = "-100.0" if follows else "+0.0"
    assert cuts["50%"][1].startswith(fall) and cuts["50%"][2] == right
    assert cuts["whole chain"][0].startswith("100.0")


def test_a_model_that_falls_silent_has_no_answer() -> None:
    found = probed(Silent(follows=True))
    for chain in found.values():
        assert chain.right and not any(one.answer for one in [*chain.changes, *chain.cuts])
    changes, cuts = cells(causal.report(list(found.values())))
    assert changes["any"][1:3] == ["100.0 [100.0, 100.0]"] * 2
    assert cuts["100%"][0].startswith("0.0") and cuts["100%"][2].startswith("0.0")


def test_a_chain_that_comes_to_no_end_has_no_answer() -> None:
    """Though it speaks of one."""

    class Unsure(search.Policy):
        async def propose(self, problem: Any, state: Any, n: int, rng: Any, avoid: Any = ()) -> Any:
            return [] if state else [search.Proposal(TextStep("The answer is 7."), 0.0, 1.0)]

    for chain in probed(Unsure()).values():
        assert chain == Chain(["The answer is 7."], None, False)


def test_the_same_seed_draws_the_same_numbers_and_another_others() -> None:
    first = probed(Writer(True))
    assert first == probed(Writer(True)) == probed(Writer(True), width=1)
    other = probed(Writer(True), seed=1)
    assert first != other and first["a"].steps == other["a"].steps


def test_so_many_steps_are_changed_evenly_spread() -> None:
    steps = [TextStep(text) for text in ("1", "x", "2", "3", "4", "5", "6")]
    assert causal.places_of(steps, None) == [0, 2, 3, 4, 5]
    assert causal.places_of(steps, 3) == [0, 3, 5] and causal.places_of(steps, 9) == [0, 2, 3, 4, 5]
    cut_off = [steps[0], replace(steps[2], finish="length"), steps[3], steps[4], steps[5]]
    assert causal.places_of(cut_off, None) == [0, 3]
    assert len(probed(Writer(True), places=2)["b"].changes) == 2


def test_a_number_keeps_its_digits_and_chains_their_modulus() -> None:
    guide = search.Guide(Writer(True))
    steps = [TextStep(line) for line in ("c=a*b A3 B7 C10", "i=c-a C10 A3 I7")]
    assert causal.changed(guide, SMALL, steps, 0, 0) is None  # 10 alone has two digits below 11
    seen = set()
    for seed in range(60):
        made = causal.changed(guide, SMALL, steps[1:], 0, seed)
        assert made is not None
        before, after, state = made
        assert before == "7" and state[-1].text == f"i=c-a C10 A3 I{after}"
        seen.add(after)
    assert seen == set("012345689")
    ended = [TextStep("n=k+c K0 C9 N9"), TextStep("i=c-a C9 A3 I6")]
    assert causal.changed(guide, SMALL, ended, 0, 0) is None  # another answer is an answer still
    wide = [TextStep("It is 100, or 1,007."), TextStep("end")]
    drawn = set()
    for seed in range(40):
        made = causal.changed(guide, TextProblem("?"), wide, 0, seed)
        assert made is not None
        drawn.add(len(made[1]))
        assert made[2][0].text == f"It is 100, or 1,{made[1]}." and made[1][0] != "0"
    assert drawn == {3}


@pytest.mark.parametrize(
    "lines, answer",
    [
        ([], "10"),  # c = 21 mod 11 = 10, i = 7, k = 0, n = 10
        (["c=a*b A3 B7 C4"], "4"),
        (["c=a*b A3 B7 C4", "i=c-a C4 A3 I9"], "4"),  # i has no influence
        (["k=i-i I7 I7 K5"], "4"),
        (["c=a*b A3 B7 C4", "k=i-i I7 I7 K5"], "9"),
        (["n=k+c", "k=i-i"], "10"),
    ],
)
def test_what_follows_from_a_chain_is_computed(lines: list[str], answer: str) -> None:
    state = tuple(map(TextStep, lines))
    assert causal.due(SMALL, state) == answer
    assert causal.due(TextProblem("?"), state) is None


def test_due_answers_are_counted_where_they_are_known() -> None:
    changes = [
        Change(0.5, "1", "2", "7", "7"),  # due
        Change(0.5, "1", "2", "4", "7"),  # its own
        Change(0.5, "1", "2", None, "7"),  # none
        Change(0.5, "1", "2", "4", "4"),  # due, and its own
    ]
    report = causal.report([Chain(["x"], "4", True, changes), Chain(["y"], None, False)])
    assert report.startswith("1 of 2 greedy chains have an answer; right: 50.0")
    [table] = cells(report)
    shares = [cell.split()[0] for cell in table["any"]]
    assert shares == ["4", "50.0", "25.0", "66.7", "33.3"]
    assert table["part 3 of 4"] == table["any"] and table["part 1 of 4"][1:] == ["-"] * 4


def test_equal_answers_are_the_same() -> None:
    whole = Chain(["x"], "0.5", True, [Change(0.0, "1", "2", "1/2")], [Cut(0.0, "1/2", True)] * 5)
    changes, cuts = cells(causal.report([whole]))
    assert changes["any"][1].startswith("0.0") and cuts["0%"][2].startswith("100.0")


def test_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal, "AT_ONCE", 1)
    path = tmp_path / "sums.jsonl"
    probe = Probe(search.Guide(Writer(True)), TASK)
    whole = causal.kept(probe, path)
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    path.write_bytes(lines[0] + lines[1][:-9])
    policy = Writer(True)
    again = replace(probe, guide=search.Guide(policy))
    assert causal.kept(again, path) == whole and path.read_bytes() == b"".join(lines)
    spent = policy.asked
    assert causal.kept(again, path) == whole and policy.asked == spent > 0
    other = {**TASK.problems, "a": TextProblem("Sum: 1 2")}
    with pytest.raises(ValueError, match="is of another problem under the same id"):
        causal.kept(replace(probe, task=replace(TASK, problems=other)), path)
    with pytest.raises(ValueError, match="has other settings"):
        causal.kept(replace(probe, seed=1), path)


def refused(policy: Callable[..., Any], problem: search.Problem, **guide: Any) -> None:
    task = Task("one", {"a": problem}, {})
    Probe(search.Guide(policy, **guide), task).chains(["a"])


def test_what_cannot_be_changed_is_refused() -> None:
    lines = ["8-7=1", "4-1=3", "8*3=24"]

    def player(problem: Any, state: Any) -> list[TextStep]:
        return [TextStep(lines[len(state)])]

    with pytest.raises(ValueError, match="no step of a Countdown is legal with another number"):
        refused(player, Countdown((4, 7, 8, 8), 24))
    with pytest.raises(ValueError, match="writes streams"):
        refused(player, Countdown((4, 7, 8, 8), 24), stream={})


def test_the_forced_answer_is_the_line_of_budget_forcing() -> None:
    seen: list[str] = []

    class Noting(Writer):
        async def propose(self, problem: Any, state: Any, n: int, rng: Any, avoid: Any = ()) -> Any:
            seen.extend(step.text for step in state if step.finish == GIVEN)
            return await super().propose(problem, state, n, rng)

    probed(Noting(False), places=1)
    assert Stream(TextProblem("?")).final in seen


@pytest.mark.thorough
def test_the_shipped_model_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines are written again in the tokens that it would write itself."""
    import guides
    from search.problems.chains import generate

    file = tmp_path / "c.jsonl"
    problems = list(generate(5, 3, operations=3))
    rows = []
    for number, problem in enumerate(problems):
        row = {"id": number, "kind": "chains", "problem": problem.to_json(), "target": "0"}
        rows.append(json.dumps(row))
    file.write_text("\n".join(rows) + "\n")
    command = ["causal", "--input", str(file), "--slots", "8", "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", command)
    causal.main()
    said = (tmp_path / "out" / "c.md").read_text()
    assert "3 of 3 greedy chains" in said and "steps kept" not in said
    guide = guides.load("builtin", slots=8, temperature=0.0)
    probe = Probe(guide, Task("c", {"a": problems[0]}, {"a": "0"}))
    [end] = probe._all([causal.ended(guide, problems[0], (), 0)])
    for place, step in enumerate(end):
        assert causal.put(guide, problems[0], end[:place], step.text).tokens == step.tokens
    assert not np.isnan(len(end))
