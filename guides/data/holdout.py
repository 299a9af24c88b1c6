"""Problems that are held out: chains of theirs with labels, on which a trained value head is judged
(`guides.training.value_report`).

A problem is held out or not by the hash of its form alone, so it stays where it is, whatever other
traces come and go.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from guides.data.grading import Graded, form_of
from guides.data.labels import Labels
from search.files.atomic import atomic
from search.problem import Problem
from search.scheduling.requests import RequestFailed, Score
from search.scheduling.scheduler import ask, parallel
from search.trace import Trace


def place_of(problem: Problem) -> float:
    """In [0, 1), by the hash of the problem's form; the problems with the lowest places are held
    out.
    """
    digest = hashlib.sha256(form_of(problem).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def hold_out(graded: Iterable[Graded], share: float) -> list[Graded]:
    """The traces, `held` where their problem is among the `share` of all problems, in [0, 1)."""
    return [replace(one, held=place_of(one.replay.problem) < share) for one in graded]


class Held(NamedTuple):
    """The nodes of graded traces in one row, N of them, and their finished chains, C different
    ones.

    tokens    [N]: of the step that leads to the node; of a root, the prompt
    parents   int64 [N], index of an earlier node; -1: a root
    problems  int64 [N], a number for each problem, in the order of `place_of`; problems of one form
              have one number
    k, n      float64 [N], the label (`guides.data.labels.Labels`)
    ends      int64 [C], the node at which the chain ends
    times     int64 [C], at least 1: of how many samples it is
    right     bool [C]
    answers   int64 [C], equal for equal answers; -1: none
    lost      int64 [problems], samples that ended unfinished
    """

    tokens: list[tuple[int, ...]]
    parents: np.ndarray
    problems: np.ndarray
    k: np.ndarray
    n: np.ndarray
    ends: np.ndarray
    times: np.ndarray
    right: np.ndarray
    answers: np.ndarray
    lost: np.ndarray

    @property
    def labels(self) -> Labels:
        return Labels(self.k, self.n)

    def path(self, node: int) -> list[int]:
        """The nodes from the root to `node`."""
        nodes = [node]
        while self.parents[nodes[-1]] >= 0:
            nodes.append(int(self.parents[nodes[-1]]))
        return nodes[::-1]

    def save(self, path: Path) -> None:
        """Write one `.npz` atomically."""
        arrays: dict[str, Any] = self._asdict()
        arrays["tokens"] = np.fromiter(itertools.chain.from_iterable(self.tokens), np.int64)
        arrays["lengths"] = np.array(list(map(len, self.tokens)), np.int64)
        with atomic(path) as part, part.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Held:
        with np.load(path) as file:
            arrays = {name: file[name] for name in (*cls._fields, "lengths")}
        cuts = np.cumsum(arrays.pop("lengths"))[:-1]
        tokens = [tuple(part.tolist()) for part in np.split(arrays.pop("tokens"), cuts)]
        return cls(tokens, **arrays)


def held_of(graded: Sequence[Graded]) -> Held:
    """The chains of traces. An answer counts, where it can be graded, before what labels say."""
    places = [place_of(one.replay.problem) for one in graded]
    different = sorted(set(places))
    numbers = dict(zip(different, range(len(different)), strict=True))
    tokens: list[tuple[int, ...]] = []
    nodes = [np.zeros((0, 4))]
    chains = [np.zeros((0, 4))]
    lost = np.zeros(len(numbers), np.int64)
    answers: dict[tuple[int, str], int] = {}
    for one, place in zip(graded, places, strict=True):
        number = numbers[place]
        first = len(tokens)
        trace = one.trace
        tokens.append(tuple(one.prompt))
        tokens += [trace.steps[edge].tokens for edge in trace.node_edge[1:]]
        nodes.append(_nodes(one, first, number))
        lost[number] += _lost(trace)
        chains.append(_chains(one, first, number, answers))
    parents, problems, k, n = np.concatenate(nodes).T
    ends, times, right, named = np.concatenate(chains).T.astype(np.int64)
    return Held(
        tokens,
        parents.astype(np.int64),
        problems.astype(np.int64),
        k,
        n,
        ends,
        times,
        right.astype(bool),
        named,
        lost,
    )


def _nodes(one: Graded, first: int, number: int) -> np.ndarray:
    """float64 [nodes, 4]: parent, problem, k and n of the nodes of a trace, of which the root is
    the `first` of all.
    """
    parents = np.where(one.trace.node_parent >= 0, one.trace.node_parent + first, -1)
    return np.stack([parents, np.full(len(parents), number), one.labels.k, one.labels.n], axis=1)


def _chains(one: Graded, first: int, number: int, codes: dict[tuple[int, str], int]) -> np.ndarray:
    """[chains, 4]: end, times, right and answer of the finished chains of a trace. `codes` gets a
    number for each new pair of problem and answer.
    """
    trace = one.trace
    outcomes = np.where(np.isnan(one.grades), one.outcomes, one.grades)
    ends = np.flatnonzero(trace.node_finished & ~np.isnan(outcomes))
    times = np.ones(len(ends), np.int64)
    if trace.independent:
        times = np.maximum(trace.edge_visits[trace.node_edge[ends]], 1)
    answers = np.full(len(ends), -1, np.int64)
    for i, text in enumerate(one.replay.answers(ends)):
        if text is not None:
            answers[i] = codes.setdefault((number, text), len(codes))
    return np.stack([ends + first, times, outcomes[ends] == 1.0, answers], axis=1)


def _lost(trace: Trace) -> int:
    """Samples of a trace that ended unfinished."""
    if not trace.independent:
        return 0
    finished = trace.edge_visits[trace.node_edge[trace.node_finished]]
    return max(0, trace.usage.simulations - int(finished.sum()))


async def read_values(held: Held, to: str) -> np.ndarray:
    """float32 [N], in [0, 1]: the value of every node, asked of the engine `to`, one `Score` a
    chain; nan where it failed.
    """
    values = np.full(len(held.parents), np.nan, np.float32)
    paths = [held.path(int(leaf)) for leaf in np.setdiff1d(np.arange(len(values)), held.parents)]
    found = await parallel((_read(held, path, to) for path in paths), limit=512)
    for path, read in zip(paths, found, strict=True):
        values[path] = np.where(np.isnan(read), values[path], read)
    return values


async def _read(held: Held, path: list[int], to: str) -> np.ndarray:
    tokens: list[int] = []
    positions = []  # the last token of each node
    for node in path:
        tokens += held.tokens[node]
        positions.append(len(tokens) - 1)
    try:
        scored = await ask(Score(tuple(tokens), tuple(positions), log_probs=False, to=to))
    except RequestFailed:
        return np.full(len(path), np.nan, np.float32)
    return scored.values
