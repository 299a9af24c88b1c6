"""Problems that are held out: chains of theirs with labels, on which a trained value head is judged
(`guides.training.value_report`).

A problem is held out or not by the hash of its form alone, so it stays where it is, whatever other
traces come and go.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from guides.data.grading import form_of, key_of
from guides.data.labels import Labels
from search.problem import TextProblem
from search.scheduling.requests import RequestFailed, Score
from search.scheduling.scheduler import ask, parallel
from search.trace import Trace


def place_of(trace: Trace) -> float:
    """In [0, 1), by the hash of its problem's form; the problems with the lowest places are held
    out.
    """
    digest = hashlib.sha256(form_of(trace.problem()).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def held_out(traces: Sequence[Trace], share: float) -> set[str]:
    """The ids of the traces whose problem is among the `share` of all problems, in [0, 1), that
    is held out.
    """
    places: dict[str, float] = {}
    for trace in traces:
        places.setdefault(key_of(trace), place_of(trace))
    return {trace.id for trace in traces if places[key_of(trace)] < share}


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
        flat = np.array([token for tokens in self.tokens for token in tokens], np.int64)
        arrays = self._asdict() | {
            "tokens": flat,
            "lengths": np.array([len(tokens) for tokens in self.tokens], np.int64),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        with part.open("wb") as file:
            np.savez(file, **arrays)
        os.replace(part, path)

    @classmethod
    def load(cls, path: str | Path) -> Held:
        with np.load(path) as file:
            arrays = {name: file[name] for name in (*cls._fields, "lengths")}
        cuts = np.cumsum(arrays.pop("lengths"))[:-1]
        tokens = [tuple(part.tolist()) for part in np.split(arrays.pop("tokens"), cuts)]
        return cls(tokens, **arrays)


def held_of(
    traces: Sequence[Trace],
    outcomes: Sequence[np.ndarray],
    labels: Sequence[Labels],
    prompts: Sequence[Sequence[int]],
    answer: str | None = None,
) -> Held:
    """The chains of `traces`. Arguments one a trace, as `guides.data.distill` takes them;
    `answer`: as `guides.data.grading.grade`.
    """
    places = [place_of(trace) for trace in traces]
    numbers = {place: i for i, place in enumerate(sorted(set(places)))}
    tokens: list[tuple[int, ...]] = []
    nodes: list[np.ndarray] = []
    chains: list[np.ndarray] = []
    lost, known = np.zeros(len(numbers), np.int64), dict[tuple[int, str], int]()
    for trace, place, graded, label, prompt in zip(
        traces, places, outcomes, labels, prompts, strict=True
    ):
        first, number, count = len(tokens), numbers[place], len(trace.node_parent)
        tokens += [tuple(prompt), *(trace.steps[edge].tokens for edge in trace.node_edge[1:])]
        parents = np.where(trace.node_parent >= 0, trace.node_parent + first, -1)
        nodes.append(np.stack([parents, np.full(count, number), label.k, label.n], axis=1))
        ends = np.flatnonzero(trace.node_finished & ~np.isnan(graded))
        times = (
            trace.edge_visits[trace.node_edge[ends]]
            if trace.independent
            else np.ones(len(ends), np.int64)
        )
        if trace.independent:
            finished = np.flatnonzero(trace.node_finished)
            lost[number] += max(
                0, trace.usage.simulations - int(trace.edge_visits[trace.node_edge[finished]].sum())
            )
        said = _answers(trace, ends, answer)
        named = [
            -1 if text is None else known.setdefault((number, text), len(known)) for text in said
        ]
        chains.append(
            np.stack(
                [
                    ends + first,
                    np.maximum(times, 1),
                    graded[ends] == 1.0,
                    np.array(named, np.int64),
                ],
                axis=1,
            )
        )
    table, rows = (
        np.concatenate([np.zeros((0, 4)), *nodes]),
        np.concatenate([np.zeros((0, 4)), *chains]),
    )
    ends, times, right, answers = rows.T.astype(np.int64)
    return Held(
        tokens,
        *table.T[:2].astype(np.int64),
        *table.T[2:],
        ends,
        times,
        right.astype(bool),
        answers,
        lost,
    )


def _answers(trace: Trace, ends: np.ndarray, answer: str | None) -> list[str | None]:
    problem = trace.problem()
    if answer is not None and type(problem) is TextProblem:
        problem = TextProblem(**trace.arguments, answer=answer)
    states = trace.states(problem)
    return [problem.answer(states[node]) for node in ends]


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
    tokens = tuple(token for node in path for token in held.tokens[node])
    positions = np.cumsum([len(held.tokens[node]) for node in path]) - 1
    try:
        scored = await ask(Score(tokens, tuple(positions.tolist()), log_probs=False, to=to))
    except RequestFailed:
        return np.full(len(path), np.nan, np.float32)
    return scored.values
