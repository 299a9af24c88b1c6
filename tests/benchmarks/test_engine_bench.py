"""The benchmark of the engine on tiny models: the same tokens every way, forests as described,
rows complete. No times.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import families
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from benchmarks.engine import expansion, gpu, overhead, workloads
from benchmarks.engine import run as engine
from benchmarks.engine.expansion import Expansion, distinct, forest, gumbel
from benchmarks.engine.gather import Gather

YARDSTICKS = Path(
    os.environ.get("COPSE_YARDSTICKS")
    or Path(__file__).resolve().parents[3] / "shared" / "yardsticks"
)
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 48,
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(workloads, "SMALL", TINY)


def said(model, text, noise):
    """Tokens that are the largest of logits plus noise, float32 [new, vocabulary], each by a
    pass over the whole text.
    """
    for row in noise.numpy():
        logits, _ = families.forward(model, text)
        text += (int((logits[-1] + row).argmax()),)
    return text[-len(noise) :]


def test_the_small_model_is_that_of_the_yardsticks(monkeypatch):
    path = YARDSTICKS / "lm_min.py"
    if not path.exists():
        pytest.skip(f"{path} is not there: name its folder in COPSE_YARDSTICKS")
    spec = importlib.util.spec_from_file_location("lm_min", path)
    yardstick = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(yardstick)
    monkeypatch.undo()
    ours, theirs = workloads.small_model(), yardstick.hf_model()
    assert sum(weights.numel() for weights in ours.parameters()) == 4_877_568
    for (name, one), (other_name, other) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == other_name and torch.equal(one, other)
    ids = workloads.prompts(2, 9)
    assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_forests_have_the_shape_that_is_asked_for():
    two = forest([(1, 8), (4, 5)], trees=3)
    assert (
        [len(text) for text in two] == [13] * 12
        and len({text[:8] for text in two}) == 3
        and len(set(two)) == 12
    )
    assert distinct(two) == len({text[:end] for text in two for end in range(1, 14)})
    unequal = forest([(1, 8), (4, 5)], trees=3, spread=0.75)
    assert sum(map(len, unequal)) != 13 * 12 or len(set(map(len, unequal))) > 3
    assert sum(len(text) for text in {text[:8] for text in two}) == 24
    nodes = forest([(1, 8)], trees=6, spread=0.75)
    assert (
        sum(map(len, nodes)) == 48 and len(set(map(len, nodes))) > 2 and min(map(len, nodes)) >= 2
    )
    assert distinct([(1, 2), (1, 2, 3), (2,), (1, 4)]) == 5 and distinct([]) == 0


def test_all_forests_have_as_long_contexts_and_ten_levels_split():
    made = expansion.shapes(trees=2, leaves=8, shared=40, own=10)
    assert {name: len(texts) for name, texts in made.items()} == dict.fromkeys(made, 16)
    assert all(
        np.mean([len(text) for text in texts]) == 50
        for name, texts in made.items()
        if name != "unequal lengths"
    )
    counts = [len({text[:end] for text in made["ten levels"]}) for end in range(5, 51, 5)]
    assert counts == [2, 2, 2, 2, 2, 2, 2, 4, 8, 16]
    assert (
        distinct(made["nothing shared"])
        > distinct(made["two levels"])
        > distinct(made["ten levels"])
    )
    with pytest.raises(ValueError, match="power of two"):
        expansion.shapes(1, 6, 40, 10)


@pytest.mark.thorough
@pytest.mark.parametrize("spread", [0.0, 0.9])
def test_gather_and_engine_say_what_full_passes_say(spread):
    model, contexts, kids = workloads.small_model(), forest([(1, 7), (3, 5)], 2, spread), 2
    noise = gumbel(5, len(contexts) * kids)
    gather, ours = Gather(model, contexts, kids, 5), Expansion(model, contexts, kids, noise)
    with torch.inference_mode():
        expected = [said(model, text, noise[:, place]) for place, text in enumerate(ours.contexts)]
        for _ in range(2):
            assert [tuple(row) for row in gather(noise).tolist()] == expected
            assert [tuple(row) for row in ours().tolist()] == expected
            before = ours.engine.counts.read
            ours.forget()
            assert ours.engine.counts.read - before == distinct(contexts)
    assert gather.bytes > distinct(contexts) * ours.engine.kv_bytes_per_token
    texts = [text + tokens[:-1] for text, tokens in zip(ours.contexts, expected, strict=True)]
    assert ours.read == ours.stored == distinct(texts)
    assert sum(reply.usage.prefilled for reply in ours.replies) == 0


@pytest.mark.thorough
def test_the_adapters_of_the_yardsticks(monkeypatch):
    monkeypatch.setattr(expansion, "READY", 2)
    model, ids, noise = workloads.small_model(), workloads.prompts(3, 6), gumbel(4, 6)
    d = {"model": model, "ids": ids, "kids": 2, "gumbel": noise, "state": {}}
    first = engine.tree_expand(d)
    assert first.shape == (6, 4) and tuple(first[3].tolist()) == said(
        model, tuple(ids[1].tolist()), noise[:, 3]
    )
    made, grown = list(d["state"]["ready"]), []
    for _ in range(4):
        before = sum(one.engine.counts.read for one in made)
        assert torch.equal(first, engine.tree_expand(d))
        grown.append(sum(one.engine.counts.read for one in made) - before)
    whole = distinct(
        [
            text + tuple(tokens[:-1])
            for text, tokens in zip(made[0].contexts, first.tolist(), strict=True)
        ]
    )
    # all that is generated is read every time, and in the end the contexts too
    assert grown == [whole - 18, whole - 18, whole, whole]
    expected = workloads.by_generate(model, 5)(ids)
    assert torch.equal(engine.decode(model, ids, 5), expected) and torch.equal(
        engine.decode(model, ids, 5), expected
    )


@pytest.mark.thorough
def test_every_way_of_decoding_gives_the_same_tokens():
    rows = engine.speeds([3], prompt=6, new=4, rounds=1)
    assert [(row["batch"], row["way"]) for row in rows] == [
        (3, "generate"),
        (3, "continuous batching"),
        (3, "copse"),
    ]
    assert all(row["same"] == 1 and row["rate"] > 0 and len(row["each"]) == 1 for row in rows)
    assert [row["slot_use"] for row in rows] == [None, None, 1.0]


@pytest.mark.thorough
def test_the_rows_of_expansions():
    rows = engine.expansions(trees=2, leaves=4, shared=20, own=10, kids=2, new=3, rounds=1)
    assert [row["way"] for row in rows] == ["generate", "gather", "copse"] * 4
    assert len({row["forest"] for row in rows}) == 4
    for row in rows:
        assert (
            row["bytes"] > 0
            and row["cpu_times"] > 0
            and (row["same"] == 1 or row["way"] == "generate")
        )
        assert (row["read"] is None) == (row["way"] != "copse") and (
            row["read"] is None or 1 <= row["read"] < 1.5
        )
    sizes = {row["forest"]: row["bytes"] for row in rows if row["way"] == "copse"}
    assert sizes["two levels"] < sizes["nothing shared"]


@pytest.mark.thorough
def test_what_is_outside_the_forward_is_part_of_the_whole():
    row = overhead.churned(workloads.small_model(), slots=4, count=32, rounds=1)
    assert 0 < row["outside"] < row["all"] and 0 < row["slot_use"] <= 1 and 1 <= row["rows"] <= 4
    assert len({request.max_tokens for request in overhead.requests(50, 0)}) > 10


def test_the_gpu_rows_on_a_tiny_model(monkeypatch):
    assert gpu.bandwidth("cpu", 1 << 20) > 1e6
    monkeypatch.setattr(gpu, "bandwidth", lambda device: 1e9)
    shape = {
        "vocab_size": 256,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    model = gpu.model("cpu", torch.float32, num_key_value_heads=1, **shape)
    assert model.num_parameters() < 30_000 and model.dtype == torch.float32
    rows = gpu.shared_and_not(model, [4], context=20, shared=12, group=2, new=3, rounds=1)
    assert [row["shared"] for row in rows] == ["nothing", "12 by 2"]
    # layers, keys and values, a head's size padded to 16; the hidden state; bytes
    size = (2 * 2 * 16 + 32) * 4
    tokens = [4 * 20 + 4 * 1.5, 2 * 12 + 4 * 8 + 4 * 1.5]
    for row, there in zip(rows, tokens, strict=True):
        assert row["least"] == pytest.approx((model.num_parameters() * 4 + there * size) / 1e9)
        assert (
            row["share"] == pytest.approx(row["least"] / row["step"])
            and row["peak"] >= (there - 6) * size
        )
    assert len(gpu.lines(rows)) == 3
    with pytest.raises(ValueError, match="multiple"):
        gpu.shared_and_not(model, [3], 20, 12, 2, 3, 1)


def test_beams_of_many_widths_on_a_tiny_model():
    shape = {
        "vocab_size": 1000,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    model = gpu.model("cpu", torch.float32, num_key_value_heads=1, **shape)
    counted = []

    class Counting(gpu.Engine):
        def submit(self, request):
            counted.append((self.slots, len(request.prompt)))
            super().submit(request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "Engine", Counting)
        rows = gpu.beams(model, [2, 8], prompt=6, levels=3, new=2, rounds=1)
    wanted = [
        (width, 6 + 2 * level)
        for width in (2, 8)
        for _ in range(2)
        for level in range(3)
        for _ in range(width)
    ]
    assert counted == wanted and [row["width"] for row in rows] == [2, 8]
    assert rows[0]["fall"] == pytest.approx(1) and rows[1]["fall"] == pytest.approx(
        rows[0]["rate"] / rows[1]["rate"]
    )
    assert len(gpu.beam_lines(rows)) == 3


@pytest.mark.thorough
def test_the_command(tmp_path, monkeypatch):
    run, out = CliRunner(), tmp_path / "rows.json"
    helped = run.invoke(engine.app, ["--help"])
    assert helped.exit_code == 0 and all(
        name in helped.output for name in ("speed", "expand", "outside", "gpu")
    )
    for command, head in (
        (["speed", "--batch", "1", "--prompt", "4", "--new", "2"], "| batch | way |"),
        (
            [
                "expand",
                "--trees",
                "1",
                "--leaves",
                "2",
                "--shared",
                "9",
                "--own",
                "3",
                "--new",
                "2",
            ],
            "| forest |",
        ),
        (["outside", "--batch", "2", "--requests", "2"], "| slots |"),
    ):
        result = run.invoke(
            engine.app, [*command, "--rounds", "1", "--out", str(out)], catch_exceptions=False
        )
        assert result.exit_code == 0 and head in result.output
        found = json.loads(out.read_text())
        assert (
            len(found["rows"]) == result.output.count("\n|") - 1
            and found["torch"] == torch.__version__
        )
        assert result.output.count("|") % result.output.splitlines()[0].count("|") == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = run.invoke(engine.app, ["gpu"])
    assert result.exit_code == 2 and "no GPU here: run this where" in result.output
    assert sys.argv == found["command"]
