"""A chat model that is not ours: a tiny Qwen2 with byte-level tokens and a chat template, on free
text, by the same commands.

The first has random weights, the second has learned one conversation by heart, so that what it will
say is known.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from typer.testing import CliRunner

import guides
import search
from search import choose
from search.cli import main

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTION = "What is 2 + 3?"
CHAIN = "Two and three.\n\nThat is \\boxed{5}<|im_end|>"


def tokenizer():
    made = tiny.tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    made.chat_template = CHAT
    return made


def save(folder: Path, model) -> Path:
    model.generation_config.eos_token_id = [256, 257]
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def random_model(tmp_path_factory):
    return save(
        tmp_path_factory.mktemp("random"),
        tiny.model("qwen2", vocab=264, max_position_embeddings=2048),
    )


@pytest.fixture(scope="module")
def learned_model(tmp_path_factory):
    """Trained on one conversation until it says it greedily."""
    tok = tokenizer()
    from guides.policies.prompts import INSTRUCTION

    text = f"{QUESTION}\n\n{INSTRUCTION}"
    prompt = tok.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
    )
    start, answer = tok.encode(prompt), tok.encode(CHAIN)
    model = tiny.model(
        "qwen2", vocab=264, spread=0.05, hidden_size=48, max_position_embeddings=2048
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    ids = torch.tensor([start + answer])
    labels = torch.tensor([[-100] * len(start) + answer])
    for _ in range(400):
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.003:
            break
    assert loss < 0.05, "the fixture must learn its one conversation"
    return save(tmp_path_factory.mktemp("learned"), model.eval())


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["sample", "beam", "mcts"])
def test_steps_end_at_a_blank_line_and_the_answer_stands_in_a_box(learned_model, method, caplog):
    guide = guides.load(learned_model)
    solution = search.solve(
        QUESTION, guide, method, "tokens=400,seconds=60", choose=choose.majority
    )
    assert ("no value head" in caplog.text) == (method != "sample"), (
        "a vote of samples goes by no value"
    )
    assert solution.answer == "5" and solution.verified is None
    assert [step.text for step in solution.steps] == ["Two and three.", "That is \\boxed{5}"]
    assert [step.finish for step in solution.steps] == ["stop", "end"]
    assert solution.steps[-1].tokens[-1] == 257, "the end-of-turn token ended the chain"
    assert solution.usage.generated <= 400
    assert solution.usage.reused > 0, "the prompt was read once"


def test_one_chain_takes_exactly_its_tokens(learned_model):
    solution = search.solve(
        QUESTION, guides.load(learned_model, temperature=0.0), "sample", "tokens=400", chains=1
    )
    assert solution.usage.generated == len(CHAIN.replace("<|im_end|>", "")) + 1
    assert solution.text == "Two and three.\nThat is \\boxed{5}"


def test_an_answer_pattern_and_a_verifier_of_ones_own(learned_model):
    guide = guides.load(learned_model, answer=r"(Two)")
    assert search.solve(QUESTION, guide, "sample", "tokens=100", chains=1).answer == "Two"
    problem = search.TextProblem(QUESTION, verify=lambda text: "boxed{5}" in text)
    solution = search.solve(problem, guides.load(learned_model), "mcts", "tokens=400")
    assert solution.verified is True and solution.stopped == "verified"


@pytest.mark.parametrize("method", ["sample", "beam", "mcts"])
def test_random_weights_end_in_no_answer_and_a_warning(random_model, method, caplog):
    guide = guides.load(random_model, step_tokens=12, max_steps=3)
    solution = search.solve(QUESTION, guide, method, "tokens=300,seconds=60")
    assert solution.answer is None and solution.usage.generated <= 300
    assert "cut off or not understood" in caplog.text and "--delimiter" in caplog.text


@pytest.mark.thorough
def test_the_same_commands(learned_model, tmp_path):
    runner = CliRunner()
    arguments = [
        "solve",
        QUESTION,
        "--guide",
        str(learned_model),
        "--budget",
        "tokens=300,seconds=60",
    ]
    done = runner.invoke(main.app, [*arguments, "--json", "--traces", str(tmp_path / "traces")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["answer"] == "5"
    trace = search.Trace.load(tmp_path / "traces")[0]
    assert trace.kind == "search.problem:TextProblem" and trace.arguments == {"statement": QUESTION}
    viewed = runner.invoke(main.app, ["view", str(tmp_path / "traces")])
    assert viewed.exit_code == 0 and "Two and three." in viewed.stdout
    (tmp_path / "p.jsonl").write_text(
        json.dumps({"problem": QUESTION, "target": "6"})
        + "\n"
        + json.dumps({"problem": "Who?"})
        + "\n"
    )
    out = tmp_path / "out.jsonl"
    runner.invoke(
        main.app,
        [
            *arguments[:1],
            "--input",
            str(tmp_path / "p.jsonl"),
            "--output",
            str(out),
            *arguments[2:],
        ],
    )
    lines = {line["id"]: line for line in map(json.loads, out.read_text().splitlines())}
    assert (
        lines["1"]["answer"] == "5" and lines["1"]["verified"] is None and set(lines) == {"1", "2"}
    )
    assert "target" not in out.read_text()
