"""Label files: what the nodes of traces are worth, beside the traces and never in them. A line of
JSON for each trace:

    {"trace": ID, "k": [1, 0.5, ...], "n": [2, null, ...], "how": {...}, "crc32": "..."}

k, n  one number for each node of the trace, in its order: k of n outcomes at or below the node were
      right. n 0: no label; n null: k is exact, in [0, 1]. So a label keeps how sure it is: k / n is
      the soft label (a float from here to the loss), 1[k > 0] the hard one
how   who labelled and what it cost, for people; never read for training
crc32 checksum of the others (`search.files.jsonl`); lines of one's own need none
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from search.files.jsonl import Damaged, opened, sealed
from search.trace import Trace

#: outcomes from which on what they share weighs more than what they leave open, in training and
#: calibration
DOUBT = 4.0


class Labels(NamedTuple):
    """Labels of the nodes of one trace. float64 [nodes] each; n 0: none, inf: exact, and then k
    is the label itself, in [0, 1].
    """

    k: np.ndarray
    n: np.ndarray

    @property
    def soft(self) -> np.ndarray:
        """float64 [nodes], in [0, 1]: k / n, or k where it is exact; nan: no label."""
        share = np.full(len(self.k), math.nan)
        np.divide(self.k, self.n, out=share, where=np.isfinite(self.n) & (self.n > 0))
        return np.where(np.isinf(self.n), self.k, share)

    @property
    def hard(self) -> np.ndarray:
        """float64 [nodes], 0 or 1: was any outcome right (Math-Shepherd, Wang et al. 2023, eq.
        3)? Exact: is it 1? nan: no label.
        """
        found = np.where(np.isinf(self.n), self.k == 1.0, self.k > 0).astype(np.float64)
        return np.where(self.n > 0, found, math.nan)


def hardened(labels: Labels) -> Labels:
    """The same with hard labels: k is 0 or n."""
    whole = np.where(np.isinf(labels.n), 1.0, labels.n)
    k = np.where(labels.n > 0, np.nan_to_num(labels.hard) * whole, 0.0)
    return Labels(k, labels.n)


def line_of(trace: Trace, labels: Labels, how: Mapping[str, Any] | None = None) -> str:
    """The line of a label file for `trace`, with its newline."""
    k = list(map(_plain, labels.k.tolist()))
    n = list(map(_plain, labels.n.tolist()))
    return sealed({"trace": trace.id, "k": k, "n": n, "how": dict(how or {})})


def read_labels(path: str | Path, traces: Sequence[Trace]) -> dict[str, Labels]:
    """Trace id -> labels, of those `traces` that the file has a line for.

    A last line that a kill cut short is left out. Raises ValueError that names the line for
    anything else that is not as above: a wrong number of labels, k beyond n, numbers that are not
    finite, two lines for one trace; where no line belongs to the traces, and where the file cannot
    be read.
    """
    nodes = {trace.id: len(trace.node_parent) for trace in traces}
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise ValueError(
            f"cannot read the labels in {path} ({error.strerror}): give the file that copse "
            "label wrote"
        ) from None
    found: dict[str, Labels] = {}
    for number, line in enumerate(lines, 1):
        # what stands behind the last newline was cut short
        if not line.strip() or number == len(lines):
            continue
        where = f"{path}, line {number}"
        try:
            row = opened(json.loads(line))
            name = row["trace"]
            k = row["k"]
            n = row["n"]
            if not isinstance(name, str):
                raise TypeError("the trace's id is no text")
        except Damaged as error:
            raise ValueError(f"{where} {error}") from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f'{where} is no line of labels ({error!r}): write {{"trace": ID, "k": [...], '
                f'"n": [...]}}'
            ) from None
        if name not in nodes:
            continue
        if name in found:
            raise ValueError(
                f"{where}: the trace {name} has labels in an earlier line: keep one of them"
            )
        found[name] = _checked(k, n, nodes[name], where)
    if not found:
        raise ValueError(
            f"no label in {path} belongs to one of these {len(traces)} traces: give the file "
            "that was made from them"
        )
    return found


def _checked(k: Any, n: Any, nodes: int, where: str) -> Labels:
    if not isinstance(k, list) or not isinstance(n, list) or len(k) != nodes or len(n) != nodes:
        sizes = " and ".join(map(_size, (k, n)))
        raise ValueError(
            f"{where} has {sizes} labels, its trace has {nodes} nodes: give one k and one n "
            "for each node, in the trace's order"
        )
    counts = [math.inf if count is None else count for count in n]
    try:
        if not all(type(number) in (int, float) for number in (*k, *counts)):
            raise TypeError
        labels = Labels(np.array(k, np.float64), np.array(counts, np.float64))
    except (TypeError, OverflowError):
        raise ValueError(
            f"{where} has a label that is no number: write numbers, and null for the n of an "
            "exact label"
        ) from None
    top = np.where(np.isinf(labels.n), 1.0, labels.n)
    bad = ~(np.isfinite(labels.k) & (labels.k >= 0) & (labels.k <= top)) | np.isnan(labels.n)
    if bad.any():
        node = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"{where}: node {node} has k={k[node]} of n={n[node]}: k is from 0 to n, of an exact "
            "label (n null) from 0 to 1"
        )
    return labels


def _size(values: Any) -> str:
    return str(len(values)) if isinstance(values, list) else "no list"


def _plain(number: float) -> float | int | None:
    """A number as JSON says it: whole ones without a point, an infinite one as null."""
    if math.isinf(number):
        return None
    return int(number) if number == int(number) else number
