"""The engine on a GPU: the same tokens in float32 as on the CPU, nearly the same log-probs in
bfloat16, and a whole search.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import on_gpu  # noqa: F401
import pytest
import tiny
import torch

import guides
import search
from guides.data.examples import ExampleFile, Segment, collate, write_examples
from guides.training.options import Options
from guides.training.train import train
from guides.training.tree_attention import added, visible
from models import Engine
from models.engine.kv_pool import Store
from models.engine.sampling_gpu import draw_on
from models.engine.tree_attention_gpu import TreeAttention
from search.scheduling.requests import Generate

pytestmark = pytest.mark.gpu

REQUESTS = [
    Generate(tuple(range(40 + i, 60 + i)), max_tokens=12, temperature=0.0, seed=i)
    for i in range(20)
]


def results(device: str, dtype: torch.dtype):
    engine = Engine(
        tiny.model("llama").to(dtype),
        tiny.tokenizer(),
        head=tiny.head(),
        device=device,
        pool_tokens=4096,
    )
    return [reply.result for reply in tiny.answers(engine, REQUESTS)]


def test_float32_gives_the_tokens_of_the_cpu():
    for ours, theirs in zip(
        results("cuda", torch.float32), results("cpu", torch.float32), strict=True
    ):
        assert ours.tokens == theirs.tokens
        assert np.allclose(ours.log_probs, theirs.log_probs, atol=1e-3)


def test_bfloat16_is_near():
    for ours, theirs in zip(
        results("cuda", torch.bfloat16), results("cpu", torch.float32), strict=True
    ):
        assert abs(float(ours.log_probs[0]) - float(theirs.log_probs[0])) < 0.5


def test_recorded_passes_are_replayed():
    engine = Engine(
        tiny.model("llama"), tiny.tokenizer(), head=tiny.head(), device="cuda", pool_tokens=4096
    )
    assert engine.path == "fused"
    first = [reply.result.tokens for reply in tiny.answers(engine, REQUESTS)]
    recorded = dict(engine._pass._graphs.recorded)
    again = [
        reply.result.tokens
        for reply in tiny.answers(engine, [dataclasses.replace(r) for r in REQUESTS])
    ]
    assert again == first and recorded and engine._pass._graphs.recorded == recorded
    engine.clear()  # weights may have changed: recorded anew
    again = [
        reply.result.tokens
        for reply in tiny.answers(engine, [dataclasses.replace(r) for r in REQUESTS])
    ]
    assert again == first


def test_the_same_seed_draws_the_same_beside_any_neighbours():
    """In float32, where the number of rows hardly shows; truncated and not."""
    requests = [
        dataclasses.replace(r, temperature=1.0, top_p=0.9 if i % 3 == 0 else 1.0)
        for i, r in enumerate(REQUESTS)
    ]
    made = [
        Engine(tiny.model("llama"), tiny.tokenizer(), device="cuda", slots=slots, pool_tokens=4096)
        for slots in (32, 3)
    ]
    ours, theirs = (
        [r.result.tokens for r in tiny.answers(engine, [dataclasses.replace(q) for q in requests])]
        for engine in made
    )
    assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= len(requests) - 1


@pytest.mark.parametrize("shape", [(12, 2, 128), (32, 8, 64), (8, 4, 256), (4, 4, 80)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_attention_over_many_long_texts(shape, dtype):
    """256 rows of texts of up to 2,000 tokens and a chunk of 300, against torch's own attention
    a row at a time.
    """
    heads, kv_heads, dim = shape
    config = SimpleNamespace(
        num_hidden_layers=1, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=dim,
        hidden_size=8
    )  # fmt: skip
    config.get_text_config = lambda: config
    rng, device = np.random.default_rng(0), torch.device("cuda")
    store = Store(config, 257, 20_000, device, dtype)
    store.reserve(2000)
    store.pool.normal_(generator=torch.Generator(device).manual_seed(0))
    store.table[:] = rng.integers(0, 20_000, store.table.shape)
    rows, ends, chunks = (
        np.arange(256),
        rng.integers(1, 2000, 256),
        np.array([[256, 256, 700, 300]]),
    )
    write = np.concatenate([store.table[rows, ends - 1], store.table[256, 700:1000]]).astype(
        np.int64
    )
    query = torch.randn(556, heads * dim, device=device, dtype=dtype)
    for cap, window in ((0.0, 0), (30.0, 200)):
        found = (
            TreeAttention.of(store, rows, ends, chunks, write)
            .attend(0, query, dim**-0.5, cap, window)
            .float()
        )
        owners = [(row, row, end) for row, end in zip(rows.tolist(), ends.tolist(), strict=True)]
        owners += [(256 + i, 256, 701 + i) for i in range(0, 300, 7)]
        for token, row, end in owners:
            seen = torch.from_numpy(
                store.table[row, max(0, end - window) if window else 0 : end].astype(np.int64)
            ).to(device)
            keys, values = (
                store.pool[0, side, seen].float().repeat_interleave(heads // kv_heads, 1)
                for side in (0, 1)
            )
            scores = (
                torch.einsum("hd,nhd->hn", query[token].float().view(heads, dim), keys) * dim**-0.5
            )
            scores = cap * torch.tanh(scores / cap) if cap else scores
            wanted = torch.einsum("hn,nhd->hd", scores.softmax(1), values).flatten()
            torch.testing.assert_close(
                found[token], wanted, atol=2e-2 if dtype == torch.bfloat16 else 1e-4, rtol=0
            )


def test_draws_over_a_whole_vocabulary_have_the_frequencies_of_the_model():
    """Chi-square of the 20 likeliest of 151,936 tokens and all others together, over 20,000
    seeds.
    """
    logits = torch.randn(151_936, generator=torch.Generator().manual_seed(0)) * 3
    share = logits.double().softmax(0).numpy()
    likeliest = np.argsort(-share)[:20]
    tokens = []
    for start in range(0, 20_000, 1000):
        rows = logits.to("cuda").expand(1000, -1)
        options = np.zeros(1000), np.ones(1000), np.zeros(1000, int), np.ones(1000), np.zeros(1000)
        tokens.append(draw_on(rows, np.arange(start, start + 1000), *options).tokens)
    counts = np.array([(np.concatenate(tokens) == token).sum() for token in likeliest])
    wanted = 20_000 * share[likeliest]
    rest = (20_000 - counts.sum() - 20_000 + wanted.sum()) ** 2 / (20_000 - wanted.sum())
    assert ((counts - wanted) ** 2 / wanted).sum() + rest < 45.3  # 0.999 of 20 degrees of freedom


def test_the_built_in_model_solves_puzzles():
    puzzles = [
        "Use 4, 7, 8 and 8 to make 24.",
        "Use 1, 2, 4 and 7 to make 24.",
        "Use 6, 8, 9 and 13 to make 24.",
    ]
    solutions = search.solve_many(
        puzzles, guides.load("builtin", device="cuda"), budget="tokens=4000"
    )
    assert sum(bool(s.verified) for s in solutions) >= 2


def test_training_there_is_training_here(tmp_path):
    """Texts of unequal lengths, so that there is padding; float32, so that the losses are those
    of the CPU.
    """
    rng = np.random.default_rng(0)
    texts = [
        [
            tuple(rng.integers(*part).tolist())
            for part in ((0, 50, 5), (0, 25, rng.integers(1, 40)), (25, 50, 7))
        ]
        for _ in range(64)
    ]
    chains = [
        [Segment(a, 0.0, np.nan, -1), Segment(b, 1.0, 1.0, 0), Segment(c, 0.0, 0.0, 0)]
        for a, b, c in texts
    ]
    write_examples(tmp_path / "examples.npz", chains)
    rows = ExampleFile(tmp_path / "examples.npz")
    report = {}
    for precision in ("float32", "bfloat16"):
        model, head = tiny.model("llama"), tiny.head()
        options = Options(steps=30, batch=16, lr=3e-3, warmup=3, compile=False, precision=precision)
        train(model, head, rows, tmp_path / precision, options)
        model, head = model.cpu().eval(), head.cpu()
        batch = collate([rows[i] for i in range(16)])
        mask = added(visible(batch["ends"]), torch.float32)
        model.set_attn_implementation("eager")
        with torch.no_grad():
            hidden = model.get_decoder()(
                batch["tokens"], position_ids=batch["positions"], attention_mask=mask
            ).last_hidden_state
        told = ~batch["values"].isnan()
        report[precision] = float(
            ((head(hidden[told]) > 0.5) == (batch["values"][told] > 0.5)).float().mean()
        )
    assert min(report.values()) > 0.9, report
