"""An endpoint of `copse serve` in a thread of this process, for the tests that ask it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import uvicorn
from fakes import generated, scripted_guide

from search import running
from search.scheduling.budget import Budget
from search.serving.app import Endpoint, Limits

BUDGET = Budget(tokens=1_000_000, seconds=60)


def answers(request):
    """A model that answers at once, by the number in its seed."""
    return generated(f"the answer is {request.seed % 7}", finish="end")


def slow(request):
    """A model that never finishes a chain."""
    time.sleep(0.001)
    return generated(f"on {request.seed % 10_000}", limit=request.max_tokens)


@contextlib.contextmanager
def served(function, method="sample", key=None, slots=8, **limits):
    """A server on a free port, and its endpoint."""
    guide = scripted_guide(function, value=False, slots=slots)
    endpoint = Endpoint(guide, Limits(BUDGET, key=key, **limits), method)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = uvicorn.Config(endpoint.app(), port=port, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}", endpoint
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
        wait_for(lambda: not running._DRIVERS)


def wait_for(happened, seconds=30.0):
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)
