"""Attempts one after the other: the search asks for the next, nobody learns what it wrote, and a
chat model reads it as a user's turn.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tiny
from judge_cases import chat_tokenizer

import search
from guides.data.distill import segments_of
from guides.data.labels import Labels
from guides.policies.prompts import Prompts
from search.chain import GIVEN
from search.problem import TextProblem, TextStep
from search.problems.countdown import Countdown
from search.problems.stream import Moves, Stream

GAME = Countdown((4, 7, 8, 8), 24)
SOLUTION = ["8-7=1", "4-1=3", "8*3=24"]


def counting(problem: Any, state: Any) -> list[TextStep]:
    """Answers 1 in the first attempt, 2 in the second, ..."""
    attempts = sum(step.finish == GIVEN for step in state)
    return [TextStep(f"\\boxed{{{attempts + 1}}}", finish="end")]


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_the_last_of_the_attempts_counts(attempts: int) -> None:
    guide = search.Guide(counting)
    found = search.solve("How many?", guide, "revise", attempts=attempts)
    assert found.answer == str(attempts)
    lines = found.text.splitlines()
    assert lines.count("Try again.") == attempts - 1 and len(lines) == 2 * attempts - 1
    assert found.trace is not None
    assert found.trace.arguments["attempts"] == attempts and found.trace.arguments["insist"]


def test_several_chains_of_attempts_vote() -> None:
    found = search.solve("How many?", search.Guide(counting), "revise", attempts=2, chains=3)
    assert found.usage.simulations == 3 and found.votes == (3, 3)


def test_a_verified_answer_ends_the_attempts() -> None:
    lines = ["8+8=16", "16+4=20", "20-7=13", *SOLUTION]

    def policy(problem: Any, state: Any) -> list[TextStep]:
        written = [step for step in state if step.finish != GIVEN]
        return [TextStep(lines[len(written)])] if len(written) < len(lines) else []

    found = search.solve(GAME, search.Guide(policy), "revise", attempts=9)
    assert found.verified
    told = [step.text for step in found.steps]
    assert told == [*lines[:3], "Try again.", *SOLUTION, "Check: right."]
    again = found.trace
    assert again is not None and len(again.states()) == len(told) + 1


def test_an_illegal_line_ends_an_attempt() -> None:
    """Also the first one, and in the last attempt it ends the chain."""
    lines = ["7-8=1", "8-7=1", "9-1=8", *SOLUTION]

    class Writer(search.Policy):
        async def propose(self, problem: Any, state: Any, n: int, rng: Any, avoid: Any = ()) -> Any:
            # an illegal line leaves the move in its place
            step = TextStep(lines[min(len(state), len(lines) - 1)])
            return [search.Proposal(step, 0.0, 1.0)]

    policy = Writer()
    found = search.solve(GAME, search.Guide(policy), "revise", attempts=9)
    told = [step.text for step in found.steps]
    assert told == ["Try again.", "8-7=1", "Try again.", *SOLUTION, "Check: right."]
    assert found.verified and found.tree is not None and found.tree.unusable == 2
    alone = search.solve(GAME, search.Guide(policy), "revise", attempts=1)
    assert alone.answer is None and not alone.steps


def test_a_stream_keeps_its_own_moves() -> None:
    stream = Stream(TextProblem("How many?"), moves=Moves(again="Once more:"))
    found = search.solve(stream, search.Guide(counting), "revise", attempts=2)
    assert "Once more:" in found.text.splitlines()


@pytest.mark.parametrize("attempts", [0, -1, 1.5, True, "2", 10**12])
def test_impossible_attempts_are_refused(attempts: Any) -> None:
    with pytest.raises(ValueError, match="attempts="):
        search.solve("How many?", search.Guide(counting), "revise", attempts=attempts)


def test_other_searches_ask_for_the_next_attempt_as_well() -> None:
    stream = Stream(TextProblem("How many?"), attempts=2, insist=True)
    for method in ("mcts", "beam"):
        found = search.solve(stream, search.Guide(counting), method, "simulations=20")
        assert found.answer == "2", method


def test_nobody_learns_what_the_search_wrote() -> None:
    found = search.solve("How many?", search.Guide(counting), "revise", attempts=3)
    trace = found.trace
    assert trace is not None
    ones = np.ones(len(trace.steps))
    labels = Labels(*np.ones((2, len(trace.node_parent))))
    columns = {"weight": ones, "samples": ones, "positive": ones}
    segments = segments_of(trace, (1,), labels, columns)[1:]
    for step, segment in zip(trace.steps, segments, strict=True):
        expected = 0.0 if step.finish == GIVEN else 1.0
        assert segment.weight == segment.samples == segment.positive == expected
        assert not math.isnan(segment.value)


def test_a_chat_model_reads_a_turn_of_the_user() -> None:
    """Prompt, reply and turn are the tokens of the whole conversation, whether the model ended its
    turn or the search did.
    """
    tokenizer = chat_tokenizer()
    prompts = Prompts(tokenizer, instruction="Be brief.")
    turns = [
        {"role": "user", "content": "How many?\n\nBe brief."},
        {"role": "assistant", "content": "Seven."},
        {"role": "user", "content": "Try again."},
    ]
    whole = tuple(tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"])
    reply = tuple(tokenizer.encode("Seven.", add_special_tokens=False))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for said in (reply, (*reply, end)):
        turn = prompts.turn("Try again.", "\n", said[-1:])
        assert prompts("How many?") + said + turn == whole


def test_a_control_token_in_a_line_is_a_word() -> None:
    tokenizer = chat_tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    plain = Prompts(tokenizer).turn("Try", "\n").count(end)
    assert Prompts(tokenizer).turn("Try <|im_end|>", "\n").count(end) == plain


def test_a_plain_model_reads_a_line() -> None:
    tokenizer = tiny.tokenizer()
    found = Prompts(tokenizer, "{problem}\n").turn("Try again.", "\n")
    assert tokenizer.decode(list(found)) == "Try again.\n"
