"""The exponential race of `models.sampling` over whole vocabularies, as a kernel."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from models import vectors
from models.vectors import below, get, highest, load, power, put, splat, total, uniform
from search.jit import bare, bind, digest, inner, kernel, ravel

LOG2E = np.float32(1.4426950408889634)
_LOW = np.uint64(0xFFFFFFFF)


def _row(flat, start, size, edge, n):  # type: ignore[no-untyped-def]
    """Sixteen logits from `n` on; those beyond the end are -inf."""
    if n + 16 <= size:
        return load(flat, start + n)
    for i in range(16):
        put(edge, i, get(flat, start + n + i) if n + i < size else np.float32(-np.inf))
    return load(edge, 0)


def race(logits, low, high, cold, edge, tokens, tops, norms, sampled):  # type: ignore[no-untyped-def]
    """Draw a token in each row.

    logits  float32 [rows, vocabulary];  low, high: uint32 [rows], keys of the noise;  edge: float32 [16], scratch
    cold    float32 [rows]: one over the temperature; 0: take the likeliest, of equals the lowest id
    tokens  int64 [rows], written
    tops, norms  float32 [rows], written: the largest logit, and the logarithm of the sum of exp(logit - top); nan or infinite where a logit
            is nan or +inf, or all are -inf
    sampled  float32 [rows], written: log-prob of the token in the distribution drawn from, 0 where that is the likeliest
    """
    logits, low, high, cold, edge = bare(logits), bare(low), bare(high), bare(cold), bare(edge)
    tokens, tops, norms, sampled = bare(tokens), bare(tops), bare(norms), bare(sampled)
    flat, size, zero = ravel(logits), logits.shape[1], splat(np.float32(0))
    for r in range(len(logits)):
        start, most = r * size, splat(np.float32(-np.inf))
        for n in range(0, size, 16):
            most = highest(_row(flat, start, size, edge, n), most)
        largest = vectors.top(most)
        token = 0
        while token < size - 1 and get(flat, start + token) != largest:
            token += 1
        sum_, sums, best = zero, zero, np.float32(np.inf)
        rate, warm, one = cold[r] * LOG2E, cold[r] > 0, cold[r] == 1
        if warm:
            put(edge, 0, np.float32(0))
            best = _ratio(uniform(low[r], high[r], np.uint32(token)), edge, 0, np.float32(1))
        for n in range(0, size, 16):
            shifted = _row(flat, start, size, edge, n) - splat(largest)
            weight = power(shifted * splat(LOG2E), zero)
            sum_ = sum_ + weight
            if not warm:
                continue
            if not one:
                weight = power(shifted * splat(rate), zero)
                sums = sums + weight
            noise = uniform(low[r], high[r], np.uint32(n))
            ahead = below(noise, weight * splat(best))  # an exponential number is above the uniform one that it is made of
            while ahead:
                i = np.int64(0)
                while not (ahead >> i) & 1:
                    i += 1
                ahead &= ahead - 1
                vectors.store(edge, 0, weight)
                ratio = _ratio(noise, edge, i, get(edge, i))
                if ratio < best or (ratio == best and n + i < token):
                    best, token = ratio, n + i
        tokens[r], tops[r], norms[r] = token, largest, np.float32(math.log(total(sum_)))
        sampled[r] = 0
        if warm:
            sampled[r] = (get(flat, start + token) - largest) * cold[r] - np.float32(math.log(total(sum_ if one else sums)))


def race_on(logits: Any, keys: np.ndarray, cold: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same race on a GPU: tokens int64; their log-probs at temperature 1, nan as in `race`, and as drawn, float32; all [rows].

    logits  float32 [rows, vocabulary], a tensor;  keys: uint64 [rows];  cold: as in `race`
    """
    import torch

    device, ids = logits.device, torch.arange(logits.shape[1], device=logits.device)[None]
    low, high = (torch.from_numpy(part.astype(np.int64)).to(device)[:, None] for part in (keys & _LOW, keys >> np.uint64(32)))

    def finalised(bits: Any) -> Any:  # of uint32 numbers, held in int64
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            bits = ((bits ^ (bits >> shift)) * factor) & 0xFFFFFFFF
        return bits ^ (bits >> 16)

    bits = finalised(finalised((ids * 0x9E3779B1 & 0xFFFFFFFF) ^ low) ^ high)
    noise = ((bits.float() + 0.5) * 2.0**-32).clamp_(max=1 - 2.0**-24)
    rate = torch.from_numpy(cold).to(device)[:, None]
    tops = logits.max(1, keepdim=True).values
    shifted = logits - tops
    weight = torch.exp(shifted * torch.where(rate > 0, rate, 1))
    runs = -torch.log1p(-noise) / weight
    tokens = torch.where(rate[:, 0] > 0, torch.where(runs.isnan(), torch.inf, runs).argmin(1), shifted.argmax(1))[:, None]
    sampled = torch.where(rate > 0, shifted.gather(1, tokens) * rate - weight.sum(1, keepdim=True).log(), 0)
    log_probs = shifted.gather(1, tokens) - torch.exp(shifted).sum(1, keepdim=True).log()
    drawn = torch.cat([tokens.double(), log_probs.double(), sampled.double()], 1).cpu().numpy()  # one wait for the device
    return drawn[:, 0].astype(np.int64), drawn[:, 1].astype(np.float32), drawn[:, 2].astype(np.float32)


def _ratio(noise, edge, i, weight):  # type: ignore[no-untyped-def]
    """The exponential number of lane i over its weight."""
    vectors.store(edge, 0, noise)
    return np.float32(-math.log1p(-get(edge, i))) / weight


_stamp = digest(vectors.fma, race)
for _inner in (_row, _ratio):
    globals()[_inner.__name__] = inner(bind(_inner, globals(), f"{_inner.__name__}_{_stamp}"))
_f4, _u4 = numba.float32[::1], numba.uint32[::1]
_signature = numba.void(numba.float32[:, ::1], _u4, _u4, _f4, _f4, numba.int64[::1], _f4, _f4, _f4)
race = kernel(_signature)(bind(race, globals(), f"race_{_stamp}"))
