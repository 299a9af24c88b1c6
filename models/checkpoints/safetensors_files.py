"""Tensors of a checkpoint read straight from its safetensors files: no library between, and no
second copy in memory.

A safetensors file is eight bytes (the length of what follows, little endian), a JSON object that
gives each tensor's type, shape and place, and the numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.checkpoints.head_layouts import HEAD

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class _Place:
    file: Path
    dtype: torch.dtype | None
    shape: tuple[int, ...]
    start: int
    stop: int


class Tensors:
    """The tensors in a folder's safetensors files, by name, our own value head's file left out.

    Raises ValueError that says what to do for a file that is broken or cut short, and for a name
    that two files have.
    """

    def __init__(self, folder: Path):
        self._places: dict[str, _Place] = {}
        for file in sorted(folder.glob("*.safetensors")):
            if file.name == HEAD:
                continue
            for name, place in _places(file):
                if name in self._places:
                    raise ValueError(
                        f"{folder}: {name} stands in two files, {self._places[name].file.name} "
                        f"and {file.name}: remove one"
                    )
                self._places[name] = place

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the tensor."""
        return self._places[name].shape

    def dtypes(self) -> dict[torch.dtype | None, int]:
        """Bytes of each float type; None: of types that are none, such as packed integers and
        8-bit floats.
        """
        found: dict[torch.dtype | None, int] = {}
        for place in self._places.values():
            found[place.dtype] = found.get(place.dtype, 0) + place.stop - place.start
        return found

    def read(self, name: str) -> torch.Tensor:
        """A copy in memory of its own, of the type in the file."""
        place = self._places[name]
        raw = torch.empty(place.stop - place.start, dtype=torch.uint8)
        with open(place.file, "rb", buffering=0) as stream:
            stream.seek(place.start)
            view = memoryview(raw.numpy())  # type: ignore[arg-type]
            done = 0
            while done < len(view):
                count = stream.readinto(view[done:])
                if not count:
                    raise ValueError(f"{place.file} is cut short: copy the checkpoint again")
                done += count
        return _typed(raw, place)

    def mapped(self, name: str) -> torch.Tensor:
        """The tensor where it lies in the file: only the rows that are looked at come into
        memory. It must not be written to.
        """
        place = self._places[name]
        raw = np.memmap(place.file, np.uint8, "c", place.start, (place.stop - place.start,))
        return _typed(torch.from_numpy(raw), place)


def _typed(raw: torch.Tensor, place: _Place) -> torch.Tensor:
    assert place.dtype is not None
    if raw.data_ptr() % place.dtype.itemsize:  # a file may begin its numbers anywhere
        raw = raw.clone()
    return raw.view(place.dtype).view(place.shape)


def _places(file: Path) -> Iterator[tuple[str, _Place]]:
    size = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"{file} is no whole safetensors file: copy the checkpoint again")
        try:
            header: Any = json.loads(stream.read(length))
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                start, stop = (8 + length + at for at in entry["data_offsets"])
                shape = tuple(entry["shape"])
                dtype = DTYPES.get(entry["dtype"])
                if stop > size:
                    raise ValueError(f"{name} ends beyond the file")
                if dtype is not None and stop - start != math.prod(shape) * dtype.itemsize:
                    raise ValueError(f"{name} has another size than its shape")
                yield name, _Place(file, dtype, shape, start, stop)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{file} is broken or cut short ({error}): copy the checkpoint again"
            ) from None
