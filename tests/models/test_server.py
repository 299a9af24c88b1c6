"""The server backend against a fake server that speaks every dialect: what it sends, what comes
back, and its scores.
"""

from __future__ import annotations

import logging

import numpy as np
import pytest
import tiny
from fake_server import END, MODEL, FakeServer, echoes, log_prob
from hypothesis import given, settings
from hypothesis import strategies as st
from server_cases import DIALECTS, error
from serving import TOKENIZER, answers, ask, encode, result, servers

from models import Server
from models.server import client
from models.server.capabilities import OPTIONS, SEEDS, Capabilities
from models.server.responses import Words, generated
from search.scheduling.requests import (
    Generate,
    RequestFailed,
    Score,
    Usage,
    check_backend,
)


@pytest.fixture(autouse=True)
def serve(monkeypatch):
    with servers(monkeypatch) as make:
        yield make


# -- what comes back


@pytest.mark.parametrize("name", DIALECTS)
def test_it_is_a_backend(serve, name):
    server, backend = serve(**DIALECTS[name])
    check_backend(backend, lambda i: ask(seed=i))
    assert backend.poll(0) == [] and not backend.computes


@pytest.mark.parametrize("name", DIALECTS)
def test_replies_are_those_of_an_engine(serve, name):
    """Tokens with their stop, text without, how it ended: the same from every server."""
    server, backend = serve(**DIALECTS[name])
    line = echoes("hello\n", 5).split("\n")[0]
    stopped = result(backend, ask(seed=5))
    assert (stopped.text, stopped.tokens, stopped.finish) == (line, encode(line + "\n"), "stop")
    cut = result(backend, ask(seed=5, max_tokens=6))
    assert (cut.text, cut.tokens, cut.finish) == (line[:6], encode(line[:6]), "length")
    ended = result(backend, ask(stop=(), seed=5))
    assert (ended.text, ended.tokens, ended.finish) == (
        echoes("hello\n", 5),
        (*encode(echoes("hello\n", 5)), END),
        "end",
    )
    for got in (stopped, cut, ended):
        assert (
            np.isnan(got.value) and got.log_probs.dtype == got.sampled_log_probs.dtype == np.float32
        )
        assert got.log_probs.shape == got.sampled_log_probs.shape == (len(got.tokens),)
    told = DIALECTS[name].get("log_probs", True)
    numbers = np.float32([log_prob(t) if told else np.nan for t in stopped.tokens])
    numbers[len(numbers) - server.leaves :] = np.nan
    np.testing.assert_array_equal(stopped.log_probs, numbers)
    np.testing.assert_array_equal(stopped.sampled_log_probs, stopped.log_probs)


@pytest.mark.thorough
def test_an_end_is_told_from_a_stop_string(serve):
    """Also where the end comes first, in the servers that tell the difference or leave the stop
    string in the text.
    """
    for name in ("vllm", "sglang", "words", "transformers", "openai"):
        _, backend = serve(**DIALECTS[name], say=lambda prompt, seed: "the end")
        got = result(backend, ask())
        assert (got.text, got.tokens, got.finish) == (
            "the end",
            (*encode("the end"), END),
            "end",
        ), name
    _, backend = serve(**DIALECTS["plain"], say=lambda prompt, seed: "")
    assert (result(backend, ask()).tokens, result(backend, ask()).finish) == ((END,), "end"), (
        "an empty text has ended"
    )


def test_more_tokens_than_the_stop_are_cut(serve):
    """A server that draws ahead (speculative decoding) tells tokens behind the stop string, one
    that trims tells none of it.
    """
    more = {"token_ids": list(encode("one\ntwo")), "logprobs": None, "text": "one"}
    less = {"token_ids": list(encode("one")), "logprobs": None, "text": "one", "stop_reason": "\n"}
    other = {
        "token_ids": [*encode("one"), 257],
        "logprobs": None,
        "text": "one",
        "stop_reason": 257,
    }
    server, backend = serve()
    at_once = {"token_ids": [], "logprobs": None, "text": "", "stop_reason": "\n"}
    server.fault = lambda number, body: [more, less, other, at_once][number]
    got = [result(backend, ask()) for _ in range(4)]
    assert [(r.text, r.tokens, r.finish) for r in got] == [
        ("one", encode("one\n"), "stop"),
        ("one", encode("one\n"), "stop"),
        ("one", (*encode("one"), 257), "end"),
        ("", encode("\n"), "stop"),
    ]


def test_a_stop_string_that_is_left_in_the_tokens_in_part(serve):
    """llama.cpp leaves out the last token of a stop string only, and tells the end token where a
    text has ended.
    """
    part = {
        "token_ids": list(encode("one\n")),
        "logprobs": None,
        "text": "one",
        "stop_reason": "\n\n",
    }
    end = {
        "token_ids": [*encode("one"), END],
        "logprobs": None,
        "text": "one",
        "stop_reason": "\n\n",
    }
    server, backend = serve(fault=lambda number, body: part if number == 0 else end)
    got = [result(backend, ask(stop=("\n\n",))) for _ in range(2)]
    assert [(r.text, r.tokens, r.finish) for r in got] == [
        ("one", encode("one\n\n"), "stop"),
        ("one", (*encode("one"), END), "end"),
    ]


#: Two line ends, and a colon, a bracket and a full stop with them, are a token each.
MERGES = (("Ċ", "Ċ"), (":", "ĊĊ"), (")", "."), (").", "ĊĊ"))


@pytest.mark.parametrize("told_ids", [False, True])
@pytest.mark.parametrize(
    "said",
    ["So:\n\nf(x).\n\n2\n\nx}.\n\na\n\n:\n\n:", "a).\n", ":\n\n).\n\n.", "ü:\n\n)\n\na:\n\n"],
)
def test_characters_of_a_token_with_the_stop_string_are_not_lost(said, told_ids):
    """llama.cpp leaves out the last token, and ":" with a blank line is one: the steps must give
    the whole text and its tokens.
    """
    options = DIALECTS["llama.cpp"] | {
        "told_ids": told_ids,
        "marks": "stop_reason" if told_ids else None,
    }
    with FakeServer(
        lambda prompt, seed: said.removeprefix(prompt.removeprefix("go>")), merges=MERGES, **options
    ) as server:
        backend = Server(server.url, MODEL, server.tokenizer)
        prompt, tokens, texts, finish = tuple(server.tokenizer.encode("go>")), (), [], ""
        while finish != "end":
            step = result(backend, Generate((*prompt, *tokens), ("\n\n",), 40))
            finish = step.finish
            assert (
                server.texts.decode(step.tokens)
                == step.text + {"stop": "\n\n", "end": "<eos>"}[finish]
            )
            tokens, texts = (*tokens, *step.tokens), [*texts, step.text]
        backend.close()
    assert "\n\n".join(texts) == said
    assert tokens == (*server.tokenizer.encode(said), server.end)


def test_an_end_is_told_from_a_stop_string_by_the_words(serve):
    """llama-cpp-python tells no mark, but the words of a stop string."""
    _, backend = serve(
        told_ids=False,
        marks=None,
        say=lambda prompt, seed: "the end" if seed == 1 else "on\nand on",
    )
    assert backend.capabilities.spells
    ends = {
        "logprobs": {"tokens": list("the end"), "token_logprobs": [-1.0] * 7, "top_logprobs": None}
    }
    server, backend = serve(
        told_ids=False,
        marks=None,
        say=lambda prompt, seed: "the end",
        fault=lambda number, body: ends,
    )
    assert (result(backend, ask()).finish, result(backend, ask()).tokens[-1]) == ("end", END)
    server, backend = serve(told_ids=False, marks=None)
    assert result(backend, ask()).finish == "stop"


def test_tokens_that_are_told_as_words_are_those_that_were_sampled(serve):
    """Also where the text would be read as other tokens: two line ends in a row are one token or
    two.
    """
    merged = tiny.tokenizer((("Ċ", "Ċ"),))
    one, two = (merged.encode(text)[0] for text in ("\n", "\n\n"))
    words = Words(merged)
    assert (
        words.spelled([b"a", b"\n", b"\n"])
        == [*merged.encode("a"), one, one]
        != merged.encode("a\n\n")
    )
    assert words.spelled([b"\n\n", "ü".encode()]) is None and words.spelled([b"\n\n"]) == [two]
    told = {"tokens": ["a", "\n", "\n"], "token_logprobs": [-0.5, -1.0, -2.0], "top_logprobs": None}
    choice = {"text": "a", "finish_reason": "stop", "logprobs": told}
    got = generated(
        Generate((1,), ("\n\n",), 9),
        {"choices": [choice]},
        Capabilities("m", log_probs=True),
        words,
    )
    assert (got.text, got.tokens, got.finish) == ("a", (*merged.encode("a"), one, one), "stop")
    np.testing.assert_array_equal(got.log_probs, np.float32([-0.5, -1, -2]))


def test_log_probs_of_another_temperature_are_not_taken_for_the_models_own(serve):
    _, sglang = serve(**DIALECTS["sglang"])
    _, vllm = serve()
    for backend, own in ((sglang, False), (vllm, True)):
        warm = result(backend, ask(temperature=0.5))
        assert (
            backend.capabilities.own is own
            and np.isfinite(warm.log_probs).all() == own
            and np.isnan(warm.sampled_log_probs).all()
        )
        assert np.isfinite(result(backend, ask()).log_probs).all()
        greedy = result(backend, ask(temperature=0.0))
        assert np.isfinite(greedy.log_probs).all() and (greedy.sampled_log_probs == 0).all()
        assert np.isnan(result(backend, ask(top_p=0.5)).sampled_log_probs).all()


def test_usage_is_the_servers(serve):
    server, backend = serve()
    first, again = (answers(backend, ask("a prompt\n", seed=1))[0] for _ in range(2))
    length = len(first.result.tokens)
    assert first.usage == Usage(calls=1, generated=length, prefilled=9, reused=0)
    assert again.usage == Usage(calls=1, generated=length, prefilled=0, reused=9)
    server.fault = lambda number, body: {"usage": None}
    assert answers(backend, ask("a prompt\n", seed=1))[0].usage == first.usage, (
        "what it does not count is counted here"
    )


@pytest.mark.thorough
@settings(max_examples=200, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.integers(0, 25),
    st.booleans(),
)
def test_any_text_comes_back_as_it_was(text, cut, told):
    """Cut anywhere, with ids or without: text and tokens say the same, and the tokens decode to
    the text and its stop.
    """
    ids = TOKENIZER.encode(text)[:cut] if told else TOKENIZER.encode(text)
    shown = TOKENIZER.decode(ids)
    found = Capabilities("m", marks=True)
    choice = {
        "text": shown,
        "finish_reason": "length",
        "stop_reason": None,
        **({"token_ids": ids} if told else {}),
    }
    request = Generate((1,), ("\n",), 256)
    if not ids:
        with pytest.raises(RequestFailed, match="empty"):
            generated(request, {"choices": [choice]}, found, Words(TOKENIZER))
        return
    got = generated(request, {"choices": [choice]}, found, Words(TOKENIZER))
    assert got.finish == ("stop" if "\n" in shown else "length")
    # a character that is cut comes with what follows
    begun = TOKENIZER.encode(text[: len(shown)]) != ids if told else False
    assert got.text == (
        shown.removesuffix("\ufffd") if begun and got.finish == "length" else shown.split("\n")[0]
    )
    assert TOKENIZER.decode(got.tokens).startswith(got.text) and (
        not told or got.tokens == tuple(ids[: len(got.tokens)])
    )


def test_tokens_of_a_text_do_not_begin_with_a_space_of_their_own():
    """Some tokenizers put a space before every text; what follows a prompt has none."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<s>", "</s>", "\u2581", *"abcdefgh\n"]
    raw = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    raw.decoder = decoders.Metaspace(prepend_scheme="first")
    raw.add_special_tokens(["<s>", "</s>"])
    words = Words(PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>"))
    prompt = tuple(words.encode("ab\n"))
    assert words.encode("cd") == [2, 5, 6], "the tokenizer does what this test is about"
    assert words.after(prompt, "cd") == [5, 6] and words.after(prompt, " cd") == [2, 5, 6]


def test_text_for_a_server_does_not_begin_twice():
    from tokenizers import processors

    tokenizer = tiny.tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<|im_end|> $A", special_tokens=[("<|im_end|>", 257)]
    )
    words = Words(tokenizer)
    assert tokenizer.encode("x")[0] == 257
    assert (
        words.text(tuple(tokenizer.encode("hello"))) == "hello"
        and words.text(encode("hello")) == "hello"
    )
    assert words.text((257, *tokenizer.encode("hello"))) == "<|im_end|>hello"


# -- what is sent


def test_sampling_is_said_in_full(serve):
    server, backend = serve()
    answers(
        backend, ask(seed=2**62 + 5, temperature=0.7, top_p=0.9, top_k=3, min_p=0.1), ask(stop=())
    )
    full, plain = sorted(server.bodies, key=lambda body: "stop" not in body)
    assert full["prompt"] == list(encode("hello\n")) and full["stop"] == ["\n"] and "n" not in full
    assert (full["temperature"], full["top_p"], full["top_k"], full["min_p"], full["seed"]) == (
        0.7,
        0.9,
        3,
        0.1,
        (2**62 + 5) & SEEDS,
    )
    neutral = OPTIONS | {"seed": 0}
    assert {name: plain[name] for name in OPTIONS} == neutral, (
        "or the model's generation_config decides"
    )
    assert (plain["temperature"], plain["top_p"]) == (1.0, 1.0)


def test_a_server_that_takes_text_gets_the_text(serve):
    server, backend = serve(**DIALECTS["transformers"])
    assert backend.capabilities == Capabilities(MODEL, ids=False, options={"seed": 0}, keeps=True)
    result(backend, ask("grüß\n"))
    assert server.bodies[-1]["prompt"] == "grüß\n" and not set(server.bodies[-1]) & (
        OPTIONS.keys() - {"seed"} | {"logprobs"}
    )
    assert "top_k" in error(backend, ask(top_k=5), calls=0) and "min_p" in error(
        backend, ask(min_p=0.5), calls=0
    )


@pytest.mark.thorough
def test_the_door_asks_little():
    for name in DIALECTS:
        with FakeServer(**DIALECTS[name]) as server:
            Server(server.url, MODEL, TOKENIZER).close()
            assert (
                len(server.bodies) <= 12 and sum(body["max_tokens"] for body in server.bodies) <= 64
            ), name


def test_a_server_that_spells_ids_out_gets_text(serve):
    server, backend = serve(ids="spelled")
    assert (
        not backend.capabilities.ids
        and result(backend, ask(seed=5)).text == echoes("hello\n", 5).split("\n")[0]
    )


def test_the_door_is_patient():
    with FakeServer(
        fault=lambda number, body: ["drop", "refuse", "error", None][number % 4]
    ) as server:
        backend = Server(server.url, MODEL, TOKENIZER, retries=8)
        assert backend.capabilities == Capabilities(
            MODEL, options=OPTIONS | {"logprobs": 1}, log_probs=True, marks=True
        )


def test_a_slow_server_is_named_while_it_is_asked(monkeypatch, caplog):
    monkeypatch.setattr(client, "PATIENCE", 0.05)
    caplog.set_level(logging.INFO)
    with FakeServer(fault=lambda number, body: ("slow", 0.02)) as server:
        Server(server.url, MODEL, TOKENIZER).close()
    assert f"asking {server.url} what it can" in caplog.text
    caplog.clear()
    monkeypatch.setattr(client, "PATIENCE", 60.0)
    with FakeServer() as server:
        Server(server.url, MODEL, TOKENIZER).close()
    assert "what it can" not in caplog.text


# -- scores


def test_scores_are_an_echo(serve):
    tokens = encode("some text")
    for name in ("vllm", "sglang", "openai"):
        server, backend = serve(**DIALECTS[name])
        (reply,) = answers(
            backend,
            Score(tokens, (0, 3), (tokens[1],))
            if name == "openai"
            else Score(tokens, (0, len(tokens) - 1), (97, 100)),
        )
        if name == "openai":
            assert isinstance(reply.error, RequestFailed) and "likeliest" in str(reply.error)
            continue
        scored = reply.result
        np.testing.assert_array_equal(
            scored.log_probs, np.float32([np.nan, *map(log_prob, tokens[1:])])
        )
        np.testing.assert_array_equal(scored.reads, np.float32([[log_prob(97), log_prob(100)]] * 2))
        assert (
            np.isnan(scored.values).all()
            and reply.usage.generated == 0
            and server.bodies[-1]["echo"] is True
        )
        own = result(backend, Score(tokens, (2,), (tokens[3],)))
        assert own.reads[0, 0] == np.float32(log_prob(tokens[3])), (
            "what stands there needs not be likely"
        )


def test_who_cannot_score_says_so(serve):
    for name, calls in (("llama.cpp", 1), ("transformers", 0)):
        _, backend = serve(**DIALECTS[name])
        assert "model of your own" in error(backend, Score(encode("text"), (0,)), calls)
