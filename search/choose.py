"""Which answer a search gives: choosers over the finished states it found.

A chooser is a function of a non-empty list of `Finish` that returns one of them; equal answers vote
together, and of the winning answer a state that is likely and good is given. Write your own the
same way.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from search.guide import multiplicity
from search.problem import Problem
from search.tree.tree import Tree


@dataclass(frozen=True)
class Finish:
    """A finished state with an answer.

    reward    in [0, 1], None where only the label could tell;  value: the guide's in [0, 1], nan
              unknown;  visits >= 0
    log_prob  of its chain under the policy, nan unknown
    independent  whether the chains are independent samples, so that visits tell how often it was
                 drawn
    verdict   of a stream (`search.problems.stream`): what the model itself says of the lines that
              stand (`Stream.verdict`); None: nothing
    """

    node: int
    answer: str
    reward: float | None
    value: float
    visits: int
    log_prob: float = math.nan
    independent: bool = False
    verdict: bool | None = None

    @property
    def score(self) -> float:
        """The reward where there is one, else the value, else 0.5; in [0, 1]."""
        if self.reward is not None:
            return self.reward
        return 0.5 if math.isnan(self.value) else self.value


Chooser = Callable[[Sequence[Finish]], Finish]


#: the number of each answer's class, the same for equal answers
Classes = Callable[[Sequence[str]], Sequence[int]]


def finishes(tree: Tree, problem: Problem, classes: Classes | None = None) -> list[Finish]:
    """All finished states of `tree` that have an answer, in the order they were found. Those
    without get no vote.

    classes  which answers of open text are equal, so that they vote together (`Guide.classes`);
             other problems' answers are canonical
    """
    found = []
    own = getattr(problem, "verdict", None)
    for node, reward in tree.finished.items():
        answer = problem.answer(tree.states[node])
        if answer is not None:
            value = tree.mean(node)
            if math.isnan(value):
                value = tree.value(node)
            visits = tree.visits(node)
            log_prob = math.fsum(tree.log_probs[edge] for edge in tree.path(node))
            finish = Finish(node, answer, reward, value, visits, log_prob, tree.independent)
            if own is not None:
                finish = replace(finish, verdict=own(tree.states[node]))
            found.append(finish)
    if classes is not None and getattr(problem, "open_answers", False) and len(found) > 1:
        return merge_equal(found, classes)
    return found


def merge_equal(found: Sequence[Finish], classes: Classes) -> list[Finish]:
    """The same with one writing for equal answers, so that they vote together: the one that was
    found first of each class.
    """
    kinds = classes([finish.answer for finish in found])
    firsts: dict[int, str] = {}
    return [
        replace(finish, answer=firsts.setdefault(kind, finish.answer))
        for finish, kind in zip(found, kinds, strict=True)
    ]


def counts(found: Sequence[Finish]) -> list[float]:
    """How often the policy would sample each finished state, up to a factor that is the same for
    all.

    Of independent samples, and where the policy does not tell, the visits. A tree has each chain
    once, however likely it is, and the longer it is searched, the less likely are those that are
    found: there each counts by its `multiplicity`.
    """
    log_probs = np.array([finish.log_prob for finish in found])
    if any(finish.independent for finish in found) or np.isnan(log_probs).any():
        return [float(max(1, finish.visits)) for finish in found]
    return list(multiplicity(log_probs).tolist())


def _vote(found: Sequence[Finish], scored: bool) -> Finish:
    """Of the answer with the largest sum of counts, or of counts times scores, the state where
    that product is largest; ties: the first.
    """
    own = counts(found)
    products = [count * finish.score for count, finish in zip(own, found, strict=True)]
    votes: dict[str, float] = defaultdict(float)
    for finish, weight in zip(found, products if scored else own, strict=True):
        votes[finish.answer] += weight
    winner = max(votes, key=lambda answer: votes[answer])
    mine = [i for i, finish in enumerate(found) if finish.answer == winner]
    return found[max(mine, key=lambda i: products[i])]


def majority(found: Sequence[Finish]) -> Finish:
    """The answer that the policy gives most often (self-consistency; Wang et al. 2022), by
    `counts`.
    """
    return _vote(found, scored=False)


def weighted(found: Sequence[Finish]) -> Finish:
    """As `majority`, each state weighed by its reward or value, too."""
    return _vote(found, scored=True)


def verdict(found: Sequence[Finish]) -> Finish:
    """As `majority`, of the streams alone that say of no line of theirs that it is wrong
    (`Finish.verdict`); of all where that leaves none.
    """
    return majority(_approved(found))


def _approved(found: Sequence[Finish]) -> Sequence[Finish]:
    return [finish for finish in found if finish.verdict is not False] or found


def best(found: Sequence[Finish]) -> Finish:
    """The state with the highest reward or value (best-of-N; Cobbe et al. 2021); the first of
    equals.
    """
    return max(found, key=lambda finish: finish.score)


def most_visited(found: Sequence[Finish]) -> Finish:
    """The state that the search visited most often; the better score breaks ties."""
    return max(found, key=lambda finish: (finish.visits, finish.score))


def pick(found: Sequence[Finish], problem: Problem, choose: Chooser | None) -> Finish | None:
    """The finished state whose answer is given: a verified one first, else what the chooser
    picks; None without any.
    """
    if not found:
        return None
    if problem.players == 2:  # it may be the opponent who won
        return (choose or most_visited)(found)
    verified = [finish for finish in found if finish.reward == 1.0]
    return (choose or weighted)(verified or found)


def votes(
    found: Sequence[Finish], chosen: Finish, choose: Chooser | None
) -> tuple[int, int] | None:
    """(Chains that end with the answer of `chosen`, chains that end with any); None where
    `choose` does not let chains vote, or there is only one.
    """
    if choose not in (None, majority, weighted, verdict):
        return None
    if choose is verdict:
        found = _approved(found)
    chains = [max(1, finish.visits) for finish in found]
    if counts(found) != chains:  # a tree has each chain once, however often it was visited
        chains = [1] * len(found)
    own = [n for n, finish in zip(chains, found, strict=True) if finish.answer == chosen.answer]
    return (sum(own), sum(chains)) if sum(chains) > 1 else None


def candidates(found: Sequence[Finish]) -> list[tuple[str, float, float]]:
    """(answer, share of the `counts`, best value) of each distinct answer, largest share first;
    shares sum to 1.
    """
    own = counts(found)
    total = sum(own)
    sums: dict[str, float] = defaultdict(float)
    best_scores: dict[str, float] = {}
    for finish, count in zip(found, own, strict=True):
        answer = finish.answer
        sums[answer] += count
        best_scores[answer] = max(best_scores.get(answer, finish.score), finish.score)
    rows = [(answer, sums[answer] / total, best_scores[answer]) for answer in sums]
    return sorted(rows, key=lambda row: -row[1])
