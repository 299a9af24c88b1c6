"""Forward and backward of one tree of texts, beside the same texts as rows of their own: seconds of
one thread, and how near their ratio comes to that of the FLOPs.

    python -m benchmarks.learning.trees --out DIR

A tree is a prompt and leaves of equal length. Both ways compute the negative log-likelihood of the
leaves' tokens and the cross-entropy of a value label at the end of each, in float32 with random
weights. Rows are batched without padding: a batch is timed and multiplied. "mask" is the tree with
eager attention below a mask of all pairs, where that fits into memory.
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.output import row, table, write_csv
from guides.training.tree_attention import added, tree_states, use_trees, visible
from models.checkpoints.heads import ValueHead

log = logging.getLogger(f"copse.{__name__}")

#: hidden, inner, layers, heads, heads of keys, tokens in the vocabulary
SHAPES = {
    "builtin": (192, 512, 6, 3, 3, 1216),
    "smollm2-135m": (576, 1536, 30, 9, 3, 49152),
}
LAYOUTS = ((16, 100, 400), (64, 50, 1000))  #: leaves, tokens of each, tokens of the prompt
SIZES = (1, 2, 4, 8, 16)  #: rows of a batch
FITS = 8 << 30  #: bytes that the attention scores of "mask" may take


@dataclass(frozen=True)
class Timing:
    """seconds: of the CPU, for the whole layout; flops: forward and backward, of visible pairs
    alone.
    """

    model: str
    leaves: int
    leaf: int
    prompt: int
    way: str
    repetition: int
    seconds: float
    flops: float


def made(shape: str, layers: int | None) -> Any:
    """A model of a shape, or of its first `layers`, with random weights and a value head."""
    hidden, inner, depth, heads, key_heads, vocabulary = SHAPES[shape]
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers or depth,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.value_head = ValueHead(hidden)
    return model


def flops(model: Any, tokens: int, pairs: int, read_out: int) -> float:
    """Of a forward and backward pass over `tokens`, with `pairs` of a token and one that it attends
    to, and `read_out` tokens whose logits are computed.
    """
    config = model.config
    layers = sum(p.numel() for p in model.model.layers.parameters())
    attention = 2 * config.num_attention_heads * config.head_dim * config.num_hidden_layers
    output = config.vocab_size * config.hidden_size
    return 6.0 * (layers * tokens + attention * pairs + output * read_out)


def _loss(model: Any, before: torch.Tensor, after: torch.Tensor, ends: torch.Tensor) -> None:
    """Backward of the summed losses. before: hidden states [n, hidden] from which the tokens
    `after` are told; ends: those of the labels.
    """
    nll = nn.functional.cross_entropy(model.lm_head(before), after, reduction="sum")
    odds = model.value_head.logits(ends)
    labels = torch.ones_like(odds)
    doubt = nn.functional.binary_cross_entropy_with_logits(odds, labels, reduction="sum")
    (nll + doubt).backward()


def tree_pass(model: Any, tokens: torch.Tensor, layout: Sequence[int], masked: bool) -> None:
    """tokens: int64 [1, tokens of the tree]."""
    leaves, leaf, prompt = layout
    place = torch.arange(tokens.shape[1])[None]
    inside = (place - prompt) % leaf
    positions = torch.where(place < prompt, place, prompt + inside)
    ends = torch.where(place < prompt, tokens.shape[1], place - inside + leaf)
    if masked:
        decoder = model.get_decoder()
        mask = added(visible(ends), torch.float32)
        out = decoder(
            input_ids=tokens, position_ids=positions, attention_mask=mask, use_cache=False
        )
        hidden = out.last_hidden_state[0]
    else:
        hidden = tree_states(model.get_decoder(), tokens, ends, positions)[0]
    leaf_tokens = torch.arange(prompt, tokens.shape[1])
    before = torch.where(inside[0, prompt:] == 0, prompt - 1, leaf_tokens - 1)
    _loss(model, hidden[before], tokens[0, prompt:], hidden[prompt + leaf - 1 :: leaf])


def row_pass(model: Any, rows: torch.Tensor, prompt: int) -> None:
    """rows: int64 [rows, tokens]."""
    hidden = model.get_decoder()(input_ids=rows, use_cache=False).last_hidden_state
    before = hidden[:, prompt - 1 : -1].flatten(0, 1)
    _loss(model, before, rows[:, prompt:].flatten(), hidden[:, -1])


def ways(model: Any, layout: Sequence[int], sizes: Sequence[int]) -> dict[str, tuple[Any, float]]:
    """By name: a function that makes a pass, and how many such passes the layout takes."""
    leaves, leaf, prompt = layout
    total = prompt + leaves * leaf
    tokens = torch.randint(
        model.config.vocab_size, (1, total), generator=torch.Generator().manual_seed(0)
    )
    shared = tokens[:, :prompt].expand(leaves, -1)
    rows = torch.cat([shared, tokens[0, prompt:].view(leaves, leaf)], 1)

    def with_attention(name: str, run: Callable[[], None]) -> Callable[[], None]:
        def call() -> None:
            model.set_attn_implementation(name)
            run()

        return call

    found: dict[str, tuple[Any, float]] = {
        "tree": (with_attention("copse_trees", lambda: tree_pass(model, tokens, layout, False)), 1)
    }
    config = model.config
    if 8 * total**2 * config.num_attention_heads * config.num_hidden_layers <= FITS:
        run = with_attention("eager", lambda: tree_pass(model, tokens, layout, True))
        found["mask"] = (run, 1)
    for size in sizes:
        if size > leaves:
            continue
        batch = rows[:size].contiguous()
        run = with_attention("sdpa", lambda batch=batch: row_pass(model, batch, prompt))  # type: ignore[misc]
        found[f"rows of {size}"] = (run, leaves / size)
    return found


def measure(
    shape: str,
    layout: Sequence[int],
    repetitions: int,
    sizes: Sequence[int],
    layers: int | None = None,
) -> list[Timing]:
    """Interleaved repetitions of all ways, after a pass that loads what is loaded once."""
    leaves, leaf, prompt = layout
    model = made(shape, layers)
    use_trees(model)
    longest = prompt + leaf
    below = leaves * (leaf * prompt + leaf * (leaf + 1) // 2)
    answered = leaves * leaf
    of_tree = flops(model, prompt + answered, prompt * (prompt + 1) // 2 + below, answered)
    of_rows = flops(model, leaves * longest, leaves * longest * (longest + 1) // 2, answered)
    timings = []
    tree_pass(model, torch.zeros(1, 32, dtype=torch.int64), (4, 4, 16), masked=False)
    model.zero_grad()
    for repetition in range(repetitions):
        for way, (run, times) in ways(model, layout, sizes).items():
            gc.collect()
            start = time.process_time()
            run()
            seconds = (time.process_time() - start) * times
            model.zero_grad()
            log.info("%s %s, %s: %.2f s", shape, layout, way, seconds)
            work = of_rows if way.startswith("rows") else of_tree
            timings.append(
                Timing(shape, leaves, leaf, prompt, way, repetition, round(seconds, 3), work)
            )
    return timings


def report(timings: Sequence[Timing]) -> str:
    """A row a layout: medians, the best size of rows, and how much faster the tree is."""
    lines = [
        row(
            ("model", "leaves", "tree, s", "mask, s", "rows, s", "their size")
            + ("times faster", "bound (FLOPs)", "of the bound, %")
        )
    ]
    for key in dict.fromkeys((one.model, one.leaves, one.leaf, one.prompt) for one in timings):
        own = [one for one in timings if (one.model, one.leaves, one.leaf, one.prompt) == key]
        medians = {}
        for way in dict.fromkeys(one.way for one in own):
            medians[way] = statistics.median(one.seconds for one in own if one.way == way)
        best = min((way for way in medians if way.startswith("rows")), key=medians.__getitem__)
        work = {one.way: one.flops for one in own}
        bound = work[best] / work["tree"]
        faster = medians[best] / medians["tree"]
        mask = f"{medians['mask']:.2f}" if "mask" in medians else "does not fit"
        model, leaves, leaf, prompt = key
        lines.append(
            row(
                (model, f"{leaves} of {leaf} on {prompt}", f"{medians['tree']:.2f}", mask)
                + (f"{medians[best]:.2f}", best.removeprefix("rows of "), f"{faster:.1f}")
                + (f"{bound:.1f}", f"{100 * faster / bound:.0f}")
            )
        )
    return table(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--models", default=",".join(SHAPES), help="shapes, by commas")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="rows of a batch")
    parser.add_argument("--layers", type=int, help="of the models, where not all are wanted")
    parser.add_argument("--out", type=Path, help="folder for trees.csv")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    sizes = list(map(int, given.sizes.split(",")))
    timings: list[Timing] = []
    for shape in given.models.split(","):
        for layout in LAYOUTS:
            timings += measure(shape, layout, given.repetitions, sizes, given.layers)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        write_csv(given.out / "trees.csv", timings)
    log.info("\n%s", report(timings))


if __name__ == "__main__":
    main()
