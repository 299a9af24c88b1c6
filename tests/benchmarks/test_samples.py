"""What k stored samples are worth: every chain is counted once, and the estimates agree with
sampling anew.
"""

from __future__ import annotations

import numpy as np
import pytest
from fakes import scripted_guide
from sweep_cases import PUZZLES, QUESTIONS, SELF, ask, load

import search
from benchmarks.sweep import plan
from benchmarks.verifiers import samples
from search.solver import seed_of


@pytest.mark.thorough
def test_every_chain_is_a_sample_and_no_verifier_ends_the_search():
    found = samples.sample(SELF, load(), 40)
    assert set(found) == set(PUZZLES) and all(len(own) == 40 for own in found.values())
    for name, own in found.items():
        problem, budget = samples.unverified(PUZZLES[name]), search.Budget(simulations=40)
        solution = search.solve(problem, load(), "sample", budget, seed_of(name, 0), chains=40)
        finished = sum(solution.tree.visits(node) for node in solution.tree.finished)
        assert sum(s.answer is not None for s in own) == finished and solution.verified is None
        rights = sum(
            solution.tree.visits(n)
            for n in solution.tree.finished
            if PUZZLES[name].verify(solution.tree.states[n]) == 1
        )
        assert sum(s.right for s in own) == rights


@pytest.mark.thorough
def test_steps_count_only_where_the_answer_is_right():
    task = plan.Task(
        "asked",
        QUESTIONS.problems,
        QUESTIONS.targets,
        lambda problem, steps: steps[0].text != "line 3",
    )
    own = [s for rows in samples.sample(task, ask(), 30).values() for s in rows]
    assert all(s.right for s in own if s.steps_right) and 0 < sum(s.steps_right for s in own) < sum(
        s.right for s in own
    )


@pytest.mark.slow
def test_estimates_of_k_agree_with_fresh_samples_of_k():
    stored, k = samples.sample(QUESTIONS, ask(), 200), 4
    of = samples.Columns.of
    fresh = [samples.sample(QUESTIONS, ask(), k, seed) for seed in range(1, 31)]
    for name, estimate in samples.ESTIMATES.items():
        expected = np.mean(
            [estimate(of(own), k, seed) for one in fresh for seed, own in enumerate(one.values())]
        )
        assert np.mean(
            [estimate(of(own), k, seed) for seed, own in enumerate(stored.values())]
        ) == pytest.approx(expected, abs=0.12), name
    lines = samples.report(stored).splitlines()
    assert "steps" not in lines[0], "nobody can tell"
    assert [line.split("|")[1].strip() for line in lines[2:-2]] == [
        "1",
        "2",
        "4",
        "8",
        "16",
        "32",
        "64",
        "128",
    ]
    assert lines[-1].startswith("AUROC of the values within a problem ")


def test_a_search_that_failed_is_not_counted_as_samples():
    def broken(request):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        samples.sample(QUESTIONS, scripted_guide(broken), 4)
