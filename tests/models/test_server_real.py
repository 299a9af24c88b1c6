"""The client against real llama.cpp servers with a real model, started as a user would; slow, and
only where both are there.

COPSE_TEST_MODELS        folder with smollm2-135m (tokenizer and model) and smollm2-135m.gguf;
                         qwen-coder-0.5b alike, for one test
COPSE_TEST_LLAMA_SERVER  llama.cpp's llama-server; default: the one on the path
COPSE_TEST_LLAMA_PYTHON  a Python with llama-cpp-python[server]; default: this one, if it has it
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import guides
import search
from guides.values.llm_judge import Judge
from models import Server
from models.server import handshake
from search.cli.main import main
from search.problem import TextStep
from search.scheduling.driver import run
from search.scheduling.requests import Generate, RequestFailed

MODELS = os.environ.get("COPSE_TEST_MODELS")
FOLDER = Path(MODELS or ".") / "smollm2-135m"
GGUF = Path(MODELS or ".") / "smollm2-135m.gguf"
OTHER = Path(MODELS or ".") / "qwen-coder-0.5b"
BINARY = os.environ.get("COPSE_TEST_LLAMA_SERVER") or shutil.which("llama-server")
PYTHON = os.environ.get("COPSE_TEST_LLAMA_PYTHON") or (
    sys.executable if importlib.util.find_spec("llama_cpp") else None
)
COMMANDS = {
    "llama.cpp": [BINARY, "-m", GGUF, "--alias", "smol", "-c", "8192", "-np", "4", "-t", "1"],
    "llama-cpp-python": [
        PYTHON,
        "-m",
        "llama_cpp.server",
        "--model",
        GGUF,
        "--model_alias",
        "smol",
        "--n_ctx",
        "2048",
        "--n_threads",
        "1",
    ],
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not GGUF.exists(), reason="name a folder with smollm2-135m.gguf in COPSE_TEST_MODELS"
    ),
]


class Process:
    """A server of a command at a port of its own, which can be killed and started again."""

    def __init__(self, name: str, log: Path, model: Path = GGUF):
        if COMMANDS[name][0] is None:
            pytest.skip(f"{name} is not installed")
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        self.command = [str(model if part == GGUF else part) for part in COMMANDS[name]] + [
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.log = log
        self.start()

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT)
        until = time.monotonic() + 180
        while time.monotonic() < until and self.process.poll() is None:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{self.url}/models", timeout=5),
            ):
                return
            time.sleep(0.2)
        self.kill()
        raise AssertionError(f"{self.command[0]} did not start: {self.log.read_text()[-500:]}")

    def answered(self) -> int:
        """Requests that it says it has answered."""
        log = self.log.read_text()
        return log.count("stop processing") + log.count("POST /v1/")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)


@pytest.fixture(params=COMMANDS)
def served(request, tmp_path):
    server = Process(request.param, tmp_path / "log")
    try:
        yield server
    finally:
        server.kill()


def flags(server: Process) -> list[str]:
    return ["--server", server.url, "--guide", "smol", "--tokenizer", str(FOLDER), "--slots", "4"]


def result(backend, request):
    backend.submit(request)
    while True:
        for reply in backend.poll(1.0):
            assert reply.error is None, reply.error
            return reply.result


def test_solve_and_bench(served, capsys, tmp_path):
    """The commands of `models/README.md`, without further options that the server would have to
    know.
    """
    for method in ("sample", "mcts"):
        main(
            [
                "solve",
                "What is 12 * 12?",
                *flags(served),
                "--method",
                method,
                "--budget",
                "tokens=150",
                "--temperature",
                "0.6",
                "--json",
            ]
        )
        out, err = capsys.readouterr()
        told = json.loads(out)
        assert told["text"].strip() and 0 < told["usage"]["generated"] <= 150, err
    problems = tmp_path / "p.jsonl"
    problems.write_text(
        "".join(
            json.dumps({"id": i, "problem": f"What is {i} + 2?", "target": str(i + 2)}) + "\n"
            for i in range(2)
        )
    )
    code = main(
        [
            "bench",
            "--input",
            str(problems),
            "--out",
            str(tmp_path / "b"),
            "--methods",
            "greedy,sample",
            "--budgets",
            "tokens=60",
            *flags(served),
        ]
    )
    out, err = capsys.readouterr()
    assert code == 0 and "greedy" in out and (tmp_path / "b" / "results.csv").exists(), err


def test_steps_are_the_servers_own_text(served):
    """Step by step, greedily, the client gets the text that the server writes at once."""
    backend = Server(served.url, "smol", str(FOLDER), connections=2)
    found, tokenizer = backend.capabilities, backend.tokenizer
    assert not found.chat and found.samples and found.options["top_k"] in (0, -1)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Write three short lines."}],
        add_generation_prompt=True,
        tokenize=False,
    )
    body = {
        "model": "smol",
        "prompt": text,
        "max_tokens": 48,
        "temperature": 0.0,
        "top_k": 1,
        "seed": 0,
    }
    request = urllib.request.Request(
        f"{served.url}/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    whole = json.load(urllib.request.urlopen(request, timeout=120))["choices"][0]["text"]
    prompt = tuple(tokenizer.encode(text, add_special_tokens=False))
    said, left, finish, lines = (), 48, "", []
    while left > 0 and finish != "end":
        step = result(backend, Generate(prompt + said, ("\n",), left, temperature=0.0))
        said, left, finish = said + step.tokens, left - len(step.tokens), step.finish
        lines.append(step.text)
    mine = tokenizer.decode(said, skip_special_tokens=True)
    assert "\n".join(lines).rstrip("\n") == mine.rstrip("\n"), "texts and tokens agree"
    assert mine.startswith(whole[:40]) and (mine.startswith(whole) or whole.startswith(mine))
    backend.close()


def test_tokens_that_hold_the_end_of_a_step_and_the_blank_line(tmp_path):
    """Qwen writes ".\\n\\n" and ":\\n\\n" as one token: no character of it is lost."""
    if not (OTHER.with_name(f"{OTHER.name}.gguf").exists() and OTHER.exists()):
        pytest.skip(f"{OTHER.name} is not there")
    server = Process("llama.cpp", tmp_path / "log", OTHER.with_name(f"{OTHER.name}.gguf"))
    try:
        backend = Server(server.url, "smol", str(OTHER), connections=1)
        prompt, tokens, texts, finish = (
            asked(
                backend,
                "Jan has 19 apples and gives 5 away. How many are left? Explain step by step.",
            ),
            (),
            [],
            "",
        )
        whole = result(backend, Generate(prompt, (), 80, temperature=0.0)).text
        while len(tokens) < 80 and finish != "end":
            step = result(
                backend, Generate(prompt + tokens, ("\n\n",), 80 - len(tokens), temperature=0.0)
            )
            tokens, finish = tokens + step.tokens, step.finish
            texts.append(step.text)
        assert len(texts) > 1
        assert (
            "\n\n".join(texts)
            == whole
            == backend.tokenizer.decode(tokens, skip_special_tokens=True)
        )
        backend.close()
    finally:
        server.kill()


def asked(backend, question: str) -> tuple[int, ...]:
    """The prompt of a conversation that begins with a question."""
    said = [{"role": "user", "content": question}]
    text = backend.tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    return tuple(backend.tokenizer.encode(text, add_special_tokens=False))


def test_a_server_that_is_killed_and_comes_back_loses_nothing(served, tmp_path):
    """A run over a file, in a process of its own; its server is killed in the middle and comes
    back.

    Requests are asked again for some ten seconds; a search that still failed is done again by the
    same command.
    """
    problems, solved = tmp_path / "p.jsonl", tmp_path / "s.jsonl"
    problems.write_text(
        "".join(json.dumps({"id": i, "problem": f"What is {i} * 7?"}) + "\n" for i in range(6))
    )
    command = [
        sys.executable,
        "-c",
        "import sys; from search.cli.main import main; sys.exit(main())",
        "solve",
    ]
    command += [
        "--input",
        str(problems),
        "--output",
        str(solved),
        *flags(served),
        "--method",
        "sample",
        "--budget",
        "tokens=200",
    ]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    started = time.monotonic()
    while child.poll() is None and served.answered() < 16 and time.monotonic() - started < 300:
        time.sleep(0.1)
    assert child.poll() is None and served.answered() >= 16, (
        "the questions at connection, and some requests"
    )
    served.kill()
    time.sleep(1.0)
    served.start()
    out, _ = child.communicate(timeout=600)
    if any(line["error"] for line in results(solved)):
        out += subprocess.run(command, capture_output=True, text=True, timeout=600).stdout
    lines = {str(line["id"]): line for line in results(solved)}
    assert lines.keys() == {str(i) for i in range(6)}, out
    assert all(
        line["error"] is None and line["usage"]["generated"] > 100 for line in lines.values()
    ), out


def results(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_server_that_stays_away_fails_requests_in_words_and_works_again(served):
    backend = Server(served.url, "smol", str(FOLDER), connections=2, retries=1)
    requests = [
        Generate(tuple(backend.tokenizer.encode("Once upon a time")), ("\n",), 400, seed=seed)
        for seed in range(4)
    ]
    for request in requests:
        backend.submit(request)
    time.sleep(0.5)
    served.kill()
    replies = []
    until = time.monotonic() + 60
    while len(replies) < 4 and time.monotonic() < until:
        replies += backend.poll(1.0)
    assert len(replies) == 4 and any(isinstance(reply.error, RequestFailed) for reply in replies)
    assert all(reply.error is None or "broke" in str(reply.error) for reply in replies)
    served.start()
    assert result(backend, Generate(requests[0].prompt, (), 8)).text
    backend.close()


def test_conversations(served, monkeypatch):
    """The same server as one without completions: steps by continuing the turn where it can, a
    judge, samples.
    """
    monkeypatch.setattr(handshake, "COMPLETIONS", "/no-such-path")
    guide = guides.connect(served.url, "smol", tokenizer=FOLDER, connections=4, temperature=0.6)
    backend = next(iter(guide.backends.values()))
    assert backend.capabilities.chat
    solution = search.solve("What is 12 * 12?", guide, "sample", chains=2, budget="tokens=200")
    assert solution.text.strip() and 0 < solution.usage.generated <= 200
    if backend.capabilities.stepwise:
        found = search.solve(
            "What is 12 * 12?", guide, "beam", width=2, branch=2, budget="tokens=200"
        )
        assert found.text.strip() and 0 < found.usage.generated <= 200
    judge = Judge(backend)
    value = run(
        judge.evaluate(
            search.TextProblem("What is 1 + 1?"),
            [(TextStep("2", (), "end"),)],
            np.float32([np.nan]),
            np.random.default_rng(0),
        ),
        judge.backends,
    )
    assert np.isnan(value[0]) or 0 <= value[0] <= 1
    backend.close()
