"""Results that a spreadsheet opens: no text of a model or of a problem is a formula there."""

from __future__ import annotations

import csv

import pytest

from benchmarks.output import quoted, unquoted, write_csv
from benchmarks.sweep import rows

FORMULAS = [
    "=cmd|' /C calc'!A0", "+1+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "＝1", "'=1", "''", "-x",
]  # fmt: skip
PLAIN = ["x = 1", "-5", "+3.5", "-1e3", "1/2", "", "a-b", " =1", "5'"]


@pytest.mark.parametrize("text", [*FORMULAS, *PLAIN])
def test_a_cell_comes_back_as_it_was(text):
    assert unquoted(quoted(text)) == text
    dangerous = quoted(text)[:1] in tuple("=+-@\t\r＝＋－＠") and quoted(text) not in PLAIN
    assert not dangerous
    assert (quoted(text) == text) == (text in PLAIN)


def row(text):
    return dict.fromkeys(rows.KEY, text) | {
        "correct": 1, "steps_right": "", "verified": "", "answer": text, "value": "-0.5",
        "generated": 3, "prefilled": 1, "reused": 0, "flops": "1e6", "simulations": 1, "calls": 1,
        "seconds": "0.1", "rows": "", "stopped": "verified", "guide": text,
    }  # fmt: skip


def test_results_of_a_sweep_are_no_formulas(tmp_path):
    path = tmp_path / "results.csv"
    results = rows.Results(path)
    written = [row(text) for text in ("=1+1", "@x", "'quoted", "ordinary")]
    results.write(written)
    results.close()
    with path.open(newline="") as file:
        raw = list(csv.reader(file))[1:]
    assert not [cell for line in raw for cell in line if cell[:1] in ("=", "+", "@")]
    assert all(line[rows.COLUMNS.index("value")] == "-0.5" for line in raw)
    assert [one["answer"] for one in rows.read(path)] == [one["answer"] for one in written]
    again = rows.Results(path)
    assert again.done == {rows.row_key(one) for one in written}, "none is searched twice"
    again.close()


def test_other_tables(tmp_path):
    write_csv(tmp_path / "a.csv", [{"name": "=1", "number": -3}])
    assert (tmp_path / "a.csv").read_text() == "name,number\n'=1,-3\n"
