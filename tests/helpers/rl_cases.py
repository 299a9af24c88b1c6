"""Graded traces of chains that are written down one by one, and random ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from trace_cases import make

from guides.data.advantages import Advantages
from guides.data.grading import Graded, Replay
from guides.data.labels import Labels
from search.trace import Trace

#: (steps, each a number; outcome: nan undecided, None cut off)
Sample = tuple[tuple[int, ...], float | None]


def graded(
    trace: Trace, outcomes: Sequence[float], labels: Sequence[float] | None = None, name: str = "?"
) -> Graded:
    """A trace of the problem `name` with outcomes and exact labels of its nodes, nan: none."""
    trace = replace(trace, id=f"t{name}", arguments={"statement": name})
    exact = np.full(len(outcomes), math.nan) if labels is None else np.array(labels, np.float64)
    known = ~np.isnan(exact)
    of_nodes = Labels(np.where(known, exact, 0.0), np.where(known, math.inf, 0.0))
    array = np.array(outcomes, np.float64)
    return Graded(Replay(trace), array, array, of_nodes, prompt=(1, 2, 3))


def names_of(samples: Sequence[Sample]) -> list[tuple[int, ...]]:
    """The steps that lead to each node of the trace of samples, the root's () first."""
    names: dict[tuple[int, ...], None] = {(): None}
    for steps, _ in samples:
        names |= dict.fromkeys(steps[:length] for length in range(1, len(steps) + 1))
    return list(names)


def merged(samples: Sequence[Sample], name: str = "?", sampled: bool = True) -> Graded:
    """The trace of samples, which share what they have in common."""
    names = names_of(samples)
    place = {steps: node for node, steps in enumerate(names)}
    visits = [0] * len(names)
    outcomes = [math.nan] * len(names)
    finished = [False] * len(names)
    for steps, outcome in samples:
        for length in range(1, len(steps) + 1):
            visits[place[steps[:length]]] += 1
        if outcome is not None:
            outcomes[place[steps]] = outcome
            finished[place[steps]] = True
    parents = [place[steps[:-1]] for steps in names[1:]]
    return graded(make(parents, visits[1:], finished[1:], sampled), outcomes, name=name)


def prefixes(one: Graded) -> list[int]:
    """The edges of a trace that are taken, in the order of their nodes."""
    return one.trace.node_edge[1:].tolist()


def signed(found: Advantages) -> np.ndarray:
    """float64 [edges]: the sum of advantages."""
    return found.positive + found.negative


@st.composite
def groups(draw: st.DrawFn, undecided: bool = True) -> list[list[Sample]]:
    """Samples of up to three problems. A step sequence has one outcome, wherever it ends."""
    drawn = []
    kinds = [0.0, 1.0, 0.25, None, math.nan]
    for _ in range(draw(st.integers(1, 3))):
        ends: dict[tuple[int, ...], float | None] = {}
        paths = draw(
            st.lists(
                st.lists(st.integers(0, 1), min_size=1, max_size=3).map(tuple),
                min_size=1,
                max_size=7,
            )
        )
        samples: list[Sample] = []
        for path in paths:
            inner = any(other[: len(path)] == path and other != path for other in paths)
            if path not in ends:  # what goes on has not finished
                kind = draw(st.integers(0, 4 if undecided else 2))
                ends[path] = None if inner else kinds[kind]
            samples.append((path, ends[path]))
        drawn.append(samples)
    return drawn
