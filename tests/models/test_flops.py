"""FLOPs of a search: those of every token that passed through a model, policy and judge, read
once or read again.
"""

from __future__ import annotations

import numpy as np
import pytest
import tiny

import search
from guides.engines import Loaded
from guides.policies.lm import LM
from guides.values.prm import PRM
from models.engine.engine import Engine
from search.guide import Guide
from search.scheduling.requests import Cancelled, Generate, Score

SETTINGS = {"delimiter": "q", "step_tokens": 6, "max_steps": 4, "prompt": "{problem}\n"}
LAYERS, WIDTH = 2, 32  # of `tiny.model`


def work(engine, contexts) -> float:
    """Of tokens that each attend to so many: 2 x parameters a token, 4 x layers x width a token
    attended to.
    """
    contexts = list(contexts)
    return 2.0 * sum(p.numel() for p in engine.model.parameters()) * len(
        contexts
    ) + 4.0 * LAYERS * WIDTH * sum(contexts)


def watched(engine):
    """Note the context of every token that passes through a packed engine."""
    contexts, forward = [], engine._pass.forward

    def noted(rows, last, ends, chunks):
        contexts.extend(ends.tolist())
        contexts.extend(chunk.past + i + 1 for chunk in chunks for i in range(len(chunk.tokens)))
        return forward(rows, last, ends, chunks)

    engine._pass.forward = noted
    return contexts


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["mcts", "beam", "sample"])
def test_a_search_costs_what_passed_through_policy_and_judge(method):
    # forgets, and reads again
    policy = Engine(tiny.model(), tiny.tokenizer(), tiny.head(), slots=8, pool_tokens=256)
    judge = Engine(tiny.model("qwen2", seed=5), tiny.tokenizer(), tiny.head(), slots=8)
    assert policy.path == judge.path == "lean"
    contexts = [watched(engine) for engine in (policy, judge)]
    lm = LM(Loaded(policy, tiny.tokenizer(), SETTINGS, "one", True), values=True)
    guide = Guide(lm, PRM(Loaded(judge, tiny.tokenizer(), SETTINGS, "two", True)))
    problems = [search.TextProblem(f"Say {i} words, and say them well.") for i in range(6)]
    solutions = search.solve_many(
        problems, guide, method, search.Budget(tokens=150), progress=False
    )
    total = sum(s.usage.flops for s in solutions)
    assert contexts[0] and (contexts[1] or method == "sample"), (
        "random chains are never finished: there is nothing to judge"
    )
    assert total == pytest.approx(work(policy, contexts[0]) + work(judge, contexts[1]), rel=1e-12)
    assert (
        sum(s.usage.prefilled for s in solutions) > 0 and sum(s.usage.reused for s in solutions) > 0
    )


@pytest.mark.thorough
def test_a_text_that_is_read_anew_in_every_pass_costs_every_reading():
    engine = Engine(tiny.model("cohere"), tiny.tokenizer(), tiny.head(), slots=20)
    engine.texts.ends = frozenset()
    assert engine.path == "plain"
    rng = np.random.default_rng(0)
    requests = [
        Generate(tuple(rng.integers(0, 256, n).tolist()), max_tokens=m, seed=n)
        for n in range(3, 30)
        for m in (1, 4)
    ]
    requests.append(Score(tuple(range(20)), (5,), (1,)))
    for request, reply in zip(requests, tiny.answers(engine, requests), strict=True):
        if isinstance(request, Score):
            lengths = [20]
        # the prompt, then the whole text again for every token but the last, which is cut off
        else:
            lengths = range(len(request.prompt), len(request.prompt) + request.max_tokens)
        assert reply.usage.flops == pytest.approx(
            sum(work(engine, range(1, n + 1)) for n in lengths), rel=1e-12
        )


def test_what_was_cancelled_costs_what_had_passed():
    engine = Engine(tiny.model(), tiny.tokenizer(), slots=4)
    engine.texts.ends = frozenset()
    contexts, request = watched(engine), Generate((1, 2, 3), max_tokens=100)
    engine.submit(request)
    for _ in range(5):
        engine.poll(0)
    engine.cancel(request)
    (reply,) = tiny.drain(engine, 1)
    assert isinstance(reply.error, Cancelled) and reply.usage.flops == pytest.approx(
        work(engine, contexts), rel=1e-12
    )
