"""Figures and tables of sweeps: both say the same, and both can be read."""

from __future__ import annotations

import itertools
import json
import math
import re

import numpy as np
import pytest
from sweep_cases import solved, swept, written

from benchmarks import output
from benchmarks.sweep import plot, report, rows, statistics
from benchmarks.sweep.levels import DEFAULT
from benchmarks.sweep.plan import Limit


def test_a_line_read_off_one_budget_is_the_share_solved(tmp_path):
    costs = [20, 50, 50, 700, 2000]
    found = written(
        tmp_path / "r.csv", *(solved(f"p{i}", "m", t, int(t < 2000)) for i, t in enumerate(costs))
    )
    line = plot.line(found, "generated", 2500)
    assert (
        line.x[-1] == 2000
        and line.stepped
        and (np.diff(line.mean) >= 0).all()
        and (line.low <= line.mean).all()
        and (line.mean <= line.high).all()
    )
    np.testing.assert_allclose(
        line.mean,
        [0, *(100 * np.mean([t <= x and t < 2000 for t in costs]) for x in line.x[1:])],
    )


@pytest.mark.thorough
def test_a_line_of_separate_budgets_has_a_point_each(tmp_path):
    swept(tmp_path / "r.csv", methods=["self_consistency"], budgets="tokens=60,120,240")
    found = rows.read(tmp_path / "r.csv")
    line = plot.line(found, "generated", 2500)
    for x, mean, budget in zip(line.x, line.mean, (60, 120, 240), strict=True):
        own = [row for row in found if row["budget"] == f"tokens={budget}"]
        assert x == pytest.approx(np.mean([int(row["generated"]) for row in own]))
        assert mean == pytest.approx(100 * np.mean([int(row["correct"]) for row in own]))
    plot.curves(found, tmp_path / "f.svg")
    assert (
        "generated tokens a problem" in (tmp_path / "f.svg").read_text()
        or (tmp_path / "f.svg").stat().st_size > 5000
    )


def checkpoints(folder, slope_train=20.0, slope_test=10.0, count=400):
    """Four checkpoints and three budgets whose accuracies rise by planted slopes, in points a
    decade.
    """
    rng, entries = np.random.default_rng(0), ["name,training,results"]
    for i, flops in enumerate((1e12, 1e13, 1e14, 1e15)):
        cells = []
        for tokens in (100, 1000, 10000):
            chance = 0.1 + slope_train / 100 * i + slope_test / 100 * math.log10(tokens / 100)
            cells += [
                (f"p{n}", "mcts", f"tokens={tokens}", 0, int(hit), "", "a", tokens)
                for n, hit in enumerate(rng.random(count) < chance)
            ]
        written(folder / f"c{i}.csv", *cells)
        (folder / f"c{i}.json").write_text(json.dumps({"flops": flops}))
        entries.append(f"c{i},{f'{flops:g}' if i else 'c0.json'},c{i}.csv")
    (folder / "checkpoints.csv").write_text("\n".join(entries) + "\n")
    return folder / "checkpoints.csv"


@pytest.mark.thorough
def test_the_two_axes_find_planted_slopes(tmp_path):
    told = plot.axes(
        plot.read_checkpoints(checkpoints(tmp_path), "mcts"), tmp_path / "axes.png"
    ).splitlines()
    assert [line.partition(":")[0] for line in told] == [
        "100 tokens",
        "1,000 tokens",
        "10,000 tokens",
        "c0",
        "c1",
        "c2",
        "c3",
    ]
    for line in told:
        low, high = (float(end) for end in line.partition("[")[2].rstrip("]").split(","))
        truth = 20 if "tokens" in line else 10
        assert low - 1.5 < truth < high + 1.5 and 0 < high - low < 12, line
    assert (tmp_path / "axes.png").stat().st_size > 10_000


def test_rows_of_two_tasks_are_not_mixed_on_one_axis(tmp_path):
    path, rest = checkpoints(tmp_path, count=5), tmp_path / "c1.csv"
    lines = rest.read_text().splitlines(keepends=True)
    rest.write_text("".join([*lines, *(line.replace("t,", "other,", 1) for line in lines[1:])]))
    with pytest.raises(ValueError, match="--task"):
        plot.read_checkpoints(path, "mcts")
    assert {len(checkpoint.rows) for checkpoint in plot.read_checkpoints(path, "mcts", "t")} == {15}


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        ("name,training\na,1\n", "results"),
        ("name,training,results\na,0,c1.csv\n", "log axis"),
        ("name,training,results\na,x,c1.csv\n", "training.json"),
        ("name,training,results\na,1e9,c1.csv\n", "two or more"),
    ],
)
def test_checkpoints_that_cannot_be_placed_are_refused(tmp_path, lines, word):
    path = checkpoints(tmp_path, count=5)
    with pytest.raises(ValueError, match="no rows of 'beam'"):
        plot.read_checkpoints(path, "beam")
    path.write_text(lines)
    with pytest.raises(ValueError, match=word):
        plot.read_checkpoints(path, "mcts")


@pytest.mark.thorough
def test_bands_are_the_bootstrap_of_each_point():
    values = np.random.default_rng(0).random((500, 3)) < [0.2, 0.5, 0.9]
    found = statistics.bands(values, resamples=4000)
    for i in range(3):
        one = statistics.bootstrap(values[:, i])
        assert (
            found[0, i] == one.mean
            and found[1, i] == pytest.approx(one.low, abs=0.006)
            and found[2, i] == pytest.approx(one.high, abs=0.006)
        )


# -- figures and tables agree


def drawn(line, x):
    """What the line shows at `x`: mean, low, high; 0 to the left of its first point."""
    place = np.searchsorted(line.x, x, side="right") - 1
    assert x <= line.x[-1]
    if place < 0:
        return [0.0] * 3
    return [values[place] for values in (line.mean, line.low, line.high)]


def agree(found):
    levels = DEFAULT.budgets(found)
    line = plot.line(found, "generated", 10_000)
    for level in levels:
        (rate,) = report._rates(found, [level], levels)
        mean, low, high = drawn(line, level.amount)
        assert mean == pytest.approx(rate.mean), level
        assert [low, high] == pytest.approx([rate.low, rate.high], abs=4), level
    assert line.x[-1] == levels[-1].amount, "nobody knows what a larger budget would have given"
    return line


def searched(problem, budget, generated, right, seed=0, method="beam"):
    return (problem, method, f"tokens={budget}", seed, right, right, "a", generated)


def test_each_budget_is_drawn_from_its_own_searches(tmp_path):
    """A beam takes the width that its budget can bring to an end: that of the smaller one solves
    all, that of the larger one begins later.
    """
    cells = []
    for i, late in enumerate((158, 300, 400)):
        cells.append(searched(f"p{i}", 100, 60 + i, 1))
        cells.append(searched(f"p{i}", 500, late, int(i < 2)))
    line = agree(written(tmp_path / "r.csv", *cells))
    assert drawn(line, 60)[0] == pytest.approx(100 / 3)
    assert drawn(line, 100)[0] == 100
    assert drawn(line, 101)[0] == 0
    assert drawn(line, 158)[0] == pytest.approx(100 / 3)


@pytest.mark.parametrize("seed", range(5))
def test_the_figure_draws_what_the_table_says(tmp_path, seed):
    """Of sweeps with several budgets that were cut off, and with searches that failed."""
    rng = np.random.default_rng(seed)
    cells = []
    for i in range(40):
        for trial in range(3):
            for budget in (150, 600, 1500):
                if rng.random() < 0.2:
                    continue
                spent = int(rng.integers(5, budget + 1))
                cells.append(searched(f"p{i}", budget, spent, int(rng.random() < 0.7), trial))
    found = written(tmp_path / "r.csv", *cells)
    for row in found:
        if rng.random() < 0.1:
            row["stopped"] = "error"
    agree(rows.sound(found))


def test_the_line_rises_from_nothing_where_its_first_problem_is_solved(tmp_path):
    cells = [searched(f"p{i}", 500, spent, 1) for i, spent in enumerate((90, 90, 200))]
    line = agree(written(tmp_path / "r.csv", *cells))
    assert list(line.x) == [90, 90, 200, 500]
    assert list(line.mean) == pytest.approx([0, 200 / 3, 100, 100])


@pytest.mark.parametrize("kind", ["calls", "simulations"])
def test_smaller_budgets_of_any_kind_are_read_off(tmp_path, kind):
    """As searches that verify their answers run with the largest budget only."""
    found = []
    for row in written(tmp_path / "r.csv", *(solved(f"p{i}", "m", 50) for i in range(4))):
        found.append(row | {"budget": f"{kind}=80", kind: str(20 * int(row["problem"][1:]) + 10)})
    at = report.Levels((Limit(kind, 30), Limit(kind, 80), Limit(kind, 90), Limit("tokens", 20)))
    text = report.report(found, at=at)
    assert f"| searches | 30 {kind} | 80 {kind} | mean tokens |" in text
    assert "| m | 4 | 50.0 [" in text and "| 100.0 [100.0, 100.0] | 50 |" in text


# -- figures can be read


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (16, 1100, [20, 50, 100, 200, 500, 1000]),
        (90, 1100, [100, 200, 500, 1000]),
        (2e8, 4e9, [2e8, 5e8, 1e9, 2e9]),
        (3, 4e6, [10, 100, 1e3, 1e4, 1e5, 1e6]),
        (1, 1e12, [1, 1e2, 1e4, 1e6, 1e8, 1e10, 1e12]),
    ],
)
def test_ticks_are_round_numbers(low, high, expected):
    assert plot.ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("low", [1.1e9, 5.1, 999.0])
def test_narrow_axes_have_ticks_too(low):
    found = plot.ticks(low, 1.5 * low)
    assert len(found) >= 2 and low <= found[0] < found[-1] <= 1.5 * low


def boxes(figure, texts):
    renderer = figure.canvas.get_renderer()
    return [text.get_window_extent(renderer) for text in texts if text.get_text()]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("low", "high"), [(20, 900), (18, 2000), (400, 420), (7, 1e7), (130, 900), (1, 1e13)]
)
def test_no_label_lies_on_another_and_all_bars_can_be_seen(tmp_path, monkeypatch, low, high):
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figures = []
    monkeypatch.setattr(plot, "_save", lambda figure, out: figures.append(figure))
    rng = np.random.default_rng(0)
    cells = []
    budget = math.ceil(high)
    for method in ("greedy", "mcts leaves=1 widen=2.0 c_puct=2.5 value=0.5", "beam width=8"):
        for i in range(20):
            spent = int(low * (high / low) ** rng.random())
            cells.append(searched(f"p{i}", budget, spent, int(i % 5 > 0), method=method))
    found = written(tmp_path / "r.csv", *cells)
    plot.curves([row | {"flops": row["generated"] + "000000"} for row in found], tmp_path / "f")
    (figure,) = figures
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    for panel in figure.axes:
        labels = [tick.label1 for tick in panel.xaxis.get_major_ticks()]
        across = boxes(figure, [*labels])
        assert len(across) >= 2
        for one, next_one in itertools.pairwise(across):
            assert one.x1 < next_one.x0, "two labels of the axis"
        bars = [container.lines[0].get_xdata() for container in panel.containers]
        assert len(bars) == 3 and all(3 <= len(places) <= plot.BARS for places in bars)
        every = np.sort(np.concatenate(bars))
        assert np.log(every[1:] / every[:-1]).min() > np.log(every[-1] / every[0]) / 40
    (legend,) = [panel.get_legend() for panel in figure.axes if panel.get_legend()]
    box = legend.get_window_extent(figure.canvas.get_renderer())
    assert all(box.x0 > panel.get_window_extent().x1 for panel in figure.axes)
    assert box.x1 <= figure.bbox.x1
    entries = boxes(figure, legend.get_texts())
    assert all(one.y0 >= other.y1 for one, other in itertools.pairwise(entries))


@pytest.mark.thorough
def test_points_that_cost_the_same_stand_side_by_side(tmp_path, monkeypatch):
    """Methods that choose among the same chains; the height of a point is what the table says."""
    pytest.importorskip("matplotlib")
    figures = []
    monkeypatch.setattr(plot, "_save", lambda figure, out: figures.append(figure))
    methods = ["self_consistency", "best_of_n", "weighted_vote"]
    swept(tmp_path / "r.csv", methods=methods, budgets="tokens=60,120,240")
    found = rows.read(tmp_path / "r.csv")
    plot.curves(found, tmp_path / "f")
    (panel,) = figures[0].axes
    points = [container.lines[0].get_xydata() for container in panel.containers]
    for place, level in enumerate(DEFAULT.budgets(found)):
        across = [line[place] for line in points]
        shares = np.diff(np.log([x for x, _ in across])) / np.log(240 / 60)
        assert (shares > 0.005).all() and (shares < 0.02).all()
        for (_, height), own in zip(across, report.by_method(found)["asked"].values(), strict=True):
            (rate,) = report._rates(own, [level], [level])
            assert height == pytest.approx(rate.mean)


# -- tables for LaTeX


def test_a_table_for_latex(tmp_path):
    name = r"my_module:walk_100%_$x$ {a&b}#1~^\\<|>"
    cells = [searched(f"p{i}", 500, 50, int(i < 2), method=name) for i in range(4)]
    text = report.latex_report(written(tmp_path / "r.csv", *cells), report.Levels(()))
    comment, _, told, begin, top, head, middle, row, bottom, end = text.splitlines()
    assert comment == r"% needs \usepackage{booktabs}" and told.startswith("% t, per cent right")
    assert (top, middle, bottom) == (r"\toprule", r"\midrule", r"\bottomrule")
    columns = head.removesuffix(r" \\").split(" & ")
    assert columns[:3] == ["method", "searches", "500 tokens"]
    assert begin == r"\begin{tabular}{l%s}" % ("r" * (len(columns) - 1))
    assert end == r"\end{tabular}"
    first, *rest = re.split(r"(?<!\\) & ", row.removesuffix(r" \\"))
    assert len(rest) == len(columns) - 1 and rest[0] == "4" and rest[1].startswith("50.0 [")
    assert first == (
        r"my\_module:walk\_100\%\_\$x\$ \{a\&b\}\#1\textasciitilde{}\textasciicircum{}"
        r"\textbackslash{}\textbackslash{}\textless{}\textbar{}\textgreater{}"
    )


def test_text_of_latex_is_one_line():
    assert output.escaped("a\n\n%b") == r"a \%b"
