"""The attention kernel of the GPU against the definition in float64, on random trees."""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

import numpy as np
import on_gpu
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.engine import tree_attention_gpu
from models.engine.kv_pool import Store
from models.engine.tree_attention_gpu import TreeAttention, splits

HALF = {torch.float32: 2e-5, torch.float16: 6e-3, torch.bfloat16: 5e-2}
# heads, key heads, dim
SHAPES = [
    (4, 2, 24),
    (1, 1, 32),
    (6, 2, 40),
    (3, 1, 64),
    (12, 2, 128),
    (2, 2, 80),
    (20, 1, 32),
    (2, 1, 256),
]


class Tree:
    """A pass over texts that share prefixes: rows that read one token, chunks that read several,
    and padding.
    """

    def __init__(self, seed, shape, dtype=torch.float32, longest=90):
        rng = np.random.default_rng(seed)
        self.heads, self.kv, self.dim = shape
        texts = int(rng.integers(1, 6))
        lengths = rng.integers(1, longest, texts)
        lengths[0] = 1 if rng.random() < 0.5 else lengths[0]
        pool = int(lengths.sum()) + 5
        config = SimpleNamespace(
            num_hidden_layers=2,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv,
            head_dim=self.dim,
            hidden_size=8,
        )
        config.get_text_config = lambda: config
        self.store = Store(config, texts, pool, on_gpu.DEVICE, dtype)
        self.store.reserve(longest)
        free, table = rng.permutation(pool).tolist(), self.store.table
        for row, length in enumerate(lengths.tolist()):
            other = int(rng.integers(0, row)) if row else 0
            # the last token is its own
            same = int(rng.integers(0, min(length, lengths[other]))) if row else 0
            table[row, :same] = table[other, :same]
            table[row, same:length] = [free.pop() for _ in range(length - same)]
        news = np.where(
            rng.random(texts) < 0.6, 1, [int(rng.integers(1, length + 1)) for length in lengths]
        )
        self.rows = rng.permutation(np.flatnonzero(news == 1))
        self.ends = lengths[self.rows]
        longer, at = [], len(self.rows)
        for row in np.flatnonzero(news > 1).tolist():
            longer.append((row, at, lengths[row] - news[row], news[row]))
            at += news[row]
        self.chunks = np.array(longer, np.int64).reshape(-1, 4)
        self.tokens, padding = at, int(rng.integers(0, 3))
        write = [table[row, end - 1] for row, end in zip(self.rows, self.ends, strict=True)]
        write += [slot for row, _, past, new in longer for slot in table[row, past : past + new]]
        self.write = np.array(write + [self.store.trash] * padding, np.int64)
        generator = torch.Generator().manual_seed(seed % 2**31)
        self.store.pool.copy_(torch.randn(self.store.pool.shape, generator=generator))
        self.query = (
            torch.randn(len(self.write), self.heads * self.dim + 3, generator=generator)
            .to(dtype)
            .to(on_gpu.DEVICE)
        )

    def attend(self, cap=0.0, window=0):
        made = TreeAttention.of(self.store, self.rows, self.ends, self.chunks, self.write)
        self.launches = made._launches
        return made.attend(1, self.query, self.dim**-0.5, cap, window).float().cpu().numpy()

    def defined(self, cap=0.0, window=0):
        """softmax(q k) v in float64, a token and head at a time."""
        pool = self.store.pool[1, ..., : self.dim].double().cpu().numpy()
        query = self.query.double().cpu().numpy()
        owners = [
            (token, row, end)
            for token, (row, end) in enumerate(zip(self.rows, self.ends, strict=True))
        ]
        owners += [
            (first + i, row, past + i + 1)
            for row, first, past, new in self.chunks.tolist()
            for i in range(new)
        ]
        out = np.zeros((len(self.write), self.heads * self.dim))
        for token, row, end in owners:
            seen = self.store.table[row, max(0, end - window) if window else 0 : end]
            for head in range(self.heads):
                cut = slice(head * self.dim, (head + 1) * self.dim)
                keys, values = pool[:, seen, head // (self.heads // self.kv)]
                scores = keys @ query[token, cut] * self.dim**-0.5
                scores = cap * np.tanh(scores / cap) if cap else scores
                weights = np.exp(scores - scores.max())
                out[token, cut] = weights @ values / weights.sum()
        return out


@pytest.mark.thorough
@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from(SHAPES),
    st.sampled_from(list(HALF)),
    st.sampled_from([(0.0, 0), (0.0, 7), (4.0, 0), (4.0, 20)]),
    st.sampled_from([1, 32, 200]),
    st.sampled_from([1, 3]),
)
def test_it_is_the_definition(seed, shape, dtype, options, least, processors):
    """For any tree, window, cap, number of splits and grouping of heads; queries lie wider apart
    than their numbers.
    """
    tree = Tree(seed, shape, dtype)
    with (
        mock.patch.object(tree_attention_gpu, "LEAST_KEYS", least),
        mock.patch.object(tree_attention_gpu, "multiprocessors", lambda device: processors),
    ):
        found = tree.attend(*options)
    np.testing.assert_allclose(found, tree.defined(*options), atol=HALF[dtype], rtol=0)


@pytest.mark.thorough
def test_long_texts_are_split_and_short_ones_leave_splits_empty():
    tree = Tree(3, (4, 2, 24), longest=200)
    with (
        mock.patch.object(tree_attention_gpu, "LEAST_KEYS", 32),
        mock.patch.object(tree_attention_gpu, "multiprocessors", lambda d: 8),
    ):
        np.testing.assert_allclose(tree.attend(), tree.defined(), atol=2e-5)
    assert any(launch.splits > 1 for launch in tree.launches)
    assert (
        min(tree.ends.min(initial=999), (tree.chunks[:, 2] + tree.chunks[:, 3]).min(initial=999))
        < 200 / 2
    )


def test_the_number_of_splits_suits_rows_and_device():
    store = SimpleNamespace(kv_heads=2, device=torch.device("cpu"))
    with mock.patch.object(tree_attention_gpu, "multiprocessors", lambda device: 132):
        found = [splits(rows, store) for rows in (1, 8, 64, 256, 2048)]
        assert (
            found == sorted(found, reverse=True)
            and found[0] == tree_attention_gpu.MOST_SPLITS
            and found[-1] == 1
        )
        assert all(
            rows * 2 * n >= 132 for rows, n in zip((8, 64, 256, 2048), found[1:], strict=True)
        )
        assert splits(1, store, longest=100) == 1 and splits(1, store, longest=300) == 4


@pytest.mark.thorough
@pytest.mark.parametrize("what", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", [0, 1])
def test_a_number_that_is_not_finite_reaches_no_token_before_it_and_all_behind(what, side):
    tree = Tree(0, (4, 2, 24))
    tree.store.table[0, :40] = np.arange(40)
    tree.rows, tree.ends = np.empty(0, np.int64), np.empty(0, np.int64)
    tree.chunks, tree.write = np.array([[0, 0, 10, 30]]), np.arange(10, 40)
    tree.query = torch.rand(30, 4 * 24, device=on_gpu.DEVICE) + 0.1
    tree.store.pool[:] = torch.rand(tree.store.pool.shape) + 0.1
    wanted = tree.attend()
    tree.store.pool[1, side, 25] = what
    found = tree.attend()
    np.testing.assert_array_equal(found[:15], wanted[:15])
    assert not np.isfinite(found[15:]).any()


def test_keys_and_values_go_into_their_cells():
    tree = Tree(5, (4, 2, 24))
    before = tree.store.pool.clone()
    key, value = (
        torch.randn(2, len(tree.write), 24, device=on_gpu.DEVICE).transpose(0, 1) for _ in range(2)
    )
    TreeAttention.of(tree.store, tree.rows, tree.ends, tree.chunks, tree.write).put(1, key, value)
    real = tree.write != tree.store.trash
    for side, sent in enumerate((key, value)):
        before[1, side, tree.write[real], :, :24] = sent[torch.from_numpy(real)]
    assert torch.equal(tree.store.pool[:, :, :-1], before[:, :, :-1])
