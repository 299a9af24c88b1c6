"""Engines side by side: one living process each, in a Python of its own and on one core;
searches in turn, medians over rounds.
"""

from __future__ import annotations

import json
import logging
import operator
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

from benchmarks.output import row as row_of
from benchmarks.output import table

log = logging.getLogger(f"copse.{__name__}")

ROOT = Path(__file__).resolve().parent.parent.parent
OURS = "benchmarks.tree.core:HashTree"
SPLIT = "benchmarks.tree.core:HashTreeSplit"
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)
ONE_THREAD["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
ASKED = {
    "B": 16,
    "A": 4,
    "S": 64,
    "K": 1,
    "c": 1.25,
    "seed": 0,
    "threads": 1,
    "least": 0.0,
    "most": 1000,
    "visits": False,
}


class Engine:
    """A child process that measures one engine.

    name    module:Class, see `benchmarks.tree.rivals`;  python: which to start;  core: the one it
            may use; None: any, and threads as it likes
    """

    def __init__(self, name: str, python: str = sys.executable, core: int | None = None):
        self.name = name
        self.core = core
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        command = [python, "-m", "benchmarks.processes.child", name]
        if core is not None:
            environment |= ONE_THREAD
            command.append(str(core))
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env=environment,
        )  # fmt: skip

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._errors.close()

    def ask(self, **asked: Any) -> dict[str, Any]:
        """What `benchmarks.processes.child.measure` says, or {"error": ...}. asked: what differs
        from `ASKED`.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({**ASKED, **asked}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            return json.loads(line)
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines() or ["-"]
        code = self._process.wait()
        return {
            "error": f"the process of {self.name} ended with {code}; the last it said: {lines[-1]}"
        }


def installed(module: str, python: str) -> bool:
    """Whether a Python finds a package; nothing is imported."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    try:
        return subprocess.run([python, "-c", code], capture_output=True).returncode == 0
    except OSError as error:
        raise ValueError(
            f"{python} does not start ({error}): give --python NAME=PATH of a Python"
        ) from error


def interleaved(
    engines: Sequence[tuple[str, Engine]],
    searches: Sequence[dict[str, int]],
    rounds: int,
    *,
    least: float = 0.1,
    slow: float = 10.0,
) -> list[dict[str, Any]]:
    """Every search by every engine in turn, `rounds` times. A row for each search and engine:
    label, the search, and medians.

    least  seconds to repeat a search for in a round;  slow: an engine that needs more seconds is
           asked once
    """
    rows = []
    for search in searches:
        first: dict[str, dict[str, Any]] = {}
        answers: dict[str, list[dict[str, Any]]] = {}
        for label, engine in engines:
            first[label] = engine.ask(**search, least=least, visits=True)
            if "error" not in first[label]:
                answers[label] = [first[label]]
        for _ in range(rounds):
            for label, engine in engines:
                if label in answers and first[label]["first"] < slow:
                    answers[label].append(engine.ask(**search, least=least))
        for label, engine in engines:
            row = _row(search, answers.get(label), first[label], engine.core is not None)
            rows.append({"engine": label, **search, **row})
            outcome = row.get("error") or f"{row['rate']:,.0f} simulations a second"
            log.info("%s %s: %s", label, search, outcome)
    return rows


def _row(
    search: dict[str, int],
    answers: list[dict[str, Any]] | None,
    first: dict[str, Any],
    pinned: bool,
) -> dict[str, Any]:
    """Medians over rounds of the medians of each. time: seconds of a search, of CPU time
    where a core is shared with others.
    """
    if answers is None:
        return {"error": first["error"]}
    # the first is cold
    later = [answer for answer in answers[1:] if "error" not in answer] or answers
    row: dict[str, Any] = {}
    medians: dict[str, list[float]] = {}
    for name in ("seconds", "cpu", "core"):
        if name in first:
            medians[name] = [statistics.median(answer[name]) for answer in later]
            row[name] = statistics.median(medians[name])
    times = medians["cpu" if pinned else "seconds"]
    row |= {
        "time": statistics.median(times),
        "time_least": min(times),
        "time_most": max(times),
        "of": len(times),
    }
    for name in ("nodes", "rounds", "leaves"):
        if name in first:
            row[name] = first[name][-1]
    for name in ("core_seconds", "replayed"):
        if name in first:
            row[f"{name}_least"] = min(chain.from_iterable(map(itemgetter(name), answers)))
    for name in ("first", "empty", "rss", "bytes", "visits"):
        if name in first:
            row[name] = first[name]
    row["rate"] = search["B"] * search["S"] / row["time"]
    if "core" in row:
        row["core_rate"] = row["rate"] / row["core"]
    return row


# -- tables


def done(row: dict[str, Any]) -> dict[str, Any]:
    """Raises RuntimeError if the engine of a row failed."""
    if "error" in row:
        raise RuntimeError(f"{row['engine']} failed: {row['error']}")
    return row


def compared(rows: Sequence[dict[str, Any]]) -> str:
    """Thousands of simulations a second, with those of cores alone in brackets, and how many
    times as many ours does.
    """
    searches: dict[tuple[int, int, int], dict[str, dict[str, Any]]] = {}
    for row in rows:
        searches.setdefault((row["B"], row["S"], row["A"]), {})[row["engine"]] = row
    names = list(dict.fromkeys(map(itemgetter("engine"), rows)))
    against = {title: rate for title, rate in _AGAINST.items() if set(names) & set(rate[0])}
    ratios = map("copse / {}".format, against)
    lines = [row_of(["B", "S", "A", "path", *names, *ratios])]
    same: list[bool] = []  # of each tree: are mctx's root visits ours?
    for (trees, simulations, moves), here in searches.items():
        ours = done(here["copse"])
        path = ours["nodes"] / trees / simulations
        cells = [str(trees), str(simulations), str(moves), f"{path:.1f}"]
        cells += map(_rates, map(here.__getitem__, names))
        for others, kind in against.values():
            best = max(here[name].get(kind, 0.0) for name in others if name in here)
            cells.append(f"{ours['rate'] / best:.1f}" if best > 0 else "-")
        lines.append(row_of(cells))
        theirs = here.get("mctx-muzero", {})
        if "visits" in theirs:
            same += map(operator.eq, ours["visits"], theirs["visits"])
    if not same:
        return table(lines)
    return (
        f"{table(lines)}\n\nmctx-muzero and copse have the same root visits in {sum(same)} of "
        f"{len(same)} trees."
    )


#: What ours is compared with: the best of some engines, by their whole or their core's rate.
_AGAINST = {
    "mctx": (("mctx-muzero", "mctx-gumbel"), "rate"),
    "mctx, all cores": (("mctx-muzero, all cores", "mctx-gumbel, all cores"), "rate"),
    "openspiel": (("openspiel",), "rate"),
    "openspiel core": (("openspiel",), "core_rate"),
    "lightzero": (("lightzero",), "rate"),
    "lightzero core": (("lightzero",), "core_rate"),
    "reasoners": (("reasoners",), "rate"),
}


def _rates(row: dict[str, Any]) -> str:
    if "error" in row:
        return "failed"
    core = f" ({row['core_rate'] / 1e3:,.0f})" if "core_rate" in row else ""
    digits = 1 if row["rate"] < 1e4 else 0
    return f"{row['rate'] / 1e3:,.{digits}f}{core}"
