"""What the client makes of servers that break the rules: statuses, fields, counts, log-probs,
reasons, deadlines, tokenizers.
"""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import tiny
from fake_server import DRIPS, MODEL, FakeServer, echoes, log_prob
from serving import TOKENIZER, answers, ask, encode, result, servers

import guides
import search
from guides.policies.lm import LM
from models import Server
from models.server import http
from models.server.capabilities import OPTIONS
from search.guide import Guide
from search.scheduling.budget import Budget
from search.scheduling.requests import Cancelled, RequestFailed, TooLong

VALIDATION = (
    "[{'type': 'greater_than_equal', 'loc': ('body', 'top_k'), 'msg': 'Input should be greater "
    "than or equal to 0'}]"
)


@pytest.fixture(autouse=True)
def serve(monkeypatch):
    with servers(monkeypatch) as make:
        yield make


def failed(backend, request):
    (reply,) = answers(backend, request)
    assert isinstance(reply.error, RequestFailed), reply
    return str(reply.error)


# -- statuses


@pytest.mark.thorough
@pytest.mark.parametrize(
    "status", [408, 425, 429, 500, 501, 502, 503, 504, 507, *range(520, 530), 599]
)
def test_what_passes_is_asked_again(serve, status):
    server, backend = serve(
        fault=lambda number, body: ("status", status, "later") if number == 0 else None
    )
    assert result(backend, ask(seed=1)).text == echoes("hello\n", 1).split("\n")[0]
    assert len(server.bodies) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 410, 413, 422, 451])
def test_what_does_not_pass_is_final_at_once(serve, status):
    server, backend = serve(fault=lambda number, body: ("status", status, "no"))
    assert f"{status}: no" in failed(backend, ask())
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "message",
    [VALIDATION, "1 validation error for Body", "logprobs is not supported for models created so"],
)
def test_a_validation_error_with_status_500_is_final_at_once(serve, message):
    server, backend = serve(fault=lambda number, body: ("status", 500, message))
    assert message[:40] in failed(backend, ask())
    assert len(server.bodies) == 1


@pytest.mark.parametrize("status", [400, 413, 500])
def test_a_prompt_that_is_too_long_is_told_as_such(serve, status):
    message = "the request exceeds the available context size (512 tokens)"
    server, backend = serve(fault=lambda number, body: ("status", status, message))
    (reply,) = answers(backend, ask())
    assert isinstance(reply.error, TooLong) and "shorten the text" in str(reply.error)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "fault",
    [
        "garbage",
        "empty",
        "list",
        {"choices": None, "error": {"code": 502, "message": "upstream"}},
        {"choices": None, "error": {"message": "?"}},
    ],
)
def test_no_json_and_errors_that_claim_success_are_asked_again(serve, monkeypatch, fault):
    whole = FakeServer.reply

    def reply(self, body):
        status, said = whole(self, body)
        return status, {"error": said["error"]} if said.get("choices", "") is None else said

    if isinstance(fault, dict):
        monkeypatch.setattr(FakeServer, "complete", _answers_errors(fault["error"]))
    server, backend = serve(fault=lambda number, body: fault if number == 0 else None)
    assert result(backend, ask(seed=1)).text and len(server.bodies) == 2


def _answers_errors(error):
    from fake_server import answer

    complete = FakeServer.complete

    def change(self, handler, body, number):
        if self.fault(number, body):
            return answer(handler, 200, {"error": error})
        return complete(self, handler, body, number)

    return change


# -- deadlines


@pytest.mark.thorough
@pytest.mark.parametrize("fault", [*DRIPS, "hold"])
def test_who_drips_at_the_door_is_named_within_the_deadline(fault):
    with FakeServer(fault=lambda number, body: fault) as server:
        start = time.monotonic()
        with pytest.raises(ValueError, match="did not answer within 0.3 s"):
            Server(server.url, MODEL, TOKENIZER, timeout=0.3)
        assert time.monotonic() - start < 20, "it ended, and not by the drip"


def test_the_deadline_is_of_all_repetitions(serve, monkeypatch):
    server, backend = serve(
        {"timeout": 0.3, "retries": 10**6}, fault=lambda number, body: ("status", 503, "overloaded")
    )
    monkeypatch.setattr(http, "LONGEST", 0.001)
    says = failed(backend, ask())
    assert (
        "overloaded" in says
        and ("within 0.3 s" in says or "asked" in says)
        and len(server.bodies) > 2
    )
    monkeypatch.setattr(http, "LONGEST", 5.0)
    monkeypatch.setattr(http, "FIRST", 5.0)
    assert "overloaded" in failed(backend, ask()), (
        "nobody begins to wait for what is beyond the deadline"
    )


def test_a_server_that_dies_fails_its_requests_and_works_when_it_is_back(serve):
    server, backend = serve({"connections": 4})
    port = server.http.server_address[1]
    assert result(backend, ask()).text
    server.fault = lambda number, body: "drop"
    server.__exit__()
    replies = answers(backend, *(ask(seed=i) for i in range(12)))
    assert all(
        isinstance(reply.error, RequestFailed) and "broke" in str(reply.error) for reply in replies
    )
    with FakeServer(port=port):
        assert [reply.error for reply in answers(backend, *(ask(seed=i) for i in range(12)))] == [
            None
        ] * 12


def test_a_request_cancelled_between_repetitions_tells_why_it_was_repeated(serve, monkeypatch):
    monkeypatch.setattr(http, "FIRST", 25.0)
    server, backend = serve(fault=lambda number, body: ("status", 503, "overloaded"))
    request = ask()
    backend.submit(request)
    server.wait(lambda: len(server.bodies) == 1 and not server.running)
    until = time.monotonic() + 5
    while not backend._jobs[request].troubles and time.monotonic() < until:
        time.sleep(0.001)
    backend.cancel(request)
    (reply,) = backend.poll(5)
    assert isinstance(reply.error, Cancelled) and "overloaded" in str(reply.error.__cause__)


# -- fields


@pytest.mark.parametrize("status", [400, 422, 500])
def test_none_is_said_as_zero_where_minus_one_is_refused(serve, status):
    """llama-cpp-python's server answers a top_k of -1 with its validation error, and status 500."""
    with FakeServer(refuses={"top_k": (status, VALIDATION)}) as server:
        backend = Server(server.url, MODEL, TOKENIZER)
        assert backend.capabilities.options["top_k"] == 0
        assert backend.capabilities.options.keys() == {*OPTIONS, "logprobs"}
        assert len(server.bodies) <= 13, "nothing was asked again"
        assert result(backend, ask()).text
        backend.close()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "gone",
    [
        ["min_p"],
        ["seed"],
        ["repetition_penalty", "min_p"],
        ["logprobs"],
        [*OPTIONS],
        [*OPTIONS, "logprobs"],
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_fields_that_are_refused_by_name_are_left_out(serve, gone, status):
    refuses = {name: (status, f"Unrecognized request argument supplied: {name}") for name in gone}
    server, backend = serve(refuses=refuses)
    left = {*OPTIONS, "logprobs"} - set(gone) | ({"top_k"} & set(gone))  # a top_k of 0 is taken
    assert backend.capabilities.options.keys() == left
    assert result(backend, ask(seed=3)).text and not (
        set(server.bodies[-1]) & set(gone) - {"top_k"}
    )


def test_a_refusal_without_a_name_leaves_seed_and_log_probs(serve):
    _, backend = serve(refuses={"min_p": (400, "bad request")})
    assert (
        backend.capabilities.options == {"seed": 0, "logprobs": 1}
        and backend.capabilities.log_probs
    )


def test_the_newer_name_of_the_limit(serve):
    message = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
        "'max_completion_tokens' instead."
    )
    server, backend = serve(refuses={"max_tokens": (400, message)})
    assert (
        backend.capabilities.limit == "max_completion_tokens"
        and result(backend, ask(max_tokens=3)).finish == "length"
    )
    assert server.bodies[-1]["max_completion_tokens"] == 3 and "max_tokens" not in server.bodies[-1]


# -- what is told


@pytest.mark.parametrize("counts", [0, 1, False, 10**9])
def test_tokens_that_came_count_whatever_the_server_says(serve, counts):
    server, backend = serve(counts=counts, say=lambda prompt, seed: f"line {seed}\n")
    assert answers(backend, ask(seed=7))[0].usage.generated == (
        64 if counts == 10**9 else len("line 7\n")
    )
    guide = Guide(
        LM(backend, delimiter="\n", step_tokens=16, max_steps=4), budget=Budget(tokens=300)
    )
    solution = search.solve(search.TextProblem("Go on.", verify=lambda text: 0.0), guide, "sample")
    assert 200 < solution.usage.generated <= 300 and len(server.bodies) < 60


def test_a_server_that_writes_more_than_it_may_is_cut(serve):
    long = {
        "text": "a very long text",
        "token_ids": None,
        "logprobs": None,
        "finish_reason": "stop",
        "stop_reason": None,
    }
    _, backend = serve(fault=lambda number, body: long)
    (reply,) = answers(backend, ask(max_tokens=6))
    assert (reply.result.text, reply.result.finish, reply.usage.generated) == (
        "a very",
        "length",
        6,
    )


@pytest.mark.parametrize("strange", [float("nan"), float("inf"), float("-inf"), 50.0, 0.5, None])
def test_log_probs_that_are_none_are_unknown(serve, strange):
    told = {
        "tokens": ["token_id:64", "token_id:65"],
        "token_logprobs": [strange, -0.5],
        "top_logprobs": None,
    }
    part = {
        "token_ids": [64, 65],
        "text": TOKENIZER.decode([64, 65]),
        "logprobs": told,
        "finish_reason": "length",
    }
    _, backend = serve(fault=lambda number, body: part)
    np.testing.assert_array_equal(
        result(backend, ask(stop=())).log_probs, np.float32([np.nan, -0.5])
    )


def test_a_log_prob_just_above_zero_is_rounding(serve):
    told = {"tokens": ["token_id:64"], "token_logprobs": [1e-7], "top_logprobs": None}
    _, backend = serve(
        fault=lambda number, body: {
            "token_ids": [64],
            "text": "a",
            "logprobs": told,
            "finish_reason": "length",
        }
    )
    assert result(backend, ask(stop=())).log_probs[0] == 0


@pytest.mark.thorough
@pytest.mark.parametrize(
    "logprobs",
    [
        {"tokens": ["a"] * 9, "token_logprobs": [-1.0] * 9, "top_logprobs": None},
        {"tokens": ["a"], "token_logprobs": [-1, -2]},
        {"tokens": None, "token_logprobs": [-1]},
        {"content": [{"token": "a"}]},
        {"content": 3},
        [1],
        "none",
    ],
)
@pytest.mark.parametrize("ids", [True, False])
def test_log_probs_that_do_not_fit_leave_the_text(serve, logprobs, ids):
    _, backend = serve(
        told_ids=ids,
        fault=lambda number, body: {"logprobs": logprobs} if body["seed"] == 5 else None,
    )
    got = result(backend, ask(seed=5))
    assert (
        got.text == echoes("hello\n", 5).split("\n")[0]
        and np.isnan(got.log_probs).all()
        and got.finish == "stop"
    )
    assert np.isfinite(result(backend, ask(seed=6)).log_probs).all()


@pytest.mark.parametrize(
    "reason",
    [None, "stop", "eos", "eos_token", "stop_sequence", "end_turn", "STOP", "complete", "", 7],
)
def test_any_reason_that_ends_a_text_is_taken(serve, reason):
    _, backend = serve(
        say=lambda prompt, seed: "the end", fault=lambda number, body: {"finish_reason": reason}
    )
    got = result(backend, ask())
    assert (got.text, got.finish, got.tokens[:-1]) == ("the end", "end", encode("the end"))


@pytest.mark.parametrize("reason", ["length", "max_tokens", None])
def test_a_text_that_was_cut_has_not_ended(serve, reason):
    _, backend = serve(
        say=lambda prompt, seed: "the end", fault=lambda number, body: {"finish_reason": reason}
    )
    got = result(backend, ask(max_tokens=3))
    assert (got.text, got.finish) == ("the", "length")


# -- what is noticed at connection


@pytest.mark.parametrize("merge", [("1", "4"), ("æ", "Ŀ"), ("_", "_"), ("f", "r")])
@pytest.mark.parametrize("fake", [{}, {"told_ids": False}, {"chat": "only"}])
def test_a_tokenizer_that_differs_in_few_places_is_noticed(merge, fake):
    other = tiny.tokenizer((merge,))
    with FakeServer(**fake) as server:
        if fake.get("chat") and merge != ("_", "_"):
            return  # a chat's counts are known but for one
        with pytest.raises(ValueError, match=f"give the tokenizer of {MODEL}"):
            Server(server.url, MODEL, other)


def test_corners_of_the_vocabulary_are_noticed():
    """A tokenizer with one more merge, which no ordinary text shows, and which is its last
    token.
    """
    other = tiny.tokenizer((("Q", "Z"),))
    with FakeServer() as server, pytest.raises(ValueError, match="give the tokenizer"):
        Server(server.url, MODEL, other)


def test_a_small_context_does_not_look_like_another_tokenizer(serve):
    _, backend = serve(context=60)
    assert result(backend, ask(max_tokens=9)).text


@pytest.mark.parametrize(
    "fake",
    [
        {"heats": False},
        {"say": lambda prompt, seed: "always this"},
        {"heats": False, "chat": "only"},
    ],
)
def test_a_server_whose_samples_are_copies_is_named(tmp_path, caplog, fake):
    TOKENIZER.save_pretrained(tmp_path)
    with FakeServer(**fake) as server:
        backend = Server(server.url, MODEL, tmp_path)
        assert not backend.capabilities.samples and "same text twice" in caplog.text
        backend.close()
        with pytest.raises(ValueError, match="copies of one.*temperature=0"):
            guides.connect(server.url, MODEL, tokenizer=tmp_path)
        assert guides.connect(server.url, MODEL, tokenizer=tmp_path, temperature=0).policy


def test_a_server_that_samples_is_not_named(serve, caplog):
    for fake in (
        {},
        {"seeded": False},
        {"refuses": {"seed": (400, "Unknown field: seed")}, "seeded": False},
    ):
        _, backend = serve(**fake)
        assert backend.capabilities.samples
    assert "same text" not in caplog.text


def test_words_that_end_at_once_say_nothing_about_samples(serve):
    _, backend = serve(say=lambda prompt, seed: "")
    assert backend.capabilities.samples


def test_words_of_a_message_are_those_of_the_server(serve):
    for said, shown in [
        ({"detail": [{"loc": ["body", "x"], "msg": "bad"}]}, '"msg": "bad"'),
        ({"message": "why"}, "why"),
        ("text", "text"),
    ]:
        raw = json.dumps(said).encode() if not isinstance(said, str) else said.encode()
        with pytest.raises(http.Refused, match=shown):
            http._object(400, raw, http.Address("http://localhost:1/v1", "NO_KEY"))
    assert log_prob(0) < 0
