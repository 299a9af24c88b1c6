"""A random model of the shape of Qwen2 1.5B on a GPU: decoding beside what the device's memory
allows, and beams of many widths.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.engine.expansion import forest
from benchmarks.engine.workloads import drained, tokenizer
from models import Engine
from search.scheduling.requests import Generate

SHAPE = {
    "vocab_size": 151_936,
    "hidden_size": 1536,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "intermediate_size": 8960,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}


def model(device: str, dtype: torch.dtype = torch.bfloat16, **options: Any) -> Any:
    """With random weights; `options` of the configuration go before `SHAPE`."""
    torch.manual_seed(0)
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    with torch.device(device):
        return Qwen2ForCausalLM(Qwen2Config(**ends | SHAPE | options)).to(dtype).eval()


def bandwidth(device: str, size: int = 1 << 30) -> float:
    """Bytes a second that a copy on the device reads and writes, the best of ten."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(10):
        _wait(device)
        start = time.perf_counter()
        target.copy_(source)
        _wait(device)
        best = max(best, 2 * size / (time.perf_counter() - start))
    return best


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def shared_and_not(
    model: Any, batches: Sequence[int], context: int, shared: int, group: int, new: int, rounds: int
) -> list[dict[str, Any]]:
    """A row a batch and sharing. Contexts are read before; the last token of each is not passed.

    step      seconds of a pass, median of rounds;  rate: new tokens a second
    least     seconds in which the device's memory can read all weights, and each distinct key and
              value once
    share     least / step;  peak: most bytes of the pool
    """
    device = str(model.device)
    fast = bandwidth(device)
    weights = model.num_parameters() * model.dtype.itemsize
    rows = []
    for batch in batches:
        groups = {"nothing": (batch, 1), f"{shared} by {group}": (batch // group, group)}
        for name, (trees, leaves) in groups.items():
            if trees * leaves != batch:
                raise ValueError(
                    f"batch {batch} is no multiple of {group}: give groups that divide it"
                )
            contexts = forest([(1, shared), (leaves, context - shared)], trees)
            engine = Engine(model, tokenizer(), slots=batch)
            steps = []
            for _ in range(rounds + 1):  # the first warms up
                engine.clear()
                drained(engine, [Generate(text, max_tokens=1) for text in contexts])
                before = engine.counts.passes
                _wait(device)
                start = time.perf_counter()
                drained(
                    engine, [Generate(text, max_tokens=new, temperature=0) for text in contexts]
                )
                _wait(device)
                steps.append((time.perf_counter() - start) / (engine.counts.passes - before))
            step = statistics.median(steps[1:])
            each = engine.kv_bytes_per_token
            # that are there, in the middle of the run
            tokens = trees * shared + batch * (context - shared) + batch * new / 2
            least = (weights + tokens * each) / fast
            rows.append(
                {
                    "batch": batch,
                    "shared": name,
                    "step": step,
                    "rate": batch / step,
                    "least": least,
                    "share": least / step,
                    "peak": engine.counts.peak * each,
                    "bandwidth": fast,
                    "path": engine.path,
                    "steps": steps,
                }
            )
            engine.close()
    return rows


def beams(
    model: Any,
    widths: Sequence[int],
    prompt: int,
    levels: int,
    new: int,
    rounds: int,
    branch: int = 4,
) -> list[dict[str, Any]]:
    """A row a width: one search at a time, which decodes `width` continuations of `new` tokens a
    level.

    At each level but the first the likeliest `width / branch` texts get `branch` continuations
    each. Every search has a prompt of its own.

    seconds  of a search, median of rounds;  rate: searches a second;  fall: times fewer than at the
             first width
    """
    device = str(model.device)
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for width in widths:
        engine = Engine(model, tokenizer(), slots=width)
        times = []
        for _ in range(rounds + 1):  # the first warms up
            root = tuple(rng.integers(0, 1000, prompt).tolist())
            _wait(device)
            start = time.perf_counter()
            _search(engine, root, width, levels, new, branch)
            _wait(device)
            times.append(time.perf_counter() - start)
        seconds = statistics.median(times[1:])
        first = rows[0]["rate"] if rows else 1 / seconds
        rows.append(
            {
                "width": width,
                "seconds": seconds,
                "rate": 1 / seconds,
                "fall": first * seconds,
                "times": times,
            }
        )
        engine.close()
    return rows


def _search(
    engine: Engine, root: tuple[int, ...], width: int, levels: int, new: int, branch: int
) -> None:
    parents = [root]
    for level in range(levels):
        requests = [
            Generate(parents[i % len(parents)], max_tokens=new, seed=level * width + i)
            for i in range(width)
        ]
        found = drained(engine, requests)
        order = np.argsort(
            [-float(reply.result.log_probs.mean()) for reply in found], kind="stable"
        )
        best = [found[i] for i in order[: max(1, width // branch)]]
        parents = [reply.request.prompt + reply.result.tokens for reply in best]


def beam_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows of the table of `beams`, its head first."""
    found = ["| beam width | s a search | searches/s | times fewer |"]
    for row in rows:
        found.append(
            f"| {row['width']} | {row['seconds']:.3f} | {row['rate']:.2f} | {row['fall']:.2f} |"
        )
    return found


def lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows of a table, its head first."""
    found = [
        "| batch | shared | path | ms a pass | tokens/s | least ms | share of the bound | KV MiB |"
    ]
    for row in rows:
        times = (
            f"{1e3 * row['step']:.2f} | {row['rate']:,.0f} | {1e3 * row['least']:.2f} | "
            f"{100 * row['share']:.0f} %"
        )
        found.append(
            f"| {row['batch']} | {row['shared']} | {row['path']} | {times} | "
            f"{row['peak'] / 2**20:.0f} |"
        )
    return found
