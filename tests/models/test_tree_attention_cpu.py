"""Attention over the tree against its definition in float64, and to the last bit against itself,
whatever is shared.
"""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import Engine
from models.engine import llama_cpu, llama_kernels, tree_attention_cpu
from models.engine.llama_cpu import Linear
from search.scheduling.requests import Generate

SHAPES = [(4, 2, 8), (3, 3, 24), (8, 1, 16), (5, 5, 32)]  # heads, heads of keys, dim


class Pass:
    """Rows of texts that share beginnings, some with one query and some with a chunk of them, in
    a pool in no order.
    """

    def __init__(self, seed: int, shape: tuple[int, int, int]):
        rng = np.random.default_rng(seed)
        self.heads, self.kv, self.dim = shape
        self.padded = -(-self.dim // 16) * 16
        texts = [np.empty(0, np.int64)]
        slots = iter(rng.permutation(4000).tolist())
        for _ in range(rng.integers(1, 9)):  # each continues a beginning of another one
            old = texts[rng.integers(len(texts))]
            new = np.array([next(slots) for _ in range(rng.integers(1, 90))])
            texts.append(np.concatenate([old[: rng.integers(len(old) + 1)], new]))
        picked = [texts[1 + i] for i in rng.integers(len(texts) - 1, size=rng.integers(1, 30))]
        rows = [np.append(text, next(slots)) for text in picked]  # and has a last token of its own
        self.table = np.full((len(rows) + 2, 800), -1, np.int32)
        for i, row in enumerate(rows):
            self.table[i, : len(row)] = row
        self.rows, self.ends = rng.permutation(len(rows)), np.array([len(row) for row in rows])
        self.ends = self.ends[self.rows]
        chunks, self.tokens = [], len(rows)
        for i in range(rng.integers(3)):
            past, count = rng.integers(0, 60), rng.integers(1, 50)
            begun = np.concatenate([picked[0], [next(slots) for _ in range(200)]])[: past + count]
            self.table[len(rows) + i, : past + count] = begun
            chunks.append((len(rows) + i, self.tokens, past, count))
            self.tokens += int(count)
        self.chunks = np.array(chunks, np.int64).reshape(-1, 4)
        self.pool = rng.standard_normal((2, 4400, self.kv, self.padded)).astype(
            np.float32
        ) * np.float32(rng.choice([0.3, 3]))
        self.pool[..., self.dim :] = 0
        self.query = rng.standard_normal((self.tokens, self.heads * self.dim + 5)).astype(
            np.float32
        )
        self.spans, self.parts = (
            np.empty((self.tokens, 4), np.int32),
            np.empty((2 * self.tokens, 4), np.int32),
        )
        order = np.empty(len(rows), np.int64)
        found = llama_kernels.plan(
            self.table,
            self.rows,
            self.ends,
            self.chunks,
            self.heads // self.kv,
            order,
            self.spans,
            self.parts,
        )
        assert found[0] == self.tokens
        self.parts = self.parts[: found[1]]

    def attend(self, spans, parts, cap=0.0, window=0):
        """float32 [tokens, heads * dim]"""
        work, places = tree_attention_cpu.scratch(len(spans), self.heads, self.padded)
        out = np.full((self.tokens, self.heads * self.dim), np.nan, np.float32)
        tree_attention_cpu.attention(self.padded)(
            self.query, self.pool.reshape(-1), self.table, spans, parts,
            np.array([self.heads, self.kv, self.dim, self.padded]),
            0, self.pool[0].size, self.dim**-0.5, cap, window, np.empty(work, np.float32),
            np.empty(places, np.int64), out,
        )  # fmt: skip
        return out

    def defined(self, cap=0.0, window=0):
        """The same by softmax(q k) v in float64."""
        owners = [
            (t, row, end) for t, (row, end) in enumerate(zip(self.rows, self.ends, strict=True))
        ]
        owners += [
            (start + i, row, past + i + 1)
            for row, start, past, count in self.chunks.tolist()
            for i in range(count)
        ]
        out = np.empty((self.tokens, self.heads * self.dim))
        for token, row, end in owners:
            seen = self.table[row, max(0, end - window) if window else 0 : end]
            for h in range(self.heads):
                cut = slice(h * self.dim, (h + 1) * self.dim)
                keys, values = self.pool[:, seen, h // (self.heads // self.kv), : self.dim].astype(
                    float
                )
                scores = keys @ self.query[token, cut].astype(float) * self.dim**-0.5
                scores = cap * np.tanh(scores / cap) if cap else scores
                weights = np.exp(scores - scores.max())
                out[token, cut] = weights @ values / weights.sum()
        return out


@pytest.mark.thorough
@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from(SHAPES),
    st.sampled_from([(0.0, 0), (0.0, 7), (4.0, 0), (4.0, 20)]),
)
def test_it_is_the_definition(seed, shape, options):
    made = Pass(seed, shape)
    np.testing.assert_allclose(
        made.attend(made.spans, made.parts, *options), made.defined(*options), atol=2e-5
    )


@pytest.mark.thorough
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(SHAPES), st.sampled_from([0.0, 4.0]))
def test_what_is_shared_changes_no_bit(seed, shape, cap):
    made = Pass(seed, shape)
    wanted, alone = made.attend(made.spans, made.parts, cap), made.spans.copy()
    alone[:, 2] = 0
    assert made.attend(alone, made.parts[:0], cap).tobytes() == wanted.tobytes()
    for i in range(0, made.tokens, 5):
        token = alone[i, 0]
        assert (
            made.attend(alone[i : i + 1], made.parts[:0], cap)[token].tobytes()
            == wanted[token].tobytes()
        )


def test_much_is_shared():
    """The plan covers what a tree shares: of 64 rows below 80 tokens all but the last 20 and 4."""
    table = np.concatenate([np.tile(np.arange(80), (64, 1)),
    np.repeat(np.arange(100, 420).reshape(16, 20), 4, 0),
                            np.arange(500, 756).reshape(64, 4)], 1).astype(np.int32)  # fmt: skip
    rows, spans, parts = (
        np.random.default_rng(0).permutation(64),
        np.empty((64, 4), np.int32),
        np.empty((128, 4), np.int32),
    )
    none = np.empty((0, 4), np.int64)
    count, shared = llama_kernels.plan(
        table, rows, np.full(64, 104), none, 1, np.empty(64, np.int64), spans, parts
    )
    assert (
        count == 64
        and shared == 17
        and spans[:, 2].tolist() == [100] * 64
        and sorted(spans[:, 0].tolist()) == list(range(64))
    )
    assert parts[0].tolist() == [0, 64, 0, 80] and parts[1:17, 2:].tolist() == [[80, 100]] * 16


def test_nan_stays_with_the_query_that_sees_it():
    made = Pass(3, (4, 2, 8))
    row = made.rows[0]
    made.pool[0, made.table[row, made.ends[0] - 1]] = np.nan
    out = made.attend(made.spans, made.parts)
    assert np.isnan(out[0]).all() and np.isfinite(out[1:]).all()


@pytest.mark.parametrize(
    "dtype, native",
    [(torch.float32, True), (torch.bfloat16, True), (torch.bfloat16, False)],
    ids=["float32", "bfloat16", "bfloat16 converted"],
)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("inner, out", [(32, 96), (48, 32), (192, 1096), (600, 64), (1100, 40)])
def test_products_of_one_row_and_of_many_are_the_same_to_the_last_bit(
    monkeypatch, inner, out, bias, dtype, native
):
    """Also on a CPU that has no products of bfloat16."""
    if dtype == torch.bfloat16:
        if native and not llama_cpu.has_bfloat16_products():
            pytest.skip("this CPU has no products of bfloat16")
        monkeypatch.setattr(llama_cpu, "has_bfloat16_products", lambda: native)
        monkeypatch.setattr(llama_cpu, "CONVERTED", 20_000)
    torch.manual_seed(0)
    module = torch.nn.Linear(inner, out, bias=bias, dtype=dtype).requires_grad_(False)
    near = 1e-4 if dtype == torch.float32 else 2e-2
    with torch.inference_mode():
        product, x, to = (
            Linear(module.weight, module.bias, dtype == torch.float32),
            torch.randn(70, inner).to(dtype),
            torch.randn(70, out),
        )
        many, added = product(x), product.add(x, to.clone())
        torch.testing.assert_close(many, module(x), atol=near, rtol=near)
        torch.testing.assert_close(added, module(x) + to, atol=near, rtol=near)
        for count in (1 if product.alone else 2, 3, 17, 64):
            assert torch.equal(product(x[:count]), many[:count])
            assert torch.equal(product.add(x[:count], to[:count].clone()), added[:count])


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_an_engine_gives_a_text_the_same_numbers_in_any_company(kind):
    rng = np.random.default_rng(0)
    stem = tuple(rng.integers(0, 256, 30).tolist())
    requests = [
        (stem[: rng.integers(1, 31)] + tuple(rng.integers(0, 256, rng.integers(0, 9)).tolist()), i)
        for i in range(40)
    ]

    def replies(slots, pool, some):
        engine = Engine(
            tiny.model(kind), tiny.tokenizer(), tiny.head(), slots=slots, pool_tokens=pool
        )
        return [
            r.result
            for r in tiny.answers(
                engine,
                [Generate(prompt, max_tokens=12, seed=seed, stop=("q",)) for prompt, seed in some],
            )
        ]

    wanted = replies(40, 4096, requests)
    for slots, pool in ((40, 120), (1, 4096), (3, 60)):
        for ours, theirs in zip(replies(slots, pool, requests), wanted, strict=True):
            assert (
                ours.tokens == theirs.tokens
                and ours.log_probs.tobytes() == theirs.log_probs.tobytes()
            )
            assert ours.value == theirs.value or np.isnan([ours.value, theirs.value]).all()


def test_products_that_are_more_than_their_weights_are_left_to_the_model():
    """An adapter that does nothing yet would pass every trial and be left out once it is
    trained.
    """

    class Adapted(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) + x.sum() * self.more

    made = tiny.model()
    for layer in made.model.layers:
        layer.self_attn.q_proj.__class__ = Adapted
        layer.self_attn.q_proj.more = 0.0
    assert Engine(made, tiny.tokenizer()).path == "modules"
