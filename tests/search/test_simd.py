"""Arithmetic of vectors, against numpy's."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from search.kernels import simd
from search.kernels.jit import kernel
from search.kernels.simd import load16, spread, store


@kernel(numba.void(numba.float32[::1], numba.float32, numba.float32[::1]), cache=False)
def _powers(x, less, out):
    for i in range(0, len(x), 16):
        store(out, i, simd.exp2(load16(x, i), spread(less)))


def powers(x: np.ndarray, less: float = 0.0) -> np.ndarray:
    """2 ** (x - less), float32 [x]; a multiple of sixteen of them."""
    out = np.empty(len(x), np.float32)
    _powers(x.astype(np.float32), np.float32(less), out)
    return out


def test_powers_of_two_are_right_to_the_last_bits() -> None:
    x = np.random.default_rng(0).uniform(-120, 120, 1 << 16).astype(np.float32)
    true = np.exp2(x.astype(np.float64))
    assert (np.abs(powers(x) / true - 1) < 1e-7).all()
    whole = np.arange(-112, 112).astype(np.float32)
    assert (powers(whole) == np.exp2(whole)).all()


@pytest.mark.parametrize("less", [-3.0, 7.0, 100.0])
def test_another_scale_is_the_same_number_times_a_power_of_two(less: float) -> None:
    """Else a running softmax would depend on the order of its keys."""
    x = np.random.default_rng(1).uniform(-15, 15, 1 << 12).astype(np.float32)
    assert (powers(x, less) == powers(x) * np.float32(2.0**-less)).all()


def test_what_is_far_below_is_nothing_and_nan_stays() -> None:
    x = np.full(16, -120.6, np.float32)
    x[:4] = -np.inf, -1e30, -3e9, -1e4
    assert (powers(x) == 0).all()
    strange = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0x7FFFFFFF], np.uint32)
    x[8:12] = strange.view(np.float32)
    assert np.isnan(powers(x)[8:12]).all() and (powers(x)[:8] == 0).all()
