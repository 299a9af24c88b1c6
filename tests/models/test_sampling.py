"""Draws follow the distribution they should, and nothing but the request decides them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.engine.sampling import Thinned, draw, noise, survivors


def drawn(logits, seeds, index=0, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, thinned=None):
    n = len(logits)
    full = lambda value: np.full(n, value)  # noqa: E731
    return draw(
        logits,
        np.asarray(seeds, np.uint64),
        full(index),
        full(temperature),
        full(top_k),
        full(top_p),
        full(min_p),
        thinned,
    )


def chi_square(counts, expected):
    """Chi-square statistic in standard deviations above its mean."""
    degrees = np.count_nonzero(expected) - 1
    used = expected > 0
    assert not counts[~used].any()
    return (((counts - expected)[used] ** 2 / expected[used]).sum() - degrees) / np.sqrt(
        2 * degrees
    )


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, 12),
        ({"temperature": 0.5}, 12),
        ({"temperature": 2.0}, 12),
        ({"top_k": 3}, 3),
        ({"top_p": 0.8}, None),
        ({"min_p": 0.2}, None),
        ({"top_k": 6, "top_p": 0.7, "temperature": 1.5}, None),
        ({"top_k": 8, "top_p": 0.95, "min_p": 0.1}, None),
        ({"top_p": 0.9, "min_p": 0.3}, None),
    ],
)
@pytest.mark.parametrize("by", ["seed", "index"])
def test_frequencies_are_those_of_the_softmax(options, kept, by):
    rng, n = np.random.default_rng(0), 20_000
    logits = rng.normal(0, 1.5, 12).astype(np.float32)
    table = np.tile(logits, (n, 1))
    if by == "seed":
        got = drawn(table, np.arange(n), **options)
    else:
        got = drawn(table, np.full(n, 5), index=np.arange(n), **options)
    p = expected(logits, **options)
    assert kept is None or np.count_nonzero(p) == kept
    assert chi_square(np.bincount(got.tokens, minlength=12), n * p) < 4
    np.testing.assert_allclose(got.log_probs, np.log(softmax(logits))[got.tokens], atol=1e-5)
    np.testing.assert_allclose(got.sampled_log_probs, np.log(p[got.tokens]), atol=1e-5)


def expected(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """Plain and slow: temperature, then top-k, top-p, min-p, each on what is left, renormalised."""
    p = softmax(logits.astype(np.float64) / temperature)
    order = list(np.argsort(-p, kind="stable"))
    if top_k:
        order = order[:top_k]
    if top_p < 1:
        total, kept = p[order].sum(), []
        while not kept or p[kept].sum() < top_p * total:
            kept.append(order[len(kept)])
        order = kept
    order = [t for t in order if p[t] >= min_p * p[order[0]]]
    out = np.zeros_like(p)
    out[order] = p[order] / p[order].sum()
    return out


def test_survivors_of_a_large_vocabulary():
    rng = np.random.default_rng(1)
    for _ in range(20):
        logits = rng.normal(0, 3, (5, 2000)).astype(np.float32)
        cuts = (
            rng.choice([0, 1, 20, 50, 5000], 5),
            rng.choice([1, 0.99, 0.5, 0.01], 5),
            rng.choice([0, 0.05, 1.0], 5),
        )
        ids, weights = survivors(logits, logits.max(1), np.ones(5, np.float32), *cuts)
        assert (weights[:, 0] == 1).all() and (np.diff(weights, axis=1) <= 0).all()
        for row in range(5):
            want = expected(logits[row], 1.0, *(c[row] for c in cuts))
            assert set(ids[row][weights[row] > 0]) == set(np.flatnonzero(want))


def test_of_equals_the_lowest_ids_survive_whatever_the_neighbours():
    table = np.zeros((3, 40), np.float32)
    table[1] -= np.arange(40) * 0.01
    ids, weights = survivors(
        table, table.max(1), np.ones(3, np.float32), np.array([3, 30, 7]), np.ones(3), np.zeros(3)
    )
    assert ids[0][weights[0] > 0].tolist() == [0, 1, 2] and ids[2][weights[2] > 0].tolist() == list(
        range(7)
    )


def test_greedy_takes_the_lowest_of_equals():
    logits = np.array([[0, 2, 2, 1], [3, 3, 3, 3]], np.float32)
    got = drawn(logits, [1, 2], temperature=0)
    assert got.tokens.tolist() == [1, 0] and not got.sampled_log_probs.any()
    np.testing.assert_allclose(got.log_probs[1], -np.log(4), atol=1e-6)


def test_a_row_does_not_see_its_neighbours():
    rng, n = np.random.default_rng(2), 64
    logits = rng.normal(0, 2, (n, 300)).astype(np.float32)
    seeds, index = rng.integers(0, 2**63, n).astype(np.uint64), rng.integers(0, 500, n)
    temperature = rng.choice([0, 0.7, 1.0, 1.3], n)
    cuts = rng.choice([0, 5, 40], n), rng.choice([1.0, 0.9], n), rng.choice([0, 0.1], n)
    together = draw(logits, seeds, index, temperature, *cuts)
    order = rng.permutation(n)
    shuffled = draw(
        logits[order], seeds[order], index[order], temperature[order], *(c[order] for c in cuts)
    )
    assert np.array_equal(shuffled.tokens, together.tokens[order])
    for i in range(n):
        one = slice(i, i + 1)
        alone = draw(logits[one], seeds[one], index[one], temperature[one], *(c[one] for c in cuts))
        for name in ("tokens", "log_probs", "sampled_log_probs"):
            assert getattr(alone, name)[0] == getattr(together, name)[i], f"{name} of row {i}"


def test_truncation_does_not_change_the_noise():
    logits = np.tile(np.array([0, 0.1, -30, -31, 0.2], np.float32), (200, 1))
    whole, cut = drawn(logits, np.arange(200)), drawn(logits, np.arange(200), top_k=3)
    assert np.array_equal(whole.tokens, cut.tokens)


def test_rows_without_numbers_are_told():
    logits = np.zeros((4, 5), np.float32)
    logits[1, 2], logits[2], logits[3, 1:] = np.nan, -np.inf, -np.inf
    got = drawn(logits, range(4))
    assert got.finite.tolist() == [True, False, False, True] and got.tokens[3] == 0


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.8, "min_p": 0.05, "temperature": 1.5}],
)
def test_what_is_thinned_loses_its_share_before_temperature_and_truncation(options):
    rng, n = np.random.default_rng(3), 20_000
    logits = rng.normal(0, 1.5, 12).astype(np.float32)
    keep = np.ones(12)
    tokens = np.array([logits.argmax(), 4, 7])
    keep[tokens] = [0.0, 0.25, 1e-3]
    table = np.tile(logits, (n + 1, 1))
    rows = np.repeat(np.arange(n), 3)
    got = drawn(
        table,
        np.arange(n + 1),
        thinned=Thinned(rows, np.tile(tokens, n), np.tile(keep[tokens], n)),
        **options,
    )
    with np.errstate(divide="ignore"):
        p = expected(np.log(softmax(logits.astype(np.float64)) * keep), **options)
    assert chi_square(np.bincount(got.tokens[:n], minlength=12), n * p) < 4 and got.left.all()
    np.testing.assert_allclose(got.log_probs, np.log(softmax(logits))[got.tokens], atol=1e-5)
    np.testing.assert_allclose(got.sampled_log_probs[:n], np.log(p[got.tokens[:n]]), atol=1e-5)
    alone = drawn(table[n:], [n], **options)
    assert (
        alone.tokens[0] == got.tokens[n] and alone.sampled_log_probs[0] == got.sampled_log_probs[n]
    )


def test_a_row_of_which_nothing_is_left_is_told():
    logits = np.array([[0, 0, -np.inf], [0, 0, -30], [0, 0, -3], [np.nan, 0, 0]], np.float32)
    rows = np.repeat(np.arange(4), 2)
    got = drawn(logits, range(4), thinned=Thinned(rows, np.tile([0, 1], 4), np.zeros(8)))
    assert got.left[:3].tolist() == [False, False, True] and got.tokens[2] == 2
    assert got.finite.tolist() == [True, True, True, False]


def test_noise_is_exponential_and_uncorrelated():
    e = noise(
        np.arange(300, dtype=np.uint64),
        np.zeros(300, np.int64),
        np.arange(1000, dtype=np.uint32)[None],
    )
    assert e.dtype == np.float32 and e.min() > 0 and np.isfinite(e).all()
    assert abs(e.mean() - 1) < 0.01 and abs(e.var() - 1) < 0.02
    counts, _ = np.histogram(np.exp(-e), 64, (0, 1))
    assert chi_square(counts, np.full(64, e.size / 64)) < 4
    for other in (
        e[1:],
        e[:, 1:],
        noise(
            np.arange(300, dtype=np.uint64),
            np.ones(300, np.int64),
            np.arange(1000, dtype=np.uint32)[None],
        ),
    ):
        a, b = e[: other.shape[0], : other.shape[1]].ravel(), other.ravel()
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.01
    assert (
        noise(np.array([7], np.uint64), np.array([0]), np.arange(3, dtype=np.uint32)[None])[
            0
        ].tolist()
        == noise(np.array([7], np.uint64), np.array([0]), np.array([[0, 1, 2]], np.uint32))[
            0
        ].tolist()
    )


@pytest.mark.thorough
@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 70),
    st.integers(1, 5),
    st.sampled_from([0.0, 1.0, 0.3, 2.0]),
)
def test_the_race_is_won_by_whom_its_definition_says(seed, vocabulary, rows, temperature):
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((rows, vocabulary)) * rng.choice([0.1, 3, 30])).astype(np.float32)
    logits[rng.random(logits.shape) < 0.1] = -np.inf
    logits[:, rng.integers(vocabulary)] = rng.standard_normal()
    seeds, index = rng.integers(0, 2**63, rows).astype(np.uint64), rng.integers(0, 1000, rows)
    drawn = draw(
        logits,
        seeds,
        index,
        np.full(rows, temperature),
        np.zeros(rows, int),
        np.ones(rows),
        np.zeros(rows),
    )
    exact = logits.astype(np.float64)
    shares = np.exp(exact - exact.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    at = np.arange(rows)
    np.testing.assert_allclose(
        drawn.log_probs, np.log(shares[at, drawn.tokens]), rtol=1e-5, atol=2e-6
    )
    if temperature == 0:
        assert (
            drawn.tokens.tolist() == logits.argmax(1).tolist() and not drawn.sampled_log_probs.any()
        )
        return
    cold = np.exp((exact - exact.max(1, keepdims=True)) / temperature)
    cold /= cold.sum(1, keepdims=True)
    with np.errstate(divide="ignore"):
        runs = noise(seeds, index, np.arange(vocabulary, dtype=np.uint32)[None]) / cold
    assert (runs[at, drawn.tokens] <= runs.min(1) * (1 + 1e-5)).all()
    np.testing.assert_allclose(
        drawn.sampled_log_probs, np.log(cold[at, drawn.tokens]), rtol=1e-5, atol=2e-6
    )


@pytest.mark.parametrize("top_k", [0, 2])
@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_temperatures_beyond_what_float32_can_invert_are_still_cold_or_warm(kind, top_k):
    rows = np.tile(np.array([0, 1, 3, 3, -np.inf], np.float32), (400, 1))
    cold = drawn(kind(rows), range(400), temperature=1e-320, top_k=top_k)
    np.testing.assert_allclose(cold.sampled_log_probs, np.log(0.5), atol=1e-6)
    share = np.isin(np.arange(5), [2, 3]) / 2
    assert chi_square(np.bincount(cold.tokens, minlength=5), 400 * share) < 4
    warm = drawn(kind(rows), range(400), temperature=1e300)
    np.testing.assert_allclose(warm.sampled_log_probs, np.log(0.25), atol=1e-6)
    assert chi_square(np.bincount(warm.tokens, minlength=5), np.array([100, 100, 100, 100, 0])) < 4
