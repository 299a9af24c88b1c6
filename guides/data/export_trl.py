"""Labels and preferences as training data of other programs, in TRL's columns.

For its process reward models a row is a finished chain: `prompt` (text), `completions` (the texts
of its steps), `labels` (one a step). TRL makes `int(label)` of each, so that 0.9 would become 0:
labels are true booleans, and floats only where they are asked for, for trainers that take them.

For its preferences a row is a pair: `prompt` (text, with the steps that both have in common),
`chosen` and `rejected` (text).
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guides.data.labellers import above
from guides.data.labels import Labels
from guides.data.preferences import Pairing, pairs_of
from search.files.atomic import atomic
from search.trace import Trace

SUFFIXES = (".jsonl", ".parquet")


def prm_rows(trace: Trace, labels: Labels, *, soft: bool = False) -> Iterator[dict[str, Any]]:
    """A row for each finished chain of a trace, up to its first step without a label; none
    where that is the first step.

    soft  labels are k / n, float in [0, 1]; else bool: was any outcome right?

    A hard label that is missing follows from the others where its meaning says so: a step is right
    if one below it in the tree is (some completion of it was), and else wrong if one before it is.
    So chains that were bisected have all their labels.
    """
    problem = trace.problem()
    prompt = problem.prompt(problem.initial())
    of_nodes = labels.soft if soft else _filled(trace, labels.hard)
    for end in trace.node_finished.nonzero()[0]:
        edges = trace.path(int(end))
        of_steps = itertools.takewhile(_is_number, of_nodes[trace.edge_child[edges]].tolist())
        chosen = list(of_steps) if soft else [label == 1.0 for label in of_steps]
        if chosen:
            steps = [trace.steps[edge].text for edge in edges[: len(chosen)]]
            yield {"prompt": prompt, "completions": steps, "labels": chosen}


def _is_number(label: float) -> bool:
    return not math.isnan(label)


def _filled(trace: Trace, hard: np.ndarray) -> np.ndarray:
    """float64 [nodes], 0 or 1: hard labels with what follows from them; nan where nothing does."""
    right = above(trace, hard == 1.0)
    wrong = hard == 0.0
    for node in range(1, len(hard)):  # a child stands behind its parent
        wrong[node] |= wrong[trace.node_parent[node]]
    return np.where(np.isnan(hard), np.where(right, 1.0, np.where(wrong, 0.0, math.nan)), hard)


def export_prm(
    traces: Sequence[Trace], labels: Mapping[str, Labels], out: str | Path, *, soft: bool = False
) -> int:
    """Write the rows of all labelled traces to a .jsonl or .parquet file, renamed into place when
    complete; how many they are.

    labels  trace id -> labels (`guides.data.labels.read_labels`)
    Raises ValueError for another kind of file and where no chain has labels.
    """
    out = Path(out)
    check_suffix(out)
    rows: list[dict[str, Any]] = []
    for trace in traces:
        if trace.id in labels:
            rows += prm_rows(trace, labels[trace.id], soft=soft)
    if not rows:
        hint = "label more nodes, or let the search finish more chains"
        if soft:
            hint = "label more nodes (--by rollouts)"
        raise ValueError(
            f"no finished chain of {len(traces)} traces has a label at its first step: {hint}"
        )
    columns = {"prompt": "string", "completions": "list<string>"}
    columns["labels"] = "list<double>" if soft else "list<bool>"
    with atomic(out) as part:
        _write(rows, part, out.suffix, columns)
    return len(rows)


def preference_rows(trace: Trace, pairs: Sequence[tuple[int, int]]) -> Iterator[dict[str, str]]:
    """A row for each pair of nodes of a trace, the better one first."""
    problem = trace.problem()
    prompt = problem.prompt(problem.initial())
    for pair in pairs:
        better, worse = map(trace.path, pair)
        common = 0
        while better[common] == worse[common]:
            common += 1
        yield {
            "prompt": prompt + _text(trace, better[:common]),
            "chosen": _text(trace, better[common:]),
            "rejected": _text(trace, worse[common:]),
        }


def _text(trace: Trace, edges: Sequence[int]) -> str:
    return "".join(trace.steps[edge].text for edge in edges)


def export_preferences(
    traces: Sequence[Trace],
    labels: Mapping[str, Labels],
    out: str | Path,
    pairing: Pairing,
    *,
    keep: int = 10,
    seed: int = 0,
) -> int:
    """Write the pairs of all labelled traces to a .jsonl or .parquet file, renamed into place when
    complete; how many they are.

    labels  trace id -> labels; a finished chain is right where its label is 1, wrong where it is 0
    keep, seed  as in `guides.data.preferences.pairs_of`
    Raises ValueError for another kind of file and where there is no pair.
    """
    out = Path(out)
    check_suffix(out)
    rows: list[dict[str, str]] = []
    for trace, rng in zip(traces, np.random.default_rng(seed).spawn(len(traces)), strict=True):
        if trace.id in labels:
            own = labels[trace.id]
            pairs = pairs_of(trace, own.soft, own, pairing, keep=keep, rng=rng)
            rows += preference_rows(trace, pairs)
    if not rows:
        raise ValueError(
            f"no two {pairing.kind} of {len(traces)} traces differ in what they are worth: label "
            "more nodes, or search more"
        )
    columns = dict.fromkeys(("prompt", "chosen", "rejected"), "string")
    with atomic(out) as part:
        _write(rows, part, out.suffix, columns)
    return len(rows)


def check_suffix(out: Path) -> None:
    """Raises ValueError for a name that does not tell the kind of the file."""
    if out.suffix not in SUFFIXES:
        raise ValueError(
            f"cannot tell what kind of file {out} is to be: let its name end with "
            f"{' or '.join(SUFFIXES)}"
        )


def _write(
    rows: Sequence[Mapping[str, Any]], path: Path, suffix: str, columns: Mapping[str, str]
) -> None:
    """columns: their types in a .parquet file, by name."""
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return
    pa = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    kinds = {
        "string": pa.string(),
        "list<string>": pa.list_(pa.string()),
        "list<double>": pa.list_(pa.float64()),
        "list<bool>": pa.list_(pa.bool_()),
    }
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    parquet.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, compression="zstd")
