"""How many verified solutions end a search by sampling."""

from __future__ import annotations

import random

import pytest
from fakes import generated, scripted_guide

from search.problem import TextProblem
from search.solver import solve
from search.trace import Trace

EVEN = TextProblem("Name an even number.", verify=lambda text: int(text.split()[-1]) % 2 == 0)


def answer(request):
    number = random.Random(request.seed).randrange(6)
    return generated(f"#### {number}", finish="end", limit=request.max_tokens)


def searched(**options) -> tuple[list[int], int]:
    """The different even numbers that were found, and how many chains were sampled."""
    guide = scripted_guide(answer, value=False)
    trace = solve(EVEN, guide, "sample", "simulations=200", seed=1, wave=1, **options).trace
    assert isinstance(trace, Trace)
    good = [node for node, reward in enumerate(trace.node_reward) if reward == 1.0]
    return [int(trace.steps[trace.node_edge[n]].text[-1]) for n in good], trace.usage.simulations


def test_a_search_goes_on_until_so_many_different_solutions_are_there():
    counts = []
    for solutions in (1, 2, 3):
        found, chains = searched(solutions=solutions)
        assert len(found) == len(set(found)) == solutions
        counts.append(chains)
    assert counts[0] < counts[1] < counts[2] < 200
    assert searched() == searched(solutions=1)


def test_without_a_number_it_goes_on_to_the_last_chain():
    found, chains = searched(solutions=None, chains=40)
    assert sorted(found) == [0, 2, 4] and chains == 40
    assert searched(solutions=9, chains=40)[1] == 40


@pytest.mark.parametrize("solutions", [0, -1, 1.5, "two"])
def test_other_numbers_are_refused(solutions):
    with pytest.raises(ValueError, match="sample cannot use solutions="):
        searched(solutions=solutions)
