"""Rewards of traces by name: against answers and votes that are counted by hand, and what fails."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guides.answers.checker import Verdict, check
from guides.data.grading import Replay, grade, key_of
from guides.data.trace_rewards import REWARDS, Sources, check_reward, needs_targets, rewards_of
from search.problem import TextStep
from search.scheduling.requests import Usage
from search.trace import Trace


def sampled(answers: list[str], times: list[int] | None = None, name: str = "?") -> Trace:
    """A trace of one-step chains with these answers; "" for a chain without one."""
    count = len(answers)
    visits = np.array(times or [1] * count, np.int32)
    steps = []
    for i, answer in enumerate(answers):
        text = f"\\boxed{{{answer}}}" if answer else "I do not know and cannot say it"
        steps.append(TextStep(text, (1, 2), "end", log_probs=(-0.5, -0.1 * i)))
    return Trace(
        id=name, kind="search.problem:TextProblem", arguments={"statement": name},
        method="search.methods.sample:sample", options={}, seed=3, version="v",
        usage=Usage(simulations=int(visits.sum())),
        node_parent=np.array([-1] + [0] * count, np.int32),
        node_edge=np.arange(-1, count, dtype=np.int32),
        node_finished=np.array([False] + [True] * count),
        node_reward=np.full(count + 1, math.nan),
        edge_node=np.zeros(count, np.int32),
        edge_child=np.arange(1, count + 1, dtype=np.int32), edge_visits=visits,
        edge_sum=np.zeros(count), edge_prior=np.full(count, 1 / max(1, count), np.float32),
        edge_value=np.full(count, math.nan, np.float32), edge_log_prob=np.full(count, math.nan),
        steps=tuple(steps), independent=True,
    )  # fmt: skip


def rewarded(traces: list[Trace], name: str, **sources: Any) -> tuple[list[list[float]], Any]:
    """The outcomes of the finished nodes, and the verdicts."""
    found = rewards_of(list(map(Replay, traces)), name, Sources(**sources))
    for trace, own in zip(traces, found.outcomes, strict=True):
        assert own.shape == trace.node_finished.shape and own.dtype == np.float64
        assert np.isnan(own[~trace.node_finished]).all()
        assert ((own[~np.isnan(own)] >= 0) & (own[~np.isnan(own)] <= 1)).all()
    finished = sum(int(trace.node_finished.sum()) for trace in traces)
    assert sum(found.verdicts.values()) == finished
    return [own[1:].tolist() for own in found.outcomes], found.verdicts


def test_the_outcome_is_what_grading_says():
    trace = sampled(["x/2", "\\frac{x}{2}", "3", "", "1/2x"])
    assert check("1/2x", "x/2") is Verdict.UNDECIDED
    found = rewards_of([Replay(trace)], "outcome", Sources({key_of(trace): "x/2"}))
    assert np.array_equal(found.outcomes[0], grade(trace, "x/2"), equal_nan=True)
    expected = {"right": 2, "partial": 0, "wrong": 2, "undecided": 1, "error": 0}
    assert found.verdicts == expected
    outcomes, verdicts = rewarded([trace], "outcome")
    assert np.isnan(outcomes).all() and verdicts["undecided"] == 5, "nobody knows the target"
    own = replace(trace, node_reward=np.array([math.nan, 1.0, 0.25, 0.0, 0.0, 0.0]))
    _, verdicts = rewarded([own], "outcome")
    assert verdicts == {"right": 1, "partial": 1, "wrong": 3, "undecided": 0, "error": 0}


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("1234"), st.integers(1, 3)), min_size=1, max_size=8))
def test_the_majority_is_the_answer_with_most_samples(chains):
    answers = [answer for answer, _ in chains]
    times = [count for _, count in chains]
    votes = Counter[str]()
    for answer, count in chains:
        votes[answer] += count
    (first, most), *others = votes.most_common()
    decided = sum(times) > 1 and (not others or others[0][1] < most)
    outcomes, _ = rewarded([sampled(answers, times)], "majority")
    for answer, outcome in zip(answers, outcomes[0], strict=True):
        assert outcome == float(answer == first) if decided else math.isnan(outcome)


def test_equal_answers_vote_together_and_all_traces_of_a_problem():
    one = sampled(["1/2", "3", "3", ""])
    outcomes, verdicts = rewarded([one], "majority")
    assert outcomes == [[0.0, 1.0, 1.0, 0.0]], "without an answer it is no member of the majority"
    assert verdicts == {"right": 2, "partial": 0, "wrong": 2, "undecided": 0, "error": 0}
    more = sampled(["0.5", "\\frac12"])
    other = sampled(["7", "8", "8"], name="another problem")
    outcomes, _ = rewarded([one, more, other], "majority")
    assert outcomes == [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0], [0.0, 1.0, 1.0]]


def test_a_majority_needs_no_target_and_one_sample_is_none():
    outcomes, verdicts = rewarded([sampled(["4"])], "majority", targets={})
    assert np.isnan(outcomes).all() and verdicts["undecided"] == 1
    assert rewarded([sampled(["", ""])], "majority")[0] == [[0.0, 0.0]]
    assert [name for name in REWARDS if needs_targets(name)] == ["outcome"]


def test_the_controls():
    trace = sampled(["4", "", "5"] * 400)
    outcomes, verdicts = rewarded([trace], "format")
    assert outcomes[0] == [1.0, 0.0, 1.0] * 400 and verdicts["right"] == 800
    drawn, verdicts = rewarded([trace], "random", seed=1)
    assert abs(verdicts["right"] - 600) < 4 * math.sqrt(1200) / 2 and verdicts["partial"] == 0
    assert rewarded([trace], "random", seed=1)[0] == drawn != rewarded([trace], "random", seed=2)[0]
    other = rewarded([trace, replace(trace, seed=4)], "random", seed=1)[0]
    assert other[0] == drawn[0] != other[1], "the traces beside it change nothing"


def test_confidence_is_the_mean_probability_of_a_token():
    trace = sampled(["1", "2", "3"])
    outcomes, verdicts = rewarded([trace], "confidence")
    assert outcomes[0] == pytest.approx([math.exp((-0.5 - 0.1 * i) / 2) for i in range(3)])
    assert verdicts["partial"] == 3
    blind = replace(trace, steps=tuple(replace(step, log_probs=()) for step in trace.steps))
    assert rewarded([blind], "confidence")[1]["undecided"] == 3


# -- functions of one's own


def longer(problem, text):
    return min(1.0, len(text) / 40) if "know" not in text else None


def sometimes(problem, text):
    if "3" in text:
        raise RuntimeError("no three")
    return problem.statement == "?"


def never(problem, text):
    raise OSError("the service is gone")


def broken(problem, text):
    return math.nan


def beyond(problem, text):
    return 1.5


def test_a_function_reads_problem_and_text():
    outcomes, verdicts = rewarded([sampled(["12", ""])], f"{__name__}:longer")
    assert outcomes[0][0] == len("\\boxed{12}") / 40 and math.isnan(outcomes[0][1])
    assert verdicts == {"right": 0, "partial": 1, "wrong": 0, "undecided": 1, "error": 0}


def test_a_function_that_fails_at_some_chains_is_counted(caplog):
    outcomes, verdicts = rewarded([sampled(["1", "3", "2"])], f"{__name__}:sometimes")
    assert outcomes[0][::2] == [1.0, 1.0] and math.isnan(outcomes[0][1])
    assert verdicts["error"] == 1 and verdicts["undecided"] == 0
    assert "failed at 1 of 3 chains (RuntimeError: no three)" in caplog.text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("never", "failed at all 2 chains .OSError: the service is gone.*the traces are kept"),
        ("broken", "returned nan: give a number in"),
        ("beyond", "returned 1.5: give a number in"),
    ],
)
def test_a_function_that_gives_no_reward_is_one_sentence(name, said):
    with pytest.raises(ValueError, match=said):
        rewards_of([Replay(sampled(["1", "2"]))], f"{__name__}:{name}")


@pytest.mark.parametrize(
    ("name", "verifier", "said"),
    [
        ("praise", None, "no reward 'praise': use one of outcome, verifier, majority"),
        ("verifier", None, "needs a model that judges"),
        ("majority", "folder", "asks no verifier: leave it out"),
        ("nowhere:at_all", None, "cannot load the reward 'nowhere:at_all'"),
        ("math:pi", None, "the reward 'math:pi' is no function"),
    ],
)
def test_what_is_no_reward_is_refused(name, verifier, said):
    with pytest.raises(ValueError, match=said):
        check_reward(name, verifier)


# -- a learned verifier


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory):
    """A tiny model with a random value head."""
    import tiny

    from models.checkpoints.heads import save_head

    folder = tmp_path_factory.mktemp("judge")
    tiny.model("qwen2").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    save_head(folder, tiny.head())
    (folder / "guide.json").write_text('{"format": 1, "value_head": true, "delimiter": "\\n"}')
    return folder


@pytest.mark.thorough
def test_a_verifier_gives_its_score_of_the_whole_chain(judge_folder):
    import torch

    from guides.values.prm import PRM
    from models.checkpoints.checkpoint import load_model

    trace = sampled(["1", "22", ""])
    outcomes, verdicts = rewarded([trace], "verifier", verifier=judge_folder)
    model, tokenizer, head, _ = load_model(judge_folder, device="cpu", dtype="float32")
    reader = PRM(judge_folder)
    for step, score in zip(trace.steps, outcomes[0], strict=True):
        problem = trace.problem()
        tokens, _ = reader._read(problem, (step,))
        assert tokenizer.decode(tokens).endswith(step.text + "\n")
        with torch.no_grad():
            hidden = model.model(torch.tensor([tokens])).last_hidden_state[0, -1]
        expected = float(head(hidden))
        assert score == pytest.approx(expected, abs=2e-4)
    assert verdicts["partial"] == 3 and len(set(outcomes[0])) == 3


@pytest.mark.thorough
def test_a_verifier_that_dies_is_one_sentence(judge_folder, monkeypatch, caplog):
    from models.engine.engine import Engine
    from search.scheduling.requests import Reply, RequestFailed

    def dies(self, timeout=None):
        waiting, self.waiting = self.waiting, []
        return [Reply(request, error=RequestFailed("out of memory")) for request in waiting]

    def submit(self, request):
        self.waiting = [*getattr(self, "waiting", []), request]

    monkeypatch.setattr(Engine, "submit", submit)
    monkeypatch.setattr(Engine, "poll", dies)
    with pytest.raises(ValueError, match=r"gave none of 2 chains a score.*the traces are kept"):
        rewards_of([Replay(sampled(["1", "2"]))], "verifier", Sources(verifier=judge_folder))
