"""Guides on real (tiny, random) models: loading, combining, values from the pass against values
read anew, one engine for threads.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
import tiny

import guides
import search
from models.checkpoints.checkpoint import save_model
from search.problem import TextStep
from search.scheduling.driver import run
from search.scheduling.requests import Score

SETTINGS = {
    "format": 1,
    "prompt": "{problem}\n",
    "delimiter": "\n",
    "step_tokens": 6,
    "max_steps": 4,
    "value_head": True,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two checkpoints with heads and one without."""
    made = {}
    for name, kind, seed in (("a", "llama", 0), ("b", "qwen2", 1), ("bare", "llama", 2)):
        folder = tmp_path_factory.mktemp("checkpoints") / name
        model = tiny.model(kind, seed=seed, max_position_embeddings=512)
        head = None if name == "bare" else tiny.head(seed=seed)
        save_model(
            folder, model, tiny.tokenizer(), head, SETTINGS | {"value_head": head is not None}
        )
        made[name] = folder
    return made


PROBLEM = search.TextProblem("say something")


@pytest.mark.thorough
def test_values_of_the_pass_are_the_values_read_anew(folders):
    """The head's value that comes with a step is the one a Score of the whole text gives."""
    guide = guides.load(folders["a"])
    rng = np.random.default_rng(0)
    checked = 0
    for _ in range(20):
        state = ()
        for _ in range(2):
            proposals = run(guide.policy.propose(PROBLEM, state, 4, rng), guide.backends)
            for proposal in proposals:
                after = (*state, proposal.step)
                value = run(
                    guide.value.evaluate(PROBLEM, [after], np.full(1, np.nan, np.float32), rng),
                    guide.backends,
                )[0]
                if proposal.step.finish != "length":
                    assert proposal.value == pytest.approx(value, abs=2**-15)
                    checked += 1
                else:
                    assert np.isnan(proposal.value), (
                        "a step that was cut off has no value of its own"
                    )
            state = (*state, proposals[0].step)
    assert checked > 0


def test_log_probs_are_those_of_the_whole_text(folders):
    guide = guides.load(folders["a"])
    policy = guide.policy
    for proposal in run(policy.propose(PROBLEM, (), 8, np.random.default_rng(1)), guide.backends):
        tokens = policy.tokens(PROBLEM, (proposal.step,))
        request = Score(tokens, (), to=next(iter(guide.backends)))
        scored = run(_ask(request), guide.backends)
        assert proposal.log_prob == pytest.approx(
            float(scored.log_probs[-len(proposal.step.tokens) :].sum()), abs=1e-3
        )


async def _ask(request):
    return await search.ask(request)


def test_two_checkpoints_combine(folders):
    guide = search.Guide(policy=guides.LM(folders["a"]), value=guides.PRM(folders["b"]))
    assert len(guide.backends) == 2
    solution = search.solve(PROBLEM, guide, "mcts", "tokens=150", seed=1)
    assert solution.trace.version not in (
        guides.load(folders["a"]).version,
        guides.load(folders["b"]).version,
    )
    node = next(n for n in range(1, len(solution.tree.nodes)) if solution.tree.visits(n))
    assert np.isnan(solution.tree.value(node)), (
        "the policy's own head is not asked when another one judges"
    )
    state = (TextStep("x", (120, 10)),)
    policy_tokens, _ = guides.PRM(folders["b"])._read(PROBLEM, state)
    assert tiny.tokenizer().decode(policy_tokens) == "say something\nx\n"


def test_a_guide_of_rollouts_and_a_mixture(folders):
    loaded = guides.load(folders["a"])
    problem = search.TextProblem("say a", verify=lambda text: "a" in text)
    mixture = guides.Mixture(loaded.value, guides.Rollout(loaded.policy, 2), 0.5)
    solution = search.solve(problem, search.Guide(loaded.policy, mixture), "mcts", "tokens=300")
    assert solution.usage.generated <= 300


def test_engines_are_shared_by_content(folders):
    assert guides.load(folders["a"]).backends == guides.load(folders["a"], temperature=0.5).backends
    assert guides.load(folders["a"]).backends != guides.load(folders["b"]).backends


def test_without_a_head_nobody_judges_steps_and_that_is_said(folders):
    """A made-up value would send the search astray: short steps that repeat the question are the
    most probable ones.
    """
    guide = guides.load(folders["bare"])
    assert "no value head" in guide.value.note
    proposals = run(guide.policy.propose(PROBLEM, (), 4, np.random.default_rng(0)), guide.backends)
    assert len(proposals) > 1 and all(np.isnan(proposal.value) for proposal in proposals)
    assert all(np.isfinite(proposal.log_prob) for proposal in proposals)
    tree = search.solve(PROBLEM, guide, "mcts", "tokens=100", seed=1).tree
    assert len(tree.steps) > 3 and np.isnan(tree.field(0, "value")).all()
    with pytest.raises(ValueError, match="no value head"):
        guides.PRM(folders["bare"])


@pytest.mark.thorough
def test_eight_threads_on_one_engine(folders):
    guide = guides.load(folders["a"])
    alone = [search.solve(PROBLEM, guide, budget="tokens=80", seed=i).tree.steps for i in range(8)]
    results = {}

    def work(i):
        results[i] = search.solve(PROBLEM, guide, budget="tokens=80", seed=i).tree.steps

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [results[i] for i in range(8)] == alone


@pytest.mark.thorough
def test_same_seed_same_tree_among_neighbours(folders):
    problems = [search.TextProblem(f"say {i}") for i in range(12)]
    alone = [
        search.solve(p, guides.load(folders["a"]), budget="tokens=100", seed=3)
        for p in problems[:4]
    ]
    for slots in (2, 16):
        together = search.solve_many(
            problems, guides.load(folders["a"], slots=slots), budget="tokens=100", seed=3
        )
        for one, other in zip(alone, together, strict=False):
            assert one.tree.steps == other.tree.steps
            assert one.tree.edges.tobytes() == other.tree.edges.tobytes()


@pytest.mark.parametrize(
    "options, word",
    [
        ({"step_tokens": -1}, "step_tokens"),
        ({"temperature": -0.5}, "temperature"),
        ({"prompt": "no place"}, "problem"),
    ],
)
def test_bad_options_say_what_to_do(folders, options, word):
    with pytest.raises(ValueError, match=word):
        guides.load(folders["a"], **options)


def test_a_missing_checkpoint_says_what_to_do(tmp_path):
    with pytest.raises(ValueError):
        guides.load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        guides.load(tmp_path / "empty")


def test_a_small_model_computes_with_one_thread(folders, monkeypatch):
    import torch

    from guides import engines

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(engines, "_cache", {})
    torch.set_num_threads(2)
    guides.load(folders["a"])
    assert torch.get_num_threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(engines, "_cache", {})
    torch.set_num_threads(2)
    guides.load(folders["a"])
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
