"""`copse serve`, asked by the client of OpenAI and by raw requests."""

import asyncio
import json
import re
import socket
import threading
import time

import httpx2
import openai
import pytest
from endpoint_cases import BUDGET, answers, served, slow, wait_for
from fakes import generated, scripted_guide

import search
from search import running as running_module
from search.scheduling.budget import Budget
from search.serving.app import Endpoint, Limits
from search.serving.asked import Refused, asked, names


def read(body, chat=True, method="sample", budget=BUDGET):
    return asked(body, chat=chat, method=method, budget=budget)


def turn(text="Question"):
    return {"messages": [{"role": "user", "content": text}]}


def client(url, **options):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, **options)


def test_the_name_of_a_model_says_method_and_number():
    found = read({"model": "copse-best-of-8", **turn()})
    assert (found.method, found.options) == ("best_of_n", {"chains": 8})
    assert read({"model": "copse-self-consistency-4", **turn()}).options == {"chains": 4}
    assert read({"model": "copse-beam-3", **turn()}).options == {"width": 3}
    assert read({"model": "copse-revise-2", **turn()}).options == {"attempts": 2}
    tree = read({"model": "copse-mcts-50", **turn()})
    assert (tree.method, tree.options, tree.budget.simulations) == ("mcts", {}, 50)
    assert read({"model": "copse", **turn()}).method == read(turn()).method == "sample"
    for name in names():
        assert read({"model": name, **turn()}).model == name
    for wrong in (
        "gpt-4",
        "copse-",
        "copse-best",
        "copse-mcts-0",
        "copse-greedy-3",
        "copse-mcts-x",
    ):
        with pytest.raises(Refused, match="model") as error:
            read({"model": wrong, **turn()})
        assert error.value.status == 404


def test_no_request_gets_more_than_the_server_allows():
    body = {**turn(), "budget": "tokens=9999,calls=5", "max_completion_tokens": 300}
    assert read(body).budget == Budget(tokens=300, calls=5, seconds=60)
    assert read({**turn(), "max_tokens": 10**9}).budget == BUDGET
    with pytest.raises(Refused, match="time=5"):
        read({**turn(), "budget": "time=5"})
    for wrong in (0, -1, 1.5, True, "9"):
        with pytest.raises(Refused):
            read({**turn(), "max_tokens": wrong})


def test_a_conversation_becomes_one_text():
    system = {"role": "system", "content": "Be brief."}
    parts = {
        "role": "user",
        "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "two"}],
    }
    assert read({"messages": [system, parts]}).problems == ("Be brief.\n\nOne\ntwo",)
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, parts]
    assert read({"messages": said}).problems == ("User: Hi\n\nAssistant: Yes?\n\nUser: One\ntwo",)
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    for wrong in ([], "x", [picture], [system, said[1]], [{"content": "x"}], [None]):
        with pytest.raises(Refused):
            read({"messages": wrong})


def test_what_a_search_cannot_do_is_refused():
    for name, value in {
        "n": 2, "stop": ["\n"], "logprobs": True, "tools": [{"type": "function"}],
        "response_format": {"type": "json_object"},
    }.items():  # fmt: skip
        with pytest.raises(Refused, match=name):
            read({**turn(), name: value})
    read({**turn(), "n": 1, "stop": [], "logprobs": False, "tools": [], "user": "me"})
    for wrong in (None, [], "x", {"prompt": 3}, {"prompt": []}, {"prompt": [[1, 2]]}):
        with pytest.raises(Refused):
            read(wrong, chat=False)


def test_temperature_is_that_of_the_sampling_where_it_is_above_0():
    assert read({**turn(), "temperature": 0.6, "top_p": 0.9}).settings == {
        "temperature": 0.6,
        "top_p": 0.9,
    }
    assert read({**turn(), "temperature": 0}).settings == {}
    assert read({**turn(), "model": "copse-greedy", "temperature": 0.6}).settings == {}


def test_without_a_seed_another_sample_is_given():
    assert read({**turn(), "seed": 7}).seed == read({**turn(), "seed": 7}).seed == 7
    assert len({read(turn()).seed for _ in range(20)}) == 20
    for wrong in (-1, 2**63, 1.5, "1", True):
        with pytest.raises(Refused, match="seed"):
            read({**turn(), "seed": wrong})


def test_an_answer_is_that_of_the_search_and_its_usage_is_told_truly():
    with served(answers) as (url, endpoint):
        found = client(url).chat.completions.create(
            model="copse-self-consistency-6", seed=3, **turn(), extra_body={"budget": "calls=6"}
        )
        guide = endpoint.guide
        wait_for(lambda: not running_module._DRIVERS)
        alone = search.solve("Question", guide, "self_consistency", "calls=6", 3, chains=6)
    choice = found.choices[0]
    assert choice.message.content == alone.text and choice.finish_reason == "stop"
    spent = alone.usage
    assert found.usage.completion_tokens == spent.generated > 0
    assert found.usage.prompt_tokens == spent.prefilled + spent.reused
    assert found.usage.total_tokens == found.usage.prompt_tokens + spent.generated
    shown = sum(len(step.tokens) for step in alone.steps)
    details = found.usage.completion_tokens_details
    assert details.reasoning_tokens == spent.generated - shown > 0
    told = found.model_extra["copse"][0]
    assert told["answer"] == alone.answer and told["candidates"] == alone.to_json()["candidates"]


def test_completions_take_several_prompts():
    with served(answers) as (url, _):
        found = client(url).completions.create(
            model="copse-best-of-2", prompt=["One", "Two"], extra_body={"budget": "calls=2"}
        )
        plain = client(url).completions.create(model="copse", prompt="One", max_tokens=100)
    assert [choice.index for choice in found.choices] == [0, 1]
    assert all("answer" in choice.text for choice in [*found.choices, *plain.choices])


def test_a_stream_tells_how_far_it_is_and_ends_with_the_answer():
    with served(slow) as (url, _):
        pieces = list(
            client(url).chat.completions.create(
                **turn(), model="copse", stream=True, stream_options={"include_usage": True},
                extra_body={"budget": "seconds=1.3"},
            )
        )  # fmt: skip
    deltas = [piece.choices[0].delta for piece in pieces if piece.choices]
    reasons = [piece.choices[0].finish_reason for piece in pieces if piece.choices]
    thoughts = [delta.model_extra.get("reasoning_content") for delta in deltas]
    assert deltas[0].role == "assistant" and len(list(filter(None, thoughts))) >= 2
    assert re.match(r"\d+ tokens, no answer yet\n", next(filter(None, thoughts)))
    assert reasons[-1] == "length" and set(reasons[:-1]) == {None}
    assert "".join(delta.content or "" for delta in deltas).startswith("on ")
    assert pieces[-1].usage.completion_tokens > 0 and len({piece.id for piece in pieces}) == 1


def test_clients_share_one_engine():
    threads = set()

    def look(request):
        threads.add(threading.get_ident())
        return slow(request)

    async def ask_all(url):
        asking = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        asked_all = [
            asking.chat.completions.create(
                model="copse", **turn(), extra_body={"budget": "calls=40"}
            )
            for _ in range(12)
        ]
        return await asyncio.gather(*asked_all)

    with served(look) as (url, _):
        found = asyncio.run(ask_all(url))
        metrics = httpx2.get(f"{url}/metrics").text
    assert len(found) == 12 and len(threads) == 1
    tokens = sum(one.usage.completion_tokens for one in found)
    assert f"copse_generated_tokens_total {float(tokens)}" in metrics
    assert 'copse_requests_total{path="/v1/chat/completions",status="200"} 12.0' in metrics
    assert "copse_searches_under_way 0.0" in metrics


@pytest.mark.parametrize("stream", [False, True])
def test_the_search_ends_when_its_client_goes(stream):
    with served(slow) as (url, endpoint):
        host, port = url.removeprefix("http://").split(":")
        body = json.dumps({**turn(), "stream": stream}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(head.encode() + body)
            wait_for(lambda: len(endpoint._under_way()) == 1)
            (one,) = endpoint._under_way()
            time.sleep(0.1)
            assert not one.done
        wait_for(lambda: not endpoint._under_way())
        assert one.result().stopped == "interrupted"
        ok = client(url).chat.completions.create(model="copse", **turn(), max_tokens=50)
        assert ok.usage.completion_tokens <= 50


def test_all_searches_of_a_request_end_when_its_client_goes():
    with served(slow) as (url, endpoint):
        with pytest.raises(openai.APITimeoutError):
            client(url, timeout=0.5).completions.create(model="copse", prompt=["a", "b", "c"])
        wait_for(lambda: not endpoint._under_way())


def test_too_many_searches_are_told_to_try_later():
    with served(slow, searches=2) as (url, endpoint):
        asking = client(url)
        options = {"model": "copse", **turn(), "stream": True}
        two = [asking.chat.completions.create(**options) for _ in range(2)]
        wait_for(lambda: len(endpoint._under_way()) == 2)
        with pytest.raises(openai.RateLimitError, match="try later"):
            asking.chat.completions.create(model="copse", **turn())
        two[0].close()
        wait_for(lambda: len(endpoint._under_way()) == 1)
        found = asking.chat.completions.create(model="copse", **turn(), max_tokens=30)
        assert found.usage.completion_tokens <= 30
        two[1].close()


def test_who_has_no_key_is_not_let_in():
    with served(answers, key="secret") as (url, _):
        with pytest.raises(openai.AuthenticationError):
            client(url).chat.completions.create(model="copse", **turn())
        for path in ("/v1/models", "/metrics"):
            assert httpx2.get(url + path).status_code == 401
        assert httpx2.get(f"{url}/health").json() == {"status": "ok", "searches": 0}
        right = openai.OpenAI(base_url=f"{url}/v1", api_key="secret")
        assert [one.id for one in right.models.list()] == names()


def test_wrong_requests_get_one_sentence():
    def fails(request):
        raise OSError("the model is gone")

    with served(fails, body=2000) as (url, _):
        asking = client(url)
        with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4'"):
            asking.chat.completions.create(model="gpt-4", **turn())
        with pytest.raises(openai.BadRequestError, match="the problem is empty"):
            asking.chat.completions.create(model="copse", **turn(" "))
        with pytest.raises(openai.BadRequestError, match="no option"):
            asking.chat.completions.create(
                model="copse", **turn(), extra_body={"options": {"branch": 3}}
            )
        for options in ({"guide": 1}, {"seed": 2}, {"wave": "x"}, {"problem": ["x"]}):
            with pytest.raises(openai.BadRequestError):
                asking.chat.completions.create(
                    model="copse", **turn(), extra_body={"options": options}
                )
        for choose in ("os:system", "nothing"):
            with pytest.raises(openai.BadRequestError):
                asking.chat.completions.create(
                    model="copse", **turn(), extra_body={"choose": choose}
                )
        with pytest.raises(openai.InternalServerError, match="the model is gone"):
            asking.chat.completions.create(model="copse", **turn())
        long = httpx2.post(f"{url}/v1/chat/completions", content=b"x" * 3000)
        assert long.status_code == 413
        for raw in (b"{", b"[" * 1500, b"\xff"):
            wrong = httpx2.post(f"{url}/v1/chat/completions", content=raw)
            assert wrong.status_code == 400 and wrong.json()["error"]["message"]
        with pytest.raises(openai.APIError, match="the model is gone"):
            list(asking.chat.completions.create(model="copse", **turn(), stream=True))


def test_a_server_limits_the_tokens_of_its_clients():
    with pytest.raises(ValueError, match="limit its tokens"):
        Endpoint(scripted_guide(answers), Limits(Budget(seconds=5)))


def test_a_verified_answer_that_the_chain_does_not_say_stands_below_it():
    from search.serving.answered import content

    assert content(search.Solution(None, answer="(1+2)", text="1+2=3")) == "1+2=3\n\n(1+2)"
    assert content(search.Solution(None, answer="3", text="1+2=3")) == "1+2=3"
    assert content(search.Solution(None, answer="3")) == "3"
    assert generated("x").text == "x"
