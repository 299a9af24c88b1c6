"""What a chain of a tree counts in a vote (`benchmarks.tree.votes`)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.sweep.plan import Task
from benchmarks.tree import votes
from search.choose import Finish

#: a likely chain, and two that the policy would hardly ever write
FOUND = [
    Finish(1, "1", None, 0.9, 3, log_prob=-1.0),
    Finish(2, "2", None, 0.6, 1, log_prob=-20.0),
    Finish(3, "2", None, 0.6, 1, log_prob=-21.0),
]


@pytest.mark.parametrize(("way", "answer"), [("once", "2"), ("counts", "1"), ("probability", "1")])
def test_unlikely_chains_win_only_where_each_counts_once(way: str, answer: str) -> None:
    assert votes.winner(FOUND, votes.WAYS[way]) == answer
    assert votes.winner([], votes.WAYS[way]) is None


def test_what_is_right_is_counted_by_way(monkeypatch: pytest.MonkeyPatch) -> None:
    problems: dict[str, Any] = {"likely": None, "unlikely": None, "neither": None, "empty": None}
    targets = {"likely": "1", "unlikely": "2", "neither": "3", "empty": "1"}
    found: dict[str, list[Finish]] = {**dict.fromkeys(problems, FOUND), "empty": []}
    monkeypatch.setattr(votes, "finishes", lambda tree, problem: found[tree])
    solutions: list[Any] = [SimpleNamespace(tree=name) for name in problems]
    right = votes.voted(Task("planted", problems, targets), solutions)
    assert {way: values[:, 0].tolist() for way, values in right.items()} == {
        "once": [0.0, 100.0, 0.0, 0.0],
        "counts": [100.0, 0.0, 0.0, 0.0],
        "probability": [100.0, 0.0, 0.0, 0.0],
        "any": [100.0, 100.0, 0.0, 0.0],
    }
