"""States of text that grow: what is kept of their text says what the whole text says, and takes no
longer for a longer chain.
"""

from __future__ import annotations

import copy
import pickle
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search import final_answer
from search.chain import BLOCK, Chain, chain_of, chain_text, chain_tokens, last_text, token_count
from search.final_answer import THOUGHTS, Reading, boxed, spoken, thinking
from search.problem import IllegalStep, TextProblem, TextStep

MARKS = [*THOUGHTS, *THOUGHTS.values(), "\\boxed{7}", "\\boxed{", "}", "\\fbox{a}", "#### 5", "a b"]
CUT = [mark[:4] for mark in MARKS] + [mark[4:] for mark in MARKS]
STEPS = st.builds(
    TextStep,
    st.lists(st.sampled_from([*MARKS, *CUT, "x", "\n", "."]), max_size=4).map("".join),
    st.just((1,)),
    st.sampled_from(["stop", "length", "last", "end"]),
)


@given(st.lists(st.sampled_from([*MARKS, *CUT, "x", "\n"]), max_size=12))
def test_what_is_kept_of_a_text_is_what_the_whole_text_says(pieces):
    reading = Reading()
    text = ""
    for piece in pieces:
        reading = reading.after(piece)
        text += piece
        assert reading.thinking == thinking(text)
        behind = spoken(text)
        if behind is not None and boxed(behind):
            assert reading.box
        assert reading.length == len(text)
        assert behind == (None if reading.thinking else text[reading.start :])


@pytest.mark.thorough
@given(st.lists(STEPS, max_size=8))
def test_a_chain_is_the_tuple_of_its_steps(steps):
    problem = TextProblem("?", ends=r"(?m)^#### ")
    state = problem.initial()
    assert isinstance(state, Chain)
    for step in steps:
        try:
            state = problem.apply(state, step)
        except IllegalStep:
            return
        plain = tuple(state)
        assert (
            state == plain
            and hash(state) == hash(plain)
            and chain_of(plain).reading == state.reading
        )
        assert problem.is_terminal(state) == problem.is_terminal(plain)
        assert problem.answer(state) == problem.answer(plain)
        for copied in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
            assert copied == state and copied.reading == state.reading


@pytest.mark.thorough
@given(st.integers(0, 3 * BLOCK), st.integers(0, 3 * BLOCK), st.data())
def test_a_chain_is_a_sequence_like_a_tuple(count, branch, data):
    """Also where others go on from one of its parts."""
    steps = [TextStep(f"step {number}", (number,)) for number in range(count)]
    chain = Chain()
    parts = [chain]
    for step in steps:
        chain = chain.then(step)
        parts.append(chain)
    other = parts[min(branch, count)].then(TextStep("elsewhere"))
    plain = tuple(steps)
    assert len(chain) == count and tuple(chain) == plain and chain == plain and plain == chain
    assert hash(chain) == hash(plain) and repr(chain) == repr(plain)
    assert chain + (TextStep("more"),) == (*plain, TextStep("more"))
    assert chain == Chain(steps) and chain == chain_of(plain) and chain_of(chain) is chain
    assert tuple(other) == (*plain[:branch], TextStep("elsewhere")) and other != chain
    assert chain_text(chain) == chain_text(plain) and chain_text(other) == chain_text(tuple(other))
    assert chain_tokens(chain) == chain_tokens(plain) == tuple(range(count))
    assert chain_tokens(other) == tuple(range(min(branch, count)))
    assert token_count(chain) == token_count(plain) == count
    place = data.draw(st.integers(-count - 2, count + 2))
    if -count <= place < count:
        assert chain[place] is plain[place]
    else:
        with pytest.raises(IndexError):
            chain[place]
    end = data.draw(st.integers(-count - 2, count + 2))
    assert chain[place:end] == plain[place:end] and chain[::-1] == plain[::-1]
    assert list(parts[len(parts) // 2]) == steps[: len(parts) // 2]


@pytest.mark.thorough
def test_states_of_a_chain_share_their_steps():
    """As tuples of their steps, 4,000 states would take 64 MB."""
    problem = TextProblem("?")
    sizes = []
    for count in (1_000, 4_000):
        steps = [TextStep(f"step {number} of many") for number in range(count)]
        tracemalloc.start()
        states = [problem.initial()]
        for step in steps:
            states.append(problem.apply(states[-1], step))
        sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert len(states[-1]) == count
    assert sizes[1] < 5 * sizes[0] < 20e6


def test_the_last_step_has_its_parts():
    parts = [TextStep("a"), TextStep("b ", finish="length"), TextStep("c")]
    assert last_text(parts) == "b c" and last_text(parts[:1]) == "a"
    assert chain_text(parts) == "a\nb c"
    assert last_text([TextStep("<think>x</think> y")]) == " y"
    assert last_text([TextStep("<think>x")]) == ""


def test_every_step_reads_what_is_new_alone(monkeypatch):
    """The twin read 20 million characters of this chain, 1,000 times its text."""
    seen = []

    class Counting:
        def finditer(self, text):
            seen.append(len(text))
            return TAGS.finditer(text)

    TAGS = final_answer._TAGS
    monkeypatch.setattr(final_answer, "_TAGS", Counting())
    problem = TextProblem("?")
    state = problem.initial()
    for number in range(2_000):
        state = problem.apply(state, TextStep(f"step {number} of many"))
        assert not problem.is_terminal(state)
    assert sum(seen) < 3 * len(chain_text(state))
