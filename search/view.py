"""Drawing a search tree for a terminal: the best path marked, each step with its visits, value
and prior.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text
from rich.tree import Tree as Drawing

from search.plain_text import harmless
from search.trace import Trace

#: default limits
DEPTH = 10
WIDTH = 3
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
    if steps is None:
        path = trace.path(best(trace))
    else:
        path = _find(trace, steps)
    marked = set(path)
    children: dict[int, list[int]] = {}
    for edge, node in enumerate(trace.edge_node.tolist()):
        children.setdefault(node, []).append(edge)
    visits = _visits(trace, children.get(0, []))
    title = Text.assemble("start", (f"  {_count(visits, 'visit')} below", "dim"))
    if path:
        title.append("  * best path", style="bold green")
    drawing = Drawing(title)
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
            rest = _count(_visits(trace, edges[width:]), "visit")
            more = _count(len(edges) - width, "more step")
            branch.add(Text(f"... {more}, {rest}", style="dim"))
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
        visited = (trace.edge_child >= 0) & (trace.edge_visits > 0)
        edges = np.flatnonzero(visited & (trace.edge_node == node))
        if not len(edges):
            return node
        node = int(trace.edge_child[max(edges, key=lambda edge: trace.edge_visits[edge])])


def end_of(trace: Trace, steps: Sequence[Any]) -> int:
    """The node at the end of a chain of steps, as far as it is in the tree."""
    node = 0
    for edge in _find(trace, steps):
        node = max(node, int(trace.edge_child[edge]))  # -1 behind a step that was never taken
    return node


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
    line = f"{trace.method}{options}; seed {trace.seed}; guide {trace.version}"
    if trace.judge not in ("", "known", trace.version):
        line += f", judged by {trace.judge}"
    line += f"; {cost(trace)}"
    if trace.error:
        line += f"; failed: {' '.join(trace.error.split())}"
    return line


def cost(trace: Trace) -> str:
    """What a search has spent, in a few words."""
    usage = trace.usage
    return f"{usage.generated:,} tokens, {usage.simulations:,} simulations, {usage.seconds:.2f} s"


def pick(texts: Sequence[str], wanted: str | None) -> int:
    """Index of the text that `wanted` names, by a part of it or by its number from 1 on; None:
    the first. Raises ValueError.
    """
    if wanted is None:
        return 0
    if wanted.isdecimal():
        if 1 <= int(wanted) <= len(texts):
            return int(wanted) - 1
    else:
        for index, text in enumerate(texts):
            if wanted in text:
                return index
    raise ValueError(
        f"no trace is {wanted!r}: give a number from 1 to {len(texts)}, or a part of a "
        "problem's text"
    )


def printable(text: str) -> str:
    """`text` in one harmless line of limited length."""
    parts = filter(None, map(str.strip, text.splitlines()))
    line = harmless(" / ".join(parts)).replace("\t", " ")
    if len(line) > _LONGEST:
        line = line[: _LONGEST - 3] + "..."
    return line


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _visits(trace: Trace, edges: Sequence[int]) -> int:
    return int(trace.edge_visits[list(edges)].sum())


def _score(trace: Trace, node: int) -> float:
    edge = trace.node_edge[node]
    values = [trace.node_reward[node]]
    if edge >= 0:
        values += [_mean(trace, edge), trace.edge_value[edge]]
    for value in values:
        if not math.isnan(value):
            return float(value)
    return 0.5


def _mean(trace: Trace, edge: int) -> float:
    visits = trace.edge_visits[edge]
    return float(trace.edge_sum[edge] / visits) if visits else math.nan


def _find(trace: Trace, steps: Sequence[Any]) -> list[int]:
    """Edges from the root along `steps`, as far as they are in the tree."""
    path: list[int] = []
    node = 0
    for step in steps:
        text = step.text if hasattr(step, "text") else json.dumps(step, default=str)
        edges = np.flatnonzero(trace.edge_node == node).tolist()
        same = [edge for edge in edges if trace.steps[edge].text == text]
        if not same:
            break
        path.append(same[0])
        node = int(trace.edge_child[same[0]])
    return path


def _label(trace: Trace, edge: int, marked: bool) -> Text:
    """`* 8-7=1  12 visits  value 0.53  prior 0.21  reward 1`"""
    child = int(trace.edge_child[edge])
    visits = int(trace.edge_visits[edge])
    numbers = [_count(visits, "visit") if visits else "not visited"]
    value = _mean(trace, edge)
    if math.isnan(value):
        value = trace.edge_value[edge]
    if not math.isnan(value):
        numbers.append(f"value {value:.2f}")
    numbers.append(f"prior {trace.edge_prior[edge]:.2f}")
    text = printable(trace.steps[edge].text) or "(empty)"
    if marked:
        label = Text(f"* {text}", style="bold green")
    else:
        label = Text(text, style="" if visits else "dim")
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
