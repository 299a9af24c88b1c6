"""From traces to a trained guide by the commands, on the model and the problems of `letters`."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import letters  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from guides.data.grading import grade  # noqa: E402
from models.checkpoints.checkpoint import describe, version  # noqa: E402
from search.cli import main  # noqa: E402
from search.trace import Trace  # noqa: E402


@pytest.mark.thorough
def test_the_whole_loop_by_the_commands(
    base: Path, file: Path, traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After training on its own right chains the model is mostly right, and its fresh value head
    tells right from wrong.
    """
    out = tmp_path / "guide"
    command = [
        "train",
        "guide",
        "--from",
        traces,
        "--targets",
        file,
        "--base",
        base,
        "--out",
        out,
        "--lr",
        0.003,
        "--epochs",
        20,
    ]
    command += ["--held-out", 0]
    assert main.main(list(map(str, command))) == 0
    assert f"copse solve --guide {out}" in capsys.readouterr().out
    assert describe(out) == {"format": 1, "value_head": True, **letters.SETTINGS}, (
        "neither the training nor the next search needs the flags of the search"
    )
    better = letters.search(out, file, tmp_path / "again")
    assert letters.share(Trace.load(traces)) < 0.5 and letters.share(better) > 0.8, (
        letters.share(Trace.load(traces)),
        letters.share(better),
    )
    judged: dict[float, list[float]] = {0.0: [], 1.0: []}
    for trace in better:
        outcomes = grade(
            trace, dict(letters.PROBLEMS)[trace.arguments["statement"]], letters.SETTINGS["answer"]
        )
        for node in np.flatnonzero(trace.node_finished):
            judged[float(outcomes[node])].append(head_value(out, trace, int(node)))
    assert np.mean(judged[1.0]) > np.mean(judged[0.0]) + 0.3, {
        k: np.mean(v) for k, v in judged.items()
    }
    report = json.loads((out / "training.json").read_text())
    assert (
        report["base"] == version(base)
        and report["data"]["counted"]["problems"] == len(letters.PROBLEMS)
        and not (out / "work").exists()
    )
    assert all(trace.version == version(out) for trace in better)


@pytest.mark.slow
def test_what_came_out_right_is_preferred_by_the_command(
    base: Path, file: Path, traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is imitated: of the same problem, right chains become likelier than wrong ones. Both
    may lose to what was in no pair.
    """
    out = tmp_path / "guide"
    command = ["train", "preferences", "--from", traces, "--targets", file, "--base", base]
    command += ["--pairs", "chains", "--lr", 0.001, "--epochs", 20, "--held-out", 0, "--out", out]
    assert main.main(list(map(str, command))) == 0
    assert preferred(base, traces) < 0.7 < 0.95 < preferred(out, traces)
    both = tmp_path / "both"
    assert main.main([*map(str, command[:-1]), str(both), "--policy", "solutions"]) == 0
    assert (
        preferred(both, traces) > 0.9
        and letters.share(letters.search(both, file, tmp_path / "again")) > 0.7
    )
    report = json.loads((out / "training.json").read_text())
    assert report["data"]["counted"]["pairs"] > len(letters.PROBLEMS)
    assert report["options"]["preference"] == {"kind": "dpo", "beta": 0.1, "per_token": False}
    assert main.main([*map(str, command), "--tune", "head"]) == 2
    assert "not its value head" in capsys.readouterr().err


def preferred(folder: Path, traces: Path) -> float:
    """Of all right and wrong chains of one problem, the share of pairs in which plain transformers
    finds the right one likelier.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ahead = []
    for trace in Trace.load(traces):
        prompt = tokenizer.encode(trace.arguments["statement"] + ":")
        found: dict[bool, list[float]] = {True: [], False: []}
        for node in np.flatnonzero(trace.node_finished):
            steps = [trace.steps[edge] for edge in trace.path(int(node))]
            text = prompt + list(itertools.chain.from_iterable(step.tokens for step in steps))
            with torch.no_grad():
                logs = model(torch.tensor([text])).logits[0].log_softmax(-1)
            places = range(len(prompt), len(text))
            right = steps[-1].text.endswith(dict(letters.PROBLEMS)[trace.arguments["statement"]])
            found[right].append(sum(float(logs[place - 1, text[place]]) for place in places))
        for better, worse in itertools.product(found[True], found[False]):
            ahead.append(better > worse)
    return float(np.mean(ahead))


def head_value(folder: Path, trace: Trace, node: int) -> float:
    """The value that the checkpoint gives to the end of a chain."""
    from models.checkpoints.checkpoint import load_model

    model, tok, head, _ = load_model(folder)
    text = f"{trace.arguments['statement']}:"
    ids = [
        *tok.encode(text),
        *(token for edge in trace.path(node) for token in trace.steps[edge].tokens),
    ]
    return float(head(model.model(torch.tensor([ids])).last_hidden_state[0, -1:])[0])
