"""Searches, guides and the command over a server, and `transformers serve`."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny
from fake_server import END, MODEL, FakeServer, log_prob
from server_cases import DIALECTS, dead, problem, walker
from serving import TOKENIZER, ask, encode, result, servers

import guides
import search
from guides.engines import Loaded, of_server
from guides.policies.lm import LM
from guides.values.prm import PRM
from models import Scripted, Server
from models.server.capabilities import SEEDS
from search.checks import check_policy
from search.cli.main import main
from search.guide import Guide
from search.scheduling.budget import Budget
from search.scheduling.driver import run
from search.scheduling.requests import (
    Generate,
    Generated,
    RequestFailed,
)


@pytest.fixture(autouse=True)
def serve(monkeypatch):
    with servers(monkeypatch) as make:
        yield make


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


# -- searches


@pytest.mark.thorough
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


@pytest.mark.thorough
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


@pytest.mark.thorough
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
    for seed in range(6):
        solution = search.solve(
            problem(12), guide_of(backend), method, budget="tokens=800", seed=seed
        )
        assert solution.trace.node_finished.any()
        assert solution.verified or isinstance(solution.error, RequestFailed)


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


@pytest.mark.thorough
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


# -- the command


@pytest.mark.thorough
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


@pytest.mark.thorough
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


@pytest.mark.thorough
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
