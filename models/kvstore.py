"""The tensors of the engine: keys and values of the pool and of the running rows, and hidden states.

The pool keeps each stored token once. A row that runs has its whole text in a dense block of its own, gathered from the pool when
it joins: attention then reads without an index. The block belongs to the next row when it leaves.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.kvtree import Tree

SMALLEST = 16  # rows of the smallest bucket of a pass
LARGE = 1 << 28  # bytes; less is allocated without asking how much memory is left


def bucket(rows: int) -> int:
    """Number of rows a pass is padded to: 16, 32, 64, ..."""
    size = SMALLEST
    while size < rows:
        size *= 2
    return size


class Store:
    """Storage for one model.

    tree          which prefix is stored in which slots of the pool
    pool          [layers, 2, pool_tokens, kv_heads, dim], keys and values
    rows          [2, layers, rows + 1, kv_heads, capacity, dim], of the running rows; the last row takes what padding writes
    hidden        [rows, hidden]: each running row's last hidden state (after the final norm)
    """

    def __init__(self, config: Any, slots: int, pool_tokens: int, device: torch.device, dtype: torch.dtype):
        self.layers, self.kv_heads, self.dim, width = shapes(config)
        self.device, self.dtype, self.trash = device, dtype, bucket(slots)
        self.tree = Tree(pool_tokens)
        self.pool = torch.empty(self.layers, 2, pool_tokens, self.kv_heads, self.dim, device=device, dtype=dtype)
        self.capacity = 64
        self.rows = torch.zeros(2, self.layers, self.trash + 1, self.kv_heads, self.capacity, self.dim, device=device, dtype=dtype)
        self.hidden = torch.zeros(self.trash, width, device=device, dtype=dtype)
        self._stored_hidden = torch.zeros(64, width, device=device, dtype=dtype)

    @property
    def bytes(self) -> tuple[int, int]:
        """Bytes of the pool, and of the block of one row."""
        return self.pool.nbytes, self.rows[:, :, 0].nbytes

    def clear(self) -> None:
        """Forget every stored prefix."""
        self.tree.clear()

    def wipe(self, row: int) -> None:
        """Overwrite a row that held numbers that are not finite, which would spoil masked sums of the next one."""
        self.rows[:, :, row] = 0
        self.hidden[row] = 0

    def reserve(self, length: int) -> None:
        """Make room for rows of `length` tokens. Raises torch.OutOfMemoryError where they do not fit, on a CPU too."""
        if length <= self.capacity:
            return
        grown = max(length, 2 * self.capacity)
        wanted = self.rows.nbytes // self.capacity * grown
        if self.device.type == "cpu" and wanted > LARGE and wanted > memory_left():
            raise torch.OutOfMemoryError(f"{wanted} bytes for rows of {grown} tokens, {memory_left()} are left")
        rows = torch.zeros(*self.rows.shape[:4], grown, self.dim, device=self.device, dtype=self.dtype)
        rows[..., : self.capacity, :] = self.rows
        self.rows, self.capacity = rows, grown

    def join(self, row: int, slots: np.ndarray, hidden: int) -> None:
        """Copy a stored prefix (and the hidden state at its end, unless -1) into a row."""
        if len(slots):
            self.reserve(len(slots))
            found = self.pool.index_select(2, self._index(slots))  # [layers, 2, length, kv_heads, dim]
            self.rows[:, :, row, :, : len(slots)] = found.permute(1, 0, 3, 2, 4)
        if hidden >= 0:
            self.hidden[row] = self._stored_hidden[hidden]

    def keep(self, row: int, tokens: tuple[int, ...], hidden: bool) -> None:
        """Store a row's `tokens` (the first of its text), and its hidden state as the one at their end if `hidden`."""
        start, slots, state = self.tree.insert(tokens, hidden)
        if len(slots):
            new = self.rows[:, :, row, :, start : start + len(slots)].permute(1, 0, 3, 2, 4)
            self.pool.index_copy_(2, self._index(slots), new)
        if state >= 0:
            if state >= len(self._stored_hidden):
                more = torch.zeros_like(self._stored_hidden)
                self._stored_hidden = torch.cat([self._stored_hidden, more])
            self._stored_hidden[state] = self.hidden[row]

    def move(self, source: int, target: int) -> None:
        """Move a running row."""
        self.rows[:, :, target] = self.rows[:, :, source]
        self.hidden[target] = self.hidden[source]

    def write_index(self, rows: np.ndarray, positions: np.ndarray) -> torch.Tensor:
        """int64 [kv_heads * tokens]: where keys of tokens of `rows` at `positions` go, in `rows` flattened but for dim."""
        heads = np.arange(self.kv_heads)[:, None]
        return self._index(((rows[None] * self.kv_heads + heads) * self.capacity + positions[None]).reshape(-1))

    def _index(self, numbers: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(numbers).to(self.device)


def shapes(config: Any) -> tuple[int, int, int, int]:
    """layers, kv_heads, dim of a head, hidden size of a text model's config."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    return (
        text.num_hidden_layers,
        getattr(text, "num_key_value_heads", None) or heads,
        getattr(text, "head_dim", None) or text.hidden_size // heads,
        text.hidden_size,
    )


def default_pool(config: Any, device: torch.device, dtype: torch.dtype) -> int:
    """Tokens that a pool holds by default: 1 GiB on a CPU, a quarter of the free memory on a GPU; 1,024 at the least."""
    layers, kv_heads, dim, _ = shapes(config)
    each = 2 * layers * kv_heads * dim * torch.empty(0, dtype=dtype).element_size()
    room = torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else 1 << 30
    return int(min(max(1024, room // each), 1 << 20))


def memory_left() -> int:
    """Bytes of main memory that can be taken without swapping (on Linux; elsewhere half of all)."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
