"""Illegal steps of samples: they stand in traces beside the tree, and reinforcement learning blames
them for the chains that they ended, not the legal steps before them alone.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import search
import search.trace as module
from guides.data.advantages import METHODS, Credit, advantage_segments, advantages
from guides.data.grading import Graded, Replay, attempts
from guides.data.groups import groups_of, with_refused
from guides.data.labels import Labels
from search.parts import given
from search.problem import IllegalStep, TextStep
from search.problems.countdown import Countdown
from search.problems.stream import Stream
from search.trace import Refused, Trace

GAME = Countdown((4, 7, 8, 8), 24)
RIGHT = ["8-7=1", "4-1=3", "8*3=24"]


class Told(search.Policy):
    """Writes given chains one after the other, a token a line."""

    def __init__(self, *chains: list[str]):
        self._chains = chains
        self._lines = [line for chain in chains for line in chain]
        self._begun = -1
        self._at = 0

    async def complete(self, problem: Any, state: Any, rng: Any) -> list[TextStep]:
        if not state:
            self._begun += 1
            self._at = 0
        steps = []
        for line in self._chains[self._begun][self._at :]:
            if (asked := given(self, problem, state)) is not None:
                steps.append(asked)
                state = problem.apply(state, asked)
            self._at += 1
            steps.append(TextStep(line, (self._lines.index(line),), log_probs=(-1.0,)))
            try:
                state = problem.apply(state, steps[-1])
            except IllegalStep:
                break
        return steps

    async def propose(self, problem: Any, state: Any, n: int, rng: Any, avoid: Any = ()) -> Any:
        return []


def sampled(problem: Any, *chains: list[str]) -> Trace:
    found = search.solve(
        problem, search.Guide(Told(*chains)), "sample", chains=len(chains), wave=1, solutions=None
    )
    assert found.trace is not None
    return found.trace


def graded(trace: Trace, attempted: bool = False) -> Graded:
    replay = Replay(trace)
    outcomes = replay.grade(None)
    own = attempts(replay, None) if attempted else None
    labels = Labels(*np.zeros((2, len(outcomes))))
    return with_refused(Graded(replay, outcomes, outcomes, labels, (99,), attempts=own))


def credited(one: Graded, credit: Credit) -> dict[str, float]:
    """The summed advantage of each step, by its text."""
    [found] = advantages([one], groups_of([one], credit), credit)
    sums = found.positive + found.negative
    return {step.text: float(own) for step, own in zip(one.trace.steps, sums, strict=True)}


def test_illegal_steps_are_kept_and_written(tmp_path: Path) -> None:
    trace = sampled(GAME, RIGHT, ["8-7=1", "9-9=0"], ["8-7=1", "9-9=0"], ["1+1=2"])
    told = [(one.node, one.times, one.step.text) for one in trace.refused]
    assert told == [(0, 1, "1+1=2"), (1, 2, "9-9=0")]
    assert trace.refused[0].step.log_probs == (-1.0,)
    [again] = Trace.load(Trace.save([trace], tmp_path / "trace.parquet"))
    assert again == trace and again.refused == trace.refused


@pytest.mark.parametrize("node, times", [(17, 1), (-1, 1), (0, 0)])
def test_a_refused_step_that_is_nowhere_is_no_trace(node: int, times: int) -> None:
    trace = sampled(GAME, RIGHT)
    object.__setattr__(trace, "refused", (Refused(node, times, TextStep("1+1=2", (1,))),))
    with pytest.raises(ValueError, match="a refused step is nowhere"):
        trace.check()


@pytest.mark.parametrize(
    "said",
    [
        "3",
        "[[0, 1]]",
        '[["0", 1, {}]]',
        '[[0.5, 1, {"text": "", "tokens": [], "log_probs": [], "finish": "end", "thought": true}]]',
        '[[0, 1, {"text": 5, "tokens": [], "log_probs": [], "finish": "stop", "thought": false}]]',
        '[[0, 1, {"text": "x", "tokens": ["1"], "log_probs": [], "finish": "", "thought": false}]]',
    ],
)
def test_what_others_wrote_for_refused_steps_is_skipped(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning that names the file, as any damaged shard."""
    rows = module._row

    def lying(trace: Trace) -> dict[str, Any]:
        return {**rows(trace), "refused": said}

    monkeypatch.setattr(module, "_row", lying)
    path = Trace.save([sampled(GAME, RIGHT)], tmp_path / "trace.parquet")
    assert Trace.load(path) == [] and "trace.parquet" in caplog.text


@pytest.mark.parametrize("divisor", ["none", "group"])
def test_the_illegal_step_is_blamed(divisor: str) -> None:
    """Of four samples one is right, so that its own steps gain 3/4 and each other loses 1/4; the
    step that they share loses what is left, once: here nothing is divided.
    """
    one = graded(sampled(GAME, RIGHT, ["8-7=1", "9-9=0"], ["8-7=1", "9-9=0"], ["1+1=2"]))
    credit = Credit("group", divisor=divisor, once=False)
    own = credited(one, credit)
    unit = 1.0 if divisor == "none" else 1 / (math.sqrt(0.25) + 1e-4)
    expected = {
        "8-7=1": (0.75 - 0.25 - 0.25) * unit,
        "4-1=3": 0.75 * unit,
        "8*3=24": 0.75 * unit,
        "1+1=2": -0.25 * unit,
        "9-9=0": -0.5 * unit,
    }
    assert own == pytest.approx(expected, rel=1e-3)
    [group] = groups_of([one], credit)
    assert group.unfinished == 0.0 and group.times.sum() == 4.0


def test_it_is_a_segment_with_its_own_tokens() -> None:
    one = graded(sampled(GAME, RIGHT, ["8-7=1", "9-9=0"]))
    credit = Credit("group", divisor="none", once=False)
    [found] = advantages([one], groups_of([one], credit), credit)
    segments = advantage_segments(one, found, one.prompt)
    [blamed] = [own for own in segments if own.negative < 0 and own.positive == 0]
    assert blamed.tokens == (4,) and blamed.log_probs == (-1.0,)
    assert segments[blamed.parent].tokens == (0,) and blamed.samples == 1.0


def test_what_a_stream_withdrew_belongs_to_its_first_attempt() -> None:
    """A chain that went on behind an illegal step is one chain: the step is blamed for the first
    attempt, whatever the second is worth.
    """
    lost = ["8-7=1", "9-9=0", *RIGHT]
    wrong = ["8+8=16", "16+4=20", "20-7=13", *RIGHT]
    right = [*RIGHT, *RIGHT]
    stream = Stream(GAME, attempts=2, insist=True, moves={"check": None})  # type: ignore[arg-type]
    one = graded(sampled(stream, lost, wrong, right), attempted=True)
    credit = Credit("attempts", divisor="none", once=False, first=1.0, bonus=0.0)
    [group] = groups_of([one], credit)
    assert group.times.tolist() == [1.0] * 3 and group.rewards.tolist() == [1.0] * 3
    assert sorted(chain.first for chain in group.chains) == [0.0, 0.0, 1.0]
    own = credited(one, credit)
    assert own["9-9=0"] == pytest.approx(-1 / 3)
    assert own["20-7=13"] == pytest.approx(-1 / 3)


def test_a_step_without_tokens_is_no_edge() -> None:
    """Nothing could be learnt of it: what a server or a function wrote."""
    trace = sampled(GAME, RIGHT, ["8-7=1", "9-9=0"])
    bare = tuple(one._replace(step=TextStep(one.step.text)) for one in trace.refused)
    replay = Replay(replace(trace, refused=bare))
    outcomes = replay.grade(None)
    one = Graded(replay, outcomes, outcomes, Labels(*np.zeros((2, len(outcomes)))))
    assert bare and with_refused(one) is one


def test_without_illegal_steps_nothing_changes() -> None:
    trace = sampled(GAME, RIGHT, ["8+8=16", "16+4=20", "20-7=13"])
    replay = Replay(trace)
    outcomes = replay.grade(None)
    one = Graded(replay, outcomes, outcomes, Labels(*np.zeros((2, len(outcomes)))))
    assert with_refused(one) is one


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_blames_it(method: str) -> None:
    """Of samples with values of 1/2 everywhere, two of which are right."""
    trace = sampled(GAME, RIGHT, RIGHT, ["8-7=1", "4-1=3", "9-9=0"], ["8-7=1", "9-9=0"])
    object.__setattr__(trace, "edge_value", np.full(len(trace.steps), 0.5, np.float32))
    own = credited(graded(trace), Credit(method))
    assert own["9-9=0"] < 0 < own["8*3=24"]
