"""What transformers makes of a folder of unknown authors: its data, and never its code."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read_by(maker: Any, place: str | Path, *, fetch: bool = False, **options: Any) -> Any:
    """`maker.from_pretrained(place)`: the config, the tokenizer or the model of a folder.

    maker  a class of transformers
    fetch  a hub id may be downloaded, too

    Code in the folder (`auto_map`) is never run, and nobody is asked whether it may be. Raises
    ValueError for a folder that needs it, and whatever else transformers raises.
    """
    try:
        return maker.from_pretrained(
            place, local_files_only=not fetch, trust_remote_code=False, **options
        )
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"{place} can only be loaded by code of its own (auto_map), and the code of a "
            "checkpoint is never run: give a model of a type that transformers knows"
        ) from None
