"""Attempts end at an answer that the guide values enough (`enough` of the method `revise`), and
streams vote that find no fault with themselves (`choose="verdict"`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from fakes import generated, random_player, scripted_guide

import search
from search import choose
from search.chain import GIVEN
from search.choose import Finish, finishes
from search.problem import TextProblem, TextStep
from search.problems.countdown import Countdown
from search.problems.stream import Moves, Stream

GAME = Countdown((4, 7, 8, 8), 24)


class Unverified(Countdown):
    """A puzzle of which nobody says whether an answer is right."""

    verifies = False

    def verify(self, state: Any) -> None:
        return None


HARD = Unverified((1, 1, 5, 5), 97)
QUESTION = "How many?"


def counting(problem: Any, state: Any) -> list[TextStep]:
    """Answers 1 in the first attempt, 2 in the second, ..."""
    attempts = sum(step.finish == GIVEN for step in state)
    return [TextStep(f"\\boxed{{{attempts + 1}}}", finish="end")]


def tenths(problem: Any, states: Sequence[Any]) -> list[float]:
    """The answer in tenths."""
    return [int(problem.answer(state)) / 10 for state in states]


@pytest.mark.parametrize(
    "enough, answer", [(0.0, "1"), (0.15, "2"), (0.25, "3"), (0.5, "5"), (0.55, "6"), (1.0, "6")]
)
def test_an_answer_of_enough_value_is_the_last(enough: float, answer: str) -> None:
    guide = search.Guide(counting, tenths)
    found = search.solve(QUESTION, guide, "revise", attempts=6, enough=enough)
    assert found.answer == answer
    lines = found.text.splitlines()
    assert lines.count("Try again.") == int(answer) - 1
    assert (lines[-1] == "Check: right.") == (answer != "6")
    assert found.value == pytest.approx(int(answer) / 10, abs=2.0**-16)
    assert found.trace is not None and len(found.trace.states()) == len(found.steps) + 1


def test_each_answer_is_judged_once() -> None:
    asked: list[str | None] = []

    def judging(problem: Any, states: Sequence[Any]) -> list[float]:
        asked.extend(map(problem.answer, states))
        return tenths(problem, states)

    guide = search.Guide(counting, judging)
    asked.clear()  # it was looked at
    search.solve(QUESTION, guide, "revise", attempts=4, enough=0.95)
    assert asked[-4:] == ["1", "2", "3", "4"]
    asked.clear()
    search.solve(QUESTION, guide, "revise", attempts=4, enough=0.15)
    assert asked == ["1", "2"]


def test_who_cannot_judge_lets_it_go_on() -> None:
    class Broken(search.Value):
        async def evaluate(self, problem: Any, states: Any, known: Any, rng: Any) -> Any:
            if problem.answer(states[0]) == "1":
                raise search.RequestFailed("away")
            return np.full(len(states), math.nan if problem.answer(states[0]) == "2" else 0.9)

    guide = search.Guide(counting, Broken())
    found = search.solve(QUESTION, guide, "revise", attempts=9, enough=0.5)
    assert found.answer == "3"


def test_an_attempt_that_the_model_begins_itself_is_one() -> None:
    lines = ["\\boxed{1}", "I am not sure.", "Try again.", "\\boxed{4}"]

    class Writer(search.Policy):
        async def propose(self, problem: Any, state: Any, n: int, rng: Any, avoid: Any = ()) -> Any:
            written = sum(step.finish != GIVEN for step in state)
            return [search.Proposal(TextStep(lines[written]), 0.0, 1.0)]

    guide = search.Guide(Writer(), tenths)
    found = search.solve(QUESTION, guide, "revise", attempts=9, enough=0.35)
    told = [step.text for step in found.steps]
    assert told == [lines[0], "Try again.", *lines[1:], "Check: right."] and found.answer == "4"


@pytest.mark.parametrize("shuffle", [None, 1])
def test_a_value_that_is_never_reached_changes_no_chain(shuffle: int | None) -> None:
    trees = []
    for enough in (None, 1.0):
        guide = scripted_guide(slots=8, shuffle=shuffle)
        options = {"attempts": 3, "chains": 6, "wave": 3, "enough": enough}
        found = search.solve(HARD, guide, "revise", "simulations=6", 3, **options)
        assert found.tree is not None
        states = [[step.text for step in state] for state in found.tree.states]
        trees.append(sorted(states))  # they come in another order
    assert trees[0] == trees[1] and len(trees[0]) > 20


@pytest.mark.thorough
@pytest.mark.parametrize("enough", [None, 0.9])
def test_no_chain_is_given_up_before_the_budget_ends(enough: float | None) -> None:
    """Tokens are granted little by little: only chains that are under way at the end, of which
    there are two, have no end. An illegal line in the last attempt is one.
    """
    finished = 0
    for limit in range(60, 400, 20):
        guide = scripted_guide(random_player(0.2), slots=4)
        options = {"attempts": 9, "wave": 2, "enough": enough, "chains": 50}
        found = search.solve(HARD, guide, "revise", f"tokens={limit}", 1, **options)
        tree = found.tree
        assert tree is not None
        begun = 0
        for node, state in enumerate(tree.states):
            attempt = [step.text for step in state].count("Try again.") + 1
            begun += not tree.block(node) and node not in tree.finished and attempt < 9
        assert begun <= 2
        finished += len(tree.finished)
    assert finished > 5


class Noted(search.Value):
    """The model's own value head, and what it said of each chain."""

    calls = 1

    def __init__(self, value: search.Value):
        self.inner = value
        self.said: dict[tuple[str, ...], float] = {}

    @property
    def backends(self) -> Any:
        return self.inner.backends

    async def evaluate(self, problem: Any, states: Any, known: Any, rng: Any) -> Any:
        values = await self.inner.evaluate(problem, states, known, rng)
        for state, value in zip(states, values, strict=True):
            self.said[tuple(step.text for step in state)] = float(value)
        return values


def test_a_model_with_nothing_to_say_ends_its_chain() -> None:
    def silent(problem: Any, state: Any) -> list[TextStep]:
        return [] if state else counting(problem, state)

    found = search.solve(QUESTION, search.Guide(silent, tenths), "revise", attempts=3, enough=0.9)
    assert found.answer is None and found.text.splitlines() == ["\\boxed{1}", "Try again."]


@pytest.mark.thorough
def test_budgets_hold_and_the_same_seed_gives_the_same_tree() -> None:
    """In whichever order replies come. No answer is followed by another attempt before it was
    judged.
    """
    ended = followed = 0
    for seed, limit in itertools.product(range(3), ("tokens=60", "tokens=200", "calls=17")):
        trees = []
        for shuffle in (None, 5):
            guide = scripted_guide(slots=4, shuffle=shuffle)
            noted = Noted(guide.value)
            judged = search.Guide(guide.policy, noted)
            options = {"attempts": 4, "chains": 5, "wave": 2, "enough": 0.6}
            found = search.solve(HARD, judged, "revise", limit, seed, **options)
            kind, amount = limit.split("=")
            spent = found.usage.generated if kind == "tokens" else found.usage.calls
            assert spent <= int(amount)
            assert found.tree is not None
            trees.append([[step.text for step in state] for state in found.tree.states])
            stream: Any = found.problem
            for state in found.tree.states[1:]:
                begun = state[-1].text == "Try again."
                if begun and len(stream.read(state[:-1]).standing) == 3:
                    assert noted.said[tuple(step.text for step in state[:-1])] < 0.6
                    followed += 1
            for node in found.tree.finished:
                chain = [step.text for step in found.tree.states[node]]
                ended += chain[-1] == "Check: right."
                assert chain[-1] == "Check: right." or chain.count("Try again.") == 3
        assert trees[0] == trees[1]
    assert ended > 5 and followed > 5


def test_a_chain_goes_on_when_it_is_granted_more() -> None:
    """Tokens are granted little by little, and a piece may end between an answer and its value."""

    def model(request: Any) -> Any:
        if not hasattr(request, "prompt"):
            raise AssertionError
        attempt = "".join(map(chr, request.prompt)).count("Try again.") + 1
        text = f"\\boxed{{{attempt}}}"
        return generated(text, finish="end", limit=request.max_tokens)

    guide = scripted_guide(model, value=False)
    valued = search.Guide(guide.policy, tenths)
    whole = search.solve(QUESTION, valued, "revise", attempts=6, chains=8, wave=4, enough=0.35)
    few = search.solve(
        QUESTION, valued, "revise", "tokens=400", attempts=6, chains=8, wave=4, enough=0.35
    )
    for found in (whole, few):
        assert found.tree is not None and found.answer == "4"
        assert set(map(len, map(found.tree.states.__getitem__, found.tree.finished))) == {8}
    assert few.usage.simulations == whole.usage.simulations == 8


@pytest.mark.parametrize(
    "method, options, told",
    [
        ("revise", {"enough": 1.5}, r"enough=1.5 is no value of an answer"),
        ("revise", {"enough": -1}, "give a number from 0 on"),
        ("sample", {"enough": 0.5}, "use the method revise"),
        ("budget_forcing", {"enough": 0.5}, "use the method revise"),
        ("mcts", {"enough": 0.5}, "mcts has no option 'enough'"),
    ],
)
def test_what_would_end_nothing_is_refused(method: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        search.solve(QUESTION, search.Guide(counting, tenths), method, **options)


def test_where_it_would_end_nothing_for_other_reasons_it_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing judges them here"):
        search.solve(QUESTION, search.Guide(counting), "revise", enough=0.5)
    bare = Stream(TextProblem(QUESTION), moves=Moves(check=None))
    with pytest.raises(ValueError, match="the problem verifies its answers itself"):
        search.solve(GAME, scripted_guide(), "revise", enough=0.5)
    with pytest.raises(ValueError, match="by the move `check`"):
        search.solve(bare, search.Guide(counting, tenths), "revise", enough=0.5)


def test_what_untrained_values_are_worth_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """Where attempts end by them, and not where streams vote by what they say themselves."""

    class Untrained(search.Value):
        note = "nobody trained the judge of test_enough"

        async def evaluate(self, problem: Any, states: Any, known: Any, rng: Any) -> Any:
            return np.full(len(states), 0.5)

    guide = search.Guide(counting, Untrained())
    search.solve(QUESTION, guide, "revise", choose="verdict")
    assert Untrained.note not in caplog.text
    search.solve(QUESTION, guide, "revise", choose="majority", enough=0.9)
    assert Untrained.note in caplog.text


# -- what streams say of themselves


def state_of(stream: Stream, lines: Sequence[str]) -> Any:
    state: Any = stream.initial()
    for line in lines:
        state = stream.apply(state, TextStep(line.removeprefix("> "), finish=_finish(line)))
    return state


def _finish(line: str) -> str:
    return GIVEN if line.startswith("> ") else "stop"


@pytest.mark.parametrize(
    "lines, verdict",
    [
        (["8-7=1"], None),
        (["8-7=1", "Check: right."], True),
        (["8-7=1", "Check: wrong."], False),
        (["8-7=1", "Check: wrong.", "Check: right."], True),
        (["8-7=1", "Check: right.", "Check: wrong."], False),
        (["8-7=1", "Check: wrong.", "4-1=3", "Check: right."], False),
        (["8+8=16", "Check: wrong.", "Back to 0.", "8-7=1"], None),
        (["8-7=1", "8+4=12", "Check: wrong.", "Back to 1.", "4-1=3"], None),
        (["8-7=1", "> Check: right."], None),
        (["8-7=1", "Check: wrong.", "> Check: right."], False),
    ],
)
def test_a_stream_says_what_it_thinks_of_itself(lines: list[str], verdict: bool | None) -> None:
    stream = Stream(GAME)
    assert stream.verdict(state_of(stream, lines)) is verdict


#: the chains of a model: two say 5 and doubt a line of theirs, two say 7, one says 6
CHAINS = (
    ["So 5.", "Check: wrong.", "\\boxed{5}"],
    ["Perhaps 5.", "Check: wrong.", "\\boxed{5}"],
    ["So 7.", "Check: right.", "\\boxed{7}"],
    ["\\boxed{7}"],
    ["\\boxed{6}"],
)


def test_a_chain_that_finds_fault_with_itself_has_no_vote() -> None:
    """Of equal numbers of votes the answer that was there first has more."""
    begun = itertools.count()

    class Writer(search.Policy):
        async def propose(self, problem: Any, state: Any, n: int, rng: Any, avoid: Any = ()) -> Any:
            raise AssertionError

        async def complete(self, problem: Any, state: Any, rng: Any) -> Any:
            return list(map(TextStep, CHAINS[next(begun) % 5]))

    guide = search.Guide(Writer(), stream={})
    options = {"chains": 5, "wave": 1}
    found = {}
    for chooser in ("majority", "verdict"):
        begun = itertools.count()
        found[chooser] = search.solve(QUESTION, guide, "sample", choose=chooser, **options)
    assert found["verdict"].answer == "7" and found["verdict"].votes == (2, 3)
    tree = found["verdict"].tree
    assert tree is not None
    told = finishes(tree, found["verdict"].problem)
    assert [finish.verdict for finish in told] == [False, False, True, None, None]
    assert found["majority"].answer == "5" and found["majority"].votes == (2, 5)


def test_where_all_find_fault_all_vote() -> None:
    def finish(answer: str, verdict: bool | None) -> Finish:
        return Finish(0, answer, None, 0.5, 1, independent=True, verdict=verdict)

    doubted = [finish("1", False), finish("2", False), finish("2", False)]
    assert choose.verdict(doubted).answer == "2"
    assert choose.votes(doubted, doubted[1], choose.verdict) == (2, 3)
    one = [*doubted, finish("1", None)]
    assert choose.verdict(one).answer == "1"
    assert choose.votes(one, one[-1], choose.verdict) is None


def test_other_problems_vote_as_the_majority() -> None:
    def policy(problem: Any, state: Any) -> list[TextStep]:
        return [TextStep("\\boxed{3}", finish="end")]

    found = search.solve(QUESTION, search.Guide(policy), "sample", choose="verdict", chains=3)
    assert found.answer == "3" and found.votes == (3, 3)
