"""Labels of traces on planted policies: probabilities in closed form, planted errors, runs that
were killed, files that are wrong.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
from label_cases import Z, rolled, texts_of, walker, walks

import guides.data.label_traces
from guides.data.grading import grade
from guides.data.labellers import by_bisection, from_checker, from_trace
from search.scheduling.requests import RequestFailed

# -- roll-outs


@pytest.mark.thorough
def test_labels_are_unbiased() -> None:
    """k / n of each node is the binomial share of its closed-form value."""
    trace, p, count = walks("ggg", "gb", length=4), 0.7, 1000
    labels = rolled(trace, walker(p), count).labels
    truth = {"": p**4, "g": p**3, "gg": p**2, "ggg": p, "gb": 0.0}
    assert labels.n.tolist() == [count] * 5
    for text, share in zip(texts_of(trace), labels.soft, strict=True):
        value = truth[text]
        assert abs(share - value) <= Z * math.sqrt(value * (1 - value) / count), text


def test_nodes_are_rolled_out_from_random_numbers_of_their_own() -> None:
    """An engine draws equal tokens from equal seeds, so labels of siblings that shared some
    would err together.
    """
    seeds = list[int]()

    def function(request: Any) -> Any:
        seeds.append(request.seed)
        return "g\n"

    rolled(walks(*"cdef", length=2), walker(function=function), 8)
    assert len(seeds) == len(set(seeds)) == 8 * 2 + 4 * 8, (
        "two steps from the root, one from each node"
    )


@pytest.mark.thorough
def test_hard_labels_are_right_as_often_as_m_roll_outs_hit() -> None:
    """1 - (1 - V) ** M, over many labels of one node."""
    trace, p, policy = walks("g", length=3), 0.5, walker(0.5)
    hard = [rolled(trace, policy, 4, seed).labels.hard[1] for seed in range(300)]
    expected = 1 - (1 - p**2) ** 4
    assert abs(np.mean(hard) - expected) <= Z * math.sqrt(expected * (1 - expected) / len(hard))


def test_finished_nodes_are_exact_and_cost_nothing() -> None:
    trace = walks("gg", "gb")
    requests = Counter[str]()

    def function(request: Any) -> Any:
        requests["".join(map(chr, request.prompt))] += 1
        return "g\n"

    found = rolled(trace, walker(function=function), 3)
    assert found.labels.k.tolist() == [3, 3, 0, 1] and found.labels.n.tolist() == [
        3,
        3,
        math.inf,
        math.inf,
    ]
    assert [texts_of(trace)[i] for i in (2, 3)] == ["gb", "gg"]
    assert set(requests) == {"walk\n", "walk\ng\n"} and found.made == 6


def test_only_what_finished_chains_go_through() -> None:
    labels = rolled(walks("gg", "b"), walker(), 2, finished=True).labels
    assert labels.n.tolist() == [2, 0, 2, math.inf]
    assert math.isnan(labels.soft[1]) and math.isnan(labels.hard[1])


def test_failed_roll_outs_count_in_no_label() -> None:
    def function(request: Any) -> Any:
        if request.seed % 2:
            raise RequestFailed("the server is away")
        return "g\n"

    found = rolled(walks("g", length=2), walker(function=function), 64)
    assert 0 < found.labels.n[1] < 64 and 0 < found.labels.n[0] < found.labels.n[1], (
        "one more step, one more chance to fail"
    )
    assert found.labels.k.tolist() == found.labels.n.tolist() and found.failed + found.made == 128


def test_an_answer_of_which_nobody_can_tell_counts_in_no_label(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Undecided is neither right nor wrong; equal answers are checked once."""
    asked = Counter[str | None]()

    def outcome(answer: str | None, target: str) -> float:
        asked[answer] += 1
        return math.nan if answer == "0" else 1.0

    monkeypatch.setattr(guides.data.labellers, "outcome", outcome)
    found = rolled(walks("g", length=2), walker(0.5), 64)
    assert (
        found.labels.k.tolist() == found.labels.n.tolist()
        and 0 < found.labels.n[0] < found.labels.n[1] < 64
    )
    assert found.failed == 128 - found.made and asked == {"0": 1, "1": 1}


def test_a_chain_that_never_ends_is_a_failure_not_unknown() -> None:
    policy = walker()
    policy.max_steps = 3
    labels = rolled(walks("g", length=9), policy, 5).labels
    assert labels.k.tolist() == [0, 0] and labels.n.tolist() == [5, 5]


# -- bisection


@pytest.mark.thorough
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_bisection_finds_a_planted_error(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 40))
    error = data.draw(st.integers(1, length))
    trace = walks(
        "g" * (error - 1)
        + "b"
        + "".join(data.draw(st.lists(st.sampled_from("gb"), min_size=length, max_size=length)))
    )
    trace = replace(trace, arguments={"length": len(trace.steps)})
    trace = walks(texts_of(trace)[-1][:length])
    found = rolled(trace, walker(), 2, labeller=by_bisection)
    assert found.errors == {length: error}
    measured = np.isfinite(found.labels.n) & (found.labels.n > 0)
    assert measured.sum() <= math.ceil(math.log2(length)) and found.made == 2 * measured.sum()
    assert found.labels.n[length] == math.inf and found.labels.k[length] == 0
    assert all((k > 0) == (node < error) for node, k in enumerate(found.labels.k) if measured[node])


def test_chains_share_their_roll_outs_and_right_beginnings_need_none() -> None:
    wrong = ["ggggbggg", "ggggbgbg", "ggbggggg"]
    prompts = Counter[str]()

    def function(request: Any) -> Any:
        prompts["".join(map(chr, request.prompt)).replace("\n", "")] += 1
        return "g\n"

    trace = walks(*wrong, "gggggggg")
    found = rolled(trace, walker(function=function), 3, labeller=by_bisection)
    texts = texts_of(trace)
    assert {texts[node]: step for node, step in found.errors.items()} == {
        wrong[0]: 5,
        wrong[1]: 5,
        wrong[2]: 3,
    }
    nodes = {
        texts[node] for node in np.flatnonzero(np.isfinite(found.labels.n) & (found.labels.n > 0))
    }
    assert nodes and not any("gggggggg".startswith(text) for text in nodes)
    assert found.made == 3 * len(nodes)
    right = trace.node_finished & (found.labels.k == 1)
    assert [texts[node] for node in np.flatnonzero(right)] == ["gggggggg"]


def test_bisection_has_the_labels_of_roll_outs_where_it_has_some() -> None:
    trace = walks("ggbgg", "gbggb", "ggggb")
    every, some = (
        rolled(trace, walker(0.6), 8).labels,
        rolled(trace, walker(0.6), 8, labeller=by_bisection).labels,
    )
    there = some.n > 0
    assert 0 < there.sum() < len(there)
    assert (
        every.k[there].tolist() == some.k[there].tolist()
        and every.n[there].tolist() == some.n[there].tolist()
    )


def test_a_chain_whose_roll_outs_fail_has_no_first_error() -> None:
    def function(request: Any) -> Any:
        raise RequestFailed("the server is away")

    found = rolled(walks("ggbg"), walker(function=function), 2, labeller=by_bisection)
    assert not found.errors and found.made == 0 and found.failed == 2
    assert found.labels.n.tolist() == [0, 0, 0, 0, math.inf]


# -- without roll-outs


def test_labels_of_the_trace_and_of_a_checker() -> None:
    trace = walks("gg", "gb", "bb")
    texts = texts_of(trace)
    labels = from_trace(trace, grade(trace, "1"))
    below = [[chain for chain in ("gg", "gb", "bb") if chain.startswith(text)] for text in texts]
    assert labels.n.tolist() == [len(chains) for chains in below] and labels.k.tolist() == [
        chains.count("gg") for chains in below
    ]
    labels = from_checker(
        trace, lambda problem, state: None if not state else 0.25 if state[-1].text == "b" else 1.0
    )
    assert labels.n.tolist() == [0] + [math.inf] * 5
    assert labels.soft[1:].tolist() == [0.25 if text[-1] == "b" else 1.0 for text in texts[1:]]
    assert labels.hard[1:].tolist() == [float(text[-1] == "g") for text in texts[1:]]
