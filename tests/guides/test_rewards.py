"""Reward functions for the trainers of others."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import multiprocessing
import threading
from collections.abc import Iterator

import pytest

from guides import rewards
from guides.answers.checker import Verdict, check
from guides.rewards import AnswerReward, compute_score, correct, trl_reward, undecided

TEXTS = [r"so \boxed{1/2}", "The answer is 3.", r"\boxed{2, 1}"]
ANSWERS = ["0.5", "4", "1, 2"]
TALK = [[{"role": "assistant", "content": text}] for text in TEXTS]


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    rewards.reset_counts()
    yield
    rewards.reset_counts()


def test_trl() -> None:
    """A trainer passes the completions and every column of the dataset by name."""
    assert trl_reward(prompts=["?"] * 3, completions=TEXTS, answer=ANSWERS) == [1.0, 0.0, None]
    assert trl_reward(prompts=["?"] * 3, completions=TALK, solution=ANSWERS, idx=[1, 2, 3]) == [
        1.0, 0.0, None,
    ]  # fmt: skip
    assert rewards.counts() == {"right": 2, "wrong": 2, "undecided": 2}
    assert trl_reward.__name__ == "answer_reward"
    own = AnswerReward(target="gt", undecided=0.25, style="math")
    assert own(completions=TEXTS, gt=ANSWERS) == [1.0, 0.0, 1.0]
    assert AnswerReward(undecided=0.25)(completions=TEXTS[2:], answer=ANSWERS[2:]) == [0.25]


def test_trl_without_targets() -> None:
    with pytest.raises(ValueError, match="no column answer or target or solution or ground_truth"):
        trl_reward(completions=TEXTS)
    with pytest.raises(ValueError, match="no column gt"):
        AnswerReward("gt")(completions=TEXTS, answer=ANSWERS)
    with pytest.raises(ValueError, match="an answer for each of 3 texts"):
        trl_reward(completions=TEXTS, answer=ANSWERS[:2])
    with pytest.raises(ValueError, match="an answer for each of 3 texts"):
        trl_reward(completions=TEXTS, answer="0.5")
    with pytest.raises(ValueError, match="no completion"):
        trl_reward(completions=[7], answer=["7"])


def test_verl() -> None:
    """It loads the file by its path, and calls the function by names, with options of its own."""
    spec = importlib.util.spec_from_file_location("custom_module", rewards.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for score in (compute_score, module.compute_score):
        found = [
            score(data_source="d", solution_str=text, ground_truth=answer, extra_info={"index": 1})
            for text, answer in zip(TEXTS, ANSWERS, strict=True)
        ]
        assert found == [
            {"score": 1.0, "undecided": 0.0},
            {"score": 0.0, "undecided": 0.0},
            {"score": 0.0, "undecided": 1.0},
        ]
    assert compute_score("d", TEXTS[2], "1, 2", style="math")["score"] == 1.0
    assert rewards.counts()["undecided"] == 1


def test_verifiers() -> None:
    """A rubric passes what the parameters are called, and awaits what is awaitable."""
    for function in (correct, undecided):
        assert list(inspect.signature(function).parameters) == ["completion", "answer"]

    async def scores() -> list[tuple[float, float]]:
        return [
            (await correct(text, answer), await undecided(text, answer))
            for text, answer in zip(TALK, ANSWERS, strict=True)
        ]

    assert asyncio.run(scores()) == [(1.0, 0.0), (0.0, 0.0), (0.0, 1.0)]
    assert rewards.counts() == {"right": 1, "wrong": 1, "undecided": 1}


def test_what_a_completion_is() -> None:
    class Message:
        content = "said"

    assert rewards.text_of("a") == "a"
    assert rewards.text_of([{"content": "a"}, {"content": [{"type": "text", "text": "b"}]}]) == "b"
    assert rewards.text_of([Message()]) == rewards.text_of({"content": "said"}) == "said"
    for wrong in (5, [], [{}], None):
        with pytest.raises(ValueError, match="no completion"):
            rewards.text_of(wrong)


def test_threads_count_together() -> None:
    threads = [
        threading.Thread(target=trl_reward, kwargs={"completions": TEXTS, "answer": ANSWERS})
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rewards.counts() == {"right": 8, "wrong": 8, "undecided": 8}


#: with proofs, which run in processes of their own
PAIRS = [
    (r"\boxed{\ln 8}", r"3\ln 2"), (r"\boxed{\ln 8}", r"2\ln 2"),
    (r"\boxed{(x+1)^2}", "x^2+2x+1"), (r"\boxed{(x+1)^2}", "x^2+x+1"),
    (r"\boxed{\frac{1}{3}}", "1/3"), (r"\boxed{0.33}", "1/3"), (r"\boxed{2, 1}", "1, 2"),
]  # fmt: skip


def verdicts(pairs: list[tuple[str, str]]) -> list[Verdict]:
    return [check(*pair) for pair in pairs]


def test_eight_threads_and_two_forks_at_once_say_the_same() -> None:
    """Processes are forked while the threads check, as loaders of data are."""
    wanted = verdicts(PAIRS)
    assert set(wanted) == set(Verdict)
    found: list[list[Verdict]] = []
    begun = threading.Barrier(9)

    def work() -> None:
        begun.wait()
        found.append(verdicts(PAIRS * 3))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    begun.wait()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found += pool.map_async(verdicts, [PAIRS * 3] * 2, chunksize=1).get(timeout=60)
    for thread in threads:
        thread.join()
    assert found == [wanted * 3] * 10


def graded(pair: tuple[str, str]) -> tuple[dict[str, float], dict[str, int]]:
    return compute_score("d", *pair), rewards.counts()


def test_forked_workers_prove_and_count_for_themselves() -> None:
    """Daemons, as those of a pool and of an actor, with a proof in each."""
    compute_score("d", "5", "5")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        found = pool.map(graded, [(r"\ln 8", r"3\ln 2"), ("x", "x")])
    assert [score for score, _ in found] == [{"score": 1.0, "undecided": 0.0}] * 2
    assert [counts["right"] for _, counts in found] == [1, 2]
    assert rewards.counts()["right"] == 1
