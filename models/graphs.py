"""Passes of fixed shapes for a GPU, recorded once each and replayed: launching the kernels of a pass takes longer than running them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from models.attention import Plan
from models.kvstore import Store

log = logging.getLogger(__name__)

ROWS, LENGTH = 16, 64  # of the smallest shape; the others are doubled


class Graphs:
    """Passes in which every row reads one token, padded to rows and longest texts of 2^n (CUDA graphs share one pool of memory).

    forward  `passes.Modules`;  record: False runs the padded passes without recording them, on any device
    """

    def __init__(self, forward: Callable[..., torch.Tensor], store: Store, record: bool = True):
        self._forward, self._store, self._record = forward, store, record
        self._shapes: dict[tuple[int, int], tuple[torch.Tensor, Callable[[], torch.Tensor]]] = {}
        self._read: list[Plan] = []  # a recording reads their tensors where they lie, so they live as long as it does
        self._memory = torch.cuda.graph_pool_handle() if record else None

    def __call__(self, rows: np.ndarray, last: np.ndarray, ends: np.ndarray) -> torch.Tensor:
        """As `Packed.forward` without chunks. The result is overwritten by the next pass of this shape."""
        store, table = self._store, self._store.table
        shape = _doubled(len(rows), ROWS), _doubled(int(ends.max()), LENGTH)
        if shape not in self._shapes:
            self._shapes[shape] = self._prepared(*shape)
        numbers, run = self._shapes[shape]
        filled = np.full((shape[0], 3 + shape[1]), store.trash, np.int64)
        filled[:, :2] = 0
        filled[: len(rows), 0], filled[: len(rows), 1], filled[: len(rows), 2] = last, ends - 1, table[rows, ends - 1]
        width = min(shape[1], table.shape[1])
        filled[: len(rows), 3 : 3 + width] = table[rows, :width]
        numbers.copy_(torch.from_numpy(filled))
        return run()[: len(rows)]

    def _prepared(self, rows: int, length: int) -> tuple[torch.Tensor, Callable[[], torch.Tensor]]:
        """Where the numbers of a pass go (int64 [rows, 3 + length]: token, position, its slot, slots of the text), and what computes it."""
        numbers = torch.full((rows, 3 + length), self._store.trash, dtype=torch.int64, device=self._store.device)
        numbers[:, :2] = 0
        plan = Plan.fixed(self._store, numbers)

        def run() -> torch.Tensor:
            return self._forward(numbers[:, 0], numbers[:, 1], plan)

        if not self._record:
            return numbers, run
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries prepare themselves outside the recording
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):
            hidden = run()
        log.info("recorded a pass of %d rows and texts of %d tokens", rows, length)

        def replay() -> torch.Tensor:
            graph.replay()
            return hidden

        self._read.append(plan)
        return numbers, replay


def _doubled(number: int, least: int) -> int:
    return max(least, 1 << (number - 1).bit_length())
