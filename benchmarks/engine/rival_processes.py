"""Engines in processes of their own, over a pipe or HTTP, and what those have spent. Linux."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

CHILD = Path(__file__).resolve().parent / "rival_child.py"
ROOT = CHILD.parent.parent.parent
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)
TICK = os.sysconf("SC_CLK_TCK")
PATIENCE = 600.0  #: seconds that a server may take until it serves

Texts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Engine:
    """What is to be started.

    label   its name in tables
    kind    "copse", "generate", "vllm" (`benchmarks.engine.rival_child.ENGINES`) or "llama.cpp"
    model   a folder of transformers; a GGUF file for llama.cpp
    dtype   "bfloat16" or "float32"; of llama.cpp the file decides
    program Python that has the engine, or the server of llama.cpp
    source  folder of the code that is measured, for "copse"
    extra   environment of its process
    """

    label: str
    kind: str
    model: str
    dtype: str = "bfloat16"
    program: str = sys.executable
    source: str = str(ROOT)
    extra: dict[str, str] = field(default_factory=dict)


class Failed(RuntimeError):
    """An engine did not start or did not answer; the message has its last words."""


class Child:
    """An engine of `benchmarks.engine.rival_child`, started. Raises Failed as it is made or
    asked.
    """

    def __init__(self, engine: Engine, rows: int, tokens: int):
        self.label = engine.label
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        paths = {"PYTHONPATH": engine.source} if engine.kind == "copse" else {}
        environment = {**os.environ, **ONE_THREAD, **paths, **engine.extra}
        what = [engine.kind, engine.model, engine.dtype, str(rows), str(tokens)]
        self._process = _started(
            [engine.program, "-P", str(CHILD), *what], self._errors, environment, piped=True
        )
        self.pid = self._process.pid
        self.about = str(self._ask({"do": "start"}, first=True)["about"])

    def read(self, prompts: Texts) -> None:
        """Let it know these texts; nothing before them is needed any more."""
        self._ask({"do": "read", "prompts": prompts})

    def prepare(self, prompts: Texts, copies: int) -> None:
        """What must not be timed before `go_on`."""
        self._ask({"do": "prepare", "prompts": prompts, "copies": copies})

    def go_on(
        self, prompts: Texts, copies: int, new: int, temperature: float, seed: int
    ) -> list[list[int]]:
        """`copies` continuations of each text, with `new` tokens, one text after the other."""
        how = {"copies": copies, "new": new, "temperature": temperature, "seed": seed}
        tokens: list[list[int]] = self._ask({"do": "continue", "prompts": prompts, **how})["tokens"]
        return tokens

    def close(self) -> None:
        """End the process. Idempotent."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                with suppress(BrokenPipeError):  # closing writes what the process no longer reads
                    pipe.close()

    def _ask(self, what: dict[str, Any], first: bool = False) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        line = ""
        try:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            pass
        reply = json.loads(line) if line else {"error": _last_words(self._errors)}
        if "error" in reply:
            if first:
                self.close()
            raise Failed(f"{self.label}: {reply['error']}")
        return reply


class LlamaServer:
    """The server of llama.cpp with a slot for every sequence. Raises Failed."""

    def __init__(self, engine: Engine, rows: int, tokens: int):
        self.label = engine.label
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        slots = {"--parallel": rows, "--ctx-size": rows * -(-tokens // 256) * 256}
        threads = {"--threads": 1, "--threads-batch": 1, "--threads-http": 2}
        # texts of slots are reused in place; a copy of idle ones in memory would only cost
        options = {"--port": port, "--cache-ram": 0, **threads, **slots}
        flags = list(map(str, chain.from_iterable(options.items())))
        environment = {**os.environ, **ONE_THREAD, **engine.extra}
        self._process = _started(
            [engine.program, "--model", engine.model, "--offline", *flags],
            self._errors,
            environment,
        )
        self.pid = self._process.pid
        self._wait()
        self.about = f"llama.cpp, {Path(engine.model).name}"

    def read(self, prompts: Texts) -> None:
        """Let it know these texts."""
        self._post(prompts, n_predict=0)

    def prepare(self, prompts: Texts, copies: int) -> None:
        """Nothing: slots hold what they have read."""

    def go_on(
        self, prompts: Texts, copies: int, new: int, temperature: float, seed: int
    ) -> list[list[int]]:
        """As `Child.go_on`."""
        how = {"n_predict": new, "n_cmpl": copies, "temperature": temperature, "seed": seed}
        found = self._post(prompts, **how)
        return list(map(itemgetter("tokens"), sorted(found, key=itemgetter("index"))))

    def close(self) -> None:
        """End the server. Idempotent."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _post(self, prompts: Texts, **how: Any) -> list[dict[str, Any]]:
        plain = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}
        asked = {"prompt": prompts, "cache_prompt": True, "ignore_eos": True, "return_tokens": True}
        body = json.dumps({**asked, **plain, **how}).encode()
        request = urllib.request.Request(
            self._url + "/completion", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request) as response:
                found = json.load(response)
        except OSError as error:
            if hasattr(error, "read"):
                message = error.read().decode()
            else:
                message = _last_words(self._errors)
            raise Failed(f"{self.label}: {error}: {message[:300]}") from error
        return found if isinstance(found, list) else [found]

    def _wait(self) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(self._url + "/health", timeout=5):
                    return
            except OSError:
                ended = self._process.poll() is not None
                if ended or time.monotonic() > end:
                    message = _last_words(self._errors)
                    self.close()
                    raise Failed(f"{self.label}: {message}") from None
                time.sleep(0.2)


Rival = Child | LlamaServer


def start(engine: Engine, rows: int, tokens: int) -> Rival:
    """Start an engine for `rows` sequences of at most `tokens` tokens. Raises Failed."""
    kind = LlamaServer if engine.kind == "llama.cpp" else Child
    return kind(engine, rows, tokens)


def _started(
    command: list[str], errors: Any, environment: dict[str, str], piped: bool = False
) -> subprocess.Popen[str]:
    pipes = {"stdout": errors}
    if piped:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    try:
        return subprocess.Popen(command, stderr=errors, text=True, env=environment, **pipes)
    except OSError as error:
        errors.close()
        raise Failed(f"{command[0]} does not start: {error.strerror}") from error


def _last_words(errors: Any) -> str:
    errors.seek(0)
    lines = list(filter(str.strip, errors.read().splitlines())) or ["-"]
    return f"its process ended; the last it said: {lines[-1][:300]}"


# -- what processes have spent


@dataclass(frozen=True)
class Spent:
    """seconds: by the clock; cpu: user and system time; both of a process with its children."""

    seconds: float
    cpu: float


class Watch:
    """What a process and its children spend from now on."""

    def __init__(self, pid: int):
        self.pid = pid
        self._cpu = _cpu(pid)
        self._wall = time.perf_counter()

    def read(self) -> Spent:
        """So far."""
        wall = time.perf_counter() - self._wall
        return Spent(wall, _cpu(self.pid) - self._cpu)


def family(pid: int) -> list[int]:
    """A process and all that descend from it and live."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            parents[int(entry)] = int(fields[1])
    found = [pid]
    for one in found:  # grows as it goes
        found += [child for child, parent in parents.items() if parent == one]
    return found


def resident(pid: int) -> int:
    """Bytes of memory that a process and its children hold now, files they have mapped included."""
    pages = 0
    for one in family(pid):
        try:
            pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * os.sysconf("SC_PAGE_SIZE")


def _cpu(pid: int) -> float:
    """User and system seconds, of ended children too."""
    ticks = 0
    for one in family(pid):
        ticks += sum(map(int, _stat(one)[11:15]))
    return ticks / TICK


def _stat(pid: int) -> list[str]:
    """Fields of /proc/pid/stat from the state on, [] if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
