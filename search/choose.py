"""Which answer a search gives: choosers over the finished states it found.

A chooser is a function of a non-empty list of `Finish` that returns one of them; equal answers vote together, and of the winning
answer the best state is given. Write your own the same way.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from search.problem import Problem
from search.tree import Tree


@dataclass(frozen=True)
class Finish:
    """A finished state with an answer.

    reward  in [0, 1], None where only the label could tell;  value: the guide's in [0, 1], nan unknown;  visits >= 0
    """

    node: int
    answer: str
    reward: float | None
    value: float
    visits: int

    @property
    def score(self) -> float:
        """The reward where there is one, else the value, else 0.5; in [0, 1]."""
        if self.reward is not None:
            return self.reward
        return 0.5 if math.isnan(self.value) else self.value


Chooser = Callable[[Sequence[Finish]], Finish]


def finishes(tree: Tree, problem: Problem) -> list[Finish]:
    """All finished states of `tree` that have an answer, in the order they were found. Those without get no vote."""
    found = []
    for node, reward in tree.finished.items():
        answer = problem.answer(tree.states[node])
        if answer is not None:
            mean = tree.mean(node)
            found.append(Finish(node, answer, reward, tree.value(node) if math.isnan(mean) else mean, tree.visits(node)))
    return found


def united(found: Sequence[Finish], classes: Callable[[Sequence[str]], Sequence[int]]) -> list[Finish]:
    """The same with one writing for equal answers, so that they vote together: the one that was found first of each class."""
    kinds = classes([finish.answer for finish in found])
    firsts: dict[int, str] = {}
    return [replace(finish, answer=firsts.setdefault(kind, finish.answer)) for finish, kind in zip(found, kinds, strict=True)]


def _vote(found: Sequence[Finish], weight: Callable[[Finish], float]) -> Finish:
    """The best state of the answer with the largest summed weight; ties go to the answer found first."""
    votes: dict[str, float] = defaultdict(float)
    for finish in found:
        votes[finish.answer] += weight(finish)
    winner = max(votes, key=lambda answer: votes[answer])
    return best([finish for finish in found if finish.answer == winner])


def majority(found: Sequence[Finish]) -> Finish:
    """The answer that most samples reached (self-consistency; Wang et al. 2022). A state's visits are its samples."""
    return _vote(found, lambda finish: max(1, finish.visits))


def weighted(found: Sequence[Finish]) -> Finish:
    """As `majority`, each sample weighed by its reward or value."""
    return _vote(found, lambda finish: max(1, finish.visits) * finish.score)


def best(found: Sequence[Finish]) -> Finish:
    """The state with the highest reward or value (best-of-N; Cobbe et al. 2021); the first of equals."""
    return max(found, key=lambda finish: finish.score)


def most_visited(found: Sequence[Finish]) -> Finish:
    """The state that the search visited most often; the better score breaks ties."""
    return max(found, key=lambda finish: (finish.visits, finish.score))


def share(found: Sequence[Finish]) -> list[tuple[str, float, float]]:
    """(answer, share of the votes, best value) of each distinct answer, most votes first; shares sum to 1."""
    total = sum(max(1, finish.visits) for finish in found)
    groups: dict[str, list[Finish]] = defaultdict(list)
    for finish in found:
        groups[finish.answer].append(finish)
    rows = [(a, sum(max(1, f.visits) for f in fs) / total, max(f.score for f in fs)) for a, fs in groups.items()]
    return sorted(rows, key=lambda row: -row[1])
