"""Training a value head alone. The model below it stays as it is, so it reads every example once,
and further passes cost next to nothing.

An engine reads, as in a search, so the head learns from the very numbers that it will meet there.
What was read is kept in files of `READ` tokens or so, each written under another name and renamed
when complete: a run that was killed goes on behind them.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, get_scheduler

from guides.data.examples import Row
from guides.training.losses import trust
from guides.training.trainer import Order
from models.engine.engine import Engine
from search.files.atomic import atomic
from search.scheduling.driver import run
from search.scheduling.requests import RequestFailed, Score, Scored
from search.scheduling.scheduler import ask, parallel

if TYPE_CHECKING:
    from guides.training.options import Options
    from models.checkpoints.heads import ValueHead

log = logging.getLogger(f"copse.{__name__}")

READ = 1 << 14  #: tokens of the examples of one file
NAME = "frozen"  #: of the engine that reads


@dataclass(frozen=True)
class Features:
    """What the frozen model says of the examples.

    hidden  float [labels, hidden]: the state from which the head tells the value, of every label
    values  float32 [labels], in [0, 1];  counts: float32 [labels], outcomes behind each, inf: exact
    starts  int64 [rows + 1]: the labels of row i are those from starts[i] to starts[i + 1]
    tokens  that were read, what examples share within a row once
    """

    hidden: torch.Tensor
    values: torch.Tensor
    counts: torch.Tensor
    starts: np.ndarray
    tokens: int


@dataclass(frozen=True)
class _Text:
    """One text of a row, and where in it the labelled tokens stand that no longer text of the
    row has: `labels`, indices into the row.
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    labels: np.ndarray


def train_head(
    model: PreTrainedModel,
    tokenizer: Any,
    head: ValueHead,
    rows: Sequence[Row],
    out: Path,
    options: Options,
) -> dict[str, Any]:
    """Train `head` in place on the hidden states of `model`, in passes through `rows` that have an
    order of their own each.

    out     where what was read is kept
    Returns and raises what `guides.training.train.train` does, and what `read` raises.
    """
    features = read(model, tokenizer, rows, out)
    head.requires_grad_(True)
    size = options.batch * options.accumulation
    steps = options.updates(len(rows))
    order = list(Order(len(rows), steps * size, size, options.seed))
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=max(options.lr, 0.1 / head.weight.numel()), weight_decay=0.0
    )
    schedule = get_scheduler(
        "warmup_stable_decay",
        optimizer,
        min(options.warmup, steps // 10),
        steps,
        {"num_decay_steps": round(options.decay * steps), "decay_type": "linear"},
    )
    for step in range(steps):
        optimizer.zero_grad()
        loss = _loss(head, features, order[step * size : (step + 1) * size])
        loss.backward()
        norm = nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        if not norm.isfinite():
            raise ValueError(
                f"the loss or its gradient is not a finite number at step {step + 1}: "
                "give a smaller learning rate, or look for broken examples"
            )
        optimizer.step()
        schedule.step()
        if (step + 1) % max(1, steps // 10) == 0:
            log.info("step %d of %d of the value head: loss %.4f", step + 1, steps, loss.item())
    flops = 2 * sum(p.numel() for p in model.parameters()) * features.tokens
    done = {"steps": steps, "examples": steps * size, "tokens": features.tokens, "flops": flops}
    return done | {"options": asdict(options)}


def _loss(head: ValueHead, features: Features, rows: Sequence[int]) -> torch.Tensor:
    """The mean cross-entropy of the labels of `rows`, weighed by how far each is trusted
    (`guides.training.losses`).
    """
    starts = features.starts
    labels = [np.arange(starts[row], starts[row + 1]) for row in rows]
    chosen = torch.from_numpy(np.concatenate(labels))
    odds = head.logits(features.hidden[chosen])
    doubt = nn.functional.binary_cross_entropy_with_logits(
        odds, features.values[chosen], reduction="none"
    )
    weights = trust(features.counts[chosen])
    return doubt @ weights / torch.where(weights.sum() > 0, weights.sum(), 1.0)


def read(model: PreTrainedModel, tokenizer: Any, rows: Sequence[Row], out: Path) -> Features:
    """Read `rows` by the frozen `model`, but for what lies in `out` already.

    Raises ValueError for an example that is too long for the model, and OSError where the disk is
    full; what was read stays.
    """
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    groups = list(_groups(rows))
    parts = []
    engine: Engine | None = None
    for number, group in enumerate(groups):
        path = out / f"hidden-{number:06d}.safetensors"
        if not path.exists():
            engine = engine or Engine(model, tokenizer, slots=64, name=NAME)
            _write(path, _states(engine, [rows[row] for row in group]))
            log.info(
                "read %d of %d parts of the examples, %.0f s",
                number + 1,
                len(groups),
                time.monotonic() - start,
            )
        parts.append(load_file(path))
    if engine is not None:
        engine.close()
    whole = {}
    for name in parts[0]:
        whole[name] = torch.cat([part[name] for part in parts])
    starts = np.concatenate([[0], np.cumsum(whole["labels"].numpy())])
    return Features(
        whole["hidden"], whole["values"], whole["counts"], starts, int(whole["tokens"].sum())
    )


def _groups(rows: Sequence[Row]) -> Iterator[list[int]]:
    """Neighbouring rows, of `READ` tokens together, or one that has more."""
    group: list[int] = []
    tokens = 0
    for index in range(len(rows)):
        length = len(rows[index]["tokens"])
        if group and tokens + length > READ:
            yield group
            group = []
            tokens = 0
        group.append(index)
        tokens += length
    yield group


def _states(engine: Engine, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """Hidden states, values and counts of the labels, row by row; labels: how many each row has;
    tokens: how many of it were read.
    """
    texts = list(map(_texts, rows))
    scores = map(_scored, itertools.chain.from_iterable(texts))
    replies = iter(run(parallel(scores, limit=512), {NAME: engine}))
    width = engine.model.config.get_text_config().hidden_size
    hidden = []
    values = []
    counts = []
    labels = []
    tokens = []
    for row, own in zip(rows, texts, strict=True):
        states = np.full((len(row["tokens"]), width), np.nan, np.float32)
        for text, scored in zip(own, replies):  # noqa: B905 (the rows share one iterator)
            states[text.labels] = scored.states
        labelled = _labelled(row)
        hidden.append(torch.from_numpy(states[labelled]).to(engine.model.dtype))
        values.append(row["values"][labelled])
        counts.append(row["counts"][labelled])
        labels.append(int(labelled.sum()))
        tokens.append(_different(row, own))
    return {
        "hidden": torch.cat(hidden),
        "values": torch.from_numpy(np.concatenate(values)),
        "counts": torch.from_numpy(np.concatenate(counts)),
        "labels": torch.tensor(labels),
        "tokens": torch.tensor(tokens),
    }


def _labelled(row: Row) -> np.ndarray:
    return ~np.isnan(row["values"])


def _texts(row: Row) -> list[_Text]:
    """The texts that end at a labelled token behind which there is none, so that each label is
    in exactly one of them.
    """
    left = _labelled(row)
    found = []
    for last in np.flatnonzero(left)[::-1]:  # what continues a token stands behind it
        if left[last]:
            path = _path(row, int(last))
            places = np.flatnonzero(left[path])
            labels = path[places]
            left[labels] = False
            found.append(_Text(tuple(row["tokens"][path].tolist()), tuple(places.tolist()), labels))
    return found


def _path(row: Row, last: int) -> np.ndarray:
    """int64: the tokens of the text that ends with token `last`, as indices into the row."""
    path = []
    while last >= 0:
        path.append(last)
        last = int(row["previous"][last])
    return np.array(path[::-1])


def _different(row: Row, texts: Sequence[_Text]) -> int:
    """How many tokens of the row are in any of `texts`."""
    tokens: set[int] = set()
    for text in texts:
        tokens.update(_path(row, int(text.labels[-1])).tolist())
    return len(tokens)


async def _scored(text: _Text) -> Scored:
    request = Score(text.tokens, text.positions, log_probs=False, states=True, to=NAME)
    try:
        return await ask(request)
    except RequestFailed as error:
        raise ValueError(
            f"the model cannot read an example of {len(text.tokens)} tokens ({error}): leave it out"
        ) from error


def _write(path: Path, arrays: dict[str, torch.Tensor]) -> None:
    try:
        with atomic(path) as part:
            save_file({name: array.contiguous() for name, array in arrays.items()}, part)
    # a full disk has a name of its own in each library
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OSError(
            f"cannot write {path} ({error}): make room and start again, what was read is kept"
        ) from error
