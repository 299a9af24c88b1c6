"""Attention over the tree on a GPU: keys and values are read where they lie in the pool, through
each text's list of cells.

One kernel serves decoding and prompts. A program takes a *tile* of queries of one text, the heads
that share a key head side by side as the rows of one product, and a *split* of the keys that they
see. Splits are merged by log-sum-exp in a second kernel (Flash-Decoding; Dao et al. 2023). Nothing
is gathered, and no text is padded to the length of another.

On a CPU the same code runs in Triton's interpreter (`TRITON_INTERPRET=1` before this module is
loaded), which the tests do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from triton import knobs

from models.engine.gpu import send
from models.engine.kv_pool import Store

LOG2E = tl.constexpr(1.4426950408889634)
STEP_ROWS = 16  # rows of a product where a tile is one query: the fewest that `tl.dot` takes
# rows of a product where a tile holds many queries, of half types; in float32 a product has no
# tensor cores to fill
CHUNK_ROWS = 64
LEAST_KEYS = 128  # keys of a split; fewer are not worth a program
MOST_SPLITS = 64
PROGRAMS = 8  # wanted for each multiprocessor, so that loads of one hide those of another
EVERYTHING = 1 << 30  # a window wider than any text


@triton.jit(do_not_specialize=["window"])
def _attend_kernel(
    query, keys, values, cells, tiles, out, partial, sums,
    scale, cap, window, query_stride, out_stride, cell_stride, head_stride,
    EACH: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLITS: tl.constexpr, LEAST: tl.constexpr,
    CAPPED: tl.constexpr, MANY: tl.constexpr, PRODUCT: tl.constexpr,
):  # fmt: skip
    """One split of the keys of one tile, for one key head.

    EACH   heads that share a key head;  GROUP: the same, up to a power of two
    MANY   a tile may hold several queries: then a value that is not finite must not reach queries
           before it, as 0 times nan is nan
    """
    tile = tl.program_id(0)
    head = tl.program_id(1)
    split = tl.program_id(2)
    first = tl.load(tiles + 4 * tile)
    count = tl.load(tiles + 4 * tile + 1)
    position = tl.load(tiles + 4 * tile + 2)
    begin = tl.load(tiles + 4 * tile + 3)

    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    inside = d < DIM
    index = m // GROUP
    member = m % GROUP
    real = (index < count) & (member < EACH)
    at = position + index
    token = (first + index).to(tl.int64)
    lane = head * EACH + member
    q = tl.load(
        query + token[:, None] * query_stride + lane[:, None] * DIM + d[None, :],
        mask=real[:, None] & inside[None, :],
        other=0.0,
    ).to(PRODUCT)

    stop = position + count
    start = tl.maximum(0, position + 1 - window)
    each = (stop - start + SPLITS * BLOCK_N - 1) // (SPLITS * BLOCK_N) * BLOCK_N
    each = tl.maximum(each, LEAST)
    low = start + split * each
    high = tl.minimum(low + each, stop)

    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.full([BLOCK_M], 0.0, tl.float32)
    mixed = tl.full([BLOCK_M, BLOCK_D], 0.0, tl.float32)
    for offset in range(low, high, BLOCK_N):
        place = offset + n
        there = place < high
        cell = tl.load(cells + begin + place, mask=there, other=0).to(tl.int64)
        base = cell * cell_stride + head * head_stride
        k = tl.load(
            keys + base[None, :] + d[:, None], mask=inside[:, None] & there[None, :], other=0.0
        )
        scores = tl.dot(q, k.to(PRODUCT), input_precision="ieee") * scale
        if CAPPED:
            # cap * tanh(scores / cap)
            scores = cap - 2.0 * cap / (tl.exp2(scores * (2.0 * LOG2E / cap)) + 1.0)
        seen = (
            there[None, :]
            & (place[None, :] <= at[:, None])
            & (place[None, :] > at[:, None] - window)
        )
        v = tl.load(
            values + base[:, None] + d[None, :], mask=there[:, None] & inside[None, :], other=0.0
        ).to(PRODUCT)
        if MANY:
            finite = tl.abs(v.to(tl.float32)) < float("inf")
            bad = tl.max(tl.where(finite, 0, 1), 1) > 0
            v = tl.where(finite, v, 0.0).to(PRODUCT)
            scores = tl.where(bad[None, :], float("nan"), scores)
        scores = tl.where(seen, scores * LOG2E, float("-inf"))
        highest = tl.maximum(top, tl.max(scores, 1))
        shift = tl.where(highest == float("-inf"), 0.0, highest)  # where nothing was seen so far
        weights = tl.exp2(scores - shift[:, None])
        kept = tl.exp2(top - shift)
        total = total * kept + tl.sum(weights, 1)
        mixed = mixed * kept[:, None] + tl.dot(weights.to(PRODUCT), v, input_precision="ieee")
        top = highest

    mixed = tl.where(total[:, None] == 0, 0.0, mixed / tl.where(total == 0, 1.0, total)[:, None])
    if SPLITS == 1:
        target = out + token[:, None] * out_stride + lane[:, None] * DIM + d[None, :]
        tl.store(target, mixed.to(out.dtype.element_ty), mask=real[:, None] & inside[None, :])
    else:
        heads = tl.num_programs(1) * EACH
        entry = (token * heads + lane) * SPLITS + split
        tl.store(
            partial + entry[:, None] * DIM + d[None, :], mixed, mask=real[:, None] & inside[None, :]
        )
        sum_ = tl.where(total == 0, float("-inf"), top + tl.log2(tl.where(total == 0, 1.0, total)))
        tl.store(sums + entry, sum_, mask=real)


@triton.jit(do_not_specialize=["first"])
def _merge_kernel(
    partial, sums, out, first, out_stride,
    DIM: tl.constexpr, BLOCK_D: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """One token and head: the splits, each weighed with its share of the sum of all weights."""
    token = (first + tl.program_id(0)).to(tl.int64)
    head = tl.program_id(1)
    entry = (token * tl.num_programs(1) + head) * SPLITS
    s = tl.arange(0, SPLITS)
    d = tl.arange(0, BLOCK_D)
    sum_ = tl.load(sums + entry + s)
    share = tl.exp2(sum_ - tl.max(sum_, 0))
    mask = (sum_ != float("-inf"))[:, None] & (d < DIM)[None, :]
    parts = tl.load(partial + (entry + s)[:, None] * DIM + d[None, :], mask=mask, other=0.0)
    merged = tl.sum(parts * share[:, None], 0) / tl.sum(share, 0)
    tl.store(
        out + token * out_stride + head * DIM + d, merged.to(out.dtype.element_ty), mask=d < DIM
    )


@triton.jit
def _write_kernel(
    key, value, keys, values, write, key_token, key_head, value_token, value_head, cell_stride,
    head_stride,
    DIM: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One token and key head: its key and value into the token's cell."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    d = tl.arange(0, BLOCK_D)
    target = tl.load(write + token).to(tl.int64) * cell_stride + head * head_stride + d
    tl.store(
        keys + target,
        tl.load(key + token * key_token + head * key_head + d, mask=d < DIM),
        mask=d < DIM,
    )
    tl.store(
        values + target,
        tl.load(value + token * value_token + head * value_head + d, mask=d < DIM),
        mask=d < DIM,
    )


@dataclass(frozen=True)
class Launch:
    """Tiles that one launch of the kernel takes.

    tiles   int32 [tiles, 4], on the device: first token in the pass, queries, position of the first
            query in its text, and where the text's cells begin in the pass's list
    first, tokens  which tokens of the pass they hold: `tokens` from `first` on
    many    whether a tile may hold several queries
    splits  parts in which a tile's keys are read
    """

    tiles: torch.Tensor
    first: int
    tokens: int
    many: bool
    splits: int


class TreeAttention:
    """What the kernel must know of one pass, and the room that it works in; the same for all
    layers.

    cells     int32, on the device: cells of the texts, one text after the other
    write     int32 [tokens], on the device: cells of the new tokens
    launches  of which each token belongs to one at most; tokens of none get 0
    """

    def __init__(
        self, store: Store, cells: torch.Tensor, write: torch.Tensor, launches: list[Launch]
    ):
        self._store = store
        self._cells = cells
        self.write = write
        self._launches = launches
        self.out = torch.zeros(
            len(write), store.heads * store.dim, device=store.device, dtype=store.dtype
        )
        entries = max(
            (len(write) * store.heads * launch.splits for launch in launches if launch.splits > 1),
            default=0,
        )
        self._partial = torch.empty(entries * store.dim, device=store.device, dtype=torch.float32)
        self._sums = torch.empty(entries, device=store.device, dtype=torch.float32)

    @classmethod
    def of(
        cls, store: Store, rows: np.ndarray, ends: np.ndarray, chunks: np.ndarray, write: np.ndarray
    ) -> TreeAttention:
        """For a pass as `attention.Plan` describes it. Everything is sent to the device in one
        piece.
        """
        group = power_of_two(store.heads // store.kv_heads)
        queries = max(chunk_rows(store.dtype), group) // group
        lengths = [*ends.tolist(), *(chunks[:, 2] + chunks[:, 3]).tolist()]
        texts = [*rows.tolist(), *chunks[:, 0].tolist()]
        begins = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        steps = np.stack(
            [np.arange(len(rows)), np.ones(len(rows)), ends - 1, begins[: len(rows)]], 1
        ).astype(np.int32)
        tiles: list[tuple[int, int, int, int]] = []
        for chunk, begin in zip(chunks.tolist(), begins[len(rows) :].tolist(), strict=False):
            _, first, past, new = chunk
            for i in range(0, new, queries):
                tiles.append((first + i, min(queries, new - i), past + i, begin))
        lists = [store.table[text, :length] for text, length in zip(texts, lengths, strict=True)]
        parts = [
            steps.reshape(-1),
            np.array(tiles, np.int32).reshape(-1),
            write.astype(np.int32),
            *lists,
        ]
        sent = send(np.concatenate(parts, dtype=np.int32), store.device)
        sizes = [4 * len(steps), 4 * len(tiles), len(write), sum(lengths)]
        step_tiles, chunk_tiles, new_cells, cells = sent.split(sizes)
        launches = []
        if len(steps):
            count = splits(len(steps), store, int(ends.max()))
            launches.append(Launch(step_tiles.view(-1, 4), 0, len(steps), False, count))
        if tiles:
            count = splits(len(tiles), store, max(lengths[len(steps) :]))
            tokens = int(chunks[:, 3].sum())
            launches.append(Launch(chunk_tiles.view(-1, 4), len(steps), tokens, True, count))
        return cls(store, cells, new_cells, launches)

    def put(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Write the new tokens' keys and values, [tokens, kv_heads, dim] with numbers of a head
        side by side, into their cells.
        """
        store = self._store
        keys, values = store.pool[layer]
        _write_kernel[(len(self.write), store.kv_heads)](
            key, value, keys, values, self.write,
            key.stride(0), key.stride(1), value.stride(0), value.stride(1), keys.stride(0),
            keys.stride(1),
            DIM=store.dim, BLOCK_D=power_of_two(store.dim),
        )  # fmt: skip

    def attend(
        self, layer: int, query: torch.Tensor, scale: float, cap: float = 0.0, window: int = 0
    ) -> torch.Tensor:
        """[tokens, heads * dim], overwritten by the next call. The keys of the new tokens stand in
        the pool already.

        query   [tokens, heads * dim or more], rotated, the numbers of a token side by side
        cap     scores s become cap * tanh(s / cap); 0: they stay
        window  a query sees so many tokens, itself included; 0: all
        """
        store = self._store
        out = self.out
        keys, values = store.pool[layer]
        dim = store.dim
        each = store.heads // store.kv_heads
        group = power_of_two(each)
        block = max(16, power_of_two(dim))
        for launch in self._launches:
            wide = store.dtype.itemsize > 2 or block > 128
            _attend_kernel[(len(launch.tiles), store.kv_heads, launch.splits)](
                query, keys, values, self._cells, launch.tiles, out, self._partial, self._sums,
                scale, cap, window or EVERYTHING, query.stride(0), out.stride(0), keys.stride(0),
                keys.stride(1),
                EACH=each, GROUP=group, DIM=dim, BLOCK_D=block,
                BLOCK_M=max(chunk_rows(store.dtype) if launch.many else STEP_ROWS, group),
                BLOCK_N=32 if wide else 64,
                SPLITS=launch.splits, LEAST=LEAST_KEYS, CAPPED=cap > 0, MANY=launch.many,
                PRODUCT=product(store.dtype),
                # with 3 the list of cells is fetched ahead, too; with 2 only keys and values are
                num_warps=4, num_stages=3,
            )  # fmt: skip
            if launch.splits > 1:
                _merge_kernel[(launch.tokens, store.heads)](
                    self._partial, self._sums, out, launch.first, out.stride(0),
                    DIM=dim, BLOCK_D=block, SPLITS=launch.splits, num_warps=2,
                )  # fmt: skip
        return out


def splits(tiles: int, store: Store, longest: int = EVERYTHING) -> int:
    """Parts in which the keys of each of `tiles` are read, so that all multiprocessors have work: 1
    where the tiles alone are enough.

    A power of two, as each number is a kernel of its own to compile. longest: text of any of them,
    in tokens
    """
    wanted = -(-PROGRAMS * multiprocessors(store.device) // (tiles * store.kv_heads))
    return power_of_two(max(1, min(wanted, -(-longest // LEAST_KEYS), MOST_SPLITS)))


def chunk_rows(dtype: torch.dtype) -> int:
    """Rows of a product where a tile holds many queries."""
    return CHUNK_ROWS if dtype.itemsize == 2 else STEP_ROWS


def multiprocessors(device: torch.device) -> int:
    """Of a GPU; 1 where the kernels are interpreted."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def power_of_two(number: int) -> int:
    """The least power of two that is no less."""
    return 1 << (number - 1).bit_length()


def product(dtype: torch.dtype) -> Any:
    """The type in which a product's factors are given to the device: `dtype`, but the
    interpreter multiplies no bfloat16.
    """
    if knobs.runtime.interpret and dtype == torch.bfloat16:
        return tl.float32
    return {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}[
        dtype
    ]
