"""The engine by the kernels of the GPU, which a CPU interprets: its text is that of
transformers, its numbers those of the CPU's engine.
"""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import weakref
from unittest import mock

import families
import numpy as np
import on_gpu
import pytest
import tiny
import torch

from models import Engine
from models.engine import gpu
from models.engine.cuda_graphs import Graphs, bucket
from models.engine.forward import Chunk
from models.engine.kv_pool import Store
from models.engine.sequences import DONE
from search.scheduling.requests import Avoided, Cancelled, Generate, Score

SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture(autouse=True)
def kernels_everywhere(monkeypatch):
    monkeypatch.setattr(gpu, "has_kernels", lambda device: True)


def engine(model, **options):
    return Engine(
        model,
        tiny.tokenizer(),
        **{"slots": 4, "pool_tokens": 128, "device": on_gpu.DEVICE} | options,
    )


def generated(model, prompt, tokens):
    """Greedy continuation by transformers."""
    ids = torch.tensor([prompt], device=model.device)
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return tuple(out[0, len(prompt) :].tolist())


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["qwen2 window", "gemma3"])
def test_greedy_text_is_that_of_transformers(name):
    """A forward of our own with windows and biases, and a model's own modules, whose heads are
    four to a key head of size 24.
    """
    backend = engine(
        families.model(
            name, num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"]
        )
    )
    assert backend.path == ("modules" if name == "gemma3" else "fused")
    texts = [tuple(range(40, 56)), (*range(40, 50), 7)]
    replies = tiny.answers(backend, [Generate(text, max_tokens=4, temperature=0) for text in texts])
    for text, reply in zip(texts, replies, strict=True):
        assert reply.error is None and reply.result.tokens == generated(backend.model, text, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, dtype",
    [
        ("llama biased", torch.bfloat16),
        ("qwen3", torch.float32),
        ("mistral window", torch.bfloat16),
        ("phi", torch.float32),
    ],
)
def test_hidden_states_are_those_of_the_model(name, dtype):
    """Two chunks, then steps beside another text with the same beginning; in bfloat16 as near to
    float32 as the model's own.
    """
    made = families.model(name, num_hidden_layers=2)
    ids = tuple(range(60, 78))
    exact = families.forward(made, ids)[1]
    made = made.to(dtype).to(on_gpu.DEVICE)
    with torch.inference_mode():
        theirs = (
            made(torch.tensor([ids], device=on_gpu.DEVICE), output_hidden_states=True)
            .hidden_states[-1][0]
            .float()
            .cpu()
        )
    backend = engine(made)
    assert backend.path == ("modules" if name == "phi" else "fused")
    passes, store = backend._pass, backend._store
    store.table[0, :18] = store.table[1, :18] = np.arange(20, 38)
    store.table[1, 17] = 5
    none = np.empty(0, np.int64)
    with torch.inference_mode():
        read = [
            passes.forward(none, none, none, [Chunk(0, ids[:4], 0)]).clone(),
            passes.forward(none, none, none, [Chunk(0, ids[4:-1], 4)]),
        ]
        read.append(
            passes.forward(np.array([1, 0]), np.array([ids[-1]] * 2), np.array([18, 18]), [])
        )
    ours = torch.cat(read).float().cpu()
    theirs, exact = (torch.cat([states, states[-1:]]) for states in (theirs, exact))
    assert float((ours - exact).abs().max()) <= (
        1e-4 if dtype == torch.float32 else 2 * float((theirs - exact).abs().max())
    )


@pytest.mark.thorough
def test_what_it_says_of_texts_is_what_the_model_says():
    """Log-probs, values, draws without what was given before, stop strings, texts that are
    scored.
    """
    model, head = tiny.model(**SMALL), tiny.head().requires_grad_(False)
    backend = engine(model, head=head)
    text = (65, 66, 67, 68, 69)
    stop = tuple(tiny.tokenizer().decode([token]) for token in range(128))
    first = tiny.answers(backend, [Generate(text, stop, 6, 1.0, seed=seed) for seed in range(3)])
    assert len({reply.result.tokens for reply in first}) > 1
    given = Avoided(first[0].result.tokens, tuple(map(float, first[0].result.sampled_log_probs)))
    again = tiny.answers(
        backend,
        [
            Generate(text, stop, 6, 1.0, seed=0, avoid=(given,)),
            Generate(text, stop, 6, 0.7, 4, 0.9, seed=1),
        ],
    )
    assert again[0].result.tokens[: len(given.tokens)] != given.tokens
    assert any(reply.result.finish == "stop" for reply in first + again)
    for reply in first + again:
        whole, count = text + reply.result.tokens, len(reply.result.tokens)
        logits, hidden = families.forward(model.to(on_gpu.DEVICE), whole)
        table = torch.log_softmax(torch.from_numpy(logits), -1).numpy()
        np.testing.assert_allclose(
            reply.result.log_probs,
            table[np.arange(len(text) - 1, len(whole) - 1), whole[-count:]],
            atol=1e-4,
        )
        if reply.result.finish != "length":
            assert abs(reply.result.value - float(head(hidden[-1]))) < 1e-4
    (scored,) = tiny.answers(backend, [Score(whole, (2, len(whole) - 1), (1, 5))])
    np.testing.assert_allclose(
        scored.result.log_probs[1:], table[np.arange(len(whole) - 1), whole[1:]], atol=1e-4
    )
    np.testing.assert_allclose(
        scored.result.reads, table[[2, len(whole) - 1]][:, [1, 5]], atol=1e-4
    )
    np.testing.assert_allclose(
        scored.result.values, head(hidden[[2, len(whole) - 1]]).cpu(), atol=1e-4
    )
    backend._store.tree.check([])


@pytest.mark.thorough
def test_a_request_that_has_ended_can_still_be_given_up():
    backend = engine(tiny.model(**SMALL))
    stop = tuple(tiny.tokenizer().decode([token]) for token in range(256))
    request = Generate((65, 66, 67), stop, 6, temperature=0)
    backend.submit(request)
    while not (backend._rows.stage == DONE).any():
        assert not backend.poll(0) and backend.counts.passes < 5
    backend.cancel(request)
    (reply,) = backend.poll(0)
    assert isinstance(reply.error, Cancelled) and reply.usage.generated == 1 and not backend.poll(0)
    assert not backend._rows.running and not backend._rows.stage.any()
    backend._store.tree.check([])


def test_buckets_are_few_and_near():
    sizes = [bucket(rows) for rows in range(1, 513)]
    assert all(rows <= size for rows, size in enumerate(sizes, 1)) and len(set(sizes)) == 27
    assert (
        all(size <= max(rows + 7, 1.25 * rows) for rows, size in enumerate(sizes, 1))
        and sizes[63] == 64
        and sizes[255] == 256
    )


@pytest.mark.thorough
def test_what_a_recorded_pass_reads_lives_as_long_as_the_recording(monkeypatch):
    """A GPU replays kernels on the memory of the tensors that they were recorded with, whether
    those are still there or not.
    """
    calls = {
        "stream": contextlib.nullcontext,
        "graph": lambda graph, pool: contextlib.nullcontext(),
    }
    for name in ("graph_pool_handle", "Stream", "current_stream", "CUDAGraph"):
        calls[name] = mock.MagicMock()
    for name, call in calls.items():
        monkeypatch.setattr(torch.cuda, name, call)
    seen = []

    def forward(ids, positions, plan):
        seen.extend([weakref.ref(plan), weakref.ref(plan.gpu)])
        return torch.zeros(len(ids), 4)

    store = Store(tiny.model().config, 2, 64, torch.device("cpu"), torch.float32)
    graphs = Graphs(forward, store)
    for _ in range(2):
        assert graphs(np.array([0, 1]), np.array([5, 6]), np.array([1, 1])).shape == (2, 4)
    gc.collect()
    assert len(seen) == 6 and all(each() is not None for each in seen), (
        "recorded once, after two passes that warm it up"
    )
    store.reserve(3000)
    # more than the list of slots has room for
    graphs(np.array([0, 1]), np.array([5, 6]), np.array([1, 3000]))
    gc.collect()
    assert len(seen) == 12 and [each() is None for each in seen] == [True] * 6 + [False] * 6
    del graphs
    gc.collect()
    assert all(each() is None for each in seen)


@pytest.mark.thorough
def test_the_weights_are_there_once_and_can_still_be_trained():
    model = families.model("qwen2", num_hidden_layers=1)
    before = {name: weights.detach().clone() for name, weights in model.named_parameters()}
    backend = engine(model)
    assert backend.path == "fused"
    layer = model.model.layers[0].self_attn
    assert (
        layer.q_proj.weight.untyped_storage().data_ptr()
        == layer.k_proj.weight.untyped_storage().data_ptr()
    )
    assert all(
        torch.equal(weights.cpu(), before[name]) for name, weights in model.named_parameters()
    )
    model(torch.tensor([[1, 2, 3]], device=on_gpu.DEVICE)).logits.sum().backward()
    with torch.no_grad():
        for weights in model.parameters():
            assert weights.grad is not None
            weights.sub_(0.01 * weights.grad)
    backend.clear()
    (reply,) = tiny.answers(backend, [Generate((5, 6, 7), max_tokens=2, temperature=0)])
    assert reply.result.tokens == generated(model, (5, 6, 7), 2)


COMPILES = """
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from models.engine import llama_gpu, sampling_gpu, tree_attention_gpu

def compiled(kernel, constants, bits="bf16", **options):
    types = {
        "_stride": "i32", "write": "*i32", "cells": "*i32", "tiles": "*i32", "partial": "*fp32",
        "sums": "*fp32", "scale": "fp32", "cap": "fp32", "window": "i32", "first": "i32",
        "epsilon": "fp32", "cosines": "*fp32", "sines": "*fp32", "positions": "*i32",
        "options": "*fp64", "found": "*fp64", "drawn": "*fp64", "stride": "i32", "blocks": "i32",
        "key_token": "i32", "key_head": "i32", "value_token": "i32", "value_head": "i32",
    }
    signature, aligned = {}, {}
    for i, name in enumerate(kernel.arg_names):
        kind = types.get(name, "i32" if name.endswith("_stride") else "*" + bits)
        signature[name] = "constexpr" if name in constants else kind
        if name not in constants and (kind.startswith("*") or name.endswith("_stride")):
            aligned[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert made.metadata.shared <= 232448, (kernel, made.metadata.shared)
    assert "st.local" not in made.asm["ptx"], kernel
    return made

shape = dict(EACH=6, GROUP=8, DIM=128, BLOCK_D=128, BLOCK_N=64, SPLITS=2, LEAST=128)
shape |= dict(CAPPED=False, PRODUCT=tl.bfloat16)
for many in (False, True):
    constants = shape | dict(BLOCK_M=64 if many else 16, MANY=many)
    made = compiled(tree_attention_gpu._attend_kernel, constants, num_warps=4, num_stages=3)
    assert ("wgmma" if many else "mma.sync") in made.asm["ptx"] and "cp.async" in made.asm["ptx"]
compiled(tree_attention_gpu._merge_kernel, dict(DIM=128, BLOCK_D=128, SPLITS=2), num_warps=2)
compiled(tree_attention_gpu._write_kernel, dict(DIM=128, BLOCK_D=128))
compiled(llama_gpu._norm_kernel, dict(SIZE=1536, BLOCK=2048, ADD=True))
heads = dict(HEADS=12, KV_HEADS=2, DIM=128, BLOCK=64)
bare = dict(q_norm=None, k_norm=None, NORMED=False)
compiled(llama_gpu._turn_kernel, heads | bare, num_warps=1)
compiled(llama_gpu._turn_kernel, heads | dict(NORMED=True), num_warps=1)
compiled(llama_gpu._gate_kernel, dict(SIZE=8960, BLOCK=1024))
compiled(sampling_gpu._sums_kernel, dict(VOCABULARY=151936, SIZE=4096), num_warps=8)
compiled(sampling_gpu._pick_kernel, dict(VOCABULARY=151936, SIZE=4096, BLOCKS=64), num_warps=8)
print("compiled")
"""


@pytest.mark.thorough
def test_all_kernels_compile_for_a_gpu(tmp_path):
    """For an H200, at the sizes of Qwen2 1.5B, in a process without interpreter: no spills,
    tensor cores, copies that run ahead.
    """
    settings = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILES],
        env=settings | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.stdout.strip() == "compiled", done.stderr[-3000:]
