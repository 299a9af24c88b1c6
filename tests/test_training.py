"""The training loop: its loss under accumulation, its checkpoints under SIGKILL, its options, its child process."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file  # noqa: E402

from guides import builtin, train  # noqa: E402
from guides.examples import ExampleFile, collate, write_examples  # noqa: E402
from guides.train import Options, PolicyValueTrainer, last_checkpoint  # noqa: E402

ROOT = builtin.RECIPE.parents[2]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def gradient(tmp_path: Path, batch: int, accumulation: int) -> tuple[float, dict[str, Any]]:
    tok = builtin.build_tokenizer(["Use", "and", "to", "make"], 999)
    rng = np.random.default_rng(0)
    path = tmp_path / "examples.npz"
    examples = [
        [([5] * int(rng.integers(2, 9)), 0.0, float(rng.random() < 0.5), -1)]
        + [(rng.integers(4, 100, int(rng.integers(1, 9))).tolist(), float(rng.random() < 0.7) * 0.6, float("nan"), 0) for _ in range(3)]
        for _ in range(32)
    ]
    write_examples(path, examples)
    model, head = builtin.build_model({"hidden": 32, "layers": 2, "heads": 2, "inner": 64, "context": 64}, tok, 0)
    model.value_head = head
    model.set_attn_implementation("eager")
    options = Options(steps=1, batch=batch, accumulation=accumulation, precision="float32", compile=False)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / f"{batch}"), max_steps=1,
        per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
        learning_rate=0.0, max_grad_norm=1e9, logging_steps=1, use_cpu=True, remove_unused_columns=False,
        report_to="none", save_strategy="no",
    )  # fmt: skip
    caught: dict[str, Any] = {}

    class Catch(transformers.TrainerCallback):  # type: ignore[misc]
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            caught.update({name: p.grad.clone() for name, p in model.named_parameters()})

    trainer = PolicyValueTrainer(
        model=model, args=arguments, train_dataset=ExampleFile(path), data_collator=collate, callbacks=[Catch()], options=options
    )
    trainer.train()
    return trainer.state.log_history[0]["loss"], caught


def test_the_loss_is_the_formula(tmp_path: Path) -> None:
    """Recomputed text by text with the plain model: sum(weight x NLL) / imitated tokens + 0.5 x sum(cross-entropy) / labels."""
    loss, _ = gradient(tmp_path, 32, 1)
    tok = builtin.build_tokenizer(["Use", "and", "to", "make"], 999)
    model, head = builtin.build_model({"hidden": 32, "layers": 2, "heads": 2, "inner": 64, "context": 64}, tok, 0)
    model.requires_grad_(False), head.requires_grad_(False)
    nll, tokens, doubt, labels = 0.0, 0, 0.0, 0
    rows = ExampleFile(tmp_path / "examples.npz")
    for row in (rows[i] for i in range(len(rows))):
        for i, before in enumerate(row["previous"]):
            text, at = [int(row["tokens"][i])], int(before)
            while at >= 0:
                text, at = [int(row["tokens"][at]), *text], int(row["previous"][at])
            hidden = model.model(torch.tensor([text])).last_hidden_state[0]
            if row["weights"][i] > 0 and before >= 0:
                nll -= float(row["weights"][i]) * float(model.lm_head(hidden[-2]).log_softmax(-1)[text[-1]])
                tokens += 1
            if not np.isnan(row["values"][i]):
                chance = float(head(hidden[-1:])[0])
                doubt -= float(np.log(chance if row["values"][i] == 1 else 1 - chance))
                labels += 1
    assert tokens > 50 and labels == 32
    assert loss == pytest.approx(nll / tokens + 0.5 * doubt / labels, rel=1e-3)


def test_accumulation_gives_the_same_loss_and_gradient(tmp_path: Path) -> None:
    loss, whole = gradient(tmp_path, 32, 1)
    parts_loss, parts = gradient(tmp_path, 8, 4)
    assert parts_loss == pytest.approx(loss, rel=1e-4)
    assert len(whole) > 10
    for name, expected in whole.items():
        torch.testing.assert_close(parts[name], expected, atol=1e-6, rtol=1e-3)


OPTIONS = {"steps": 60, "batch": 4, "save_steps": 4, "warmup": 5, "compile": False, "precision": "float32"}
TINY: dict[str, Any] = {
    "data": "search.problems.countdown_paths",
    "seed": 1,
    "tokenizer": {"words": ["Use", "and", "to", "make"], "numbers": 999},
    "guide": {"format": 1},
    "sizes": {
        "small": {
            "model": {"hidden": 16, "layers": 1, "heads": 1, "inner": 32, "context": 160},
            "options": OPTIONS,
        }
    },
}
CHILD = """
import sys, torch
torch.set_num_threads(1)
from guides import builtin
builtin.SHARD = 120
builtin.train_builtin("small", sys.argv[1], recipe=sys.argv[2])
"""


def files(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.glob("work/shards/*.npz")}


def test_a_killed_training_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(TINY))
    rng, out = random.Random(0), tmp_path / "killed"

    def start(folder: Path) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.Popen([sys.executable, "-c", CHILD, str(folder), str(recipe)], env=environment, cwd=tmp_path)

    whole = start(tmp_path / "whole")
    kept: dict[str, int] = {}
    for kill in range(2):
        child, deadline = start(out), time.monotonic() + 40
        reached = last_checkpoint(out / "work")
        while child.poll() is None and time.monotonic() < deadline and last_checkpoint_number(out) <= number(reached):
            time.sleep(0.02)
        time.sleep(rng.random() * 0.2)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert kept.items() <= files(out).items(), "a finished shard was made again"
        kept = files(out)
        if kill == 0:  # a checkpoint that was cut short
            (out / "work" / "checkpoint-999").mkdir()
            (out / "work" / "checkpoint-999" / "trainer_state.json").write_text("{")
    begun = last_checkpoint_number(out)
    assert begun > 0
    child = start(out)
    assert child.wait(timeout=300) == 0 and whole.wait(timeout=300) == 0
    assert kept.items() <= files(out).items()
    state = json.loads((out / "work" / "checkpoint-60" / "trainer_state.json").read_text())
    steps = [entry["step"] for entry in state["log_history"] if "loss" in entry]
    assert steps == sorted(set(steps)) and state["global_step"] == 60, "no step was counted twice"
    for name in ("model.safetensors", "value_head.safetensors"):
        ours, truth = (load_file(folder / name) for folder in (out, tmp_path / "whole"))
        for key, tensor in truth.items():
            torch.testing.assert_close(ours[key], tensor, atol=1e-5, rtol=1e-4)
    done = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    builtin.train_builtin("small", out, recipe=recipe)
    assert done == {p.name: p.stat().st_mtime_ns for p in out.iterdir()}, "a finished run is left alone"


def number(folder: str | None) -> int:
    return int(folder.rsplit("-", 1)[1]) if folder else -1


def last_checkpoint_number(out: Path) -> int:
    """Like `last_checkpoint`, without removing anything."""
    return max((number(str(p.parent)) for p in out.glob("work/checkpoint-*/complete")), default=-1)


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "settings.json").write_text("{}")
    with pytest.raises(ValueError, match="choose another --out"):
        builtin.train_builtin("small", tmp_path)
    with pytest.raises(ValueError, match="choose one of small, full"):
        builtin.train_builtin("huge", tmp_path)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"steps": 1, "decay": 2.0}, {"steps": 1, "precision": "int4"}, {"steps": 1, "batch": 0}])
def test_impossible_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="correct the training options"):
        Options(**wrong)


def test_a_child_process_trains_on_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """python -m guides.train config.json: from a checkpoint and files of examples to a better checkpoint."""
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({**TINY, "sizes": {"small": {**TINY["sizes"]["small"], "options": {**OPTIONS, "steps": 2}}}}))
    monkeypatch.setattr(builtin, "SHARD", 64)
    base = builtin.train_builtin("small", tmp_path / "base", recipe=recipe)
    tok = builtin.build_tokenizer(["Use", "and", "to", "make"], 999)
    line = tuple(tok.encode("8-7=1\n"))
    write_examples(tmp_path / "a.npz", [[(line, 0.0, 1.0, -1), (line, 1.0, 1.0, 0)] for _ in range(64)])
    config = tmp_path / "config.json"
    options = {"steps": 20, "batch": 8, "lr": 0.01, "warmup": 1, "compile": False}
    files = [str(tmp_path / "a.npz")]
    config.write_text(json.dumps({"model": str(base), "examples": files, "out": str(tmp_path / "new"), "options": options}))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "guides.train", str(config)], env=environment, cwd=tmp_path, check=True, timeout=300)
    weights = (tmp_path / "new" / "model.safetensors").stat().st_mtime_ns
    train.main(config)
    assert weights == (tmp_path / "new" / "model.safetensors").stat().st_mtime_ns, "a finished training is left alone"
    assert json.loads((tmp_path / "new" / "guide.json").read_text()) == {"format": 1}

    def loss(folder: Path) -> float:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        ids = torch.tensor([line])
        return model(input_ids=ids, labels=ids).loss.item()

    assert loss(tmp_path / "new") < 0.7 * loss(base)
