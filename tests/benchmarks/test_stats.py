"""Estimators against enumeration, closed forms and planted effects."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.sweep import statistics as stats

samples = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=7)


@settings(max_examples=60, deadline=None)
@given(samples, st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(rows, data):
    k, right = data.draw(st.integers(1, len(rows))), [r for _, r in rows]
    share = statistics.mean(any(subset) for subset in itertools.combinations(right, k))
    assert stats.pass_at_k(len(rows), sum(right), k) == pytest.approx(share)


@settings(max_examples=60, deadline=None)
@given(samples, st.data())
def test_best_of_k_is_the_mean_over_subsets(rows, data):
    k = data.draw(st.integers(1, len(rows)))
    means = []
    for subset in itertools.combinations(rows, k):
        top = max(score for score, _ in subset)
        means.append(statistics.mean(right for score, right in subset if score == top))
    assert stats.best_of_k([s for s, _ in rows], [r for _, r in rows], k) == pytest.approx(
        statistics.mean(means)
    )


def test_best_of_k_without_ties_is_the_published_formula():
    scores, right = [0.1, 0.9, 0.5, 0.7], [True, False, True, True]  # by rank: no, yes, yes, yes
    assert stats.best_of_k(scores, right, 2) == pytest.approx((0 * 3 + 1 * 2 + 1 * 1 + 1 * 0) / 6)


@pytest.mark.parametrize(("more", "near"), [([], 1e-9), (["b", "e", "c", None], 0.03)])
def test_majority_at_k_is_the_mean_over_subsets_or_near_it(more, near):
    """Exactly where all subsets are no more than the draws, up to 70 of 8 samples; there are 792
    of 5 of 12.
    """
    answers = ["a", "a", "b", "b", "c", None, "a", "d", *more]
    right = [answer in ("a", "d") for answer in answers]
    for k in (1, 2, 3, 5):
        exact = []
        for subset in itertools.combinations(answers, k):
            votes = Counter(a for a in subset if a is not None)
            tied = [a for a in votes if votes[a] == max(votes.values())]
            exact.append(sum(a in ("a", "d") for a in tied) / len(tied) if tied else 0.0)
        found = statistics.mean(
            stats.majority_at_k(answers, right, k, draws=100, seed=seed)
            for seed in range(1 + 39 * bool(more))
        )
        assert found == pytest.approx(statistics.mean(exact), abs=near)
    assert stats.majority_at_k(answers[:8], right[:8], 8) == 1.0
    assert stats.majority_at_k([None, None], [False, False], 1) == 0.0


def test_a_weighted_vote_is_the_mean_over_subsets():
    rows = [("a", 0.5), ("b", 0.2), ("b", 0.3), ("a", 0.1), ("c", 0.5), (None, 9.0)]
    for k in (1, 2, 3):
        exact = []
        for subset in itertools.combinations(rows, k):
            votes = Counter()
            for answer, weight in subset:
                votes[answer] += weight if answer else 0
            tied = [
                a
                for a in votes
                if a and math.isclose(votes[a], max(v for b, v in votes.items() if b))
            ]
            exact.append(sum(a == "b" for a in tied) / len(tied) if tied else 0.0)
        found = stats.majority_at_k(
            [a for a, _ in rows], [a == "b" for a, _ in rows], k, weights=[w for _, w in rows]
        )
        assert found == pytest.approx(statistics.mean(exact))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: stats.pass_at_k(3, 1, 4),
        lambda: stats.pass_at_k(3, 4, 1),
        lambda: stats.best_of_k([0.1, math.nan], [True, False], 1),
        lambda: stats.best_of_k([0.1], [True], 0),
        lambda: stats.majority_at_k(["a"] * 3, [True] * 3, 2, draws=10),
        lambda: stats.area(np.ones(3), 100, 100),
        lambda: stats.slope([10, 10], np.ones((3, 2))),
        lambda: stats.bootstrap(np.ones((5, 1)), two_level=True),
    ],
)
def test_what_cannot_be_estimated_is_refused(wrong):
    with pytest.raises(ValueError, match=r"give|leave|measure|count"):
        wrong()


@pytest.mark.thorough
def test_the_interval_is_that_of_the_normal_law_for_many_problems():
    values = np.random.default_rng(3).random(2000) < 0.3
    found = stats.bootstrap(values)
    error = 1.96 * math.sqrt(values.mean() * (1 - values.mean()) / 2000)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + error, abs=0.15 * error)


def test_pairing_takes_out_what_problems_share():
    difficulty = np.random.default_rng(0).random(400)
    first, second = difficulty + 0.01, difficulty
    found = stats.bootstrap(first - second)
    assert (found.low, found.high) == pytest.approx((0.01, 0.01))


def test_seeds_are_averaged_or_drawn_anew():
    rng = np.random.default_rng(1)
    # the seeds differ, the problems hardly
    table = rng.normal(size=(300, 4)) * 0.01 + np.array([0.0, 1.0, 2.0, 3.0])
    one, two = stats.bootstrap(table), stats.bootstrap(table, two_level=True)
    assert one.mean == two.mean == pytest.approx(table.mean())
    assert one.high - one.low < 0.01
    spread = 1.96 * np.arange(4).std() / 2  # of the mean of four seeds drawn from these
    assert two.high - two.low == pytest.approx(2 * spread, rel=0.1)


@pytest.mark.thorough
def test_intervals_cover_the_truth_as_often_as_they_say():
    rng, hits = np.random.default_rng(5), 0
    for _ in range(300):
        found = stats.bootstrap(rng.random(200) < 0.4, resamples=400)
        hits += found.low <= 0.4 <= found.high
    assert 0.90 <= hits / 300 <= 0.985


def test_nothing_measured_is_nan():
    assert math.isnan(stats.bootstrap(np.empty(0)).mean)


def test_the_area_is_the_integral_of_the_step_function():
    solved = np.array([20.0, 100.0, 150.0, 700.0, 1999.0, 2000.0, 2001.0, math.inf])
    budgets = np.exp(np.linspace(math.log(100), math.log(2000), 200_001))
    expected = [(t <= budgets).mean() for t in solved]
    np.testing.assert_allclose(stats.area(solved, 100, 2000), expected, atol=1e-4)
    assert stats.area(np.array([math.sqrt(100 * 2000)]), 100, 2000)[0] == pytest.approx(0.5)


@pytest.mark.thorough
def test_the_slope_is_that_of_least_squares_and_finds_a_planted_one():
    rng, compute = np.random.default_rng(2), [1e9, 1e10, 3e11, 1e12]
    chance = 0.1 + 0.2 * (np.log10(compute) - 9)
    values = (rng.random((3000, 4)) < chance).astype(float)
    found = stats.slope(compute, values)
    assert found.mean == pytest.approx(np.polyfit(np.log10(compute), values.mean(axis=0), 1)[0])
    assert found.low < 0.2 < found.high and found.high - found.low < 0.04


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(3)
    for _ in range(20):
        scores, right = rng.integers(0, 6, 30) / 5, rng.random(30) < 0.4
        pairs = [(a > b) + 0.5 * (a == b) for a in scores[right] for b in scores[~right]]
        assert stats.auroc(scores, right) == pytest.approx(np.mean(pairs))
    assert np.isnan(stats.auroc([0.1, 0.2], [True, True])) and np.isnan(stats.auroc([0.1], [False]))
