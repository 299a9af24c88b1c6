"""The reference: a model that is not trained, by whose log-probs preferences are measured. It reads
the examples once, before the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import AutoTokenizer, PreTrainedModel

from guides.data.examples import Row, collate
from guides.training.losses import log_probs
from guides.training.tree_attention import use_trees
from models.checkpoints.checkpoint import load_model
from models.checkpoints.foreign import read_by
from search.files.atomic import atomic

if TYPE_CHECKING:
    from guides.training.options import Options

READ = 1 << 12  #: tokens that are read at once, padding included, where a row has no more


class Referenced(Dataset[Row]):
    """Rows with "reference", float32 [n]: `log_probs` of a reference, all rows' one behind the
    other.
    """

    def __init__(self, rows: Sequence[Row], log_probs: np.ndarray):
        self.rows = rows
        lengths = [len(rows[i]["tokens"]) for i in range(len(rows))]
        self.parts = np.split(log_probs, np.cumsum(lengths)[:-1])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index] | {"reference": self.parts[index]}


def referenced(
    model: PreTrainedModel, rows: Sequence[Row], path: Path, options: Options
) -> Referenced:
    """`rows` with the log-probs of `model`, read from `path` or, where it is missing, computed and
    written there, under another name and renamed. Raises OSError where the disk is full.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as part, part.open("wb") as file:
            np.save(file, _read(model, rows, options))
    return Referenced(rows, np.load(path))


def _read(model: PreTrainedModel, rows: Sequence[Row], options: Options) -> np.ndarray:
    """float32 [tokens of all rows]; 0 for tokens that neither samples nor pairs count."""
    if torch.cuda.is_available():
        model.cuda()
    model.eval()
    use_trees(model)
    found = []
    group: list[Row] = []
    for index in range(len(rows)):
        group.append(rows[index])
        longest = max(len(row["tokens"]) for row in group)
        if index + 1 < len(rows) and longest * (len(group) + 1) <= READ:
            continue
        batch = {name: array.to(model.device) for name, array in collate(group).items()}
        grid = log_probs(model, batch, options).cpu().numpy()
        found += [own[: len(row["tokens"])] for own, row in zip(grid, group, strict=True)]
        group = []
    return np.concatenate(found)


def load_reference(folder: str | Path) -> Any:
    """The model of a checkpoint, float32, to be a reference."""
    return load_model(folder, device="cpu", dtype="float32")[0]


def check_reference(folder: Path, base: Path) -> None:
    """Raises ValueError where a reference has other tokens than the model that is trained."""
    ours, theirs = (read_by(AutoTokenizer, each).get_vocab() for each in (base, folder))
    if ours != theirs:
        raise ValueError(
            f"the reference {folder} has another tokenizer than {base}, so its log-probs are of "
            "other tokens: give a reference of the same family, or none for the model itself"
        )
