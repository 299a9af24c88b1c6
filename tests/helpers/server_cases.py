"""Dialects of servers and a model behind one, for the tests of the client."""

from __future__ import annotations

import random
import socket

from serving import answers

import search
from models.server import http
from search.scheduling.requests import (
    RequestFailed,
    TooLong,
    Untold,
)

DIALECTS = {
    "vllm": {},
    "sglang": {"marks": "matched_stop", "tempered": True},
    "words": {"told_ids": False},
    "llama.cpp": {"log_probs": "content", "marks": None, "told_ids": False, "leaves": True},
    "transformers": {
        "ids": False,
        "extras": False,
        "log_probs": False,
        "marks": None,
        "keeps": True,
    },
    "openai": {"ids": True, "extras": False, "told_ids": False},
    "plain": {"ids": False, "extras": False, "log_probs": False, "marks": None},
}


def error(backend, request, calls=1):
    (reply,) = answers(backend, request)
    assert (
        type(reply.error) in (RequestFailed, http.Refused, TooLong, Untold)
        and reply.usage.calls == calls
    )
    return str(reply.error)


def dead():
    """An address where nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}/v1"


def walker(prompt, seed):
    """A model that writes three digits, a line each, then their sum; its digits depend on all it
    has read.
    """
    lines = [line for line in prompt.split("\n")[1:] if line.isdigit()]
    if len(lines) >= 3:
        return f"answer: {sum(map(int, lines[:3]))}\n"
    return f"{random.Random(f'{prompt}|{seed}').randrange(10)}\n"


def problem(target=21):
    return search.TextProblem(
        "Write three digits.", verify=lambda text: float(text.endswith(f"answer: {target}"))
    )
