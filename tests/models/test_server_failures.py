"""Servers that fail in every way, what is cancelled, bad input, keys that are written nowhere."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time

import pytest
import tiny
from fake_server import DRIPS, MODEL, FakeServer, echoes
from server_cases import DIALECTS, dead, error, problem, walker
from serving import TOKENIZER, answers, ask, result, servers

import search
from guides.policies.lm import LM
from models import Server
from models.server import http
from search.guide import Guide
from search.scheduling.budget import Budget
from search.scheduling.requests import (
    Call,
    Cancelled,
    Generate,
    RequestFailed,
    Score,
)


@pytest.fixture(autouse=True)
def serve(monkeypatch):
    with servers(monkeypatch) as make:
        yield make


# -- failures


@pytest.mark.thorough
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


@pytest.mark.thorough
@pytest.mark.parametrize("fault", [("slow", 1.0), *DRIPS])
def test_a_slow_answer_times_out(serve, fault):
    server, backend = serve(
        {"timeout": 0.3}, fault=lambda number, body: fault if body["seed"] == 1 else None
    )
    assert "within 0.3 s" in error(backend, ask(seed=1)) and result(backend, ask(seed=2)).text
    assert sum(body["seed"] == 1 for body in server.bodies) == 1, (
        "it is not asked again: it is slow enough"
    )


@pytest.mark.thorough
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


@pytest.mark.thorough
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


@pytest.mark.thorough
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


@pytest.mark.thorough
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


@pytest.mark.thorough
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


KEY = "sk-planted/0123456789+abc"


# -- keys


def test_a_key_that_is_none_is_not_repeated(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\nand more")
    with pytest.raises(ValueError, match="copy it again") as caught:
        Server("http://localhost:1/v1", MODEL, TOKENIZER)
    assert KEY not in str(caught.value)


@pytest.mark.thorough
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
