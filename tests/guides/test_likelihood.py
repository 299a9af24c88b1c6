"""The mean token probability as value function: against transformers itself, and against what
the policy's own passes give.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from fakes import Characters
from hypothesis import given
from hypothesis import strategies as st

import guides
import search
from guides.engines import Loaded
from guides.values.likelihood import Likelihood, mean_probability
from models import Scripted
from models.checkpoints.checkpoint import save_model
from search.checks import check_value
from search.guide import Guide
from search.problem import TextProblem, TextStep
from search.scheduling.driver import run
from search.scheduling.requests import RequestFailed, Scored

PROBLEM = TextProblem("say something")
CHAIN = (TextStep("one and two"), TextStep("three"))
SETTINGS = {
    "format": 1,
    "prompt": "{problem}\n",
    "delimiter": "\n",
    "step_tokens": 6,
    "max_steps": 4,
}


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A random model without a value head."""
    folder = tmp_path_factory.mktemp("bare") / "model"
    model = tiny.model(seed=4, max_position_embeddings=512)
    save_model(folder, model, tiny.tokenizer(), None, SETTINGS)
    return SimpleNamespace(folder=folder, model=model)


def values(function, states, known=None, problem=PROBLEM):
    known = (
        np.full(len(states), np.nan, np.float32) if known is None else np.asarray(known, np.float32)
    )
    return run(
        function.evaluate(problem, states, known, np.random.default_rng(0)), function.backends
    )


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=20), st.integers(0, 3))
def test_it_is_the_geometric_mean_of_what_is_known(chances, unknown):
    logs = np.array([*np.log(chances), *[np.nan] * unknown])
    mean = mean_probability(np.random.default_rng(0).permutation(logs))
    assert (
        mean == pytest.approx(math.prod(chances) ** (1 / len(chances)), rel=1e-6) and 0 <= mean <= 1
    )
    assert math.isnan(mean_probability(np.full(unknown, np.nan)))


@pytest.mark.parametrize("part", ["chain", "step"])
def test_it_is_what_transformers_computes(bare, part):
    tokenizer, prompt = tiny.tokenizer(), "say something\n"
    text = prompt + "one and two\nthree\n"
    judged = text[len(prompt) :] if part == "chain" else "three\n"
    tokens = torch.tensor([tokenizer.encode(text)])
    with torch.no_grad():
        logs = (
            bare.model(tokens)
            .logits[0]
            .double()
            .log_softmax(-1)[:-1]
            .gather(1, tokens[0, 1:, None])[:, 0]
        )
    expected = math.exp(float(logs[-len(judged) :].mean()))
    assert values(Likelihood(bare.folder, part=part), [CHAIN]).tolist() == pytest.approx(
        [expected], abs=1e-5
    )


def test_length_does_not_count():
    """Chains whose every token is as probable are worth the same, however long they are."""
    engine = Scripted(
        lambda request: Scored(
            np.full(len(request.tokens), math.log(0.3), np.float32), np.empty((0, 0)), np.empty(0)
        )
    )
    likelihood = Likelihood(Loaded(engine, Characters(), {}, "fake", False))
    assert values(likelihood, [CHAIN[:1], CHAIN, CHAIN * 9]).tolist() == pytest.approx(
        [0.3] * 3, abs=1e-6
    )


def test_the_tokens_that_the_policy_sampled_are_read(bare):
    """A step's value, read anew, is the mean of the log-probs that its tokens were sampled with;
    text encoded anew differs from those.
    """
    policy = guides.LM(bare.folder, values=True)
    likelihood = Likelihood(bare.folder, policy, "step")
    proposals = run(policy.propose(PROBLEM, (), 6, np.random.default_rng(2)), policy.backends)
    assert all(math.isnan(proposal.value) for proposal in proposals), (
        "without a head the policy's own pass judges nothing"
    )
    states = [(proposal.step,) for proposal in proposals]
    expected = [math.exp(proposal.log_prob / len(proposal.step.tokens)) for proposal in proposals]
    assert values(likelihood, states).tolist() == pytest.approx(expected, abs=1e-4)
    assert values(likelihood, states, known=[0.25] * len(states)).tolist() == pytest.approx(
        expected, abs=1e-4
    ), "it always asks"


def test_the_values_of_a_head_are_not_taken_for_it(tmp_path):
    save_model(
        tmp_path / "headed",
        tiny.model(seed=4),
        tiny.tokenizer(),
        tiny.head(),
        {**SETTINGS, "value_head": True},
    )
    policy = guides.LM(tmp_path / "headed", values=True)
    found = values(
        Likelihood(tmp_path / "headed", policy, "step"), [(TextStep("a", (97, 10)),)], known=[0.25]
    )
    assert found[0] != 0.25 and 0 < found[0] < 1


def test_failures_and_empty_chains_are_unknown():
    def fail(request):
        raise RequestFailed("the server tells no log-probs")

    assert np.isnan(
        values(Likelihood(Loaded(Scripted(fail), Characters(), {}, "fake", False)), [(), CHAIN])
    ).all()


def test_a_search_guided_by_it(bare):
    policy = guides.LM(bare.folder)
    for likelihood in (Likelihood(bare.folder, policy), Likelihood(bare.folder)):
        check_value(likelihood, PROBLEM)
        solution = search.solve(PROBLEM, Guide(policy, likelihood), "mcts", "tokens=80", seed=1)
        assert 0 < solution.usage.generated <= 80 and solution.usage.prefilled > 0
    assert Guide(policy, likelihood).version != Guide(policy).version


def test_a_part_that_is_none_is_refused(bare):
    with pytest.raises(ValueError, match="give 'chain' or 'step'"):
        Likelihood(bare.folder, part="half")
