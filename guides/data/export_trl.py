"""Labels as training data of other programs: the columns of TRL's process reward models.

A row is a finished chain: `prompt` (text), `completions` (the texts of its steps), `labels` (one a
step). TRL makes `int(label)` of each, so that 0.9 would become 0: labels are true booleans, and
floats only where they are asked for, for trainers that take them.
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
    with atomic(out) as part:
        _write(rows, part, out.suffix, soft)
    return len(rows)


def check_suffix(out: Path) -> None:
    """Raises ValueError for a name that does not tell the kind of the file."""
    if out.suffix not in SUFFIXES:
        raise ValueError(
            f"cannot tell what kind of file {out} is to be: let its name end with "
            f"{' or '.join(SUFFIXES)}"
        )


def _write(rows: Sequence[dict[str, Any]], path: Path, suffix: str, soft: bool) -> None:
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return
    pa = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    kind = pa.float64() if soft else pa.bool_()
    schema = pa.schema(
        [
            ("prompt", pa.string()),
            ("completions", pa.list_(pa.string())),
            ("labels", pa.list_(kind)),
        ]
    )
    parquet.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, compression="zstd")
