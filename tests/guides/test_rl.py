"""Reinforcement learning: the command on a tiny model whose right answer is planted, kills, what is
refused, and what a round counts.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from iteration_cases import RIGHT, vowel_folder
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from guides.data.grading import read_targets
from guides.iteration import rl, rounds
from guides.iteration.rl import RLPlan, reinforce
from guides.iteration.rl_numbers import COLUMNS
from guides.training.learner import Learner
from search.cli.main import main
from search.files.problems_file import read_jobs
from search.scheduling.budget import Budget
from search.trace import Trace

ASKED = {"answer": "([aeiou])", "prompt": "{problem} ", "step_tokens": 4, "max_steps": 2}
SMALL = {
    "language": ASKED,
    "budget": Budget(tokens=100),
    "per_round": 6,
    "training": {"lr": 3e-3, "warmup": 0},
    "gate_every": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return vowel_folder(tmp_path_factory.mktemp("rl"))


def learn(folder: Path, out: Path, count: int, base: str | Path = "base", **plan) -> Path:
    """A run on the folder's problems."""
    files = [folder / "p.jsonl", folder / "g.jsonl"]
    jobs, gate = map(read_jobs, files)
    targets = dict(read_targets(files[0])) | read_targets(files[1])
    plan = RLPlan(**{**SMALL, **plan})
    return reinforce(folder / base, jobs, targets, out, rounds=count, gate=gate, plan=plan)


def table(out: Path) -> list[dict[str, float]]:
    with open(out / "rounds.csv") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    first = weights(one)
    second = weights(other)
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_the_command_learns_what_is_rewarded(folder, capsys):
    out = folder / "by-command"
    words = ["--guide", "base", "--input", "p.jsonl", "--gate", "g.jsonl", "--out", "by-command"]
    places = [str(folder / word) if word[0] != "-" else word for word in words]
    options = [
        "--answer", ASKED["answer"], "--prompt", ASKED["prompt"], "--step-tokens", "4",
        "--max-steps", "2", "--budget", "tokens=100", "--per-round", "6", "--lr", "0.01",
        "--gate-every", "4", "--rounds", "12",
    ]  # fmt: skip
    assert main(["train", "rl", *places, *options]) == 0
    rows = table(out)
    assert rows[0]["gate"] < 0.7 < 1.0 == rows[-1]["gate"], "it has learnt which vowel is right"
    assert rows[-1]["best"] == 1 or rows[4]["gate"] == 1.0
    rewards = [row["reward"] for row in rows[1:]]
    assert rewards[0] < 0.5 < 0.9 < rewards[-1]
    assert rows[-1]["entropy"] >= 0
    for row in rows[1:]:
        assert row["sampler_gap"] <= 1e-4, "trainer and sampler agree"
        assert 0 <= row["sampler_kl"] <= 1e-8
        assert row["chains"] == 8 * row["problems"] == row["right"] + row["wrong"]
        assert math.isnan(row["kl"]) or row["kl"] == 0
    assert list(rows[0]) == list(COLUMNS)
    page = (out / "rounds.html").read_text()
    assert page.count("<polyline") >= 5 and "Round 12" in page
    capsys.readouterr()
    asked = ["solve", "A letter of zebra?", "--guide", str(out / "best"), "--json"]
    assert main([*asked, "--method", "sample", "--option", "chains=4"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == RIGHT
    # plain transformers reads it, too
    model = AutoModelForCausalLM.from_pretrained(out / "best").eval()
    tokenizer = AutoTokenizer.from_pretrained(out / "best")
    text = torch.tensor([tokenizer.encode("A letter of zebra? ")])
    with torch.no_grad():
        likeliest = int(model(text).logits[0, -1].argmax())
    assert tokenizer.decode([likeliest]) == RIGHT


@pytest.mark.slow
def test_random_rewards_teach_nothing(folder, tmp_path):
    learn(folder, tmp_path / "out", 6, reward="random", training={"lr": 1e-3, "warmup": 0})
    rows = table(tmp_path / "out")
    assert all(row["gate"] < 0.75 for row in rows if not math.isnan(row["gate"]))
    assert abs(np.mean([row["reward"] for row in rows[1:]]) - 0.5) < 0.12


@pytest.mark.thorough
def test_samples_of_another_model_are_noticed(folder, tmp_path, monkeypatch, caplog):
    learn(folder, tmp_path / "same", 1)
    assert "nats a token apart" not in caplog.text
    update = Learner.update

    def moved(self, *given):
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return update(self, *given)

    monkeypatch.setattr(Learner, "update", moved)
    learn(folder, tmp_path / "other", 1)
    assert "nats a token apart" in caplog.text


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


@pytest.mark.thorough
@pytest.mark.parametrize("first", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_run_that_was_killed_anywhere_goes_on_to_the_same_weights(
    folder, tmp_path, monkeypatch, first
):
    whole = tmp_path / "whole"
    learn(folder, whole, 2, updates=2)
    out = tmp_path / "killed"
    real = os.replace
    lives = first
    for _ in range(60):
        done = []

        def replace(source, target, *args, done=done, lives=lives, **named):
            if len(done) == lives:
                raise Killed
            real(source, target, *args, **named)
            done.append(target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            try:
                learn(folder, out, 2, updates=2)
            except Killed:
                lives += 3 if first == 1 else 7
                continue
        break
    else:
        pytest.fail("the run never ended")
    for place in ("round-02/checkpoint", "best"):
        assert same(whole / place, out / place), place
    kept = ("reward", "gate", "entropy", "gradient", "training_tokens")
    for ours, theirs in zip(table(whole), table(out), strict=True):
        for name in kept:
            assert ours[name] == theirs[name] or math.isnan(ours[name])


@pytest.mark.slow
def test_old_checkpoints_and_optimisers_are_removed(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    learn(folder, out, 5, gate_every=2)
    gated = [row["round"] for row in table(out) if not math.isnan(row["gate"])]
    assert gated == [0, 2, 4, 5], "the last one, too"
    found = {path.parent.name for path in out.glob("round-*/checkpoint")}
    best = max((row for row in table(out) if row["best"] == 1), key=lambda row: row["round"])[
        "round"
    ]
    assert found == {"round-00", f"round-{int(best):02d}", "round-05"} | found & {"round-04"}
    assert [path.parent.name for path in out.glob("round-*/learner")] == ["round-05"]
    assert len(list(out.glob("round-*/traces/traces.parquet"))) == 5, "samples are kept"
    before = {path: path.stat().st_mtime_ns for path in out.glob("round-*/*")}
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "load", None)
        learn(folder, out, 5, gate_every=2)
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("round-*/*")}
    learn(folder, out, 6, gate_every=2)
    assert table(out)[5]["gate"] == table(out)[5]["gate"] and len(table(out)) == 7


@pytest.mark.slow
def test_samples_of_earlier_rounds_are_learnt_from_too(folder, tmp_path):
    learn(folder, tmp_path / "fresh", 2)
    learn(folder, tmp_path / "stale", 2, stale=1)
    fresh = table(tmp_path / "fresh")
    stale = table(tmp_path / "stale")
    assert stale[1]["training_tokens"] == fresh[1]["training_tokens"]
    assert stale[2]["training_tokens"] > fresh[2]["training_tokens"]
    assert stale[2]["sampler_gap"] > 0.01 > fresh[2]["sampler_gap"], "of an older sampler"


@pytest.mark.slow
def test_the_kl_to_the_first_model_is_counted_and_holds(folder, tmp_path):
    free = table_of(folder, tmp_path / "free", loss={"kl": 1e-6})
    held = table_of(folder, tmp_path / "held", loss={"kl": 20.0})
    assert free[1]["kl"] == pytest.approx(0, abs=1e-6), "round 1 samples from the reference"
    assert free[-1]["kl"] > 2 * held[-1]["kl"] > 0
    assert held[-1]["reward"] < free[-1]["reward"]


def table_of(folder: Path, out: Path, **plan) -> list[dict[str, float]]:
    learn(folder, out, 5, **plan)
    return table(out)


@pytest.mark.slow
def test_low_rank_additions_are_merged_into_each_rounds_model(folder, tmp_path):
    pytest.importorskip("peft")
    out = tmp_path / "out"
    learn(folder, out, 4, training={"lr": 2e-2, "tune": "lora", "warmup": 0})
    rows = table(out)
    assert rows[-1]["reward"] > rows[1]["reward"] + 0.2
    first = weights(folder / "base")
    last = weights(out / "round-04" / "checkpoint")
    assert first.keys() == last.keys()
    changed = {name for name in first if not torch.equal(first[name], last[name])}
    assert changed and not any("embed" in name or "norm" in name for name in changed)
    assert all(row["sampler_gap"] <= 1e-4 for row in rows[1:])


@pytest.mark.slow
def test_small_steps_are_not_lost_in_bfloat16(folder, tmp_path):
    """The weights that are trained stay float32 from round to round, also through a restart, and
    the samples of a round are those of the weights that were learnt.
    """
    base = tmp_path / "half"
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
    model.save_pretrained(base)
    AutoTokenizer.from_pretrained(folder / "base").save_pretrained(base)
    tiny = {"lr": 1e-6, "warmup": 0}
    learn(folder, tmp_path / "out", 1, base, training=tiny)
    learn(folder, tmp_path / "out", 2, base, training=tiny)
    learner = tmp_path / "out" / "round-02" / "learner"
    trained = load_file(learner / "weights.safetensors")
    moved = max(
        float((trained[name] - tensor.float()).abs().max())
        for name, tensor in weights(base).items()
        if name in trained
    )
    assert 1.2e-6 < moved < 1e-5, "two rounds of a step that bfloat16 cannot hold"
    checkpoint = weights(tmp_path / "out" / "round-02" / "checkpoint")
    assert all(torch.equal(checkpoint[name], trained[name]) for name in trained)


@pytest.mark.thorough
def test_nothing_to_learn_from_five_times_ends_the_run(folder, tmp_path):
    with pytest.raises(ValueError, match="in 5 rounds the samples of no problem differed") as error:
        learn(folder, tmp_path / "out", 9, reward="test_rl:nothing", per_round=2, refill=1)
    assert "the last round is kept" in str(error.value)
    assert (tmp_path / "out" / "round-04" / "round.json").exists()
    assert same(tmp_path / "out" / "round-04" / "checkpoint", folder / "base")


def nothing(problem, text):
    return 0.0


def not_a_number(problem, text):
    return math.nan


@pytest.mark.thorough
def test_rewards_that_are_none_are_one_sentence(folder, tmp_path):
    with pytest.raises(ValueError, match=re.escape("not_a_number")):
        learn(folder, tmp_path / "out", 1, reward="test_rl:not_a_number")
    assert Trace.load(tmp_path / "out" / "round-01" / "traces.part"), "the samples are kept"
    assert not (tmp_path / "out" / "round-01" / "checkpoint").exists()


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        ({"language": {"top_p": 0.9}}, "top_p cuts off a part of the distribution"),
        ({"language": {"temperature": 0}}, "at temperature 0 all samples are the same"),
        ({"updates": 0}, "updates is a whole number from 1 on"),
        ({"stale": -1}, "stale is a whole number from 0 on"),
        ({"gate_every": 0}, "gate_every is a whole number from 1 on"),
        ({"credit": {"method": "grop"}}, "advantages"),
        ({"loss": {"region": "clipp"}}, "region is one of clip"),
        ({"reward": "outcom"}, "there is no reward 'outcom'"),
        ({"track": "excel"}, "track is one of tensorboard"),
        ({"training": {"lr": 2}}, "lr in"),
        ({"training": {"epochs": 3}}, "epochs says nothing"),
        ({"training": {"accumulation": 2}}, "accumulation says nothing"),
    ],
)
def test_what_a_plan_refuses(plan, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        RLPlan(**plan)


def test_a_list_of_problems_is_gone_through_in_a_new_order_each_time(tmp_path):
    jobs = [SimpleNamespace(id=i) for i in range(7)]
    run = rl._Run(tmp_path, jobs, [], {}, RLPlan(seed=3))
    seen = []
    for number in range(1, 8):
        if number > 1:
            place = tmp_path / f"round-{number - 1:02d}"
            place.mkdir(exist_ok=True)
            (place / "credit.json").write_text(json.dumps({"next": len(seen)}))
        seen += [job.id for job in run._upcoming(number, 3)]
    assert len(seen) == 21
    assert sorted(seen[:7]) == list(range(7))
    assert sorted(seen[:7]) != seen[:7] or seen[7:14] != seen[:7]


def test_a_reference_with_another_vocabulary_is_refused(folder, tmp_path):
    import tiny

    tiny.model("qwen2", vocab=300).save_pretrained(tmp_path / "other")
    tiny.tokenizer().save_pretrained(tmp_path / "other")
    options = RLPlan(loss={"kl": 0.1}).learning
    with pytest.raises(ValueError, match="has 300 tokens, the model 258"):
        Learner(folder / "base", options, reference=tmp_path / "other")


@pytest.mark.thorough
def test_a_tracker_is_told_each_round(folder, tmp_path, monkeypatch):
    told = []
    fake = SimpleNamespace(
        init=lambda **named: told.append(named),
        log=lambda numbers, step: told.append((step, numbers["reward"])),
        finish=lambda: None,
        __spec__=True,
    )
    monkeypatch.setitem(sys.modules, "trackio", fake)
    learn(folder, tmp_path / "out", 2, track="trackio", per_round=2)
    steps = [entry[0] for entry in told if isinstance(entry, tuple)]
    assert steps == [1, 2] and told[0]["name"] == "out"


@pytest.mark.thorough
def test_another_plan_does_not_go_on_with_a_run(folder, tmp_path):
    out = tmp_path / "out"
    learn(folder, out, 1, per_round=2)
    with pytest.raises(ValueError, match="holds a run with other credit"):
        learn(folder, out, 2, per_round=2, credit={"method": "leave_one_out"})
    shutil.rmtree(out)


def test_the_gate_samples_one_chain_and_searches_as_the_rounds_do():
    assert RLPlan().at_gate == {"chains": 1, "wave": 1, "solutions": None}
    assert RLPlan(method="mcts", options={"leaves": 2}, credit={"searched": "weigh"}).at_gate == {
        "leaves": 2
    }
    assert RLPlan(gate_options={"chains": 4}).at_gate == {"chains": 4}


@pytest.mark.slow
def test_a_tree_search_is_learnt_from_by_its_weights_or_refused(folder, tmp_path):
    """What a search drew is no sample of the policy."""
    options = {"method": "mcts", "options": {"branch": 3}, "per_round": 3, "gate_every": 9}
    with pytest.raises(ValueError, match="with the credit searched=weigh"):
        RLPlan(**options)
    learn(folder, tmp_path / "out", 2, **options, credit={"searched": "weigh", "method": "tree"})
    assert table(tmp_path / "out")[1]["training_tokens"] > 0


@pytest.mark.thorough
def test_without_any_label_the_last_round_is_the_best(folder, tmp_path):
    """The majority teaches, and no problem has a target."""
    rows = map(json.loads, (folder / "p.jsonl").read_text().splitlines())
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({"problem": row["problem"]}) + "\n" for row in rows))
    plan = RLPlan(**{**SMALL, "reward": "majority", "gate_every": 1, "per_round": 3})
    best = reinforce(folder / "base", read_jobs(bare), {}, tmp_path / "out", rounds=2, plan=plan)
    assert same(best, tmp_path / "out" / "round-02" / "checkpoint")
    rows = table(tmp_path / "out")
    assert len(rows) == 3 and all(math.isnan(row["gate"]) for row in rows)
    assert rows[1]["right"] > 0
