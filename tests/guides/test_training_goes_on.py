"""Trainings that go on from a checkpoint: what is trained, in which order, and how it ends."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from safetensors.torch import load_file
from training_cases import torch

from guides.data.examples import ExampleFile, write_examples
from guides.training import frozen_head, train
from guides.training.options import TUNES, Options, check_installed, fine_tuning
from guides.training.train import last_checkpoint
from guides.training.trainer import Order
from models.checkpoints.checkpoint import load_model, save_model, version


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


TEXT = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def base(tmp_path_factory: Any) -> Path:
    return save_model(
        tmp_path_factory.mktemp("tuned") / "base",
        tiny.model("qwen2", tie_word_embeddings=True).bfloat16(),
        tiny.tokenizer(),
    )


def tuned(base: Path, folder: Path, weight: float = 1.0, **options: Any) -> Path:
    """The base trained on: after TEXT comes TEXT, and that is worth 1."""
    write_examples(
        folder / "a.npz",
        [[(TEXT, 0.0, math.nan, -1), (TEXT, weight, 1.0, 0, 8.0)] for _ in range(16)],
    )
    config = {"model": str(base), "examples": [str(folder / "a.npz")], "out": str(folder / "new")}
    options = {"steps": 12, "batch": 4, "lr": 0.02, "precision": "float32", **options}
    (folder / "config.json").write_text(json.dumps({**config, "options": options}))
    train.main(folder / "config.json")
    return folder / "new"


def belief(folder: Path) -> tuple[float, float]:
    """Probability of TEXT after TEXT, and the value there."""
    model, _, head, _ = load_model(folder, dtype="float32")
    ids = torch.tensor([TEXT + TEXT])
    states = model.model(ids).last_hidden_state[0]
    logs = model.lm_head(states).log_softmax(-1)
    return float(torch.exp(sum(logs[i - 1, TEXT[i - 4]] for i in range(4, 8)))), float(
        head(states[-1:])[0]
    ) if head else math.nan


@pytest.mark.thorough
def test_the_head_alone(base: Path, tmp_path: Path) -> None:
    """Every weight of the model stays the same, bit by bit, in its own type."""
    new = tuned(base, tmp_path, tune="head")
    before, after = (load_file(folder / "model.safetensors") for folder in (base, new))
    assert before.keys() == after.keys() and after["model.norm.weight"].dtype == torch.bfloat16
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert belief(new)[1] > 0.7 and not (base / "value_head.safetensors").exists()
    assert json.loads((new / "training.json").read_text())["flops"] > 0


BRANCHES = [
    [
        (TEXT, 0.0, math.nan, -1),
        ([9, 10], 0.0, 1.0, 0, 4.0),
        ([11], 0.0, 0.25, 1, math.inf),
        ([12, 13, 14], 0.0, 0.0, 0, 2.0),
    ],
    [(TEXT[:2], 0.0, 0.75, -1, 1.0)],
    [(TEXT * 3, 0.0, math.nan, -1)],
]


def test_a_frozen_model_reads_each_branch_as_if_alone(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen_head, "READ", 16)
    write_examples(tmp_path / "a.npz", BRANCHES)
    rows = ExampleFile(tmp_path / "a.npz")
    model, tokenizer, *_ = load_model(base, dtype="float32")
    features = frozen_head.read(model, tokenizer, rows, tmp_path / "out")
    labelled = zip(features.hidden, features.values.tolist(), features.counts.tolist(), strict=True)
    by_value = {value: (state, count) for state, value, count in labelled}
    texts = {
        1.0: [*TEXT, 9, 10],
        0.25: [*TEXT, 9, 10, 11],
        0.0: [*TEXT, 12, 13, 14],
        0.75: TEXT[:2],
    }
    counts = {1.0: 4.0, 0.25: math.inf, 0.0: 2.0, 0.75: 1.0}
    assert by_value.keys() == texts.keys() and features.tokens == 10 + 2, (
        "what has no label is not read"
    )
    for value, text in texts.items():
        state, count = by_value[value]
        alone = model.model(torch.tensor([text])).last_hidden_state[0, -1]
        assert torch.allclose(state, alone, atol=1e-5) and count == counts[value]
    assert len(list((tmp_path / "out").glob("hidden-*"))) > 1 and sorted(
        np.diff(features.starts).tolist()
    ) == [0, 1, 3]


def test_labels_at_every_token_of_a_step_are_read(base: Path, tmp_path: Path) -> None:
    write_examples(
        tmp_path / "a.npz", [[(TEXT, 0.0, 0.5, -1, 8.0, True), ([9, 10], 0.0, 1.0, 0, 8.0, True)]]
    )
    model, tokenizer, *_ = load_model(base, dtype="float32")
    features = frozen_head.read(model, tokenizer, ExampleFile(tmp_path / "a.npz"), tmp_path / "out")
    truth = model.model(torch.tensor([[*TEXT, 9, 10]])).last_hidden_state[0]
    assert (
        torch.allclose(features.hidden, truth, atol=1e-5)
        and features.values.tolist() == [0.5] * 4 + [1.0] * 2
    )


@pytest.mark.thorough
def test_the_head_learns_what_a_logistic_regression_learns(base: Path, tmp_path: Path) -> None:
    """Labels that a line through the hidden states tells apart are told apart, and weights of
    labels count as they should.
    """
    rng = np.random.default_rng(0)
    starts = [tuple(map(int, rng.integers(5, 20, 4))) for _ in range(24)]
    model, *_ = load_model(base, dtype="float32")
    with torch.no_grad():
        states = torch.stack(
            [model.model(torch.tensor([text])).last_hidden_state[0, -1] for text in starts]
        )
    right = (states @ torch.from_numpy(rng.normal(size=states.shape[1])).float() > 0).tolist()
    write_examples(
        tmp_path / "a.npz",
        [[(text, 0.0, float(one), -1, 8.0)] for text, one in zip(starts, right, strict=True)],
    )
    config = {
        "model": str(base),
        "examples": [str(tmp_path / "a.npz")],
        "out": str(tmp_path / "new"),
    }
    options = {"tune": "head", "epochs": 200, "batch": 8, "lr": 0.01, "precision": "float32"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "options": options}))
    train.main(tmp_path / "config.json")
    _, _, head, _ = load_model(tmp_path / "new", dtype="float32")
    assert ((head(states) > 0.5) == torch.tensor(right)).all()
    told = json.loads((tmp_path / "new" / "training.json").read_text())
    assert told["steps"] == 600 and told["tokens"] == 96, "read once, however many passes"


def test_what_was_read_is_not_read_again(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen_head, "READ", 16)
    whole = tmp_path / "whole"
    whole.mkdir()
    truth = load_file(tuned(base, whole, tune="head") / "value_head.safetensors")
    calls: list[Path] = []

    def full(tensors: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) == 4:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(tensors, path)

    save = frozen_head.save_file
    monkeypatch.setattr(frozen_head, "save_file", full)
    with pytest.raises(
        OSError, match="No space left.*make room and start again, what was read is kept"
    ):
        tuned(base, tmp_path, tune="head")
    kept = sorted(path.name for path in (tmp_path / "new" / "work").iterdir())
    assert kept == [f"hidden-{i:06d}.safetensors" for i in range(3)]
    again = load_file(tuned(base, tmp_path, tune="head") / "value_head.safetensors")
    assert len(calls) == 4 + 5, "16 rows of 8 tokens are 8 passes, 3 of which were there"
    assert all(torch.equal(truth[name], again[name]) for name in truth)


@pytest.mark.thorough
def test_lora_is_merged_into_an_ordinary_checkpoint(base: Path, tmp_path: Path) -> None:
    new = tuned(base, tmp_path, tune="lora")
    before, after = (load_file(folder / "model.safetensors") for folder in (base, new))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj.weight" in name}, (
        "matrices only, neither embedding, norms nor biases"
    )
    for name in changed:
        rank = torch.linalg.matrix_rank((after[name].float() - before[name].float()), rtol=0.05)
        assert rank <= 20, f"{name}: rank 16, and what rounding to bfloat16 adds"
    (probability, value), (start, _) = belief(new), belief(base)
    assert probability > 100 * start and value > 0.7


@pytest.mark.thorough
def test_full_fine_tuning_with_either_optimizer(base: Path, tmp_path: Path) -> None:
    start, _ = belief(base)
    for name in ("adamw", "muon"):
        (tmp_path / name).mkdir()
        probability, value = belief(tuned(base, tmp_path / name, optimizer=name))
        assert probability > 100 * start and value > 0.7, name


def test_learning_rates_of_fine_tuning_fit_what_is_trained() -> None:
    assert [fine_tuning(tune=name).lr for name in TUNES] == [1e-5, 2e-4, 3e-4]
    assert [fine_tuning(tune=name).epochs for name in TUNES] == [2, 2, 30] and fine_tuning(
        tune="head", epochs=3
    ).epochs == 3
    assert (
        fine_tuning(tune="lora", lr=0.5).lr == 0.5
        and fine_tuning().optimizer == "adamw"
        and Options().optimizer == "muon"
    )


@pytest.mark.parametrize(("rows", "batch"), [(10, 4), (8, 4), (3, 4), (1, 4), (65, 32), (7, 7)])
def test_each_pass_takes_every_row_once_in_an_order_of_its_own(rows: int, batch: int) -> None:
    order = list(Order(rows, 6 * rows, batch, 0))
    passes = [order[i * rows : (i + 1) * rows] for i in range(6)]
    assert all(sorted(one) == list(range(rows)) for one in passes)
    assert list(Order(rows, 6 * rows, batch, 0)) == order, "a resumed run finds the same"
    assert list(Order(rows, 6 * rows, batch, None)) == list(range(rows)) * 6
    batches = [order[i : i + batch] for i in range(0, len(order) - batch, batch)]
    strangers = sum(
        max(np.diff(one), default=1) > 1 or min(np.diff(one), default=1) < 1 for one in batches
    )
    assert strangers <= 6, (
        "neighbours, which are of one length, stay together but where a pass ends"
    )


def test_the_order_is_another_in_each_pass_and_with_each_seed() -> None:
    order = list(Order(64, 128, 8, 0))
    assert order[:64] != order[64:] != list(range(64)) and order != list(Order(64, 128, 8, 1))


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    for name in ("accelerate", "peft"):
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda wanted, name=name: None if wanted == name else there(wanted),
        )
        with pytest.raises(ValueError, match=rf'needs {name}: pip install "copse-search\[train\]"'):
            check_installed(Options(tune="lora"))
    check_installed(Options(tune="full"))


def test_epochs_become_steps() -> None:
    assert Options(epochs=3, batch=8, accumulation=2).updates(160) == 30
    assert (
        Options(epochs=0.01, batch=8).updates(8) == 1
        and Options(steps=5, epochs=3).updates(10**6) == 5
    )


@pytest.mark.thorough
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(
    base: Path, tmp_path: Path, caplog: Any
) -> None:
    """Two good steps with a checkpoint each, then an example whose weight is infinite."""
    good, bad = (
        [(TEXT, 0.0, math.nan, -1), (TEXT, 1.0, 1.0, 0)],
        [(TEXT, 0.0, math.nan, -1), (TEXT, math.inf, 1.0, 0)],
    )
    write_examples(tmp_path / "a.npz", [good] * 8 + [bad] * 4, block=12)
    model, _, _, _ = load_model(base, dtype="float32")
    options = Options(steps=3, batch=4, save_steps=1, compile=False, precision="float32")
    caplog.set_level(logging.INFO)
    with pytest.raises(ValueError, match="at step 3: give a smaller learning rate"):
        train.train(model, tiny.head(), ExampleFile(tmp_path / "a.npz"), tmp_path / "work", options)
    assert "step 2 of 3: loss " in caplog.text and "s left" in caplog.text
    kept = last_checkpoint(tmp_path / "work")
    assert kept is not None and kept.endswith("checkpoint-2")
    assert all(
        tensor.isfinite().all() for tensor in load_file(Path(kept, "trained.safetensors")).values()
    )


@pytest.mark.thorough
def test_a_full_disk_stops_and_the_run_goes_on_when_there_is_room(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    truth = load_file(tuned(base, whole, save_steps=4) / "model.safetensors")
    from guides.training import trainer

    calls: list[Any] = []

    def full(tensors: Any, path: Any) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise trainer.SafetensorError("I/O error: No space left on device (os error 28)")
        save(tensors, path)

    save = trainer.save_file
    monkeypatch.setattr(trainer, "save_file", full)
    with pytest.raises(OSError, match="No space left.*make room and start again"):
        tuned(base, tmp_path, save_steps=4)
    assert [path.name for path in (tmp_path / "new" / "work").glob("checkpoint-*")] == [
        "checkpoint-4"
    ]
    again = load_file(tuned(base, tmp_path, save_steps=4) / "model.safetensors")
    assert [Path(path).parent.name for path in calls] == [
        "checkpoint-4",
        "checkpoint-8",
        "checkpoint-8",
        "checkpoint-12",
    ]
    assert all(torch.equal(truth[name], again[name]) for name in truth)
    assert json.loads((tmp_path / "new" / "training.json").read_text())["tokens"] == 12 * 4 * 8, (
        "those before the stop too"
    )


@pytest.mark.thorough
def test_a_full_disk_at_the_end_keeps_the_training(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with (
        monkeypatch.context() as patched,
        pytest.raises(OSError, match="make room and start again, the training is kept"),
    ):
        patched.setattr(train, "save_head", full)
        tuned(base, tmp_path)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"work"}
    assert belief(tuned(base, tmp_path))[1] > 0.7


def test_ancestors_are_told(base: Path, tmp_path: Path) -> None:
    folders = [base]
    for name in "abc":
        (tmp_path / name).mkdir()
        folders.append(tuned(folders[-1], tmp_path / name, tune="head", steps=1))
    report = json.loads((folders[-1] / "training.json").read_text())
    assert report["base"] == version(folders[2]) and report["ancestors"] == [
        version(folders[0]),
        version(folders[1]),
    ]
