"""Checkpoints come back as they were, load in transformers alone, and say what is wrong with
them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from models import describe, load_head, load_model, save_model, version
from models.checkpoints.heads import ValueHead

SETTINGS = {
    "format": 1,
    "kinds": ["search.problems.countdown:Countdown"],
    "budget": {"tokens": 2000, "seconds": 120},
    "prompt": "{problem}\n",
    "delimiter": "\n",
    "step_tokens": 24,
    "max_steps": 8,
    "value_head": True,
    "answer": None,
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(params=["llama", "qwen2"])
def saved(tmp_path, request):
    model, head = tiny.model(request.param), tiny.head()
    return save_model(tmp_path / "checkpoint", model, tiny.tokenizer(), head, SETTINGS), model, head


def test_round_trip(saved):
    path, model, head = saved
    again, tokenizer, head_again, settings = load_model(path)
    ids = torch.tensor([tokenizer.encode("ab\ncd")])
    assert torch.equal(again(ids).logits, model(ids).logits) and again.dtype == torch.float32
    assert (
        tokenizer.encode("Use 4, é") == tiny.tokenizer().encode("Use 4, é")
        and tokenizer.eos_token_id == 256
    )
    assert settings == SETTINGS == describe(path)
    assert torch.equal(head_again.weight, head.weight) and not head_again.weight.requires_grad
    plain, info = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(plain(ids).logits, model(ids).logits)
    assert load_model(path, dtype="bfloat16")[0].dtype == torch.bfloat16


def test_saving_replaces_and_leaves_nothing_behind(saved, tmp_path):
    path, model, _ = saved
    before = version(path)
    assert version(path) == before and len(before) == 16
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    save_model(path, model, tiny.tokenizer())
    assert version(path) != before and describe(path) == {} and load_model(path)[2] is None
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    with pytest.raises(ValueError, match="give head="):
        save_model(path, model, tiny.tokenizer(), None, SETTINGS)


def test_missing_and_unexpected_tensors_are_named(saved):
    path, *_ = saved
    (path / "SHA256SUMS").unlink()  # as weights of others
    file = path / "model.safetensors"
    tensors = load_file(file)
    save_file(
        {k: v for k, v in tensors.items() if "layers.1.mlp.up_proj" not in k},
        file,
        {"format": "pt"},
    )
    with pytest.raises(
        ValueError, match="missing tensors model.layers.1.mlp.up_proj.weight: .*copy the checkpoint"
    ):
        load_model(path)
    save_file(tensors | {"model.surplus": torch.zeros(2)}, file, {"format": "pt"})
    with pytest.raises(ValueError, match="unexpected tensors .*surplus"):
        load_model(path)
    save_file(tensors | {"model.norm.weight": torch.zeros(2)}, file, {"format": "pt"})
    with pytest.raises(ValueError, match="model.norm.weight|cannot be loaded"):
        load_model(path)
    file.write_bytes(b"broken")
    with pytest.raises(ValueError, match="cannot be loaded .*copy or save"):
        load_model(path)
    file.unlink()
    with pytest.raises(ValueError, match="holds no weights"):
        describe(path)


def test_a_head_is_never_made_up(saved):
    path, _, head = saved
    (path / "SHA256SUMS").unlink()  # as weights of others
    file = path / "value_head.safetensors"
    good = load_file(file)
    assert {k: (tuple(v.shape), v.dtype) for k, v in good.items()} == {
        "weight": ((1, 32), torch.float32),
        "bias": ((1,), torch.float32),
    }
    cases = {
        "no tensor 'bias'": {"weight": good["weight"]},
        r"shape \(1, 31\)": good | {"weight": torch.zeros(1, 31)},
        "unknown tensor 'more'": good | {"more": torch.zeros(1)},
        "not finite": good | {"bias": torch.full((1,), float("nan"))},
    }
    for message, tensors in cases.items():
        save_file(tensors, file)
        with pytest.raises(ValueError, match=message + ".*: "):
            load_model(path)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read"):
        load_head(path, 32)
    file.unlink()
    assert load_head(path, 32) is None
    with pytest.raises(ValueError, match="promises: copy it there"):
        load_model(path)
    assert ValueHead(32)(torch.ones(32)).item() == 0.5


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"format": True},
        {"kinds": "countdown"},
        {"budget": {"tokens": 0}},
        {"budget": {"pennies": 3}},
        {"prompt": "nothing"},
        {"delimiter": ""},
        {"step_tokens": 2.5},
        {"max_steps": -1},
        {"value_head": "yes"},
        {"answer": "no group"},
        {"answer": "(a"},
        {"surplus": 1},
    ],
)
def test_settings_are_checked(change, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("")
    (tmp_path / "guide.json").write_text(json.dumps(SETTINGS | {"value_head": False} | change))
    with pytest.raises(ValueError, match=next(iter(change))):
        describe(tmp_path)


def test_what_is_not_there(tmp_path):
    for path, message in [
        (tmp_path / "none", "no folder"),
        ("nobody/nothing", "neither a folder nor a model on the hub"),
        (tmp_path, "config.json"),
        (__file__, "is a file"),
    ]:
        with pytest.raises(ValueError, match=f"{message}.*: "):
            load_model(path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        describe(tmp_path)


def test_device_and_dtype_are_checked(saved):
    for options, message in [
        ({"dtype": "int8"}, "unknown dtype"),
        ({"device": "gpu"}, "unknown device"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_model(saved[0], **options)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no cuda"):
            load_model(saved[0], device="cuda")


def test_describing_loads_no_torch(saved):
    code = (
        f"import sys, models; models.describe({str(saved[0])!r}); "
        f"models.version({str(saved[0])!r}); "
    ) + ("print([m for m in ('torch', 'transformers', 'numba') if m in sys.modules])")
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    assert done.stdout.strip() == "[]", done.stderr
