"""Files that are whole or not there, and that one run alone writes to."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import IO

log = logging.getLogger(f"copse.{__name__}")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place when the block has ended.

    Where the block raises, nothing is left and what was at `path` stays. The folder is made if it
    is missing. Raises OSError as writing does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def append(file: FileIO, data: bytes) -> None:
    """Add to an unbuffered file. Raises OSError (a full disk) and leaves no part of `data`."""
    size = os.fstat(file.fileno()).st_size
    try:
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file.name))
    except OSError:
        file.truncate(size)
        raise


@contextmanager
def alone(folder: Path, busy: str) -> Iterator[None]:
    """Keep other runs out of a folder, which is made if it is missing, until the block ends. Raises
    ValueError with the message `busy` where another run is in it. Where nothing is left in it then,
    it is gone again, and so is a folder that was made for it.
    """
    made = [place for place in (folder, folder.parent) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a") as file:
        lock(file, busy)
        try:
            yield
        finally:
            with suppress(OSError):  # the last of the run may have removed it, or it is not empty
                (folder / ".lock").unlink()
                for place in made:
                    place.rmdir()


def lock(file: FileIO | IO[str], busy: str) -> None:
    """Keep other runs away from an open file until this process ends, however it ends. Raises
    ValueError with the message `busy` where another run has it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(busy) from None
    except OSError as error:  # a file system without locks
        log.info(
            "%s cannot be locked (%s): let only one run write to it", file.name, error.strerror
        )
