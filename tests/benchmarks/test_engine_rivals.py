"""The measurement beside other engines, with fakes: what is asked, compared, told, left out."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
import textwrap

import pytest
import tiny
import torch
import typer
from tokenizers import Tokenizer

from benchmarks import output
from benchmarks.engine import real_models, rival_child, rival_processes, rivals, texts
from benchmarks.engine.rival_processes import Child, Engine, Failed, LlamaServer
from benchmarks.engine.rivals import Measured, Work, compared, engines_of, lines, slices, works

CONTEXTS = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


class Fake:
    """A rival that continues with the sum of the prompt; `broken` fails as it goes on."""

    about = "a fake"
    asked: list = []

    def __init__(self, engine, rows, tokens):
        self.label, self.pid, self.closed = engine.label, os.getpid(), False
        self.asked.append((self.label, "start", rows, tokens))

    def read(self, prompts):
        self.asked.append((self.label, "read", prompts))

    def prepare(self, prompts, copies):
        self.asked.append((self.label, "prepare", prompts, copies))

    def go_on(self, prompts, copies, new, temperature, seed):
        self.asked.append((self.label, "go on", prompts, copies, new))
        if self.label == "broken":
            raise Failed("broken: out of order")
        wrong = 1 if self.label == "other" else 0
        return [[sum(prompt) + wrong * (i == 2) for i in range(new)] for prompt in prompts] * copies

    def close(self):
        self.asked.append((self.label, "close"))


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.setattr(rivals, "start", Fake)
    Fake.asked = []
    return Fake.asked


def run(labels, work, rounds=2):
    engines = [Engine(label, "copse", "nowhere") for label in labels]
    return list(rivals.measured(work, engines, [10, 11, 12], rounds))


DECODE = Work("decode", CONTEXTS, 1, 4, 0.0, (1, 3))


def test_every_engine_reads_once_and_goes_on_behind_another_token_each_round(fakes):
    found = run(["generate bfloat16", "same", "other"], DECODE)
    reads = [entry for entry in fakes if entry[1] == "read"]
    assert reads == [(label, "read", CONTEXTS) for label in ("generate bfloat16", "same", "other")]
    prompts = [entry[2] for entry in fakes if entry[:2] == ("same", "go on")]
    whole = [[context + [token] for context in CONTEXTS] for token in (10, 11)]
    assert prompts == [[CONTEXTS[0] + [12]], whole[0][:1], whole[0], whole[1][:1], whole[1]]
    runs = [one for one in found if one.work == "decode"]
    assert [(one.rows, one.tokens) for one in runs if one.engine == "same"] == [(1, 4), (3, 12)] * 2
    assert {one.same for one in runs if one.engine == "same"} == {1.0}
    assert {(one.same, one.parts) for one in runs if one.engine == "other"} == {(0.0, 2)}
    assert [entry for entry in fakes if entry[1] == "close"]


def test_engines_take_turns_and_the_first_stays_ahead(fakes):
    found = run(["generate bfloat16", "b", "c"], Work("decode", CONTEXTS, 1, 4, 0.0, (2,)))
    order = [one.engine for one in found if one.work == "decode"]
    assert order == ["generate bfloat16", "b", "c", "generate bfloat16", "c", "b"]


def test_what_fails_is_named_and_the_others_are_measured(fakes, caplog):
    found = run(["broken", "same"], DECODE)
    assert {one.engine for one in found if one.work == "decode"} == {"same"}
    assert "not measured: broken: out of order" in caplog.text
    assert sum(entry == ("broken", "close") for entry in fakes) == 1


def test_sampled_continuations_are_not_compared_and_all_copies_count(fakes):
    found = run(["generate bfloat16", "same"], Work("expand", CONTEXTS, 4, 2, 1.0, (3,)), 1)
    runs = [one for one in found if one.work == "expand"]
    assert [(one.rows, one.tokens) for one in runs] == [(12, 24)] * 2
    assert all(math.isnan(one.same) for one in runs)


def test_texts_that_end_early_are_compared_as_far_as_they_go():
    assert compared([[1, 2], [1, 2, 9]], [[1, 2, 3], [1, 2, 3]]) == {"same": 0.5, "parts": 2}
    assert math.isnan(compared([[1]], [[1, 2]])["parts"])


def test_pieces_stand_in_a_row_and_leaves_share_their_beginning():
    assert slices(range(10), 2, 3, begin=1) == [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(ValueError, match="ask for less"):
        slices(range(5), 2, 3)
    known = works(range(1000), [1, 4], 10, 7, leaves=5, kids=3, shared=20, leaf_context=30, step=6)
    assert known["decode"].rows == 4 and known["decode"].tokens == 18
    leaves = known["expand"].contexts
    assert known["expand"].rows == 15 and {len(leaf) for leaf in leaves} == {30}
    assert len({tuple(leaf[:20]) for leaf in leaves}) == 1
    assert len({tuple(leaf[20:]) for leaf in leaves}) == 5
    assert not set(sum(known["decode"].contexts, [])) & set(leaves[0])
    spread = works(range(1000), [1], 10, 7, 5, 3, shared=20, leaf_context=30, step=6, spread=4)
    assert [len(leaf) for leaf in spread["expand"].contexts] == [34, 32, 30, 28, 26]
    assert spread["expand"].tokens == 41


def test_the_table_divides_rates_of_the_same_turn():
    def one(engine, turn, seconds, cpu):
        return Measured("decode", engine, 2, turn, 100, seconds, cpu, 1 << 20)

    ours = [one("copse", 0, 1.0, 1.0), one("copse", 1, 10.0, 1.0), one("copse", 2, 2.0, 1.0)]
    theirs = [one("x", 0, 2.0, 3.0), one("x", 1, 20.0, 3.0), one("x", 2, 2.0, 3.0)]
    told = [line.split(" | ") for line in lines(ours + theirs, "copse")]
    assert told[2][3] == "50.0 [5, 50]" and told[2][5:7] == ["2.00", "3.00"]
    assert told[1][3] == "50.0 [10, 100]" and told[1][5:7] == ["1.00", "1.00"]
    assert lines(ours, "nobody")[1].split(" | ")[5] == "-"


def test_engines_are_named_by_what_is_given(tmp_path):
    (tmp_path / "models").mkdir()
    given = ("m", ["bfloat16", "float32"], [f"new={tmp_path}"])
    made = engines_of(*given, tmp_path / "f16.gguf", "server", "python", {"LD_PRELOAD": ""})
    labels = [engine.label for engine in made]
    assert labels == [
        *("generate bfloat16", "generate float32", "new bfloat16", "new float32"),
        *("vllm bfloat16", "llama.cpp f16"),
    ]
    assert made[2].source == str(tmp_path) and made[4].program == "python"
    assert [engine.kind for engine in engines_of(*given, None, "server", None, {})][-1] == "copse"
    with pytest.raises(typer.BadParameter, match="LABEL=FOLDER"):
        engines_of("m", ["bfloat16"], [str(tmp_path)], None, None, None, {})


def test_all_runs_are_written(tmp_path, fakes):
    found = run(["same"], DECODE)
    output.write_csv(tmp_path / "out.csv", found)
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert len(rows) == len(found) and rows[-1]["engine"] == "same"


def test_texts_are_those_of_the_standard_library():
    ids = rivals.library(tiny.tokenizer().backend_tokenizer, ["argparse"])
    assert isinstance(tiny.tokenizer().backend_tokenizer, Tokenizer)
    assert tiny.tokenizer().decode(ids[:40]).startswith("# Author: Steven J. Bethard")


# -- processes


def test_the_child_says_why_an_engine_is_not_there():
    with pytest.raises(Failed, match="x: .*No module named 'vllm'"):
        Child(Engine("x", "vllm", "nowhere"), 1, 8)
    with pytest.raises(Failed, match="/no/python does not start: No such file"):
        Child(Engine("x", "vllm", "nowhere", program="/no/python"), 1, 8)
    with pytest.raises(Failed, match="its process ended; the last it said"):
        Child(Engine("x", "vllm", "nowhere", program="/bin/ls"), 1, 8)


SERVER = """
    import json, sys
    from http.server import BaseHTTPRequestHandler, HTTPServer

    flags = dict(zip(sys.argv[1:], sys.argv[2:]))
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.tell({})
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert flags["--ctx-size"] == "1024" and flags["--threads"] == "1"
            if asked["prompt"] == [[0]]:
                return self.send_error(400, "no")
            copies = asked.get("n_cmpl", 1)
            each = [prompt for prompt in asked["prompt"] for _ in range(copies)]
            new = asked["n_predict"]
            told = [{"index": i, "tokens": [sum(one)] * new} for i, one in enumerate(each)]
            self.tell(told[::-1] if len(told) > 1 else told[0])
        def tell(self, what):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(what).encode())
    HTTPServer(("127.0.0.1", int(flags["--port"])), Handler).serve_forever()
"""


def test_a_server_gives_texts_in_their_order(tmp_path):
    program = tmp_path / "server"
    program.write_text(f"#!{sys.executable}\n{textwrap.dedent(SERVER)}")
    program.chmod(0o755)
    server = LlamaServer(Engine("x", "llama.cpp", "model.gguf", program=str(program)), 4, 200)
    try:
        server.read([[1, 2]])
        assert server.go_on([[1], [5]], 2, 3, 0.0, 0) == [[1] * 3] * 2 + [[5] * 3] * 2
        assert server.pid in rival_processes.family(os.getpid())
        assert rival_processes.resident(server.pid) > 1 << 20
        with pytest.raises(Failed, match="x: HTTP Error 400"):
            server.read([[0]])
    finally:
        server.close()
    server.close()
    program.write_text("#!/bin/sh\necho no such model >&2; exit 1\n")
    with pytest.raises(Failed, match="no such model"):
        LlamaServer(Engine("x", "llama.cpp", "model.gguf", program=str(program)), 4, 200)


@pytest.mark.thorough
def test_processor_time_is_that_of_children_too():
    work = "x = 0\nfor i in range(3_000_000): x += i"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}]); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", f"{parent}; print()"], **pipes) as process:
        watch = rival_processes.Watch(os.getpid())
        process.communicate(b"\n")
        assert watch.read().cpu > 0.01


# -- the child's engines


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny.model(eos_token_id=None).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def greedy(model, text, new):
    """Token by token, the whole text anew each time."""
    ids = list(text)
    for _ in range(new):
        with torch.inference_mode():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(text) :]


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["copse", "generate"])
def test_engines_of_the_child_continue_what_they_have_read(kind, checkpoint):
    engine = rival_child.ENGINES[kind](checkpoint, "float32", 8, 32)
    contexts = [[7, 8, 9, 1, 2], [7, 8, 9, 3, 4], [7, 8, 9, 5, 6]]
    model = tiny.model(eos_token_id=None)
    rival_child.answer(engine, {"do": "read", "prompts": contexts})
    for rows, behind in ((3, 20), (2, 30)):
        prompts = [context + [behind] for context in contexts[:rows]]
        asked = {"prompts": prompts, "copies": 2}
        rival_child.answer(engine, {"do": "prepare", **asked})
        how = {"do": "continue", "new": 5, "temperature": 0.0, "seed": 1}
        said = rival_child.answer(engine, {**how, **asked})["tokens"]
        assert said == [greedy(model, prompt, 5) for prompt in prompts for _ in range(2)]
    if kind == "generate":
        with pytest.raises(ValueError, match="equal lengths"):
            engine.read([[1, 2], [3]])
    with pytest.raises(ValueError, match="say read, prepare or continue"):
        rival_child.answer(engine, {"do": "sing", "prompts": []})


# -- search with real models


class FakeTree:
    """Node 0 with three siblings, node 1 with one, node 2 with two that are equal."""

    nodes = [0, 1, 2]
    steps = ["a", "b", "c", "d", "e", "f"]
    priors = [0.998, 0.001, 0.001, 1.0, 0.3, 0.3]

    def block(self, node):
        return [range(3), range(3, 4), range(4, 6)][node]

    def child(self, edge):
        return edge + 1 if edge < 2 else -1

    def at(self, edge, name):
        return self.priors[edge] if name == "prior" else 5

    def mean(self, node):
        return 0.25 * node


def test_blocks_of_a_tree_have_their_priors_entropy_and_values():
    first, last = real_models.blocks_of(FakeTree())
    assert first.node == 0 and first.largest == pytest.approx(0.998)
    assert first.values[:2] == [0.25, 0.5] and math.isnan(first.values[2])
    entropy = -(0.998 * math.log(0.998) + 0.002 * math.log(0.001)) / math.log(3)
    assert first.entropy == pytest.approx(entropy)
    assert last.largest == pytest.approx(0.5) and last.entropy == pytest.approx(1)
    told = real_models.shown([first])
    assert "prior 0.9980  visits   5  value 0.250  a" in told


def test_the_table_of_searches_adds_up():
    def row(question, generated, cpu, rows, right):
        return real_models.Row(
            "m", "mcts", 1500, question, generated, 2, True, right, rows, 1.0, cpu, 1.0, 1 << 20,
            "tokens", blocks=3, sure=1, largest=0.5, entropy=0.5,
        )  # fmt: skip

    told = real_models.lines([row(0, 100, 1.0, 2.0, True), row(1, 300, 3.0, 4.0, False)])
    cells = [cell.strip() for cell in told[1].strip("|").split("|")]
    assert " ".join(cells[3:]) == "200 3.0 100.0 1 2.0 2/2 1/2 6 2 0.500 0.50"


def test_a_sampled_text_has_its_tokens_until_the_first_end():
    assert texts.length([5, 6, 2, 2], {2}) == 3
    assert texts.length([5, 6], {2}) == 2
    assert real_models.peak() > 1 << 20
