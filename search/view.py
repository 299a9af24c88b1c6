"""Drawing a search tree for a terminal: the best path marked, each step with its visits, value
and prior.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text
from rich.tree import Tree as Drawing

from search.trace import Trace

DEPTH, WIDTH = 10, 3  #: default limits
_LONGEST = 72  #: characters of a step that are shown


def show(
    trace: Trace, steps: Sequence[Any] | None = None, depth: int = DEPTH, width: int = WIDTH
) -> None:
    """Print the tree of `trace` to stdout, not wrapped; `steps`, `depth` and `width` as in
    `draw`.
    """
    Console(highlight=False).print(draw(trace, steps, depth, width), soft_wrap=True)


def draw(
    trace: Trace, steps: Sequence[Any] | None = None, depth: int = DEPTH, width: int = WIDTH
) -> Drawing:
    """The tree as rich draws it.

    steps  the path to mark; None: that of `best`
    depth  levels that are shown;  width: steps shown below one node, the most visited first (a
           marked one always)
    """
    path = _find(trace, steps) if steps is not None else trace.path(best(trace))
    marked = set(path)
    children: dict[int, list[int]] = {}
    for edge, node in enumerate(trace.edge_node.tolist()):
        children.setdefault(node, []).append(edge)
    visits = int(sum(trace.edge_visits[edge] for edge in children.get(0, [])))
    drawing = Drawing(
        Text.assemble(
            "start",
            (f"  {_count(visits, 'visit')} below", "dim"),
            ("  * best path" if path else "", "bold green"),
        )
    )
    waiting = [(drawing, 0, 0)]
    while waiting:
        branch, node, level = waiting.pop()
        edges = sorted(
            children.get(node, []),
            key=lambda e: (e not in marked, -trace.edge_visits[e], -trace.edge_prior[e], e),
        )
        if edges and level == depth:
            branch.add(Text(f"... {_count(len(edges), 'step')} deeper", style="dim"))
            continue
        for edge in edges[:width]:
            leaf = branch.add(_label(trace, edge, edge in marked))
            if trace.edge_child[edge] >= 0:
                waiting.append((leaf, int(trace.edge_child[edge]), level + 1))
        if len(edges) > width:
            rest = int(sum(trace.edge_visits[edge] for edge in edges[width:]))
            branch.add(
                Text(
                    f"... {_count(len(edges) - width, 'more step')}, {_count(rest, 'visit')}",
                    style="dim",
                )
            )
    return drawing


def best(trace: Trace) -> int:
    """The finished node with the highest reward (else mean value, else the policy's value), the
    first of equals; where nothing is finished, the end of the most visited path.
    """
    finished = np.flatnonzero(trace.node_finished).tolist()
    if finished:
        return max(finished, key=lambda node: _score(trace, node))
    node = 0
    while True:
        edges = np.flatnonzero(
            (trace.edge_node == node) & (trace.edge_child >= 0) & (trace.edge_visits > 0)
        )
        if not len(edges):
            return node
        node = int(trace.edge_child[max(edges, key=lambda edge: trace.edge_visits[edge])])


def statement(trace: Trace) -> str:
    """What the problem of a trace says; for a kind that is not ours its JSON arguments, so that
    nothing foreign is imported.
    """
    if isinstance(trace.arguments.get("statement"), str):
        return trace.arguments["statement"]
    if trace.kind.startswith("search.problems."):
        try:
            problem = trace.problem()
            return problem.prompt(problem.initial())
        except (ValueError, TypeError):  # of another version
            pass
    return f"{trace.kind} {json.dumps(trace.arguments)}"


def origin(trace: Trace) -> str:
    """How a trace came about, in one line."""
    options = "".join(f" {name}={setting}" for name, setting in trace.options.items())
    cost = (
        f"{trace.usage.generated:,} tokens, {trace.usage.simulations:,} simulations, "
        f"{trace.usage.seconds:.2f} s"
    )
    judge = f", judged by {trace.judge}" if trace.judge not in ("", "known", trace.version) else ""
    failed = f"; failed: {harmless(' '.join(trace.error.split()))}" if trace.error else ""
    return (
        f"{trace.method}{options}; seed {trace.seed}; guide {trace.version}{judge}; {cost}{failed}"
    )


def pick(texts: Sequence[str], wanted: str | None) -> int:
    """Index of the text that `wanted` names, by a part of it or by its number from 1 on; None:
    the first. Raises ValueError.
    """
    if wanted is None:
        return 0
    if wanted.isdecimal() and 1 <= int(wanted) <= len(texts):
        return int(wanted) - 1
    index = next(
        (i for i, text in enumerate(texts) if wanted in text and not wanted.isdecimal()), None
    )
    if index is None:
        raise ValueError(
            f"no trace is {wanted!r}: give a number from 1 to {len(texts)}, or a part of a "
            "problem's text"
        )
    return index


def harmless(text: str) -> str:
    """`text` without control characters but line ends and tabs: what a model wrote must not
    steer the terminal.
    """
    kinds = ((c, unicodedata.category(c)) for c in text)
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if kind in ("Cc", "Cs") and c not in "\n\t" else c
        for c, kind in kinds
    )


def printable(text: str) -> str:
    """`text` in one harmless line of limited length."""
    line = harmless(
        " / ".join(part.strip() for part in text.strip().splitlines() if part.strip())
    ).replace("\t", " ")
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _score(trace: Trace, node: int) -> float:
    edge = trace.node_edge[node]
    known = [trace.node_reward[node]]
    if edge >= 0:
        known += [_mean(trace, edge), trace.edge_value[edge]]
    return next((float(value) for value in known if not math.isnan(value)), 0.5)


def _mean(trace: Trace, edge: int) -> float:
    return (
        float(trace.edge_sum[edge] / trace.edge_visits[edge])
        if trace.edge_visits[edge]
        else math.nan
    )


def _find(trace: Trace, steps: Sequence[Any]) -> list[int]:
    """Edges from the root along `steps`, as far as they are in the tree."""
    path, node = [], 0
    for step in steps:
        text = step.text if hasattr(step, "text") else json.dumps(step, default=str)
        edge = next(
            (
                e
                for e in np.flatnonzero(trace.edge_node == node).tolist()
                if trace.steps[e].text == text
            ),
            None,
        )
        if edge is None:
            break
        path.append(edge)
        node = int(trace.edge_child[edge])
    return path


def _label(trace: Trace, edge: int, marked: bool) -> Text:
    """`* 8-7=1  12 visits  value 0.53  prior 0.21  reward 1`"""
    child, visits, mean = (
        int(trace.edge_child[edge]),
        int(trace.edge_visits[edge]),
        _mean(trace, edge),
    )
    numbers = [_count(visits, "visit") if visits else "not visited"]
    value = trace.edge_value[edge] if math.isnan(mean) else mean
    if not math.isnan(value):
        numbers.append(f"value {value:.2f}")
    numbers.append(f"prior {trace.edge_prior[edge]:.2f}")
    text = printable(trace.steps[edge].text) or "(empty)"
    label = Text.assemble(
        ("* " if marked else "") + text, style="bold green" if marked else "" if visits else "dim"
    )
    label.append("  " + "  ".join(numbers), style="not bold dim")
    if trace.steps[edge].finish == "length":
        label.append("  cut off", style="yellow")
    if child >= 0 and trace.node_finished[child]:
        reward = float(trace.node_reward[child])
        label.append(
            "  finished" if math.isnan(reward) else f"  reward {reward:g}",
            style="red" if reward == 0 else "bold green",
        )
    return label
