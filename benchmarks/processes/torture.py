"""Runs under torture: killed, on full disks, with damaged files, with evil servers; and a table of
what held.

    python -m benchmarks.processes.torture --rounds 3 --seed 0 --out torture.csv

Each ordeal does something to a run at random moments and places, lets it go on, and compares what
it leaves with an undisturbed run. The exit code is 1 where anything did not hold. Searches are with
the built-in model, or behind a server of this module's own; nothing outside this machine is asked.

Columns: tried (kills, runs on a full disk, damages, runs with an outage, and the runs that go on
after them), held, noticed (the run said what was wrong or did again what was lost; the rest had no
effect), unseen (something reads otherwise than it was written and nothing says so), seconds on the
clock, the first thing that did not hold.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.output import row as row_of
from benchmarks.output import table, write_csv
from benchmarks.processes.ordeals import damages, disks, kills, outages
from benchmarks.processes.ordeals.runs import Scene, Trial
from benchmarks.processes.watch import Watch

log = logging.getLogger(f"copse.{__name__}")

Ordeal = Callable[[Scene], Iterator[Trial]]

_TALKATIVE = ("copse.search.trace", "copse.search.files.jsonl")  # of every file that is damaged


class Kind(StrEnum):
    """What is done to a run."""

    KILL = "kill"
    DISK = "disk"
    DAMAGE = "damage"
    SERVER = "server"


ORDEALS: dict[Kind, dict[str, Ordeal]] = {
    Kind.KILL: {"solve": kills.kill_solve, "bench": kills.kill_bench},
    Kind.DISK: {
        "no room": disks.full_disk,
        "no inodes": disks.no_inodes,
        "a limit on files": disks.short_files,
    },
    Kind.DAMAGE: {
        "result lines": damages.result_lines,
        "traces": damages.traces,
        "weights": damages.weights,
        "kernels, cut": damages.kernels,
    },
    Kind.SERVER: {**outages.OUTAGES, "bench, the server dies": outages.bench_outage},
}


@dataclass
class Record:
    """What became of one ordeal in all rounds; a row of the table."""

    kind: str
    ordeal: str
    tried: int = 0
    held: int = 0
    noticed: int = 0
    unseen: int = 0
    seconds: float = 0.0
    first: str = ""

    def add(self, trial: Trial) -> None:
        """Count a trial."""
        self.tried += 1
        self.held += not trial.faults
        self.noticed += trial.noticed
        self.unseen += trial.unseen
        if trial.faults and not self.first:
            self.first = trial.faults[0]


def tortured(
    seed: int,
    rounds: int,
    scene: Callable[[Path, np.random.Generator], Scene],
    only: Sequence[Kind],
) -> list[Record]:
    """Every ordeal of some kinds, `rounds` times each, a scene a round.

    scene  makes one in an empty folder
    """
    records = {}
    for kind in only:
        for name in ORDEALS[kind]:
            records[kind, name] = Record(kind.value, name)
    for number in range(rounds):
        rng = np.random.default_rng([seed, number])
        with tempfile.TemporaryDirectory() as folder:
            here = scene(Path(folder), rng)
            for (kind, name), record in records.items():
                watch = Watch()
                for trial in ORDEALS[kind][name](here):
                    record.add(trial)
                record.seconds += watch.read()["seconds"]
                log.info(
                    "round %d, %s, %s: %d of %d held", number, kind, name, record.held, record.tried
                )
    return list(records.values())


def lines(records: Sequence[Record]) -> list[str]:
    """A table's lines, an ordeal each."""
    head = ["kind", "ordeal", "tried", "held", "noticed", "unseen", "s", "first that did not hold"]
    rendered = [row_of(head)]
    for one in records:
        counts = [one.tried, one.held, one.noticed, one.unseen, round(one.seconds)]
        rendered.append(row_of([one.kind, one.ordeal, *map(str, counts), one.first or "-"]))
    return rendered


def main(
    seed: Annotated[int, typer.Option(min=0, help="Of all moments and places.")] = 0,
    rounds: Annotated[int, typer.Option(min=1, help="Of each ordeal.")] = 1,
    only: Annotated[
        list[Kind] | None, typer.Option(help="A kind of ordeal; can be repeated. Default: all.")
    ] = None,
    problems: Annotated[int, typer.Option(min=6, help="Of each run.")] = 24,
    kills: Annotated[int, typer.Option(min=1, help="Of a run, in each round.")] = 4,
    damages: Annotated[int, typer.Option(min=1, help="Of each kind of file, in a round.")] = 50,
    out: Annotated[Path | None, typer.Option(help="CSV of the table.")] = None,
) -> None:
    """Torture runs and print a table of what held; the exit code is 1 where something did not."""

    def scene(folder: Path, rng: np.random.Generator) -> Scene:
        return Scene(folder, rng, problems, kills, damages)

    records = tortured(seed, rounds, scene, only or list(Kind))
    typer.echo(table(lines(records)))
    if out is not None:
        write_csv(out, records)
    if sum(map(attrgetter("held"), records)) < sum(map(attrgetter("tried"), records)):
        raise typer.Exit(1)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    typer.run(main)
