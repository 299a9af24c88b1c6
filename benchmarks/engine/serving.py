"""What does an endpoint cost beside `solve_many`, and does it last with clients that vanish?

    python -m benchmarks.engine.serving --input puzzles.jsonl --clients 64 --out s.json

First, in turns, the same problems by `search.solve_many` and by clients of `copse serve`, both with
`--method` and `--budget`: seconds in all, and the ratio of their medians. Then for `--seconds`
clients ask one problem after another, streamed or not, and a share of them vanishes at a random
moment. Every request must be answered once, or its search be ended; the books are kept by both
sides. The result tells the seconds of an answered request (median and 99 %), the memory of the
server over time, and what does not add up. Exits 1 where anything does not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

import guides
import search
from search.child import command
from search.files.atomic import atomic
from search.files.problems_file import read_jobs

log = logging.getLogger(f"copse.{__name__}")

LONGEST = 3.0  #: seconds until a client that vanishes has gone
LOOK = 5.0  #: seconds between two looks at the memory
START = 120.0  #: seconds that a server may take until it answers
SETTLE = 30.0  #: seconds in which searches whose clients have gone must have ended


class Served:
    """A server in a process of its own; a context."""

    def __init__(self, args: argparse.Namespace):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        words = ["serve", "--guide", args.guide, "--method", args.method, "--budget", args.budget]
        words += ["--port", str(self.port), "--slots", str(args.slots)]
        self._words = [*command("search.cli.main", *words)]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Served:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(self._words, env=environment, stdout=quiet, stderr=quiet)
        until = time.monotonic() + START
        while time.monotonic() < until:
            try:
                httpx2.get(f"{self.url}/health").raise_for_status()
                return self
            except httpx2.HTTPError:
                time.sleep(0.2)
        self.process.kill()
        raise OSError("the server does not answer: start copse serve by hand to see why")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(60)

    @property
    def memory(self) -> float:
        """Resident MiB of the server."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) / 1024 if found else float("nan")

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        text = httpx2.get(f"{self.url}/metrics").text
        return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (.+)$", text, re.M)))


def body(problem: str, seed: int, stream: bool) -> dict[str, Any]:
    """A request for a chat completion."""
    return {"messages": [{"role": "user", "content": problem}], "seed": seed, "stream": stream}


async def asked_all(url: str, problems: list[str], clients: int) -> list[float]:
    """The seconds of each request, one a problem, by so many clients at once."""
    left = list(enumerate(problems))
    took: list[float] = []

    async def ask(client: httpx2.AsyncClient) -> None:
        while left:
            seed, problem = left.pop(0)
            began = time.perf_counter()
            response = await client.post("/v1/chat/completions", json=body(problem, seed, False))
            response.raise_for_status()
            took.append(time.perf_counter() - began)

    async with httpx2.AsyncClient(base_url=url, timeout=None) as client:
        await asyncio.gather(*map(ask, [client] * clients))
    return took


def side_by_side(args: argparse.Namespace, problems: list[str], server: Served) -> dict[str, Any]:
    """The seconds of all problems, in turns by `solve_many` and by the server."""
    guide = guides.load(args.guide, slots=args.slots)
    direct = []
    served = []
    latencies: list[float] = []
    for turn in range(args.turns + 1):
        began = time.perf_counter()
        search.solve_many(
            problems, guide, args.method, args.budget, list(range(len(problems))), keep_trees=False
        )
        here = time.perf_counter() - began
        began = time.perf_counter()
        took = asyncio.run(asked_all(server.url, problems, args.clients))
        there = time.perf_counter() - began
        log.info("turn %d: solve_many %.2f s, served %.2f s", turn, here, there)
        if turn:  # the first warms up
            direct.append(here)
            served.append(there)
            latencies += took
    return {
        "problems": len(problems),
        "solve_many": direct,
        "served": served,
        "ratio": statistics.median(served) / statistics.median(direct),
        **_percentiles(latencies),
    }


async def vanishing(
    args: argparse.Namespace, problems: list[str], server: Served
) -> dict[str, Any]:
    """What came of requests of clients of which some vanish."""
    until = time.monotonic() + args.seconds
    counts: Counter[str] = Counter()
    took: list[float] = []
    memory: list[float] = []

    async def one(client: httpx2.AsyncClient, rng: random.Random) -> None:
        stream = rng.random() < 0.5
        asked = body(rng.choice(problems), rng.randrange(2**31), stream)
        gone = rng.uniform(0, LONGEST) if rng.random() < args.vanish else None
        began = time.perf_counter()
        try:
            async with asyncio.timeout(gone):
                async with client.stream("POST", "/v1/chat/completions", json=asked) as response:
                    text = (await response.aread()).decode()
        except TimeoutError:
            counts["vanished"] += 1
            return
        except httpx2.HTTPError as error:
            log.warning("%r", error)
            counts["broken"] += 1
            return
        if response.status_code == 429:
            counts["told to try later"] += 1
            return
        ends = text.count("data: [DONE]") if stream else int('"usage"' in text)
        if response.status_code != 200 or ends != 1 or '"error": {' in text:
            counts["wrong"] += 1
            log.warning("%d: %.200s", response.status_code, text)
            return
        counts["answered"] += 1
        took.append(time.perf_counter() - began)

    async def client_of(number: int) -> None:
        rng = random.Random(args.seed * 10_000 + number)
        async with httpx2.AsyncClient(base_url=server.url, timeout=None) as client:
            while time.monotonic() < until:
                await one(client, rng)

    async def look() -> None:
        while time.monotonic() < until:
            memory.append(round(server.memory, 1))
            await asyncio.sleep(LOOK)

    await asyncio.gather(look(), *map(client_of, range(args.clients)))
    settled = time.monotonic() + SETTLE
    while server.metric("copse_searches_under_way") and time.monotonic() < settled:
        await asyncio.sleep(0.1)
    return {
        "seconds": args.seconds,
        "clients": args.clients,
        **counts,
        **_percentiles(took),
        "left": server.metric("copse_searches_under_way"),
        "memory": memory,
    }


def _percentiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    return {"p50": float(np.quantile(seconds, 0.5)), "p99": float(np.quantile(seconds, 0.99))}


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, required=True, help="problems that text can say")
    parser.add_argument("--guide", default="builtin")
    parser.add_argument("--method", default="mcts")
    parser.add_argument("--budget", default="tokens=300")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5, help="of solve_many and server")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--vanish", type=float, default=0.3, help="share of the requests")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("serving.json"))
    args = parser.parse_args()
    jobs = read_jobs(args.input)
    problems = [job.problem.prompt(job.problem.initial()) for job in jobs]
    with Served(args) as server:
        beside = side_by_side(args, problems, server)
        lasting = asyncio.run(vanishing(args, problems, server))
    found = {"beside solve_many": beside, "with clients that vanish": lasting}
    with atomic(args.out) as part:
        part.write_text(json.dumps(found, indent=1) + "\n")
    log.info("%s", json.dumps({**found, "with clients that vanish": {**lasting, "memory": "..."}}))
    sys.exit(1 if {"wrong", "broken"} & set(lasting) or lasting["left"] else 0)


if __name__ == "__main__":
    main()
