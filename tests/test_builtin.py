"""The built-in model: its tokenizer, data, loss, resumable training, and the weights that are shipped."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from guides import builtin  # noqa: E402
from guides.examples import ExampleFile, Shards, collate, write_examples  # noqa: E402
from guides.train import Options, PolicyValueTrainer, last_checkpoint  # noqa: E402
from models.heads import ValueHead, load_head  # noqa: E402
from search.problem import TextStep  # noqa: E402
from search.problems import countdown_paths  # noqa: E402
from search.problems.countdown import parse  # noqa: E402

SHIPPED = builtin.RECIPE.parent
ROOT = builtin.RECIPE.parents[2]
ASCII = st.text(st.sampled_from([chr(code) for code in range(32, 127)] + ["\n"]), max_size=60)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# the tokenizer


def tokenizer() -> Any:
    return builtin.build_tokenizer(**builtin.read_recipe()["tokenizer"])


@settings(max_examples=200, deadline=None)
@given(ASCII, st.sampled_from([9, 50, 999]))
def test_any_ascii_text_survives(text: str, numbers: int) -> None:
    tok = builtin.build_tokenizer(["Use", "and", "to", "make"], numbers)
    ids = tok.encode(text, add_special_tokens=False)
    assert tok.decode(ids, skip_special_tokens=False) == text
    assert tok.decode(ids, skip_special_tokens=True) == text, "no ASCII text holds a special token"


def test_no_token_is_longer_than_a_number_word_or_symbol() -> None:
    tok = tokenizer()
    for token in tok.get_vocab():
        assert len(token) == 1 or token.isalpha() or token.isdigit()
    sentence = ["Use", " ", "4", ",", " ", "17", " ", "and", " ", "100", " ", "to", " ", "make", " ", "24", ".", "\n"]
    assert tok.tokenize("".join(sentence)) == sentence
    assert tok.tokenize("007 1000 today") == list("007 1000 today")


# the data


def play(segments: list[tuple[str, float, float, int]], index: int) -> tuple[Any, tuple[TextStep, ...]]:
    """The problem of an example and the state at one of its segments."""
    problem = parse(segments[0][0])
    assert problem is not None
    lines: list[str] = []
    while index > 0:
        lines.insert(0, segments[index][0].removesuffix("\n"))
        index = segments[index][3]
    state = problem.initial()
    for text in lines:
        state = problem.apply(state, TextStep(text))
    return problem, state


def reaches(numbers: tuple[int, ...], target: int) -> bool:
    """Brute force over whole non-negative numbers up to LIMIT: an independent truth."""
    if len(numbers) == 1:
        return numbers[0] == target
    for i in range(len(numbers)):
        for j in range(len(numbers)):
            a, b = numbers[i], numbers[j]
            if i == j or a < b:
                continue
            rest = tuple(n for k, n in enumerate(numbers) if k not in (i, j))
            results = {a + b, a - b, a * b} | ({a // b} if b and a % b == 0 else set())
            if any(reaches((*rest, c), target) for c in results if c <= countdown_paths.LIMIT):
                return True
    return False


def test_examples_are_legal_and_labelled_right() -> None:
    for segments in countdown_paths.examples(0, 0, 60):
        drawn: dict[int, float] = {}
        for i, (text, weight, value, parent) in enumerate(segments):
            problem, state = play(segments, i if text else parent)
            assert problem.split() == "train" and 1 <= problem.target <= 100
            left = tuple(int(n) for n in problem.left(state))
            drawn[parent] = drawn.get(parent, 0.0) + weight
            if text:
                assert 0 <= weight <= 1 and (weight == 0 or value == 1)
                if len(left) < 5:
                    assert value == float(reaches(left, problem.target))
            else:
                assert problem.verify(state) == 1.0 and math.isnan(value)
        for i, (text, weight, *_) in enumerate(segments):
            if weight and text and play(segments, i)[0].left(play(segments, i)[1])[1:]:
                assert drawn[i] == pytest.approx(weight), "every path that comes to a step goes on from it"


def test_no_example_has_a_held_out_target(tmp_path: Path) -> None:
    for shard in range(3):
        for segments in countdown_paths.examples(7, shard, 2000):
            problem = parse(segments[0][0])
            assert problem is not None and problem.target not in countdown_paths.HELD_OUT
    assert 24 in countdown_paths.HELD_OUT
    tok = tokenizer()
    path = tmp_path / "shard.npz"
    write_examples(path, builtin.encode(tok, countdown_paths.examples(1, 0, 3000)))
    rows = ExampleFile(path)
    for i in range(len(rows)):
        row = rows[i]
        text = tok.decode(row["tokens"])
        prompt = text[: text.index("\n") + 1]
        problem = parse(prompt)
        assert problem is not None and problem.target not in countdown_paths.HELD_OUT and problem.split() == "train"
        assert text.count("make") == 1, "one prompt an example"


def test_data_depend_on_seed_and_shard_alone() -> None:
    def draw(seed: int, shard: int) -> str:
        return repr(list(countdown_paths.examples(seed, shard, 20)))

    assert draw(1, 2) == draw(1, 2)
    assert len({draw(1, 2), draw(2, 1), draw(1, 3)}) == 3


def test_an_example_is_read_as_its_texts_one_by_one(tmp_path: Path) -> None:
    """A tree in one pass gives each branch the logits it gets alone."""
    tok = tokenizer()
    path = tmp_path / "a.npz"
    examples = list(builtin.encode(tok, countdown_paths.examples(3, 0, 4)))
    write_examples(path, examples, block=1)
    model, _ = builtin.build_model({"hidden": 32, "layers": 2, "heads": 2, "inner": 64, "context": 128}, tok, 0)
    model.set_attn_implementation("eager")
    batch = collate([ExampleFile(path)[i] for i in range(4)])
    mask = torch.zeros(batch["visible"].shape).masked_fill(~batch["visible"], -1e9)[:, None]
    together = model(input_ids=batch["tokens"], position_ids=batch["positions"], attention_mask=mask).logits
    for row in range(4):
        previous, tokens = batch["previous"][row].tolist(), batch["tokens"][row]
        for last in range(len(ExampleFile(path)[row]["tokens"])):
            chain = [last]
            while previous[chain[0]] >= 0:
                chain.insert(0, previous[chain[0]])
            if last % 7 == 0:
                alone = model(input_ids=tokens[chain][None]).logits[0, -1]
                torch.testing.assert_close(alone, together[row, last], atol=1e-4, rtol=1e-4)


def test_files_are_arranged_in_blocks_of_equal_length(tmp_path: Path) -> None:
    def make(shard: int) -> Any:
        return ([([1] * (1 + i % 5), 1.0, math.nan, -1)] for i in range(40))

    rows = Shards(tmp_path, 2, 40, make, block=8)
    assert len(rows) == 80
    for start in range(0, 80, 8):
        assert len({len(rows[i]["tokens"]) for i in range(start, start + 8)}) == 1
    with pytest.raises(ValueError, match="write it again"):
        (tmp_path / "bad.npz").write_bytes(b"PK half a file")
        ExampleFile(tmp_path / "bad.npz")


# the loop


def gradient(tmp_path: Path, batch: int, accumulation: int) -> tuple[float, dict[str, Any]]:
    tok = tokenizer()
    rng = np.random.default_rng(0)
    path = tmp_path / "examples.npz"
    examples = [
        [([5] * int(rng.integers(2, 9)), 0.0, float(rng.random() < 0.5), -1)]
        + [(rng.integers(4, 100, int(rng.integers(1, 9))).tolist(), float(rng.random() < 0.7) * 0.6, float("nan"), 0) for _ in range(3)]
        for _ in range(32)
    ]
    write_examples(path, examples)
    model, head = builtin.build_model({"hidden": 32, "layers": 2, "heads": 2, "inner": 64, "context": 64}, tok, 0)
    model.value_head = head
    model.set_attn_implementation("eager")
    options = Options(steps=1, batch=batch, accumulation=accumulation, precision="float32", compile=False)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / f"{batch}"), max_steps=1, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
        learning_rate=0.0, max_grad_norm=1e9, logging_steps=1, use_cpu=True, remove_unused_columns=False, report_to="none", save_strategy="no",
    )  # fmt: skip
    caught: dict[str, Any] = {}

    class Catch(transformers.TrainerCallback):  # type: ignore[misc]
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            caught.update({name: p.grad.clone() for name, p in model.named_parameters()})

    trainer = PolicyValueTrainer(
        model=model, args=arguments, train_dataset=ExampleFile(path), data_collator=collate, callbacks=[Catch()], options=options
    )
    trainer.train()
    return trainer.state.log_history[0]["loss"], caught


def test_accumulation_gives_the_same_loss_and_gradient(tmp_path: Path) -> None:
    loss, whole = gradient(tmp_path, 32, 1)
    parts_loss, parts = gradient(tmp_path, 8, 4)
    assert parts_loss == pytest.approx(loss, rel=1e-4)
    assert len(whole) > 10
    for name, expected in whole.items():
        torch.testing.assert_close(parts[name], expected, atol=1e-6, rtol=1e-3)


TINY = {
    "data": "search.problems.countdown_paths",
    "seed": 1,
    "tokenizer": {"words": ["Use", "and", "to", "make"], "numbers": 999},
    "guide": {"format": 1},
    "sizes": {
        "small": {
            "model": {"hidden": 16, "layers": 1, "heads": 1, "inner": 32, "context": 160},
            "options": {"steps": 60, "batch": 4, "save_steps": 4, "warmup": 5, "compile": False, "precision": "float32"},
        }
    },
}
CHILD = """
import sys, torch
torch.set_num_threads(1)
from guides import builtin
builtin.SHARD = 120
builtin.train_builtin("small", sys.argv[1], recipe=sys.argv[2])
"""


def files(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.glob("work/shards/*.npz")}


def test_a_killed_training_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(TINY))
    rng, out = random.Random(0), tmp_path / "killed"

    def start(folder: Path) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.Popen([sys.executable, "-c", CHILD, str(folder), str(recipe)], env=environment, cwd=tmp_path)

    whole = start(tmp_path / "whole")
    kept: dict[str, int] = {}
    for kill in range(3):
        child, deadline = start(out), time.monotonic() + 40
        reached = last_checkpoint(out / "work")
        while child.poll() is None and time.monotonic() < deadline and last_checkpoint_number(out) <= number(reached):
            time.sleep(0.02)
        time.sleep(rng.random() * 0.2)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert kept.items() <= files(out).items(), "a finished shard was made again"
        kept = files(out)
        if kill == 0:  # a checkpoint that was cut short
            (out / "work" / "checkpoint-999").mkdir()
            (out / "work" / "checkpoint-999" / "trainer_state.json").write_text("{")
    begun = last_checkpoint_number(out)
    assert begun > 0
    child = start(out)
    assert child.wait(timeout=60) == 0 and whole.wait(timeout=60) == 0
    assert kept.items() <= files(out).items()
    state = json.loads((out / "work" / "checkpoint-60" / "trainer_state.json").read_text())
    steps = [entry["step"] for entry in state["log_history"] if "loss" in entry]
    assert steps == sorted(set(steps)) and state["global_step"] == 60, "no step was counted twice"
    for name in ("model.safetensors", "value_head.safetensors"):
        ours, truth = (load_file(folder / name) for folder in (out, tmp_path / "whole"))
        for key, tensor in truth.items():
            torch.testing.assert_close(ours[key], tensor, atol=1e-5, rtol=1e-4)
    done = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    builtin.train_builtin("small", out, recipe=recipe)
    assert done == {p.name: p.stat().st_mtime_ns for p in out.iterdir()}, "a finished run is left alone"


def number(folder: str | None) -> int:
    return int(folder.rsplit("-", 1)[1]) if folder else -1


def last_checkpoint_number(out: Path) -> int:
    """Like `last_checkpoint`, without removing anything."""
    return max((number(str(p.parent)) for p in out.glob("work/checkpoint-*/complete")), default=-1)


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "settings.json").write_text("{}")
    with pytest.raises(ValueError, match="choose another --out"):
        builtin.train_builtin("small", tmp_path)
    with pytest.raises(ValueError, match="choose one of small, full"):
        builtin.train_builtin("huge", tmp_path)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"steps": 1, "decay": 2.0}, {"steps": 1, "precision": "int4"}, {"steps": 1, "batch": 0}])
def test_impossible_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="correct the training options"):
        Options(**wrong)


# the shipped weights

needs_weights = pytest.mark.skipif(not (SHIPPED / "model.safetensors").exists(), reason="weights not trained yet")


@needs_weights
def test_shipped_weights_load_and_are_small() -> None:
    model, report = transformers.AutoModelForCausalLM.from_pretrained(SHIPPED, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert model.num_parameters() <= 10_000_000 and model.config.model_type == "llama" and model.config.use_cache
    assert sum(p.stat().st_size for p in SHIPPED.glob("*.safetensors")) <= 20 * 2**20
    head = load_head(SHIPPED, model.config.hidden_size)
    assert isinstance(head, ValueHead)
    tok = transformers.AutoTokenizer.from_pretrained(SHIPPED)
    assert tok.get_vocab() == tokenizer().get_vocab() and len(tok) <= model.config.vocab_size
    assert json.loads((SHIPPED / "guide.json").read_text()) == builtin.read_recipe()["guide"]


@needs_weights
def test_shipped_model_solves_an_easy_puzzle() -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(SHIPPED)
    tok = transformers.AutoTokenizer.from_pretrained(SHIPPED)
    problem = parse("Use 2, 4 and 6 to make 48.")
    assert problem is not None
    ids = torch.tensor([tok.encode(problem.prompt(()) + "\n", add_special_tokens=False)])
    text = tok.decode(model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)[0, ids.shape[1] :])
    state = problem.initial()
    for line in text.split("\n")[:2]:
        state = problem.apply(state, TextStep(line))
    assert problem.verify(state) == 1.0
