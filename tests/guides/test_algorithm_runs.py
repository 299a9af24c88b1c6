"""The algorithms by the command, on a tiny model that answers questions with any vowel and repeats
an answer that it is told.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from iteration_cases import RIGHT, VOWELS, WORDS, ledger
from safetensors.numpy import load_file

from guides.data.examples import ExampleFile
from guides.iteration.algorithms import HINT
from search.cli.main import main
from search.trace import Trace

torch = pytest.importorskip("torch")
import tiny  # noqa: E402

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The model, and files of questions whose answer is always the same one."""
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("algorithms")
    tokenizer = tiny.tokenizer()
    model = tiny.model("qwen2", vocab=258, spread=0.05, max_position_embeddings=256)
    questions = [f"A letter of {word}?" for word in WORDS]
    plain = []
    told = []
    for question in questions:
        for vowel in VOWELS:
            hinted = HINT.replace("{problem}", question).replace("{target}", vowel)
            for texts, prompt in ((plain, question), (told, hinted)):
                texts.append([*tokenizer.encode(prompt + " "), *tokenizer.encode(vowel), 256])
    batches = [torch.tensor(plain), torch.tensor(told)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(90):
        loss = torch.zeros(())
        for texts in batches:
            logits = model(input_ids=texts).logits[:, -3:-1]
            loss = loss + torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), texts[:, -2:].flatten()
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(place / "base")
    tokenizer.save_pretrained(place / "base")
    for name, part in (("p.jsonl", questions[:12]), ("g.jsonl", questions[12:])):
        lines = [json.dumps({"problem": question, "target": RIGHT}) for question in part]
        (place / name).write_text("\n".join(lines) + "\n")
    bare = [json.dumps({"problem": question}) for question in questions]
    (place / "bare.jsonl").write_text("\n".join(bare) + "\n")
    return place


def arguments(folder: Path, out: str, algorithm: str, *more: str) -> list[str]:
    command = ["train", "iterate", "--algorithm", algorithm, "--out", str(folder / out)]
    command += ["--guide", str(folder / "base"), "--answer", "([aeiou])"]
    command += ["--prompt", "{problem} ", "--step-tokens", "4", "--max-steps", "2"]
    command += ["--budget", "tokens=100", "--lr", "0.003", "--epochs", "8"]
    if "--input" not in more:
        command += ["--input", str(folder / "p.jsonl"), "--gate", str(folder / "g.jsonl")]
    if "--rounds" not in more:
        command += ["--rounds", "1"]
    return [*command, *more]


@pytest.mark.slow
def test_star_learns_from_hints_and_not_their_words(folder):
    out = folder / "star"
    assert main(arguments(folder, "star", "star")) == 0
    row = ledger(out)[1]
    traces = Trace.load(out / "round-01/traces")
    again = Trace.load(out / "round-01/hinted")
    assert len(again) == 12 - round(12 * float(row["solved"])) > 0
    assert int(row["rationalised"]) > len(again) / 2, "it repeats the answer that it is told"
    rows = ExampleFile(out / "round-01/examples.npz")
    # each search teaches what its chain is worth, and each hinted one that was right the chain
    assert len(rows) == 12 + int(row["rationalised"])
    imitated = sum(bool(rows[i]["weights"].any()) for i in range(len(rows)))
    assert imitated == int(row["rationalised"]) + round(12 * float(row["solved"]))
    for i in range(len(rows)):
        text = tiny.tokenizer().decode(rows[i]["tokens"].tolist())
        assert text.startswith("A letter of ") and "Hint" not in text
        labelled = rows[i]["counts"].any()
        assert labelled or np.isnan(rows[i]["log_probs"]).all(), "neither labels nor log-probs"
    assert all(len(trace.node_parent) >= 2 for trace in traces), "one greedy chain each"
    assert float(row["gate_after"]) > float(row["gate_before"])
    settings = json.loads((out / "settings.json").read_text())
    assert settings["algorithm"] == "star" and settings["hint"] == HINT


@pytest.mark.slow
def test_vstar_leaves_a_verifier_that_tells_right_from_wrong(folder):
    out = folder / "vstar"
    assert main(arguments(folder, "vstar", "vstar", "--rounds", "2", "--epochs", "40")) == 0
    assert float(ledger(out)[2]["gate_after"]) > float(ledger(out)[0]["gate_after"])
    counted = json.loads((out / "verifier/training.json").read_text())["data"]["counted"]
    assert counted["language"] == {"answer": "([aeiou])"} and counted["held"] >= 0
    from guides.data.grading import Replay
    from guides.data.trace_rewards import Sources, rewards_of

    replays = [Replay(trace, "([aeiou])") for trace in Trace.load(out / "round-01/traces")]
    scores = rewards_of(replays, "verifier", Sources(verifier=out / "verifier")).outcomes
    good = []
    bad = []
    for replay, own in zip(replays, scores, strict=True):
        right = replay.grade(RIGHT)
        good += own[right == 1.0].tolist()
        bad += own[right == 0.0].tolist()
    assert np.mean(good) > np.mean(bad)


@pytest.mark.slow
def test_self_training_needs_no_label(folder):
    out = folder / "bare"
    more = ("--input", str(folder / "bare.jsonl"), "--option", "chains=9")
    assert main(arguments(folder, "bare", "self_training", *more)) == 0
    row = ledger(out)[1]
    assert row["accepted"] == "1" and row["gate_after"] == "" and int(row["problems"]) == 20
    assert int(row["right"]) > 0 and int(row["wrong"]) > 0
    traces = {trace.id: trace for trace in Trace.load(out / "round-01/traces")}
    for trace in traces.values():
        assert trace.options["chains"] == 9 and trace.options["solutions"] is None


@pytest.mark.slow
def test_best_of_n_by_a_function_and_rest_with_rising_thresholds(folder):
    best = folder / "best"
    reward = ("--reward", f"{__name__}:late")
    assert main(arguments(folder, "best", "best_of_n", *reward)) == 0
    rows = ExampleFile(best / "round-01/examples.npz")
    for i in range(len(rows)):
        part = slice(rows.segments[i], rows.segments[i + 1])
        firsts = tiny.tokenizer().decode(rows.tokens[rows.starts[:-1][part][1:]].tolist())
        weights = rows.weights[part][1:]
        assert np.count_nonzero(weights) == 1
        assert firsts[int(weights.argmax())] == max(firsts, key=VOWELS.find)
    out = folder / "rest"
    assert main(arguments(folder, "rest", "rest", *reward)) == 0
    improve = json.loads((out / "round-01/examples.json").read_text())["improve"]
    assert len(improve) > 1
    counts = [step["chains"] for step in improve]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]
    steps = int(ledger(out)[1]["steps"])
    places = [*(out / "round-01").glob("improved-*"), out / "round-01/checkpoint"]
    reports = [json.loads((place / "training.json").read_text()) for place in places]
    assert len(places) == len(improve) and steps == sum(report["steps"] for report in reports)


def late(problem, text):
    """Later vowels are better."""
    return VOWELS.find(text[:1]) / 4 if text[:1] in VOWELS else 0.0


@pytest.mark.slow
def test_a_killed_run_of_star_goes_on(folder):
    """Killed while it asks again and while it trains: the weights are those of a whole run."""
    assert main(arguments(folder, "whole", "star")) == 0
    out = folder / "killed"
    command = [sys.executable, "-m", "search.cli.main", *arguments(folder, "killed", "star")]
    lines = out / "round-01/hinted.part/results.jsonl"
    training = out / "round-01/training.json"

    def asked() -> bool:
        return lines.exists() and lines.read_bytes().count(b"\n") >= 1

    for reached in (asked, training.exists):
        child = subprocess.Popen(command)
        deadline = time.monotonic() + 100
        while child.poll() is None and not reached() and time.monotonic() < deadline:
            time.sleep(0.002)
        assert reached()
        child.kill()
        child.wait()
    assert subprocess.run(command, timeout=200, check=False).returncode == 0
    for name in ("model.safetensors", "value_head.safetensors"):
        ours = load_file(out / "round-01/checkpoint" / name)
        truth = load_file(folder / "whole/round-01/checkpoint" / name)
        assert all(np.allclose(ours[key], truth[key], atol=1e-5) for key in truth)
