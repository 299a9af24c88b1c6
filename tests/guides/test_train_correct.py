"""From traces to a model that writes streams, by the command, on the model of `letters`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import letters
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import guides
from guides.data.grading import Replay, key_of, read_targets
from guides.data.trace_rewards import Sources, rewards_of
from guides.data.trace_tokens import TraceReader
from guides.values.prm_formats import verdict_format
from models.checkpoints.checkpoint import describe
from search.cli import main
from search.problems.countdown import Countdown
from search.problems.stream import Stream
from search.trace import Trace

AGAIN = "!"


def correct(traces: Path, file: Path, base: Path, out: Path, *more: str) -> int:
    command = ["train", "correct", "--from", traces, "--targets", file, "--base", base]
    return main.main(list(map(str, [*command, "--out", out, "--held-out", 0, *more])))


@pytest.mark.thorough
def test_a_model_that_tries_again(
    base: Path, file: Path, traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its chains have two attempts, the first read and the second imitated; the next search needs
    no flag to read them so, and its traces are graded as those of the problem.
    """
    out = tmp_path / "corrected"
    more = ["--kind", "pairs", "--again", AGAIN, "--lr", "0.003", "--epochs", "12"]
    assert correct(traces, file, base, out, *more) == 0
    told = describe(out)
    assert told["stream"]["attempts"] == 2 and told["stream"]["moves"]["again"] == AGAIN
    assert told["max_steps"] >= 2 * 5 and told["step_tokens"] >= 4
    found = letters.search(out, file, tmp_path / "again", "--option", "wave=4")
    targets = read_targets(file)
    streams = 0
    reader = TraceReader(out, describe(out))
    for trace in found:
        reader.check(trace)
        problem = trace.problem()
        assert isinstance(problem, Stream) and key_of(trace) in targets
        asked = problem.asked("([abc])$", None)
        for state, finished in zip(trace.states(asked), trace.node_finished, strict=True):
            if finished:
                assert AGAIN in [step.text for step in state]
                assert asked.read(state).attempt == 2
                streams += 1
    assert streams > 10, "chains are streams that end"
    more = ["--kind", "pairs", "--steps", "1"]
    assert correct(tmp_path / "again", file, out, tmp_path / "twice", *more) == 2
    assert "is of a stream" in capsys.readouterr().err
    assert main.main(["view", str(tmp_path / "again")]) == 0
    # also chains that came to no end count, perhaps none of which began anew
    assert re.search(r"begins anew (?:0\.[1-9]|1\.0) times", capsys.readouterr().out)


@pytest.mark.thorough
def test_what_was_made_is_counted(base: Path, file: Path, traces: Path, tmp_path: Path) -> None:
    out = tmp_path / "corrected"
    more = ["--kind", "pairs", "--again", AGAIN, "--steps", "1"]
    assert correct(traces, file, base, out, *more) == 0
    counted = json.loads((out / "training.json").read_text())["data"]["counted"]
    assert counted["lines"] == 5 and 2 <= counted["line_tokens"] <= 4 and counted["examples"] > 0


@pytest.mark.thorough
def test_a_model_that_learnt_critiques_judges(
    base: Path, file: Path, traces: Path, tmp_path: Path
) -> None:
    """A score is the product of what transformers says of the verdicts, each behind the lines and
    verdicts before it; on average it is the share of right chains.
    """
    out = tmp_path / "judge"
    more = ["--kind", "critiques", "--lr", "0.003", "--epochs", "8", "--value-weight", "0"]
    assert correct(traces, file, base, out, *more) == 0
    told = describe(out)
    assert "stream" not in told and told["prm"]["good"] == "r" and told["prm"]["bad"] == "w"
    targets = read_targets(file)
    found = [Replay(trace, "([abc])$") for trace in Trace.load(traces)]
    scores = rewards_of(found, "verifier", Sources(verifier=out)).outcomes
    outcomes = [replay.grade(targets[replay.key]) for replay in found]
    share = np.nanmean(np.concatenate(outcomes))
    assert np.nanmean(np.concatenate(scores)) == pytest.approx(share, abs=0.1)
    replay = found[0]
    node = int(np.flatnonzero(replay.trace.node_finished)[0])
    lines = [step.text.strip() for step in replay.states[node]]
    model = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    text = replay.problem.prompt(()) + ":"
    expected = 1.0
    for line in lines:
        text += f"{line}\nCheck: "
        logits = model(torch.tensor([tokenizer.encode(text)])).logits[0, -1]
        verdict = logits[tokenizer.convert_tokens_to_ids(["r", "w"])].softmax(0)
        expected *= float(verdict[0])
        text += "right.\n"
    assert scores[0][node] == pytest.approx(expected, rel=1e-4)
    guide = guides.load(out, temperature=1.0)
    assert "parts" in str(told["prm"]["layout"]) and guide.value.tokens == 0


@pytest.mark.thorough
def test_verdicts_that_a_tokenizer_does_not_tell_apart_are_refused(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    with pytest.raises(ValueError, match="does not write 'no' and 'yes' alike"):
        verdict_format("no", "yes", tokenizer, "\n")
    unknown = SimpleNamespace(encode=lambda text, **_: [0] * len(text), decode=lambda ids: "?")
    with pytest.raises(ValueError, match="does not write 'Is it: aa' and 'Is it: bb' alike"):
        verdict_format("Is it: aa", "Is it: bb", unknown, "\n")


@pytest.mark.thorough
def test_moves_that_cannot_be_told_are_refused_before_any_work(
    base: Path, file: Path, traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "corrected"
    code = correct(traces, file, base, out, "--kind", "walk", "--back", "Try again.")
    assert code == 2 and "no two are written alike" in capsys.readouterr().err
    assert not out.exists()


def test_a_stream_is_graded_as_its_problem() -> None:
    problem = Countdown((4, 7, 8, 8), 24)
    assert key_of(Stream(problem, attempts=2)) == key_of(problem)
