"""Seeded sampling that does not depend on the batch.

A token is drawn by an exponential race (Gumbel-max without the logarithm of a logarithm): the
survivor with the smallest `E / w` wins, where w is its weight after temperature and truncation and
E an exponential number that is a hash of (seed, index of the generated token in its request, token
id). The same request so draws the same tokens beside any neighbours, and a small change of the
logits changes the draw only where two tokens run neck and neck. On a GPU
`models.engine.sampling_gpu` draws otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from models.engine import sampling_kernels

_U32 = np.uint32
# temperatures; beyond, one over them is no float32
COLDEST = 1e-38
WARMEST = 1e38
#: a smaller share of the model's probability counts as nothing: float32 log-probs cannot tell it
#: from 0
LEAST = 1e-6


@dataclass(frozen=True)
class Drawn:
    """Result of `draw`, one entry a row.

    tokens             int64 [rows]
    log_probs          float32 [rows], the model's own at temperature 1, untruncated
    sampled_log_probs  float32 [rows], of the distribution drawn from; 0 where greedy
    finite             bool [rows], False where the logits hold nan or +inf or only -inf (the other
                       entries then mean nothing)
    left               bool [rows], False where what is to be avoided left no token (the other
                       entries then mean nothing)
    """

    tokens: np.ndarray
    log_probs: np.ndarray
    sampled_log_probs: np.ndarray
    finite: np.ndarray
    left: np.ndarray


class Parameters(NamedTuple):
    """How the tokens of some rows are drawn: what `draw` takes, in its order, arrays [rows]."""

    seed: np.ndarray
    token_index: np.ndarray
    temperature: np.ndarray
    top_k: np.ndarray
    top_p: np.ndarray
    min_p: np.ndarray


class Thinned(NamedTuple):
    """Tokens that are less likely than the model says, because some of what would follow is to be
    avoided.

    rows, tokens  int64 [thinned], distinct pairs;  keep: float64 [thinned], the share of each one's
                  probability that is left, in [0, 1]
    """

    rows: np.ndarray
    tokens: np.ndarray
    keep: np.ndarray


def draw(
    logits: Any,
    seed: np.ndarray,
    index: np.ndarray,
    temperature: np.ndarray,
    top_k: np.ndarray,
    top_p: np.ndarray,
    min_p: np.ndarray,
    thinned: Thinned | None = None,
) -> Drawn:
    """Draw one token a row. logits: [rows, vocabulary], float32, bfloat16 as uint16, or a tensor;
    the rest [rows].

    What is `thinned` loses its share first. Truncation in this order, as in transformers:
    temperature; the `top_k` largest (0: all); of these, renormalised, the fewest that reach
    `top_p`; of these, those at least `min_p` times as probable as the likeliest. Temperature 0 is
    greedy, ties go to the lowest id.
    """
    if not isinstance(logits, np.ndarray):
        logits = logits.float().cpu().numpy()
    logits = np.ascontiguousarray(logits)
    cut = (temperature > 0) & ((top_k > 0) | (top_p < 1) | (min_p > 0))
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        hashed = keys(seed, index)
        cold = _cold(temperature)
        tokens, sampled, tops, norms = _race(logits, hashed, cold)
        finite = np.isfinite(tops) & np.isfinite(norms)
        left = np.ones(len(logits), bool)
        own_tops = tops.copy()
        own_norms = norms.copy()
        some = thin = None
        if thinned is not None:
            some = np.unique(thinned.rows)
            thin = floats(logits[some])
            thin[np.searchsorted(some, thinned.rows), thinned.tokens] += np.log(
                thinned.keep
            ).astype(np.float32)
            tokens[some], sampled[some], tops[some], norms[some] = _race(
                thin, hashed[some], cold[some]
            )
            left[some] = (
                np.exp(tops[some] - own_tops[some] + norms[some] - own_norms[some]) >= LEAST
            )
        part = np.flatnonzero(finite & left & cut)
        for rows, table in _tables(part, logits, some, thin):
            ids, w = survivors(table, tops[rows], cold[rows], top_k[rows], top_p[rows], min_p[rows])
            runs = noise(seed[rows], index[rows], ids.astype(_U32))
            runs /= w
            winners = runs.argmin(1)
            at = np.arange(len(rows))
            tokens[rows] = ids[at, winners]
            # one after the other: numpy's `sum` groups by the number of columns, which is that of
            # the row with the most survivors
            sampled[rows] = np.log(w[at, winners] / np.cumsum(w, axis=1, dtype=np.float64)[:, -1])
        log_probs = floats(logits[np.arange(len(logits)), tokens]) - own_tops - own_norms
    return Drawn(tokens, log_probs.astype(np.float32), sampled, finite, left)


def floats(numbers: np.ndarray) -> np.ndarray:
    """float32 as it is; bfloat16, in uint16, as a copy in float32."""
    if numbers.dtype != np.uint16:
        return numbers
    return (numbers.astype(np.uint32) << _U32(16)).view(np.float32)


def _tables(
    part: np.ndarray, logits: np.ndarray, some: Any, thin: Any
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rows `part` with their logits: those of `some` from `thin`, all others as they are."""
    there = np.isin(part, [] if some is None else some)
    if not there.all():
        plain = part[~there]
        yield plain, logits if len(plain) == len(logits) else logits[plain]
    if there.any():
        yield part[there], thin[np.searchsorted(some, part[there])]


def _cold(temperature: np.ndarray) -> np.ndarray:
    """One over the temperature, float32 [rows], above 0 and finite; 0 where that is 0."""
    return np.where(temperature > 0, 1 / np.clip(temperature, COLDEST, WARMEST), 0).astype(
        np.float32
    )


def _race(
    logits: np.ndarray, keys: np.ndarray, cold: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, their log-probs, largest logits and log-sums of rows that are not truncated:
    `sampling_kernels.race`.
    """
    tokens = np.empty(len(logits), np.int64)
    tops, norms, sampled = np.empty((3, len(logits)), np.float32)
    low = keys.astype(_U32)
    high = (keys >> np.uint64(32)).astype(_U32)
    sampling_kernels.loops(logits.dtype == np.uint16).race(
        logits, low, high, cold, np.empty(16, np.float32), tokens, tops, norms, sampled
    )
    return tokens, sampled, tops, norms


def survivors(
    logits: np.ndarray,
    tops: np.ndarray,
    cold: np.ndarray,
    top_k: np.ndarray,
    top_p: np.ndarray,
    min_p: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids that survive truncation, likeliest first (of equals the lowest id), and their
    weights.

    logits: [rows, vocabulary], float32 or bfloat16 as uint16; tops: float32 [rows], the largest of
    each; cold: float32 [rows], one over the temperature; the rest: [rows]. Returns (int64 [rows,
    most], float32 [rows, most] in [0, 1]), the weights 0 where a row has fewer survivors; the
    likeliest token always survives.
    """
    count, vocabulary = logits.shape
    loops = sampling_kernels.loops(logits.dtype == np.uint16)
    top_k = np.where((top_k <= 0) | (top_k > vocabulary), vocabulary, top_k)
    peaks = np.empty((count, -(-vocabulary // sampling_kernels.BLOCK)), np.float32)
    total = np.empty(count)
    edge = np.empty(16, np.float32)
    loops.weigh(logits, tops, cold, edge, peaks, total)
    # what is surely cut is not sorted: below min_p, below (1 - top_p) / vocabulary, which cannot
    # sum to 1 - top_p, and below the largest weights of as many blocks as top_k says
    least = np.where(
        top_p < 1, (1 - top_p) * total / vocabulary * 0.5, np.minimum(min_p, 1) * (1 - 1e-6)
    )
    blocks = peaks.shape[1]
    for k in np.unique(top_k[top_k < vocabulary]):
        those = top_k == k
        least[those] = 0
        if k <= blocks:
            least[those] = np.partition(peaks[those], blocks - k, axis=1)[:, blocks - k]
    least = np.nextafter(least.astype(np.float32), np.float32(-1))
    most = 1024
    counts = np.empty(count, np.int64)
    while True:
        ids = np.zeros((count, most), np.int64)
        w = np.zeros((count, most), np.float32)
        loops.collect(logits, tops, cold, least, edge, ids, w, counts)
        if counts.max() <= most:
            break
        most = int(counts.max())
    most = int(counts.max())
    ids = ids[:, :most]
    w = w[:, :most]
    rows = np.arange(count)[:, None]
    total = total[:, None]
    top_k = top_k[:, None]
    top_p = top_p[:, None]
    min_p = min_p[:, None]
    order = np.argsort(-w, axis=1, kind="stable")
    ids = ids[rows, order]
    w = w[rows, order]
    w[np.arange(most) >= top_k] = 0
    sums = np.cumsum(w, axis=1, dtype=np.float64)
    whole = np.where(top_k < vocabulary, sums[:, -1:], total)
    first = w[:, :1].copy()
    w[(top_p < 1) & (sums - w >= top_p * whole)] = 0
    w[w < min_p.astype(np.float32) * first] = 0
    w[:, :1] = first
    kept = int((w > 0).sum(1).max())
    return ids[:, :kept], w[:, :kept]


def noise(seed: np.ndarray, index: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Standard exponential numbers, float32 [rows, ids], above 0 and finite.

    seed, index: integers [rows]; ids: uint32 [rows or 1, ids], each mixed with its row's key by two
    rounds of murmur3's finaliser.
    """
    hashed = keys(seed, index)
    low = hashed.astype(_U32)[:, None]
    high = (hashed >> np.uint64(32)).astype(_U32)[:, None]
    bits = ids * _U32(0x9E3779B1) ^ low
    _finalise(bits)
    bits ^= high
    _finalise(bits)
    uniform = bits.astype(np.float32)
    uniform += np.float32(0.5)
    uniform *= np.float32(-(2.0**-32))
    np.maximum(uniform, np.float32(-(1 - 2.0**-24)), out=uniform)
    np.log1p(uniform, out=uniform)
    return np.negative(uniform, out=uniform)


def keys(seed: np.ndarray, index: np.ndarray) -> np.ndarray:
    """uint64 [rows]: splitmix64 of seed and index (Steele et al. 2014), both [rows]."""
    return _splitmix(_splitmix(seed.astype(np.uint64)) + index.astype(np.uint64))


def _finalise(bits: np.ndarray) -> None:
    """murmur3's fmix32, in place."""
    bits ^= bits >> _U32(16)
    bits *= _U32(0x85EBCA6B)
    bits ^= bits >> _U32(13)
    bits *= _U32(0xC2B2AE35)
    bits ^= bits >> _U32(16)


def _splitmix(state: np.ndarray) -> np.ndarray:
    """splitmix64 of each state, uint64."""
    with np.errstate(over="ignore"):
        z = state + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
