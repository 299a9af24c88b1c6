"""Runs of `copse` in processes of their own, what they leave in a folder, and the record of an
ordeal.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes.interleave import ONE_THREAD, ROOT
from search import Trace
from search.files.jsonl import SUM

OFFLINE = {"HF_HUB_OFFLINE": "1"}  # no model of a server is looked for on the hub
PATIENCE = 300.0  #: seconds after which a run counts as one that does not end
BUDGET = "tokens=150"  #: of each search with the built-in model
_TIMES = ("seconds", "rows")  # columns of `copse bench` that differ from run to run
_SEARCH = ("problem", "method", "budget", "seed")  # its columns that name a search


@dataclass(frozen=True)
class Trial:
    """One kill, full disk, damage or outage. faults: what did not hold afterwards, a sentence each;
    noticed: the run said what was wrong, or did again what was lost; unseen: something reads
    otherwise than it was written, and nothing says so.
    """

    faults: Sequence[str] = ()
    noticed: bool = False
    unseen: bool = False


@dataclass
class Scene:
    """A folder with problems, and the undisturbed runs with which others are compared, each made
    when it is first asked for.

    count  problems;  kills: of a run that is killed again and again;  damages: of each kind of file
    """

    folder: Path
    rng: np.random.Generator
    count: int
    kills: int
    damages: int

    def __post_init__(self) -> None:
        rows = [
            {"id": f"n{number}", "problem": statement, "target": "24"}
            for number, statement in enumerate(map(self._statement, range(self.count)))
        ]
        write_lines(self.folder / "p.jsonl", rows)

    def _statement(self, _: int) -> str:
        a, b, c, d = self.rng.integers(1, 14, 4).tolist()
        return f"Use {a}, {b}, {c} and {d} to make 24."

    @property
    def solve(self) -> list[str]:
        """The command that solves the problems; `place` says where to."""
        return ["solve", "--input", str(self.folder / "p.jsonl"), "--budget", BUDGET]

    @property
    def bench(self) -> list[str]:
        """The command that measures two methods on the problems."""
        asked = ["--methods", "sample,mcts", "--budgets", f"{BUDGET},75"]
        return ["bench", "--input", str(self.folder / "p.jsonl"), *asked]

    @cached_property
    def solved(self) -> Path:
        """The folder of an undisturbed `solve`: lines `o`, traces `t`."""
        return undisturbed([*self.solve, *to("o", "t")], self.folder / "solved")

    @cached_property
    def benched(self) -> Path:
        """The folder of an undisturbed `bench`, with its results in `b`."""
        return undisturbed([*self.bench, "--out", "b"], self.folder / "benched")


def to(lines: str, traces: str) -> list[str]:
    """Where a `solve` writes."""
    return ["--output", lines, "--traces", traces]


# -- processes


def start(
    command: Sequence[str], folder: Path, before: Callable[[], object] | None = None, **names: str
) -> subprocess.Popen[str]:
    """A run of `copse` with `folder` as its working folder, which is made.

    before  called in the child before it begins;  names: of its environment
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **ONE_THREAD, **OFFLINE, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(
        [sys.executable, "-m", "search.cli.main", *command], cwd=folder, text=True,
        env=environment | names,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=before,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], good: Sequence[int]) -> list[str]:
    """Wait for the end of a run; what is wrong with it. good: the exit codes that it may have."""
    try:
        _, said = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return [f"it did not end within {PATIENCE:g} s"]
    last = (said.strip().splitlines() or ["nothing"])[-1]
    if "Traceback" in said:
        return [f"a traceback instead of a sentence: {last}"]
    if process.returncode not in good:
        return [f"it ended with {process.returncode}: {last}"]
    return []


def undisturbed(command: Sequence[str], folder: Path) -> Path:
    """Run a command to its end. Raises RuntimeError where that fails without any ordeal."""
    faults = ended(start(command, folder), (0, 1))
    if faults:
        raise RuntimeError(f"copse {command[0]} fails without an ordeal: {faults[0]}")
    return folder


# -- what a run leaves


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file that end in a newline; none where there is no file."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """id -> what an undisturbed run says as well: the result without times, shared passes and the
    checksum of both. Of a problem with several lines the last one counts.
    """
    found = {}
    for line in whole_lines(folder / "o"):
        row = json.loads(line)
        row["usage"] = row["usage"]["generated"]
        del row[SUM]
        found[row["id"]] = row
    return found


def cells(folder: Path) -> dict[str, dict[str, str]]:
    """Search -> its row of `copse bench` but for what differs from run to run."""
    found = {}
    with (folder / "b" / "results.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            name = " ".join(map(row.__getitem__, _SEARCH))
            found[name] = {column: row[column] for column in row if column not in _TIMES}
    return found


def trees(folder: Path) -> dict[int, Any]:
    """Seed of the search, which each problem has of its own -> the steps of its trace."""
    there = (folder / "t").exists()
    return {trace.seed: trace.steps for trace in Trace.load(folder / "t")} if there else {}


def missing_traces(scene: Scene, folder: Path) -> Iterator[str]:
    """A sentence where there are more result lines than traces."""
    lines = len(set(results(folder)))
    traces = len(trees(folder))
    if traces < lines:
        yield f"{lines} results, and traces of {traces} of them"


def same_as_undisturbed(scene: Scene, folder: Path) -> Iterator[str]:
    """Sentences on all in which a `solve` that was disturbed and ended is not the undisturbed
    one.
    """
    wanted = results(scene.solved)
    found = results(folder)
    lines = len(whole_lines(folder / "o"))
    if lines != len(wanted):
        yield f"{lines} result lines for {len(wanted)} problems"
    if found != wanted:
        other = [name for name in wanted if wanted[name] != found.get(name)]
        yield f"{len(other)} results are lost or other ones, the first of {other[0]}"
    if trees(folder) != trees(scene.solved):
        yield "the traces are not those of the undisturbed run"
