"""The tree core against other engines and against itself, on hashtree-1
(`benchmarks.tree.hashtree`). One core, unless stated otherwise.

    python -m benchmarks.tree.core compare --python mctx=PATH/python --python openspiel=PATH/python
    python -m benchmarks.tree.core growth
    python -m benchmarks.tree.core split
    python -m benchmarks.tree.core check

Tables go to stdout as Markdown, everything that was measured to a JSON file. Where an engine has a
core of its own, times are CPU time, which is the same when others work on that core too;
engines that may use all cores are timed by the clock.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.output import table, write_json
from benchmarks.processes.interleave import (
    OURS,
    SPLIT,
    Engine,
    compared,
    done,
    installed,
    interleaved,
)
from benchmarks.tree import reference_puct
from benchmarks.tree.hashgame import HashTree, HashTreeSplit
from benchmarks.tree.rivals import RIVALS

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, rich_markup_mode=None)
log = logging.getLogger(f"copse.{__name__}")

MODULES = {
    "mctx-muzero": "mctx",
    "mctx-gumbel": "mctx",
    "openspiel": "pyspiel",
    "lightzero": "lzero",
    "reasoners": "reasoners",
}
FAMILIES = {"mctx-muzero": "mctx", "mctx-gumbel": "mctx"}  # by which --python names them too
Numbers = Annotated[str, typer.Option(help="Numbers, with commas between them.")]
Core = Annotated[int, typer.Option(help="The core that engines run on, -1: any.")]
Out = Annotated[
    Path | None,
    typer.Option(help="Where to write all that was measured, as JSON.", show_default=False),
]


@app.command()
def compare(
    python: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            help=f"The Python of a rival: {', '.join(RIVALS)}, or mctx for both.",
        ),
    ] = None,
    trees: Numbers = "16",
    simulations: Numbers = "64,512",
    moves: Numbers = "4,16,64",
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    least: Annotated[float, typer.Option(help="Seconds to repeat a search for in a round.")] = 0.2,
    core: Core = 0,
    out: Out = None,
) -> None:
    """Our core beside those rivals that are installed, searches in turn; medians over rounds."""
    pythons = _pythons(python or [])
    with ExitStack() as stack:
        engines = [("copse", stack.enter_context(Engine(OURS, core=_core(core))))]
        for name in RIVALS:
            path = pythons.get(name) or pythons.get(FAMILIES.get(name, "")) or sys.executable
            if not installed(MODULES[name], path):
                typer.echo(
                    f"{name}: {MODULES[name]} is not installed in {path}, skipped; give --python "
                    f"{name}=PATH",
                    err=True,
                )
                continue
            engines.append((name, stack.enter_context(Engine(RIVALS[name], path, _core(core)))))
            if MODULES[name] == "mctx":
                engines.append(
                    (f"{name}, all cores", stack.enter_context(Engine(RIVALS[name], path)))
                )
        rows = interleaved(engines, _grid(B=trees, S=simulations, A=moves), rounds, least=least)
    write_json(out, rows, pythons=pythons)
    typer.echo(compared(rows))


@app.command()
def growth(
    simulations: Numbers = "1000,10000,100000,1000000,10000000",
    moves: int = 4,
    rounds: int = 3,
    core: Core = 0,
    out: Out = None,
) -> None:
    """One tree of ever more simulations: time a node that a descent comes by, bytes a node,
    memory of the process.
    """
    rows = []
    for count in _numbers(simulations):
        with Engine(OURS, core=_core(core)) as engine:  # peak memory is that of a process
            rows += interleaved([("copse", engine)], [{"B": 1, "S": count, "A": moves}], rounds)
    write_json(out, rows)
    lines = [
        "| simulations | mean path | M simulations/s | ns a node | the same, first run | bytes a "
        "node | peak memory, MB |"
    ]
    for row in rows:
        done(row)
        count = row["S"]
        nodes = row["nodes"]
        times = f"{row['time'] / nodes * 1e9:.1f} | {row['first'] / nodes * 1e9:.1f}"
        memory = f"{row['bytes'] / count:.0f} | {(row['rss'] - row['empty']) / 1e6:.0f}"
        lines.append(
            f"| {count:.0e} | {nodes / count:.1f} | {row['rate'] / 1e6:.2f} | {times} | {memory} |"
        )
    typer.echo(table(lines))


@app.command()
def split(
    trees: Numbers = "1,4,16,64",
    k: Numbers = "1,2,4,8,16",
    simulations: int = 512,
    moves: int = 4,
    rounds: int = 5,
    core: Core = 0,
    out: Out = None,
) -> None:
    """Leaf by leaf with an evaluator outside: microseconds of the core a round and a leaf, the
    least seen, and their line.
    """
    rows = []
    with Engine(SPLIT, core=_core(core)) as engine:
        searches = _grid(B=trees, S=str(simulations), A=str(moves), K=k)
        rows = interleaved([("copse", engine)], searches, rounds)
    write_json(out, rows)
    lines = [
        "| trees | leaves a round and tree | us a round | us a leaf | us a leaf beside the "
        "evaluator | of all time |"
    ]
    points = []
    for row in rows:
        done(row)
        spent = row["replayed_least"] * 1e6
        beside = row["core_seconds_least"] * 1e6
        round_costs = spent / row["rounds"]
        points.append((row["leaves"] / row["rounds"], round_costs))
        costs = (
            f"{round_costs:.2f} | {spent / row['leaves']:.3f} | "
            f"{beside / row['leaves']:.3f} | {100 * spent / 1e6 / row['time']:.0f} %"
        )
        lines.append(f"| {row['B']} | {row['K']} | {costs} |")
    constant, each = line_through(points)
    typer.echo(
        f"{table(lines)}\n\n{constant:.2f} us a round and {each:.3f} us a leaf (A = {moves})"
    )


@app.command()
def check(
    moves: Numbers = "2,4,16,64",
    k: Numbers = "1,8,16",
    c: str = "0.5,1.25,3",
    seeds: int = 2,
    trees: int = 2,
    simulations: int = 256,
) -> None:
    """Root visits against plain Python in float64: how many trees differ, with priors in float32
    as a forest keeps them, and in float64.
    """
    lines = [
        "| moves | k | trees | fused differ | split differ | fused differ from float64 priors |"
    ]
    whole = True
    for a, many in product(_numbers(moves), _numbers(k)):
        counts = np.zeros(4, int)
        for constant, seed in product(map(float, c.split(",")), range(seeds)):
            counts += differing(trees, a, simulations, many, constant, seed)
        whole = whole and not counts[1:3].any()
        lines.append(f"| {a} | {many} | {counts[0]} | {counts[1]} | {counts[2]} | {counts[3]} |")
    typer.echo(table(lines))
    if not whole:
        raise typer.Exit(1)


def differing(trees: int, moves: int, simulations: int, k: int, c: float, seed: int) -> np.ndarray:
    """int [4]: trees, those where fused and split differ from priors in float32, and where fused
    differs from priors in float64.
    """
    visits = []
    for kind in (HashTree, HashTreeSplit):
        engine = kind()
        engine.K = k
        engine.prepare(trees, moves, simulations, c, seed)
        engine.run()
        visits.append(engine.root_visits())
    fused, split_visits = visits

    def truth(rounded: bool) -> np.ndarray:
        arguments = (moves, simulations, k, c, seed, rounded)
        return np.array([reference_puct.root_visits(tree, *arguments) for tree in range(trees)])

    def differ(one: np.ndarray, other: np.ndarray) -> int:
        return int((one != other).any(1).sum())

    single = truth(rounded=True)
    return np.array(
        [trees, differ(fused, single), differ(split_visits, single), differ(fused, truth(False))]
    )


def line_through(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(constant, slope) of the line with the least squares of relative errors."""
    x, y = np.array(points).T
    constant, slope = np.linalg.lstsq(np.stack([1 / y, x / y], 1), np.ones(len(y)), rcond=None)[0]
    return float(constant), float(slope)


def _grid(**axes: str) -> list[dict[str, int]]:
    """Every search with one number of each axis, the last changing first."""
    return [
        dict(zip(axes, values, strict=True)) for values in product(*map(_numbers, axes.values()))
    ]


def _numbers(text: str) -> list[int]:
    try:
        return list(map(int, map(float, text.split(","))))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no list of numbers: write them with commas between, as 4,16"
        ) from None


def _pythons(pairs: Sequence[str]) -> dict[str, str]:
    """Which Python each rival has, of NAME=PATH."""
    pythons: dict[str, str] = {}
    for pair in pairs:
        name, _, path = pair.partition("=")
        if name not in {*RIVALS, *FAMILIES.values()} or not path:
            raise typer.BadParameter(
                f"--python {name}: write NAME=PATH, with a name of {', '.join([*RIVALS, 'mctx'])}"
            )
        pythons[name] = path
    return pythons


def _core(core: int) -> int | None:
    """None: any. Systems without a way to pin a process have only that."""
    return core if core >= 0 and hasattr(os, "sched_setaffinity") else None


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    app()


if __name__ == "__main__":
    main()
