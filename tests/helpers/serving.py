"""Fake servers and backends of them, and questions to these: what the tests of `models.server`
share.
"""

from __future__ import annotations

import contextlib
import time

import tiny
from fake_server import MODEL, FakeServer

from models import Server
from models.server import http
from search.scheduling.requests import Generate

TOKENIZER = tiny.tokenizer()


@contextlib.contextmanager
def servers(monkeypatch):
    """Make a fake server and a backend of it; all end with the block. What the fake does wrong, it
    does from then on.

    There is no waiting between repetitions, and no key of the machine's own.
    """
    monkeypatch.setattr(http, "FIRST", 0.001)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    opened = []

    def make(options=None, fault=None, **fake):
        server = FakeServer(**fake).__enter__()
        opened.append(server)
        backend = Server(server.url, MODEL, TOKENIZER, **({"retries": 2} | (options or {})))
        opened.append(backend)
        server.bodies.clear()
        server.fault = fault or server.fault
        return server, backend

    try:
        yield make
    finally:
        for one in reversed(opened):
            one.close() if isinstance(one, Server) else one.__exit__()


def encode(text):
    return tuple(TOKENIZER.encode(text))


def ask(text="hello\n", stop=("\n",), max_tokens=64, **options):
    return Generate(encode(text), stop, max_tokens, **options)


def answers(backend, *requests, seconds=30.0):
    """The replies, in the order of the requests, each there exactly once."""
    for request in requests:
        backend.submit(request)
    found, until = {}, time.monotonic() + seconds
    while len(found) < len(requests):
        assert time.monotonic() < until, (
            f"{len(requests) - len(found)} requests were never answered"
        )
        for reply in backend.poll(0.05):
            assert reply.request not in found, "answered twice"
            found[reply.request] = reply
    return [found[request] for request in requests]


def result(backend, request):
    (reply,) = answers(backend, request)
    assert reply.error is None, reply.error
    return reply.result
