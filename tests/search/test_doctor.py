"""`copse doctor`: it finds planted faults, names a remedy for each, and never falls itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections import namedtuple
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from command_cases import ROOT, run

import guides.engines
from models import environment, memory
from search import sandbox
from search.cli import doctor
from search.cli.doctor import Finding

WELL: dict[str, dict[str, Any]] = {
    "numpy": {"version": "2"},
    "numba": {"version": "1", "folder": "/kernels", "kept": 9},
    "pyarrow": {"version": "26"},
    "torch": {
        "version": "2.13.0", "cuda": None, "hip": None, "devices": [], "mps": False, "threads": 2,
        "cores": 2,
    },
    "transformers": {"version": "5"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def rows(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """What the libraries say, without importing them; to be changed by a test."""
    told = json.loads(json.dumps(WELL))
    monkeypatch.setattr(doctor, "_told", lambda command: (told, "SIGILL"))
    monkeypatch.setattr(doctor, "_nvidia", lambda: False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(sandbox, "missing", lambda: None)
    monkeypatch.setattr(memory, "memory_left", lambda: 8 << 30)
    room(monkeypatch, 8 << 30)
    return told


def room(monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: usage(left))


def found(name: str) -> Finding:
    """The one finding of this name."""
    (finding,) = [finding for finding in doctor.examine() if finding.name == name]
    return finding


def test_where_all_is_well_nothing_is_advised(capsys: Any) -> None:
    code, out, err = run(capsys, "doctor")
    lines = out.splitlines()
    assert (code, err, lines[-1]) == (0, "", "nothing is broken"), out
    names = ["copse", "python", "system", "packages", "extras", "builtin", "sandbox", "memory",
             "disk", *WELL, "device", "threads", "kernels"]  # fmt: skip
    assert [line.split()[0] for line in lines[:-1]] == names
    assert "torch         2.13.0, built for CPUs" in lines
    assert "threads       as many of 2 cores as suit a model" in lines
    code, out, _ = run(capsys, "doctor", "--json")
    whole = json.loads(out)
    assert code == 0 and whole["broken"] is False
    assert [finding["name"] for finding in whole["findings"]] == names
    assert whole["findings"][9] == {"name": "numpy", "value": "2", "advice": "", "broken": False}


def test_a_fault_is_an_exit_code_and_a_sentence(
    capsys: Any, monkeypatch: pytest.MonkeyPatch, rows: dict[str, Any]
) -> None:
    rows["torch"] = {"error": "OSError: libgomp.so.1:\n\x1b[31m no such file"}
    code, out, _ = run(capsys, "doctor")
    last = out.splitlines()[-1]
    assert code == 1 and last.startswith("broken: torch: importing it says OSError: libgomp.so.1:")
    assert "again with pip" in last and "\x1b" not in out and "nothing is broken" not in out
    code, out, _ = run(capsys, "doctor", "--json")
    assert code == 1 and json.loads(out)["broken"] is True


def test_mere_advice_is_no_fault(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "missing", lambda: "bubblewrap is not installed: install it")
    code, out, _ = run(capsys, "doctor")
    *_, advice, last = out.splitlines()
    assert code == 0 and last == "nothing is broken"
    assert advice.startswith("advice: sandbox: bubblewrap is not installed: install it")


def test_a_library_that_ends_the_process(rows: dict[str, Any]) -> None:
    del rows["pyarrow"], rows["torch"], rows["transformers"]
    finding = found("pyarrow")
    assert finding.broken and "SIGILL" in finding.value and "the others" in finding.advice
    names = [finding.name for finding in doctor.examine()]
    assert "torch" not in names and "device" not in names and "kernels" in names


@pytest.mark.parametrize(
    ("torch", "nvidia", "value", "advice"),
    [
        ({}, False, "cpu", ""),
        ({"mps": True}, False, "mps, cpu", ""),
        ({}, True, "cpu", "torch is built for CPUs"),
        ({"cuda": "13.0"}, True, "cpu", "update its driver"),
        ({"cuda": "13.0"}, False, "cpu", ""),
    ],
)
def test_a_gpu_that_torch_does_not_use(
    rows: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    torch: dict[str, Any],
    nvidia: bool,
    value: str,
    advice: str,
) -> None:
    monkeypatch.setattr(doctor, "_nvidia", lambda: nvidia)
    rows["torch"].update(torch)
    finding = found("device")
    assert finding.value == value and not finding.broken
    assert advice in finding.advice and bool(advice) == bool(finding.advice)


@pytest.mark.parametrize("kernels", [True, False])
def test_gpus_and_their_kernels(rows: dict[str, Any], kernels: bool) -> None:
    gpu = {"name": "H200", "free": 3 << 29, "whole": 140 << 30, "kernels": kernels}
    rows["torch"].update(cuda="12.8", devices=[gpu])
    assert found("torch").value == "2.13.0, built for CUDA 12.8"
    finding = found("device")
    assert finding.value == "H200 (1.5 GiB of 140.0 GiB free)"
    assert ("triton" in finding.advice) is not kernels


@pytest.mark.parametrize(
    ("wish", "advice"),
    [("1", ""), ("2", ""), ("3", "unset it"), ("0", "give one"), ("many", "give one")],
)
def test_threads(monkeypatch: pytest.MonkeyPatch, wish: str, advice: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", wish)
    finding = found("threads")
    assert f"OMP_NUM_THREADS={wish}" in finding.value and "2 cores" in finding.value
    assert advice in finding.advice and bool(advice) == bool(finding.advice)


def test_kernels_that_cannot_be_kept(rows: dict[str, Any]) -> None:
    assert found("kernels").value == "9 compiled in /kernels"
    rows["numba"]["kept"] = 0
    assert "ten seconds" in found("kernels").value and not found("kernels").advice
    rows["numba"]["folder"] = None
    assert "NUMBA_CACHE_DIR" in found("kernels").advice and not found("kernels").broken


def test_kernels_of_other_versions_do_not_count(tmp_path: Path) -> None:
    kernel_cache = pytest.importorskip("search.kernels.kernel_cache")
    for folder, count in (("search_tree", 3), ("models_engine", 2), ("search_methods", 0)):
        version = kernel_cache._version(folder.partition("_")[0])
        for name in (f"{folder}-{version}", f"{folder}-{'0' * 16}"):
            (tmp_path / name).mkdir()
            for number in range(count):
                (tmp_path / name / f"f{number}.nbc").touch()
                (tmp_path / name / f"f{number}.nbi").touch()
    assert kernel_cache.kept(tmp_path) == 5


def test_memory_and_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_left", lambda: 1 << 29)
    assert found("memory").value == "0.5 GiB free" and "programs" in found("memory").advice
    for left, broken in ((1 << 29, False), (1 << 20, True)):
        room(monkeypatch, left)
        findings = [finding for finding in doctor.examine() if finding.name == "disk"]
        assert all("make room" in finding.advice for finding in findings)
        assert {finding.broken for finding in findings} == {broken}


def test_a_damaged_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = tmp_path / "builtin"
    shutil.copytree(ROOT / "models" / "builtin", copy)
    monkeypatch.setattr(guides.engines, "locate", lambda name: str(copy))
    assert not found("builtin").broken
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    assert found("builtin").broken and "SHA-256" in found("builtin").advice
    (copy / "SHA256SUMS").unlink()
    assert found("builtin").broken and "has no SHA256SUMS" in found("builtin").advice
    weights.unlink()
    (copy / "value_head.safetensors").unlink()
    assert found("builtin").broken and "holds no weights" in found("builtin").advice


# -- packages

NEEDS = [
    "numpy<3,>=2.2",
    'nowhere>=1; platform_system == "Plan9"',
    'peft>=0.18; extra == "train"',
    'matplotlib>=3; extra == "bench"',
    'copse-search[bench,train]; extra == "all"',
]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The versions of what is installed, to be changed by a test; libraries are not asked."""
    monkeypatch.delitem(doctor.PROBES, "libraries")
    versions = {"numpy": "2.4", "peft": "0.20", "matplotlib": "3.11"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    class Metadata:
        def get_all(self, name: str) -> list[str]:
            return ["train", "bench", "all"]

    monkeypatch.setattr(metadata, "requires", lambda name: NEEDS)
    monkeypatch.setattr(metadata, "metadata", lambda name: Metadata())
    monkeypatch.setattr(metadata, "version", version)
    return versions


def test_packages_are_those_of_the_metadata(installed: dict[str, str]) -> None:
    assert found("packages").value == "1 of 1 are as Copse needs them"
    assert found("extras").value == "train, bench, all"
    installed["numpy"] = "1.26"
    assert found("numpy").broken and "1.26 is installed" in found("numpy").advice
    del installed["numpy"]
    assert found("numpy").broken and "numpy is not installed" in found("numpy").advice
    assert found("packages").value.startswith("0 of 1")
    assert found("extras").value == "train, bench, all", "what all need is no part of an extra"


def test_extras_that_lack_something(installed: dict[str, str]) -> None:
    del installed["matplotlib"]
    assert found("extras").value == "train; not installed: bench, all"
    installed["peft"] = "0.1"
    assert found("extras").value == "none; not installed: train, bench, all"
    advice = found("[train]")
    assert not advice.broken and "peft 0.1 is installed, and it must be >=0.18" in advice.advice


def test_from_its_folder_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    finding = found("packages")
    assert "is not installed" in finding.value and not finding.broken


# -- it never falls


@pytest.mark.parametrize("name", sorted(doctor.PROBES))
def test_a_probe_that_fails_is_a_finding(
    capsys: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fails() -> Iterator[Finding]:
        yield Finding("before", "x")
        raise RuntimeError("no\nsuch thing")

    monkeypatch.setitem(doctor.PROBES, name, fails)
    code, out, err = run(capsys, "doctor")
    assert code == 0 and err == "" and "before        x\n" in out
    assert f"{name:<13} could not be looked at (RuntimeError: no such thing)\n" in out
    assert f"advice: {name}: report this" in out


@pytest.mark.parametrize(
    ("code", "told", "ended"),
    [
        ('print(\'{"library": "a", "x": 1}\'); print(\'hello\')', {"a"}, "exit code 0"),
        ("import sys; sys.exit('cut\\noff')", set(), "exit code 1: off"),
        ("import os; os.kill(os.getpid(), 11)", set(), "SIGSEGV"),
        (
            'import time; print(\'{"library": "b"}\', flush=True); time.sleep(60)',
            {"b"},
            "no reply within 3 seconds",
        ),
    ],
)
def test_how_a_process_ended(
    monkeypatch: pytest.MonkeyPatch, code: str, told: set[str], ended: str
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(doctor, "SECONDS", 3)
    rows, how = doctor._told([sys.executable, "-c", code])
    assert set(rows) == told and how == ended


def test_a_library_that_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(environment.LIBRARIES, "no_such_library", lambda module: {})
    row = environment.look("no_such_library")
    assert row["library"] == "no_such_library"
    assert row["error"].startswith("ModuleNotFoundError: No module named")


@pytest.mark.thorough
def test_the_real_thing_with_a_library_that_is_broken(tmp_path: Path) -> None:
    """In a process of its own, before whose transformers another one stands; kernels can be kept
    nowhere but in a folder that nobody has used.
    """
    (tmp_path / "transformers.py").write_text("raise ImportError('tokenizers is too old')\n")
    kept = tmp_path / "kept"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "search.cli.main", "doctor", "--json"],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
            "NUMBA_CACHE_DIR": str(kept),
        },
        cwd=tmp_path, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1 and done.stderr == "", textwrap.shorten(done.stderr, 500)
    assert "ImportError: tokenizers is too old" in found["transformers"]["advice"]
    assert not found["torch"]["broken"] and found["device"]["value"]
    assert found["kernels"]["value"].startswith(f"0 compiled in {kept}")
