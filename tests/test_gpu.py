"""The engine on a GPU: the same tokens in float32 as on the CPU, nearly the same log-probs in bfloat16, and a whole search."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny
import torch

import guides
import search
from guides.examples import ExampleFile, Segment, collate, write_examples
from guides.train import Options, train
from models import Engine
from search.requests import Generate

pytestmark = pytest.mark.gpu

REQUESTS = [Generate(tuple(range(40 + i, 60 + i)), max_tokens=12, temperature=0.0, seed=i) for i in range(20)]


def results(device: str, dtype: torch.dtype):
    engine = Engine(tiny.model("llama").to(dtype), tiny.tokenizer(), head=tiny.head(), device=device, pool_tokens=4096)
    return [reply.result for reply in tiny.answers(engine, REQUESTS)]


def test_float32_gives_the_tokens_of_the_cpu():
    for ours, theirs in zip(results("cuda", torch.float32), results("cpu", torch.float32), strict=True):
        assert ours.tokens == theirs.tokens
        assert np.allclose(ours.log_probs, theirs.log_probs, atol=1e-3)


def test_bfloat16_is_near():
    for ours, theirs in zip(results("cuda", torch.bfloat16), results("cpu", torch.float32), strict=True):
        assert abs(float(ours.log_probs[0]) - float(theirs.log_probs[0])) < 0.5


def test_recorded_passes_are_replayed():
    engine = Engine(tiny.model("llama"), tiny.tokenizer(), head=tiny.head(), device="cuda", pool_tokens=4096)
    first = [reply.result.tokens for reply in tiny.answers(engine, REQUESTS)]
    recorded = len(engine._pass._graphs._shapes)
    engine.clear()
    again = [reply.result.tokens for reply in tiny.answers(engine, [dataclasses.replace(r) for r in REQUESTS])]
    assert again == first and recorded and len(engine._pass._graphs._shapes) == recorded


def test_seeds_draw_on_the_device_what_they_draw_on_the_processor():
    requests = [dataclasses.replace(r, temperature=1.0, top_p=0.9 if i % 3 == 0 else 1.0) for i, r in enumerate(REQUESTS)]
    made = [Engine(tiny.model("llama"), tiny.tokenizer(), device=device, pool_tokens=4096) for device in ("cuda", "cpu")]
    ours, theirs = ([r.result.tokens for r in tiny.answers(engine, [dataclasses.replace(q) for q in requests])] for engine in made)
    assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= len(requests) - 1


def test_the_built_in_model_solves_puzzles():
    puzzles = ["Use 4, 7, 8 and 8 to make 24.", "Use 1, 2, 4 and 7 to make 24.", "Use 6, 8, 9 and 13 to make 24."]
    solutions = search.solve_many(puzzles, guides.load("builtin", device="cuda"), budget="tokens=4000")
    assert sum(bool(s.verified) for s in solutions) >= 2


def test_training_there_is_training_here(tmp_path):
    """Texts of unequal lengths, so that there is padding; float32, so that the losses are those of the CPU."""
    rng = np.random.default_rng(0)
    texts = [[tuple(rng.integers(*part).tolist()) for part in ((0, 50, 5), (0, 25, rng.integers(1, 40)), (25, 50, 7))] for _ in range(64)]
    chains = [[Segment(a, 0.0, np.nan, -1), Segment(b, 1.0, 1.0, 0), Segment(c, 0.0, 0.0, 0)] for a, b, c in texts]
    write_examples(tmp_path / "examples.npz", chains)
    rows = ExampleFile(tmp_path / "examples.npz")
    report = {}
    for precision in ("float32", "bfloat16"):
        model, head = tiny.model("llama"), tiny.head()
        options = Options(steps=30, batch=16, lr=3e-3, warmup=3, compile=False, precision=precision)
        train(model, head, rows, tmp_path / precision, options)
        model, head = model.cpu().eval(), head.cpu()
        batch = collate([rows[i] for i in range(16)])
        mask = torch.zeros(batch["visible"].shape).masked_fill(~batch["visible"], -1e9)[:, None]
        with torch.no_grad():
            hidden = model.get_decoder()(batch["tokens"], position_ids=batch["positions"], attention_mask=mask).last_hidden_state
        told = ~batch["values"].isnan()
        report[precision] = float(((head(hidden[told]) > 0.5) == (batch["values"][told] > 0.5)).float().mean())
    assert min(report.values()) > 0.9, report
