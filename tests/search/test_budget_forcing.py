"""Budget forcing: the chain is told to wait behind its answer, and to answer where it has become
long, all in the model's own turn.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import search
from search.chain import GIVEN
from search.problem import TextProblem, TextStep
from search.problems.stream import Moves, Stream

ASKED = "The final answer, in a box, is:"


def waiting(problem: Any, state: Any) -> list[TextStep]:
    """Answers 1, then 2, ..., in ten tokens each."""
    attempts = sum(step.finish == GIVEN for step in state)
    return [TextStep(f"\\boxed{{{attempts + 1}}}", tuple(range(10)), "end")]


def wandering(problem: Any, state: Any) -> list[TextStep]:
    """Comes to no answer until it is asked, in ten tokens a line."""
    if state and state[-1].text == ASKED:
        return [TextStep("\\boxed{7}", tuple(range(10)), "end")]
    return [TextStep(f"Thought {len(state)}.", tuple(range(10)))]


def test_the_chain_waits_behind_its_answer() -> None:
    found = search.solve("How many?", search.Guide(waiting), "budget_forcing")
    assert found.text.splitlines() == ["\\boxed{1}", "Wait", "\\boxed{2}"] and found.answer == "2"
    found = search.solve("How many?", search.Guide(waiting), "budget_forcing", attempts=4)
    assert found.answer == "4"


def test_an_answer_counts_until_there_is_another() -> None:
    """A model that has nothing to add loses nothing, at once or where it is asked in vain."""

    def silent(problem: Any, state: Any) -> list[TextStep]:
        if state:
            return [TextStep("That is all.", tuple(range(10)), "end")]
        return [TextStep("\\boxed{3}", tuple(range(10)), "end")]

    found = search.solve("How many?", search.Guide(silent), "budget_forcing", attempts=3)
    assert found.text.splitlines() == ["\\boxed{3}", *["Wait", "That is all."] * 2]
    assert found.answer == "3"
    revised = search.solve("How many?", search.Guide(silent), "revise", attempts=3)
    assert revised.answer is None
    checked = TextProblem("How many?", verify=lambda text: float("3" in text))
    stream = Stream(checked, attempts=2, turns=False)
    state = stream.initial()
    for line in ("\\boxed{3}", "Try again.", "That is all."):
        state = stream.apply(state, TextStep(line, finish="end"))
    assert stream.verify(state) == 1.0
    assert replace(stream, turns=True).verify(tuple(state)) == 0.0


@pytest.mark.parametrize(
    "limits, answer",
    [
        ({"min_tokens": 1}, "1"),
        ({"min_tokens": 11}, "2"),
        ({"min_tokens": 31}, "4"),
        ({"min_tokens": 1000}, "9"),
        ({"max_tokens": 10}, "1"),
        ({"max_tokens": 25}, "3"),
        ({"min_tokens": 15, "max_tokens": 100}, "2"),
    ],
)
def test_tokens_say_how_long_it_waits(limits: dict[str, int], answer: str) -> None:
    guide = search.Guide(waiting)
    found = search.solve("How many?", guide, "budget_forcing", attempts=9, **limits)
    assert found.answer == answer


def test_a_long_chain_is_asked_for_its_answer() -> None:
    guide = search.Guide(wandering)
    found = search.solve("How many?", guide, "budget_forcing", max_tokens=35)
    told = [step.text for step in found.steps]
    assert told == [*(f"Thought {n}." for n in range(4)), ASKED, "\\boxed{7}"]
    assert found.answer == "7"


def test_one_line_is_left_for_the_answer() -> None:
    """Who says something else then has none."""

    def deaf(problem: Any, state: Any) -> list[TextStep]:
        return [TextStep(f"Thought {len(state)}.", tuple(range(10)))]

    found = search.solve("How many?", search.Guide(deaf), "budget_forcing", max_tokens=20)
    assert found.answer is None and found.tree is not None
    [end] = found.tree.finished
    assert [step.text for step in found.tree.chain(end)][-2:] == [ASKED, "Thought 3."]


def test_a_chain_that_goes_round_in_a_circle_is_asked() -> None:
    class Circling(search.Policy):
        async def propose(self, problem: Any, state: Any, n: int, rng: Any, avoid: Any = ()) -> Any:
            asked = state and state[-1].text == ASKED
            step = TextStep("\\boxed{5}", (1,), "end") if asked else TextStep("Hm.", (1, 2))
            return [search.Proposal(step, 0.0, 1.0)]

    guide = search.Guide(Circling())
    options = {"attempts": 1, "max_tokens": 10_000}
    found = search.solve("How many?", guide, "budget_forcing", **options)
    assert found.answer == "5"


def test_a_line_that_was_cut_off_is_no_last_line() -> None:
    stream = Stream(TextProblem("?"), insist=True, max_tokens=2)
    state = stream.initial()
    for step in (TextStep("I think", (1, 2)), TextStep(ASKED, finish=GIVEN)):
        state = stream.apply(state, step)
    assert stream.due(state) is None and not stream.is_terminal(state)
    state = stream.apply(state, TextStep("it is \\boxed", (3,), "length"))
    assert not stream.is_terminal(state)
    state = stream.apply(state, TextStep("{8}", (4,)))
    assert stream.is_terminal(state) and stream.answer(state) == "8"
    again = Stream(**stream.to_json())
    assert again.is_terminal(tuple(state))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"min_tokens": -1}, "min_tokens=-1"),
        ({"max_tokens": -5}, "max_tokens=-5"),
        ({"min_tokens": 9, "max_tokens": 5}, "at least 9 and at most 5"),
    ],
)
def test_impossible_limits_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stream(TextProblem("?"), moves=Moves(), insist=True, **fields)
    with pytest.raises(ValueError):
        search.solve("?", search.Guide(waiting), "budget_forcing", **fields)


@pytest.mark.thorough
def test_a_chat_model_goes_on_in_its_own_turn(tmp_path: Path) -> None:
    """Where it had ended its turn, the token that ended it is left out; those of the line are its
    text's.
    """
    pytest.importorskip("torch")
    import tiny
    from judge_cases import chat_tokenizer

    import guides
    from models.checkpoints.checkpoint import save_model

    tokenizer = chat_tokenizer()
    model = tiny.model("qwen2", vocab_size=len(tokenizer))
    special = set(tokenizer.all_special_ids)
    folder = save_model(tmp_path / "model", model, tokenizer)
    options = {"step_tokens": 8, "max_steps": 6, "delimiter": "\n", "temperature": 1.0}
    guide = guides.load(folder, **options)
    ended = 0
    for seed in range(40):
        found = search.solve("?", guide, "budget_forcing", "tokens=500", seed)
        assert found.trace is not None
        for state in found.trace.states():
            for place, step in enumerate(state):
                if step.finish != GIVEN:
                    continue
                text = tokenizer.decode(list(step.tokens))
                before = state[place - 1]
                assert text == ("Wait\n" if before.finish == "stop" else "\nWait\n")
                if before.finish == "end":
                    assert not special & set(before.tokens[-1:])
                    ended += 1
    assert ended > 3
