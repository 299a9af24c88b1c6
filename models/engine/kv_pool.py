"""The tensors of the engine: keys and values of every token once, and hidden states.

Running rows and stored prefixes share one pool. A *cell* of the pool holds what is stored of one
token; a *slot* is the place of a row in the running batch, of which the engine has `slots`. A table
lists, slot by slot, the cells of each row's text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from models.engine.prefix_tree import PrefixTree
from models.memory import memory_left

LANES = 16  # a head's numbers are stored up to a multiple of this many on a CPU
MOST_TOKENS = 2**31 - 2  # cells are int32
MOST_SLOTS = 1 << 16
LARGE = 1 << 28  # bytes; less is allocated without asking how much memory is left


class Store:
    """Storage for one model.

    tree    which token of which text is in which cell
    pool    [layers, 2, pool_tokens + 1, kv_heads, padded]: keys and values; the last cell takes
            what padding writes
    hidden  [pool_tokens + 1, hidden]: of each token, after the final norm: from it the next token
            is drawn and a value read, at any time
    table   int32 [slots, longest]: cells of the text of each running row, then the last cell of the
            pool; longest grows
    """

    def __init__(
        self, config: Any, slots: int, pool_tokens: int, device: torch.device, dtype: torch.dtype
    ):
        check_room(config, slots, pool_tokens, device, dtype)
        self.layers, self.heads, self.kv_heads, self.dim, width = shapes(config)
        self.device = device
        self.dtype = dtype
        self.slots = slots
        self.padded = padded(self.dim, device)
        self.tree = PrefixTree(pool_tokens)
        self.trash = pool_tokens
        self.pool = torch.empty(
            self.layers, 2, pool_tokens + 1, self.kv_heads, self.padded, device=device, dtype=dtype
        )
        self.hidden = torch.empty(pool_tokens + 1, width, device=device, dtype=dtype)
        # it is read where a text is shorter than another: it must be finite
        self.pool[:, :, self.trash] = self.hidden[self.trash] = 0
        self.table = np.full((slots, 64), self.trash, np.int32)

    def reserve(self, length: int) -> None:
        """Make room in the table for texts of `length` tokens."""
        if length > self.table.shape[1]:
            before = self.table
            width = max(length, 2 * before.shape[1])
            self.table = np.full((self.slots, width), self.trash, np.int32)
            self.table[:, : before.shape[1]] = before


def check_room(
    config: Any, slots: int, pool_tokens: int, device: torch.device, dtype: torch.dtype
) -> None:
    """Raise ValueError where a pool of this size, or the rows of so many slots, have no room."""
    if pool_tokens > MOST_TOKENS or slots > MOST_SLOTS:
        raise ValueError(
            f"pool_tokens={pool_tokens} or slots={slots} is too large: give at most "
            f"{MOST_TOKENS:,} and {MOST_SLOTS:,}"
        )
    needed = bytes_per_token(config, device, dtype) * pool_tokens
    if needed <= LARGE:
        return
    left = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory_left()
    if needed > left:
        raise ValueError(
            f"a pool of {pool_tokens:,} tokens takes {needed / 1e9:.1f} GB, and {left / 1e9:.1f} "
            "are left: give a smaller pool_tokens"
        )


def numbers(tensor: torch.Tensor) -> np.ndarray:
    """A tensor on a CPU as kernels take it: bfloat16 as uint16 (`search.kernels.simd`), all
    else as it is.
    """
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    return tensor.numpy()


def shapes(config: Any) -> tuple[int, int, int, int, int]:
    """layers, heads, kv_heads, dim of a head, hidden size of a text model's config; 1 for what
    it does not have, or one for each layer.
    """
    text = config.get_text_config()

    def of(name: str, otherwise: int) -> int:
        try:
            return getattr(text, name, None) or otherwise
        except Exception:  # where layers differ, some configs refuse to name one number
            return otherwise

    heads = of("num_attention_heads", 1)
    return (
        of("num_hidden_layers", 1),
        heads,
        of("num_key_value_heads", heads),
        of("head_dim", text.hidden_size // heads),
        text.hidden_size,
    )


def padded(dim: int, device: torch.device) -> int:
    """Numbers that a head of `dim` takes in the pool."""
    return -(-dim // LANES) * LANES if device.type == "cpu" else dim


def bytes_per_token(config: Any, device: torch.device, dtype: torch.dtype) -> int:
    """Bytes that a token takes: keys, values and its hidden state."""
    layers, _, kv_heads, dim, width = shapes(config)
    return int(2 * layers * kv_heads * padded(dim, device) + width) * dtype.itemsize


def default_pool(config: Any, device: torch.device, dtype: torch.dtype) -> int:
    """Tokens that a pool holds by default: 1 GiB on a CPU, a quarter of the free memory on a
    GPU; 1,024 to 1,048,576.
    """
    room = 1 << 30
    if device.type == "cuda":
        room = torch.cuda.mem_get_info(device)[0] // 4
    tokens = room // bytes_per_token(config, device, dtype)
    return int(min(max(1024, tokens), 1 << 20))
