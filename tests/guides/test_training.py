"""The training loop: its loss under accumulation, its checkpoints under SIGKILL, its options,
its child process.
"""

from __future__ import annotations

import json
import math
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
from safetensors.torch import load_file
from training_cases import torch

from guides.builtin import train as builtin
from guides.data.examples import ExampleFile, collate, write_examples
from guides.training import train
from guides.training.options import Options
from guides.training.trainer import Order, PolicyValueTrainer
from guides.training.tree_attention import use_trees
from models.checkpoints.checkpoint import save_model, version

transformers = pytest.importorskip("transformers")


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
    examples: list[list[tuple[Any, ...]]] = [
        [
            (
                [5] * int(rng.integers(2, 9)),
                0.0,
                int(rng.integers(5)) / 4,
                -1,
                [1.0, 4.0, 60.0, math.inf][int(rng.integers(4))],
            )
        ]
        + [
            (
                rng.integers(4, 100, int(rng.integers(1, 9))).tolist(),
                float(rng.random() < 0.7) * 0.6,
                float("nan"),
                0,
            )
            for _ in range(3)
        ]
        for _ in range(32)
    ]
    write_examples(path, examples)
    model, head = builtin.build_model(
        {"hidden": 32, "layers": 2, "heads": 2, "inner": 64, "context": 64}, tok, 0
    )
    model.value_head = head
    use_trees(model)
    options = Options(
        steps=1, batch=batch, accumulation=accumulation, precision="float32", compile=False
    )
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / f"{batch}"), max_steps=1,
        per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
        learning_rate=0.0, max_grad_norm=1e9, logging_steps=1, use_cpu=True,
        remove_unused_columns=False,
        report_to="none", save_strategy="no",
    )  # fmt: skip
    caught: dict[str, Any] = {}

    class Catch(transformers.TrainerCallback):  # type: ignore[misc]
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            caught.update({name: p.grad.clone() for name, p in model.named_parameters()})

    trainer = PolicyValueTrainer(
        model=model, args=arguments, train_dataset=ExampleFile(path), data_collator=collate,
        callbacks=[Catch()],
        options=options, order=Order(32, 32, batch, None),
    )  # fmt: skip
    trainer.train()
    return trainer.state.log_history[0]["loss"], caught


@pytest.mark.thorough
def test_the_loss_is_the_formula(tmp_path: Path) -> None:
    """Recomputed text by text with the plain model: sum(weight x NLL) / imitated tokens + 0.5 x
    sum(c x cross-entropy) / sum(c), c = n / (n + 4) for a label from n outcomes and 1 for an exact
    one.
    """
    loss, _ = gradient(tmp_path, 32, 1)
    tok = builtin.build_tokenizer(["Use", "and", "to", "make"], 999)
    model, head = builtin.build_model(
        {"hidden": 32, "layers": 2, "heads": 2, "inner": 64, "context": 64}, tok, 0
    )
    model.requires_grad_(False), head.requires_grad_(False)
    nll, tokens, doubt, trusts = 0.0, 0, 0.0, []
    rows = ExampleFile(tmp_path / "examples.npz")
    for row in (rows[i] for i in range(len(rows))):
        for i, before in enumerate(row["previous"]):
            text, at = [int(row["tokens"][i])], int(before)
            while at >= 0:
                text, at = [int(row["tokens"][at]), *text], int(row["previous"][at])
            hidden = model.model(torch.tensor([text])).last_hidden_state[0]
            if row["weights"][i] > 0 and before >= 0:
                nll -= float(row["weights"][i]) * float(
                    model.lm_head(hidden[-2]).log_softmax(-1)[text[-1]]
                )
                tokens += 1
            if not np.isnan(row["values"][i]):
                chance = float(head(hidden[-1:])[0])
                trusts.append(
                    {1.0: 0.2, 4.0: 0.5, 60.0: 60 / 64, math.inf: 1.0}[float(row["counts"][i])]
                )
                label = float(row["values"][i])
                doubt -= trusts[-1] * (
                    label * math.log(chance) + (1 - label) * math.log(1 - chance)
                )
    assert tokens > 50 and len(trusts) == 32 and len(set(trusts)) == 4
    assert loss == pytest.approx(nll / tokens + 0.5 * doubt / sum(trusts), rel=1e-3)


@pytest.mark.thorough
def test_accumulation_gives_the_same_loss_and_gradient(tmp_path: Path) -> None:
    loss, whole = gradient(tmp_path, 32, 1)
    parts_loss, parts = gradient(tmp_path, 8, 4)
    assert parts_loss == pytest.approx(loss, rel=1e-4)
    assert len(whole) > 10
    for name, expected in whole.items():
        torch.testing.assert_close(parts[name], expected, atol=1e-6, rtol=1e-3)


OPTIONS = {
    "steps": 40,
    "batch": 4,
    "save_steps": 4,
    "warmup": 5,
    "compile": False,
    "precision": "float32",
}


STAGES = ("countdown", "both", "words")


ROWS = 1096  #: of the embeddings before the last stage, which adds some


CHILD = """
import sys, torch
torch.set_num_threads(1)
from guides.builtin import train as builtin
builtin.SHARD = 120
builtin.train_builtin("small", sys.argv[1], recipe=sys.argv[2])
"""


def stamps(folder: Path, pattern: str) -> dict[str, int]:
    return {
        str(p.relative_to(folder)): p.stat().st_mtime_ns
        for p in folder.glob(pattern)
        if p.is_file()
    }


@pytest.mark.slow
def test_a_killed_training_goes_on_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three stages of the recipe that is shipped, with a tiny model and few steps, killed in the
    first and in the second. What is not killed runs in this process: starting another takes longer.
    """
    monkeypatch.setattr(builtin, "SHARD", 120)
    recipe, out = tmp_path / "recipe.json", tmp_path / "killed"
    shape = {"hidden": 16, "layers": 1, "heads": 1, "inner": 32, "context": 512}
    tiny_size = {"small": {"model": shape, "options": dict.fromkeys(STAGES, OPTIONS)}}
    shipped = json.loads(builtin.RECIPE.read_text())
    recipe.write_text(
        json.dumps({**shipped, "stages": shipped["stages"][: len(STAGES)], "sizes": tiny_size})
    )
    rng = random.Random(0)

    def start() -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.Popen(
            [sys.executable, "-c", CHILD, str(out), str(recipe)], env=environment, cwd=tmp_path
        )

    kept: dict[str, int] = {}
    for stage in STAGES[:2]:
        child, deadline, work = start(), time.monotonic() + 120, out / "work" / stage
        while (
            child.poll() is None
            and time.monotonic() < deadline
            and not list(work.glob("checkpoint-*/complete"))
        ):
            time.sleep(0.02)
        time.sleep(rng.random() * 0.2)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert kept.items() <= stamps(out, "work/*/shards/*.npz").items(), (
            "a finished shard was made again"
        )
        kept = stamps(out, "work/*/shards/*.npz")
        assert list(work.glob("checkpoint-*/complete")) and not (out / "guide.json").exists()
        (work / "checkpoint-999").mkdir()  # a checkpoint that was cut short
        (work / "checkpoint-999" / "trainer_state.json").write_text("{")
    first = stamps(out, "work/countdown/*")
    assert "work/countdown/guide.json" in first
    for folder in (out, tmp_path / "whole"):
        builtin.train_builtin("small", folder, recipe=recipe)
    assert kept.items() <= stamps(out, "work/*/shards/*.npz").items()
    assert stamps(out, "work/countdown/*") == first, "a finished stage was made again"
    for stage in STAGES:
        state = json.loads(
            (out / "work" / stage / "checkpoint-40" / "trainer_state.json").read_text()
        )
        steps = [entry["step"] for entry in state["log_history"] if "loss" in entry]
        assert steps == sorted(set(steps)) and state["global_step"] == 40, (
            "no step was counted twice"
        )
    weights: list[torch.Tensor] = []
    for place in ("work/countdown", "work/both", "."):
        for name in ("model.safetensors", "value_head.safetensors"):
            ours, truth = (load_file(folder / place / name) for folder in (out, tmp_path / "whole"))
            for key, tensor in truth.items():
                torch.testing.assert_close(ours[key], tensor, atol=1e-5, rtol=1e-4)
        weights.append(
            torch.cat(
                [
                    tensor[:ROWS].flatten()
                    for tensor in load_file(out / place / "model.safetensors").values()
                ]
            )
        )
    one, two, three = weights
    for before, after in ((one, two), (two, three)):
        assert 0 < (after - before).norm() < 0.5 * before.norm(), (
            "a stage begins with weights that are there"
        )
    assert (three - two).norm() < (three - one).norm(), "which are those of the stage before it"
    report, whole_report = (
        json.loads((folder / "training.json").read_text()) for folder in (out, tmp_path / "whole")
    )
    assert list(report["stages"]) == list(STAGES) and report["flops"] == whole_report["flops"]
    assert report["flops"] == sum(report["stages"][stage]["flops"] for stage in STAGES) > 0
    done = stamps(out, "*")
    builtin.train_builtin("small", out, recipe=recipe)
    assert done == stamps(out, "*"), "a finished run is left alone"

    alone = builtin.train_builtin(
        "small", tmp_path / "alone", recipe=recipe, stage="words", base=out / "work" / "both"
    )
    again, truth = (load_file(folder / "model.safetensors") for folder in (alone, out))
    torch.testing.assert_close(again, truth, atol=1e-5, rtol=1e-4)  # the last stage, by itself
    assert json.loads((alone / "training.json").read_text())["stages"].keys() == set(STAGES)
    with pytest.raises(ValueError, match="tokens that the recipe does not know"):
        builtin.train_builtin("small", tmp_path / "back", recipe=recipe, stage="both", base=out)
    with pytest.raises(ValueError, match="other settings"):
        builtin.train_builtin(
            "small", tmp_path / "back", recipe=recipe, stage="both", base=out / "work" / "both"
        )


def test_a_stage_that_cannot_begin_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="unknown stage 'third'; choose one of countdown, both, words, more, ends"
    ):
        builtin.train_builtin(out=tmp_path / "a", stage="third")
    with pytest.raises(ValueError, match="goes on from trained weights"):
        builtin.train_builtin(out=tmp_path / "a", stage="words")
    with pytest.raises(ValueError, match="no folder"):
        builtin.train_builtin(out=tmp_path / "a", stage="words", base=tmp_path / "none")
    assert not (tmp_path / "a").exists()


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "settings.json").write_text("{}")
    with pytest.raises(ValueError, match="choose another --out"):
        builtin.train_builtin("small", tmp_path)
    with pytest.raises(ValueError, match="choose one of small, full"):
        builtin.train_builtin("huge", tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"decay": 2.0},
        {"precision": "int4"},
        {"batch": 0},
        {"epochs": 0},
        {"tune": "all"},
        {"optimizer": "sgd"},
        {"lr": math.nan},
    ],
)
def test_impossible_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="correct the training options"):
        Options(**wrong)


@pytest.mark.slow
def test_a_child_process_trains_on_a_checkpoint(tmp_path: Path) -> None:
    """python -m guides.training.train config.json: from a checkpoint and files of examples to a
    better checkpoint.
    """
    tok = builtin.build_tokenizer(["Use", "and", "to", "make"], 999)
    model, head = builtin.build_model(
        {"hidden": 16, "layers": 1, "heads": 1, "inner": 32, "context": 160}, tok, 0
    )
    base = save_model(tmp_path / "base", model, tok, head, {"format": 1})
    line = tuple(tok.encode("8-7=1\n"))
    write_examples(
        tmp_path / "a.npz", [[(line, 0.0, 1.0, -1), (line, 1.0, 1.0, 0)] for _ in range(64)]
    )
    config = tmp_path / "config.json"
    options = {"steps": 20, "batch": 8, "lr": 0.01, "warmup": 1, "compile": False}
    files = [str(tmp_path / "a.npz")]
    config.write_text(
        json.dumps(
            {
                "model": str(base),
                "examples": files,
                "out": str(tmp_path / "new"),
                "options": options,
            }
        )
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run(
        [sys.executable, "-m", "guides.training.train", str(config)],
        env=environment,
        cwd=tmp_path,
        check=True,
        timeout=300,
    )
    weights = (tmp_path / "new" / "model.safetensors").stat().st_mtime_ns
    train.main(config)
    assert weights == (tmp_path / "new" / "model.safetensors").stat().st_mtime_ns, (
        "a finished training is left alone"
    )
    assert json.loads((tmp_path / "new" / "guide.json").read_text()) == {
        "format": 1,
        "value_head": True,
    }
    report = json.loads((tmp_path / "new" / "training.json").read_text())
    assert report["base"] == version(base) and report["ancestors"] == [] and report["steps"] == 20
    assert report["tokens"] == 20 * 8 * 2 * len(line), "no padding"
    parameters = (
        sum(p.numel() for p in transformers.AutoModelForCausalLM.from_pretrained(base).parameters())
        + 16
        + 1
    )
    assert report["flops"] == 6 * parameters * report["tokens"]

    def loss(folder: Path) -> float:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        ids = torch.tensor([line])
        return model(input_ids=ids, labels=ids).loss.item()

    assert loss(tmp_path / "new") < 0.7 * loss(base)
