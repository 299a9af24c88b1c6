"""Runs that are killed (SIGKILL) at random moments and started again until they end."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.processes.ordeals.runs import (
    PATIENCE,
    Scene,
    Trial,
    cells,
    ended,
    missing_traces,
    same_as_undisturbed,
    start,
    to,
    whole_lines,
)

Sentences = Callable[[], Iterator[str]]


def kill_solve(scene: Scene) -> Iterator[Trial]:
    """`copse solve --input` with traces."""
    folder = scene.folder / "killed"
    command = [*scene.solve, *to("o", "t")]
    yield from _killed(
        scene,
        command,
        folder,
        folder / "o",
        lambda: missing_traces(scene, folder),
        lambda: same_as_undisturbed(scene, folder),
    )


def kill_bench(scene: Scene) -> Iterator[Trial]:
    """`copse bench`."""
    folder = scene.folder / "killed-bench"

    def same() -> Iterator[str]:
        wanted = cells(scene.benched)
        found = cells(folder)
        lines = len(whole_lines(folder / "b" / "results.csv")) - 1
        if lines != len(wanted):
            yield f"{lines} rows for {len(wanted)} searches"
        other = [name for name in wanted if wanted[name] != found.get(name)]
        if other:
            yield f"{len(other)} rows are lost or other ones, the first of {other[0]}"

    command = [*scene.bench, "--out", "b"]
    yield from _killed(scene, command, folder, folder / "b" / "results.csv", lambda: iter(()), same)


def _killed(
    scene: Scene,
    command: Sequence[str],
    folder: Path,
    output: Path,
    each: Sentences,
    last: Sentences,
) -> Iterator[Trial]:
    """A trial for each kill, and one for the run that ends.

    each  faults after every kill;  last: faults in the end
    """
    before: list[bytes] = []
    for _ in range(scene.kills):
        process = start(command, folder)
        _wait(process, output, len(before), scene)
        running = process.poll() is None
        process.kill()
        _, said = process.communicate()
        if not running:
            break
        lines = whole_lines(output)
        faults = [*_kept(before, lines), *each()]
        before = lines
        yield Trial(faults)
    faults = ended(start(command, folder), (0, 1))
    yield Trial([*faults, *_kept(before, whole_lines(output)), *last()])


def _kept(before: Sequence[bytes], lines: Sequence[bytes]) -> Iterator[str]:
    """A sentence where lines that were there are not there as they were."""
    if list(lines[: len(before)]) != list(before):
        yield f"some of {len(before)} lines that had been written are gone or other ones"


def _wait(process: subprocess.Popen[str], output: Path, lines: int, scene: Scene) -> None:
    """Wait for a moment at random: at so many new lines and a little more."""
    rng: np.random.Generator = scene.rng
    wanted = lines + int(rng.integers(1, max(2, scene.count // 2)))
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        if len(whole_lines(output)) >= wanted:
            break
        time.sleep(0.002)
    time.sleep(float(rng.random()) * 0.05)
