"""Our reward functions where they are used: in TRL's own trainer, on a tiny random model, and in
actors of Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers import models as kinds
from transformers import PreTrainedTokenizerFast

from guides import rewards
from guides.answers.checker import Verdict, check

pytestmark = pytest.mark.thorough

STEPS = 3
EACH = 8  # completions of a prompt, and of a step


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    rewards.reset_counts()
    yield
    rewards.reset_counts()


def digits() -> PreTrainedTokenizerFast:
    """A tokenizer of ten digits and the end of a text."""
    vocabulary = {str(digit): digit for digit in range(10)} | {"<eos>": 10}
    raw = Tokenizer(kinds.WordLevel(vocabulary, unk_token="<eos>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", pad_token="<eos>")


class Kept(rewards.AnswerReward):
    """The reward function, with a record of what it was asked and what it said."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str, float | None]] = []

    def __call__(self, completions: Any, prompts: Any = None, **columns: Any) -> list[float | None]:
        scores = super().__call__(completions, prompts, **columns)
        self.seen += zip(completions, columns["answer"], scores, strict=True)
        return scores


def test_grpo_trains_on_our_rewards(tmp_path: Path) -> None:
    """The trainer samples digits, asks what each is worth, and moves the weights."""
    trl = pytest.importorskip("trl", reason='pip install "copse-search[peers]"')
    datasets = pytest.importorskip("datasets", reason='pip install "copse-search[peers]"')
    model = tiny.model("qwen2", vocab=11, eos_token_id=10, pad_token_id=10)
    before = [weights.detach().clone() for weights in model.parameters()]
    reward = Kept()
    problems = datasets.Dataset.from_dict({"prompt": list("123456"), "answer": list("345678")})
    settings = trl.GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=STEPS,
        per_device_train_batch_size=EACH,
        num_generations=EACH,
        max_completion_length=1,
        learning_rate=1e-2,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        seed=0,
    )
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=settings,
        train_dataset=problems,
        processing_class=digits(),
    )
    trainer.train()
    assert len(reward.seen) == STEPS * EACH
    worth = {Verdict.RIGHT: 1.0, Verdict.WRONG: 0.0, Verdict.UNDECIDED: None}
    for text, answer, score in reward.seen:
        assert score == worth[check(text, answer)]
    scores = [score for _, _, score in reward.seen]
    assert 0.0 in scores and 1.0 in scores
    counted = rewards.counts()
    assert counted["right"] == scores.count(1.0) and counted["wrong"] == scores.count(0.0)
    assert counted["undecided"] == scores.count(None)
    logged = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    for number, mean in enumerate(logged):
        step = [score or 0.0 for score in scores[number * EACH : (number + 1) * EACH]]
        assert mean == pytest.approx(sum(step) / EACH)
    moved = zip(before, trainer.model.parameters(), strict=True)
    assert any(not torch.equal(old, new.detach().cpu()) for old, new in moved)


def test_actors_of_ray_say_the_same() -> None:
    """Each counts for itself; one pair takes a proof, in a process below the actor's."""
    ray = pytest.importorskip("ray", reason='pip install "copse-search[peers]"')
    pairs = [(r"\boxed{\ln 8}", r"3\ln 2"), (r"\boxed{2}", "3"), (r"\boxed{2, 1}", "1, 2")]
    wanted = [{"score": 1.0, "undecided": 0.0}, {"score": 0.0, "undecided": 0.0}]
    wanted.append({"score": 0.0, "undecided": 1.0})

    class Grader:  # in here, so that an actor gets it as it is and imports no test
        def grade(self, pairs: list[tuple[str, str]]) -> tuple[list[Any], dict[str, int]]:
            scores = [rewards.compute_score("data", *pair) for pair in pairs]
            return scores, rewards.counts()

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        remote = ray.remote(Grader)
        actors = [remote.remote() for _ in range(2)]
        found = ray.get([actor.grade.remote(pairs) for actor in actors], timeout=120)
    finally:
        ray.shutdown()
    assert found == [(wanted, {"right": 1, "wrong": 1, "undecided": 1})] * 2
    assert rewards.counts() == {"right": 0, "wrong": 0, "undecided": 0}
