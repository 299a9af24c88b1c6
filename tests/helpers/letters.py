"""A model and problems that are not ours, for tests of trainings: a tiny Qwen2 that was taught a
form and nothing else, a line `u` or `v`, then `a`, `b` or `c`, and the end. The problems ask for
one of the three letters, so a third of its chains is right.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tiny
import torch

from models.checkpoints.checkpoint import save_model
from search.cli import main
from search.trace import Trace

LETTERS = "abc"
PROBLEMS = [(f"{i} {LETTERS[i % 3]}", LETTERS[i % 3]) for i in range(18)]
SETTINGS = {
    "prompt": "{problem}:",
    "delimiter": "\n",
    "step_tokens": 4,
    "max_steps": 3,
    "answer": "([abc])$",
}
FLAGS = [
    "--prompt",
    "{problem}:",
    "--delimiter",
    r"\n",
    "--step-tokens",
    "4",
    "--max-steps",
    "3",
    "--answer",
    "([abc])$",
]


def taught(folder: Path) -> Path:
    """The model in `folder`. It has no settings and no value head."""
    tok, model = tiny.tokenizer(), tiny.model("qwen2", spread=0.05, hidden_size=48)
    optimizer, rng = torch.optim.AdamW(model.parameters(), lr=3e-3), np.random.default_rng(0)
    for _ in range(150):
        texts = [
            f"{int(rng.integers(100)):2d} "
            f"{rng.choice(list(LETTERS))}:{rng.choice(['u', 'v'])}\n{rng.choice(list(LETTERS))}"
            for _ in range(32)
        ]
        ids = torch.tensor([[*tok.encode(text), tok.eos_token_id] for text in texts])
        labels = torch.where(torch.arange(ids.shape[1]) < 5, -100, ids)
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return save_model(folder, model.eval(), tok)


def write_problems(path: Path) -> Path:
    """The problems with their targets, as a file."""
    rows = [json.dumps({"problem": text, "target": target}) + "\n" for text, target in PROBLEMS]
    path.write_text("".join(rows))
    return path


def search(guide: Path, file: Path, traces: Path, *flags: str) -> list[Trace]:
    """Searches at temperature 1: below, a trained model has no wrong chains left for its value
    head to be tried on.
    """
    output = traces.with_suffix(".jsonl")
    command = [
        "solve",
        "--guide",
        guide,
        "--input",
        file,
        "--output",
        output,
        "--traces",
        traces,
        "--method",
        "sample",
    ]
    assert main.main(
        [
            *map(str, command),
            "--option",
            "chains=16",
            "--budget",
            "tokens=2000",
            "--temperature",
            "1",
            *flags,
        ]
    ) in (0, 1)
    return Trace.load(traces)


def share(traces: list[Trace]) -> float:
    """Right chains of all that were finished."""
    right = total = 0
    for trace in traces:
        target = dict(PROBLEMS)[trace.arguments["statement"]]
        for node in np.flatnonzero(trace.node_finished):
            visits = int(trace.edge_visits[trace.node_edge[node]])
            total += visits
            right += visits * trace.steps[trace.node_edge[node]].text.endswith(target)
    return right / total
