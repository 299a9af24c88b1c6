"""The algorithms of guess and check by their names: what each sets, what of a round's traces each
imitates, and runs of them on a tiny model.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from iteration_cases import (
    CHAINS,
    checkpoint,
    content,
    fake_prepare,
    ledger,
    sums,
    without_heavy_parts,
)

from guides.data.grading import key_of
from guides.iteration import expert_iteration as loop
from guides.iteration.algorithms import ALGORITHMS, HINT, plan_of
from guides.iteration.expert_iteration import Plan, expert_iteration
from guides.iteration.gate import check_gate
from guides.iteration.rationalise import hinted
from search.cli.train_options import Algorithm
from search.files.problems_file import Job
from search.problem import TextProblem
from search.problems.countdown import Countdown
from search.trace import Trace


@pytest.fixture
def fake(monkeypatch):
    return without_heavy_parts(monkeypatch)


# -- names


def test_the_command_knows_the_names():
    assert [name.value for name in Algorithm] == list(ALGORITHMS)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_is_a_set_of_fields(name, caplog):
    caplog.set_level(logging.INFO)
    plan = plan_of(name, seed=3)
    assert plan.algorithm == name and plan.seed == 3
    for part, value in ALGORITHMS[name].fields.items():
        assert getattr(plan, part) == value
        assert f"{part}={value!r}" in caplog.text
    by_hand = Plan(**ALGORITHMS[name].fields, seed=3)
    assert {**vars(by_hand), "algorithm": name} == vars(plan)


def test_what_is_given_goes_before():
    plan = plan_of("rest_em", options={"chains": 4}, keep=2, restart=False)
    assert plan.options == {"chains": 4, "solutions": 10}
    assert plan.keep == 2 and not plan.restart
    assert plan_of("rest_em", method="mcts").options == {}, "they are options of another method"
    assert plan_of("star", method="sample", options={"chains": 8}).options == {"chains": 8}
    assert plan_of(keep=3) == Plan(keep=3)
    with pytest.raises(ValueError, match="did you mean 'rest_em'. use one of star, rest,"):
        plan_of("rest-em")
    with pytest.raises(ValueError, match="no algorithm 'magic': use one of star"):
        plan_of("magic")


def test_a_hint_without_targets_is_refused_before_anything(tmp_path):
    jobs = [Job(str(i), Countdown((1, 2, 3, 4 + i), 24)) for i in range(5)]
    base = checkpoint(tmp_path / "base", 0.5)
    with pytest.raises(ValueError, match=r"none of the \d problems has one: give them targets"):
        expert_iteration(base, jobs, {}, tmp_path / "out", rounds=1, plan=plan_of("star"))
    assert not (tmp_path / "out").exists()


# -- hints


@pytest.mark.parametrize("problem", [TextProblem("What is {target}?"), Countdown((1, 2, 3, 4), 24)])
def test_a_hint_changes_what_is_read_first_and_nothing_else(problem):
    told = hinted(problem, HINT, "the {problem} 24")
    state = problem.initial()
    expected = f"{problem.prompt(state)}\n\nHint: the answer is the {{problem}} 24."
    assert told.prompt(told.initial()) == expected
    assert type(told) is type(problem) and key_of(told) == key_of(problem)
    assert told.initial() == state and "Hint" not in problem.prompt(state)


@pytest.mark.thorough
def test_only_what_was_not_solved_is_asked_again(fake, tmp_path, monkeypatch):
    """The model that is told the answer says it: its traces are those of the problems without
    their hints, and the examples get them beside the others.
    """
    jobs, targets = sums(20)
    read = []

    def noted(*args, **options):
        read.append([Path(path) for path in options["hinted"]])
        return fake_prepare(*args, **options)

    monkeypatch.setattr(loop, "prepare", noted)
    out = tmp_path / "out"
    base = checkpoint(tmp_path / "base", 0.4)
    expert_iteration(base, jobs, targets, out, rounds=1, plan=Plan(options=CHAINS, hint=HINT))
    folder = out / "round-01"
    searched = Trace.load(folder / "traces")
    again = Trace.load(folder / "hinted")
    assert read == [[folder / "hinted"]]
    solved = set()
    for trace in searched:
        said = [trace.steps[edge].text for edge in trace.node_edge[1:]]
        if f"#### {targets[key_of(trace)]}" in said:
            solved.add(key_of(trace))
    assert 0 < len(solved) < len(searched), "some are solved and some are not"
    assert {key_of(trace) for trace in again} == {key_of(trace) for trace in searched} - solved
    for trace in again:
        assert "Hint" not in json.dumps(trace.arguments)
    lines = (folder / "hinted" / "results.jsonl").read_text().splitlines()
    used = sum(json.loads(line)["usage"]["generated"] for line in lines)
    used += sum(trace.usage.generated for trace in searched)
    assert int(ledger(out)[1]["search_tokens"]) == used


@pytest.mark.thorough
def test_all_solved_leaves_nothing_to_ask_again(fake, tmp_path):
    jobs, targets = sums(20)
    out = tmp_path / "out"
    base = checkpoint(tmp_path / "base", 1.0)
    plan = Plan(options=CHAINS, hint=HINT)
    expert_iteration(base, jobs, targets, out, rounds=1, plan=plan)
    assert Trace.load(out / "round-01" / "hinted") == []
    before = content(out)
    expert_iteration(base, jobs, targets, out, rounds=1, plan=plan)
    assert content(out) == before


# -- without labels


@pytest.mark.thorough
def test_without_labels_there_is_no_gate_and_every_round_is_accepted(fake, tmp_path, caplog):
    fake(-0.1)
    jobs, targets = sums(20)

    def voted(traces, none, *args, **options):
        assert none == {} and options["reward"] == "majority"
        return fake_prepare(traces, targets, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "prepare", voted)
        base = checkpoint(tmp_path / "base", 0.6)
        plan = plan_of("self_training", options=CHAINS)
        expert_iteration(base, jobs, {}, tmp_path / "out", rounds=2, plan=plan)
    assert "there is no gate: every round is accepted" in caplog.text
    rows = ledger(tmp_path / "out")
    assert [row["accepted"] for row in rows] == ["1", "1", "1"]
    assert rows[1]["gate_after"] == "" and int(rows[1]["problems"]) == 20
    with pytest.raises(ValueError, match="none of the 20 problems can be graded"):
        expert_iteration(base, jobs, {}, tmp_path / "labelled", rounds=1, plan=Plan())


def test_a_small_gate_says_that_it_decides_nothing(caplog):
    jobs, targets = sums(40)
    held, more = sums(29, start=100)
    check_gate(jobs, held, targets | more)
    assert "the gate has 29 problems, which decide nothing" in caplog.text
    caplog.clear()
    held, more = sums(30, start=100)
    check_gate(jobs, held, targets | more)
    assert not caplog.text


# -- several thresholds, and the verifier of all rounds


@pytest.mark.thorough
def test_improve_steps_train_one_after_the_other(fake, tmp_path, monkeypatch):
    jobs, targets = sums(20)

    def three(traces, targets, base, out_file, **options):
        report = fake_prepare(traces, targets, base, out_file, **options)
        for number in (2, 3):
            out_file.with_name(f"{out_file.stem}-{number}.npz").write_text(f"file {number}")
        report["improve"] = [{"threshold": t, "chains": 1} for t in options["thresholds"]]
        return report

    monkeypatch.setattr(loop, "prepare", three)
    out = tmp_path / "out"
    base = checkpoint(tmp_path / "base", 0.2)
    plan = Plan(options=CHAINS, thresholds=(0.2, 0.5, 0.9))
    expert_iteration(base, jobs, targets, out, rounds=1, plan=plan)
    folder = out / "round-01"
    models = []
    for name, file in (
        ("training-improved-1", "examples.npz"),
        ("training-improved-2", "examples-2.npz"),
        ("training", "examples-3.npz"),
    ):
        config = json.loads((folder / f"{name}.json").read_text())
        models.append(Path(config["model"]).relative_to(out).as_posix())
        assert [Path(path).name for path in config["examples"]] == [file]
    assert models == [
        "round-00/checkpoint",
        "round-01/improved-1",
        "round-01/improved-2",
    ]
    weights = float((folder / "checkpoint" / "model.safetensors").read_text().split()[0])
    assert weights == pytest.approx(0.2 + 3 * 0.3)
    assert ledger(out)[1]["steps"] == "15" and float(ledger(out)[1]["training_flops"]) == 3e6


@pytest.mark.thorough
def test_the_verifier_reads_the_chains_of_all_rounds(fake, tmp_path, monkeypatch):
    jobs, targets = sums(20)
    calls = []

    def noted(traces, targets, base, out_file, **options):
        if options["policy"] == "none":
            calls.append((Path(traces), [Path(path) for path in options["earlier"]], options))
        return fake_prepare(traces, targets, base, out_file, **options)

    monkeypatch.setattr(loop, "prepare", noted)
    out = tmp_path / "out"
    base = checkpoint(tmp_path / "base", 0.3)
    plan = Plan(options=CHAINS, train_verifier=True)
    expert_iteration(base, jobs, targets, out, rounds=2, plan=plan)
    ((traces, earlier, options),) = calls
    assert traces == out / "round-02/traces" and earlier == [out / "round-01/traces"]
    assert options["every_token"] and options["off_policy"]
    config = json.loads((out / "round-02/training-verifier.json").read_text())
    assert Path(config["model"]) == (out / "round-00/checkpoint").resolve(), "from the base"
    weights = (out / "verifier/model.safetensors").read_bytes()
    assert weights == (out / "round-02/verifier/model.safetensors").read_bytes()
    expert_iteration(base, jobs, targets, out, rounds=2, plan=plan)
    assert len(calls) == 1, "what is there is not made again"
    expert_iteration(base, jobs, targets, out, rounds=3, plan=plan)
    assert len(calls) == 2 and len(calls[1][1]) == 2
    after = (out / "round-03/verifier/model.safetensors").read_bytes()
    assert (out / "verifier/model.safetensors").read_bytes() == after


@pytest.mark.thorough
def test_settings_tell_the_algorithm(fake, tmp_path):
    jobs, targets = sums(20)
    base = checkpoint(tmp_path / "base", 0.5)
    out = tmp_path / "out"
    expert_iteration(base, jobs, targets, out, rounds=1, plan=plan_of("rest_em", options=CHAINS))
    settings = json.loads((out / "settings.json").read_text())
    assert settings["algorithm"] == "rest_em" and settings["restart"] is True
    assert settings["options"] == {**CHAINS, "solutions": 10} and settings["keep"] == 10
    with pytest.raises(ValueError, match="a run with other options, algorithm|other .*algorithm"):
        expert_iteration(base, jobs, targets, out, rounds=1, plan=plan_of("vstar", options=CHAINS))


@pytest.mark.thorough
def test_a_run_of_an_older_version_goes_on(fake, tmp_path):
    """Its settings lack what that version did not know, which must then be None."""
    jobs, targets = sums(20)
    base = checkpoint(tmp_path / "base", 0.5)
    out = tmp_path / "out"
    expert_iteration(base, jobs, targets, out, rounds=1, plan=Plan(options=CHAINS))
    settings = json.loads((out / "settings.json").read_text())
    assert settings.pop("pairs") is None
    (out / "settings.json").write_text(json.dumps(settings) + "\n")
    before = content(out / "round-01")
    expert_iteration(base, jobs, targets, out, rounds=1, plan=Plan(options=CHAINS))
    assert content(out / "round-01") == before
    with pytest.raises(ValueError, match="holds a run with other pairs: give"):
        plan = Plan(options=CHAINS, pairs="steps")
        expert_iteration(base, jobs, targets, out, rounds=1, plan=plan)


def test_the_gate_asks_for_one_solution():
    assert plan_of("rest_em").at_gate == {"chains": 32}
    assert Plan(method="mcts", options={"leaves": 2}).at_gate == {"leaves": 2}
    assert np.isclose(plan_of("rest").thresholds[0], 0.25)
