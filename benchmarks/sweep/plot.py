"""Figures of sweeps.

    python -m benchmarks.sweep.plot curves results.csv --out figure.png
    python -m benchmarks.sweep.plot axes checkpoints.csv --method "mcts leaves=1" --out axes.png

`curves`: accuracy against generated tokens and against FLOPs, a line a method, with 95 % intervals
over problems. `axes`: accuracy against the compute of training and against that of the search, the
two axes of OpenAI's post on o1 (2024), with slopes in points a decade. checkpoints.csv has a line a
checkpoint: `name`, `training` (its FLOPs, or the path of a training.json that says them under
"flops") and `results` (the rows of a sweep with it; paths count from the file's folder).
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, product
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sweep import statistics
from benchmarks.sweep.levels import DEFAULT, limit_of, readable, solved_after, within
from benchmarks.sweep.plan import Limit
from benchmarks.sweep.report import by_method, means, table
from benchmarks.sweep.rows import Row, numbers, read, sound

log = logging.getLogger(__name__)

# Okabe and Ito (2008)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = "osD^vP*"
AXES = {"generated": "generated tokens a problem", "flops": "FLOPs of the search a problem"}


@dataclass(frozen=True)
class Line:
    """Accuracy, in per cent, against what was spent: all float64 [points]. stepped: read off one
    budget, so known everywhere between.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    stepped: bool


def line(rows: Sequence[Row], column: str, end: float) -> Line:
    """The line of one method on one task against a column of costs. end: where one that is read
    off a single budget stops
    """
    if all(map(readable, rows)):
        times = means_of_times(rows, column)
        finite = times[np.isfinite(times)]
        x = np.geomspace(max(1.0, finite.min()), end, 80) if len(finite) else np.array([end])
        solved = (times[..., None] <= x).mean(axis=1)
        return Line(x, *(100 * statistics.bands(solved)), True)
    costs = []
    points = []
    for limit in sorted(set(map(limit_of, rows)), key=lambda limit: limit.amount):
        costs.append(spent(rows, limit, column))
        right = means(table(rows, within(limit)))
        points.append(100 * statistics.bands(right[:, None])[:, 0])
    return Line(np.array(costs), *np.array(points).T, False)


def means_of_times(rows: Sequence[Row], column: str) -> np.ndarray:
    """float64 [problems, seeds]: what was spent at the solution, inf without one; problems with
    all seeds.
    """
    found = table(rows, solved_after(column))
    seeds = max(map(len, found.values()))
    times = []
    for by in found.values():
        if len(by) == seeds:
            times.append([by[seed] for seed in sorted(by)])
    return np.array(times)


def spent(rows: Sequence[Row], limit: Limit, column: str) -> float:
    """Mean cost of the searches with one budget."""
    own = [row for row in rows if limit_of(row) == limit]
    return float(np.mean(numbers(own, column)))


def curves(rows: Sequence[Row], out: Path) -> None:
    """Write the figure of accuracy against generated tokens and FLOPs: two panels for each task.
    Raises ImportError without matplotlib.
    """
    rows = sound(rows)
    tasks = by_method(rows)
    columns = [column for column in AXES if any(numbers(rows, column))]
    figure, panels = _figure(len(tasks), len(columns))
    for (task, methods), across in zip(tasks.items(), panels, strict=True):
        for panel, column in zip(across, columns, strict=True):
            end = max(numbers(chain.from_iterable(methods.values()), column))
            looks = zip(cycle(COLOURS), cycle(MARKS), strict=False)
            for (method, own), (colour, mark) in zip(methods.items(), looks, strict=False):
                _draw(panel, line(own, column, end), colour, mark, method)
            _dress(panel, AXES[column], task if column == columns[0] else "")
        across[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))
    _save(figure, out)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on the axis of training: its FLOPs, and the rows of one method with it."""

    name: str
    flops: float
    rows: list[Row]


def read_checkpoints(path: Path, method: str, task: str | None = None) -> list[Checkpoint]:
    """The checkpoints of a CSV file, least training first. Raises ValueError for what is missing.

    task  whose rows are drawn; None: all, which must be of one task
    """
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    found = []
    for entry in lines:
        try:
            name = entry["name"]
            training = entry["training"]
            results = entry["results"]
        except KeyError as error:
            raise ValueError(
                f"{path} has no column {error}: give name, training and results"
            ) from None
        rows = []
        for row in sound(read(path.parent / results)):
            if row["method"] == method and task in (None, row["task"]):
                rows.append(row)
        if not rows:
            raise ValueError(
                f"{results} has no rows of {method!r}: sweep it with this checkpoint too"
            )
        if len(set(map(itemgetter("task"), rows))) > 1:
            raise ValueError(f"{results} has rows of several tasks: name one of them with --task")
        found.append(Checkpoint(name, _training(path.parent, training), rows))
    if len(found) < 2:
        raise ValueError(f"{path} has {len(found)} checkpoints: a slope wants two or more")
    return sorted(found, key=lambda checkpoint: checkpoint.flops)


def _training(folder: Path, text: str) -> float:
    try:
        if text.endswith(".json"):
            flops = float(json.loads((folder / text).read_text())["flops"])
        else:
            flops = float(text)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"no FLOPs of training in {text!r} ({error}): write a number, or the path of a "
            "training.json"
        ) from None
    if not 0 < flops < math.inf:
        raise ValueError(
            f"{flops} FLOPs of training have no place on a log axis: give a number above 0"
        )
    return flops


def axes(checkpoints: Sequence[Checkpoint], out: Path) -> str:
    """Write the figure of the two axes; returns its slopes as text, a line each. Raises
    ImportError without matplotlib.
    """
    shared = set(DEFAULT.budgets(checkpoints[0].rows))
    for checkpoint in checkpoints[1:]:
        shared.intersection_update(DEFAULT.budgets(checkpoint.rows))
    budgets = sorted(shared, key=lambda limit: (limit.kind, limit.amount))
    right = _rates(checkpoints, budgets)
    figure, [[training, testing]] = _figure(
        1, 2, below=0.3 + 0.2 * max(len(budgets), len(checkpoints))
    )
    legends = []
    flops = list(map(attrgetter("flops"), checkpoints))
    for budget, colour in zip(budgets, _shades(figure, len(budgets)), strict=True):
        values = np.array([right[checkpoint.name, budget] for checkpoint in checkpoints]).T
        name = f"{budget.amount:,g} {budget.kind}"
        legends.append(_sloped(training, flops, values, colour, name))
    for checkpoint, colour in zip(checkpoints, _shades(figure, len(checkpoints)), strict=True):
        tokens = [_tokens(checkpoint.rows, budget) for budget in budgets]
        values = np.array([right[checkpoint.name, budget] for budget in budgets]).T
        legends.append(_sloped(testing, tokens, values, colour, checkpoint.name))
    _dress(training, "FLOPs of training", "more training")
    _dress(testing, AXES["generated"], "more search")
    for panel in (training, testing):
        panel.legend(
            frameon=False,
            fontsize="small",
            loc="upper left",
            bbox_to_anchor=(0, -0.2),
            title="slope, points a decade",
            alignment="left",
        )
    _save(figure, out)
    return "\n".join(legends)


def _rates(
    checkpoints: Sequence[Checkpoint], budgets: Sequence[Limit]
) -> dict[tuple[str, Limit], np.ndarray]:
    """(name, budget) -> float64 [problems]: per cent right, of the problems that all have. Raises
    ValueError where there is none.
    """
    scores = {}
    for checkpoint, budget in product(checkpoints, budgets):
        scores[checkpoint.name, budget] = table(checkpoint.rows, within(budget))
    problems = sorted(set.intersection(*map(set, scores.values()))) if scores else []
    if not problems:
        raise ValueError(
            "the checkpoints have no problem and budget in common: sweep all of them on the same "
            "task and budgets"
        )
    rates = {}
    for key, found in scores.items():
        rates[key] = 100 * means({problem: found[problem] for problem in problems})
    return rates


def _tokens(rows: Sequence[Row], budget: Limit) -> float:
    """What searches with this budget generate, on average; the budget itself where it was read
    off a larger one.
    """
    return budget.amount if all(map(readable, rows)) else spent(rows, budget, "generated")


def _sloped(panel: Any, x: Sequence[float], values: np.ndarray, colour: Any, name: str) -> str:
    """Draw a line with its slope in the legend; returns the legend. values: float [problems,
    points], in per cent
    """
    if len(set(x)) > 1:
        name = f"{name}: {statistics.slope(x, values).signed}"
    _draw(panel, Line(np.array(x), *statistics.bands(values), False), colour, "o", name)
    return name


# -- how figures look


def _figure(down: int, across: int, below: float = 0.0) -> tuple[Any, Any]:
    """A figure and its panels [down, across]. below: inches for a legend"""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            'no figure without matplotlib: pip install "copse-search[bench]"'
        ) from None
    # drawn without a display: no pyplot
    figure = Figure(figsize=(4.6 * across + 1.2, 3.6 * down + below), layout="constrained")
    return figure, figure.subplots(down, across, squeeze=False, sharey="row")


def _shades(figure: Any, count: int) -> list[Any]:
    """Colours of an order, dark to light, that stay apart without colour vision."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.85 * i / max(1, count - 1)) for i in range(count)]


def _draw(panel: Any, found: Line, colour: Any, mark: str, label: str) -> None:
    panel.fill_between(
        found.x,
        found.low,
        found.high,
        color=colour,
        alpha=0.15,
        linewidth=0,
        step="post" if found.stepped else None,
    )
    draw: Callable[..., Any] = panel.step if found.stepped else panel.plot
    style = {"where": "post"} if found.stepped else {"marker": mark, "markersize": 4}
    draw(found.x, found.mean, color=colour, linewidth=1.6, label=label, **style)


def _dress(panel: Any, x: str, title: str) -> None:
    panel.set_xscale("log")
    panel.set_xlabel(x)
    if panel.get_subplotspec().is_first_col():
        panel.set_ylabel("right, per cent")
    panel.set_title(title, loc="left", fontsize="medium")
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", color="0.9", linewidth=0.8)
    panel.set_axisbelow(True)


def _save(figure: Any, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(out, dpi=160)
    except ValueError as error:
        raise ValueError(
            f"cannot draw {out} ({error}): give a name that ends with .png or .svg"
        ) from None


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("curves", "axes"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--method", default="mcts", help="of axes: the method whose rows are drawn")
    parser.add_argument("--task", help="of axes: the task, where the rows are of several")
    parser.add_argument("--out", type=Path, default=Path("figure.png"))
    args = parser.parse_args()
    try:
        if args.what == "curves":
            curves(read(args.file), args.out)
        else:
            log.info("\n%s", axes(read_checkpoints(args.file, args.method, args.task), args.out))
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    log.info("the figure is in %s", args.out)


if __name__ == "__main__":
    main()
