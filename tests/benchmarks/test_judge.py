"""A judge beside a value head: what the table says of planted scores."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from benchmarks.learning.judge import apart, chosen, known, report
from benchmarks.verifiers.samples import Columns


def problems(count=40, samples=8, good=True):
    """A quarter of the samples is right; the scores know it, or know nothing."""
    rng = np.random.default_rng(good)
    found = []
    for _ in range(count):
        right = [place % 4 == 0 for place in range(samples)]
        values = rng.random(samples)
        if good:
            values = np.array(right) * 0.5 + values * 0.5
        answers = [str(int(one)) for one in right]
        found.append(Columns(answers, right, [None] * samples, values.tolist()))
    return found


def test_the_table_tells_a_good_verifier_from_one_that_knows_nothing(tmp_path):
    head, judge = [problems(good=True)], [problems(good=False)]
    said = report({"t": {"head": head, "judge": judge}}, tmp_path / "out.csv")
    assert "| t | head | 100.0 [100.0, 100.0] | best | 8 | 100.0 [100.0, 100.0] |" in said
    low = re.search(r"t, best, judge less head at .*8: (-[\d.]+)", said)
    assert low and float(low[1]) < -50
    assert (tmp_path / "out.csv").read_text().count("\n") == 1 + 2 * 3 * 4
    assert chosen(head, "majority", 8).mean() == 0.0, "the majority is wrong"
    assert chosen([problems(), problems()], "best", 1).shape == (40, 2)


def test_chains_that_were_not_read_or_have_no_answer_are_left_behind():
    own = Columns(["1", None, "0"], [True, False, False], [None] * 3, [math.nan, 0.9, 0.5])
    read = known(own)
    assert read.values == [0.0, 0.9, 0.5] and math.isnan(own.values[0])
    assert apart([read])[0] == pytest.approx(0.0), "the one without an answer counts in nothing"
    assert np.isnan(apart([Columns(["1"], [True], [None], [0.5])]))[0]
