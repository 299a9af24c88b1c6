"""Many small requests, some cancelled, some that meet numbers that are not finite: each is
answered once and memory stays where it was.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from pathlib import Path

import families
import numpy as np
import pytest
import tiny
import torch

from models import Engine
from search.scheduling.requests import Cancelled, Generate, RequestFailed, Score

BAD = 77  # a token after which the model's numbers are not finite
POOL, SLOTS = 600, 24


def planted():
    """An engine of a small model that fails on texts with the token BAD, which it says now and
    then itself. Planted when the engine has chosen its forward: the model's own numbers would
    speak against any but the slow one.
    """
    made = tiny.model(
        num_hidden_layers=1,
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    backend = Engine(made, tiny.tokenizer(), tiny.head(16), slots=SLOTS, pool_tokens=POOL)
    assert backend.path == "lean"
    with torch.no_grad():
        made.model.embed_tokens.weight[BAD] = float("nan")
    return backend


def resident():
    """Bytes of this process in main memory; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


class Stream:
    """Requests without end: stems that return, tokens of their own, some with BAD, one in twelve
    a Score.
    """

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.stems = [
            tuple(self.rng.integers(128, 256, self.rng.integers(1, 30)).tolist()) for _ in range(40)
        ]

    def next(self):
        rng = self.rng
        tokens = self.stems[rng.integers(len(self.stems))] + tuple(
            rng.integers(128, 256, rng.integers(0, 4)).tolist()
        )
        if rng.random() < 0.03:
            tokens += (BAD,)
        if rng.random() < 1 / 12:
            return Score(tokens, (len(tokens) - 1,), (3,))
        return Generate(
            tokens,
            ("A", "B", "C", "D"),
            int(rng.integers(1, 9)),
            float(rng.choice([0, 1])),
            seed=int(rng.integers(1 << 40)),
        )


def check(reply, cancelled):
    request = reply.request
    tokens = request.prompt if isinstance(request, Generate) else request.tokens
    if isinstance(reply.error, Cancelled):
        assert request in cancelled
    elif reply.error is not None:
        assert type(reply.error) is RequestFailed and "finite" in str(reply.error)
        assert BAD in tokens or isinstance(request, Generate)  # or the model said it
    elif isinstance(request, Generate):
        assert (
            BAD not in tokens
            and BAD not in reply.result.tokens[:-1]
            and np.isfinite(reply.result.log_probs).all()
        )
    else:
        assert (
            BAD not in tokens
            and np.isfinite(reply.result.log_probs[1:]).all()
            and np.isfinite(reply.result.reads).all()
        )


def check_greedy(made, reply):
    """The tokens are the likeliest ones of one pass over the text."""
    text, start = reply.request.prompt + reply.result.tokens, len(reply.request.prompt) - 1
    logits, _ = families.forward(made, text)
    assert reply.result.tokens == tuple(logits[start:-1].argmax(1).tolist())


def soak(backend, stream, count):
    """Send `count` requests, up to 60 at a time, and check the replies; counts of their kinds."""
    rng, kinds = stream.rng, Counter()
    running, cancelled, sent = {}, set(), 0
    while sent < count or running:
        while sent < count and len(running) < 60:
            request = stream.next()
            running[request] = None
            backend.submit(request)
            sent += 1
        if rng.random() < 0.2:
            victim = list(running)[rng.integers(len(running))]
            cancelled.add(victim)
            backend.cancel(victim)
        replies = backend.poll(0)
        for reply in replies:
            del running[reply.request]  # KeyError: answered twice, or never asked
            check(reply, cancelled)
            cancelled.discard(reply.request)
            kinds[type(reply.error).__name__] += 1
            if (
                reply.error is None
                and getattr(reply.request, "temperature", 1) == 0
                and BAD not in reply.result.tokens
            ):
                kinds["greedy"] += 1
                if kinds["greedy"] % 20 == 0:
                    check_greedy(backend.model, reply)
    assert (
        not backend.poll(0)
        and kinds.total() - kinds["greedy"] == count
        and backend.counts.peak <= POOL
    )
    return kinds


def settled():
    gc.collect()
    return tracemalloc.get_traced_memory()[0], resident()


def run(count, warm_up, traced, grown):
    """traced, grown: bytes that Python's objects and the process may grow after the warm-up."""
    backend, stream = planted(), Stream(0)
    tracemalloc.start()
    try:
        soak(backend, stream, warm_up)
        before = settled()
        kinds = soak(backend, stream, count)
        after = settled()
    finally:
        tracemalloc.stop()
    assert after[0] - before[0] < traced and after[1] - before[1] < grown
    assert (
        kinds["Cancelled"] > count // 100
        and kinds["RequestFailed"] > count // 100
        and kinds["NoneType"] > count // 2
    )


@pytest.mark.slow
def test_two_thousand_requests_leave_nothing_behind():
    run(2_000, 600, 1 << 18, 16 << 20)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_requests_leave_nothing_behind():
    run(100_000, 5_000, 1 << 18, 32 << 20)
