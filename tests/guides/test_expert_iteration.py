"""Expert iteration: its folder under SIGKILL, its gate, what it refuses.

Most tests play with a guide whose skill, the chance of a right answer, is written in its
checkpoint, and with a training that plants a better or a worse one, so that what must happen is
known.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
from iteration_cases import (
    CHAINS,
    checkpoint,
    content,
    fake_load,
    fake_prepare,
    ledger,
    skill_of,
    sums,
    without_heavy_parts,
)

from guides.data.grading import key_of
from guides.iteration import expert_iteration as loop
from guides.iteration import rounds
from guides.iteration.expert_iteration import Plan, expert_iteration
from search.files.problems_file import Results
from search.scheduling.budget import Budget
from search.solver import seed_of
from search.trace import Trace


@pytest.fixture
def fake(monkeypatch):
    return without_heavy_parts(monkeypatch)


# -- rounds


@pytest.mark.thorough
def test_better_guides_are_accepted_and_searched_with(fake, tmp_path):
    jobs, targets = sums(20)
    held, held_targets = sums(40, start=100)
    base = checkpoint(tmp_path / "base", 0.2)
    plan = Plan(options=CHAINS)
    best = expert_iteration(
        base, jobs, targets | held_targets, tmp_path / "out", rounds=2, gate=held, plan=plan
    )
    assert best == tmp_path / "out" / "best" and skill_of(best) == pytest.approx(0.8)
    rows = ledger(tmp_path / "out")
    assert [row["round"] for row in rows] == ["0", "1", "2"] and [
        row["accepted"] for row in rows
    ] == ["1", "1", "1"]
    assert float(rows[1]["gate_before"]) == float(rows[0]["gate_after"]), (
        "the base was measured once"
    )
    assert (
        float(rows[2]["gate_before"]) == float(rows[1]["gate_after"]) < float(rows[2]["gate_after"])
    )
    assert float(rows[1]["solved"]) < float(rows[2]["solved"]), (
        "round 2 searched with the guide that round 1 made"
    )
    searched = {key_of(trace): trace.seed for trace in Trace.load(tmp_path / "out/round-01/traces")}
    assert (
        searched == {key_of(job.problem): seed_of(key_of(job.problem), 1) for job in jobs}
        and len(set(searched.values())) == 20
    )
    for row in rows:
        number = int(row["round"])
        lines = [
            json.loads(line)
            for line in (tmp_path / "out" / f"round-{number:02d}" / "gate.jsonl")
            .read_text()
            .splitlines()
        ]
        assert {line["id"] for line in lines} == {job.id for job in held}
        assert int(row["gate_tokens"]) == sum(line["usage"]["generated"] for line in lines) > 0
        if number:
            used = [
                trace.usage.generated
                for trace in Trace.load(tmp_path / "out" / f"round-{number:02d}" / "traces")
            ]
            assert (
                int(row["search_tokens"]) == sum(used) and int(row["problems"]) == len(used) == 20
            )
    assert [float(row["total_flops"]) for row in rows] == [0, 1e6, 2e6], (
        "the scripted model costs nothing, a training a million"
    )


@pytest.mark.thorough
def test_a_worse_guide_is_rejected_and_the_accepted_one_searches_again(fake, tmp_path):
    fake(-0.4)
    jobs, targets = sums(20)
    held, held_targets = sums(40, start=100)
    base = checkpoint(tmp_path / "base", 0.6)
    out = tmp_path / "out"
    best = expert_iteration(
        base, jobs, targets | held_targets, out, rounds=2, gate=held, plan=Plan(options=CHAINS)
    )
    assert skill_of(best) == 0.6
    for number in (1, 2):
        verdict = json.loads((out / f"round-{number:02d}" / "gate.json").read_text())
        assert (
            verdict["accepted"] is False
            and verdict["after"] < verdict["before"]
            and verdict["low"] <= verdict["high"]
        )
        assert skill_of(out / f"round-{number:02d}" / "checkpoint") == pytest.approx(0.2), (
            "both were trained from the base"
        )
    chains = [
        [step.text for trace in Trace.load(out / f"round-0{n}/traces") for step in trace.steps]
        for n in (1, 2)
    ]
    assert chains[0] != chains[1], "a round has its own seed"


def test_equal_is_not_better(fake, tmp_path):
    fake(0.0)
    jobs, targets = sums(20)
    expert_iteration(
        checkpoint(tmp_path / "base", 1.0),
        jobs,
        targets,
        tmp_path / "out",
        rounds=1,
        plan=Plan(options=CHAINS),
    )
    verdict = json.loads((tmp_path / "out/round-01/gate.json").read_text())
    assert (
        verdict["before"] == verdict["after"] == 1
        and verdict["accepted"] is False
        and verdict["low"] == verdict["high"] == 0
    )


@pytest.mark.thorough
def test_a_restart_trains_the_base_and_a_window_reads_the_last_rounds(fake, tmp_path):
    jobs, targets = sums(20)
    held, held_targets = sums(40, start=100)
    base = checkpoint(tmp_path / "base", 0.3)
    seeds = tmp_path / "seed.npz"
    seeds.write_text("seed")
    plan = Plan(
        options=CHAINS,
        restart=True,
        window=2,
        seed_examples=[seeds],
        per_round=8,
        training={"steps": 7, "lr": 1e-4},
    )
    out = tmp_path / "out"
    expert_iteration(base, jobs, targets | held_targets, out, rounds=3, gate=held, plan=plan)
    for number, learnt_from in ((1, [1]), (2, [1, 2]), (3, [2, 3])):
        config = json.loads((out / f"round-0{number}" / "training.json").read_text())
        read = [Path(path).parent.name for path in config["examples"]]
        assert read == [f"round-0{number}", tmp_path.name]
        learnt = json.loads((out / f"round-0{number}" / "examples.npz").read_text())[-1]
        seeds_of_traces = [seed for _, seed, _, _ in learnt]
        expected = set()
        for earlier in learnt_from:
            for trace in Trace.load(out / f"round-0{earlier}/traces"):
                expected.add(trace.seed)
        assert sorted(seeds_of_traces) == sorted(expected)
        assert Path(config["model"]).parent.name == "round-00" and config["options"] == {
            "seed": number,
            "steps": 7,
            "lr": 1e-4,
        }
    searched = [
        [trace.arguments["statement"] for trace in Trace.load(out / f"round-0{number}/traces")]
        for number in (1, 2, 3)
    ]
    statements = [job.problem.statement for job in jobs]
    assert searched == [statements[:8], statements[8:16], statements[16:] + statements[:4]]


def test_the_checker_of_the_plan_labels_the_traces(fake, tmp_path, monkeypatch):
    named = []
    monkeypatch.setattr(
        loop,
        "prepare",
        lambda *args, **options: named.append(options["checker"]) or fake_prepare(*args, **options),
    )
    jobs, targets = sums(8)
    expert_iteration(
        checkpoint(tmp_path / "base", 0.3),
        jobs,
        targets,
        tmp_path / "out",
        rounds=1,
        plan=Plan(options=CHAINS, checker="math:sin"),
    )
    assert named == ["math:sin"]


def test_how_the_model_is_asked_is_written_into_the_guides(fake, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        rounds, "load", lambda path, **options: asked.append(options) or fake_load(path)
    )
    jobs, targets = sums(12)
    base = checkpoint(tmp_path / "base", 0.5)
    plan = Plan(
        options=CHAINS, language={"delimiter": "\n", "temperature": 0.7}, engine={"device": "cpu"}
    )
    expert_iteration(base, jobs, targets, tmp_path / "out", rounds=1, plan=plan)
    assert asked and all(options == {"device": "cpu", "temperature": 0.7} for options in asked)
    said = json.loads((tmp_path / "out/round-00/checkpoint/guide.json").read_text())
    assert said == {"format": 1, "budget": {"simulations": 4}, "delimiter": "\n"}
    assert "delimiter" not in json.loads((base / "guide.json").read_text()), (
        "the user's own folder is left alone"
    )


def in_a_child(out: Path, base: Path, log: Path, lives: int) -> int:
    """The loop in a forked process that notes each finished search and is killed as it has
    changed `lives` files; its exit status.
    """
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    try:
        left, write = [lives], Results.write

        def mortal(function):
            def called(*args, **options):
                result = function(*args, **options)
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return called

        def noted(self, name, solution):
            with open(log, "a") as file:
                file.write(f"{self.path.relative_to(out)} {name}\n")
            write(self, name, solution)

        os.replace, os.unlink, shutil.copy, Results.write = map(
            mortal, (os.replace, os.unlink, shutil.copy, noted)
        )
        jobs, targets = sums(30)
        expert_iteration(base, jobs, targets, out, rounds=2, plan=Plan(options=CHAINS))
        os._exit(0)
    except BaseException as error:
        (log.parent / "error").write_text(repr(error))
        os._exit(1)


# -- kills, full disks, Ctrl-C


@pytest.mark.thorough
def test_kills_lose_and_repeat_nothing(fake, tmp_path):
    base = checkpoint(tmp_path / "base", 0.4)
    whole, out, log = tmp_path / "whole", tmp_path / "out", tmp_path / "log"
    assert in_a_child(whole, base, tmp_path / "whole-log", lives=10**9) == 0, (
        tmp_path / "error"
    ).read_text()
    rng, kills = random.Random(0), 0
    while (status := in_a_child(out, base, log, lives=rng.randint(1, 30))) == signal.SIGKILL:
        kills += 1
    assert status == 0, (tmp_path / "error").read_text()
    assert kills > 5
    done = log.read_text().splitlines()
    assert len(done) == len(set(done)), "a finished search was done again"
    assert content(out) == content(whole) and len(content(whole)) == 1 + 3 + 3 + 2 * 2
    for number in (1, 2):
        lines = [
            json.loads(line)
            for line in (out / f"round-0{number}/traces/results.jsonl").read_text().splitlines()
        ]
        ids = sorted(line["id"] for line in lines)
        assert len(ids) == len(set(ids)) == 27 == len(Trace.load(out / f"round-0{number}/traces"))
        assert sorted(path.name for path in (out / f"round-0{number}/traces").iterdir()) == [
            "results.jsonl",
            "traces.parquet",
        ]
    assert (out / "rounds.csv").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("place", ["trace", "result", "examples", "gate"])
def test_a_full_disk_stops_the_round_and_room_lets_it_go_on(fake, tmp_path, monkeypatch, place):
    jobs, targets = sums(20)
    base, out = checkpoint(tmp_path / "base", 0.4), tmp_path / "out"
    expert_iteration(base, jobs, targets, tmp_path / "whole", rounds=1, plan=Plan(options=CHAINS))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    calls = []

    def after(count, function):
        def limited(*args, **kwargs):
            calls.append(args)
            if len(calls) > count:
                raise full
            return function(*args, **kwargs)

        return limited

    with monkeypatch.context() as patch:
        if place == "trace":
            patch.setattr(Trace, "save", staticmethod(after(7, Trace.save)))
        elif place == "result":
            patch.setattr(Results, "write", after(7, Results.write))
        elif place == "examples":
            patch.setattr(loop, "prepare", after(0, fake_prepare))
        else:
            patch.setattr(rounds, "interval", after(0, rounds.interval))
        with pytest.raises(OSError, match="No space"):
            expert_iteration(base, jobs, targets, out, rounds=1, plan=Plan(options=CHAINS))
    if place == "trace":
        lines = (out / "round-01/traces.part/results.jsonl").read_text().splitlines()
        assert len(lines) == 7 == len(Trace.load(out / "round-01/traces.part")), (
            "no result without its trace"
        )
    expert_iteration(base, jobs, targets, out, rounds=1, plan=Plan(options=CHAINS))
    assert content(out) == content(tmp_path / "whole")


@pytest.mark.thorough
def test_ctrl_c_keeps_what_is_finished(fake, tmp_path, monkeypatch):
    jobs, targets = sums(20)
    base, out = checkpoint(tmp_path / "base", 0.4), tmp_path / "out"
    write, count = Results.write, []

    def interrupted(self, name, solution):
        write(self, name, solution)
        count.append(name)
        if len(count) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Results, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            expert_iteration(
                base,
                jobs,
                targets,
                out,
                rounds=1,
                plan=Plan(options={"chains": 40, "wave": 4}, budget=Budget(tokens=4000)),
            )
    kept = [line for path in out.rglob("*.jsonl") for line in path.read_text().splitlines()]
    assert 5 <= len(kept) < 22 and not (out / "round-01/traces").exists()
    expert_iteration(
        base,
        jobs,
        targets,
        out,
        rounds=1,
        plan=Plan(options={"chains": 40, "wave": 4}, budget=Budget(tokens=4000)),
    )
    assert (out / "round-01/gate.json").exists()
