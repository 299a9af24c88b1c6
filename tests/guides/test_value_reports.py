"""Calibration of value heads, their reports, and estimates from samples."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from verifier_cases import torch

import guides.data.holdout
import guides.training.value_report
from benchmarks.sweep import statistics
from benchmarks.verifiers import judged, selection
from benchmarks.verifiers import train as verifiers
from guides.builtin.chains_key import true_values
from guides.data.grading import key_of
from guides.data.holdout import Held
from guides.training.calibration import Line, cross_entropy, fit, log_odds
from guides.training.metrics import auroc, best_of_k
from guides.training.value_report import calibration_error, report_of, step_report
from guides.training.value_report import selection as curve

# -- calibration


@settings(max_examples=25, deadline=None)
@given(st.floats(0.3, 3.0), st.floats(-1.5, 1.5), st.integers(0, 100))
def test_calibration_recovers_a_planted_line(scale: float, shift: float, seed: int) -> None:
    """Soft labels that are a known line of the values: no noise, so the line itself is the best."""
    odds = np.random.default_rng(seed).normal(0, 1.5, 400)
    values, labels = 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(-(scale * odds + shift)))
    found = fit(values, labels, np.ones(400))
    assert found.scale == pytest.approx(scale, abs=1e-5) and found.shift == pytest.approx(
        shift, abs=1e-5
    )
    np.testing.assert_allclose(found(values), labels, atol=1e-5)
    assert (
        cross_entropy(found(values), labels, np.ones(400))
        <= cross_entropy(values, labels, np.ones(400)) + 1e-12
    )


def test_a_temperature_is_found_in_coins_and_kept_where_it_helps() -> None:
    """Values twice too sure of themselves; the second half of the problems decides."""
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1.5, 4000)
    coins = rng.random(4000) < 1 / (1 + np.exp(-truth))
    held = forest(
        [
            [(-1, math.nan, 0)] + [(0, float(c), math.inf) for c in coins[i : i + 40]]
            for i in range(0, 4000, 40)
        ]
    )
    values = np.full(len(held.parents), 0.5)
    values[held.parents >= 0] = 1 / (1 + np.exp(-2 * truth))
    line, told = guides.training.value_report.calibrate(held, values)
    assert (
        told["kept"]
        and told["after"] < told["before"]
        and line.scale == pytest.approx(0.5, abs=0.05)
        and abs(line.shift) < 0.1
    )
    right = 1 / (1 + np.exp(-truth))
    fine = values.copy()
    fine[held.parents >= 0] = right
    assert guides.training.value_report.calibrate(held, fine)[0].scale == pytest.approx(
        1.0, abs=0.1
    )
    spoilt = held._replace(
        k=np.where((held.problems % 2 == 0) & (held.parents >= 0), 1 - held.k, held.k)
    )
    assert guides.training.value_report.calibrate(spoilt, fine)[0] == Line(), (
        "a line that the other half does not confirm is left out"
    )


def test_a_label_counts_in_the_calibration_as_in_the_training() -> None:
    """n / (n + 4): 1/5 of one outcome, 4/5 of sixteen, all of an exact one."""
    nodes = [(-1, 1.0, 1.0), (0, 4.0, 16.0), (1, 0.0, math.inf), (2, math.nan, 0.0)]
    held, values = forest([nodes, nodes]), np.array([0.5, 0.25, 0.2, 0.9] * 2)
    _, told = guides.training.value_report.calibrate(held, values)
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert told["before"] == pytest.approx(
        (0.2 * math.log(2) + 0.8 * quarter - math.log(0.8)) / 2.0
    )


@pytest.mark.parametrize(
    ("values", "labels"),
    [([], []), ([0.5, 0.5], [0.0, 1.0]), ([0.2, 0.8], [1.0, 1.0]), ([0.8, 0.2], [0.0, 1.0])],
)
def test_nothing_is_changed_where_nothing_can_be_told(
    values: list[float], labels: list[float]
) -> None:
    assert fit(np.array(values), np.array(labels), np.ones(len(values))) == Line()


def test_log_odds_are_finite_and_nan_stays() -> None:
    odds = log_odds(np.array([0.0, 0.5, 1.0, math.nan]))
    assert (
        np.isfinite(odds[:3]).all()
        and odds[1] == 0
        and odds[0] == -odds[2]
        and math.isnan(Line(2, 1)(np.array([math.nan]))[0])
    )


def forest(
    problems: list[list[tuple[int, float, float]]],
    chains: list[tuple[int, int, bool, int]] | None = None,
    lost: list[int] | None = None,
) -> Held:
    """Nodes (parent within the problem, k, n) of each problem; chains (node, times, right,
    answer).
    """
    parents, owners, k, n = [], [], [], []
    for number, nodes in enumerate(problems):
        first = len(parents)
        for parent, label, count in nodes:
            parents.append(parent + first if parent >= 0 else -1)
            owners.append(number)
            k.append(0.0 if math.isnan(label) else label)
            n.append(count)
    rows = np.array(chains or np.zeros((0, 4)), np.int64)
    return Held(
        [(1,)] * len(parents), np.array(parents), np.array(owners), np.array(k),
        np.array(n, np.float64),
        rows[:, 0], rows[:, 1], rows[:, 2].astype(bool), rows[:, 3],
        np.array(lost or [0] * len(problems)),
    )  # fmt: skip


# -- the report


def test_the_first_wrong_step_is_told_as_in_processbench() -> None:
    """Four chains of three steps: found, called too early, right and left alone, right but
    called wrong.
    """
    inf, nodes, chains, values = math.inf, [(-1, 1.0, math.inf)], [], [0.9]
    for labels, said in (
        ([1, 0, 0], [0.9, 0.3, 0.8]),
        ([1, 1, 0], [0.9, 0.4, 0.1]),
        ([1, 1, 1], [0.5, 0.6, 0.7]),
        ([1, 1, 1], [0.9, 0.49, 0.9]),
    ):
        for step, (label, value) in enumerate(zip(labels, said, strict=True)):
            nodes.append((0 if step == 0 else len(nodes) - 1, float(label), inf))
            values.append(value)
        chains.append((len(nodes) - 1, 1, labels[-1] == 1, 0))
    held = forest([nodes], chains)
    assert step_report(held, np.array(values)) == {
        "erroneous": 0.5,
        "right": 0.5,
        "f1": 0.5,
        "chains": 4,
    }
    late = np.array(values)
    late[5] = 0.6  # the second chain's error is found now: 1 and 1 / 2
    assert step_report(held, late) == pytest.approx(
        {"erroneous": 1.0, "right": 0.5, "f1": 2 / 3, "chains": 4}
    )
    assert step_report(held._replace(n=np.full(len(nodes), 8.0)), late) is None, (
        "roll-outs know no first error"
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.1, 0.5, 0.5, 0.93, 1.0]), st.booleans(), st.integers(1, 3)
        ),
        min_size=1,
        max_size=12,
    )
)
def test_the_report_counts_samples_as_brute_force_does(rows: list[tuple[float, bool, int]]) -> None:
    """Two problems share the chains: odd ones and even ones."""
    problems = [[(-1, math.nan, 0.0)] + [(0, math.nan, 0.0)] * len(rows[i::2]) for i in (0, 1)]
    flat, chains, values = [*rows[0::2], *rows[1::2]], [], np.full(len(rows) + 2, 0.5)
    places = [*range(1, len(rows[0::2]) + 1), *range(len(rows[0::2]) + 2, len(rows) + 2)]
    for place, (value, right, times) in zip(places, flat, strict=True):
        chains.append((place, times, right, 0))
        values[place] = value
    told = report_of(forest(problems, chains), values, np.ones(2, bool))
    samples = [(value, right) for value, right, times in flat for _ in range(times)]
    pairs = [
        [(a, b) for (a, good), (b, bad) in itertools.product(own, own) if good and not bad]
        for own in (samples, *halves(rows))
    ]
    areas = [np.mean([(a > b) + (a == b) / 2 for a, b in pair]) if pair else None for pair in pairs]
    assert told["auroc"] == (None if areas[0] is None else pytest.approx(areas[0]))
    inside = [area for area in areas[1:] if area is not None]
    assert told["within"] == (pytest.approx(np.mean(inside)) if inside else None) and told[
        "within_problems"
    ] == len(inside)
    assert told["brier"] == pytest.approx(
        np.mean([(value - right) ** 2 for value, right in samples])
    )
    gaps = 0.0
    for low in range(15):
        own = [
            (v, r) for v, r in samples if low / 15 <= v < (low + 1) / 15 or (low == 14 and v == 1)
        ]
        gaps += (
            len(own)
            / len(samples)
            * abs(np.mean([v for v, _ in own]) - np.mean([r for _, r in own]))
            if own
            else 0
        )
    assert told["calibration_error"] == pytest.approx(gaps)
    assert told["steps"] is None and told["chains"] == len(samples)


def test_a_calibration_is_told_by_problems_that_it_has_not_seen() -> None:
    """How good the probabilities are is of the second problem alone, who is above whom of both."""
    nodes = [(-1, math.nan, 0), (0, math.nan, 0), (0, math.nan, 0)]
    held = forest(
        [nodes, nodes], [(1, 1, True, 0), (2, 1, False, 1), (4, 1, True, 0), (5, 1, False, 1)]
    )
    told = report_of(held, np.array([0.5, 0.9, 0.1, 0.5, 0.4, 0.6]), np.array([False, True]))
    assert told["chains"] == 4 and told["within"] == 0.5 and told["auroc"] == 0.75
    assert told["brier"] == pytest.approx(0.36) and told["calibration_error"] == pytest.approx(0.6)


def test_the_line_is_folded_into_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-odds are `scale` x the old + `shift`, the old bias included; how good they are is told
    of the second problem.
    """
    line, model, head = Line(0.5, 0.7), tiny.model(), tiny.head()
    head.bias.data.fill_(0.4)
    monkeypatch.setattr(
        guides.training.value_report, "calibrate", lambda held, values: (line, {"kept": True})
    )
    nodes = [(-1, math.nan, 0), (0, math.nan, 0), (0, math.nan, 0)]
    held = forest(
        [nodes, nodes], [(1, 1, True, 0), (2, 1, True, 0), (4, 1, True, 0), (5, 1, False, 1)]
    )
    hidden = model.model(torch.tensor([[1, 1]])).last_hidden_state[0, -1].detach()
    before = head.logits(hidden).item()
    told = guides.training.value_report.judge(model, tiny.tokenizer(), head, held)
    assert head.logits(hidden).item() == pytest.approx(0.5 * before + 0.7, abs=1e-5)
    value = head(hidden).item()
    assert told["brier"] == pytest.approx(((1 - value) ** 2 + value**2) / 2, abs=1e-3)


def halves(rows: list[tuple[float, bool, int]]) -> list[list[tuple[float, bool]]]:
    return [
        [(value, right) for value, right, times in rows[i::2] for _ in range(times)] for i in (0, 1)
    ]


def test_values_that_are_not_known_are_left_out() -> None:
    held = forest(
        [[(-1, math.nan, 0), (0, math.nan, 0), (0, math.nan, 0)]],
        [(1, 1, True, 0), (2, 1, False, 1)],
    )
    told = report_of(held, np.array([math.nan, 0.7, math.nan]), np.ones(1, bool))
    assert (
        told["chains"] == 1
        and told["auroc"] is told["within"] is None
        and told["brier"] == pytest.approx(0.09)
    )
    assert math.isnan(calibration_error(np.zeros(0), np.zeros(0)))


def test_the_curve_counts_unfinished_samples_as_wrong() -> None:
    """One right chain of four samples, two of which never finished."""
    held = forest(
        [[(-1, math.nan, 0), (0, math.nan, 0), (0, math.nan, 0)]],
        [(1, 1, True, 0), (2, 1, False, 1)],
        lost=[2],
    )
    rows = curve(held, np.array([0.5, 0.9, 0.2]))
    assert [row["n"] for row in rows] == [1, 2, 4]
    assert [row["best"] for row in rows] == pytest.approx([1 / 4, 1 / 2, 1.0])
    assert rows[2]["weighted"] == 1.0 and rows[2]["majority"] == 0.5


# -- the estimators of the comparison


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-1, 3), st.sampled_from([0.0, 0.2, 0.7, 1.0]), st.booleans()),
        min_size=1,
        max_size=7,
    )
)
def test_choices_among_samples_agree_with_all_choices(rows: list[tuple[int, float, bool]]) -> None:
    """best and passed exactly; a vote over all samples exactly, ties by their share."""
    answers = np.array([answer for answer, _, _ in rows])
    known = np.unique(answers[answers >= 0])
    answers = np.where(answers >= 0, np.searchsorted(known, answers), -1)
    scores = np.array([score for _, score, _ in rows])
    right = (answers == 0) & (answers >= 0)
    sizes = list(range(1, len(rows) + 1))
    np.testing.assert_allclose(
        selection.best(scores, right, sizes), [best_of_k(scores, right, k) for k in sizes]
    )
    np.testing.assert_allclose(
        selection.passed(right, sizes),
        [statistics.pass_at_k(len(rows), int(right.sum()), k) for k in sizes],
    )
    exact = [
        np.mean([right[list(drawn)].any() for drawn in itertools.combinations(range(len(rows)), k)])
        for k in sizes
    ]
    np.testing.assert_allclose(selection.passed(right, sizes), exact)
    samples = selection.Samples(answers, right, right)
    weights = np.stack([np.ones(len(rows)), scores])
    found = selection.votes(samples, weights, [len(rows)], seed=3)[:, 0]
    for way, got in zip(weights, found, strict=True):
        tally = {
            answer: way[answers == answer].sum() for answer in set(answers[answers >= 0].tolist())
        }
        top = [
            answer
            for answer, votes in tally.items()
            if votes > 0 and math.isclose(votes, max(tally.values()))
        ]
        assert got == pytest.approx((0 in top) / len(top) if top else 0.0)


def test_votes_over_sub_samples_have_the_right_mean() -> None:
    """Exactly, over all choices of 3 of 7: within four standard errors of 200 draws a seed."""
    answers = np.array([0, 0, 1, 1, 1, 2, -1])
    samples = selection.Samples(answers, answers == 0, answers == 0)
    weights = np.array([[1.0] * 7, [0.9, 0.8, 0.1, 0.3, 0.2, 0.5, 0.0]])
    got = np.mean([selection.votes(samples, weights, [1, 3], seed) for seed in range(20)], axis=0)
    for way, means in zip(weights, got, strict=True):
        for k, mean in zip((1, 3), means, strict=True):
            shares = []
            for drawn in itertools.combinations(range(7), k):
                own = [i for i in drawn if answers[i] >= 0]
                tally = {int(a): sum(way[i] for i in own if answers[i] == a) for a in answers[own]}
                top = [a for a, votes in tally.items() if math.isclose(votes, max(tally.values()))]
                shares.append((0 in top) / len(top) if top else 0.0)
            assert (
                abs(mean - np.mean(shares))
                < 4 * np.std(shares) / math.sqrt(20 * selection.DRAWS) + 1e-9
            )


def test_a_flawed_chain_is_chosen_where_it_is_scored_best() -> None:
    answers = np.array([0, 0, 0, 1])
    samples = selection.Samples(answers, answers == 0, np.array([True, False, True, False]))
    ones = np.ones(4)
    assert selection.flawed(samples, ones, np.array([0.1, 0.9, 0.2, 1.0]), 4, 0) == (1.0, 1.0)
    assert selection.flawed(samples, ones, np.array([0.9, 0.1, 0.2, 1.0]), 4, 0) == (1.0, 0.0)
    assert selection.flawed(samples, np.array([0, 0, 0, 1.0]), ones, 4, 0) == (0.0, 0.0)
    alike = selection.Samples(
        np.zeros(4, int), np.ones(4, bool), np.array([True, False, True, True])
    )
    right, wrong = selection.flawed(alike, ones, np.array([0.1, 0.9, 0.2, 0.3]), 2, 0)
    assert right == 1.0 and abs(wrong - 0.5) < 4 * 0.5 / math.sqrt(selection.DRAWS), (
        "it is among two of four in half of the draws"
    )
    nobody = selection.Samples(np.full(4, -1), np.zeros(4, bool), np.zeros(4, bool))
    assert (
        selection.flawed(nobody, ones, ones, 2, 0) == (0.0, 0.0)
        and not selection.votes(nobody, ones[None], [2], 0).any()
    )


def test_a_pool_gives_no_vote_to_a_chain_without_an_answer() -> None:
    nodes = [(-1, 1.0, math.inf), *[(0, 1.0, math.inf)] * 3]
    pool = judged.Pool(
        forest([nodes], [(1, 1, True, 7), (2, 3, False, -1), (3, 1, False, 9)], lost=[2])
    )
    assert pool.samples[0].answers.tolist() == [0, -1, -1, -1, 1, -1, -1]
    assert pool.samples[0].right.tolist() == [True, *[False] * 6]
    assert pool.sizes == [1, 2, 4] and pool.plain()["majority"].shape == (1, 3)


def test_an_unfinished_sample_is_neither_the_best_nor_has_a_vote() -> None:
    """One right chain of value 0 and two unfinished: it is chosen whenever it is drawn, unless
    votes weigh nothing.
    """
    pool = judged.Pool(
        forest([[(-1, 1.0, math.inf), (0, 1.0, math.inf)]], [(1, 1, True, 0)], lost=[2])
    )
    best, weighted = pool.rates(np.array([[0.0], [0.3]]))[:, :, 0]
    np.testing.assert_allclose(best, [[1 / 3, 2 / 3]] * 2)
    assert weighted[0].tolist() == [0, 0] and np.abs(
        weighted[1] - best[1]
    ).max() < 4 * 0.5 / math.sqrt(selection.DRAWS)


def test_differences_are_of_the_same_chooser_at_the_same_size() -> None:
    sizes, rng = [1, 2, 4, 8, 16, 32, 64], np.random.default_rng(0)
    rates = {
        (kind, how): rng.random((3, 2, 7))
        for kind in ("orm", "exact", "rollouts")
        for how in judged.CHOOSERS
    }
    majority = rng.random((3, 7))
    told = judged._differences(sizes, majority, rates)
    for how in judged.CHOOSERS:
        orm, exact, rolled = (rates[kind, how] for kind in ("orm", "exact", "rollouts"))
        gap = exact - orm
        np.testing.assert_allclose(told[f"exact - orm, {how}"], gap[:, :, 6])
        np.testing.assert_allclose(
            told[f"exact - orm, {how}, gap(64) - gap(4)"], gap[:, :, 6] - gap[:, :, 2]
        )
        np.testing.assert_allclose(told[f"rollouts - exact, {how}"], (rolled - exact)[:, :, 6])
        np.testing.assert_allclose(told[f"orm {how} - majority"], orm[:, :, 6] - majority[:, 6:])


def test_splits_share_no_problem_and_a_report_needs_a_verifier(tmp_path: Path) -> None:
    found = {
        split: {p.canonical() for p in verifiers.problems_of(split, 40)}
        for split in verifiers.SPLITS
    }
    assert all(len(own) == 40 for own in found.values())
    assert not any(found[a] & found[b] for a, b in itertools.combinations(found, 2))
    task = verifiers.task_of(verifiers.problems_of("test", 3))
    for key, problem in task.problems.items():
        assert task.correct(key, str(true_values(problem)[problem.query]), None)
        assert key == key_of(problem)
    with pytest.raises(ValueError, match="train one first"):
        verifiers.report(tmp_path)
    for name in ("orm-0", "orm-1", "exact-1", "exact-2", "other-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "training.json").touch()
    assert judged.complete(tmp_path, ["orm", "exact", "rollouts"]) == {
        kind: [tmp_path / f"{kind}-1"] for kind in ("orm", "exact")
    }


def test_the_area_is_that_of_all_pairs() -> None:
    assert auroc([0.1, 0.4, 0.4, 0.9], [False, True, False, True]) == pytest.approx(
        (1 + 0.5 + 1 + 1) / 4
    )
