"""Parts of one's own: plain functions and `async def`s do as they are, and every mistake is one
sentence that says what to write.
"""

from __future__ import annotations

import asyncio
import functools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from own_parts import (
    TARGET,
    Board,
    Minimal,
    Sums,
    helper,
    keyed,
    progress,
    scaled,
    solve,
    steps,
    total,
)

import search
from search import firstuse
from search.guide import Known, Uniform


async def later(problem, states):
    return progress(problem, states)


def by_text(text):
    assert text.startswith("Reach 6.")
    return sum(map(int, text.split("\n")[1:])) / TARGET


class Scorer:
    scale = 1.0

    def __call__(self, problem, states):
        return progress(problem, states)

    def method(self, problem, states):
        return progress(problem, states)

    async def by_text(self, text):
        return by_text(text)


GOOD_VALUES = {
    "function": progress,
    "async": later,
    "text": by_text,
    "lambda": lambda problem, states: progress(problem, states),
    "lambda of text": lambda text: by_text(text),
    "lambda with a default": lambda text="": by_text(text),
    "callable object": Scorer(),
    "bound method": Scorer().method,
    "bound async method": Scorer().by_text,
    "default": scaled,
    "partial": functools.partial(keyed, scale=1.0),
    "partial of a place": functools.partial(
        lambda scale, problem, states: scaled(problem, states, scale), 1.0
    ),
    "array": lambda problem, states: np.array(progress(problem, states), np.float32),
    "tensor with a gradient": lambda problem, states: torch.tensor(
        progress(problem, states), requires_grad=True
    ),
    "tensor of bfloat16": lambda problem, states: torch.tensor(
        progress(problem, states)
    ).bfloat16(),
    "list of tensors": lambda problem, states: [
        torch.tensor(value, requires_grad=True) for value in progress(problem, states)
    ],
    "tensor for a text": lambda text: torch.tensor([by_text(text)]),
    "tuple of bools": lambda problem, states: tuple(
        value >= 0 for value in progress(problem, states)
    ),
}


# -- what may be given as a value function


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((name, "mcts") for name in GOOD_VALUES),
        ("function", "beam"),
        ("async", "sample"),
        ("text", "gumbel"),
    ],
)
def test_functions_judge_as_a_class_does(name, method):
    class Progress(search.Value):
        async def evaluate(self, problem, states, known, rng):
            return progress(problem, states)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, theirs = (
            solve(value=GOOD_VALUES[name], method=method),
            solve(value=Progress(), method=method),
        )
    assert total(ours.steps) == TARGET
    if name not in ("tensor of bfloat16", "tuple of bools"):
        assert ours.answer == theirs.answer and ours.tree.steps == theirs.tree.steps
        assert np.allclose(ours.tree.edges["sum"], theirs.tree.edges["sum"], atol=1e-3)
    search.check_value(GOOD_VALUES[name], Sums())


def test_unknown_values_stay_unknown():
    assert solve(value=lambda problem, states: [math.nan] * len(states)).answer is not None
    assert isinstance(search.Guide(steps).value, Known) and isinstance(
        search.Guide(steps, None).value, Known
    )


class Short(search.Value):
    async def evaluate(self, problem, states):
        return [0.5] * len(states)


class Empty(search.Value):
    pass


NO_VALUES = {
    "a class that derives from nothing": (
        Minimal(),
        "Minimal has no backends and no tokens .*: derive it from search.Value",
    ),
    "evaluate of two": (
        Short(),
        r"Short.evaluate takes \(problem, states\) and is called with \(problem, states, known, "
        r"rng\)",
    ),
    "no evaluate": (Empty(), "Empty has no evaluate of its own: write `async def evaluate`"),
    "a class": (Short, r"value=Short is a class: give Short\(...\)"),
    "another class": (dict, "value=dict is a class: give an object or a function"),
    "a number": (0.5, "value=0.5 is no value: give a value function, for example guides.PRM"),
    "a path": ("prm", "value='prm' is no value"),
    "a policy": (Uniform(), "Uniform proposes steps and judges none: give it as policy="),
    "a generator": ((lambda: (yield)), "is a generator"),
    "no parameter": (lambda: 0.5, "write one parameter .text. or two"),
    "three parameters": (
        lambda problem, states, rng: 0.5,
        r"takes \(problem, states, rng\): write one parameter",
    ),
    "any number": (
        lambda *rest: 0.5,
        r"takes \(\*rest\): write one parameter .text. or two .problem, states.",
    ),
    "all defaults": (
        lambda problem=None, states=None: 0.5,
        "without defaults|both without a default",
    ),
    "states with a default": (
        lambda problem, states=(): 0.5,
        "both without a default, to get the list of states",
    ),
    "one state": (lambda state: 0.5, r"takes \(state\), and a function of one parameter gets text"),
    "the wrong order": (lambda states, problem: 0.5, r"it is called with \(problem, states\)"),
    "a keyword": (
        keyed,
        "the function keyed needs scale: give them by functools.partial or a default",
    ),
    "a module of torch": (
        torch.nn.Linear(2, 1),
        "write one parameter .text. or two|cannot be read",
    ),
    "a built-in that does not tell": (max, "cannot be read|takes"),
}


# -- what is no value function


@pytest.mark.parametrize("name", NO_VALUES)
def test_what_is_no_value_function_is_told_before_anything_runs(name):
    given, sentence = NO_VALUES[name]
    with pytest.raises(ValueError, match=sentence):
        search.Guide(steps, given)
    with pytest.raises(ValueError, match=sentence):
        search.check_value(given)


class Waits(search.Value):
    calls = 1

    async def evaluate(self, problem, states, known, rng):
        return [(await search.ask(search.Generate((1,), to="nowhere"))).value]


class Plain(search.Value):
    def evaluate(self, problem, states, known, rng):
        return [0.5] * len(states)


class Dead(search.Value):
    def evaluate(self, problem, states, known, rng):
        return [0.5] * len(states)
        yield


async def forgets_and_returns(problem, states):
    return helper(problem, states)


async def forgets_and_uses(problem, states):
    return [value + 0.0 for value in helper(problem, states)]


async def forgets_and_ignores(problem, states):
    helper(problem, states)
    return progress(problem, states)


async def sleeps(problem, states):
    await asyncio.sleep(0.01)
    return progress(problem, states)


BROKEN_VALUES = {
    "one number for all": (
        lambda problem, states: 0.5,
        r"returned 0.5 for 1 state\(s\): return one number for each",
    ),
    "too many": (lambda problem, states: [0.5, 0.5], r"for 1 state\(s\)"),
    "a column": (
        lambda problem, states: torch.zeros(len(states), 1),
        r"returned tensor.* for 1 state\(s\): return one number for each",
    ),
    "above 1": (
        lambda problem, states: [7.0],
        r"returned \[7.0\]: a value is a probability in \[0, 1\], or nan",
    ),
    "logits": (lambda text: -3.2, r"returned \[-3.2\]: a value is a probability"),
    "infinity": (lambda text: math.inf, "a value is a probability"),
    "text": (lambda problem, states: ["0.5"], r"returned \['0.5'\] for 1 state"),
    "text for a text": (lambda text: "0.5", "returned '0.5' for a text: return a number"),
    "nothing": (lambda problem, states: None, "returned None for 1 state"),
    "nothing for a text": (
        lambda text: None,
        "returned None for a text: return a number in .0, 1., nan where unknown",
    ),
    "a list of nothing": (lambda problem, states: [None], "returned .None. for 1 state"),
    "a list for a text": (lambda text: [0.1, 0.2], "for a text"),
    "a dictionary": (lambda problem, states: {"a": 1}, "returned {'a': 1} for 1 state"),
    "a generator": (
        lambda problem, states: (0.5 for _ in states),
        "is a generator: .* return a list",
    ),
    "a method that is no coroutine": (Plain(), "Plain.evaluate is no coroutine: write `async def`"),
    "an old generator": (
        Dead(),
        "Dead.evaluate is a generator: write `async def` for `def` and `await` for `yield from`",
    ),
    "returns what was not awaited": (
        forgets_and_returns,
        "the function forgets_and_returns returned a coroutine: write `await`",
    ),
    "uses what was not awaited": (
        forgets_and_uses,
        "uses a coroutine as if it were its result .*: write `await` before the call",
    ),
    "ignores what was not awaited": (
        forgets_and_ignores,
        r"calls helper without `await`: write `await` before helper\(...\)",
    ),
    "a library with an event loop": (sleeps, "needs an event loop, and a search has none"),
}


@pytest.mark.parametrize("name", BROKEN_VALUES)
def test_a_broken_value_function_is_told_at_its_first_use(name):
    given, sentence = BROKEN_VALUES[name]
    for method in ("mcts", "beam"):
        with pytest.raises(ValueError, match=sentence):
            solve(value=given, method=method)
    with pytest.raises(ValueError, match=sentence):
        search.check_value(given, Sums())


@pytest.mark.parametrize("name", [name for name in BROKEN_VALUES if "ignores" not in name])
def test_it_is_told_in_the_middle_of_a_search_too(name):
    given, sentence = BROKEN_VALUES[name]
    guide = search.Guide(steps, given)
    object.__setattr__(guide, "looked_at", True)
    with pytest.raises(ValueError, match=sentence):
        search.solve(Sums(), guide, "mcts", "simulations=20")


def test_asyncio_is_refused_within_its_own_loop_too():
    """As in a notebook, where a loop runs."""

    async def cell():
        with pytest.raises(ValueError, match="needs an event loop, and a search has none"):
            solve(value=sleeps)

    asyncio.run(cell())


def test_a_backend_that_is_not_named_is_told():
    with pytest.raises(
        ValueError, match=r"Waits.evaluate asks a backend .*'nowhere'.*: name it in `backends`"
    ):
        solve(value=Waits())


def test_an_error_within_a_function_says_with_what_it_was_called():
    def divides(problem, states):
        return [1 / total(state) for state in states]

    with pytest.raises(ZeroDivisionError) as raised:
        solve(value=divides)
    assert any("divides was called with" in note for note in raised.value.__notes__)


def test_an_error_within_a_part_names_it_wherever_a_solution_is_shown(caplog):
    class Broken(search.Value):
        async def evaluate(self, problem, states, known, rng):
            return {}["missing"]

    with pytest.raises(KeyError) as raised:
        solve(value=Broken())
    assert raised.value.__notes__ == ["raised by Broken.evaluate"]
    guide = search.Guide(steps, Broken())
    (solution,) = search.solve_many([Sums()], guide, "mcts", "simulations=9")
    said = "KeyError: 'missing' (raised by Broken.evaluate)"
    assert str(solution).splitlines()[0] == f"error: {said}"
    assert solution.to_json()["error"] == said and said in caplog.text


def test_a_function_of_text_on_states_that_are_none_says_so():
    with pytest.raises(
        ValueError,
        match="takes text, and a state of Board is none .*: write a function of two parameters",
    ):
        solve(Uniform(), lambda text: 0.5, Board())


def test_what_a_function_raises_itself_is_left_to_the_searches():
    """`sample` never asks for the value of the first state, so a function that cannot tell it
    does no harm.
    """

    def last_number(text):
        return int(text.split("\n")[1]) / 10

    assert solve(value=last_number, method="sample").answer is not None
    with pytest.raises(IndexError):
        solve(value=last_number, method="mcts")
    first, second = search.solve_many(
        [Sums(), Sums()], search.Guide(steps, last_number), "mcts", "simulations=5"
    )
    assert isinstance(first.error, IndexError) and isinstance(second.error, IndexError)


def test_who_holds_all_searches_up_is_told(monkeypatch, caplog):
    monkeypatch.setattr(firstuse, "SLOW", -1.0)
    solve()
    assert (
        "the function progress took" in caplog.text and "all searches wait meanwhile" in caplog.text
    )


def test_parts_are_looked_at_once(monkeypatch):
    calls = []

    def counts(text):
        calls.append(text)
        return 0.5

    guide = search.Guide(steps, counts)
    firstuse.look_at(guide, [Sums()])
    firstuse.look_at(guide, [Sums()])
    assert calls == ["Reach 6."]
    monkeypatch.setattr(firstuse, "look_at_value", lambda *_: pytest.fail("ours are not looked at"))
    firstuse.look_at(search.Guide(Uniform()), [Board()])


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-2, 2)
        | st.floats()
        | st.text(max_size=3)
        | st.binary(max_size=3),
        st.lists,
        max_leaves=4,
    )
)
def test_whatever_a_value_function_returns_it_is_taken_or_told(returned):
    for function in (lambda problem, states: returned, lambda text: returned):
        try:
            solution = solve(value=function, budget="simulations=3")
        except ValueError as error:
            assert "returned" in str(error)
        else:
            assert solution.tree is not None
