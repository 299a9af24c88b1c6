"""The torture of `benchmarks.processes.torture` in short: everything holds, and what does not hold
is found.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from benchmarks.processes import torture
from benchmarks.processes.ordeals import outages, runs
from benchmarks.processes.ordeals.runs import Scene, Trial
from search.files.problems_file import Results
from search.problem import TextProblem
from search.solution import Solution


def scene(folder: Path, rng: np.random.Generator) -> Scene:
    return Scene(folder, rng, count=8, kills=1, damages=8)


thorough = pytest.mark.thorough
slow = pytest.mark.slow  # half a minute each, and other tests do the same to one command


@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param(["kill"], marks=slow),
        pytest.param(["disk", "damage"], marks=slow),  # with one undisturbed run for both
    ],
)
def test_one_round_holds(kinds: list[str]) -> None:
    records = torture.tortured(1, 1, scene, [torture.Kind(kind) for kind in kinds])
    failed = {one.ordeal: one.first for one in records if one.held < one.tried}
    assert not failed
    assert all(one.tried or one.ordeal in ("no room", "no inodes") for one in records)


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param("dies", marks=slow),
        pytest.param("drips", marks=slow),
        pytest.param("nan", marks=thorough),
    ],
)
def test_an_outage_loses_nothing(tmp_path: Path, harm: str) -> None:
    trials = list(outages.outage_of(harm)(scene(tmp_path, np.random.default_rng(1))))
    assert len(trials) == 2
    assert [one for trial in trials for one in trial.faults] == []


HOLDS = """
import sys
from pathlib import Path
from benchmarks.processes.ordeals.disks import _disk
with _disk(Path(sys.argv[1]), "size=64k") as disk:
    print("" if disk is None else disk._holder.pid, flush=True)
    sys.stdin.read()
"""


def test_no_disk_stays_mounted_when_torture_is_killed(tmp_path: Path) -> None:
    """It is mounted for a process that ends with it, and nobody else ever sees it."""
    command = [sys.executable, "-c", HOLDS, str(tmp_path / "disk")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        holder = process.stdout.readline().strip()
        there = holder and Path(f"/proc/{holder}/mounts").read_text()
        here = Path("/proc/mounts").read_text()
        process.kill()
    if not holder:
        pytest.skip("no disk can be mounted here: that takes root")
    assert str(tmp_path) in there and str(tmp_path) not in here
    until = time.monotonic() + 60
    while Path(f"/proc/{holder}/ns/mnt").exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert not Path(f"/proc/{holder}/ns/mnt").exists()
    assert list((tmp_path / "disk").iterdir()) == []


def written(path: Path, *answers: str) -> Path:
    """Result lines n0, n1, ... with these answers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    results = Results(path)
    for number, answer in enumerate(answers):
        solution = Solution(TextProblem("Why?"), answer, stopped="finished")
        results.write(f"n{number}", solution)
    results.close()
    return path


def test_lost_and_other_results_are_found(tmp_path: Path) -> None:
    """Without a run: the undisturbed one is put in."""
    here = scene(tmp_path, np.random.default_rng(0))
    here.solved = written(tmp_path / "whole" / "o", "1", "2", "3").parent
    same = written(tmp_path / "same" / "o", "1", "2", "3").parent
    lost = written(tmp_path / "lost" / "o", "1", "2").parent
    other = written(tmp_path / "other" / "o", "1", "2", "4").parent
    twice = written(tmp_path / "twice" / "o", "1", "2", "3").parent
    (twice / "o").write_bytes((twice / "o").read_bytes() * 2)
    found = [list(runs.same_as_undisturbed(here, one)) for one in (same, lost, other, twice)]
    assert found[0] == []
    assert found[1][0] == "2 result lines for 3 problems"
    assert "n2" in found[1][1] and "n2" in found[2][0]
    assert found[3] == ["6 result lines for 3 problems"]
    assert list(runs.missing_traces(here, same)) == ["3 results, and traces of 0 of them"]


def test_what_does_not_hold_ends_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [Trial(noticed=True), Trial(["it broke | here"], unseen=True), Trial(["later"])]
    only = {torture.Kind.DISK: {"made up": lambda here: iter(trials)}}
    monkeypatch.setattr(torture, "ORDEALS", only)
    app = typer.Typer()
    app.command()(torture.main)
    out = tmp_path / "t.csv"
    asked = ["--only", "disk", "--out", str(out)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 1
    assert "| disk | made up | 3 | 1 | 1 | 1 | 0 | it broke" in done.output
    assert "made up,3,1,1,1," in out.read_text()
    del trials[1:]
    assert CliRunner().invoke(app, asked).exit_code == 0
