"""Engines side by side: one living process each, in a Python of its own and on one core;
searches in turn, medians over rounds.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent.parent
OURS, SPLIT = "benchmarks.tree.core:HashTree", "benchmarks.tree.core:HashTreeSplit"
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
        self.name, self.core = name, core
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            **(ONE_THREAD if core is not None else {}),
            "PYTHONPATH": os.pathsep.join(paths),
        }
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.processes.child", name,
            *([] if core is None else [str(core)])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
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
        said = self._errors.read().strip().splitlines()
        return {
            "error": f"the process of {self.name} ended with {self._process.wait()}; the last it "
            "said: "
            f"{said[-1] if said else '-'}"
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
        first = {label: engine.ask(**search, least=least, visits=True) for label, engine in engines}
        answers = {label: [answer] for label, answer in first.items() if "error" not in answer}
        for _ in range(rounds):
            for label, engine in engines:
                if label in answers and first[label]["first"] < slow:
                    answers[label].append(engine.ask(**search, least=least))
        for label, engine in engines:
            row = _row(search, answers.get(label), first[label], engine.core is not None)
            rows.append({"engine": label, **search, **row})
            log.info(
                "%s %s: %s",
                label,
                search,
                row.get("error") or f"{row['rate']:,.0f} simulations a second",
            )
    return rows


def _row(
    search: dict[str, int],
    answers: list[dict[str, Any]] | None,
    first: dict[str, Any],
    pinned: bool,
) -> dict[str, Any]:
    """Medians over rounds of the medians of each. time: seconds of a search, of processor time
    where a core is shared with others.
    """
    if answers is None:
        return {"error": first["error"]}
    # the first is cold
    later = [answer for answer in answers[1:] if "error" not in answer] or answers
    medians = {
        name: [statistics.median(answer[name]) for answer in later]
        for name in ("seconds", "cpu", "core")
        if name in first
    }
    row: dict[str, Any] = {name: statistics.median(values) for name, values in medians.items()}
    times = medians["cpu" if pinned else "seconds"]
    row |= {
        "time": statistics.median(times),
        "time_least": min(times),
        "time_most": max(times),
        "of": len(times),
    }
    row |= {name: first[name][-1] for name in ("nodes", "rounds", "leaves") if name in first}
    row |= {
        f"{name}_least": min(min(one[name]) for one in answers)
        for name in ("core_seconds", "replayed")
        if name in first
    }
    row |= {
        name: first[name] for name in ("first", "empty", "rss", "bytes", "visits") if name in first
    }
    row["rate"] = search["B"] * search["S"] / row["time"]
    if "core" in row:
        row["core_rate"] = row["rate"] / row["core"]
    return row


# -- tables


def table(lines: Sequence[str]) -> str:
    """Markdown, of its rows; the first is the head."""
    return "\n".join([lines[0], "|---" * (lines[0].count("|") - 1) + "|", *lines[1:]])


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
    names = list(dict.fromkeys(row["engine"] for row in rows))
    against = {title: rate for title, rate in _AGAINST.items() if set(names) & set(rate[0])}
    lines = [
        "| "
        + " | ".join(["B", "S", "A", "path", *names, *(f"copse / {title}" for title in against)])
        + " |"
    ]
    same = []
    for (trees, simulations, moves), here in searches.items():
        ours = done(here["copse"])
        cells = [
            f"{trees}",
            f"{simulations}",
            f"{moves}",
            f"{ours['nodes'] / trees / simulations:.1f}",
            *(_rates(here[name]) for name in names),
        ]
        for others, kind in against.values():
            best = max(here[name].get(kind, 0.0) for name in others if name in here)
            cells.append(f"{ours['rate'] / best:.1f}" if best > 0 else "-")
        lines.append("| " + " | ".join(cells) + " |")
        if "visits" in here.get("mctx-muzero", {}):
            same += [
                one == other
                for one, other in zip(ours["visits"], here["mctx-muzero"]["visits"], strict=True)
            ]
    note = (
        (
            f"\n\nmctx-muzero and copse have the same root visits in {sum(same)} of {len(same)} "
            "trees."
        )
        if same
        else ""
    )
    return f"{table(lines)}{note}"


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
    return (
        f"{row['rate'] / 1e3:,.1f}{core}"
        if row["rate"] < 1e4
        else f"{row['rate'] / 1e3:,.0f}{core}"
    )
