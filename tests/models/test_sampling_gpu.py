"""The draw of the GPU against the exact distribution: where a row's number falls among the
cumulative sums.
"""

from __future__ import annotations

import numpy as np
import on_gpu
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.engine import sampling_gpu
from models.engine.sampling import Thinned, draw, survivors
from models.engine.sampling_gpu import draw_on, survivors_on, uniforms


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(sampling_gpu, "BLOCK", 32)
    monkeypatch.setattr(sampling_gpu, "CANDIDATES", 8)


def on(
    logits,
    seeds,
    index,
    temperature,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    thinned=None,
    dtype=torch.float32,
):
    rows = len(logits)
    options = (np.broadcast_to(option, rows) for option in (temperature, top_k, top_p, min_p))
    tensor = torch.from_numpy(np.asarray(logits, np.float32)).to(dtype).to(on_gpu.DEVICE)
    return draw_on(tensor, np.asarray(seeds), np.asarray(index), *options, thinned)


def weights_of(logits, temperature, top_k, top_p, min_p, keep):
    """The distribution drawn from, float64 [vocabulary], by the words of `Generate`."""
    x = logits.astype(np.float64) + np.log(keep)
    weights = np.exp((x - x.max()) / temperature)
    order = np.lexsort((np.arange(len(x)), -weights))
    kept = order[: top_k or None]
    share = weights[kept] / weights[kept].sum()
    kept = kept[np.cumsum(share) - share < top_p] if top_p < 1 else kept
    kept = kept[weights[kept] >= min_p * weights[kept[0]]]
    out = np.zeros(len(x))
    out[kept] = weights[kept] / weights[kept].sum()
    return out, kept


@pytest.mark.thorough
@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([3, 32, 77]),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.sampled_from(
        [
            (0, 1.0, 0.0),
            (5, 1.0, 0.0),
            (40, 1.0, 0.0),
            (0, 0.7, 0.0),
            (0, 0.999, 0.0),
            (0, 1.0, 0.1),
            (30, 0.9, 0.02),
        ]
    ),
    st.booleans(),
)
def test_a_token_is_where_the_number_falls(seed, vocabulary, temperature, cut, avoid):
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((2, vocabulary)) * 3).astype(np.float32)
    keep, thinned = np.ones((2, vocabulary)), None
    if avoid:
        pairs = [(1, 1, 0.3), (1, 2, 0.0)]
        for row, token, share in pairs:
            keep[row, token] = share
        thinned = Thinned(*map(np.array, zip(*pairs, strict=True)))
    seeds, index = rng.integers(0, 2**63, 2), rng.integers(0, 40, 2)
    found = on(logits, seeds, index, temperature, *cut, thinned)
    exact = logits.astype(np.float64)
    own = exact - exact.max(1, keepdims=True)
    own -= np.log(np.exp(own).sum(1, keepdims=True))
    with np.errstate(divide="ignore"):
        for row, number in enumerate(uniforms(seeds, index)):
            share, kept = weights_of(logits[row], temperature, *cut, keep[row])
            # truncated ones are ordered, likeliest first
            order = kept if cut != (0, 1.0, 0.0) else np.arange(vocabulary)
            sums, at = np.cumsum(share[order]), order.tolist().index(found.tokens[row])
            assert sums[at] - share[order[at]] - 1e-6 <= number <= sums[at] + 1e-6
            np.testing.assert_allclose(
                found.sampled_log_probs[row], np.log(share[found.tokens[row]]), atol=1e-5
            )
    np.testing.assert_allclose(found.log_probs, own[np.arange(2), found.tokens], atol=1e-5)
    assert found.finite.all() and found.left.all()


@pytest.mark.thorough
def test_every_token_has_its_share_of_the_numbers(monkeypatch):
    """Just inside both ends of each token's interval, and nowhere else: with one token avoided
    and one half avoided.
    """
    share = np.array([0, 0.125, 0.2, 0.1, 0.08, 0.05, 0.02])
    sums = np.concatenate([[0], np.cumsum(share / share.sum())])
    numbers = np.concatenate([sums[1:-1] + 1e-6, sums[2:] - 1e-6])
    count = len(numbers)
    logits = np.tile(np.log([0.3, 0.25, 0.2, 0.1, 0.08, 0.05, 0.02]), (count, 1))
    thinned = Thinned(
        np.repeat(np.arange(count), 2), np.tile([0, 1], count), np.tile([0.0, 0.5], count)
    )
    monkeypatch.setattr(sampling_gpu, "uniforms", lambda seed, index: numbers)
    found = on(logits, np.zeros(count, int), np.zeros(count, int), 1.0, thinned=thinned)
    assert found.tokens.tolist() == [*range(1, 7)] * 2


def test_the_numbers_of_rows_are_uniform_and_independent():
    seeds, index = (part.ravel() for part in np.meshgrid(np.arange(100), np.arange(100)))
    numbers = uniforms(seeds, index)
    counts = np.bincount((numbers * 50).astype(int), minlength=50)
    assert ((counts - 200) ** 2 / 200).sum() < 85.4  # 0.999 of 49 degrees of freedom
    table = numbers.reshape(100, 100)
    for each in (table, table.T):  # neighbours in seed, in index
        assert abs(np.corrcoef(each[1:].ravel(), each[:-1].ravel())[0, 1]) < 0.04


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.sampled_from([4, 8, 100]), st.booleans())
def test_survivors_are_those_of_the_cpu(seed, vocabulary, candidates, equals):
    """To the token and the weight, equals included, wherever they say that they are settled; and
    with all candidates they are.
    """
    rng = np.random.default_rng(seed)
    logits = (
        rng.integers(-3, 3, (5, vocabulary)) if equals else rng.standard_normal((5, vocabulary)) * 2
    )
    cooled = (logits - logits.max(1, keepdims=True)).astype(np.float32)
    limits = (
        rng.choice([0, 1, 3, 20, 70], 5),
        rng.choice([1.0, 0.9, 0.3, 0.0], 5),
        rng.choice([0.0, 0.05, 1.5], 5),
    )
    sent = (
        torch.from_numpy(cooled).to(on_gpu.DEVICE),
        torch.from_numpy(np.stack(limits, 1).astype(np.float64)).to(on_gpu.DEVICE),
    )
    wanted = survivors(cooled, cooled.max(1), np.ones(len(cooled), np.float32), *limits)
    for count in (candidates, vocabulary):
        ids, weights, settled = (part.cpu().numpy() for part in survivors_on(*sent, count))
        assert settled.all() or count < vocabulary
        for row in np.flatnonzero(settled):
            theirs = wanted[1][row] > 0
            assert ids[row][weights[row] > 0].tolist() == wanted[0][row][theirs].tolist()
            np.testing.assert_allclose(
                weights[row][weights[row] > 0], wanted[1][row][theirs], rtol=1e-6
            )


def test_greedy_takes_the_lowest_of_equals_and_no_number():
    logits = np.zeros((3, 60), np.float32)
    logits[0, [17, 40]] = logits[1, [33, 34]] = logits[2, [0, 59]] = 2.0
    thinned = Thinned(np.array([0]), np.array([17]), np.array([0.0]))
    assert on(logits, [1, 2, 3], [0, 0, 0], 0.0).tokens.tolist() == [17, 33, 0]
    found = on(logits, [4, 5, 6], [7, 7, 7], 0.0, thinned=thinned)
    assert found.tokens.tolist() == [40, 33, 0] and not found.sampled_log_probs.any()
    theirs = draw(
        logits,
        np.zeros(3, int),
        np.zeros(3, int),
        np.zeros(3),
        np.zeros(3, int),
        np.ones(3),
        np.zeros(3),
        thinned,
    )
    np.testing.assert_allclose(found.log_probs, theirs.log_probs, atol=1e-6)


@pytest.mark.thorough
def test_a_draw_depends_on_no_neighbour():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((4, 50)).astype(np.float32)
    options = (
        np.arange(4),
        np.arange(4) % 3,
        np.array([0.0, 1.0, 2.0, 1.0]),
        np.array([0, 4, 0, 0]),
        np.array([1.0, 1.0, 0.8, 1.0]),
    )
    together = on(logits, *options)
    for row in range(4):
        alone = on(logits[row : row + 1], *(option[row : row + 1] for option in options))
        assert (
            alone.tokens[0] == together.tokens[row]
            and alone.sampled_log_probs[0] == together.sampled_log_probs[row]
        )


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_that_are_not_finite_and_tokens_that_are_all_given_are_told(dtype):
    logits = np.zeros((6, 40), np.float32)
    logits[0, 33], logits[1], logits[2, 5], logits[3, :39] = np.nan, -np.inf, np.inf, -np.inf
    thinned = Thinned(np.array([3, 4]), np.array([39, 0]), np.array([1e-9, 0.0]))
    for temperature in (0.0, 1.0):
        found = on(logits, range(6), np.zeros(6, int), temperature, thinned=thinned, dtype=dtype)
        assert found.finite.tolist() == [False, False, False, True, True, True]
        assert found.left[3:].tolist() == [False, True, True] and found.tokens[4] > 0


@pytest.mark.thorough
@pytest.mark.parametrize("top_k", [0, 2])
def test_temperatures_beyond_what_float32_can_invert(top_k):
    rows = np.tile(np.array([0, 1, 3, 3, -np.inf], np.float32), (12, 1))
    cold = on(rows, range(12), np.zeros(12, int), 1e-320, top_k)
    np.testing.assert_allclose(cold.sampled_log_probs, np.log(0.5), atol=1e-6)
    assert set(cold.tokens.tolist()) == {2, 3}
    warm = on(rows, range(12), np.zeros(12, int), 1e300)
    np.testing.assert_allclose(warm.sampled_log_probs, np.log(0.25), atol=1e-6)
    assert len(set(warm.tokens.tolist())) > 2 and 4 not in warm.tokens
