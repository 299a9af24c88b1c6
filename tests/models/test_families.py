"""The engine serves each model family exactly: tokens, log-probs and values are those of the
model's own forward pass and `generate`.
"""

from __future__ import annotations

import dataclasses
import functools

import families
import numpy as np
import pytest
import tiny
import torch
import transformers
from families import FAMILIES, FOURS, LONG, WINDOW, Family, forward

from models import Engine
from models.engine.sampling import draw
from search.scheduling.requests import Generate, Score

NAMES = list(FAMILIES)
#: every second family in CI, the others where the slow tests are run
HALF = [pytest.param(name, marks=pytest.mark.thorough) for name in NAMES[::2]]
HALF += [pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1::2]]
NEAR, STOPS = 1e-5, tuple("ABCDEFGHIJKLMN")
model = functools.cache(families.model)


def texts(count, seed=0):
    """Prompts of 1 to 54 tokens, most of them longer than a window; they share beginnings of any
    length.
    """
    rng = np.random.default_rng(seed)
    made = [tuple(rng.integers(0, 256, 30).tolist())]
    while len(made) < count:
        old = made[rng.integers(len(made))]
        made.append(
            (
                old[: rng.integers(0, len(old) + 1)]
                + tuple(rng.integers(0, 256, rng.integers(1, 20)).tolist())
            )[:54]
        )
    return made


def greedy_and_drawn(count):
    """Requests of mixed lengths: greedy ones, and draws at temperature 1, which end by a stop
    string where one comes.
    """
    for i, text in enumerate(texts(count)):
        yield Generate(text, max_tokens=3 + 5 * (i % 4), temperature=0, seed=i)
        yield Generate(text, max_tokens=30, stop=STOPS, temperature=1.0, seed=i)


def joining(backend, requests, seed=0):
    """Replies in the order of `requests`, which are submitted a few at a time, so that rows join
    and leave at different passes.
    """
    rng, waiting, found = np.random.default_rng(seed), list(requests), {}
    for _ in range(3000):
        for _ in range(rng.integers(0, 4)):
            if waiting:
                backend.submit(waiting.pop(0))
        for reply in backend.poll(0):
            assert reply.request not in found
            found[reply.request] = reply
        if len(found) == len(requests):
            return [found[request] for request in requests]
    raise AssertionError(f"{len(found)} of {len(requests)} replies")


def check(made, request, result, head=None):
    """A result against one pass over prompt and continuation: each token is the one drawn from
    the pass's logits, with the same noise.
    """
    count, start = len(result.tokens), len(request.prompt) - 1
    logits, hidden = forward(made, request.prompt + result.tokens)
    drawn = draw(
        logits[start : start + count],
        np.full(count, request.seed, np.uint64),
        np.arange(count),
        np.full(count, request.temperature),
        np.full(count, request.top_k),
        np.full(count, request.top_p),
        np.full(count, request.min_p),
    )
    assert result.tokens == tuple(drawn.tokens.tolist())
    np.testing.assert_allclose(result.log_probs, drawn.log_probs, atol=NEAR)
    np.testing.assert_allclose(result.sampled_log_probs, drawn.sampled_log_probs, atol=NEAR)
    spelled = [tiny.tokenizer().decode([token]) for token in result.tokens]
    stopped = [
        text in request.stop or token == 256
        for text, token in zip(spelled, result.tokens, strict=True)
    ]
    assert stopped == [False] * (count - 1) + [result.finish != "length"] and (
        result.finish == "end"
    ) == (result.tokens[-1] == 256)
    assert result.finish != "length" or count == request.max_tokens
    if head is not None and result.finish != "length":
        assert abs(result.value - float(head(hidden[-1]))) < 2e-5
    else:
        assert np.isnan(result.value)


def generated(made, request):
    """Greedy continuation by transformers' own generate."""
    ids = torch.tensor([request.prompt])
    out = made.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=request.max_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return tuple(out[0, ids.shape[1] :].tolist())


def head_of(made):
    return tiny.head(made.config.hidden_size).requires_grad_(False)


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_the_expected_forward_serves_the_family(name, caplog):
    backend = Engine(model(name), tiny.tokenizer())
    assert backend.path == FAMILIES[name].path
    assert len(caplog.records) == (backend.path == "plain")
    config = model(name).config
    heads, size = (
        getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        getattr(config, "head_dim", None),
    )
    size = size or config.hidden_size // config.num_attention_heads
    # and the hidden state
    numbers = 2 * config.num_hidden_layers * heads * (-(-size // 16) * 16) + config.hidden_size
    assert backend.kv_bytes_per_token == 4 * numbers


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_alone_and_among_others_tokens_are_those_of_the_model(name):
    made = model(name)
    head, requests = head_of(made), list(greedy_and_drawn(8))
    alone = Engine(made, tiny.tokenizer(), head, slots=1)
    for request in requests[:4]:
        again = dataclasses.replace(request)
        check(made, again, tiny.answers(alone, [again])[0].result, head)
    backend = Engine(made, tiny.tokenizer(), head, slots=6)
    replies = joining(backend, requests)
    for request, reply in zip(requests, replies, strict=True):
        check(made, request, reply.result, head)
    for request, reply in list(zip(requests, replies, strict=True))[:10:2]:
        assert reply.result.tokens == generated(made, request)
    for request, reply in zip(
        requests[-4:],
        tiny.answers(backend, list(map(dataclasses.replace, requests[-4:]))),
        strict=True,
    ):
        check(made, request, reply.result, head)
        assert reply.usage.prefilled == 0 or backend.path == "plain"
    assert {reply.result.finish for reply in replies} >= {"length", "stop"}
    assert max(len(r.request.prompt) + len(r.result.tokens) for r in replies) > 3 * WINDOW


@pytest.mark.parametrize("name", HALF)
def test_a_pool_too_small_for_two_texts_forgets_reads_again_and_changes_nothing(name):
    made, requests = model(name), list(greedy_and_drawn(5))
    backend = Engine(made, tiny.tokenizer(), slots=3, pool_tokens=85)
    prefilled = []
    for seed in range(2):
        again = [dataclasses.replace(request) for request in requests]
        replies = joining(backend, again, seed)
        for request, reply in zip(again, replies, strict=True):
            check(made, request, reply.result)
            assert reply.usage.prefilled + reply.usage.reused == len(request.prompt)
        prefilled.append(sum(reply.usage.prefilled for reply in replies))
    assert prefilled[1] > 0  # something was forgotten
    assert backend.counts.peak <= 85


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_the_model(name):
    made = model(name)
    head = head_of(made)
    long = texts(6)[-1] + tuple(range(100, 160))
    asked = [
        Score(long, (0, 40, len(long) - 1), (7, 8, 255)),
        Score(long[:3], (2,)),
        Score(long[:20], (), (1,)),
        Score((5,), (0,), (5,)),
    ]
    drawn = Generate(long, max_tokens=9, seed=3)  # beside them, and of the same text
    replies = joining(Engine(made, tiny.tokenizer(), head, slots=3), [*asked, drawn])
    check(made, drawn, replies.pop().result, head)
    for request, reply in zip(asked, replies, strict=True):
        logits, hidden = forward(made, request.tokens)
        table, at = torch.log_softmax(torch.from_numpy(logits), -1).numpy(), list(request.positions)
        got, count = reply.result, len(request.tokens)
        assert (
            np.isnan(got.log_probs[0])
            and got.log_probs.shape == (count,)
            and got.reads.shape == (len(at), len(request.read))
        )
        np.testing.assert_allclose(
            got.log_probs[1:], table[np.arange(count - 1), request.tokens[1:]], atol=NEAR
        )
        np.testing.assert_allclose(got.reads, table[at][:, list(request.read)], atol=NEAR)
        np.testing.assert_allclose(got.values, head(hidden[at]), atol=2e-5)
        assert reply.usage.prefilled + reply.usage.reused == count and reply.usage.generated == 0


def test_positions_that_change_with_the_length_of_the_text_are_not_kept(monkeypatch, caplog):
    """One angle for short texts, another for long ones: keys of one are no keys of the other,
    nor may both stand in one pass.
    """
    few = LONG["original_max_position_embeddings"]
    options = {
        "pad_token_id": 0,
        "rope_parameters": dict(LONG),
        "original_max_position_embeddings": few,
    }
    monkeypatch.setitem(FAMILIES, "phi3 long", Family("plain", "Phi3", FOURS | options))
    made = families.model("phi3 long")
    asked = [Score(text, ()) for text in (*texts(6)[-4:], (1, 2, 3), texts(1)[0], texts(1)[0][:8])]
    assert {len(request.tokens) > few for request in asked} == {True, False}
    backend = Engine(made, tiny.tokenizer(), slots=9)
    assert backend.path == "plain" and f"give context={few}" in caplog.text
    for path in ("plain", "modules"):
        for request, reply in zip(asked, joining(backend, asked), strict=True):
            logits, _ = forward(made, request.tokens)
            table = torch.log_softmax(torch.from_numpy(logits), -1).numpy()
            at = np.arange(len(request.tokens) - 1)
            np.testing.assert_allclose(
                reply.result.log_probs[1:], table[at, request.tokens[1:]], atol=NEAR
            )
        assert backend.path == path
        backend = Engine(made, tiny.tokenizer(), slots=9, context=few)
        asked = [dataclasses.replace(request, tokens=request.tokens[:few]) for request in asked]


@pytest.mark.parametrize(
    "options",
    [
        {"sliding_window": 40},
        {"layer_types": ["full_attention", "chunked_attention", "full_attention"]},
    ],
)
def test_a_layer_that_sees_less_than_it_says_is_refused(options, caplog, monkeypatch):
    """Even where the few tokens that the engine tries are too few to tell."""
    made = model("phi3")
    for key, value in options.items():
        monkeypatch.setattr(made.config, key, value, raising=False)
    for layer in made.model.layers:
        own = layer.self_attn.forward
        monkeypatch.setattr(layer.self_attn, "forward", functools.partial(forgetful, own))
    assert Engine(made, tiny.tokenizer()).path == "plain" and "does not say which" in caplog.text


def forgetful(own, *args, **kwargs):
    """The attention of a model that leaves its window to the mask."""
    from models.engine import attention

    whole = attention.attend
    function = lambda *args, sliding_window=None, **kwargs: whole(*args, **kwargs)  # noqa: E731
    transformers.AttentionInterface.register(attention.NAME, function)
    try:
        return own(*args, **kwargs)
    finally:
        transformers.AttentionInterface.register(attention.NAME, whole)
