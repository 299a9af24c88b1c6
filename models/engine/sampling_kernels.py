"""The exponential race of `models.engine.sampling` over whole vocabularies, and what truncation
needs of them, as kernels.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numba
import numpy as np

from search.kernels.jit import bare, bind, digest, inner, kernel, ravel
from search.kernels.simd import (
    below,
    exp2,
    get,
    lane_max,
    lane_sum,
    load16,
    loader,
    maximum,
    put,
    spread,
    store,
    uniform,
)

LOG2E = np.float32(1.4426950408889634)
BLOCK = 64  #: tokens whose largest weight is kept
ALL = np.int64(0xFFFF)  #: what `below` gives where it is so in all lanes


def _row(flat, start, size, edge, n):
    """Sixteen logits from `n` on; those beyond the end are -inf."""
    if n + 16 <= size:
        return load16(flat, start + n)
    for i in range(16):
        put(edge, i, get(flat, start + n + i) if n + i < size else np.float32(-np.inf))
    return load16(edge, 0)


def race(logits, low, high, cold, edge, tokens, tops, norms, sampled):
    """Draw a token in each row.

    logits  float32 [rows, vocabulary], or bfloat16 as uint16 (`search.kernels.simd`)
    edge    float32 [16], scratch
    low, high  uint32 [rows], keys of the noise
    cold    float32 [rows]: one over the temperature; 0: take the likeliest, of equals the lowest id
    tokens  int64 [rows], written
    tops, norms  float32 [rows], written: the largest logit, and the logarithm of the sum of
                 exp(logit - top);
            nan or infinite where a logit is nan or +inf, or all are -inf
    sampled  float32 [rows], written: log-prob of the token in the distribution drawn from, 0 where
             that is the likeliest
    """
    logits = bare(logits)
    low = bare(low)
    high = bare(high)
    cold = bare(cold)
    edge = bare(edge)
    tokens = bare(tokens)
    tops = bare(tops)
    norms = bare(norms)
    sampled = bare(sampled)
    flat = ravel(logits)
    size = logits.shape[1]
    zero = spread(np.float32(0))
    for r in range(len(logits)):
        start = r * size
        most = spread(np.float32(-np.inf))
        for n in range(0, size, 16):
            most = maximum(_row(flat, start, size, edge, n), most)
        largest = lane_max(most)
        token = 0
        while token + 16 < size and below(load16(flat, start + token), spread(largest)) == ALL:
            token += 16
        while token < size - 1 and get(flat, start + token) != largest:
            token += 1
        sum_ = zero
        sums = zero
        best = np.float32(np.inf)
        rate = cold[r] * LOG2E
        warm = cold[r] > 0
        one = cold[r] == 1
        if warm:
            put(edge, 0, np.float32(0))
            best = _ratio(uniform(low[r], high[r], np.uint32(token)), edge, 0, np.float32(1))
        for n in range(0, size, 16):
            shifted = _row(flat, start, size, edge, n) - spread(largest)
            weight = exp2(shifted * spread(LOG2E), zero)
            sum_ = sum_ + weight
            if not warm:
                continue
            if not one:
                weight = exp2(shifted * spread(rate), zero)
                sums = sums + weight
            noise = uniform(low[r], high[r], np.uint32(n))
            # an exponential number is above the uniform one that it is made of
            ahead = below(noise, weight * spread(best))
            while ahead:
                i = np.int64(0)
                while not (ahead >> i) & 1:
                    i += 1
                ahead &= ahead - 1
                store(edge, 0, weight)
                ratio = _ratio(noise, edge, i, get(edge, i))
                if ratio < best or (ratio == best and n + i < token):
                    best = ratio
                    token = n + i
        tokens[r] = token
        tops[r] = largest
        norms[r] = np.float32(math.log(lane_sum(sum_)))
        sampled[r] = 0
        if warm:
            sampled[r] = (get(flat, start + token) - largest) * cold[r] - np.float32(
                math.log(lane_sum(sum_ if one else sums))
            )


def _ratio(noise, edge, i, weight):
    """The exponential number of lane i over its weight."""
    store(edge, 0, noise)
    return np.float32(-math.log1p(-get(edge, i))) / weight


def weigh(logits, tops, cold, edge, peaks, totals):
    """Weights exp((logit - top) / temperature) of whole rows: the largest of each `BLOCK`, and
    their sum.

    logits, cold, edge  as in `race`;  tops: float32 [rows], each row's largest logit
    peaks   float32 [rows, blocks], written;  totals: float64 [rows], written
    """
    logits = bare(logits)
    tops = bare(tops)
    cold = bare(cold)
    edge = bare(edge)
    peaks = bare(peaks)
    totals = bare(totals)
    flat = ravel(logits)
    size = logits.shape[1]
    for r in range(len(logits)):
        rate = spread(cold[r] * LOG2E)
        top = spread(tops[r])
        whole = 0.0
        for block in range(peaks.shape[1]):
            most = sum_ = spread(np.float32(0))
            for n in range(block * BLOCK, min(size, (block + 1) * BLOCK), 16):
                weight = exp2(
                    (_row(flat, r * size, size, edge, n) - top) * rate, spread(np.float32(0))
                )
                most = maximum(weight, most)
                sum_ = sum_ + weight
            peaks[r, block] = lane_max(most)
            whole += lane_sum(sum_)
        totals[r] = whole


def collect(logits, tops, cold, least, edge, ids, weights, counts):
    """The tokens of each row whose weight (`weigh`) is above `least`, float32 [rows], in the order
    of their ids.

    ids     int64 [rows, room], written as far as there is room;  weights: float32 [rows, room],
            likewise
    counts  int64 [rows], written: how many there are, with or without room
    """
    logits = bare(logits)
    tops = bare(tops)
    cold = bare(cold)
    least = bare(least)
    edge = bare(edge)
    ids = bare(ids)
    weights = bare(weights)
    counts = bare(counts)
    flat = ravel(logits)
    size = logits.shape[1]
    room = ids.shape[1]
    for r in range(len(logits)):
        rate = spread(cold[r] * LOG2E)
        top = spread(tops[r])
        bound = spread(least[r])
        found = 0
        for n in range(0, size, 16):
            weight = exp2((_row(flat, r * size, size, edge, n) - top) * rate, spread(np.float32(0)))
            above = below(bound, weight)
            if above == 0:
                continue
            store(edge, 0, weight)
            for i in range(16):
                if (above >> i) & 1:
                    if found < room:
                        ids[r, found] = n + i
                        weights[r, found] = edge[i]
                    found += 1
        counts[r] = found


_stamp = digest(loader, race)
for _inner in (_row, _ratio):
    globals()[_inner.__name__] = inner(bind(_inner, globals(), f"{_inner.__name__}_{_stamp}"))
_f4 = numba.float32[::1]
_f4s = numba.float32[:, ::1]
_u4 = numba.uint32[::1]
_i8s = numba.int64[::1]


class Loops(NamedTuple):
    """The kernels for logits of one type."""

    race: Any
    weigh: Any
    collect: Any


@functools.cache
def loops(half: bool) -> Loops:
    """The kernels for logits in float32, or in bfloat16 as uint16 (`half`)."""
    rows = (numba.uint16 if half else numba.float32)[:, ::1]
    name = f"_half_{_stamp}" if half else f"_{_stamp}"
    return Loops(
        kernel(numba.void(rows, _u4, _u4, _f4, _f4, _i8s, _f4, _f4, _f4))(
            bind(race, globals(), f"race{name}")
        ),
        kernel(numba.void(rows, _f4, _f4, _f4, _f4s, numba.float64[::1]))(
            bind(weigh, globals(), f"weigh{name}")
        ),
        kernel(numba.void(rows, _f4, _f4, _f4, _f4, numba.int64[:, ::1], _f4s, _i8s))(
            bind(collect, globals(), f"collect{name}")
        ),
    )
