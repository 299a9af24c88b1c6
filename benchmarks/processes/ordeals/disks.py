"""Disks that fill up while a run writes: a line is done when its trace is."""

from __future__ import annotations

import logging
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.processes.ordeals.runs import (
    Scene,
    Trial,
    ended,
    missing_traces,
    same_as_undisturbed,
    start,
    to,
)

log = logging.getLogger(__name__)

PAGE = 4096  # bytes that the smallest file takes in memory
TRACE = 4  # pages of a trace


def full_disk(scene: Scene) -> Iterator[Trial]:
    """A disk in memory with room for a part of what is to be written. Only root may mount one."""
    # each trace has a file, until all are merged
    pages = int(scene.rng.integers(2 * TRACE, scene.count * TRACE))
    yield from _on_a_disk(scene, scene.folder / "full", f"size={pages * PAGE}")


def no_inodes(scene: Scene) -> Iterator[Trial]:
    """A disk in memory with room for a few files."""
    files = int(scene.rng.integers(5, 5 + scene.count // 2))
    yield from _on_a_disk(scene, scene.folder / "inodes", f"size=64m,nr_inodes={files}")


def short_files(scene: Scene) -> Iterator[Trial]:
    """A limit on the size of each file, in the middle of the result lines."""
    folder = scene.folder / "short"
    size = (scene.solved / "o").stat().st_size
    limit = int(scene.rng.integers(size // 10, size))
    command = [*scene.solve, *to("o", "t")]
    before = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
    faults = ended(start(command, folder, before), (1,))
    yield Trial([*faults, *missing_traces(scene, folder)], noticed=not faults)
    faults = ended(start(command, folder), (0, 1))
    yield Trial([*faults, *same_as_undisturbed(scene, folder)])


def _on_a_disk(scene: Scene, folder: Path, limits: str) -> Iterator[Trial]:
    """A run on a small disk, and one when there is room. Nothing where none can be mounted."""
    command = [*scene.solve, *to("o", "t")]
    with _disk(folder, limits) as mounted:
        if not mounted:
            log.warning("no disk can be mounted here (that takes root): this ordeal is left out")
            return
        faults = ended(start(command, folder), (1,))
        yield Trial([*faults, *missing_traces(scene, folder)], noticed=not faults)
        _mount("-o", "remount,size=64m,nr_inodes=10000", str(folder))
        faults = ended(start(command, folder), (0, 1))
        yield Trial([*faults, *same_as_undisturbed(scene, folder)])


@contextmanager
def _disk(folder: Path, limits: str) -> Iterator[bool]:
    """A disk in memory at `folder`, for the block; False where none can be mounted."""
    folder.mkdir(parents=True)
    mounted = _mount("-t", "tmpfs", "-o", limits, "tmpfs", str(folder))
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def _mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0
    except OSError:
        return False
