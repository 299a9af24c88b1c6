"""Servers that fail while a run asks them: nothing is lost, and nothing counts as wrong that the
server did not answer.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.processes.ordeals.evil_server import HARMS, MODEL, QUESTION, EvilServer
from benchmarks.processes.ordeals.runs import Scene, Trial, ended, start, whole_lines, write_lines

CHAINS = 2  # that each search asks for, a request each
LIMIT = 25  # seconds that a `solve` may take in all: more than a request is asked again for
DRIPPING = 8  # seconds where nothing but this limit ends the wait

Sentences = Callable[[Path], Iterator[str]]


def _problems(scene: Scene, folder: Path) -> list[str]:
    """Write the questions; what every command says of them and of the server."""
    numbers = range(100, 100 + scene.count)
    rows = [
        {"id": f"n{number}", "problem": QUESTION.format(number), "target": str(number)}
        for number in numbers
    ]
    write_lines(folder / "p.jsonl", rows)
    return ["--input", "p.jsonl", "--guide", MODEL, "--slots", "4"]


def outage_of(harm: str) -> Callable[[Scene], Iterator[Trial]]:
    """An ordeal: `copse solve` with a server that does harm in the middle, and again when it is
    well.
    """

    def ordeal(scene: Scene) -> Iterator[Trial]:
        folder = scene.folder / f"server-{harm}"
        limit = DRIPPING if harm == "drips" else LIMIT
        asked = ["--method", "sample", "--option", f"chains={CHAINS}", "--time-limit", str(limit)]
        command = ["solve", *_problems(scene, folder), *asked, "--output", "o"]
        yield from _outage(scene, folder, command, harm, _solved)

    return ordeal


def bench_outage(scene: Scene) -> Iterator[Trial]:
    """`copse bench` with a server that dies in the middle, and again when it is back."""
    folder = scene.folder / "server-bench"
    asked = ["--methods", f"sample chains={CHAINS}", "--budgets", "tokens=500", "--out", "b"]
    command = ["bench", *_problems(scene, folder), *asked]
    yield from _outage(scene, folder, command, "dies", _benched)


def _outage(
    scene: Scene, folder: Path, command: list[str], harm: str, wrong: Sentences
) -> Iterator[Trial]:
    """A run with the harm, and one without it that goes on.

    wrong  sentences on lines that count as wrong, and on what is not done
    """
    with EvilServer() as server:
        server.turn(harm, int(scene.rng.integers(1, scene.count * CHAINS - 4)))
        harmless = harm == "nan"
        faults = ended(start([*command, "--server", server.url], folder), (0, 1, 130))
        left = list(wrong(folder))
        counted = [one for one in left if "wrong" in one or harmless]
        yield Trial([*faults, *counted], noticed=bool(left))
        server.well()
        faults = ended(start([*command, "--server", server.url], folder), (0,))
        yield Trial([*faults, *wrong(folder)])


def _solved(folder: Path) -> Iterator[str]:
    rows = {}
    for row in map(json.loads, whole_lines(folder / "o")):
        rows[row["id"]] = row
    good = [row for row in rows.values() if row["error"] is None]
    other = [row["id"] for row in good if row["answer"] != row["id"][1:]]
    if other:
        yield f"{len(other)} searches count as wrong, the first of {other[0]}"
    yield from _undone(folder, len(good))


def _benched(folder: Path) -> Iterator[str]:
    rows = {}
    path = folder / "b" / "results.csv"
    if path.exists():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                rows[row["problem"]] = row
    good = [row for row in rows.values() if row["stopped"] != "error"]
    other = [row["problem"] for row in good if row["correct"] != "1"]
    if other:
        yield f"{len(other)} searches count as wrong, the first of {other[0]}"
    yield from _undone(folder, len(good))


def _undone(folder: Path, good: int) -> Iterator[str]:
    asked = len(whole_lines(folder / "p.jsonl"))
    if good < asked:
        yield f"{asked - good} of {asked} searches are not done"


OUTAGES = {f"solve, the server {harm}": outage_of(harm) for harm in HARMS}
