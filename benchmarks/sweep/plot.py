"""Figures of sweeps.

    python -m benchmarks.sweep.plot curves results.csv --out figure.png
    python -m benchmarks.sweep.plot axes checkpoints.csv --method "mcts leaves=1" --out axes.png

`curves`: accuracy against generated tokens and against FLOPs, a line a method, with 95 % intervals
over problems, as the tables of `benchmarks.sweep.report` have them. `axes`: accuracy against the
compute of training and against that of the search, the two axes of OpenAI's post on o1 (2024), with
slopes in points a decade. checkpoints.csv has a line a checkpoint: `name`, `training` (its FLOPs,
or the path of a training.json that says them under "flops") and `results` (the rows of a sweep with
it; paths count from the file's folder).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, cycle, product
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sweep import statistics
from benchmarks.sweep.levels import (
    DEFAULT,
    SPENT,
    limit_of,
    readable,
    scientific,
    solved_after,
    within,
)
from benchmarks.sweep.plan import Limit
from benchmarks.sweep.report import by_method, means, table
from benchmarks.sweep.rows import Row, numbers, read, sound

log = logging.getLogger(f"copse.{__name__}")

# Okabe and Ito (2008)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = "osD^vP*"
BARS = 5  #: intervals that are drawn of a line that has a value everywhere
BARS_TITLE = "bars: 95 % intervals over problems"
LETTER = 0.09  #: inches that a letter of a legend may take
POINTS = 1000  #: most points of a line
AXES = {"generated": "generated tokens a problem", "flops": "FLOPs of the search a problem"}


@dataclass(frozen=True)
class Line:
    """Accuracy, in per cent, against what was spent: all float64 [points], `x` ascending. stepped:
    a value holds from its point to the next; what is left of the first is 0. Else what lies between
    two points is unknown.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    stepped: bool

    def at(self, x: np.ndarray) -> np.ndarray:
        """float64 [3, points]: mean, low, high of a stepped line at `x`, not left of its first
        point.
        """
        places = np.searchsorted(self.x, x, side="right") - 1
        return np.stack([self.mean, self.low, self.high])[:, places]


def line(rows: Sequence[Row], column: str, end: float) -> Line:
    """The line of one method on one task against a column of costs: what tables say of its budgets.

    end  where one that is read off searches with a larger budget stops; against what the budgets
         limit it stops at the largest of them
    """
    if all(map(readable, rows)):
        return _stepped(rows, column, end)
    costs = []
    points = []
    for limit in sorted(set(map(limit_of, rows)), key=lambda limit: limit.amount):
        costs.append(spent(rows, limit, column))
        right = means(table(rows, within(limit)))
        points.append(100 * statistics.bands(right[:, None])[:, 0])
    return Line(np.array(costs), *np.array(points).T, False)


def _stepped(rows: Sequence[Row], column: str, end: float) -> Line:
    """The share solved within x. Against what the budgets limit, it is that of the searches with
    the smallest budget from x on, so that there may be a jump behind each budget.
    """
    budgets = sorted({limit.amount for limit in map(limit_of, rows) if SPENT[limit.kind] == column})
    parts = []
    if not budgets:
        parts.append(_shares(rows, column, 0.0, end))
    for below, budget in itertools.pairwise([0.0, *budgets]):
        parts.append(_shares(_smallest_from(rows, budget), column, below, budget))
    rise = np.zeros((4, 1))  # from 0 to the first value
    rise[0] = parts[0][0, 0]
    return Line(*np.hstack([rise, *parts]), True)


def _shares(rows: Sequence[Row], column: str, low: float, high: float) -> np.ndarray:
    """float64 [4, points]: x above `low` up to `high`, and the share solved within x in per cent
    with its interval: where problems are solved (at most `POINTS` times), and at both ends.
    """
    found = list(map(list, map(dict.values, table(rows, solved_after(column)).values())))
    times = np.unique(np.concatenate(found))
    inside = times[(times > low) & (times < high)]
    chosen = np.linspace(0, len(inside) - 1, min(POINTS, len(inside))).astype(int)
    x = np.append(inside[chosen], high)
    if low > 0:
        x = np.insert(x, 0, np.nextafter(low, high))
    solved = [(np.array(seeds)[:, None] <= x).mean(axis=0) for seeds in found]
    return np.vstack([x, 100 * statistics.bands(np.array(solved))])


def _smallest_from(rows: Sequence[Row], amount: float) -> list[Row]:
    """Of each problem and seed the row with the smallest budget from `amount` on, if any."""
    found: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: limit_of(row).amount):
        if limit_of(row).amount >= amount:
            found.setdefault((row["problem"], row["seed"]), row)
    return list(found.values())


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
    longest = max(map(len, [BARS_TITLE, *chain.from_iterable(tasks.values())]))
    figure, panels = _figure(len(tasks), len(columns), beside=0.6 + LETTER * longest)
    for (task, methods), across in zip(tasks.items(), panels, strict=True):
        for panel, column in zip(across, columns, strict=True):
            _panel(panel, methods, column)
            _dress(panel, AXES[column], task if column == columns[0] else "")
        across[-1].legend(
            frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5), title=BARS_TITLE,
            title_fontsize="small", alignment="left",
        )  # fmt: skip
    _save(figure, out)


def _panel(panel: Any, methods: dict[str, list[Row]], column: str) -> None:
    """A line a method, with its intervals at places of its own: bars of two methods at one place
    would hide each other. So points of budgets are moved, each method's by a hundredth of the width
    from those of the one before; methods that choose among the same chains cost the same.
    """
    end = max(numbers(chain.from_iterable(methods.values()), column))
    lines = list(map(partial(line, column=column, end=end), methods.values()))
    left = max(1.0, min(found.x[0] for found in lines))
    width = max(found.x[-1] for found in lines) / left
    looks = zip(methods, lines, cycle(COLOURS), cycle(MARKS), strict=False)
    for number, (method, found, colour, mark) in enumerate(looks):
        if not found.stepped:
            shift = max(2.0, width) ** ((number - (len(lines) - 1) / 2) / 100)
            found = replace(found, x=found.x * shift)
            places = found.x
        else:
            places = left * width ** ((np.arange(BARS) + (number + 0.5) / len(lines)) / BARS)
            places = places[(places >= found.x[0]) & (places <= found.x[-1])]
        _draw(panel, found, places, colour, mark, method)


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
    found = Line(np.array(x), *statistics.bands(values), False)
    _draw(panel, found, found.x, colour, "o", name)
    return name


# -- how figures look


def _figure(down: int, across: int, *, beside: float = 1.2, below: float = 0.0) -> tuple[Any, Any]:
    """A figure and its panels [down, across]. beside, below: inches for a legend"""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            'no figure without matplotlib: pip install "copse-search[bench]"'
        ) from None
    # drawn without a display: no pyplot
    figure = Figure(figsize=(4.6 * across + beside, 3.6 * down + below), layout="constrained")
    return figure, figure.subplots(down, across, squeeze=False, sharey="row")


def _shades(figure: Any, count: int) -> list[Any]:
    """Colours of an order, dark to light, that stay apart without colour vision."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.85 * i / max(1, count - 1)) for i in range(count)]


def _draw(panel: Any, found: Line, places: np.ndarray, colour: Any, mark: str, label: str) -> None:
    """A line, and bars of its intervals at `places`, which are its points if it is not stepped."""
    values = np.stack([found.mean, found.low, found.high])
    if found.stepped:
        values = found.at(places)
        panel.step(found.x, found.mean, where="post", color=colour, linewidth=1.6)
    else:
        panel.plot(found.x, found.mean, color=colour, linewidth=1.6)
    mean, low, high = values
    bars = np.stack([mean - low, high - mean])
    panel.errorbar(
        places, mean, bars, fmt=mark, color=colour, markersize=4, capsize=2.5, elinewidth=1,
        label=label,
    )  # fmt: skip


def _dress(panel: Any, x: str, title: str) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    panel.set_xscale("log")
    low, high = panel.get_xlim()
    panel.xaxis.set_major_locator(FixedLocator(ticks(low, high)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda number, _: _written(number)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xlim(low, high)
    panel.set_xlabel(x)
    if panel.get_subplotspec().is_first_col():
        panel.set_ylabel("right, per cent")
    panel.set_title(title, loc="left", fontsize="medium")
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", color="0.9", linewidth=0.8)
    panel.set_axisbelow(True)


def ticks(low: float, high: float) -> list[float]:
    """Two to seven numbers within these limits that stay apart on a log axis: as many as there are
    of 1, 2 and 5 times a power of ten, or of such powers alone.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for heads in ((1, 2, 5), (1,)):
        inside = []
        for power, head in product(powers, heads):
            if low <= head * 10.0**power <= high:
                inside.append(head * 10.0**power)
        if len(inside) < 2:
            return list(np.geomspace(low, high, 5)[1:-1])
        if len(inside) <= 7:
            break
    return inside[:: math.ceil(len(inside) / 7)]


def _written(number: float) -> str:
    return scientific(number) if number >= 1e5 else f"{float(f'{number:.3g}'):,g}"


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
