"""A hub that is away is asked once, and not again and again for a minute."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

ASKED = """
from models.checkpoints.hub import hub_answers
print(hub_answers("no-such/name-of-a-model"))
"""
WANTED = """
from models.server.client import _tokenizer
try:
    _tokenizer("no-such/name-of-a-model")
except ValueError as error:
    print(error)
"""
NONE = (
    b"HTTP/1.1 404 Not Found\r\nX-Error-Code: RepoNotFound\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)


@contextmanager
def hub(reply: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A hub that says the same to everything, and what it was asked of the model; b"": it hangs
    up.
    """
    asked: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                line = connection.recv(4096).split(b"\r\n")[0]
                if b"name-of-a-model" in line:  # its client has questions of its own
                    asked.append(line)
                connection.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def said(script: str, endpoint: str, offline: str = "0") -> str:
    """What a script prints that is to ask the hub at an address."""
    names = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": offline}
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | names,
        timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.mark.thorough
def test_a_hub_that_says_no_is_there() -> None:
    with hub(NONE) as (endpoint, asked):
        assert said(ASKED, endpoint) == "True"
    assert asked == [b"GET /api/models/no-such/name-of-a-model HTTP/1.1"]


@pytest.mark.thorough
def test_a_hub_that_hangs_up_and_one_that_must_not_be_asked_are_away() -> None:
    with hub(b"") as (endpoint, asked):
        assert said(ASKED, endpoint) == "False"
        assert said(ASKED, endpoint, offline="1") == "False"
    assert len(asked) == 1


@pytest.mark.thorough
def test_a_tokenizer_from_a_hub_that_is_away_is_refused_after_one_question() -> None:
    with hub(b"") as (endpoint, asked):
        sentence = said(WANTED, endpoint)
    assert "no tokenizer under 'no-such/name-of-a-model'" in sentence
    assert "the hub cannot be reached now" in sentence and "give tokenizer=" in sentence
    assert len(asked) == 1
