"""How lines are written, held for each package by the counts of `tests/helpers/style.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
from style import PACKAGES, ROOT, Style, sources, style

MOST = 12  #: parameters, all documented options of a method: `mcts` and `selfplay`


@pytest.mark.parametrize("package", PACKAGES)
def test_a_line_says_one_thing(package: str) -> None:
    counts = style(sources([ROOT / package]))
    assert counts.unpacked == 0, "a tuple is assigned to three or more names"
    assert counts.chained == 0, "a conditional expression stands in another one"
    assert counts.nested == 0, "a comprehension stands in another one"
    assert counts.per_thousand(counts.tuples) <= 8
    assert counts.per_thousand(counts.ternaries) <= 18
    assert counts.per_thousand(counts.comprehensions) <= 25
    assert counts.many <= counts.functions / 100
    assert counts.most <= MOST


def test_the_counts_are_right(tmp_path: Path) -> None:
    text = '''"""A module.

Two lines of it."""

a, b = 1, 2
c, d, e = 1, 2, 3
f, g = h  # no tuple on the right
a, b = b, a


def one(p, q, *, r):
    """It is short."""
    return p if q else (p if r else q)


def many(a1, a2, a3, a4, a5, a6, a7, a8, a9):
    # a remark
    return [[x for x in y] for y in a1]
'''
    path = tmp_path / "example.py"
    path.write_text(text)
    found = style([path])
    assert found == Style(
        files=1,
        lines=18,
        code=8,
        long=0,
        statements=10,
        tuples=3,
        unpacked=1,
        ternaries=2,
        chained=1,
        comprehensions=2,
        nested=1,
        functions=2,
        many=1,
        most=9,
    )
