"""The child process in which one engine is measured. Needs NumPy and what the engine needs.

    python -m benchmarks.processes.child ENGINE [CORE]

ENGINE is module:Class, or a function that makes one: something with the methods of those in
`benchmarks.tree.rivals`. A JSON object a line comes in, one goes out; see `measure`.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import time
from typing import Any

log = logging.getLogger(f"copse.{__name__}")

SEARCH = ("B", "A", "S", "K", "c", "seed", "threads")  #: what makes a search another one


def made(name: str) -> Any:
    """An engine from module:Class."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)()


def measure(engine: Any, asked: dict[str, Any], prepare: bool) -> dict[str, Any]:
    """Run a search again and again.

    asked    B, A, S, K, c, seed, threads; least: seconds to go on for at least; most: runs;
             visits: give root visits too
    prepare  it is another search than last time; the first run is then reported apart, in `first`

    The answer: what the runs reported, a list each; bytes, if the engine knows; rss, peak memory of
    the process in bytes.
    """
    result: dict[str, Any] = {"empty": _peak()}
    if prepare:
        engine.K = asked["K"]
        engine.threads = asked["threads"]
        engine.prepare(asked["B"], asked["A"], asked["S"], asked["c"], asked["seed"])
        result["first"] = engine.run()["seconds"]
    runs: list[dict[str, Any]] = []
    begin = time.perf_counter()
    while not runs or (len(runs) < asked["most"] and time.perf_counter() - begin < asked["least"]):
        runs.append(engine.run())
    for name in runs[0]:
        result[name] = [run[name] for run in runs]
    result |= {"rss": _peak(), "bytes": getattr(engine, "bytes", None)}
    if asked["visits"] and hasattr(engine, "root_visits"):
        result["visits"] = engine.root_visits().tolist()
    return result


def _peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(name: str, core: str = "") -> None:
    if core:
        os.sched_setaffinity(0, {int(core)})
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints goes with the errors
    engine = None
    last = None
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            engine = engine or made(name)
            search = [asked[key] for key in SEARCH]
            answer = measure(engine, asked, search != last)
            last = search
        except Exception as error:
            log.exception("%s", name)
            answer = {"error": f"{type(error).__name__}: {error}"[:200]}
            last = None
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
