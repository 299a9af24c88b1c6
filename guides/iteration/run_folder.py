"""Folders of runs that may be killed at any moment: whose they are, and how a file or a
checkpoint comes into them at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from models.checkpoints.checkpoint import GUIDE, describe
from search.files.atomic import atomic, lock


@contextlib.contextmanager
def claimed(out: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Note the settings in the folder and keep other runs away. Raises ValueError where it is
    another's.
    """
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "settings.json", "a+") as file:
        lock(file, f"another run is at work in {out}: wait for its end, or choose another --out")
        file.seek(0)
        noted = file.read()
        if not noted.endswith("}\n"):  # new, or cut short by a kill
            file.truncate(0)
            file.write(json.dumps(settings, indent=2) + "\n")
            file.flush()
        else:
            other = _other(json.loads(noted), settings)
            if other:
                raise ValueError(
                    f"{out} holds a run with other {', '.join(other)}: give the arguments of that "
                    "run, or choose another --out"
                )
        yield


def _other(before: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """The names of settings that differ. What an older version did not know is as None."""
    names = dict.fromkeys([*settings, *before])
    return [name for name in names if before.get(name) != settings.get(name)]


def copy_checkpoint(source: Path, place: Path, settings: Mapping[str, Any] | None = None) -> None:
    """A copy of a checkpoint in place of what is there; `settings` override its guide.json. Weights
    are hard links where that is possible.
    """
    new = place.with_name(f".{place.name}.new")
    old = place.with_name(f".{place.name}.old")
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    new.mkdir()
    for path in source.iterdir():
        if not path.is_file():
            continue
        file = path.resolve()
        copy = os.link if file.suffix == ".safetensors" else shutil.copy
        try:
            copy(file, new / file.name)
        except OSError:  # another file system
            shutil.copy(file, new / file.name)
    if settings:
        write_json(new / GUIDE, {"format": 1, **describe(source), **settings})
    if place.exists():
        os.replace(place, old)
    os.replace(new, place)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n")


def round_folder(out: Path, number: int) -> Path:
    """The folder of a round, made where it is missing."""
    folder = out / f"round-{number:02d}"
    folder.mkdir(exist_ok=True)
    return folder


def accepted_before(out: Path, number: int) -> Path:
    """The checkpoint that was accepted last before round `number`. A round without a gate accepts
    nothing.
    """
    number -= 1
    while not _accepted(round_folder(out, number) / "gate.json"):
        number -= 1
    return round_folder(out, number) / "checkpoint"


def _accepted(gate: Path) -> bool:
    return gate.exists() and bool(json.loads(gate.read_text())["accepted"])
