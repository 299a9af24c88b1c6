"""What an engine must beat: the keys and values of every node stand in a pool, and are copied into
a dense block before decoding.

A Llama with as many heads of keys as of queries, in plain torch: one product for queries, keys and
values, one for gate and up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

Text = tuple[int, ...]


class Gather:
    """Continues each of `contexts` `kids` times. All contexts are read when it is made.

    pool   [layers, 2, tokens, heads, dim], a token of a node once
    table  int64 [contexts, longest], where each context's keys stand; contexts end in the last
           column, what is before them is masked
    """

    def __init__(self, model: Any, contexts: Sequence[Text], kids: int, new: int):
        config = model.config
        assert config.num_key_value_heads == config.num_attention_heads
        self.layers = config.num_hidden_layers
        self.heads = config.num_attention_heads
        self.width = config.hidden_size
        self.new = new
        self.eps = config.rms_norm_eps
        self.dim = config.hidden_size // config.num_attention_heads
        self.model = model
        self.rows = torch.arange(len(contexts)).repeat_interleave(kids)
        self._fuse(model.model.layers)
        places: dict[Text, int] = {}  # of the last token of each prefix
        for text in contexts:
            for end in range(1, len(text) + 1):
                places.setdefault(text[:end], len(places))
        longest = max(map(len, contexts))
        self.pool = torch.empty(self.layers, 2, len(places), self.heads, self.dim)
        self.table = torch.zeros(len(contexts), longest, dtype=torch.int64)
        first = []
        for row, text in enumerate(contexts):
            where = torch.tensor([places[text[:end]] for end in range(1, len(text) + 1)])
            out = model(torch.tensor([text]), use_cache=True)
            for layer, cached in enumerate(out.past_key_values.layers):
                self.pool[layer, 0, where] = cached.keys[0].transpose(0, 1)
                self.pool[layer, 1, where] = cached.values[0].transpose(0, 1)
            self.table[row, longest - len(text) :] = where
            first.append(out.logits[0, -1])
        self.first = torch.stack(first)[self.rows]
        lengths = torch.tensor(list(map(len, contexts)))[self.rows]
        self.starts = longest - lengths
        own = torch.arange(longest + new) >= self.starts[:, None]
        self.mask = None if own.all() else own[:, None, None]
        turns = torch.outer(torch.arange(longest + new).float(), model.model.rotary_emb.inv_freq)
        self.cos = turns.cos().repeat(1, 2)
        self.sin = turns.sin().repeat(1, 2)
        self.sin[:, : self.dim // 2] *= -1  # so that turning by half is one roll
        self.dense = torch.empty(
            self.layers, 2, len(self.rows), self.heads, longest + new, self.dim
        )

    @property
    def bytes(self) -> int:
        """Of keys and values, pooled and dense."""
        return self.pool.nbytes + self.dense.nbytes

    def _fuse(self, layers: Any) -> None:
        self.weights = []
        for layer in layers:
            own = layer.self_attn
            qkv = torch.cat([own.q_proj.weight, own.k_proj.weight, own.v_proj.weight])
            gate_up = torch.cat([layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight])
            before = layer.input_layernorm.weight
            after = layer.post_attention_layernorm.weight
            down = layer.mlp.down_proj.weight
            self.weights.append((before, qkv, own.o_proj.weight, after, gate_up, down))

    def __call__(self, noise: torch.Tensor) -> torch.Tensor:
        """int64 [sequences, new]: the largest of logits plus `noise`, float32 [new, sequences,
        vocabulary].
        """
        longest = self.table.shape[1]
        # [layers, 2, sequences, longest, heads, dim]
        copied = self.pool[:, :, self.table[self.rows]]
        self.dense[..., :longest, :] = copied.transpose(3, 4)
        logits = self.first
        tokens = torch.empty(len(self.rows), self.new, dtype=torch.int64)
        for turn in range(self.new):
            tokens[:, turn] = (logits + noise[turn]).argmax(-1)
            if turn + 1 < self.new:
                logits = self._step(tokens[:, turn], longest + turn)
        return tokens

    def _step(self, tokens: torch.Tensor, column: int) -> torch.Tensor:
        """float32 [sequences, vocabulary]: logits after one more token a sequence, whose keys go
        into `column`.
        """
        body = self.model.model
        width = (self.width,)
        cos = self.cos[column - self.starts][:, None, None]
        sin = self.sin[column - self.starts][:, None, None]
        mask = None if self.mask is None else self.mask[..., : column + 1]
        x = body.embed_tokens.weight[tokens]
        for (before, qkv, out, after, gate_up, down), (keys, values) in zip(
            self.weights, self.dense, strict=True
        ):
            states = F.linear(F.rms_norm(x, width, before, self.eps), qkv).view(
                len(x), 3, self.heads, self.dim
            )
            turned = states[:, :2] * cos + states[:, :2].roll(self.dim // 2, -1) * sin
            keys[:, :, column] = turned[:, 1]
            values[:, :, column] = states[:, 2]
            seen = F.scaled_dot_product_attention(
                turned[:, 0, :, None], keys[:, :, : column + 1], values[:, :, : column + 1],
                attn_mask=mask
            )  # fmt: skip
            x = x + F.linear(seen.reshape(len(x), -1), out)
            gate, up = F.linear(F.rms_norm(x, width, after, self.eps), gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, down)
        return self.model.lm_head(body.norm(x))
