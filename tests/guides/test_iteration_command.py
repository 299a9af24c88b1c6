"""The gate of expert iteration, what is refused, the command, and the whole loop."""

from __future__ import annotations

import errno
import gc
import json
import os
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from iteration_cases import (
    CHAINS,
    RIGHT,
    checkpoint,
    fake_prepare,
    ledger,
    skill_of,
    sums,
    vowel_folder,
    without_heavy_parts,
)
from safetensors.numpy import load_file

import guides
from guides import engines
from guides.data.grading import key_of
from guides.iteration import expert_iteration as loop
from guides.iteration.expert_iteration import Plan, expert_iteration
from guides.iteration.gate import check_gate, hold_out, interval, outcomes
from search.cli.main import main
from search.files.problems_file import Job
from search.problem import TextProblem
from search.problems import chains, words
from search.problems.countdown import Countdown


@pytest.fixture
def fake(monkeypatch):
    return without_heavy_parts(monkeypatch)


# -- the gate


def test_the_interval_is_that_of_the_bootstrap():
    rng = np.random.default_rng(0)
    before, after = (rng.random(60) < 0.4).astype(float), (rng.random(60) < 0.7).astype(float)
    low, high = interval(before, after)
    gain = after - before
    means = sorted(np.mean(rng.choice(gain, 60)) for _ in range(4000))
    assert low == pytest.approx(means[100], abs=0.02) and high == pytest.approx(
        means[3900], abs=0.02
    )
    assert low == pytest.approx(gain.mean() - 1.96 * gain.std() / 60**0.5, abs=0.03), (
        "the normal approximation"
    )
    assert interval(after, after) == (0.0, 0.0)
    paired, apart = (
        interval(before, np.maximum(before, after)),
        interval(np.sort(before), np.sort(np.maximum(before, after))[::-1]),
    )
    assert paired[1] - paired[0] < apart[1] - apart[0], "which problem is which matters"


def test_a_tenth_is_held_out_by_problem_whatever_the_order():
    jobs, targets = sums(40)
    again = [Job("again", jobs[3].problem), Job("why", TextProblem("Why?"))]
    training, gate = hold_out(jobs + again, targets)
    assert len({key_of(job.problem) for job in gate}) == 4 and len(training) + len(gate) == 42
    assert not {key_of(job.problem) for job in training} & {key_of(job.problem) for job in gate}, (
        "both ids of one problem stay together"
    )
    assert "why" in {job.id for job in training}, "what nobody can grade is no use at the gate"
    turned, held = hold_out((jobs + again)[::-1], targets)
    assert {job.id for job in held} == {job.id for job in gate}
    assert len(hold_out(jobs[:2], targets)[1]) == 1
    with pytest.raises(ValueError, match="at least two"):
        hold_out(jobs[:1], targets)


def test_a_problem_written_in_another_way_is_the_same_at_the_gate():
    hands = [(1, 2, 3, 4), (3, 5, 7, 9), (2, 6, 8, 9)]
    jobs = [
        Job("".join(map(str, hand)), Countdown(hand, 24))
        for numbers in hands
        for hand in (numbers, numbers[::-1])
    ]
    training, gate = hold_out(jobs, {})
    assert len(gate) == 2 and gate[0].problem.numbers == gate[1].problem.numbers[::-1]
    check_gate(training, gate, {})
    with pytest.raises(ValueError, match="1 of 1 gate problems are training problems too"):
        check_gate(jobs[:1], jobs[1:2], {})
    check_gate(jobs[:1], [Job("another", Countdown((1, 2, 3, 4), 36))], {})


def test_outcomes_are_verdicts_and_targets():
    jobs, targets = sums(5)
    rows = {
        "sum-1": {"verified": None, "answer": " 3.0"},
        "sum-2": {"verified": None, "answer": "6"},
        "sum-3": {"verified": None, "answer": None},
        "sum-4": {"verified": True, "answer": "x"},
        "sum-5": {"verified": False, "answer": "11"},
    }
    assert outcomes(jobs, rows, targets).tolist() == [1, 0, 0, 1, 0], (
        "a problem that verifies itself needs no target"
    )
    with pytest.raises(ValueError, match="'sum-1' cannot be graded: give it a target"):
        outcomes(jobs, rows, {})


# -- what is refused


@pytest.mark.parametrize("kind", [chains, words])
def test_kinds_that_never_verify_themselves_want_targets(kind, tmp_path):
    """At the door, and not where the first gate is to be judged."""
    jobs = [Job(str(i), problem) for i, problem in enumerate(kind.generate(1, 6, 2))]
    with pytest.raises(ValueError, match="3 of 3 gate problems cannot be graded"):
        check_gate(jobs[:3], jobs[3:], {})
    with pytest.raises(ValueError, match="none of the 6 problems can be graded"):
        expert_iteration(tmp_path / "base", jobs, {}, tmp_path / "out", rounds=1)
    check_gate(jobs[:3], jobs[3:], {key_of(job.problem): "1" for job in jobs})


def test_a_gate_that_overlaps_is_refused_with_the_count(tmp_path):
    jobs, targets = sums(10)
    with pytest.raises(ValueError, match="3 of 8 gate problems are training problems too"):
        expert_iteration(
            tmp_path / "base",
            jobs,
            targets,
            tmp_path / "out",
            rounds=1,
            gate=[*jobs[:3], *sums(5, start=50)[0]],
        )
    with pytest.raises(ValueError, match="5 of 5 gate problems cannot be graded"):
        check_gate(jobs, sums(5, start=50)[0], targets)
    with pytest.raises(ValueError, match="none of the 10 problems can be graded"):
        expert_iteration(tmp_path / "base", jobs, {}, tmp_path / "out", rounds=1)
    assert not (tmp_path / "out").exists()


def test_a_round_that_solves_nothing_says_what_to_do(fake, tmp_path):
    jobs, targets = sums(10)
    base = checkpoint(tmp_path / "base", 0.0)
    with pytest.raises(
        ValueError, match=r"round 1, after 9 searches: none of 9 .*begin anew with another --out"
    ):
        expert_iteration(base, jobs, targets, tmp_path / "out", rounds=1, plan=Plan(options=CHAINS))


@pytest.mark.thorough
def test_another_run_in_the_folder_is_refused_and_more_rounds_are_not(fake, tmp_path):
    jobs, targets = sums(12)
    base, out = checkpoint(tmp_path / "base", 0.5), tmp_path / "out"
    expert_iteration(base, jobs, targets, out, rounds=1, plan=Plan(options=CHAINS))
    for plan, name in (
        (Plan(options=CHAINS, seed=1), "seed"),
        (Plan(options={"chains": 5}), "options"),
    ):
        with pytest.raises(
            ValueError, match=f"other {name}: give the arguments of that run, or choose another"
        ):
            expert_iteration(base, jobs, targets, out, rounds=1, plan=plan)
    with pytest.raises(ValueError, match="other jobs"):
        expert_iteration(
            base,
            jobs,
            targets | {key_of(job.problem): "0" for job in jobs[:5]},
            out,
            rounds=1,
            plan=Plan(options=CHAINS),
        )
    other = checkpoint(tmp_path / "other", 0.7)
    with pytest.raises(ValueError, match="other base"):
        expert_iteration(other, jobs, targets, out, rounds=1, plan=Plan(options=CHAINS))
    before = {path: path.stat().st_mtime_ns for path in out.glob("round-0[01]/**/*")}
    expert_iteration(base, jobs, targets, out, rounds=2, plan=Plan(options=CHAINS))
    assert before == {path: path.stat().st_mtime_ns for path in before} and len(ledger(out)) == 3
    expert_iteration(base, jobs, targets, out, rounds=1, plan=Plan(options=CHAINS))
    assert len(ledger(out)) == 3, "a shorter run does not take back what a longer one found"


def test_two_runs_at_once_are_refused(fake, tmp_path, monkeypatch):
    jobs, targets = sums(12)
    base, out = checkpoint(tmp_path / "base", 0.5), tmp_path / "out"
    refused = []

    def intrude(*args, **kwargs):
        with pytest.raises(ValueError, match="another run is at work"):
            expert_iteration(base, jobs, targets, out, rounds=1, plan=Plan(options=CHAINS))
        refused.append(1)
        return fake_prepare(*args, **kwargs)

    monkeypatch.setattr(loop, "prepare", intrude)
    expert_iteration(base, jobs, targets, out, rounds=1, plan=Plan(options=CHAINS))
    assert refused


@pytest.mark.parametrize(
    "wrong",
    [
        {"per_round": 0},
        {"window": -1},
        {"method": "magic"},
        {"options": {"chain": 4}},
        {"training": {"epochs": -1}},
        {"keep": 0},
        {"language": {"step_tokens": 0}},
        {"checker": "nothing:here"},
        {"reward": "nothing:here"},
        {"reward": "praise"},
        {"reward": "verifier"},
        {"verifier": "a/folder"},
        {"thresholds": (0.5, 0.5)},
        {"thresholds": (0.5, 1.5)},
        {"thresholds": (0.5, 1.0), "policy": "visits"},
        {"hint": "the answer is {target}"},
    ],
)
def test_impossible_plans_are_refused(wrong):
    with pytest.raises(ValueError, match=r"correct|use one|knows|give|write|leave it out"):
        Plan(**wrong)


# -- the command


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, ""),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            1,
            "give the same command again when there is room",
        ),
        (ValueError("the loss is nan: give a smaller learning rate"), 2, "the loss is nan"),
    ],
)
def test_what_ends_a_training_ends_the_command_and_the_next_goes_on(
    fake, tmp_path, monkeypatch, capsys, error, code, sentence
):
    def fail(config):
        raise error

    checkpoint(tmp_path / "base", 0.5)
    for name, start in (("p.jsonl", 1), ("g.jsonl", 50)):
        jobs, targets = sums(20, start)
        lines = [
            {"id": job.id, "problem": job.problem.statement, "target": targets[key_of(job.problem)]}
            for job in jobs
        ]
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    places = {
        flag: str(tmp_path / name)
        for flag, name in {
            "--guide": "base",
            "--input": "p.jsonl",
            "--gate": "g.jsonl",
            "--out": "o",
        }.items()
    }
    command = [
        "train",
        "iterate",
        *(word for pair in places.items() for word in pair),
        "--rounds",
        "1",
        "--option",
        "chains=4",
    ]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "run_training", fail)
        assert main(command) == code
    told = capsys.readouterr().err
    assert sentence in told and "Traceback" not in told
    traces = (tmp_path / "o/round-01/traces/traces.parquet").stat().st_mtime_ns
    assert main(command) == 0 and skill_of(tmp_path / "o/best") == 0.8
    assert traces == (tmp_path / "o/round-01/traces/traces.parquet").stat().st_mtime_ns
    command[command.index("--gate") + 1] = places["--input"]
    assert (
        main(command) == 2
        and "20 of 20 gate problems are training problems too" in capsys.readouterr().err
    )


ITERATE = [
    "--rounds",
    "2",
    "--answer",
    "([aeiou])",
    "--prompt",
    "{problem} ",
    "--step-tokens",
    "4",
    "--max-steps",
    "2",
]
ITERATE += ["--option", "chains=8", "--budget", "tokens=100", "--lr", "0.003", "--epochs", "8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return vowel_folder(tmp_path_factory.mktemp("iterate"))


def arguments(folder: Path, out: str) -> list[str]:
    files = ["--guide", "base", "--input", "p.jsonl", "--gate", "g.jsonl", "--out", out]
    return [
        "train",
        "iterate",
        *(str(folder / word) if word[0] != "-" else word for word in files),
        *ITERATE,
    ]


@pytest.fixture(scope="module")
def undisturbed(folder):
    assert main(arguments(folder, "whole")) == 0
    return folder / "whole"


# -- the whole loop, by the command, on a model that is not ours


@pytest.mark.slow
def test_the_command_makes_a_better_guide(folder, undisturbed, capsys):
    rows = ledger(undisturbed)
    assert rows[1]["accepted"] == "1" and float(rows[1]["gate_low"]) > 0
    assert float(rows[-1]["gate_after"]) == 1.0 > 0.7 > float(rows[0]["gate_after"]), (
        "it has learnt which vowel is right"
    )
    for name in (
        "search_flops",
        "gate_flops",
        "training_flops",
        "search_tokens",
        "training_tokens",
        "steps",
    ):
        assert float(rows[1][name]) > 0
    again = {
        path: path.stat().st_mtime_ns
        for path in undisturbed.rglob("*")
        if path.is_file() and path.name != "rounds.csv"
    }
    assert main(arguments(folder, "whole")) == 0
    assert again == {path: path.stat().st_mtime_ns for path in again}, (
        "a finished run is left alone"
    )
    capsys.readouterr()
    assert (
        main(
            [
                "solve",
                "A letter of zebra?",
                "--guide",
                str(undisturbed / "best"),
                "--method",
                "sample",
                "--option",
                "chains=4",
                "--json",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["answer"] == RIGHT, (
        "prompt and answer pattern travel with the guide"
    )


@pytest.mark.slow
def test_a_killed_command_goes_on(folder, undisturbed):
    """Killed in its search and in its training; what was finished is not done again, and the
    weights are those of the whole run.
    """
    out = folder / "killed"
    command = [sys.executable, "-m", "search.cli.main", *arguments(folder, "killed")]
    command[command.index("--rounds") + 1] = "1"
    lines, training = out / "round-01/traces.part/results.jsonl", out / "round-01/training.json"

    def searched() -> bool:
        return lines.exists() and lines.read_bytes().count(b"\n") >= 2

    for reached in (searched, training.exists):
        child, deadline = subprocess.Popen(command), time.monotonic() + 60
        while child.poll() is None and not reached() and time.monotonic() < deadline:
            time.sleep(0.002)
        assert reached() and child.poll() is None, "it was killed too late to tell anything"
        child.kill()
        child.wait()
    traces = (out / "round-01/traces/traces.parquet").stat().st_mtime_ns
    assert subprocess.run(command, timeout=120, check=False).returncode == 0
    assert traces == (out / "round-01/traces/traces.parquet").stat().st_mtime_ns
    for name in ("model.safetensors", "value_head.safetensors"):
        ours, truth = (load_file(run / "round-01/checkpoint" / name) for run in (out, undisturbed))
        assert all(np.allclose(ours[key], truth[key], atol=1e-5) for key in truth)


@pytest.mark.thorough
def test_an_unloaded_engine_is_freed(folder):
    guide = guides.load(folder / "base")
    engine = weakref.ref(next(iter(guide.backends.values())))
    assert guides.load(folder / "base").backends == guide.backends, "engines are shared"
    engines.unload(folder / "base")
    assert engine() is not None, "who has the guide keeps its engine"
    del guide
    gc.collect()
    assert engine() is None
