"""The engine against `generate` and full forward passes of the same model: it may only be
faster, never different.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny
import torch
import transformers
from engine_cases import (
    answers,
    architecture,
    check_pool,
    engine,
    expected,
    forward,
    prompts,
    script,
)

from models.engine.engine import Engine
from search.scheduling.requests import (
    Avoided,
    Cancelled,
    Generate,
    RequestFailed,
    Score,
)

KINDS = ["llama", "qwen2"]


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pool", [None, 256])
def test_greedy_tokens_are_those_of_generate(kind, pool):
    backend = engine(kind, slots=20, pool_tokens=pool)
    assert backend.path == "lean"
    texts = prompts(48)
    requests = [
        Generate(text, max_tokens=10 + i % 7, temperature=0) for i, text in enumerate(texts)
    ]
    rng, waiting, replies = np.random.default_rng(1), list(requests), []
    while len(replies) < len(requests):  # admitted at random times
        for _ in range(rng.integers(0, 5)):
            if waiting:
                backend.submit(waiting.pop())
        replies += backend.poll(0)
    by = {r.request: r for r in replies}
    for request in requests:
        got = by[request].result
        assert got.tokens == expected(backend.model, request.prompt, request.max_tokens)
        assert got.finish == ("end" if got.tokens[-1] == 256 else "length")
        assert by[request].usage.reused + by[request].usage.prefilled == len(request.prompt)
        assert by[request].usage.generated == len(got.tokens) and not got.sampled_log_probs.any()
    check_pool(backend)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_log_probs_and_value_are_those_of_a_full_forward(kind):
    head = tiny.head().requires_grad_(False)
    backend = engine(kind, head, slots=8)
    requests = [
        Generate(p, stop=("a", "q"), max_tokens=60, seed=i, temperature=0.7)
        for i, p in enumerate(prompts(24))
    ]
    kinds = set()
    for reply in answers(backend, requests):
        got, prompt = reply.result, reply.request.prompt
        log_probs, hidden = forward(backend.model, prompt + got.tokens)
        at = np.arange(len(prompt) - 1, len(prompt) + len(got.tokens) - 1)
        np.testing.assert_allclose(got.log_probs, log_probs[at, got.tokens], atol=2e-5)
        cooled = torch.log_softmax(torch.from_numpy(log_probs[at]) / 0.7, -1).numpy()
        np.testing.assert_allclose(
            got.sampled_log_probs, cooled[np.arange(len(at)), got.tokens], atol=2e-5
        )
        assert got.log_probs.dtype == got.sampled_log_probs.dtype == np.float32
        if got.finish == "length":
            assert np.isnan(got.value)
        else:
            assert abs(got.value - float(head(hidden[-1]))) < 2e-5 and got.value * 2**16 == round(
                got.value * 2**16
            )
        kinds.add(got.finish)
    assert "stop" in kinds


@pytest.mark.thorough
def test_children_of_a_finished_step_read_nothing_and_siblings_read_once():
    backend = engine(head=tiny.head())
    prompt = prompts(1)[0]
    first = answers(
        backend, [Generate(prompt, stop=("q",), max_tokens=200, seed=i) for i in range(8)]
    )
    assert sum(r.usage.prefilled for r in first) == len(prompt)  # eight siblings, one reading
    assert sum(r.usage.reused for r in first) == 7 * len(prompt)
    done = [r for r in first if r.result.finish != "length"]
    assert len(done) > 2
    children = [
        Generate(prompt + r.result.tokens, stop=("q",), max_tokens=20, seed=9, temperature=0)
        for r in done
    ]
    for reply in answers(backend, children):
        assert reply.usage.prefilled == 0 and reply.usage.reused == len(reply.request.prompt)
        assert reply.result.tokens == expected_until(backend.model, reply.request)
    check_pool(backend)


def expected_until(model, request):
    tokens = expected(model, request.prompt, request.max_tokens)
    for i, token in enumerate(tokens):
        if token == tiny.tokenizer().convert_tokens_to_ids("q"):
            return tokens[: i + 1]
    return tokens


def test_same_seed_same_tokens_alone_and_among_others():
    texts = prompts(64)
    many = [
        Generate(p, max_tokens=12, seed=i, top_p=0.9 if i % 2 else 1.0) for i, p in enumerate(texts)
    ]
    together = answers(engine(), many)
    for i in (0, 17, 40, 63):
        alone = answers(engine(slots=1), [dataclasses.replace(many[i])])[0]
        assert alone.result.tokens == together[i].result.tokens
    assert len({r.result.tokens for r in together}) > 50


def test_stop_string_over_several_tokens_and_utf8():
    backend = engine()
    model = backend.model
    ids = tiny.tokenizer().encode("ab\n;cé")
    assert len(ids) == 7
    script(model, ids)
    backend.clear()
    cut = [("\n;",), ("é",), ("b\n", "\n;"), ("x",), (";c", "b")]
    got = [
        r.result
        for r in answers(
            backend, [Generate((5,), stop=s, max_tokens=len(ids), temperature=0) for s in cut]
        )
    ]
    assert [g.text for g in got] == ["ab", "ab\n;c", "a", "ab\n;cé", "a"]
    assert [len(g.tokens) for g in got] == [4, 7, 3, 7, 2]
    assert [g.finish for g in got] == ["stop", "stop", "stop", "length", "stop"]
    half = answers(backend, [Generate((5,), max_tokens=6, temperature=0)])[0].result
    assert half.text == "ab\n;c", "a character that is cut comes as a whole with what follows"
    rest = answers(backend, [Generate((5, *half.tokens), max_tokens=1, temperature=0)])[0].result
    assert len(rest.tokens) == 1 and rest.text == "é"


def test_end_of_turn_token_ends_and_is_not_in_the_text():
    model = tiny.model()
    model.generation_config.eos_token_id = [256, 257]
    tokenizer = tiny.tokenizer()
    backend = Engine(model, tokenizer, tiny.head())
    a, b = tokenizer.encode("hi")
    script(model, [a, b, 257])
    backend.clear()
    got = answers(backend, [Generate((5,), temperature=0)])[0].result
    assert (got.text, got.tokens, got.finish) == ("hi", (a, b, 257), "end") and 0 < got.value < 1


def test_cancel_is_answered_once_and_keeps_what_was_read():
    backend = engine(slots=2)
    requests = [Generate(p, max_tokens=200, seed=1) for p in prompts(5)]
    for request in requests:
        backend.submit(request)
    for _ in range(4):
        assert not backend.poll(0)
    for request in requests[:4]:
        backend.cancel(request)
        backend.cancel(request)
    replies = backend.poll(0)
    assert {r.request for r in replies if isinstance(r.error, Cancelled)} == set(requests[:4])
    started = next(r for r in replies if r.request is requests[0])
    assert started.usage.generated == 3 and started.usage.calls == 1
    waiting = next(r for r in replies if r.request is requests[3])
    assert waiting.usage.calls == waiting.usage.generated == 0
    backend.cancel(requests[4])
    assert [r.request for r in backend.poll(0)] == [requests[4]] and not backend.poll(0)
    backend.cancel(requests[4])
    assert not backend.poll(0)
    check_pool(backend)


def test_cancelling_one_of_many_looks_at_no_other():
    class Compared(Generate):
        def __eq__(self, other):
            raise AssertionError

        __hash__ = Generate.__hash__

    backend = engine(slots=1)
    requests = [Compared((1, 2), max_tokens=2) for _ in range(50)]
    for request in requests:
        backend.submit(request)
    for request in reversed(requests[10:]):
        backend.cancel(request)
    assert [reply.request for reply in backend.poll(0)] == requests[:9:-1]
    assert sum(reply.error is None for reply in tiny.drain(backend, 10)) == 10


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [*KINDS, "cohere"])
@pytest.mark.parametrize("given", [1, 15, 19])
def test_a_text_goes_up_to_the_context_and_no_further(kind, given):
    backend, text = engine(kind, context=20, pool_tokens=20), prompts(1, stem=20)[0]
    backend.texts.ends = frozenset()
    got = answers(backend, [Generate(text[:given], max_tokens=50, seed=1)])[0].result
    assert got.finish == "length" and len(got.tokens) == 20 - given
    assert len(answers(backend, [Score(text, (19,))])[0].result.log_probs) == 20
    for request in (Generate(text), Score((*text, 1), ())):
        assert isinstance(answers(backend, [request])[0].error, RequestFailed)
    check_pool(backend)


@pytest.mark.thorough
def test_a_tiny_pool_evicts_and_draws_the_same():
    requests = [
        Generate(p, max_tokens=15, seed=i, stop=("q",)) for i, p in enumerate(prompts(60, own=10))
    ]
    small, large = engine(pool_tokens=100, slots=16), engine(slots=16)
    again = [dataclasses.replace(r) for r in requests]
    for a, b in zip(answers(small, requests), answers(large, again), strict=True):
        assert getattr(a.result, "tokens", None) == b.result.tokens or len(a.request.prompt) > 85
    assert small._store.tree.stored <= 100 < large._store.tree.stored
    check_pool(small)
    check_pool(large)


def test_what_can_never_fit_and_what_cannot_be_read():
    backend = engine(pool_tokens=40)
    long, good = (
        Generate(tuple(range(40)), max_tokens=5),
        Generate(tuple(range(38)), max_tokens=5, temperature=0),
    )
    replies = answers(backend, [long, good])
    assert isinstance(replies[0].error, RequestFailed) and "40" in str(replies[0].error)
    assert len(replies[1].result.tokens) <= 2 and replies[1].result.finish in ("length", "end")
    hot = [Generate((1,), temperature=number) for number in (-1, float("inf"), float("nan"))]
    for bad in (
        Generate(()),
        Generate((1,), stop="q"),
        Generate((1,), stop=(5,)),
        Generate((300,)),
        Generate((1,), max_tokens=0),
        Score((1, 2), (2,)),
        *hot,
    ):
        with pytest.raises(ValueError, match=":"):
            backend.submit(bad)
    with pytest.raises(TypeError, match="Generate or Score"):
        backend.submit(object())


def test_logits_that_are_not_numbers_fail_only_their_own_request():
    backend = engine(slots=4)
    with torch.no_grad():
        backend.model.model.embed_tokens.weight[77] = float("nan")
    requests = [
        Generate((77, 3) if i % 3 == 0 else (i, 4), max_tokens=6, temperature=0) for i in range(12)
    ]
    avoiding = answers(backend, [Generate((77, 3), avoid=(Avoided((1,), (-1.0,)),))])[0]
    # not that nothing would be left
    assert type(avoiding.error) is RequestFailed and "finite" in str(avoiding.error)
    replies = answers(backend, [*requests, Score((77, 1), (1,))])
    for i, reply in enumerate(replies[:-1]):
        if i % 3 == 0:
            assert isinstance(reply.error, RequestFailed)
        elif reply.error is None and 77 not in reply.result.tokens:
            assert reply.result.tokens == expected(backend.model, reply.request.prompt, 6)
    assert isinstance(replies[-1].error, RequestFailed)
    check_pool(backend)


@pytest.mark.thorough
def test_numbers_that_are_not_finite_reach_no_other_text_where_torch_attends():
    """Not through what is gathered beyond the end of a shorter text, nor from the end of a text
    to its beginning.
    """
    made = tiny.model().double()
    with torch.no_grad():
        made.model.embed_tokens.weight[77] = float("nan")
    backend = Engine(made, tiny.tokenizer(), slots=2)
    backend.texts.ends = frozenset()
    beside = Generate((5,) * 10, max_tokens=60, temperature=0)
    backend.submit(beside)
    failed = Generate((*range(20, 30), 77, 77), max_tokens=3)
    backend.submit(failed)
    assert isinstance(tiny.drain(backend, 1)[0].error, RequestFailed)
    after = Generate((9, 8, 7), max_tokens=5, temperature=0)  # in the slot of the failed one
    backend.submit(after)
    for reply in tiny.drain(backend, 2):
        assert reply.result.tokens == expected(made, reply.request.prompt, reply.request.max_tokens)
    bad, good = (Generate((1, 2, 3, 4, last), max_tokens=2, temperature=0) for last in (77, 6))
    replies = answers(backend, [bad, good])
    assert isinstance(replies[0].error, RequestFailed) and replies[1].result.tokens == expected(
        made, good.prompt, 2
    )


@pytest.mark.parametrize("kind", KINDS)
def test_score_reads_log_probs_and_values(kind, monkeypatch):
    monkeypatch.setattr("models.engine.engine.CHUNK", 16)  # long texts take several passes
    monkeypatch.setattr("models.engine.scoring.BLOCK", 2)  # and their logits several products
    head = tiny.head().requires_grad_(False)
    backend = engine(kind, head)
    text = tuple(np.random.default_rng(3).integers(0, 256, 50).tolist())
    requests = [
        Score(text, (49, 3, 20), (7, 8)),
        Score(text[:9], (0,)),
        Generate(text, max_tokens=3),
        Score((5,), (), ()),
    ]
    logits, taken = backend._pass.logits, []
    monkeypatch.setattr(
        backend._pass,
        "logits",
        lambda states, rows=None: taken.append(len(states)) or logits(states, rows),
    )
    replies = answers(backend, requests)
    assert max(taken) == 2
    log_probs, hidden = forward(backend.model, text)
    got = replies[0].result
    assert np.isnan(got.log_probs[0]) and got.log_probs.shape == (50,)
    np.testing.assert_allclose(got.log_probs[1:], log_probs[np.arange(49), text[1:]], atol=2e-5)
    np.testing.assert_allclose(got.reads, log_probs[[49, 3, 20]][:, [7, 8]], atol=2e-5)
    np.testing.assert_allclose(got.values, head(hidden[[49, 3, 20]]).detach(), atol=2e-5)
    assert replies[0].usage.prefilled == 50 and replies[1].result.reads.shape == (1, 0)
    assert replies[3].result.log_probs.shape == (1,) and replies[3].result.values.shape == (0,)


@pytest.mark.thorough
def test_usage_counts_passes_rows_and_work():
    backend = engine()
    backend.texts.ends = frozenset()
    requests = [Generate((i, i + 1), max_tokens=30, seed=i) for i in range(128)]
    replies = answers(backend, requests)
    passes, rows = sum(r.usage.passes for r in replies), sum(r.usage.rows for r in replies)
    assert rows / passes > 60 and sum(r.usage.slots for r in replies) == passes * 64
    one = answers(engine(), [Generate((1, 2, 3), max_tokens=4)])[0].usage
    tokens = 3 + 3  # the last token drawn is not passed
    parameters = backend.model.num_parameters()
    assert one.flops == 2 * parameters * tokens + 4 * 2 * 32 * (tokens * (tokens + 1) / 2)
    assert one.passes == 4 and one.rows == 4 and one.slots == 4 * 64 or one.passes == one.rows


@pytest.mark.thorough
def test_what_is_not_known_is_read_anew_and_right(caplog):
    model = architecture("Cohere")
    backend = Engine(model, tiny.tokenizer(), tiny.head(), slots=20)
    assert (
        backend.path == "plain"
        and caplog.text.count("read anew in every pass") == 1
        and "logits would differ" in caplog.text
    )
    requests = [Generate(p, max_tokens=8, temperature=0, stop=("q",)) for p in prompts(20)]
    for reply in answers(backend, requests):
        assert reply.result.tokens == expected_until(model, reply.request)
        assert reply.usage.prefilled == len(reply.request.prompt)
    scored = answers(backend, [Score(tuple(range(20)), (5,), (1,))])[0].result
    # those of a whole text are not kept
    assert all(len(logits) == 1 for logits in backend._pass._logits.values())
    log_probs, _ = forward(model, tuple(range(20)))
    np.testing.assert_allclose(
        scored.log_probs[1:], log_probs[np.arange(19), np.arange(1, 20)], atol=2e-5
    )


def test_a_model_without_attention_is_read_anew_and_right():
    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=258,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=4,
        eos_token_id=256,
        pad_token_id=0,
    )
    made = transformers.MambaForCausalLM(config).eval()
    backend = Engine(made, tiny.tokenizer(), slots=3)
    assert backend.path == "plain"
    for reply in answers(backend, [Generate(p, max_tokens=6, temperature=0) for p in prompts(4)]):
        text = reply.request.prompt
        for token in reply.result.tokens:
            assert token == int(made(torch.tensor([text])).logits[0, -1].argmax())
            text += (token,)


def test_a_request_is_not_taken_twice_while_it_is_under_way():
    backend, request = engine(slots=1), Generate((1, 2), max_tokens=2)
    backend.submit(request)
    with pytest.raises(ValueError, match="under way"):
        backend.submit(request)
    backend.poll(0)
    with pytest.raises(ValueError, match="under way"):
        backend.submit(request)
    tiny.drain(backend, 1)
    answers(backend, [request])
