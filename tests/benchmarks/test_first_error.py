"""Is the first wrong step found? Planted marks and planted scores."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fakes import scripted_guide

from benchmarks.verifiers.first_error import (
    Marked,
    called,
    champ,
    crossed,
    f1,
    grouped,
    marks,
    process_bench,
    report,
    scores_of,
)
from search.scheduling.requests import Scored


def planted(count=60, steps=5):
    """Chains of which every second has a wrong step, at each place alike; two of each problem."""
    found = []
    for number in range(count):
        wrong = number // 2 % steps if number % 2 else -1
        texts = [f"step {place}" for place in range(steps)]
        found.append(Marked(f"chain {number}", f"problem {number // 2}", "1 + 1?", texts, wrong))
    return found


def perfect(one, low=0.2, high=0.9):
    scores = np.full(len(one.steps), high)
    if one.wrong >= 0:
        scores[one.wrong :] = low
    return scores


def test_scores_that_fall_at_the_mark_find_every_one():
    chains = planted()
    calls = crossed(chains, list(map(perfect, chains)))
    assert calls.tolist() == marks(chains).tolist()
    assert "| planted | 100.0 | 100.0 | 100.0 [100.0, 100.0] |" in report(
        chains, {"planted": list(map(perfect, chains))}
    )


def test_scores_that_say_nothing_are_no_better_than_rules():
    chains = planted()
    rng = np.random.default_rng(0)
    calls = crossed(chains, [rng.random(len(one.steps)) for one in chains])
    assert f1(calls == marks(chains), marks(chains) >= 0) < 0.5


def test_the_threshold_is_that_of_the_other_half():
    """Where both halves want another threshold, each is judged by the wrong one."""
    chains = planted()
    groups = grouped(chains)
    side = np.random.default_rng(0).permutation(groups.max() + 1)[groups] % 2
    scores = []
    for one, half in zip(chains, side, strict=True):
        scores.append(perfect(one, 0.1, 0.2) if half else perfect(one, 0.8, 0.9))
    calls = crossed(chains, scores)
    right = calls == marks(chains)
    assert not right[(marks(chains) >= 0) & (side == 0)].any(), "all is above 0.2"
    assert not right[(marks(chains) < 0) & (side == 1)].any(), "all is below 0.8"


def test_f1_is_the_harmonic_mean_of_both_shares():
    right = np.array([True, False, True, True])
    flawed = np.array([True, True, False, False])
    assert f1(right, flawed) == pytest.approx(2 * 0.5 * 1.0 / 1.5)
    assert f1(np.zeros(4, bool), flawed) == 0.0
    assert called(np.array([np.nan, 0.6, 0.2]), 0.5) == 2 and called(np.array([0.6]), 0.5) == -1


def test_files_in_the_form_of_process_bench(tmp_path):
    path = tmp_path / "p.jsonl"
    row = {"id": "a", "problem": "1 + 1?", "steps": ["It is", "3"], "label": 1}
    path.write_text(json.dumps(row) + "\n\n" + json.dumps({**row, "id": "b", "label": -1}) + "\n")
    first, second = process_bench(path)
    assert first == Marked("a", "1 + 1?", "1 + 1?", ["It is", "3"], 1) and second.wrong == -1
    for wrong in ("{", "[]", json.dumps({**row, "label": 2}), json.dumps({**row, "steps": []})):
        path.write_text(wrong + "\n")
        with pytest.raises(ValueError, match="line 1"):
            list(process_bench(path))


def test_the_data_of_champ(tmp_path):
    text = "First.\n\nSecond is wrong, and goes on.\nThird."
    start = text.index("is wrong")
    mark = {"text": text, "start_idx": start, "end_idx": start + 8, "author": "a"}
    whole = {**mark, "start_idx": None, "end_idx": None}
    problems = {"P": {"_text": "Why?", "fws_annotations": {"one": mark, "two": whole}}}
    problems["Q"] = {"_text": "How?", "fws_annotations": None}
    path = tmp_path / "v0.json"
    path.write_text(json.dumps({"problems": problems}))
    first, second = champ(path)
    assert first.steps == ["First.", "Second is wrong, and goes on.", "Third."]
    assert (first.wrong, first.group, first.problem) == (1, "P", "Why?") and second.wrong == -1


def test_scores_are_kept_and_a_run_goes_on(tmp_path):
    asked = []

    class Value:
        backends = scripted_guide(lambda request: Scored((), np.zeros(0))).backends

        async def evaluate(self, problem, states, known, rng):
            asked.append(len(states))
            return np.linspace(0.9, 0.1, len(states), dtype=np.float32)

    chains = planted(4)
    path = tmp_path / "scores.jsonl"
    first = scores_of(Value(), chains[:3], path)
    again = scores_of(Value(), chains, path)
    assert asked == [5] * 4, "each chain once, each of its beginnings"
    assert [own.tolist() for own in again[:3]] == [own.tolist() for own in first]
    assert again[0][0] == pytest.approx(0.9) and again[0][-1] == pytest.approx(0.1)
