"""Disks that fill up while a run writes: a line is done when its trace is.

A disk is mounted in a namespace of its own, which ends with the process that holds it. So nothing
stays mounted, however this one ends.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import shlex
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

log = logging.getLogger(f"copse.{__name__}")

PAGE = 4096  # bytes that the smallest file takes in memory
TRACE = 4  # pages of a trace
HOLDER = ("unshare", "--mount", "--propagation", "private", "sh")


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
    with _disk(folder, limits) as disk:
        if disk is None:
            log.warning("no disk can be mounted here (that takes root): this ordeal is left out")
            return
        faults = ended(start(command, folder, disk.enter), (1,))
        yield Trial([*faults, *missing_traces(scene, disk.seen)], noticed=not faults)
        disk.mount("remount,size=64m,nr_inodes=10000")
        faults = ended(start(command, folder, disk.enter), (0, 1))
        yield Trial([*faults, *same_as_undisturbed(scene, disk.seen)])


class Disk:
    """A disk in memory at `folder`, for those who `enter` its namespace.

    holder  a shell in the namespace: it does what it reads, and ends when nobody can write any more
    seen    the same folder for those outside
    """

    def __init__(self, folder: Path, holder: subprocess.Popen[str]):
        self._folder = folder
        self._holder = holder
        self.seen = Path(f"/proc/{holder.pid}/root{folder}")

    def mount(self, options: str) -> bool:
        """Whether it could be mounted so."""
        assert self._holder.stdin is not None and self._holder.stdout is not None
        command = shlex.join(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self._folder)])
        try:
            self._holder.stdin.write(f"{command} >&2 && echo mounted || echo no\n")
            self._holder.stdin.flush()
        except OSError:  # no namespace could be made, and so the holder has ended
            return False
        return self._holder.stdout.readline() == "mounted\n"

    def enter(self) -> None:
        """Put this process, which has one thread, into the namespace and the folder."""
        libc = ctypes.CDLL(None, use_errno=True)
        namespace = os.open(f"/proc/{self._holder.pid}/ns/mnt", os.O_RDONLY)
        if libc.setns(namespace, 0):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(namespace)
        os.chdir(self._folder)


@contextmanager
def _disk(folder: Path, limits: str) -> Iterator[Disk | None]:
    """A disk in memory for the block; None where none can be mounted."""
    folder.mkdir(parents=True)
    pipe = subprocess.PIPE
    try:
        holder = subprocess.Popen(
            HOLDER, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )
    except OSError:
        yield None
        return
    with holder:  # its pipes are closed at the end, and so it ends
        disk = Disk(folder.resolve(), holder)
        yield disk if disk.mount(limits) else None
