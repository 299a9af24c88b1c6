"""Training a value head alone. The model below it stays as it is, so it reads every example once, and further passes cost next to nothing.

What was read is kept in files of `READ` tokens or so, each written under another name and renamed when complete: a run that was killed
goes on behind them.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, get_scheduler

from guides.examples import Row, collate
from guides.trainer import Order, attention_bias, half, trust

if TYPE_CHECKING:
    from guides.train import Options
    from models.heads import ValueHead

log = logging.getLogger(__name__)

READ = 4096  #: tokens that are read in one pass, padding included, unless a single example has more


@dataclass(frozen=True)
class Features:
    """What the frozen model says of the examples.

    hidden  float [labels, hidden]: the state from which the head tells the value, of every label
    values  float32 [labels], in [0, 1];  counts: float32 [labels], outcomes behind each, inf: exact
    starts  int64 [rows + 1]: the labels of row i are those from starts[i] to starts[i + 1]
    tokens  that were read;  padded: the same with padding
    """

    hidden: torch.Tensor
    values: torch.Tensor
    counts: torch.Tensor
    starts: np.ndarray
    tokens: int
    padded: int


def train_head(
    model: PreTrainedModel,
    head: ValueHead,
    rows: Sequence[Row],
    out: Path,
    options: Options,
    shuffle: bool,
    parent: int | None,
) -> dict[str, Any]:
    """Train `head` in place on the hidden states of `model`. Arguments, what comes back and errors as of `guides.train.train`."""
    features = read(model, rows, out, options, parent)
    size = options.batch * options.accumulation
    steps = options.updates(len(rows))
    order = Order(len(rows), steps * size, size, options.seed if shuffle else None)
    optimizer = torch.optim.AdamW(head.parameters(), lr=max(options.lr, 0.1 / head.weight.numel()), weight_decay=0.0)
    schedule = get_scheduler(
        "warmup_stable_decay",
        optimizer,
        min(options.warmup, steps // 10),
        steps,
        {"num_decay_steps": round(options.decay * steps), "decay_type": "linear"},
    )
    loss = torch.zeros(())
    for step, chosen in enumerate(_batches(order, size)):
        optimizer.zero_grad()
        loss = _loss(head, features, chosen)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        if not norm.isfinite():
            raise ValueError(
                f"the loss or its gradient is not a finite number at step {step + 1}: "
                "give a smaller learning rate, or look for broken examples"
            )
        optimizer.step()
        schedule.step()
    log.info("%d steps of the value head: loss %.4f", steps, float(loss.detach()))
    flops = 2 * sum(p.numel() for p in model.parameters()) * features.padded
    done = {"steps": steps, "examples": steps * size, "tokens": features.tokens, "flops": flops}
    return done | {"options": asdict(options)}


def _batches(order: Order, size: int) -> Iterator[list[int]]:
    chosen = list(order)
    return (chosen[start : start + size] for start in range(0, len(chosen), size))


def _loss(head: ValueHead, features: Features, rows: Sequence[int]) -> torch.Tensor:
    """The mean cross-entropy of the labels of `rows`, weighed by how far each is trusted (`guides.trainer`)."""
    labels = np.concatenate([np.arange(features.starts[row], features.starts[row + 1]) for row in rows])
    chosen = torch.from_numpy(labels)
    odds = head.logits(features.hidden[chosen])
    doubt = nn.functional.binary_cross_entropy_with_logits(odds, features.values[chosen], reduction="none")
    weights = trust(features.counts[chosen])
    return doubt @ weights / torch.where(weights.sum() > 0, weights.sum(), 1.0)


def read(model: PreTrainedModel, rows: Sequence[Row], out: Path, options: Options, parent: int | None) -> Features:
    """Read `rows` by the frozen `model`, but for what lies in `out` already.

    Raises OSError where the disk is full, and KeyboardInterrupt when the process `parent` has ended; what was read stays.
    """
    out.mkdir(parents=True, exist_ok=True)
    model.eval()
    parts = []
    start = time.monotonic()
    groups = list(_groups(rows))
    for number, group in enumerate(groups):
        path = out / f"hidden-{number:06d}.safetensors"
        if not path.exists():
            if parent is not None and os.getppid() != parent:
                raise KeyboardInterrupt
            _write(path, _states(model, collate([rows[row] for row in group]), options))
            log.info("read %d of %d batches, %.0f s", number + 1, len(groups), time.monotonic() - start)
        parts.append(load_file(path))
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    starts = np.concatenate([[0], np.cumsum(whole["labels"].numpy())])
    tokens, padded = whole["sizes"].sum(0).tolist()
    return Features(whole["hidden"], whole["values"], whole["counts"], starts, tokens, padded)


def _groups(rows: Sequence[Row]) -> Iterator[list[int]]:
    """Neighbouring rows, so many that a pass reads `READ` tokens."""
    group: list[int] = []
    longest = 0
    for index in range(len(rows)):
        length = len(rows[index]["tokens"])
        if group and max(longest, length) * (len(group) + 1) > READ:
            yield group
            group, longest = [], 0
        group.append(index)
        longest = max(longest, length)
    yield group


@torch.no_grad()
def _states(model: PreTrainedModel, batch: dict[str, torch.Tensor], options: Options) -> dict[str, torch.Tensor]:
    """The hidden states, values and counts of a batch's labels, row by row; labels: how many each row has; sizes: tokens, padded ones."""
    device = model.device
    batch = {name: array.to(device) for name, array in batch.items()}
    few = half(options.precision, device)
    with torch.autocast(device.type, torch.bfloat16) if few else nullcontext():
        hidden = model.get_decoder()(
            input_ids=batch["tokens"],
            position_ids=batch["positions"],
            attention_mask=attention_bias(batch["visible"], few),
            use_cache=False,
        ).last_hidden_state
    labelled = ~batch["values"].isnan()
    real = int(batch["visible"].diagonal(dim1=1, dim2=2).sum())
    return {
        "hidden": hidden[labelled].cpu(),
        "values": batch["values"][labelled].cpu(),
        "counts": batch["counts"][labelled].cpu(),
        "labels": labelled.sum(1).cpu(),
        "sizes": torch.tensor([[real, batch["tokens"].numel()]]),
    }


def _write(path: Path, arrays: dict[str, torch.Tensor]) -> None:
    unfinished = path.with_suffix(".part")
    try:
        save_file({name: array.contiguous() for name, array in arrays.items()}, unfinished)
        os.replace(unfinished, path)
    except (OSError, RuntimeError, SafetensorError) as error:  # a full disk has a name of its own in each library
        unfinished.unlink(missing_ok=True)
        raise OSError(f"cannot write {path} ({error}): make room and start again, what was read is kept") from error
