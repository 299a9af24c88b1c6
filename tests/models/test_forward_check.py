"""The trial of a forward lets pass what rounds otherwise and refuses what computes something
else, in each float type.
"""

from __future__ import annotations

import os
from pathlib import Path

import families
import pytest
import tiny
import torch

from models import Engine, load_model
from models.engine import forward, forward_check, llama_cpu

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
KINDS = ["llama", "llama tied", "qwen2", "qwen3", "mistral", "gemma3", "phi3", "gpt2"]
#: every second one in CI, the others where the slow tests are run
HALF = [pytest.param(name, marks=pytest.mark.thorough) for name in KINDS[::2]]
HALF += [pytest.param(name, marks=pytest.mark.slow) for name in KINDS[1::2]]
REAL = [
    Path(os.environ.get("COPSE_TEST_MODELS") or "/nonexistent", name)
    for name in ("smollm2-135m", "qwen-coder-0.5b")
]


def path_of(made):
    """Which forward serves it."""
    return Engine(made, tiny.tokenizer(), slots=4, pool_tokens=200).path


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", HALF)
def test_a_right_forward_passes_in_any_float_type(name, dtype):
    own = families.FAMILIES[name].path
    assert path_of(families.model(name).to(dtype)) == ("modules" if dtype == torch.float16 else own)


def weaker(scale):
    """Attention whose scores are scaled otherwise."""
    return lambda own: (
        lambda self, layer, query, of, *rest: own(self, layer, query, of * scale, *rest)
    )


def later(own):
    """Rotation that is one position behind."""
    return lambda self, ids, positions, plan: own(self, ids, positions + 1 - (positions == 0), plan)


def louder(own):
    """Logits that are a tenth too large."""
    return lambda self, hidden: own(self, hidden) * 1.1


FAULTS = {
    "scores": ("models.engine.attention._Kernel.attend", weaker(0.7)),
    "positions": ("models.engine.llama_cpu.Lean.__call__", later),
    "logits": ("models.engine.llama_cpu.Lean.logits", louder),
}


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_forward_is_refused(fault, dtype, monkeypatch, caplog):
    made = families.model("qwen3", initializer_range=0.2).to(dtype)
    place, change = FAULTS[fault]
    owner, name = (
        (forward.attention._Kernel if "attention" in place else llama_cpu.Lean),
        place.rpartition(".")[2],
    )
    monkeypatch.setattr(owner, name, change(getattr(owner, name)))
    assert path_of(made) != "lean"
    if fault == "scores":  # both fast ways go through it
        assert "where the model's own rounding explains" in caplog.text


def test_texts_have_the_length_that_is_tried():
    found = forward_check.texts(tiny.tokenizer(), 100)
    assert len(found) == 3 and all(
        len(text) >= forward_check.LENGTH and max(text) < 100 for text in found
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_real_models_are_served_on_the_fast_path(path, dtype, monkeypatch):
    if not path.is_dir():
        pytest.skip("COPSE_TEST_MODELS names no folder that holds it")
    model, tokenizer, *_ = load_model(path, dtype=dtype)
    assert Engine(model, tokenizer, slots=4, pool_tokens=500).path == (
        "lean" if dtype == "bfloat16" else "modules"
    )
    for name, change in FAULTS.values():
        owner = forward.attention._Kernel if "attention" in name else llama_cpu.Lean
        with monkeypatch.context() as patch:
            patch.setattr(
                owner, name.rpartition(".")[2], change(getattr(owner, name.rpartition(".")[2]))
            )
            assert (
                dtype == "float16"
                or Engine(model, tokenizer, slots=4, pool_tokens=500).path != "lean"
            )
