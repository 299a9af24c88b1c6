"""The server backend against a fake server that speaks every dialect and fails in every way, and
against `transformers serve`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny
from fake_server import DRIPS, END, MODEL, FakeServer, echoes, log_prob
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import TOKENIZER, answers, ask, encode, result, servers

import guides
import search
from guides.engines import Loaded, of_server
from guides.policies.lm import LM
from guides.values.prm import PRM
from models import Scripted, Server
from models.server import http
from models.server.capabilities import OPTIONS, SEEDS, Capabilities
from models.server.responses import Words, generated
from search.checks import check_policy
from search.cli.main import main
from search.guide import Guide
from search.scheduling.budget import Budget
from search.scheduling.requests import (
    Call,
    Cancelled,
    Generate,
    Generated,
    RequestFailed,
    Score,
    TooLong,
    Untold,
    Usage,
    check_backend,
)
from search.scheduling.scheduler import run

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


@pytest.fixture(autouse=True)
def serve(monkeypatch):
    with servers(monkeypatch) as make:
        yield make


def error(backend, request, calls=1):
    (reply,) = answers(backend, request)
    assert (
        type(reply.error) in (RequestFailed, http.Refused, TooLong, Untold)
        and reply.usage.calls == calls
    )
    return str(reply.error)


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


# -- failures


@pytest.mark.parametrize("fault", ["refuse", ("refuse", "0"), "error", "drop", "half"])
def test_what_passes_is_asked_again(serve, fault):
    server, backend = serve(
        {"retries": 12}, fault=lambda number, body: fault if number % 3 and number < 12 else None
    )
    got = answers(backend, *(ask(seed=i + 1) for i in range(8)))
    server.fault = lambda number, body: None
    assert [reply.result.text for reply in got] == [
        result(backend, ask(seed=i + 1)).text for i in range(8)
    ]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("refuse", "429: too many"),
        ("error", "500: out of luck"),
        ("drop", "broke"),
        ("half", "broke (RemoteProtocolError)"),
    ],
)
def test_what_never_passes_costs_one_request(serve, fault, says):
    server, backend = serve(fault=lambda number, body: fault if body["seed"] == 3 else None)
    replies = answers(backend, *(ask(seed=i) for i in range(5)))
    assert [reply.error is None for reply in replies] == [True, True, True, False, True]
    assert (
        says in str(replies[3].error)
        and "asked 3 times" in str(replies[3].error)
        and type(replies[3].error) is RequestFailed
    )
    assert 3 <= sum(body["seed"] == 3 for body in server.bodies) <= 6, (
        "a kept connection may have been closed: that is asked once more"
    )


def test_waiting_is_as_the_server_says_and_the_same_each_time(monkeypatch):
    monkeypatch.setattr(http, "FIRST", 0.5)
    waits = [http.delay(attempt, seed=7) for attempt in range(9)]
    assert (
        waits
        == [http.delay(attempt, seed=7) for attempt in range(9)]
        != [http.delay(attempt, seed=8) for attempt in range(9)]
    )
    assert all(
        0.5 * min(30, 0.5 * 2**i) <= wait <= min(30, 0.5 * 2**i) for i, wait in enumerate(waits)
    )
    assert (
        http.delay(0, 7, "9") == 9
        and http.delay(0, 7, "soon") == waits[0]
        and http.delay(5, 7, "-3") == waits[5]
    )
    assert 50 < http.delay(0, 7, http.email.utils.formatdate(time.time() + 60)) <= 60


def test_retry_after_is_waited_for(serve, monkeypatch):
    """The pauses themselves, without a clock."""
    pauses, sleep = [], asyncio.sleep

    async def counted(seconds):
        pauses.append(seconds)
        await sleep(0)

    server, backend = serve({"retries": 3})
    monkeypatch.setattr(http.asyncio, "sleep", counted)
    server.fault = lambda number, body: ("refuse", "4") if number < 2 else None
    assert result(backend, ask()).text and [pause for pause in pauses if pause] == [4, 4]
    server.fault, pauses[:] = lambda number, body: ("refuse", "100000"), []
    assert "429" in error(backend, ask()) and not any(pauses), "nobody waits for a day"


@pytest.mark.parametrize("fault", [("slow", 1.0), *DRIPS])
def test_a_slow_answer_times_out(serve, fault):
    server, backend = serve(
        {"timeout": 0.3}, fault=lambda number, body: fault if body["seed"] == 1 else None
    )
    assert "within 0.3 s" in error(backend, ask(seed=1)) and result(backend, ask(seed=2)).text
    assert sum(body["seed"] == 1 for body in server.bodies) == 1, (
        "it is not asked again: it is slow enough"
    )


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("garbage", "no JSON object (is it"),
        ("empty", "no JSON object"),
        ("list", "no JSON object"),
        ({"choices": []}, "no choice with a text"),
        ({"choices": "x"}, "no choice with a text"),
        ({"text": None}, "no choice with a text"),
        ({"token_ids": ["a"], "logprobs": None}, "shape"),
        ({"token_ids": 7, "logprobs": None}, "shape"),
        ({"token_ids": [float("inf")], "logprobs": None}, "shape"),
        ({"token_ids": [1, 5000], "logprobs": None}, "tokens 1 to 5000, the tokenizer has 258"),
        ({"token_ids": [-1], "logprobs": None}, "give the tokenizer of the model"),
        ({"token_ids": [], "logprobs": None, "text": "", "finish_reason": "length"}, "empty text"),
        ({"finish_reason": "abort"}, "'abort'"),
        ({"finish_reason": "content_filter"}, "'content_filter'"),
        (("status", 400, "maximum context length"), "400: maximum context length"),
        (("status", 404, "no such path"), "404: no such path"),
        (("status", 301, "moved"), "301: moved"),
    ],
)
def test_nonsense_costs_one_request(serve, fault, says):
    _, backend = serve(fault=lambda number, body: fault if body["seed"] == 1 else None)
    assert says in error(backend, ask(seed=1)) and result(backend, ask(seed=2)).text
    if isinstance(fault, dict):
        reply = answers(backend, ask(seed=1))[0]
        assert reply.usage.generated > 0, "what the server generated is spent"


def test_a_kept_connection_that_was_closed_costs_nothing(serve):
    server, backend = serve({"connections": 1, "retries": 0}, fault=lambda number, body: "leave")
    for seed in range(5):
        assert result(backend, ask(seed=seed)).text
        time.sleep(0.02)
    assert len(server.bodies) == 5


def test_a_thousand_requests_on_a_few_connections(serve):
    server, backend = serve({"connections": 4})
    before, requests = server.connections, [ask(seed=i, max_tokens=4) for i in range(1000)]
    replies = answers(backend, *requests)
    assert all(reply.result.text == echoes("hello\n", i)[:4] for i, reply in enumerate(replies))
    assert server.most <= 4 and server.connections - before <= 4, "connections are kept"


# -- cancelling and closing


def test_cancelling_closes_the_connection(serve):
    server, backend = serve(
        {"connections": 2}, fault=lambda number, body: "hold" if body["seed"] == 1 else None
    )
    held, before = ask(seed=1), len(server.bodies)
    backend.submit(held)
    server.wait(lambda: len(server.bodies) > before)
    backend.cancel(held)
    backend.cancel(held)
    (reply,) = backend.poll(5)
    assert isinstance(reply.error, Cancelled) and reply.request is held and reply.usage.calls == 1
    server.wait(lambda: server.broken == 1)
    assert result(backend, ask(seed=2)).text and backend.poll(0.05) == []


def test_cancelling_ends_a_wait_and_a_queue(serve, monkeypatch):
    monkeypatch.setattr(http, "FIRST", 25.0)
    server, backend = serve(
        {"connections": 1}, fault=lambda number, body: "error" if body["seed"] == 1 else None
    )
    waiting, queued, third = ask(seed=1), ask(seed=2), ask(seed=3)
    for request in (waiting, queued, third):
        backend.submit(request)
    server.wait(lambda: len(server.bodies) == 1 and not server.running)
    backend.cancel(queued)
    backend.cancel(waiting)
    replies = []
    while len(replies) < 3:
        replies += backend.poll(5)
    assert {reply.request: type(reply.error) for reply in replies} == {
        queued: Cancelled,
        waiting: Cancelled,
        third: type(None),
    }
    assert {reply.request: reply.usage.calls for reply in replies} == {
        queued: 0,
        waiting: 1,
        third: 1,
    }
    assert [body["seed"] for body in server.bodies] == [1, 3]
    backend.cancel(third)
    assert backend.poll(0) == []


@pytest.mark.parametrize("seed", range(5))
def test_cancelling_at_any_moment_answers_once(serve, seed):
    rng = random.Random(seed)
    _, backend = serve(
        {"connections": 3},
        fault=lambda number, body: rng.choice([None, "drop", ("slow", 0.002), "error"]),
    )
    requests = [ask(seed=i, max_tokens=3) for i in range(60)]
    for request in requests:
        backend.submit(request)
        if rng.random() < 0.5:
            backend.cancel(rng.choice(requests))
        if rng.random() < 0.2:
            time.sleep(0.002)
    found, until = [], time.monotonic() + 30
    while len(found) < len(requests) and time.monotonic() < until:
        for reply in backend.poll(0.05):
            found.append(reply.request)
            backend.cancel(rng.choice(requests))
    assert len(found) == len(set(found)) == len(requests) and backend.poll(0.05) == []


def test_closing(serve):
    server, backend = serve({"connections": 2}, fault=lambda number, body: "hold")
    for seed in range(4):
        backend.submit(ask(seed=seed))
    server.wait(lambda: server.running == 2)
    backend.close()
    backend.close()
    server.wait(lambda: server.broken == 2)
    assert backend.poll(0) == [] and not backend._http._thread.is_alive()
    with pytest.raises(RuntimeError, match="closed"):
        backend.submit(ask())


# -- bad input


def test_requests_that_nobody_can_answer(serve):
    server, backend = serve()
    server.context = 20
    for request, what in [
        (Generate(()), "without tokens"),
        (Score((), ()), "without tokens"),
        (Generate((1, 258)), "knows 0 to 257"),
        (Generate((-1,)), "knows 0 to 257"),
        (Generate((1,), max_tokens=0), "max_tokens"),
        (Generate((1,), temperature=-1.0), "temperature"),
        (Score((1,), (1,)), "positions"),
    ]:
        with pytest.raises(ValueError, match=what):
            backend.submit(request)
    with pytest.raises(TypeError, match="Call"):
        backend.submit(Call(print))
    assert "maximum context length is 20" in error(backend, ask("a long prompt " * 3))
    assert backend.poll(0) == []


def dead():
    """An address where nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}/v1"


def test_a_server_that_is_not_there():
    with pytest.raises(ValueError, match="no server answers at .*start one"):
        Server(dead(), MODEL, TOKENIZER)
    for host in ("http://no-such-host.invalid/v1", "http://" + "a" * 70 + "/v1"):
        with pytest.raises(ValueError, match="no server answers|correct the address"):
            Server(host, MODEL, TOKENIZER)


def test_a_port_that_does_not_speak():
    """It takes connections and says nothing, or something that is not HTTP."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        url = f"http://127.0.0.1:{one.getsockname()[1]}/v1"
        with pytest.raises(ValueError, match="it says nothing"):
            Server(url, MODEL, TOKENIZER, timeout=0.2)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("localhost:8000/v1", "write it like"),
        ("", "write it like"),
        ("ftp://host/v1", "write it like"),
        ("http://host:99999/v1", "port"),
        ("http://host/v1?x=1", "write it like"),
        ("http://host/a b", "write it like"),
        ("http://me:sk-12345@host/v1", "OPENAI_API_KEY"),
    ],
)
def test_an_address_that_is_none(url, says):
    with pytest.raises(ValueError, match=says) as caught:
        Server(url, MODEL, TOKENIZER)
    assert "sk-12345" not in str(caught.value)


@pytest.mark.parametrize(
    ("fake", "model", "says"),
    [
        ({}, "other/model", "`other/model` does not exist.*serves fake/model: name one"),
        ({"models": 500}, "other/model", "is 'other/model' the name that it serves"),
        ({"fault": lambda number, body: "garbage"}, MODEL, "no JSON object"),
        ({"fault": lambda number, body: "error"}, MODEL, "out of luck"),
        ({"fault": lambda number, body: "drop"}, MODEL, "broke"),
        ({"fault": lambda number, body: {"choices": [{}]}}, MODEL, "no choice"),
        ({"fault": lambda number, body: ("status", 400, "no thanks")}, MODEL, "no thanks"),
        ({"fault": lambda number, body: ("status", 404, "nothing here")}, MODEL, "nothing here"),
        ({"key": "sk-right"}, MODEL, "401.*OPENAI_API_KEY"),
    ],
)
def test_a_server_that_serves_something_else(fake, model, says):
    with FakeServer(**fake) as server, pytest.raises(ValueError, match=says):
        Server(server.url, model, TOKENIZER, retries=1)


@pytest.mark.parametrize("name", ["vllm", "transformers"])
def test_another_tokenizer_is_noticed(name):
    other = tiny.tokenizer((("l", "l"), ("a", "i"), ("e", "t")))
    with (
        FakeServer(**DIALECTS[name]) as server,
        pytest.raises(ValueError, match=f"give the tokenizer of {MODEL}"),
    ):
        Server(server.url, MODEL, other)


def test_tokenizers_are_named_by_folder(tmp_path):
    TOKENIZER.save_pretrained(tmp_path / "there")
    with FakeServer(models=500) as server:
        backend = Server(server.url, MODEL, tmp_path / "there")
        assert result(backend, ask()).text
        backend.close()
        for nothing in (tmp_path / "nowhere", str(tmp_path), None):
            with pytest.raises(ValueError, match="no tokenizer under .*give tokenizer="):
                Server(server.url, MODEL, nothing)


@pytest.mark.parametrize("options", [{"connections": 0}, {"retries": -1}, {"timeout": 0}])
def test_options_that_are_none(options):
    with pytest.raises(ValueError, match="impossible"):
        Server("http://localhost:1/v1", MODEL, TOKENIZER, **options)


# -- keys

KEY = "sk-planted/0123456789+abc"


def test_a_key_that_is_none_is_not_repeated(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\nand more")
    with pytest.raises(ValueError, match="copy it again") as caught:
        Server("http://localhost:1/v1", MODEL, TOKENIZER)
    assert KEY not in str(caught.value)


def test_the_key_is_written_nowhere(monkeypatch, tmp_path, caplog, capsys):
    """Searches by a server that repeats the key in its errors; then everything that was written
    is looked through.
    """
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.WARNING, "numba")
    monkeypatch.setenv("MY_KEY", f" {KEY} ")
    leak = ("status", 400, f'bad "Authorization: Bearer {KEY}" ' + "x" * 290 + KEY)
    faults = {1: leak, 2: "error", 3: ("status", 500, f"{KEY}"), 4: "drop"}
    with FakeServer(
        walker,
        key=KEY,
        fault=lambda number, body: (
            faults.get(number % 7) if body["seed"] and body.get("stop") else None
        ),
    ) as server:
        backend = Server(server.url, MODEL, TOKENIZER, key_variable="MY_KEY", retries=1)
        seen = [
            repr(backend),
            str(vars(backend)),
            str(vars(backend._address)),
            backend.capabilities,
        ]
        guide = Guide(LM(backend, values=True, delimiter="\n"), budget=Budget(tokens=300))
        solutions = search.solve_many([problem()] * 3, guide, seed=[1, 2, 3])
        search.Trace.save(
            [s.trace for s in solutions if s.trace is not None], tmp_path / "traces.parquet"
        )
        replies = answers(backend, *(ask(seed=i + 1) for i in range(14)))
        failed = [reply.error for reply in replies if reply.error is not None]
        assert any("[key]" in str(one) for one in failed), "the server did repeat it"
        for one in failed:
            seen += [repr(one), str(one.__cause__), str(vars(one))]
        seen += [repr(s) + str(s) + repr(s.error) for s in solutions] + [guide.version, repr(guide)]
        backend.close()
        monkeypatch.setenv("MY_KEY", "sk-wrong")
        with pytest.raises(ValueError, match="MY_KEY") as caught:
            Server(server.url, MODEL, TOKENIZER, key_variable="MY_KEY")
        assert "sk-wrong" not in str(caught.value)
    out, err = capsys.readouterr()
    written = "\n".join([*map(str, seen), caplog.text, out, err]).encode() + b"".join(
        p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()
    )
    assert len(written) > 2000
    for part in (KEY.encode(), KEY[:12].encode(), KEY[-12:].encode()):
        assert part not in written


# -- searches


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


SETTINGS = {"delimiter": "\n", "step_tokens": 16, "max_steps": 6, "prompt": "{problem}\n"}


def guide_of(engine, **options):
    """At temperature 1, where every server's log-probs are those of the model."""
    loaded = Loaded(engine, TOKENIZER, SETTINGS, "twin", False)
    return Guide(
        LM(loaded, values=True, **{"temperature": 1.0, **options}), budget=Budget(tokens=500)
    )


def twin(log_probs=True):
    """The scripted backend that writes what the fake server writes."""
    fake = FakeServer(walker)
    fake.http.server_close()

    def answer(request):
        body = {
            "temperature": request.temperature,
            "seed": request.seed & SEEDS,
            "stop": request.stop,
            "max_tokens": request.max_tokens,
        }
        tokens, reason, mark = fake.write(TOKENIZER.decode(request.prompt), body)
        each = np.float32([log_prob(t) if log_probs else np.nan for t in tokens])
        text = TOKENIZER.decode([t for t in tokens if t != END]).removesuffix("\n")
        return Generated(
            tuple(tokens),
            text,
            each,
            each.copy(),
            float("nan"),
            "length" if reason == "length" else "stop" if mark else "end",
        )

    return Scripted(answer)


def same(a, b):
    assert (
        a.answer == b.answer
        and a.text == b.text
        and a.stopped == b.stopped
        and a.verified == b.verified
    )
    if not a.verified:  # else what was in flight at the end is given up, as far as it was
        assert a.usage.generated == b.usage.generated and a.usage.calls == b.usage.calls
    for name in ("node_parent", "edge_visits", "edge_prior", "edge_value", "edge_log_prob"):
        np.testing.assert_array_equal(getattr(a.trace, name), getattr(b.trace, name), err_msg=name)


@pytest.mark.parametrize("method", ["mcts", "gumbel", "beam", "sample"])
@pytest.mark.parametrize("name", ["vllm", "sglang", "words", "transformers"])
def test_searches_are_those_of_the_scripted_backend(serve, method, name):
    """The same tree, whatever comes between: faults that pass change nothing, where children end
    in the order of their tokens.
    """
    rng = random.Random(0)
    faults = [None, None, None, "refuse", "error", "drop", "half", "leave"]
    server, backend = serve(
        {"retries": 12, "connections": 8},
        say=walker,
        fault=lambda n, b: rng.choice(faults),
        **DIALECTS[name],
    )
    backend.ordered = True
    mine, theirs = guide_of(backend), guide_of(twin(name != "transformers"))
    same(
        search.solve(problem(), mine, method, seed=4),
        search.solve(problem(), theirs, method, seed=4),
    )


def test_many_searches_side_by_side(serve):
    _, backend = serve({"connections": 16}, say=walker)
    backend.ordered = True
    found = search.solve_many([problem(t) for t in range(8, 16)], guide_of(backend), seed=3)
    theirs = search.solve_many([problem(t) for t in range(8, 16)], guide_of(twin()), seed=3)
    for a, b in zip(found, theirs, strict=True):
        same(a, b)
    assert sum(solution.verified is True for solution in found) >= 3
    assert all(
        s.usage.generated <= 500 and s.usage.reused > 0 and s.usage.prefilled >= 0 for s in found
    )


@pytest.mark.parametrize("method", ["mcts", "beam", "sample"])
def test_requests_that_fail_for_good_do_not_end_the_search(serve, method):
    _, backend = serve(
        say=walker,
        fault=lambda n, b: (
            ("status", 400, "no")
            if b["seed"] % 4 == 1
            else "garbage"
            if b["seed"] % 9 == 1
            else None
        ),
    )
    solutions = [
        search.solve(problem(12), guide_of(backend), method, budget="tokens=800", seed=seed)
        for seed in range(6)
    ]
    assert any(solution.verified for solution in solutions)


def test_a_server_that_goes_away_fails_the_search_not_the_others(serve):
    server, backend = serve({"retries": 1}, say=walker)
    server.__exit__()
    server.fault = lambda number, body: "drop"
    with pytest.raises(RequestFailed, match="broke"):
        search.solve(problem(), guide_of(backend))
    (solution,) = search.solve_many([problem()], guide_of(backend))
    assert isinstance(solution.error, RequestFailed)


def test_a_deadline_cancels_what_is_under_way(serve):
    server, backend = serve(say=walker, fault=lambda number, body: "hold" if number > 3 else None)
    solution = search.solve(problem(), guide_of(backend), budget="tokens=2000,seconds=0.4")
    assert solution.stopped == "seconds"
    server.wait(lambda: server.broken == len(server.bodies) - 4)
    assert backend.poll(0.05) == []


# -- guides


def test_a_policy_over_a_server(serve):
    _, backend = serve(say=walker)
    policy = LM(backend, delimiter="\n", step_tokens=16, temperature=1.0, values=True)
    assert policy.version == f"server:{MODEL}" and Guide(policy).version == f"server:{MODEL}"
    check_policy(policy, problem())
    proposals = run(policy.propose(problem(), (), 4, np.random.default_rng(0)), policy.backends)
    assert all(np.isnan(p.value) and p.drawn and np.isfinite(p.log_prob) for p in proposals)
    first = proposals[0]
    assert first.log_prob == pytest.approx(sum(log_prob(t) for t in first.step.tokens), abs=1e-4)
    with pytest.raises(ValueError, match="no value head"):
        PRM(of_server(backend))


def test_without_log_probs_priors_are_shares_and_values_unknown(serve):
    _, backend = serve(
        say=lambda prompt, seed: f"{'ab'[seed % 4 == 0]}\n", **DIALECTS["transformers"]
    )
    policy = LM(backend, delimiter="\n", values=True)
    proposals = run(policy.propose(problem(), (), 40, np.random.default_rng(0)), policy.backends)
    shares = {p.step.text: p.prior for p in proposals}
    assert (
        shares.keys() == {"a", "b"}
        and 0.5 < shares["a"] < 1
        and shares["a"] + shares["b"] == pytest.approx(1)
    )
    assert all(np.isnan(p.value) and np.isnan(p.log_prob) and p.drawn == () for p in proposals)


def test_log_probs_that_are_known_in_part(serve):
    """A stop string that the server cut from tokens and log-probs leaves the others."""
    told = {
        "tokens": ["token_id:64", "token_id:65"],
        "token_logprobs": [-0.5, -0.1],
        "top_logprobs": None,
    }
    part = {
        "token_ids": [64, 65],
        "text": TOKENIZER.decode([64, 65]),
        "logprobs": told,
        "stop_reason": "\n",
        "finish_reason": "stop",
    }
    _, backend = serve(fault=lambda number, body: part if body.get("stop") else None)
    got = result(backend, ask())
    assert got.tokens == (64, 65, *encode("\n")) and got.finish == "stop"
    np.testing.assert_array_equal(got.log_probs, np.float32([-0.5, -0.1, np.nan]))
    policy = LM(backend, delimiter="\n", values=True)
    (proposal,) = run(policy.propose(problem(), (), 2, np.random.default_rng(0)), policy.backends)
    assert (
        np.isnan(proposal.value)
        and np.isnan(proposal.log_prob)
        and proposal.prior == 1
        and not proposal.drawn
    )


def test_connect(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    with FakeServer(walker) as server, FakeServer(walker, **DIALECTS["plain"]) as mute:
        # all of SETTINGS: how many chains fit into a budget is guessed from the longest there could
        # be, so max_steps counts, too
        guide = guides.connect(server.url, MODEL, tokenizer=tmp_path, temperature=1.0, **SETTINGS)
        assert "nothing judges its steps" in guide.value.note and "--value DIR" in guide.value.note
        for backend in guide.backends.values():
            backend.ordered = True
        for options in (
            {"budget": "tokens=500"},
            {"method": "sample", "budget": "tokens=5000", "chains": 3},
        ):
            same(*(search.solve(problem(), g, **options) for g in (guide, guide_of(twin()))))
        again = guides.connect(server.url, MODEL, tokenizer=tmp_path)
        assert list(again.backends.values()) == list(guide.backends.values()), (
            "one backend a server"
        )
        assert "no log-probs" in guides.connect(mute.url, MODEL, tokenizer=tmp_path).value.note
        judge = search.guide.Known(0.25)
        assert guides.connect(server.url, MODEL, tokenizer=tmp_path, value=judge).value is judge


# -- the command


def copse(capsys, *args):
    code = main([str(arg) for arg in args])
    return code, *capsys.readouterr()


@pytest.fixture
def flags(tmp_path):
    folder = tmp_path / "tokenizer"
    TOKENIZER.save_pretrained(folder)
    return [
        "--guide",
        MODEL,
        "--tokenizer",
        folder,
        "--delimiter",
        r"\n",
        "--prompt",
        r"{problem}\n",
        "--step-tokens",
        16,
        "--slots",
        8,
    ]


def test_solve_by_a_server(capsys, flags, tmp_path):
    with FakeServer(walker) as server:
        code, out, err = copse(
            capsys,
            "solve",
            "Write three digits.",
            "--server",
            server.url,
            *flags,
            "--budget",
            "tokens=300",
            "--json",
        )
        solution = json.loads(out)
        assert (
            code == 0
            and int(solution["answer"]) == sum(map(int, solution["text"].split("\n")[:3]))
            and "value head" in err
        )
        assert 0 < solution["usage"]["generated"] <= 300 and solution["usage"]["mean_rows"] is None
        code, out, _ = copse(
            capsys,
            "solve",
            "Write three digits.",
            "--server",
            server.url,
            *flags,
            "--budget",
            "tokens=300",
            "--traces",
            tmp_path / "t",
        )
        assert (
            code == 0
            and "answer: " in out
            and search.Trace.load(tmp_path / "t")[0].version == f"server:{MODEL}"
        )


def test_a_local_judge(capsys, flags):
    with FakeServer(walker) as server:
        code, out, _ = copse(
            capsys,
            "solve",
            "Write three digits.",
            "--server",
            server.url,
            *flags,
            "--value",
            "builtin",
            "--budget",
            "tokens=200",
            "--json",
        )
        assert code == 0 and json.loads(out)["usage"]["flops"] > 0


def test_bench_by_a_server(capsys, flags, tmp_path):
    problems = tmp_path / "p.jsonl"
    problems.write_text(
        "".join(
            json.dumps({"id": i, "problem": f"Write three digits, {i}.", "target": "12"}) + "\n"
            for i in range(3)
        )
    )
    with FakeServer(walker) as server:
        code, out, err = copse(
            capsys, "bench", "--input", problems, "--out", tmp_path / "b", "--methods",
            "greedy,mcts", "--budgets", "tokens=100,200",
            "--server", server.url, *flags,
        )  # fmt: skip
    assert code == 0 and "mcts" in out, err
    assert f"server:{MODEL}" in (tmp_path / "b" / "results.csv").read_text()


def test_wrong_use_of_the_command(capsys, flags, tmp_path):
    for args, says in [
        (["--server", dead(), *flags], "no server answers at"),
        (["--server", dead(), *flags, "--value", "builtin"], "no server answers at"),
        (["--server", dead()], "--guide"),
        (["--server", "nonsense", *flags], "write it like"),
        (["--tokenizer", tmp_path], "--server"),
    ]:
        code, out, err = copse(capsys, "solve", "Write three digits.", *args)
        assert code == 2 and out == "" and says in err.splitlines()[-1], err


# -- the real thing


@pytest.mark.slow
def test_transformers_serve(tmp_path):
    """A tiny model behind `transformers serve`: text and how it ends are those of `generate`,
    and searches end well.
    """
    pytest.importorskip("fastapi", reason='pip install "copse-search[peers]"')
    import torch

    from models import save_model

    folder = tmp_path / "model"
    model = tiny.model("qwen2", max_position_embeddings=2048)
    save_model(folder, model, TOKENIZER)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    log = (tmp_path / "log").open("w")
    command = [
        sys.executable,
        "-c",
        "from transformers.cli.transformers import main; main()",
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        url = f"http://127.0.0.1:{port}/v1"
        backend = Server(url, str(folder), connections=4, timeout=60)
        found = backend.capabilities
        assert (found.chat, found.ids, found.log_probs, found.marks, found.keeps) == (
            False,
            False,
            False,
            False,
            True,
        )
        assert found.options.keys() <= {"seed"}, "it refuses fields that OpenAI has not"
        prompt = encode("hello there")
        got = result(backend, Generate(prompt, (), 12, temperature=0.0))
        with torch.no_grad():
            out = model.generate(
                torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0
            )[0, len(prompt) :]
        assert (
            got.text.rstrip("\ufffd") in TOKENIZER.decode(out, skip_special_tokens=True)
            and np.isnan(got.log_probs).all()
        )
        whole = TOKENIZER.decode(out, skip_special_tokens=True)
        stop = next((c for c in whole if c.isascii()), None)
        if stop is not None:
            stopped = result(backend, Generate(prompt, (stop,), 12, temperature=0.0))
            assert stopped.finish == "stop" and stopped.text == whole[: whole.index(stop)]
        with pytest.raises(ValueError, match="name one of these|name that it serves"):
            Server(url, str(tmp_path / "does-not-exist"), folder, retries=0)
        guide = Guide(
            LM(backend, delimiter="\n", step_tokens=8, max_steps=3, values=True),
            budget=Budget(tokens=120),
        )
        solutions = search.solve_many(["Say something.", "Say more."], guide, "mcts")
        assert all(s.error is None and 0 < s.usage.generated <= 120 for s in solutions)
        backend.close()
    finally:
        process.terminate()
        process.wait(20)
        log.close()
