"""Searches on a Ray cluster: what comes back is what a run here finds, also where a worker dies."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

import search
from search.cli.main import main

PUZZLES = [f"Use {a}, {b}, 3 and 5 to make 24." for a in range(1, 9) for b in range(a, 9)]


def lines(path):
    return {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}


def told(row):
    """What of a result does not depend on what else the engine did."""
    return row["answer"], row["text"], row["stopped"], row["usage"]["generated"]


def trees(folder):
    found = {}
    for trace in search.Trace.load(folder):
        steps = [step.text for step in trace.steps]
        found[json.dumps(trace.arguments)] = (steps, trace.edge_visits.tolist())
    return found


def workers():
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::MapWorker"):
                found.append(int(path.parent.name))
        except OSError:
            pass
    return found


@pytest.mark.slow
def test_ray_finds_what_one_machine_finds_though_a_worker_is_killed(tmp_path):
    ray = pytest.importorskip("ray")
    problems = tmp_path / "p.jsonl"
    problems.write_text("".join(json.dumps({"problem": one}) + "\n" for one in PUZZLES))
    common = ["solve", "--input", str(problems), "--budget", "tokens=300", "--output"]
    here = [*common, str(tmp_path / "here.jsonl"), "--traces", str(tmp_path / "here")]
    there = [*common, str(tmp_path / "there.jsonl"), "--traces", str(tmp_path / "there")]
    main(here)
    killed = []

    def kill():
        until = time.monotonic() + 300
        path = tmp_path / "there.jsonl"
        seen = None
        while time.monotonic() < until and not killed:
            time.sleep(0.2)
            found = workers()
            if not found:
                continue
            seen = seen or time.monotonic()
            begun = path.exists() and path.read_text().count("\n") >= 2
            if begun or time.monotonic() > seen + 30:
                killed.append(found[0])
                os.kill(found[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        main([*there, "--ray", "2"])
    finally:
        ray.shutdown()
        killer.join()
    assert killed, "no worker was there to be killed"
    first, second = lines(tmp_path / "here.jsonl"), lines(tmp_path / "there.jsonl")
    text = (tmp_path / "there.jsonl").read_text()
    assert text.count("\n") == len(PUZZLES) == len(second), "nothing twice, nothing lost"
    assert {name: told(row) for name, row in second.items()} == {
        name: told(row) for name, row in first.items()
    }
    assert trees(tmp_path / "there") == trees(tmp_path / "here")


def test_what_ray_cannot_do_is_refused(tmp_path, capsys):
    problems = tmp_path / "p.jsonl"
    problems.write_text(json.dumps({"problem": PUZZLES[0]}) + "\n")
    for words in (
        [PUZZLES[0]],
        ["--input", str(problems), "--time-limit", "5"],
        ["--input", str(problems), "--usage"],
    ):
        assert main(["solve", *words, "--ray", "2"]) == 2
        assert "--ray searches a file" in capsys.readouterr().err


def test_without_ray_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    problems = tmp_path / "p.jsonl"
    problems.write_text(json.dumps({"problem": PUZZLES[0]}) + "\n")
    assert main(["solve", "--input", str(problems), "--ray", "2"]) == 2
    assert "copse-search[ray]" in capsys.readouterr().err
