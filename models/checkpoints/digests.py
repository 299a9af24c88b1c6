"""Digests of the weights that we write, as `sha256sum` writes and checks them: a bit that flipped
on a disk or on the way is found when the weights are loaded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

SUMS = "SHA256SUMS"  #: the file in a checkpoint's folder; weights of others have none
_LINE = re.compile(r"([0-9a-f]{64})  ([^/\n]+)")


def digest_of(file: Path) -> str:
    """SHA-256 of a file, as 64 hex digits."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_digests(folder: Path) -> None:
    """Note the digests of all weights in a folder."""
    lines = [f"{digest_of(file)}  {file.name}\n" for file in sorted(folder.glob("*.safetensors"))]
    (folder / SUMS).write_text("".join(lines))


def check_digests(folder: Path, found: Mapping[str, str] | None = None) -> None:
    """Raise ValueError for weights that are not those that were written, where that was noted.

    found  digests that are known already, by the names of the files
    """
    if not (folder / SUMS).exists():
        return
    for line in (folder / SUMS).read_text(errors="replace").splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"{folder / SUMS} is damaged: copy the checkpoint again")
        digest, name = match.groups()
        file = folder / name
        if not file.exists():
            raise ValueError(
                f"{folder} has no {name}, which was written there: copy it again, or remove {SUMS} "
                "if you changed the weights yourself"
            )
        if digest != ((found or {}).get(name) or digest_of(file)):
            raise ValueError(
                f"{file} is not what was written (its SHA-256 is another than {SUMS} says): copy "
                f"the checkpoint again, or remove {SUMS} if you changed the weights yourself"
            )
