"""Drawing tokens on a GPU: one random number a row.

A row's number is a hash of (seed, index of the token in its request), so a draw does not depend on
the batch. The token is where the distribution's cumulative sum passes that number (inverse CDF),
found in two steps: sums of blocks of the vocabulary, then the block in which the number falls. A
greedy row uses no number. `models.engine.sampling` on a CPU draws by a race of one number a token,
so the two devices draw different tokens from the same distribution.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl

from models.engine import sampling
from models.engine.gpu import send
from models.engine.sampling import LEAST, Drawn, Thinned
from models.engine.tree_attention_gpu import power_of_two

BLOCK = 4096  # logits that a program reads
# likeliest tokens of a row that are sorted where it is truncated; where these do not settle it, all
# are
CANDIDATES = 1024


@triton.jit
def _sums_kernel(
    logits, options, found, stride, blocks, VOCABULARY: tl.constexpr, SIZE: tl.constexpr
):
    """One block of a row: its largest logit, where that is (the lowest id), and its sums of
    weights at temperature 1 and the row's.
    """
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    n = block * SIZE + tl.arange(0, SIZE)
    cold = tl.load(options + 2 * row + 1).to(tl.float32)
    x = tl.load(logits + row * stride + n, mask=n < VOCABULARY, other=float("-inf")).to(tl.float32)
    top = tl.max(x, 0)
    where = tl.min(tl.where(x == top, n, VOCABULARY), 0)
    shifted = tl.where(x == float("-inf"), float("-inf"), x - top)  # nan where x is nan or +inf
    target = found + (row * blocks + block) * 4
    tl.store(target, top.to(tl.float64))
    tl.store(target + 1, where.to(tl.float64))
    tl.store(target + 2, tl.sum(tl.exp(shifted), 0).to(tl.float64))
    tl.store(
        target + 3,
        tl.sum(tl.exp(tl.where(shifted == float("-inf"), float("-inf"), shifted * cold)), 0).to(
            tl.float64
        ),
    )


@triton.jit
def _pick_kernel(
    logits, options, found, drawn, stride, blocks, VOCABULARY: tl.constexpr, SIZE: tl.constexpr,
    BLOCKS: tl.constexpr
):  # fmt: skip
    """One row: the block in which its number falls, and the token there."""
    row = tl.program_id(0).to(tl.int64)
    uniform = tl.load(options + 2 * row)
    cold = tl.load(options + 2 * row + 1)
    b = tl.arange(0, BLOCKS)
    source = found + (row * blocks + b) * 4
    tops = tl.load(source, mask=b < blocks, other=float("-inf"))
    places = tl.load(source + 1, mask=b < blocks, other=0.0)
    own = tl.load(source + 2, mask=b < blocks, other=0.0)
    cooled = tl.load(source + 3, mask=b < blocks, other=0.0)
    top = tl.max(tops, 0)
    likeliest = tl.min(tl.where(tops == top, places, VOCABULARY * 1.0), 0).to(tl.int64)
    below = tl.where(tops == float("-inf"), float("-inf"), tops - top)
    norm = tl.sum(own * tl.exp(below), 0)
    masses = cooled * tl.exp(tl.where(below == float("-inf"), float("-inf"), below * cold))
    total = tl.sum(masses, 0)
    sums = tl.cumsum(masses, 0)
    block = tl.min(tl.where((sums > uniform * total) & (masses > 0), b, BLOCKS), 0)
    block = tl.where(block == BLOCKS, tl.max(tl.where(masses > 0, b, 0), 0), block)
    rest = uniform * total - tl.sum(tl.where(b < block, masses, 0.0), 0)

    n = block * SIZE + tl.arange(0, SIZE)
    x = tl.load(logits + row * stride + n, mask=n < VOCABULARY, other=float("-inf")).to(tl.float64)
    weights = tl.exp(tl.where(x == float("-inf"), float("-inf"), (x - top) * cold))
    reached = tl.cumsum(weights, 0) > rest
    token = tl.min(tl.where(reached & (weights > 0), n, VOCABULARY), 0)
    token = tl.where(token == VOCABULARY, tl.max(tl.where(weights > 0, n, 0), 0), token).to(
        tl.int64
    )
    token = tl.where(cold > 0, token, likeliest)
    # numbers that are not finite find none
    token = tl.maximum(0, tl.minimum(token, VOCABULARY - 1))
    tl.store(drawn + row * 5, token.to(tl.float64))
    tl.store(drawn + row * 5 + 1, tl.load(logits + row * stride + token).to(tl.float64))
    tl.store(drawn + row * 5 + 2, top)
    tl.store(drawn + row * 5 + 3, tl.log(norm))
    tl.store(drawn + row * 5 + 4, tl.log(total))


def draw_on(
    logits: torch.Tensor,
    seed: np.ndarray,
    index: np.ndarray,
    temperature: np.ndarray,
    top_k: np.ndarray,
    top_p: np.ndarray,
    min_p: np.ndarray,
    thinned: Thinned | None = None,
) -> Drawn:
    """`models.engine.sampling.draw` of logits on a GPU, any float type [rows, vocabulary]; the host
    waits for the device once.

    Twice where a row is truncated: it may be that its likeliest CANDIDATES do not settle where it
    is cut.
    """
    cold = np.where(
        temperature > 0, 1 / np.clip(temperature, sampling.COLDEST, sampling.WARMEST), 0
    )
    options = send(np.stack([uniforms(seed, index), cold], 1), logits.device)
    tables = [_drawn(logits, options)]
    cut = (temperature > 0) & ((top_k > 0) | (top_p < 1) | (min_p > 0))
    altered = cut.copy()
    if thinned is not None:
        altered[thinned.rows] = True
    some = np.flatnonzero(altered)
    if len(some):
        at = send(some, logits.device)
        part = logits.index_select(0, at).float()
        if thinned is not None:
            with np.errstate(divide="ignore"):
                kept = np.log(thinned.keep).astype(np.float32)
            entries = (np.searchsorted(some, thinned.rows), thinned.tokens)
            part.index_put_(
                tuple(send(c, part.device) for c in entries),
                send(kept, part.device),
                accumulate=True,
            )
        tables.append(_drawn(part, options[at]))
        which = np.flatnonzero(cut[some])
        if len(which):
            limits = send(
                np.stack([top_k[cut], top_p[cut], min_p[cut]], 1).astype(np.float64), part.device
            )
            at = send(which, part.device)
            tables[1][at] = _truncated(
                part[at], tables[1][at], options[send(np.flatnonzero(cut), part.device)], limits
            )
    table = torch.cat(tables).cpu().numpy()
    return _result(table[: len(logits)], table[len(logits) :], some, cold, thinned)


def _result(
    own: np.ndarray,
    altered: np.ndarray,
    some: np.ndarray,
    cold: np.ndarray,
    thinned: Thinned | None,
) -> Drawn:
    """What was drawn, from the tables of `_drawn`: of all rows as the model has them, and of
    those in `some` as they were altered.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        finite = np.isfinite(own[:, 2]) & np.isfinite(own[:, 3])
        left = np.ones(len(own), bool)
        chosen = own.copy()
        if len(some):
            left[some] = (
                np.exp(altered[:, 2] - own[some, 2] + altered[:, 3] - own[some, 3]) >= LEAST
            )
            chosen[some] = altered
        sampled = np.where(cold > 0, (chosen[:, 1] - chosen[:, 2]) * cold - chosen[:, 4], 0)
        if thinned is not None:  # the model's own log-prob of a token that had lost a share
            hit = (chosen[thinned.rows, 0] == thinned.tokens) & (thinned.keep > 0)
            chosen[thinned.rows[hit], 1] -= np.log(thinned.keep[hit]).astype(np.float32)
        log_probs = chosen[:, 1] - own[:, 2] - own[:, 3]
    return Drawn(
        chosen[:, 0].astype(np.int64),
        log_probs.astype(np.float32),
        sampled.astype(np.float32),
        finite,
        left,
    )


def uniforms(seed: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The random number of each row: float64 [rows], multiples of 2^-53 in [0, 1). seed, index:
    integers [rows].
    """
    return (sampling.keys(seed, index) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _drawn(logits: torch.Tensor, options: torch.Tensor) -> torch.Tensor:
    """float64 [rows, 5]: token drawn, its logit, the largest logit, and the logarithms of the sums
    of exp(logit - largest) and of exp((logit - largest) / temperature). options: float64 [rows, 2],
    a number in [0, 1) and one over the temperature (0: greedy).
    """
    rows, vocabulary = logits.shape
    size = min(BLOCK, power_of_two(vocabulary))
    blocks = -(-vocabulary // size)
    found = torch.empty(rows, blocks, 4, device=logits.device, dtype=torch.float64)
    drawn = torch.empty(rows, 5, device=logits.device, dtype=torch.float64)
    _sums_kernel[(rows, blocks)](
        logits,
        options,
        found,
        logits.stride(0),
        blocks,
        VOCABULARY=vocabulary,
        SIZE=size,
        num_warps=8,
    )
    _pick_kernel[(rows,)](
        logits, options, found, drawn, logits.stride(0), blocks,
        VOCABULARY=vocabulary, SIZE=size, BLOCKS=power_of_two(blocks), num_warps=8,
    )  # fmt: skip
    return drawn


def _truncated(
    logits: torch.Tensor, table: torch.Tensor, options: torch.Tensor, limits: torch.Tensor
) -> torch.Tensor:
    """`table` of `_drawn` with token, logit and last sum of the truncated distribution. limits:
    float64 [rows, 3]: top_k, top_p, min_p.
    """
    cooled = ((logits.double() - table[:, 2:3]) * options[:, 1:]).float()
    ids, weights, settled = survivors_on(cooled, limits, CANDIDATES)
    open_ = (~settled).nonzero()[:, 0]
    if len(open_):
        wider, all_weights, _ = survivors_on(cooled[open_], limits[open_], cooled.shape[1])
        more = (0, wider.shape[1] - ids.shape[1])
        ids, weights = (torch.nn.functional.pad(part, more) for part in (ids, weights))
        ids[open_] = wider
        weights[open_] = all_weights
    sums = weights.cumsum(1, dtype=torch.float64)
    total = sums[:, -1:]
    last = (weights > 0).sum(1, keepdim=True) - 1
    at = torch.minimum((sums <= options[:, :1] * total).sum(1, keepdim=True), last)
    token = ids.gather(1, at)
    return torch.cat(
        [token.double(), logits.gather(1, token).double(), table[:, 2:4], total.log()], 1
    )


def survivors_on(
    cooled: torch.Tensor, limits: torch.Tensor, candidates: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`models.engine.sampling.survivors` among the `candidates` likeliest of each row, in torch.

    cooled: float32 [rows, vocabulary], each row's maximum 0; limits: float64 [rows, 3]: top_k,
    top_p, min_p. Returns ids, int64, and weights, float32, [rows, candidates + 1 at most],
    likeliest first, of equals the lowest id, 0 for what is cut; and bool [rows]: True where these
    are all survivors for certain.
    """
    vocabulary = cooled.shape[1]
    top_k = limits[:, :1]
    top_p = limits[:, 1:2]
    min_p = limits[:, 2:]
    top_k = torch.where((top_k <= 0) | (top_k > vocabulary), vocabulary, top_k)
    total = cooled.exp().sum(1, dtype=torch.float64, keepdim=True)
    values, ids = cooled.topk(min(candidates + 1, vocabulary), 1)
    ids, order = ids.sort(1)  # which of equals comes first must not depend on how a device selects
    values, order = torch.sort(values.gather(1, order), dim=1, descending=True, stable=True)
    ids = ids.gather(1, order)
    weights = values.exp()
    first = weights[:, :1].clone()
    weights = torch.where(torch.arange(weights.shape[1], device=weights.device) < top_k, weights, 0)
    sums = weights.cumsum(1, dtype=torch.float64)
    whole = torch.where(top_k < vocabulary, sums[:, -1:], total)
    weights = torch.where((top_p < 1) & (sums - weights >= top_p * whole), 0, weights)
    weights = torch.where(weights < min_p.float() * first, 0, weights)
    weights[:, :1] = first
    if values.shape[1] == vocabulary:
        return ids, weights, torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    # tokens as likely as the last candidate may be missing, and what is less likely is; so is a
    # part of the mass of more than these
    open_ = ((weights > 0) & (values == values[:, -1:])).any(1) | (
        (top_k > values.shape[1]) & (top_k < vocabulary)
    )[:, 0]
    return ids, weights, ~open_
