"""Attention on a CPU over a pool of keys and values that holds every token once.

A pass has queries (new tokens). Each sees the tokens of its own text, whose cells of the pool
stand in its row of a table. Queries of a tree share the beginning of their texts, so their shared
keys are read once for all of them: sixteen queries as the lanes of a vector (`_wide`; the trunk of
Hydragen, arXiv 2402.05099, at any depth of the tree). What a query has to itself is read with the
dimensions as lanes (`_narrow`). Both continue one running softmax (Milakov and Gimelshein 2018,
arXiv 1805.02867), so nothing is padded and nothing is merged.

A query's result is the same to the last bit whatever it shares and with whom it is computed: both
ways add in the same order, dimensions as a tree and keys one after the other, and what the running
softmax is scaled by are powers of two, which round nothing.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np

from search.kernels.jit import bare, bind, digest, inner, kernel, part, ravel
from search.kernels.simd import (
    exp2,
    fma,
    get,
    lane_max,
    lane_sums,
    load16,
    loader,
    maximum,
    minimum,
    put,
    rint,
    spread,
    store,
)

TILE = 64  # keys between two looks at the largest score
LOG2E = np.float32(1.4426950408889634)
PADDED = 16  # numbers of a head in the pool, a constant of each compiled kernel
HALF = False  # whether the pool holds bfloat16, another one


def _capped(score, cap):
    """cap * tanh(score / cap); score and cap are multiplied by log2(e) already."""
    one = spread(np.float32(1))
    two = spread(np.float32(2))
    far = spread(np.float32(60))
    x = minimum(far, maximum(spread(np.float32(-60)), score * spread(np.float32(2) * LOG2E / cap)))
    return spread(cap) * (one - two / (exp2(x, spread(np.float32(0))) + one))


def _column(work, pool, k0, k1, k2, k3, c):
    """Products over the dimensions c, c + 16, ... of sixteen queries with four keys."""
    s0 = s1 = s2 = s3 = spread(np.float32(0))
    for v in range(PADDED // 16):
        d = c + 16 * v
        q = load16(work, 16 * d)
        s0 = fma(spread(get(pool, k0 + d)), q, s0)
        s1 = fma(spread(get(pool, k1 + d)), q, s1)
        s2 = fma(spread(get(pool, k2 + d)), q, s2)
        s3 = fma(spread(get(pool, k3 + d)), q, s3)
    return s0, s1, s2, s3


def _half(work, pool, k0, k1, k2, k3, c):
    """Columns c and c + 8, and those of c + 4, as `simd.lane_sum` adds them."""
    a0, a1, a2, a3 = _column(work, pool, k0, k1, k2, k3, c)
    b0, b1, b2, b3 = _column(work, pool, k0, k1, k2, k3, c + 8)
    a0 = a0 + b0
    a1 = a1 + b1
    a2 = a2 + b2
    a3 = a3 + b3
    c0, c1, c2, c3 = _column(work, pool, k0, k1, k2, k3, c + 4)
    d0, d1, d2, d3 = _column(work, pool, k0, k1, k2, k3, c + 12)
    return a0 + (c0 + d0), a1 + (c1 + d1), a2 + (c2 + d2), a3 + (c3 + d3)


def _scores(work, pool, k0, k1, k2, k3, at):
    """The scores of sixteen queries (float32 [padded, 16] at the beginning of `work`) with four
    keys, into `work` from `at` on.
    """
    if HALF:  # sixteen numbers are made float32 as fast as one
        fresh = np.int64(16 * (PADDED + TILE + 8))
        for d in range(0, PADDED, 16):
            store(work, fresh + d, load16(pool, k0 + d))
            store(work, fresh + PADDED + d, load16(pool, k1 + d))
            store(work, fresh + 2 * PADDED + d, load16(pool, k2 + d))
            store(work, fresh + 3 * PADDED + d, load16(pool, k3 + d))
        _add_up(work, work, fresh, fresh + PADDED, fresh + 2 * PADDED, fresh + 3 * PADDED, at)
    else:
        _add_up(work, pool, k0, k1, k2, k3, at)


def _add_up(work, pool, k0, k1, k2, k3, at):
    """`_scores` of keys in float32."""
    a0, a1, a2, a3 = _half(work, pool, k0, k1, k2, k3, np.int64(0))
    b0, b1, b2, b3 = _half(work, pool, k0, k1, k2, k3, np.int64(2))
    a0 = a0 + b0
    a1 = a1 + b1
    a2 = a2 + b2
    a3 = a3 + b3
    b0, b1, b2, b3 = _half(work, pool, k0, k1, k2, k3, np.int64(1))
    c0, c1, c2, c3 = _half(work, pool, k0, k1, k2, k3, np.int64(3))
    store(work, at, a0 + (b0 + c0))
    store(work, at + 16, a1 + (b1 + c1))
    store(work, at + 32, a2 + (b2 + c2))
    store(work, at + 48, a3 + (b3 + c3))


def _wide(
    q, pool, keys, values, sizes, table, spans, a, b, start, stop, scale, cap, state, sums, work,
    offsets,
):  # fmt: skip
    """Let queries a to b see the keys start to stop of the first one's row, which they share."""
    heads, kv_heads, dim = sizes
    group = heads // kv_heads
    row = spans[a, 1]
    each = kv_heads * PADDED
    count = (b - a) * group
    scores = 16 * PADDED
    fixes = 16 * (PADDED + TILE + 4)
    flat = ravel(q)
    for head in range(kv_heads):
        for lane in range(0, count, 16):
            width = min(16, count - lane)
            at = a + lane // group
            which = head * group + lane % group
            for x in range(16):  # lanes without a query get an offset that nobody reads
                put(offsets, TILE + x, np.int64(len(spans) * heads))
            for x in range(width):
                mine = at * heads + which
                from_ = np.int64(spans[at, 0]) * q.shape[1] + which * dim
                put(offsets, TILE + x, mine)
                put(work, fixes + x, get(state, 2 * mine))
                put(work, fixes + 16 + x, get(state, 2 * mine + 1))
                for d in range(dim):
                    put(work, d * 16 + x, get(flat, from_ + d) * scale)
                which += 1
                if which == (head + 1) * group:
                    at = at + 1
                    which = head * group
            for d in range(dim, PADDED):
                store(work, 16 * d, spread(np.float32(0)))
            most = load16(work, fixes)
            sum_ = load16(work, fixes + 16)
            for first in range(start, stop, TILE):
                n = min(TILE, stop - first)
                for j in range(n):
                    put(offsets, j, np.int64(table[row, first + j]) * each + head * PADDED)
                for j in range(n, (n + 3) & ~3):
                    put(offsets, j, get(offsets, n - 1))
                for j in range(0, n, 4):
                    k0 = keys + get(offsets, j)
                    k1 = keys + get(offsets, j + 1)
                    k2 = keys + get(offsets, j + 2)
                    k3 = keys + get(offsets, j + 3)
                    _scores(work, pool, k0, k1, k2, k3, scores + 16 * j)
                before = most
                for j in range(n):
                    score = load16(work, scores + 16 * j)
                    if cap > 0:
                        score = _capped(score, cap)
                        store(work, scores + 16 * j, score)
                    most = maximum(rint(score), most)
                fix = exp2(before, most)
                sum_ = sum_ * fix
                for j in range(n):
                    v = exp2(load16(work, scores + 16 * j), most)
                    sum_ = sum_ + v
                    store(work, scores + 16 * j, v)
                store(work, fixes, fix)
                for x in range(0, width, 8):
                    p = TILE + x
                    f = fixes + x
                    o0 = get(offsets, p) * PADDED
                    o1 = get(offsets, p + 1) * PADDED
                    o2 = get(offsets, p + 2) * PADDED
                    o3 = get(offsets, p + 3) * PADDED
                    o4 = get(offsets, p + 4) * PADDED
                    o5 = get(offsets, p + 5) * PADDED
                    o6 = get(offsets, p + 6) * PADDED
                    o7 = get(offsets, p + 7) * PADDED
                    for d in range(0, PADDED, 16):
                        r0 = load16(sums, o0 + d) * spread(get(work, f))
                        r1 = load16(sums, o1 + d) * spread(get(work, f + 1))
                        r2 = load16(sums, o2 + d) * spread(get(work, f + 2))
                        r3 = load16(sums, o3 + d) * spread(get(work, f + 3))
                        r4 = load16(sums, o4 + d) * spread(get(work, f + 4))
                        r5 = load16(sums, o5 + d) * spread(get(work, f + 5))
                        r6 = load16(sums, o6 + d) * spread(get(work, f + 6))
                        r7 = load16(sums, o7 + d) * spread(get(work, f + 7))
                        for j in range(n):
                            v = load16(pool, values + get(offsets, j) + d)
                            at = scores + 16 * j + x
                            r0 = fma(spread(get(work, at)), v, r0)
                            r1 = fma(spread(get(work, at + 1)), v, r1)
                            r2 = fma(spread(get(work, at + 2)), v, r2)
                            r3 = fma(spread(get(work, at + 3)), v, r3)
                            r4 = fma(spread(get(work, at + 4)), v, r4)
                            r5 = fma(spread(get(work, at + 5)), v, r5)
                            r6 = fma(spread(get(work, at + 6)), v, r6)
                            r7 = fma(spread(get(work, at + 7)), v, r7)
                        store(sums, o0 + d, r0)
                        store(sums, o1 + d, r1)
                        store(sums, o2 + d, r2)
                        store(sums, o3 + d, r3)
                        store(sums, o4 + d, r4)
                        store(sums, o5 + d, r5)
                        store(sums, o6 + d, r6)
                        store(sums, o7 + d, r7)
            store(work, fixes, most)
            store(work, fixes + 16, sum_)
            for x in range(width):
                put(state, 2 * get(offsets, TILE + x), get(work, fixes + x))
                put(state, 2 * get(offsets, TILE + x) + 1, get(work, fixes + 16 + x))


def _softmax(work, scores, n, cap, state, mine):
    """Turn n scores of one query into weights and continue its running softmax; what its sums
    must be scaled by.
    """
    for j in range(n, (n + 15) & ~15):
        put(work, scores + j, np.float32(-np.inf))
    most = spread(state[2 * mine])
    before = most
    for j in range(0, n, 16):
        score = load16(work, scores + j)
        if cap > 0:
            score = _capped(score, cap)
            store(work, scores + j, score)
        most = maximum(rint(score), most)
    if cap > 0:
        for j in range(n, (n + 15) & ~15):
            work[scores + j] = -np.inf
    high = lane_max(most)
    most = spread(high)
    for j in range(0, n, 16):
        store(work, scores + j, exp2(load16(work, scores + j), most))
    fix = lane_max(exp2(before, most))
    state[2 * mine] = high
    state[2 * mine + 1] *= fix
    return fix


def _narrow(
    q, pool, keys, values, sizes, table, spans, at, start, scale, cap, state, sums, work, offsets
):
    """Let one query see the keys of its row from `start` on, four heads at a time; where they
    share a head of keys, each is read once.
    """
    heads, kv_heads, dim = sizes
    group = heads // kv_heads
    row = spans[at, 1]
    each = kv_heads * PADDED
    token = spans[at, 0]
    scores = heads * PADDED
    flat = ravel(q)
    from_ = np.int64(token) * q.shape[1]
    for h in range(heads):
        for d in range(dim):
            put(work, h * PADDED + d, get(flat, from_ + h * dim + d) * scale)
        for d in range(dim, PADDED):
            put(work, h * PADDED + d, np.float32(0))
    span = heads if group == 1 else group  # heads that are taken four at a time
    for first in range(start, spans[at, 3], TILE):
        n = min(TILE, spans[at, 3] - first)
        for j in range(n):
            put(offsets, j, np.int64(table[row, first + j]) * each)
        for h0 in range(0, heads, span):
            for h in range(h0, h0 + span, 4):
                few = min(4, h0 + span - h)
                i1 = min(1, few - 1)
                i2 = min(2, few - 1)
                i3 = min(3, few - 1)
                w0 = scores
                w1 = scores + i1 * TILE
                w2 = scores + i2 * TILE
                w3 = scores + i3 * TILE
                q0 = h * PADDED
                q1 = (h + i1) * PADDED
                q2 = (h + i2) * PADDED
                q3 = (h + i3) * PADDED
                if group == 1:
                    _dots_apart(work, pool, keys, offsets, n, q0, q1, q2, q3, w0, w1, w2, w3)
                else:
                    shared = keys + h // group * PADDED
                    _dots(work, pool, shared, offsets, n, q0, q1, q2, q3, w0, w1, w2, w3)
                m0 = at * heads + h
                m1 = at * heads + h + i1
                m2 = at * heads + h + i2
                m3 = at * heads + h + i3
                f0 = _softmax(work, w0, n, cap, state, m0)
                f1 = _softmax(work, w1, n, cap, state, m1) if few > 1 else f0
                f2 = _softmax(work, w2, n, cap, state, m2) if few > 2 else f1
                f3 = _softmax(work, w3, n, cap, state, m3) if few > 3 else f2
                t0 = state[2 * m0 + 1]
                t1 = state[2 * m1 + 1]
                t2 = state[2 * m2 + 1]
                t3 = state[2 * m3 + 1]
                for j in range(n):
                    t0 = t0 + get(work, w0 + j)
                    t1 = t1 + get(work, w1 + j)
                    t2 = t2 + get(work, w2 + j)
                    t3 = t3 + get(work, w3 + j)
                state[2 * m0 + 1] = t0
                state[2 * m1 + 1] = t1
                state[2 * m2 + 1] = t2
                state[2 * m3 + 1] = t3
                v0 = values + h // group * PADDED
                v1 = values + (h + i1) // group * PADDED
                v2 = values + (h + i2) // group * PADDED
                v3 = values + (h + i3) // group * PADDED
                for d in range(0, PADDED, 16):
                    r0 = load16(sums, m0 * PADDED + d) * spread(f0)
                    r1 = load16(sums, m1 * PADDED + d) * spread(f1)
                    r2 = load16(sums, m2 * PADDED + d) * spread(f2)
                    r3 = load16(sums, m3 * PADDED + d) * spread(f3)
                    if group == 1:
                        for j in range(n):
                            k = get(offsets, j) + d
                            r0 = fma(spread(get(work, w0 + j)), load16(pool, v0 + k), r0)
                            r1 = fma(spread(get(work, w1 + j)), load16(pool, v1 + k), r1)
                            r2 = fma(spread(get(work, w2 + j)), load16(pool, v2 + k), r2)
                            r3 = fma(spread(get(work, w3 + j)), load16(pool, v3 + k), r3)
                    else:
                        for j in range(n):
                            v = load16(pool, v0 + get(offsets, j) + d)
                            r0 = fma(spread(get(work, w0 + j)), v, r0)
                            r1 = fma(spread(get(work, w1 + j)), v, r1)
                            r2 = fma(spread(get(work, w2 + j)), v, r2)
                            r3 = fma(spread(get(work, w3 + j)), v, r3)
                    store(sums, m0 * PADDED + d, r0)
                    store(sums, m1 * PADDED + d, r1)
                    store(sums, m2 * PADDED + d, r2)
                    store(sums, m3 * PADDED + d, r3)


def _dots(work, pool, keys, offsets, n, q0, q1, q2, q3, w0, w1, w2, w3):
    """Products of four heads' queries, at q0 to q3 of `work`, with n keys that they share, to
    w0, w1, w2, w3 and on.
    """
    for j in range(n):
        k = keys + get(offsets, j)
        s0 = s1 = s2 = s3 = spread(np.float32(0))
        for d in range(0, PADDED, 16):
            v = load16(pool, k + d)
            s0 = fma(v, load16(work, q0 + d), s0)
            s1 = fma(v, load16(work, q1 + d), s1)
            s2 = fma(v, load16(work, q2 + d), s2)
            s3 = fma(v, load16(work, q3 + d), s3)
        lane_sums(s0, s1, s2, s3, work, w0 + j, w1 + j, w2 + j, w3 + j)


def _dots_apart(work, pool, keys, offsets, n, q0, q1, q2, q3, w0, w1, w2, w3):
    """The same, each head with keys of its own, which lie as far apart as the queries."""
    for j in range(n):
        k = keys + get(offsets, j)
        s0 = s1 = s2 = s3 = spread(np.float32(0))
        for d in range(0, PADDED, 16):
            s0 = fma(load16(pool, k + q0 + d), load16(work, q0 + d), s0)
            s1 = fma(load16(pool, k + q1 + d), load16(work, q1 + d), s1)
            s2 = fma(load16(pool, k + q2 + d), load16(work, q2 + d), s2)
            s3 = fma(load16(pool, k + q3 + d), load16(work, q3 + d), s3)
        lane_sums(s0, s1, s2, s3, work, w0 + j, w1 + j, w2 + j, w3 + j)


def _attend(
    q, pool, table, spans, parts, sizes, keys, values, scale, cap, window, work, offsets, out
):
    q = bare(q)
    pool = bare(pool)
    table = bare(table)
    spans = bare(spans)
    parts = bare(parts)
    work = bare(work)
    offsets = bare(offsets)
    out = bare(out)
    heads = sizes[0]
    dim = sizes[2]
    n = len(spans)
    counts = (heads, sizes[1], dim)
    room = n * heads + 1
    state = work[: 2 * room]
    sums = work[2 * room : (2 + PADDED) * room]
    work = work[(2 + PADDED) * room :]
    for i in range(room):
        state[2 * i] = -np.inf
        state[2 * i + 1] = 0
        for d in range(0, PADDED, 16):
            store(sums, i * PADDED + d, spread(np.float32(0)))
    scale = scale * LOG2E
    cap = cap * LOG2E
    if window == 0:
        for i in range(len(parts)):
            a = parts[i, 0]
            b = parts[i, 1]
            start = parts[i, 2]
            stop = parts[i, 3]
            _wide(
                q, pool, keys, values, counts, table, spans, a, b, start, stop, scale, cap, state,
                sums, work, offsets,
            )  # fmt: skip
    for i in range(n):
        start = spans[i, 2] if window == 0 else max(0, spans[i, 3] - window)
        _narrow(
            q, pool, keys, values, counts, table, spans, i, start, scale, cap, state, sums, work,
            offsets,
        )  # fmt: skip
        to = np.int64(spans[i, 0]) * heads * dim
        flat = ravel(out)
        for h in range(heads):
            weight = np.float32(1) / state[2 * (i * heads + h) + 1]
            for d in range(dim):
                put(flat, to + h * dim + d, get(sums, (i * heads + h) * PADDED + d) * weight)


def scratch(queries: int, heads: int, padded: int) -> tuple[int, int]:
    """How many numbers a kernel needs in `work` and in `offsets` for so many queries."""
    return (2 + padded) * (queries * heads + 1) + (20 + heads) * padded + 16 * (TILE + 8), TILE + 16


_inlined = (_column, _half, _add_up, _scores)
_f4 = numba.float32[::1]
_f4s = numba.float32[:, ::1]
_i4 = numba.int32[:, ::1]
_i8s = numba.int64[::1]
_i8 = numba.int64
_f = numba.float32


@functools.cache
def attention(padded: int, half: bool = False) -> Any:
    """The kernel for heads that take `padded` numbers: `attend(q, pool, table, spans, parts, sizes,
    keys, values, scale, cap, window, work, offsets, out)`.

    q       float32 [tokens, >= heads * dim]: the queries in its first columns, already rotated
    pool    float32 or uint16, flat; the keys of this layer begin at `keys`, each token [kv_heads,
            padded], the values at `values`
    table   int32 [rows, longest]: the cells of each row's text
    spans   int32 [queries, 4]: token in `q`, row, where its own keys begin, where they end (its
            position + 1)
    parts   int32 [parts, 4]: queries a to b share the keys start to stop; a query's in the order of
            its keys (`llama_kernels.plan`)
    sizes   int64 [4]: heads, kv_heads, dim, padded
    scale   of the scores;  cap: soft cap of the scores, 0: none;  window: keys that a query sees at
            most, 0: all
    work    float32 scratch, offsets: int64 scratch (`scratch`)
    half    in pool and result numbers are bfloat16, as uint16 (`search.kernels.simd`)
    out     like the pool, [tokens, heads * dim]; rows of tokens that are no query stay as they are
    """
    names = {**globals(), "PADDED": padded, "HALF": half}
    name = f"{padded}{'_half' if half else ''}_{digest(loader, _wide)}"
    number = numba.uint16 if half else numba.float32
    for function in (*_inlined, _capped, _softmax, _dots, _dots_apart, _wide, _narrow):
        made = inner if function in _inlined else part
        names[function.__name__] = made(bind(function, names, f"{function.__name__}_{name}"))
    signature = numba.void(
        _f4s, number[::1], _i4, _i4, _i4, _i8s, _i8, _i8, _f, _f, _i8, _f4, _i8s, number[:, ::1]
    )
    return kernel(signature)(bind(_attend, names, f"attend_{name}"))
