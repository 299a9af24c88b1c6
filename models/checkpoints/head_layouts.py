"""Where a checkpoint keeps its value head, by its config and the names of its tensors: needs no
torch, reads no weights.

Ours stands in a file of its own. Published reward models keep theirs among the model's tensors;
`LAYOUTS` has the names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HEAD = "value_head.safetensors"
OWN = "value_head"  #: the layout of our own heads


@dataclass(frozen=True)
class Layout:
    """A published kind of head.

    classes  how the names of the classes end that have it (`architectures` in config.json)
    layers   (name, rows) of its linear layers, 0 rows: as many as the hidden size, with a ReLU
             after it. Two rows at the end are two classes, the second for success; one is its
             log-odds
    biased   whether each layer must have a bias
    """

    classes: tuple[str, ...]
    layers: tuple[tuple[str, int], ...]
    biased: bool = True

    @property
    def prefix(self) -> str:
        """What the names of all its tensors begin with."""
        return self.layers[0][0].partition(".")[0] + "."

    @property
    def first(self) -> str:
        """The name of its first tensor."""
        return f"{self.layers[0][0]}.weight"


LAYOUTS = {
    "score": Layout(("ForTokenClassification",), (("score", 2),), biased=False),
    "score-mlp": Layout(("ForProcessRewardModel",), (("score.0", 0), ("score.2", 2))),
    "v_head": Layout(("ForPrmModel",), (("v_head.summary", 1),)),
}


def architecture(folder: Path) -> str:
    """The name of the class that config.json gives, "" without one. Raises ValueError where
    config.json cannot be read.
    """
    try:
        names = json.loads((folder / "config.json").read_text()).get("architectures")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{folder}/config.json cannot be read ({error}): correct or copy it again"
        ) from None
    return str(names[0]) if names else ""


def head_layout(folder: Path) -> str | None:
    """Which head the checkpoint has or, by its class, should have: `OWN`, a name in `LAYOUTS`, or
    None.

    Raises ValueError where config.json cannot be read, and for two heads.
    """
    made = architecture(folder)
    names = set(tensor_names(folder))
    by_class = [name for name, layout in LAYOUTS.items() if made.endswith(layout.classes)]
    by_tensor = [name for name, layout in LAYOUTS.items() if layout.first in names]
    found = next(iter(by_class + by_tensor), None)
    if not (folder / HEAD).exists():
        return found
    if found is not None:
        raise ValueError(
            f"{folder} has two heads, {HEAD} and {LAYOUTS[found].prefix}*: remove the one that "
            "is not to judge"
        )
    return OWN


def tensor_names(folder: Path) -> Iterator[str]:
    """Names of the tensors in the checkpoint's safetensors files, or in their index where only
    that is there.
    """
    for index in folder.glob("*.safetensors.index.json"):
        yield from json.loads(index.read_text()).get("weight_map", {})
    for file in folder.glob("*.safetensors"):
        if file.name != HEAD:
            yield from _header(file)


def files_of(folder: Path, prefix: str) -> Iterator[tuple[Path, str]]:
    """(file, name) of every tensor whose name begins with `prefix`."""
    for file in sorted(folder.glob("*.safetensors")):
        if file.name != HEAD:
            yield from ((file, name) for name in _header(file) if name.startswith(prefix))


def _header(file: Path) -> list[str]:
    """Names in a safetensors file (8 bytes of length, then JSON); [] for a broken one, which
    loading will refuse by name.
    """
    try:
        with open(file, "rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if size >= file.stat().st_size:
                return []
            header = json.loads(stream.read(size))
    except (OSError, ValueError):
        return []
    return [name for name in header if name != "__metadata__"]
