"""Passes of fixed shapes for a GPU, recorded once each and replayed: launching the kernels of a
pass takes longer than running them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from models.engine.attention import Plan
from models.engine.gpu import send
from models.engine.kv_pool import Store
from models.engine.tree_attention_gpu import Launch, TreeAttention, splits

log = logging.getLogger(f"copse.{__name__}")

WIDTH = 1024  # tokens a row for which the list of cells has room at first


@dataclass
class _Recorded:
    # int32 [rows * 7], on the device: tokens, positions, cells of the new tokens, tiles
    numbers: torch.Tensor
    plan: Plan  # a recording reads its tensors where they lie, so they live as long as it does
    run: Callable[[], torch.Tensor]


class Graphs:
    """Passes in which every row reads one token, a recording for each `bucket` of rows; the length
    of texts does not matter.

    forward  `forward.Modules` or `LlamaGPU`;  record: False runs the padded passes without
             recording them, on any device
    """

    def __init__(self, forward: Callable[..., torch.Tensor], store: Store, record: bool = True):
        self._forward = forward
        self._store = store
        self._record = record
        self._memory = torch.cuda.graph_pool_handle() if record else None
        self.recorded: dict[int, _Recorded] = {}
        self._cells = self._room(store.slots * WIDTH)

    def __call__(self, rows: np.ndarray, last: np.ndarray, ends: np.ndarray) -> torch.Tensor:
        """As `Packed.forward` without chunks. The result is overwritten by the next pass of this
        bucket.
        """
        store = self._store
        longest = int(ends.max())
        count = len(rows)
        if count * longest > len(self._cells) - 1:
            self.recorded.clear()  # they read the list where it lies
            self._cells = self._room(2 * count * longest)
        size = bucket(count)
        if size not in self.recorded:
            self.recorded[size] = self._prepared(size)
        pass_ = self.recorded[size]
        # rows beside those of the pass read the list's first entry, which is the cell of padding,
        # and write there
        numbers = np.zeros(7 * size, np.int32)
        numbers[2 * size : 3 * size] = store.trash
        numbers[:count] = last
        numbers[size : size + count] = ends - 1
        numbers[2 * size : 2 * size + count] = store.table[rows, ends - 1]
        tiles = numbers[3 * size :].reshape(size, 4)
        tiles[:, 0] = np.arange(size)
        tiles[:, 1] = 1
        tiles[:count, 2] = ends - 1
        tiles[:count, 3] = 1 + longest * np.arange(count)
        pass_.numbers.copy_(send(numbers, store.device), non_blocking=True)
        self._cells[1 : 1 + count * longest].copy_(
            send(store.table[rows, :longest].reshape(-1), store.device), non_blocking=True
        )
        return pass_.run()[:count]

    def _room(self, tokens: int) -> torch.Tensor:
        """The list of cells: int32 [1 + tokens], the first one that of padding."""
        return torch.full(
            (1 + tokens,), self._store.trash, dtype=torch.int32, device=self._store.device
        )

    def _prepared(self, size: int) -> _Recorded:
        """A pass of `size` rows, recorded while all of them are padding."""
        store = self._store
        numbers = torch.zeros(7 * size, dtype=torch.int32, device=store.device)
        ids, positions, write, tiles = numbers.split([size, size, size, 4 * size])
        write.fill_(store.trash)
        tiles.view(size, 4)[:, 0] = torch.arange(size, device=store.device)
        tiles.view(size, 4)[:, 1] = 1
        launch = Launch(tiles.view(size, 4), 0, size, False, splits(size, store))
        plan = Plan.fixed(store, TreeAttention(store, self._cells, write, [launch]))

        def run() -> torch.Tensor:
            return self._forward(ids, positions, plan)

        if not self._record:
            return _Recorded(numbers, plan, run)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        # libraries prepare themselves and kernels compile outside the recording
        with torch.cuda.stream(side):
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):
            hidden = run()
        log.info("recorded a pass of %d rows", size)

        def replay() -> torch.Tensor:
            graph.replay()
            return hidden

        return _Recorded(numbers, plan, replay)


def bucket(rows: int) -> int:
    """Rows that a pass is padded to: 1, 2, 4, then multiples of 8 up to 64, of 16 up to 256, of
    64 above.
    """
    if rows <= 4:
        return 1 << (rows - 1).bit_length()
    step = 64
    if rows <= 64:
        step = 8
    elif rows <= 256:
        step = 16
    return -(-rows // step) * step
