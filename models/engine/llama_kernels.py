"""The loops of a pass on a CPU beside its products and its attention: what queries share,
norms, rotation, gates, storing.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numba
import numpy as np

from search.kernels.jit import bare, bind, digest, kernel, part, ravel
from search.kernels.simd import (
    exp2,
    fma,
    get,
    lane_sum,
    load16,
    loader,
    maximum,
    minimum,
    put,
    spread,
    store,
)

LOG2E = np.float32(1.4426950408889634)
# queries times keys from which reading keys together pays: packing the queries costs as much as 50
# to 70 keys of one of them
SHARED = 64
FEWEST = 4  # queries, too: below, most lanes are idle


def plan(table, rows, ends, chunks, group, order, spans, parts):
    """What the queries of a pass share. Returns the numbers of spans and of parts written.

    table    int32 [rows, longest]
    rows     int64 [steps]: the rows that have one query each, tokens 0, 1, ... of the pass;  ends:
             int64 [steps], where their keys end
    chunks   int64 [chunks, 4]: row, first token in the pass, keys before it, tokens: consecutive
             queries of one row
    group    query heads that share one head of keys
    order    int64 [steps], scratch
    spans, parts  int32 [queries, 4], [2 * queries, 4]: as in `tree_attention_cpu.attention`
    """
    table = bare(table)
    rows = bare(rows)
    ends = bare(ends)
    chunks = bare(chunks)
    order = bare(order)
    spans = bare(spans)
    parts = bare(parts)
    n = len(rows)
    count = np.int64(0)
    for i in range(n):  # sorted by text, so that what begins alike stands together
        low = 0
        high = i
        while low < high:
            middle = (low + high) // 2
            if _before(table, rows[order[middle]], rows[i], min(ends[order[middle]], ends[i])):
                low = middle + 1
            else:
                high = middle
        for j in range(i, low, -1):
            order[j] = order[j - 1]
        order[low] = i
    for i in range(n):
        spans[i, 0] = order[i]
        spans[i, 1] = rows[order[i]]
        spans[i, 2] = 0
        spans[i, 3] = ends[order[i]]
    if n > 0:  # spans[i, 2]: what is read of i together with others already
        count = _share(table, spans, np.int64(0), n, group, parts, count)
    for c in range(len(chunks)):
        row = chunks[c, 0]
        token = chunks[c, 1]
        past = chunks[c, 2]
        size = chunks[c, 3]
        tile = max(1, 16 // group)
        for first in range(0, size, tile):
            some = min(tile, size - first)
            together = past + first
            if some * group < FEWEST or together * some * group < SHARED:
                together = 0
            else:
                parts[count, 0] = n
                parts[count, 1] = n + some
                parts[count, 2] = 0
                parts[count, 3] = together
                count += 1
            for i in range(some):
                spans[n, 0] = token + first + i
                spans[n, 1] = row
                spans[n, 2] = together
                spans[n, 3] = past + first + i + 1
                n += 1
    return n, count


def _before(table, a, b, length):
    """Whether row a comes before (or is equal to) row b in their first `length` cells."""
    for j in range(length):
        if table[a, j] != table[b, j]:
            return table[a, j] < table[b, j]
    return True


def _share(table, spans, start, stop, group, parts, count):
    """Write the parts of sorted queries start to stop; spans[i, 2] becomes what is covered of
    each. Returns the number of parts.
    """
    a = start
    while a < stop:
        # the widest set of neighbours from a on that shares enough beyond what is covered of a
        # already
        covered = spans[a, 2]
        b = a + 1
        least = spans[a, 3]
        best = 0
        until = 0
        while b < stop and spans[b, 2] == covered:
            j = covered
            limit = min(least, spans[b, 3])
            while j < limit and table[spans[b - 1, 1], j] == table[spans[b, 1], j]:
                j += 1
            if j == covered:
                break
            least = j
            b += 1
            gain = (b - a - 1) * group * (least - covered)
            if (
                gain > best
                and (b - a) * group >= FEWEST
                and (b - a) * group * (least - covered) >= SHARED
            ):
                best = gain
                until = b
                reach = least
        if best == 0:
            a += 1
            continue
        parts[count, 0] = a
        parts[count, 1] = until
        parts[count, 2] = covered
        parts[count, 3] = reach
        count += 1
        for i in range(a, until):
            spans[i, 2] = reach
    return count


def write(keys, values, cells, pool, sizes, layer, step):
    """Put the keys and values of new tokens, [tokens, kv_heads * dim] of the pool's type, into
    cells `cells` of one layer of the pool.
    """
    keys = bare(keys)
    values = bare(values)
    cells = bare(cells)
    pool = bare(pool)
    kv_heads = sizes[1]
    dim = sizes[2]
    padded = sizes[3]
    for i in range(len(cells)):
        for head in range(kv_heads):
            at = 2 * layer * step + (cells[i] * kv_heads + head) * padded
            for d in range(dim):
                pool[at + d] = keys[i, head * dim + d]
                pool[at + step + d] = values[i, head * dim + d]
            for d in range(dim, padded):
                pool[at + d] = pool[at + step + d] = 0


def turn(
    qkv, q, cells, pool, sizes, layer, step, positions, cosines, sines, q_norm, k_norm, epsilon
):
    """Norm (where weights are given), rotate and store: the queries of `qkv` into `q`, its keys and
    values into the pool.

    qkv       [tokens, (heads + 2 * kv_heads) * dim], changed where it is float32;  q: float32
              [tokens, >= heads * dim], may be `qkv`
    cells     int64 [tokens];  positions: int64 [tokens]
    cosines, sines  float32 [positions, dim], of Su et al. 2021 as transformers lays them out (two
                    halves)
    q_norm, k_norm  float32 [dim] or [0]: RMS norm of each head (Zhang and Sennrich 2019)
    """
    qkv = bare(qkv)
    q = bare(q)
    cells = bare(cells)
    pool = bare(pool)
    positions = bare(positions)
    cosines = bare(cosines)
    sines = bare(sines)
    q_norm = bare(q_norm)
    k_norm = bare(k_norm)
    heads = sizes[0]
    kv_heads = sizes[1]
    dim = sizes[2]
    padded = sizes[3]
    half = dim // 2
    width = qkv.shape[1]
    mixed = ravel(qkv)
    queries = ravel(q)
    for i in range(len(cells)):
        p = positions[i]
        base = 2 * layer * step + cells[i] * kv_heads * padded
        for head in range(heads + kv_heads):
            at = i * width + head * dim
            rate = np.float32(1)
            if len(q_norm):
                square = np.float32(0)
                for d in range(dim):
                    square += get(mixed, at + d) * get(mixed, at + d)
                rate = np.float32(1) / np.sqrt(square / np.float32(dim) + epsilon)
            for d in range(half):
                x = get(mixed, at + d)
                y = get(mixed, at + half + d)
                if len(q_norm):
                    x *= rate * (q_norm[d] if head < heads else k_norm[d])
                    y *= rate * (q_norm[half + d] if head < heads else k_norm[half + d])
                low = x * cosines[p, d] - y * sines[p, d]
                high = y * cosines[p, half + d] + x * sines[p, half + d]
                if head < heads:
                    to = i * q.shape[1] + head * dim + d
                    put(queries, to, low)
                    put(queries, to + half, high)
                else:
                    to = base + (head - heads) * padded + d
                    put(pool, to, low)
                    put(pool, to + half, high)
        for head in range(kv_heads):
            at = base + head * padded
            v = i * width + (heads + kv_heads + head) * dim
            for d in range(dim):
                put(pool, at + step + d, get(mixed, v + d))
            for d in range(dim, padded):
                put(pool, at + d, np.float32(0))
                put(pool, at + step + d, np.float32(0))


def norm(x, weight, epsilon, out):
    """RMS norm of float32 [tokens, hidden] into `out` (Zhang and Sennrich 2019), float32 or
    bfloat16.
    """
    x = bare(x)
    weight = bare(weight)
    out = bare(out)
    width = x.shape[1]
    flat = ravel(x)
    into = ravel(out)
    for i in range(len(x)):
        square = spread(np.float32(0))
        for d in range(0, width - 15, 16):
            v = load16(flat, i * width + d)
            square = fma(v, v, square)
        sum_ = lane_sum(square)
        for d in range(width & ~15, width):
            sum_ += x[i, d] * x[i, d]
        rate = np.float32(1) / np.sqrt(sum_ / np.float32(width) + epsilon)
        for d in range(0, width - 15, 16):
            store(
                into, i * width + d, load16(flat, i * width + d) * spread(rate) * load16(weight, d)
            )
        for d in range(width & ~15, width):
            put(into, i * width + d, x[i, d] * rate * weight[d])


def gate(both, out):
    """SiLU of the first half of each row of `both`, [tokens, 2 * inner], times the second half
    (Shazeer 2020, SwiGLU).
    """
    both = bare(both)
    out = bare(out)
    inner = out.shape[1]
    one = spread(np.float32(1))
    flat = ravel(both)
    into = ravel(out)
    for i in range(len(out)):
        a = 2 * i * inner
        o = i * inner
        for d in range(0, inner - 15, 16):
            x = load16(flat, a + d)
            falls = exp2(
                maximum(
                    spread(np.float32(-100)), minimum(spread(np.float32(100)), x * spread(-LOG2E))
                ),
                spread(np.float32(0)),
            )
            store(into, o + d, x / (one + falls) * load16(flat, a + inner + d))
        for d in range(inner & ~15, inner):
            x = get(flat, a + d)
            put(into, o + d, x / (np.float32(1) + np.exp(-x)) * get(flat, a + inner + d))


def single(x, weight, block, bias, out):
    """The product of one row. x: float32 [in]; weight: float32, flat [in, out]; out a multiple of
    16; bias: float32 [out] or [0].

    Each number is a chain over `block` inputs at a time, and these are added: as oneDNN does it
    (`llama_cpu.Linear` tries that).
    """
    x = bare(x)
    weight = bare(weight)
    bias = bare(bias)
    out = bare(out)
    size = out.size
    n = np.int64(0)
    while n < size:
        wide = n + 64 <= size
        for start in range(0, x.size, block):
            a = b = c = d = spread(np.float32(0))
            for k in range(start, min(x.size, start + block)):
                v = spread(get(x, k))
                at = k * size + n
                a = fma(v, load16(weight, at), a)
                if wide:
                    b = fma(v, load16(weight, at + 16), b)
                    c = fma(v, load16(weight, at + 32), c)
                    d = fma(v, load16(weight, at + 48), d)
            if start > 0:
                a = load16(out, n) + a
                if wide:
                    b = load16(out, n + 16) + b
                    c = load16(out, n + 32) + c
                    d = load16(out, n + 48) + d
            store(out, n, a)
            if wide:
                store(out, n + 16, b)
                store(out, n + 32, c)
                store(out, n + 48, d)
        n += 64 if wide else 16
    if bias.size > 0:
        for n in range(0, size, 16):
            store(out, n, load16(out, n) + load16(bias, n))


class Loops(NamedTuple):
    """The kernels whose arrays are of the type that the model computes in."""

    write: Any
    turn: Any
    norm: Any
    gate: Any


_stamp = digest(loader, plan)
for _inner in (_before, _share):
    globals()[_inner.__name__] = part(bind(_inner, globals(), f"{_inner.__name__}_{_stamp}"))
_f4 = numba.float32[::1]
_f4s = numba.float32[:, ::1]
_i8s = numba.int64[::1]
_f = numba.float32
_i8 = numba.int64
_i4 = numba.int32[:, ::1]


def _compiled(signature, function, name=""):
    return kernel(signature)(bind(function, globals(), f"{function.__name__}{name}_{_stamp}"))


@functools.cache
def loops(half: bool) -> Loops:
    """The kernels for float32, or for bfloat16 as uint16 (`half`), compiled when they are first
    asked for.
    """
    number = numba.uint16 if half else numba.float32
    flat = number[::1]
    rows = number[:, ::1]
    name = "_half" if half else ""
    return Loops(
        _compiled(numba.void(rows, rows, _i8s, flat, _i8s, _i8, _i8), write, name),
        _compiled(
            numba.void(rows, _f4s, _i8s, flat, _i8s, _i8, _i8, _i8s, _f4s, _f4s, _f4, _f4, _f),
            turn,
            name,
        ),
        _compiled(numba.void(_f4s, _f4, _f, rows), norm, name),
        _compiled(numba.void(rows, rows), gate, name),
    )


plan = _compiled(
    numba.types.UniTuple(_i8, 2)(_i4, _i8s, _i8s, numba.int64[:, ::1], _i8, _i8s, _i4, _i4), plan
)
single = _compiled(numba.void(_f4, _f4, _i8, _f4, _f4), single)
