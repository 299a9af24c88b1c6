"""The numbers of a run of reinforcement learning: a line a round, as CSV, and as a page that renews
itself while it runs.

The columns of `rounds.csv`, nan where a round has nothing to count:

* round: 0 is the base
* problems, chains: searched; samples that take part in the gradient, and those that were right
  (reward 1), partial, wrong (0), undecided (no gradient), failed (error) or unfinished (cut off)
* reward: mean over the problems of the mean of their samples, which is pass@1 where rewards are 0
  or 1
* first: the same of the first attempts, where a stream has several
* dropped: problems whose samples all have the same reward
* length: mean tokens of a sample
* entropy, kl: of the policy, in nats a token; to the reference
* sampler_gap, sampler_kl: between trainer and sampler, before the first update
  (`guides.training.learner.Update`)
* moved, gradient: share of tokens outside the trust region, norm of the gradient
* gate, gate_low, gate_high, best: accuracy at the gate, 95 % interval of its difference to the best
  one before, and 1 where it is better
* search_tokens, gate_tokens, training_tokens; search_flops, gate_flops, training_flops,
  total_flops: the last of this and all earlier rounds
* search_seconds, training_seconds, tokens_per_second: generated while searching
"""

from __future__ import annotations

import csv
import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guides.iteration.ledger import spent
from search.files.atomic import atomic

COUNTED = ("right", "partial", "wrong", "undecided", "error")
COLUMNS = (
    "round", "problems", "chains", *COUNTED, "unfinished", "reward", "first", "dropped", "length",
    "entropy", "kl", "sampler_gap", "sampler_kl", "moved", "gradient",
    "gate", "gate_low", "gate_high", "best",
    "search_tokens", "gate_tokens", "training_tokens", "search_flops", "gate_flops",
    "training_flops", "total_flops", "search_seconds", "training_seconds", "tokens_per_second",
)  # fmt: skip
#: of the page
DRAWN = ("reward", "gate", "entropy", "kl", "length", "dropped", "sampler_gap", "tokens_per_second")
#: of the table that is logged
SHOWN = ("round", "reward", "gate", "entropy", "length", "dropped", "undecided", "sampler_gap")
LAST = 10  #: rounds in that table
_WIDTH, _HEIGHT = 360, 120


def numbers_of(folder: Path, number: int) -> dict[str, float]:
    """The columns of one round but `total_flops`, from what stands in its folder."""
    row: dict[str, float] = dict.fromkeys(COLUMNS, math.nan)
    del row["total_flops"]
    row["round"] = number
    gate = _read(folder / "gate.json")
    if gate:
        row["gate"] = gate.get("after", math.nan)  # without labels there is no gate
        row["gate_low"] = gate.get("low", math.nan)
        row["gate_high"] = gate.get("high", math.nan)
        row["best"] = int(gate["accepted"])
    row["gate_tokens"], row["gate_flops"] = 0, 0.0
    if (folder / "gate.jsonl").exists():
        row["gate_tokens"], row["gate_flops"], _ = spent(folder / "gate.jsonl")
    if number == 0:
        return row
    credit = _read(folder / "credit.json")
    training = _read(folder / "checkpoint" / "training.json")
    for name in (*COUNTED, "chains", "unfinished", "reward", "dropped"):
        row[name] = credit[name]
    row["first"] = credit.get("first", math.nan)  # older runs do not say
    row["length"] = credit["tokens"]
    for name in ("entropy", "kl", "sampler_gap", "sampler_kl", "moved", "gradient"):
        row[name] = training[name]
    row["training_tokens"] = training["tokens"]
    row["training_flops"] = training["flops"]
    row["training_seconds"] = training["seconds"]
    tokens, flops, problems = spent(folder / "traces" / "results.jsonl")
    row["search_tokens"] = tokens
    row["search_flops"] = flops
    row["problems"] = problems
    row["search_seconds"] = _read(folder / "sampling.json")["seconds"]
    row["tokens_per_second"] = tokens / max(row["search_seconds"], 1e-9)
    return row


def write_rounds(out: Path, last: int) -> str:
    """Write `rounds.csv` and `rounds.html` of the rounds 0 to `last` into the run's folder; the
    last rounds as a Markdown table.
    """
    rows = [numbers_of(out / "round-00", 0)]
    for number in range(1, last + 1):
        rows.append(_read(out / f"round-{number:02d}" / "round.json"))
    total = 0.0
    for row in rows:
        total += float(np.nansum([row[f"{part}_flops"] for part in ("search", "gate", "training")]))
        row["total_flops"] = total
    with atomic(out / "rounds.csv") as part, part.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    with atomic(out / "rounds.html") as part:
        part.write_text(_page(out.resolve().name, rows))
    lines: list[Sequence[str]] = [SHOWN, ["---"] * len(SHOWN)]
    for row in rows[-LAST:]:
        lines.append([_shown(row[name]) for name in SHOWN])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _page(title: str, rows: Sequence[Mapping[str, float]]) -> str:
    """An HTML page of a run without anything from elsewhere: lines of `DRAWN` over the rounds, and
    all numbers of the last round. It loads itself again every five seconds.
    """
    charts = "".join(_chart(name, rows) for name in DRAWN)
    cells = ""
    for name in COLUMNS:
        cells += f"<tr><td>{name}<td>{_shown(rows[-1][name])}"
    return (
        '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="5">'
        f"<title>{html.escape(title)}</title>"
        "<style>body{font:14px sans-serif;margin:2em}figure{display:inline-block;margin:0 2em 1em"
        " 0}td{padding:0 1em 0 0}svg{border-bottom:1px solid #999}</style>"
        f"<h1>{html.escape(title)}</h1>{charts}<h2>Round {len(rows) - 1}</h2><table>{cells}</table>"
    )


def _chart(name: str, rows: Sequence[Mapping[str, float]]) -> str:
    """A line of one column over the rounds, as SVG; "" where it has no number."""
    values = np.array([row[name] for row in rows])
    known = np.flatnonzero(~np.isnan(values))
    if not len(known):
        return ""
    low = float(np.nanmin(values))
    high = float(np.nanmax(values))
    across = _WIDTH / max(1, len(rows) - 1)
    up = _HEIGHT / max(high - low, 1e-12)
    last = _shown(values[known[-1]])
    points = ""
    for place in known:
        points += f"{place * across:.1f},{_HEIGHT - (values[place] - low) * up:.1f} "
    return (
        f"<figure><figcaption>{name}: {last} (from {_shown(low)} to {_shown(high)})</figcaption>"
        f'<svg width="{_WIDTH}" height="{_HEIGHT}"><polyline fill="none" '
        f'stroke="#06c" points="{points}"/></svg></figure>'
    )


def _read(path: Path) -> dict[str, Any]:
    """A file of JSON, {} where there is none."""
    if not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"
