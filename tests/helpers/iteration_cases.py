"""A problem, a model and jobs for expert iteration."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import random
import re
import time
from pathlib import Path

import numpy as np
from fakes import generated, scripted_guide

from guides.data.grading import grade, key_of
from guides.iteration import expert_iteration as loop
from guides.iteration import rounds
from search.files.problems_file import Job
from search.problem import TextProblem
from search.trace import Trace

CHAINS = {"chains": 4, "wave": 4}


def sums(count: int, start: int = 1) -> tuple[list[Job], dict[str, str]]:
    """Additions as text problems, with their targets."""
    jobs = [
        Job(f"sum-{n}", TextProblem(f"What is {n} + {n + 1}?")) for n in range(start, start + count)
    ]
    return jobs, {key_of(job.problem): str(2 * n + 1) for n, job in enumerate(jobs, start)}


def checkpoint(folder: Path, skill: float) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(str(skill))
    (folder / "guide.json").write_text(json.dumps({"format": 1, "budget": {"simulations": 4}}))
    return folder


def skill_of(folder: Path) -> float:
    return float((folder / "model.safetensors").read_text().split()[0])


def fake_load(path, **language):
    """A guide that says the right sum with the probability that its checkpoint names."""
    skill = skill_of(Path(path))

    def answer(request):
        prompt = "".join(map(chr, request.prompt))
        time.sleep(0.0005)
        right = random.Random(f"{prompt}|{request.seed}").random() < skill
        return generated(
            f"#### {sum(map(int, re.findall(r'[0-9]+', prompt))) + (not right)}",
            finish="end",
            limit=request.max_tokens,
        )

    return scripted_guide(answer, value=False)


def fake_prepare(
    traces, targets, base, out_file, *, policy, seed, keep=10, earlier=(), hinted=(), **options
):
    """As the real one: right chains are counted, and all that matters of the traces goes into
    the file.
    """
    found = Trace.load(traces)
    counted = len(found)
    for place in (*earlier, *hinted):
        found += Trace.load(place)
    right = [np.nansum(grade(trace, targets.get(key_of(trace)))) for trace in found]
    if not sum(right):
        raise ValueError(f"none of {len(found)} traces has a right solution")
    content = [
        (
            trace.arguments,
            trace.seed,
            [step.text for step in trace.steps],
            trace.edge_visits.tolist(),
        )
        for trace in found
    ]
    out_file.write_text(json.dumps([seed, policy, keep, content]))
    return {
        "solved": sum(bool(r) for r in right[:counted]),
        "examples": len(found),
        "solutions": int(sum(right)),
        "rationalised": 0,
        "verdicts": dict.fromkeys(("right", "partial", "wrong", "undecided", "error"), 0),
        "improve": [{"threshold": 1.0, "chains": int(sum(right))}],
        "held": 0,
    }


def fake_training(gain: float):
    """A training that adds `gain` to the skill; what it read is in the weights too."""

    def run(config):
        settings = json.loads(Path(config).read_text())
        read = hashlib.sha256(
            b"".join(Path(path).read_bytes() for path in settings["examples"])
        ).hexdigest()
        checkpoint(Path(settings["out"]), skill_of(Path(settings["model"])) + gain)
        with open(Path(settings["out"], "model.safetensors"), "a") as file:
            file.write(f" {read} {settings['options']}")
        Path(settings["out"], "training.json").write_text(
            json.dumps({"steps": 5, "tokens": 100, "flops": 1e6})
        )

    return run


def ledger(out: Path) -> list[dict[str, str]]:
    with open(out / "rounds.csv") as file:
        return list(csv.DictReader(file))


def content(out: Path) -> dict[str, bytes]:
    """All of a run that must not depend on kills: weights, examples, verdicts."""
    kept = [
        path
        for path in out.rglob("*")
        if path.name in ("model.safetensors", "examples.npz", "gate.json", "examples.json")
    ]
    return {str(path.relative_to(out)): path.read_bytes() for path in kept}


VOWELS, RIGHT = "aeiou", "e"


WORDS = list(map("".join, itertools.product("bdlmr", "ou", "st")))


def vowel_folder(place: Path, again: str | None = None) -> Path:
    """In `place`: base, a tiny Qwen2 that answers with any vowel, and behind the line `again` with
    any other; p.jsonl and g.jsonl, questions whose answer is always the same one.
    """
    import tiny
    import torch

    torch.set_num_threads(1)
    tokenizer = tiny.tokenizer()
    model = tiny.model("qwen2", vocab=258, spread=0.05, max_position_embeddings=256)
    questions = [f"A letter of {word}?" for word in WORDS]
    rows = []
    for number, (question, vowel) in enumerate(itertools.product(questions, VOWELS)):
        rows.append([*tokenizer.encode(question + " "), *tokenizer.encode(vowel), 256])
        if again is not None:
            other = VOWELS[(number // 2) % len(VOWELS)]
            rows[-1] += [*tokenizer.encode(f"{again}\n{other}"), 256]
    texts = torch.tensor(rows)
    start = len(tokenizer.encode(questions[0] + " "))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        logits = model(input_ids=texts).logits[:, start - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), texts[:, start:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(place / "base")
    tokenizer.save_pretrained(place / "base")
    for name, part in (("p.jsonl", questions[:12]), ("g.jsonl", questions[12:])):
        (place / name).write_text(
            "".join(json.dumps({"problem": question, "target": RIGHT}) + "\n" for question in part)
        )
    return place


def without_heavy_parts(monkeypatch):
    """All heavy parts replaced; returns how to plant another gain."""

    def plant(gain: float) -> None:
        monkeypatch.setattr(loop, "run_training", fake_training(gain))

    monkeypatch.setattr(rounds, "load", fake_load)
    monkeypatch.setattr(rounds, "unload", lambda path: None)
    monkeypatch.setattr(loop, "prepare", fake_prepare)
    plant(0.3)
    return plant
