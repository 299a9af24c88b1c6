"""The problems that are measured on, their answers, and the files that are trained on."""

from __future__ import annotations

import contextlib
import json
import sys
from itertools import islice
from pathlib import Path

import pytest

from benchmarks.tasks import (
    SIZES,
    TASKS,
    UNSEEN,
    identity,
    main,
    state_right,
    steps_right,
    target_of,
    training,
)
from guides.builtin.chains_data import solution
from guides.data.grading import key_of, read_targets
from search.files.problems_file import read_jobs
from search.problem import TextStep
from search.problems.chains import Chains
from search.problems.countdown import Countdown
from search.problems.words import Words


@pytest.mark.thorough
def test_the_tasks_of_chains_are_of_their_split_and_have_answers() -> None:
    for name, split in (("chains", "test"), ("chains-validation", "validation")):
        problems = TASKS[name]()
        assert len({problem.canonical() for problem in problems}) == len(problems)  # type: ignore[attr-defined]
        for problem in problems[:50]:
            assert isinstance(problem, Chains) and problem.split() == split
            steps = [TextStep(line) for line in solution(problem)]
            assert (
                problem.answer(tuple(steps)) == target_of(problem)
                and steps_right(problem, steps) is True
            )
            assert steps_right(problem, [TextStep("z=y*x"), *steps]) is False
    puzzle = Countdown((4, 7, 8, 8), 24)
    assert target_of(puzzle) is None and steps_right(puzzle, []) is None


@pytest.mark.thorough
def test_files_of_training_and_gate_do_not_meet_each_other_or_a_task() -> None:
    trained = list(islice(training(1), 300))
    held = list(islice(training(1, "validation", 1), 300))
    assert (
        sum(isinstance(p, Chains) for p in trained) == 100
        and sum(isinstance(p, Chains) for p in held) == 150
    )
    assert {type(problem) for problem in trained} == {Countdown, Chains}
    assert {len(p.needed()) for p in trained if isinstance(p, Chains)} == set(SIZES)
    assert (
        not {p.target for p in [*trained, *held] if isinstance(p, Countdown)} & UNSEEN
        and 24 in UNSEEN
    )
    forms = {p.canonical() for p in trained}  # type: ignore[attr-defined]
    assert len(forms) == len(trained) and not forms & {p.canonical() for p in held}  # type: ignore[attr-defined]
    measured = {
        p.canonical() for name in ("game24", "chains", "countdown-hard") for p in TASKS[name]()
    }  # type: ignore[attr-defined]
    assert not measured & (forms | {p.canonical() for p in held})  # type: ignore[attr-defined]


def test_the_checker_knows_dead_ends_and_mistakes() -> None:
    puzzle = Countdown((4, 7, 8, 8), 24)
    lines = ["8/8=1", "7-1=6", "6*4=24"]
    for n in range(4):
        assert state_right(puzzle, [TextStep(line) for line in lines[:n]]) == 1.0
    for dead in (["8-8=0", "0*7=0"], ["8/8=1", "7-1=6", "6+4=10"]):
        assert state_right(puzzle, [TextStep(line) for line in dead]) == 0.0
    assert state_right(puzzle, [TextStep("4-7=(-3)")]) is None
    (problem,) = TASKS["chains-validation"]()[:1]
    right = [TextStep(line) for line in solution(problem)]  # type: ignore[arg-type]
    assert (
        state_right(problem, right) == state_right(problem, []) == 1.0
        and state_right(problem, [TextStep("z=y*x"), *right]) == 0.0
    )


@pytest.mark.slow
def test_a_file_can_be_read_as_jobs_with_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "gate.jsonl"
    arguments = ["gate", "--count", "200", "--seed", "12", "--stories", "1"]
    monkeypatch.setattr(sys, "argv", ["tasks", *arguments])
    with file.open("w") as out, contextlib.redirect_stdout(out):
        main()
    jobs, targets = read_jobs(file), read_targets(file)
    assert len(jobs) == 200 == len(file.read_text().splitlines())
    measured = {identity(problem) for task in TASKS.values() for problem in task()}
    assert {identity(p) for p in islice(training(12, "validation", 1, 1), 200)} & measured, (
        "some would be, if they were not left out"
    )
    assert not {identity(job.problem) for job in jobs} & measured
    told = [job.problem for job in jobs if isinstance(job.problem, (Chains, Words))]
    assert {key_of(p): target_of(p) for p in told} == targets and all(
        p.split() == "validation" for p in told
    )
    assert {type(p) for p in told} == {Chains, Words}
    assert all(
        "target" not in json.loads(line)
        for line in file.read_text().splitlines()
        if '"countdown"' in line
    )


@pytest.mark.thorough
def test_a_file_may_have_one_kind_and_one_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "test.jsonl"
    arguments = ["test", "--only", "chains", "--size", "5", "--count", "20"]
    monkeypatch.setattr(sys, "argv", ["tasks", *arguments])
    with file.open("w") as out, contextlib.redirect_stdout(out):
        main()
    problems = [job.problem for job in read_jobs(file)]
    assert len(problems) == 20 == len(read_targets(file))
    for problem in problems:
        assert isinstance(problem, Chains) and problem.split() == "test"
        # five that are needed and two that are not; the others give a value
        assert sum("=" in definition for definition in problem.definitions) == 7
