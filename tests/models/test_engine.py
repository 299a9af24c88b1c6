"""The engine against `generate` and full forward passes of the same model: it may only be
faster, never different.
"""

from __future__ import annotations

import dataclasses
import weakref

import numpy as np
import pytest
import tiny
import torch
import transformers

from models.engine.engine import Engine
from models.engine.prefix_tree import PrefixTree
from search.scheduling.requests import (
    Avoided,
    Cancelled,
    Generate,
    NothingLeft,
    RequestFailed,
    Score,
    check_backend,
)

KINDS = ["llama", "qwen2"]


def prompts(count, seed=0, stem=12, own=6):
    """Prompts that share prefixes, as those of a search tree do."""
    rng = np.random.default_rng(seed)
    made = [tuple(rng.integers(0, 256, stem).tolist())]
    while len(made) < count:
        old = made[rng.integers(len(made))]
        made.append(
            old[: rng.integers(1, len(old) + 1)]
            + tuple(rng.integers(0, 256, rng.integers(0, own)).tolist())
        )
    return made


def expected(model, prompt, tokens):
    """Greedy continuation by transformers' own generate."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return tuple(out[0, len(prompt) :].tolist())


def forward(model, tokens):
    """log-probs [tokens, vocabulary] and last hidden states [tokens, hidden] of a whole text."""
    with torch.no_grad():
        out = model(torch.tensor([tokens]), output_hidden_states=True)
    return torch.log_softmax(out.logits[0].float(), -1).numpy(), out.hidden_states[-1][0]


def engine(kind="llama", head=None, **options):
    model = tiny.model(kind)
    return Engine(model, tiny.tokenizer(), head, **options)


def check_pool(engine):
    engine._store.tree.check([])
    assert (
        not engine._rows.running
        and sorted(engine._rows.free) == list(range(engine.slots))
        and not engine._rows.stage.any()
    )
    assert not engine._reserved and not engine._rows.to_read


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


def answers(backend, requests):
    return tiny.answers(backend, requests)


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


def script(model, ids):
    """Make a model say `ids` one after the other, whatever the prompt: each token's embedding
    tells the next.
    """
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        n, d = model.model.embed_tokens.weight.shape
        codes = torch.sign(torch.randn(n, d))
        model.model.embed_tokens.weight.copy_(codes)
        model.model.norm.weight.fill_(1)
        model.lm_head.weight.normal_(std=0.01)
        follows = dict(zip([5, *ids], ids, strict=False))
        for a, b in follows.items():
            model.lm_head.weight[b] = codes[a]


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


def architecture(name, **options):
    small = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    small |= {"intermediate_size": 48, "num_local_experts": 4}
    if name == "GPT2":
        small = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    config = getattr(transformers, f"{name}Config")(
        vocab_size=258,
        max_position_embeddings=256,
        eos_token_id=256,
        pad_token_id=0,
        initializer_range=0.2,
        **small,
        **options,
    )
    torch.manual_seed(0)
    return getattr(transformers, f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")(
        config
    ).eval()


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


ARCHITECTURES = {
    "Qwen3": "lean",
    "Mistral": "lean",
    "Mixtral": "modules",
    "GPT2": "modules",
    "Gemma2": "modules",
    "Cohere": "plain",
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_architectures(name):
    made = architecture(name)
    backend = Engine(made, tiny.tokenizer(), slots=3)
    assert backend.path == ARCHITECTURES[name]
    for reply in answers(backend, [Generate(p, max_tokens=8, temperature=0) for p in prompts(5)]):
        assert reply.result.tokens == expected(made, reply.request.prompt, 8)


@pytest.mark.parametrize(
    "name, options",
    [
        ("Mistral", {"sliding_window": 8}),
        ("Gemma2", {"sliding_window": 8, "attn_logit_softcapping": 2.0}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sliding_windows_and_soft_caps(name, options, dtype):
    made = architecture(name, **options).to(dtype)
    made.set_attn_implementation("eager")  # sdpa of transformers 5.17 leaves soft caps out
    backend = Engine(made, tiny.tokenizer(), slots=3)
    assert backend.path == ("lean" if name == "Mistral" and dtype == torch.float32 else "modules")
    for reply in answers(backend, [Generate(p, max_tokens=16, temperature=0) for p in prompts(9)]):
        assert reply.result.tokens == expected(made, reply.request.prompt, 16)


def test_bfloat16_is_near():
    model, exact = tiny.model().to(torch.bfloat16), tiny.model()
    backend = Engine(model, tiny.tokenizer(), tiny.head(), slots=4)
    assert backend.path == "lean"
    for reply in answers(
        backend, [Generate(p, max_tokens=10, seed=i, stop=("q",)) for i, p in enumerate(prompts(8))]
    ):
        prompt, got = reply.request.prompt, reply.result
        log_probs, _ = forward(exact, prompt + got.tokens)
        at = np.arange(len(prompt) - 1, len(prompt) + len(got.tokens) - 1)
        assert np.abs(got.log_probs - log_probs[at, got.tokens]).max() < 0.5


def test_out_of_memory_halves_the_slots_and_draws_the_same(monkeypatch):
    backend, requests = (
        engine(slots=8),
        [Generate(p, max_tokens=9, seed=i) for i, p in enumerate(prompts(12))],
    )
    forward, calls = backend._pass.forward, []

    def scarce(last, length, active, chunks):
        calls.append(len(backend._rows.running))
        if len(backend._rows.running) > 4 and len(calls) > 3 or backend.slots == 1:
            raise torch.OutOfMemoryError
        return forward(last, length, active, chunks)

    monkeypatch.setattr(backend._pass, "forward", scarce)
    for request in requests:
        backend.submit(request)
    replies = []
    while backend.slots == 8:
        replies += backend.poll(0)
    assert backend.slots == 4 and list(backend._queue) == [
        r for r in requests if all(r is not reply.request for reply in replies)
    ]
    replies = sorted(
        replies + tiny.drain(backend, 12 - len(replies)), key=lambda reply: reply.request.seed
    )
    for a, b in zip(
        replies, answers(engine(), [dataclasses.replace(r) for r in requests]), strict=True
    ):
        assert a.result.tokens == b.result.tokens
    backend.slots = 1
    backend.submit(Generate((1,)))
    with pytest.raises(MemoryError, match="pool"):
        backend.poll(0)


@pytest.mark.parametrize("kind", ["llama", "cohere"])
def test_the_pool_is_let_go_before_another_is_made_and_by_close(kind, monkeypatch):
    backend = engine(kind, slots=4)
    first, make = weakref.ref(backend._store.pool), type(backend._store)

    def made(*args):
        assert first() is None
        return make(*args)

    def full(*args):
        monkeypatch.undo()
        monkeypatch.setattr("models.engine.engine.Store", made)
        raise torch.OutOfMemoryError

    monkeypatch.setattr(backend._pass, "forward", full)
    reply = answers(backend, [Generate((1, 2, 3), max_tokens=3)])[0]
    assert reply.error is None and backend.slots == 2
    second = weakref.ref(backend._store.pool)
    backend.submit(Generate((1, 2, 3), max_tokens=3))
    backend.poll(0)
    backend.close()
    assert second() is None and not backend.poll(0)
    with pytest.raises(RuntimeError, match="closed: make a new one"):
        backend.clear()


def test_nobody_finds_what_an_interrupted_pass_has_not_read(monkeypatch):
    backend, text = engine(), prompts(1)[0]
    whole = Generate(text, max_tokens=3, temperature=0)
    for passes in (0, 2):  # while the prompt is read; while a token is passed
        backend.submit(whole)
        for _ in range(passes):
            backend.poll(0)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(backend._pass, "forward", interrupted)
            backend.poll(0)
        backend.cancel(whole)
        assert isinstance(tiny.drain(backend, 1)[0].error, Cancelled)
        check_pool(backend)
        again = answers(backend, [Generate(text, max_tokens=5, temperature=0)])[0]
        assert again.result.tokens == expected(
            backend.model, text, 5
        ) and again.usage.prefilled == (0 if passes else len(text))
        backend.clear()


def interrupted(*args):
    raise KeyboardInterrupt


@pytest.mark.parametrize("options", [{"slots": 0}, {"context": 0}, {"context": -3}])
def test_slots_and_contexts_that_are_impossible_are_refused(options):
    with pytest.raises(ValueError, match="impossible: give at least 1"):
        engine(**options)


def test_a_pool_beyond_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr("models.engine.kv_pool.LARGE", 0)
    monkeypatch.setattr("models.engine.kv_pool.memory_left", lambda: 1000)
    with pytest.raises(ValueError, match="1000 are left: give a smaller pool_tokens"):
        engine(pool_tokens=1000)
    with pytest.raises(ValueError, match="pool of 0 tokens"):
        engine(pool_tokens=0)


def test_new_weights_need_a_clear():
    backend = engine()
    request = Generate(prompts(1)[0], max_tokens=20, temperature=0)
    backend.submit(request)
    backend.poll(0)
    with pytest.raises(RuntimeError, match="still run"):
        backend.clear()
    tiny.drain(backend, 1)
    with torch.no_grad():
        for parameter in backend.model.parameters():
            parameter.mul_(1.1).add_(torch.randn_like(parameter) * 0.02)
    backend.clear()
    reply = answers(backend, [dataclasses.replace(request)])[0]
    assert reply.usage.reused == 0 and reply.result.tokens == expected(
        backend.model, request.prompt, 20
    )
    backend.close()
    backend.close()
    with pytest.raises(RuntimeError, match="closed"):
        backend.submit(request)


def test_examiner_passes_the_engine_and_catches_a_cheat():
    check_backend(engine(), lambda i: Generate((i, 7), max_tokens=6, seed=i))
    check_backend(engine(), lambda i: Generate((i, 7), stop=("q",), max_tokens=30, seed=i, top_k=5))
    cheat = engine()
    join = cheat._rows.join

    def by_slot(row, texts):  # draws that depend on the slot
        join(row, texts)
        cheat._rows._seed[row.slot] = row.slot

    cheat._rows.join = by_slot
    with pytest.raises(AssertionError, match="another result alone"):
        check_backend(cheat, lambda i: Generate((i, 7), max_tokens=6, seed=i))


def test_an_engine_works_beside_the_models_own_generate():
    backend = engine()
    backend.submit(Generate((1, 2, 3), max_tokens=5, temperature=0))
    backend.poll(0)
    before = expected(backend.model, (1, 2, 3), 5)
    assert tiny.drain(backend, 1)[0].result.tokens == before


def test_the_tree_against_a_dictionary_of_prefixes():
    """Texts join, grow, end and are forgotten in a pool that is too small: a slot always holds
    the token of exactly one prefix.
    """
    rng, tree = np.random.default_rng(0), PrefixTree(64)
    owner, running = {}, []  # slot -> the prefix whose last token it holds

    def places(number):
        return running[number][1][: len(running[number][0])]

    for _ in range(4000):
        act = rng.integers(4)
        if act == 0:
            tokens, room = rng.integers(0, 3, rng.integers(1, 12)), np.full(40, -1, np.int32)
            known, fresh = tree.look(tokens)
            if tree.held + fresh <= tree.capacity - 10:
                tree.join(tokens, known, room[: len(tokens)])
                slots = room[: len(tokens)].tolist()
                assert [owner[slot] for slot in slots[:known]] == [
                    tuple(tokens[: i + 1].tolist()) for i in range(known)
                ]
                assert not tree.ready[slots[known:]].any() or known == len(tokens)
                owner |= {slot: tuple(tokens[: i + 1].tolist()) for i, slot in enumerate(slots)}
                tree.ready[slots] = 1
                running.append((tokens.tolist(), room))
        elif act == 1 and running and tree.held + len(running) <= tree.capacity:
            drawn = rng.integers(0, 3, len(running))
            new = tree.step(np.array([places(i)[-1] for i in range(len(running))], np.int64), drawn)
            for (tokens, room), token, slot in zip(
                running, drawn.tolist(), new.tolist(), strict=True
            ):
                if tree.ready[slot]:
                    assert owner[slot] == (*tokens, token), (
                        "what is ready was read below the very same prefix"
                    )
                owner[slot] = (*tokens, token)
                room[len(tokens)] = slot
                tokens.append(token)
            tree.ready[new] = 1
        elif running and (act == 2 or len(running) > 4):
            number = rng.integers(len(running))
            tree.leave(places(number))
            del running[number]
        running = [pair for pair in running if len(pair[0]) < 39] + [
            pair for pair in running if len(pair[0]) >= 39
        ]
        for tokens, room in running:
            assert [owner[slot] for slot in room[: len(tokens)].tolist()] == [
                tuple(tokens[: i + 1]) for i in range(len(tokens))
            ]
        if running and len(running[-1][0]) >= 39:
            tree.leave(places(-1))
            del running[-1]
        if rng.integers(20) == 0:
            tree.check([places(i) for i in range(len(running))])
    assert tree.ever > 2000
    with pytest.raises(MemoryError, match="held"):
        tree.join(np.arange(3, 70), 0, np.empty(67, np.int32))


def test_what_was_never_read_does_not_stay():
    tree, first, second = PrefixTree(10), np.empty(3, np.int32), np.empty(4, np.int32)
    tree.join(np.array([1, 2, 3]), 0, first)
    tree.ready[first[:2]] = 1
    tree.join(np.array([1, 2, 3, 4]), 3, second)
    tree.leave(first)
    assert tree.stored == 4 and tree.held == 4
    tree.leave(second)
    assert tree.stored == 2 and tree.held == 0 and tree.look(np.array([1, 2, 3]))[0] == 2


PROMPT = (0, 2, 1)


def few():
    """An engine that can say 40 things after `PROMPT` in at most three tokens, token 3 ends; and
    the log-probs of each one's tokens.
    """
    model = tiny.model(vocab=4, eos_token_id=3)
    table = {}
    for tokens in (
        [(3,)]
        + [(a, 3) for a in range(3)]
        + [(a, b, c) for a in range(3) for b in range(3) for c in range(4)]
    ):
        log_probs, _ = forward(model, PROMPT + tokens)
        table[tokens] = [float(log_probs[len(PROMPT) - 1 + i, t]) for i, t in enumerate(tokens)]
    assert abs(sum(np.exp(sum(each)) for each in table.values()) - 1) < 1e-5 and min(
        map(sum, table.values())
    ) > np.log(1e-5)
    return Engine(model, tiny.tokenizer()), table


def avoided(result):
    return Avoided(result.tokens, tuple(result.log_probs.tolist()))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 1},
        {"top_k": 2, "top_p": 0.6, "min_p": 0.1},
    ],
)
def test_draws_without_replacement_say_everything_once_and_then_report_the_end(options):
    backend, table = few()
    drawn = []
    for seed in range(len(table)):
        request = Generate(
            PROMPT, max_tokens=3, seed=seed, avoid=tuple(map(avoided, drawn)), **options
        )
        drawn.append(answers(backend, [request])[0].result)
        np.testing.assert_allclose(drawn[-1].log_probs, table[drawn[-1].tokens], atol=1e-5)
    assert {result.tokens for result in drawn} == set(table)
    end = answers(backend, [Generate(PROMPT, max_tokens=3, avoid=tuple(map(avoided, drawn)))])[0]
    assert isinstance(end.error, NothingLeft) and end.usage.generated == 0
    check_pool(backend)


@pytest.mark.parametrize("count", [1, 12])
def test_what_is_drawn_beside_the_avoided_has_exactly_the_conditional_distribution(count):
    backend, table = few()
    likeliest = sorted(table, key=lambda tokens: -sum(table[tokens]))
    avoid = tuple(Avoided(tokens, tuple(table[tokens])) for tokens in likeliest[:count])
    n = 2000
    got = [
        r.result
        for r in answers(
            backend, [Generate(PROMPT, max_tokens=3, seed=seed, avoid=avoid) for seed in range(n)]
        )
    ]
    p = {tokens: np.exp(sum(table[tokens])) for tokens in likeliest[count:]}
    share = {tokens: p[tokens] / sum(p.values()) for tokens in p}
    seen = {tokens: sum(g.tokens == tokens for g in got) for tokens in p}
    assert sum(seen.values()) == n
    statistic = sum((seen[t] - n * share[t]) ** 2 / (n * share[t]) for t in p)
    assert (statistic - len(p) + 1) / np.sqrt(2 * (len(p) - 1)) < 4
    for result in got[:50]:
        assert result.sampled_log_probs.sum() == pytest.approx(
            np.log(share[result.tokens]), abs=1e-4
        )
        np.testing.assert_allclose(result.log_probs, table[result.tokens], atol=1e-5)


def test_what_one_row_avoids_is_nothing_to_its_neighbours():
    backend, table = few()
    order = sorted(table)

    def request(seed):
        taken = np.random.default_rng(seed).choice(len(order), size=(seed % 4) * 12, replace=False)
        return Generate(
            PROMPT,
            max_tokens=3,
            seed=seed,
            avoid=tuple(Avoided(order[i], tuple(table[order[i]])) for i in taken),
        )

    together = [r.result.tokens for r in answers(backend, [request(seed) for seed in range(64)])]
    for seed in range(64):
        assert answers(backend, [request(seed)])[0].result.tokens == together[seed]
        if seed % 4 == 0:
            assert (
                answers(backend, [Generate(PROMPT, max_tokens=3, seed=seed)])[0].result.tokens
                == together[seed]
            )


def test_a_token_that_must_follow_is_the_end_where_it_is_avoided():
    """Recorded log-probs a little off: the row walks into a branch of which nothing is left, and
    says so.
    """
    model = tiny.model()
    script(model, tiny.tokenizer().encode("abc"))
    with torch.no_grad():
        model.lm_head.weight.mul_(1e4)
    backend = Engine(model, tiny.tokenizer())
    first = answers(backend, [Generate((5,), max_tokens=3)])[0].result
    assert first.text == "abc" and not first.log_probs.any()
    off = Avoided(first.tokens, (-0.1, 0.0, 0.0))
    other, same = answers(
        backend, [Generate((5,), max_tokens=3, avoid=(off,)), Generate((5,), max_tokens=3)]
    )
    assert isinstance(other.error, NothingLeft) and same.result.tokens == first.tokens
    check_pool(backend)


@pytest.mark.parametrize(
    "bad", [Avoided((), ()), Avoided((1, 2), (-0.5,)), Avoided((1,), (float("nan"),))]
)
def test_what_to_avoid_needs_its_log_probs(bad):
    with pytest.raises(ValueError, match="log-prob of each"):
        engine().submit(Generate((5,), avoid=(bad,)))


def test_the_longest_unused_text_is_forgotten_first_from_its_end():
    """Whole ends of old texts go, not a token of each; what several texts share stays as long as
    the latest of them.
    """
    tree = PrefixTree(64)
    # 2 shared tokens, then 10 of its own each
    texts = [np.array([7, 8, *range(10 * i, 10 * i + 10)]) for i in (1, 2, 3)]
    for text in texts:
        places = np.empty(len(text), np.int32)
        tree.join(text, tree.look(text)[0], places)
        tree.ready[places] = 1
        tree.leave(places)
    assert tree.look(texts[0]) == (12, 12)  # all there, none held
    for left in ([12, 12, 12], [5, 12, 12], [2, 8, 12], [2, 2, 11], [2, 2, 4], [0, 0, 0]):
        assert [tree.look(text)[0] for text in texts] == left
        tree._make_room(tree.capacity - tree.stored + min(7, tree.stored))
    tree.check([])


def test_what_is_held_stays_when_all_that_follows_it_is_forgotten():
    tree, held, more = PrefixTree(32), np.empty(4, np.int32), np.empty(9, np.int32)
    tree.join(np.arange(4), 0, held)
    tree.join(np.arange(9), 4, more)  # uses what is held, too
    tree.ready[more] = 1
    tree.leave(more)
    assert tree.look(np.arange(9)) == (9, 5)  # five of nine would be held newly
    with pytest.raises(MemoryError, match="29 cells are wanted and 28 of 32 are free, 4 held"):
        tree._make_room(29)
    tree.check([held])
    assert tree.stored == 4 and tree.look(np.arange(9)) == (4, 5)
