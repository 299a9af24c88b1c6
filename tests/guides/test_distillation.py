"""Which chains of several traces of a problem are imitated, and what they weigh together."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_trace_rewards import sampled

from guides.data.distill import POLICIES, drawn, may_be_imitated
from guides.data.distillation import Distillation, distilled, imitated
from guides.data.examples import Segment, written
from guides.data.grading import Graded, Replay
from guides.data.labels import Labels


def graded(answers: list[str], outcomes: list[float], name: str = "?", **more) -> Graded:
    """A sampled trace with these outcomes and no labels."""
    trace = sampled(answers, name=name, **more)
    own = np.array([math.nan, *outcomes])
    return Graded(Replay(trace), own, own, Labels(*np.zeros((2, len(own)))), (9, 9))


def weights(traces: list[Graded], chosen: Distillation, threshold: float = 1.0) -> dict:
    """The weight of each answer of each problem, summed over examples."""
    ends = imitated(traces, chosen, threshold)
    found: defaultdict[str, Counter] = defaultdict(Counter)
    for one, own in zip(traces, ends, strict=True):
        for node in own:
            found[one.replay.key][one.trace.steps[one.trace.node_edge[node]].text] += 1
    return {key: dict(counts) for key, counts in found.items()}


def test_a_solution_that_was_found_again_counts_once_and_all_weigh_alike():
    one = graded(["1", "1.0", "2"], [1, 1, 0])
    again = graded(["1", "3-2", "2", "4"], [1, 1, 0, 0])
    other = graded(["7"], [1], name="another")
    chosen = Distillation()
    found = weights([one, again, other], chosen)
    assert found[one.replay.key] == {"\\boxed{1}": 1, "\\boxed{1.0}": 1, "\\boxed{3-2}": 1}
    assert found[other.replay.key] == {"\\boxed{7}": 1}
    ends = imitated([one, again, other], chosen, 1.0)
    examples = distilled([one, again, other], chosen, ends)
    # of each example, the weights of its steps
    steps = [[segment.weight for segment in example[1:]] for example in examples]
    flat = [weight for example in steps for weight in example if weight]
    assert sorted(flat) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1.0])


def test_keep_is_of_the_problem_and_draws_evenly():
    traces = [graded(["1", "1.0"], [1, 1]), graded(["2-1", "3-2"], [1, 1])]
    drawn_often = Counter[str]()
    for seed in range(300):
        found = weights(traces, Distillation(keep=2, seed=seed))[traces[0].replay.key]
        assert sum(found.values()) == 2
        drawn_often.update(found)
    assert all(abs(count - 150) < 4 * math.sqrt(300) / 2 for count in drawn_often.values())


def test_the_best_are_those_of_the_highest_rewards():
    one = graded(["1", "2", "3"], [0.2, 0.9, math.nan])
    two = graded(["4", "5"], [0.6, 0.0])
    lost = graded(["6"], [0.0], name="lost")
    best = Distillation(policy="best", keep=2)
    found = weights([one, two, lost], best, best.steps[0])
    assert found == {one.replay.key: {"\\boxed{2}": 1, "\\boxed{4}": 1}}
    assert weights([one, two], best, 0.7) == {one.replay.key: {"\\boxed{2}": 1}}
    ties = Counter[int]()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        ties.update(drawn(np.array([0.5, 0.5, 0.1]), "best", 1, rng).tolist())
    assert set(ties) == {0, 1} and abs(ties[0] - 100) < 30


def test_thresholds_leave_less_and_less():
    one = graded(["1", "2", "3", "4"], [0.2, 0.5, 1.0, math.nan])
    sizes = []
    for threshold in (0.0, 0.3, 0.5, 0.7, 1.0):
        good = may_be_imitated(one.trace, one.outcomes, "solutions", threshold)
        assert np.array_equal(good, np.nan_to_num(one.outcomes, nan=-1) >= threshold)
        sizes.append(int(good.sum()))
    assert sizes == [3, 2, 2, 1, 1]
    everything = may_be_imitated(one.trace, one.outcomes, "all", 1.0)
    assert np.array_equal(everything, one.trace.node_finished)
    assert Distillation().steps == [1.0] and Distillation(policy="best").steps == [0.0]
    assert "best" in POLICIES


@pytest.mark.parametrize("policy", ["visits", "none"])
def test_policies_without_whole_chains_imitate_none(policy):
    assert imitated([graded(["1"], [1])], Distillation(policy=policy), 1.0) == [[]]


@given(st.lists(st.tuples(st.integers(-1, 30), st.sampled_from([0.0, 0.0, 1.0])), max_size=12))
def test_what_is_only_judged_can_be_left_out(drawn_segments):
    """Every text that ends in something imitated is there as before, and no other is."""
    segments = []
    for i, (parent, weight) in enumerate(drawn_segments):
        segments.append(Segment((i,), weight, 1.0, min(parent, i - 1)))

    def texts(example):
        found = {}
        for segment in example:
            before = () if segment.parent < 0 else found[segment.parent][0]
            found[len(found)] = ((*before, *segment.tokens), segment.weight)
        return sorted(found.values())

    kept = written(segments)
    imitated_texts = [one for one in texts(segments) if one[1]]
    needed = [
        one
        for one in texts(segments)
        if any(text[: len(one[0])] == one[0] for text, _ in imitated_texts)
    ]
    assert texts(kept) == needed


def test_pairs_keep_both_their_texts():
    segments = [
        Segment((1,), 0.0, 1.0, -1),
        Segment((2,), 0.0, 0.0, 0),
        Segment((3,), 0.0, 0.0, 0),
        Segment((4,), 0.0, 1.0, 0, over=(2,)),
    ]
    kept = written(segments)
    assert [one.tokens for one in kept] == [(1,), (3,), (4,)]
    assert kept[2].over == (1,) and kept[2].parent == 0


def test_without_a_value_head_wrong_chains_are_not_read():
    traces = [graded(["1", "2", "3"], [1, 0, 0])]
    labels = Labels(np.array([0.3, 1.0, 0, 0]), np.ones(4))
    labelled = [replace(one, labels=labels) for one in traces]
    ends = imitated(labelled, Distillation(), 1.0)
    both = distilled(labelled, Distillation(), ends)
    alone = distilled(labelled, Distillation(judged=False), ends)
    assert sum(map(len, alone)) < sum(map(len, both))
    for found in (both, alone):
        assert sum(segment.weight for example in found for segment in example) > 0
