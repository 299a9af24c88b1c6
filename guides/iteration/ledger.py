"""The table of a run of expert iteration: a row a round, made from what the rounds left on disk.

The columns of `rounds.csv`:

* round: 0 is the base
* problems, solved: searched in this round; the share of them with a right solution
* rationalised: problems that were solved with their targets as hints alone
* right, partial, wrong, undecided, errors: finished chains with a reward of 1, between 0 and 1, of
  0, with none, and of which it failed
* examples, solutions: distilled from the traces; the right solutions that were kept
* steps: of the optimiser
* gate_before, gate_after: accuracy of the accepted and of the new guide on the gate problems, in
  [0, 1]; empty without a gate
* gate_low, gate_high: 95 % interval of their difference, paired bootstrap over problems
* accepted: 1 where the new guide was better
* search_tokens, gate_tokens, training_tokens: generated, generated, read
* search_flops, gate_flops, training_flops, total_flops: the last of this and all earlier rounds:
  searching and labelling count too
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from search.files.atomic import atomic

COLUMNS = (
    "round", "problems", "solved", "rationalised", "right", "partial", "wrong", "undecided",
    "errors", "examples", "solutions", "steps",
    "gate_before", "gate_after", "gate_low", "gate_high", "accepted",
    "search_tokens", "gate_tokens", "training_tokens", "search_flops", "gate_flops",
    "training_flops", "total_flops",
)  # fmt: skip


def results_of(path: Path) -> dict[str, dict[str, Any]]:
    """The result lines of a file by id as text."""
    results = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        results[str(row["id"])] = row
    return results


def write_ledger(out: Path, last: int) -> str:
    """Write `rounds.csv` of the rounds 0 to `last` into the run's folder; the same as a Markdown
    table.
    """
    rows = [_row(out / f"round-{number:02d}", number) for number in range(last + 1)]
    total = 0.0
    for row in rows:
        total += row["search_flops"] + row["gate_flops"] + row["training_flops"]
        row["total_flops"] = total
    with atomic(out / "rounds.csv") as part, part.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    lines: list[Iterable[str]] = [COLUMNS, ["---"] * len(COLUMNS)]
    for row in rows:
        lines.append(_shown(row[name]) for name in COLUMNS)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _row(folder: Path, number: int) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS, 0)
    row["round"] = number
    gate = json.loads((folder / "gate.json").read_text())
    for name in ("before", "after", "low", "high"):
        row[f"gate_{name}"] = gate.get(name, "")
    row["accepted"] = int(gate["accepted"])
    row["gate_tokens"], row["gate_flops"], _ = spent(folder / "gate.jsonl")
    if number == 0:
        return row
    report = json.loads((folder / "examples.json").read_text())
    tokens, flops, problems = spent(folder / "traces" / "results.jsonl")
    row["problems"] = problems
    row["solved"] = report["solved"] / problems
    for name in ("rationalised", "examples", "solutions"):
        row[name] = report[name]
    verdicts = report["verdicts"]
    for name in ("right", "partial", "wrong", "undecided"):
        row[name] = verdicts[name]
    row["errors"] = verdicts["error"]
    told = folder / "hinted" / "results.jsonl"
    if told.exists():
        more = spent(told)
        tokens += more[0]
        flops += more[1]
    row["search_tokens"] = tokens
    row["search_flops"] = flops
    for place in [*folder.glob("improved-*"), folder / "checkpoint"]:
        training = json.loads((place / "training.json").read_text())
        row["steps"] += training["steps"]
        row["training_tokens"] += training["tokens"]
        row["training_flops"] += training["flops"]
    return row


def spent(path: Path) -> tuple[int, float, int]:
    """Generated tokens, FLOPs and the number of the searches in a file of results."""
    results = results_of(path)
    tokens = 0
    flops = 0
    for row in results.values():
        tokens += row["usage"]["generated"]
        flops += row["usage"]["flops"]
    return tokens, flops, len(results)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
