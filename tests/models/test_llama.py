"""Checkpoints read without transformers give what transformers gives; what is not known in them
is left to it.
"""

from __future__ import annotations

import json
import subprocess
import sys

import families
import numpy as np
import pytest
import tiny
import torch
from families import FAMILIES, forward
from safetensors.torch import load_file, save_file

from models import Engine, load_model, save_model
from models.checkpoints.llama_weights import Llama, read_config
from search.scheduling.requests import Generate, Score

NATIVE = [
    name for name, family in FAMILIES.items() if family.path == "lean" and name != "llama yarn"
]
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
TEXT = tuple(np.random.default_rng(0).integers(0, 256, 70).tolist())


def saved(tmp_path, name, dtype=torch.float32, **options):
    """The family's checkpoint in a folder, and its model."""
    made = families.model(name, **options).to(dtype)
    return save_model(tmp_path / "checkpoint", made, tiny.tokenizer()), made


def scored(model, text=TEXT):
    """Log-probs of a text by an engine."""
    (reply,) = tiny.answers(Engine(model, tiny.tokenizer(), slots=2), [Score(text, ())])
    return reply.result.log_probs[1:]


def wanted(made, text=TEXT):
    """The same by transformers."""
    table = torch.log_softmax(torch.from_numpy(forward(made, text)[0]), -1).numpy()
    return table[np.arange(len(text) - 1), text[1:]]


@pytest.mark.thorough
@pytest.mark.parametrize("name", [*NATIVE, "llama3"])
def test_native_models_are_those_of_transformers(name, tmp_path):
    family, options = (
        ("llama", {"rope_parameters": LLAMA3 | {"rope_theta": 500.0}})
        if name == "llama3"
        else (name, {})
    )
    path, made = saved(tmp_path, family, **options)
    model, *_ = load_model(path, trainable=False)
    assert (
        type(model) is Llama
        and model.num_parameters() == made.num_parameters()
        and model.dtype == torch.float32
    )
    np.testing.assert_allclose(scored(model), wanted(made), atol=2e-5)
    backend = Engine(model, tiny.tokenizer())
    assert backend.path == "lean" and backend.texts.ends >= {256}
    (reply,) = tiny.answers(backend, [Generate(TEXT[:20], max_tokens=20, temperature=0)])
    ids = torch.tensor([TEXT[:20]])
    theirs = made.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, pad_token_id=0
    )
    assert reply.result.tokens == tuple(theirs[0, 20:].tolist())
    backend.clear()
    np.testing.assert_allclose(scored(model), wanted(made), atol=2e-5)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_of_any_float_type_are_converted(stored, dtype, tmp_path):
    path, _ = saved(tmp_path, "qwen2 tied", stored)
    model, *_ = load_model(path, dtype=dtype, trainable=False)
    made, *_ = load_model(path, dtype="float32")
    near = 2e-5 if dtype == "float32" else 0.15
    assert str(model.dtype) == f"torch.{dtype}"
    np.testing.assert_allclose(scored(model), wanted(made), atol=near)


@pytest.mark.thorough
def test_bfloat16_gives_a_text_the_same_numbers_in_any_company(tmp_path):
    path, _ = saved(tmp_path, "qwen3")
    model, *_ = load_model(path, dtype="bfloat16", trainable=False)
    rng = np.random.default_rng(1)
    prompts = [
        TEXT[: rng.integers(1, 30)] + tuple(rng.integers(0, 256, rng.integers(0, 9)).tolist())
        for _ in range(20)
    ]

    def replies(slots, pool):
        engine = Engine(model, tiny.tokenizer(), tiny.head(64), slots=slots, pool_tokens=pool)
        return [
            reply.result
            for reply in tiny.answers(
                engine, [Generate(p, max_tokens=9, seed=i) for i, p in enumerate(prompts)]
            )
        ]

    first = replies(20, 4096)
    for slots, pool in ((20, 120), (1, 4096), (3, 90)):
        for ours, theirs in zip(replies(slots, pool), first, strict=True):
            assert (
                ours.tokens == theirs.tokens
                and ours.log_probs.tobytes() == theirs.log_probs.tobytes()
            )


@pytest.mark.thorough
def test_the_number_of_threads_changes_no_bit(tmp_path):
    """Products as wide and as deep as those of a real model, which are shared out between
    threads.
    """
    options = {
        "hidden_size": 512,
        "intermediate_size": 4864,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 6000,
    }
    path, _ = saved(tmp_path, "qwen2", **options, num_hidden_layers=1, initializer_range=0.05)
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert torch.get_num_threads() == count
            for dtype in ("float32", "bfloat16"):
                model, tokenizer, *_ = load_model(path, dtype=dtype, trainable=False)
                asked = [Generate(tuple(range(i, i + 6)), max_tokens=2, seed=i) for i in range(33)]
                asked.append(Generate((5,) * 9, max_tokens=4))
                found.append(
                    [r.result for r in tiny.answers(Engine(model, tokenizer, slots=33), asked)]
                )
    finally:
        torch.set_num_threads(1)
    for ours, theirs in zip(found[:2], found[2:], strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert (
                one.tokens == other.tokens and one.log_probs.tobytes() == other.log_probs.tobytes()
            )
    assert any(
        one.log_probs.tobytes() != other.log_probs.tobytes()
        for one, other in zip(*found[:2], strict=True)
    )


def environment(threads):
    """With the repository and the tests on the path."""
    import os
    from pathlib import Path

    root = Path(__file__).resolve().parent.parent.parent
    return os.environ | {
        "OMP_NUM_THREADS": threads,
        "PYTHONPATH": f"{root / 'tests' / 'helpers'}{os.pathsep}{root}",
    }


CHANGES = {
    "an activation": {"hidden_act": "gelu"},
    "a rope": {
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 4.0,
            "rope_theta": 500.0,
            "original_max_position_embeddings": 64,
        }
    },
    "a part of each head": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 500.0,
            "partial_rotary_factor": 0.5,
        }
    },
    "a name": {"logit_scale": 2.0},
    "a class": {"architectures": ["LlamaForSomething"]},
    "a kind": {"model_type": "mixtral"},
    "a layer type": {"layer_types": ["chunked_attention"] * 3},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_known_is_left_to_transformers(change, tmp_path):
    path, _ = saved(tmp_path, "llama")
    raw = json.loads((path / "config.json").read_text())
    assert Llama.open(path, torch.float32) is not None and read_config(raw) is not None
    (path / "config.json").write_text(json.dumps(raw | CHANGES[change]))
    assert Llama.open(path, torch.float32) is None


def test_tensors_that_do_not_fit_are_left_to_transformers_which_names_them(tmp_path):
    path, _ = saved(tmp_path, "llama")
    (path / "SHA256SUMS").unlink()
    file = path / "model.safetensors"
    tensors = load_file(file)
    save_file(
        {k: v for k, v in tensors.items() if "layers.1.mlp.up_proj" not in k},
        file,
        {"format": "pt"},
    )
    with pytest.raises(
        ValueError,
        match=r"missing tensors model.layers.1.mlp.up_proj.weight: .*copy the checkpoint",
    ):
        load_model(path, trainable=False)
    save_file(
        tensors | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(96)}, file, {"format": "pt"}
    )
    with pytest.raises(ValueError, match="unexpected tensors .*q_proj.bias"):
        load_model(path, trainable=False)
    save_file(tensors, file, {"format": "pt"})
    content = file.read_bytes()
    for size in (4, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"model.safetensors (is|cannot).*: (copy|save)"):
            load_model(path, trainable=False)


def test_shards_are_read(tmp_path):
    path, made = saved(tmp_path, "llama biased")
    (path / "SHA256SUMS").unlink()
    made.save_pretrained(path, max_shard_size="60KB")
    (path / "model.safetensors").unlink()
    assert len(list(path.glob("*.safetensors"))) > 2
    model, *_ = load_model(path, trainable=False)
    assert type(model) is Llama
    np.testing.assert_allclose(scored(model), wanted(made), atol=2e-5)


@pytest.mark.thorough
def test_a_native_checkpoint_needs_no_transformers(tmp_path):
    path, _ = saved(tmp_path, "llama")
    code = (
        "import sys, torch; from pathlib import Path; from models.checkpoints.llama_weights "
        "import Llama; "
        "from models import Engine; import tokenless\n"
        "model = Llama.open(Path(sys.argv[1]), torch.float32); Engine(model, tokenless.Tokens())\n"
        "print('transformers' in sys.modules)"
    )
    (tmp_path / "tokenless.py").write_text(
        "class Tokens:\n    eos_token_id = None\n    def __len__(self): return 258\n"
        "    def encode(self, text): return list(text.encode())\n    def decode(self, ids, "
        "**more): return bytes(ids).decode()\n"
    )
    more = environment("1")
    more["PYTHONPATH"] += f":{tmp_path}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, env=more
    )
    assert done.stdout.strip() == "False", done.stderr
