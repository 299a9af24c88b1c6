"""The command `copse doctor`: what is installed, what this machine has, what is wrong with it, and
what to do about that.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search import child
from search.cli.terminal import say
from search.imports import import_ours
from search.plain_text import one_line

if TYPE_CHECKING:
    from packaging.requirements import Requirement

NAME = "copse-search"  #: of the distribution
BROKEN = 1  #: the exit code where something is
SECONDS = 120  #: in which all libraries must have been imported
LITTLE_MEMORY = 1 << 30  #: bytes; below it there is advice
LITTLE_DISK = 1 << 30
FULL_DISK = 1 << 26  #: below it no results can be expected to be written
_AGAIN = f"install {NAME} again with pip, into an environment of its own"


@dataclass(frozen=True)
class Finding:
    """What was found out about one thing.

    value   what is there, in words;  advice: what to do about it, "" where all is well
    broken  Copse does not work like this; False with advice: it does, but not as well as it could
    """

    name: str
    value: str
    advice: str = ""
    broken: bool = False


def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of text.")
    ] = False,
) -> None:
    """Look at the installation and the machine, and say what is wrong. Exit code 1: something is
    broken.
    """
    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            say(f"{finding.name:<13} {one_line(finding.value)}")
    broken = any(finding.broken for finding in findings)
    if as_json:
        say(json.dumps({"broken": broken, "findings": list(map(asdict, findings))}))
    else:
        for finding in findings:
            if finding.advice:
                grade = "broken" if finding.broken else "advice"
                say(f"{grade}: {finding.name}: {one_line(finding.advice)}")
        if not broken:
            say("nothing is broken")
    raise typer.Exit(BROKEN if broken else 0)


def examine() -> Iterator[Finding]:
    """All findings, each as soon as it is there. Raises nothing: a probe that fails is a finding,
    too.
    """
    for name, probe in PROBES.items():
        try:
            yield from probe()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            yield Finding(
                name, f"could not be looked at ({reason})", "report this: it is a fault of doctor's"
            )


def _system() -> Iterator[Finding]:
    from search import __version__

    yield Finding("copse", f"{__version__} in {Path(__file__).resolve().parents[2]}")
    yield Finding("python", f"{platform.python_version()} ({sys.executable})")
    yield Finding("system", f"{platform.platform()}, {os.cpu_count()} processors")


# -- packages


def _packages() -> Iterator[Finding]:
    """What Copse always needs, in the words of its metadata."""
    needed = _required("")
    if needed is None:
        yield Finding("packages", f"{NAME} is not installed, it runs from its folder", _AGAIN)
        return
    wrong = 0
    for requirement in needed:
        lack = _lack(requirement)
        if lack:
            wrong += 1
            yield Finding(requirement.name, lack, f"{lack}: {_AGAIN}", broken=True)
    yield Finding("packages", f"{len(needed) - wrong} of {len(needed)} are as Copse needs them")


def _extras() -> Iterator[Finding]:
    """Which extras are whole. One of which nothing was asked for is no fault, a package of the
    wrong version is.
    """
    if _required("") is None:
        return
    there = []
    missing = []
    for extra in metadata.metadata(NAME).get_all("Provides-Extra") or []:
        lacks = list(filter(None, map(_lack, _required(extra) or [])))
        if lacks:
            missing.append(extra)
        else:
            there.append(extra)
        for lack in lacks:
            if not lack.endswith(_ABSENT):
                yield Finding(f"[{extra}]", lack, f"{lack}: give pip the extra [{extra}] again")
    value = ", ".join(there) or "none"
    if missing:
        value += f"; not installed: {', '.join(missing)}"
    yield Finding("extras", value)


def _required(extra: str) -> list[Requirement] | None:
    """What an extra adds on this system, those of extras within it included; of "" what is always
    needed. None where Copse is not installed.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        texts = metadata.requires(NAME) or []
    except metadata.PackageNotFoundError:
        return None
    found: list[Requirement] = []
    for requirement in map(Requirement, texts):
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        wanted = marker is None or marker.evaluate({"extra": extra})
        if not wanted or (extra and always):
            continue
        if canonicalize_name(requirement.name) != NAME:
            found.append(requirement)
            continue
        for other in sorted(requirement.extras):
            found += _required(other) or []
    return found


_ABSENT = "is not installed"


def _lack(requirement: Requirement) -> str:
    """Why a requirement is not met, "" where it is."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} {_ABSENT}"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{requirement.name} {version} is installed, and it must be {requirement.specifier}"


# -- what computes


def _libraries() -> Iterator[Finding]:
    """What the libraries say of themselves, in a process that one of them may end."""
    known = import_ours("models.environment").LIBRARIES
    told, ended = _told(child.command("models.environment"))
    for name in known:
        row = told.get(name)
        if row is None:
            yield Finding(
                name,
                f"ends the process that imports it ({ended})",
                f"importing {name} ended with {ended}: {_AGAIN}; the others were not looked at",
                broken=True,
            )
            break
        if "error" in row:
            value = f"cannot be used ({row['error']})"
            yield Finding(name, value, f"importing it says {row['error']}: {_AGAIN}", broken=True)
        else:
            yield Finding(name, f"{row['version']}{_build(row)}")
    torch = told.get("torch", {})
    if "devices" in torch:
        yield _device(torch)
        yield _threads(torch)
    numba = told.get("numba", {})
    if "folder" in numba:
        yield _kernels(numba)


def _told(command: list[str]) -> tuple[dict[str, Any], str]:
    """The rows that the process wrote by the names of their libraries, and how it ended."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS
        )
        out = done.stdout
        ended = _ended(done.returncode, done.stderr.decode(errors="replace"))
    except subprocess.TimeoutExpired as late:
        out = late.stdout or b""
        ended = f"no reply within {SECONDS} seconds"
    told = {}
    for line in out.decode(errors="replace").splitlines():
        if line.startswith('{"library": '):  # libraries may print, too
            row = json.loads(line)
            told[row["library"]] = row
    return told, ended


def _ended(code: int, err: str) -> str:
    said = err.strip().splitlines()[-1:]
    how = f"exit code {code}"
    if code < 0:
        how = signal.Signals(-code).name
    return ": ".join([how, *said])


def _build(row: dict[str, Any]) -> str:
    """What torch was built for; "" for other libraries."""
    if "cuda" not in row:
        return ""
    if row["cuda"]:
        return f", built for CUDA {row['cuda']}"
    return f", built for ROCm {row['hip']}" if row["hip"] else ", built for CPUs"


def _device(torch: dict[str, Any]) -> Finding:
    devices = torch["devices"]
    if devices:
        shown = []
        for device in devices:
            free, whole = map(_size, (device["free"], device["whole"]))
            shown.append(f"{device['name']} ({free} of {whole} free)")
        advice = ""
        if not all(device["kernels"] for device in devices):
            advice = (
                "the engine's kernels need a card of the year 2020 or later (Ampere) and the "
                "package triton: without them it computes with slower code"
            )
        return Finding("device", ", ".join(shown), advice)
    value = "mps, cpu" if torch["mps"] else "cpu"
    if not _nvidia():
        return Finding("device", value)
    if torch["cuda"]:
        reason = f"torch for CUDA {torch['cuda']} cannot use the NVIDIA GPU: update its driver"
    else:
        reason = "torch is built for CPUs, and there is an NVIDIA GPU: install torch for CUDA"
    return Finding("device", value, f"{reason}, or compute on the CPU as now")


def _nvidia() -> bool:
    """Whether this machine has the driver of an NVIDIA GPU."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def _threads(torch: dict[str, Any]) -> Finding:
    cores = torch["cores"]
    wish = os.environ.get("OMP_NUM_THREADS", "")
    if not wish:
        return Finding("threads", f"as many of {cores} cores as suit a model")
    value = f"{torch['threads']} by OMP_NUM_THREADS={wish}, for {cores} cores"
    if not wish.isdecimal() or int(wish) < 1:
        told = f"OMP_NUM_THREADS={wish} is no number of threads: unset it, or give one"
        return Finding("threads", value, told)
    if int(wish) > cores:
        return Finding(
            "threads",
            value,
            f"OMP_NUM_THREADS={wish} threads wait for one another on {cores} cores: unset it, and "
            "each model takes what suits it",
        )
    return Finding("threads", value)


def _kernels(numba: dict[str, Any]) -> Finding:
    if numba["folder"] is None:
        return Finding(
            "kernels",
            "cannot be kept",
            "each process compiles its kernels anew, for some ten seconds: set NUMBA_CACHE_DIR to "
            "a folder that you can write",
        )
    value = f"{numba['kept']} compiled in {numba['folder']}"
    if not numba["kept"]:
        value += "; the first search compiles them for some ten seconds"
    return Finding("kernels", value)


# -- what else there is


def _builtin() -> Iterator[Finding]:
    """Whether the weights are those that were written: without their sums nobody knows."""
    digests = import_ours("models.checkpoints.digests")
    folder = Path(import_ours("guides.engines").locate("builtin"))
    try:
        import_ours("models.checkpoints.checkpoint").describe(folder)
        if not (folder / digests.SUMS).exists():
            raise ValueError(f"{folder} has no {digests.SUMS}")
        digests.check_digests(folder)
    except (ValueError, OSError) as error:
        yield Finding("builtin", "damaged", f"{error}. Or {_AGAIN}", broken=True)
    else:
        yield Finding("builtin", f"its weights are as they were written, in {folder}")


def _sandbox() -> Iterator[Finding]:
    from search.sandbox import missing

    told = missing()
    if told is None:
        yield Finding("sandbox", "programs can be run in bubblewrap")
    else:
        yield Finding("sandbox", "none", f"{told}; only problems that run programs need it")


def _memory() -> Iterator[Finding]:
    left = import_ours("models.memory").memory_left()
    advice = ""
    if left < LITTLE_MEMORY:
        advice = "little memory is free: end other programs, or take a small model"
    yield Finding("memory", f"{_size(left)} free", advice)


def _disk() -> Iterator[Finding]:
    """The disk of this folder, and that of the user's own where it is another."""
    seen = set()
    for place in (Path.cwd(), Path.home()):
        device = place.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        left = shutil.disk_usage(place).free
        advice = ""
        if left < LITTLE_DISK:
            advice = f"make room in {place}: results, traces or compiled kernels are written there"
        yield Finding("disk", f"{_size(left)} free in {place}", advice, broken=left < FULL_DISK)


def _size(number: int) -> str:
    return f"{number / 2**30:,.1f} GiB"


Probe = Callable[[], Iterable[Finding]]
PROBES: dict[str, Probe] = {
    "copse": _system,
    "packages": _packages,
    "extras": _extras,
    "builtin": _builtin,
    "sandbox": _sandbox,
    "memory": _memory,
    "disk": _disk,
    "libraries": _libraries,
}
