"""Guess and check as expectation maximisation, on a model whose chains can all be enumerated.

The model is a table: of each of eight problems two steps and an answer are drawn, the steps from
distributions that all problems share, the answer from one that depends on both steps, noisily. So
the likelihood of the right answers, the sum over all chains, is known exactly, as is the posterior
over chains. Samples come from `search.solve_many`, and grades from `guides.data.grading`.
"""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
from fakes import generated, scripted_guide

from guides.data.grading import grade
from search.problem import TextProblem
from search.solver import solve_many

STEPS = 4  #: choices of each of the two steps
ANSWERS = 5
PROBLEMS = 8


class Table:
    """A policy: first float64 [problems, steps]: of the first step by problem; second float64
    [steps, steps]: of the second by the first, and answer float64 [steps, steps, answers] by both,
    shared by all problems. Each row is a distribution.
    """

    def __init__(self, first: np.ndarray, second: np.ndarray, answer: np.ndarray):
        self.first = first
        self.second = second
        self.answer = answer

    @classmethod
    def drawn(cls, seed: int) -> Table:
        rng = np.random.default_rng(seed)
        return cls(
            rng.dirichlet(np.ones(STEPS), PROBLEMS),
            rng.dirichlet(np.ones(STEPS), STEPS),
            rng.dirichlet(np.ones(ANSWERS), (STEPS, STEPS)),
        )

    def joint(self, problem: int) -> np.ndarray:
        """float64 [steps, steps, answers]: the probability of each chain."""
        return self.first[problem][:, None, None] * self.second[:, :, None] * self.answer

    def solves(self, problem: int, target: int) -> float:
        """p(y|x), the sum over all chains."""
        total = 0.0
        joint = self.joint(problem)
        for a, b in itertools.product(range(STEPS), repeat=2):
            total += float(joint[a, b, target])
        return total

    def likelihood(self) -> float:
        """The sum over problems of log p(y|x), whose targets are those of `TARGETS`."""
        solved = np.array([self.solves(x, y) for x, y in enumerate(TARGETS)])
        with np.errstate(divide="ignore"):  # -inf where a problem became impossible
            return float(np.log(solved).sum())

    def fitted(self, counts: np.ndarray) -> Table:
        """The table of the highest likelihood of weighted chains, float64 [problems, steps, steps,
        answers]: shares of their weights. Rows without any stay.
        """
        rows = []
        for sums, old in (
            (counts.sum((2, 3)), self.first),
            (counts.sum((0, 3)), self.second),
            (counts.sum(0), self.answer),
        ):
            total = sums.sum(-1, keepdims=True)
            rows.append(np.where(total > 0, sums / np.maximum(total, 1e-300), old))
        return Table(*rows)

    def guide(self) -> Any:
        """A guide that samples from the table."""

        def reply(request: Any) -> Any:
            text = "".join(map(chr, request.prompt))
            statement, *steps = text.strip().split("\n")
            problem = int(statement.split()[-1])
            draw = random.Random(f"{text}|{request.seed}")
            marks = [int(step[-1]) for step in steps if step]
            if not marks:
                return chosen("a", self.first[problem], draw, "stop", request)
            if len(marks) == 1:
                return chosen("b", self.second[marks[0]], draw, "stop", request)
            return chosen("#### ", self.answer[marks[0], marks[1]], draw, "end", request)

        return scripted_guide(reply, value=False)


def chosen(mark: str, weights: np.ndarray, draw: random.Random, finish: str, request: Any) -> Any:
    (number,) = draw.choices(range(len(weights)), weights.tolist())
    return generated(f"{mark}{number}", finish=finish, limit=request.max_tokens)


TARGETS = [0, 1, 2, 3, 4, 0, 2, 1]
TRUE = [TextProblem(f"problem {i}") for i in range(PROBLEMS)]


def sampled(table: Table, chains: int, seed: int = 0) -> np.ndarray:
    """How often each chain was sampled, float64 [problems, steps, steps, answers], by the traces of
    a search; grades are checked against the chains' own texts.
    """
    counts = np.zeros((PROBLEMS, STEPS, STEPS, ANSWERS))
    seeds = [1000 * seed + i for i in range(PROBLEMS)]
    found = solve_many(
        TRUE, table.guide(), "sample", f"simulations={chains}", seeds, chains=chains, wave=64
    )
    for problem, solution in enumerate(found):
        trace = solution.trace
        assert trace is not None
        outcomes = grade(trace, str(TARGETS[problem]))
        for node in np.flatnonzero(trace.node_finished):
            path = trace.path(int(node))
            a, b, y = (int(trace.steps[edge].text[-1]) for edge in path)
            assert outcomes[node] == float(y == TARGETS[problem])
            counts[problem, a, b, y] += trace.edge_visits[path[-1]]
        assert counts[problem].sum() == chains
    return counts


def right(counts: np.ndarray) -> np.ndarray:
    """The counts of the chains with right answers alone."""
    kept = np.zeros_like(counts)
    for problem, target in enumerate(TARGETS):
        kept[problem, :, :, target] = counts[problem, :, :, target]
    return kept


def posterior(table: Table) -> np.ndarray:
    """p(z|x,y) of each chain with the right answer; those of a problem sum to 1."""
    exact = right(np.stack([table.joint(problem) for problem in range(PROBLEMS)]))
    return exact / exact.sum((1, 2, 3), keepdims=True)


def even(counts: np.ndarray) -> np.ndarray:
    """Right samples, each problem with the weight 1; 0 where none was right (rejection)."""
    kept = right(counts)
    total = kept.sum((1, 2, 3), keepdims=True)
    return np.divide(kept, total, out=np.zeros_like(kept), where=total > 0)


def binomial(k: int, n: int, p: float) -> float:
    """The probability of k of n."""
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(ways + k * math.log(p) + (n - k) * math.log1p(-p))


@pytest.mark.thorough
def test_sampling_estimates_the_sum_over_all_chains():
    """The exact sum is within the 99 % interval of Clopper and Pearson (1934): neither tail of the
    binomial distribution with it is below 0.5 %.
    """
    table = Table.drawn(0)
    chains = 400
    hits = right(sampled(table, chains)).sum((1, 2, 3))
    inside = 0
    for problem, target in enumerate(TARGETS):
        exact = table.solves(problem, target)
        chances = [binomial(k, chains, exact) for k in range(chains + 1)]
        seen = int(hits[problem])
        inside += min(sum(chances[: seen + 1]), sum(chances[seen:])) > 0.005
    assert inside >= PROBLEMS - 1


@pytest.mark.parametrize("seed", range(3))
def test_exact_expectation_maximisation_never_falls(seed):
    table = Table.drawn(seed)
    path = [table.likelihood()]
    for _ in range(40):
        table = table.fitted(posterior(table))
        path.append(table.likelihood())
    assert all(after >= before - 1e-12 for before, after in itertools.pairwise(path))
    assert path[-1] > path[0] + 1


def test_rejection_comes_to_the_exact_likelihood_as_samples_grow():
    """Three steps with N samples a problem end nearer to three exact steps, the more there are.
    That searches sample from the table is tested above; here the samples are numpy's.
    """
    start = Table.drawn(1)
    exact = start
    for _ in range(3):
        exact = exact.fitted(posterior(exact))
    gaps = []
    for chains in (64, 2048, 1_000_000):
        ends = []
        for seed in range(5):
            rng = np.random.default_rng(seed)
            table = start
            for _ in range(3):
                counts = np.zeros((PROBLEMS, STEPS, STEPS, ANSWERS))
                for problem in range(PROBLEMS):
                    joint = table.joint(problem).ravel()
                    counts[problem].flat = rng.multinomial(chains, joint / joint.sum())
                table = table.fitted(even(counts))
            ends.append(abs(table.likelihood() - exact.likelihood()))
        gaps.append(np.mean(ends))
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2] and gaps[2] < 0.02, gaps
