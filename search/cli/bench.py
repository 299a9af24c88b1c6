"""The command `copse bench`: methods compared on problems of the user's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search import kinds
from search.cli.shared_options import (
    MODEL,
    Allowed,
    Guided,
    Judged,
    ModelOptions,
    Shared,
    shard_of,
    shares_options,
)
from search.cli.terminal import complain, say
from search.files.atomic import atomic
from search.imports import import_ours
from search.methods.presets import PRESETS

if TYPE_CHECKING:
    from search.guide import Guide

FAILED = 1  # exit codes
INTERRUPTED = 130
METHODS_HELP = (
    f"With commas between: {', '.join(PRESETS)}, module:function; each perhaps with options, as "
    'in "mcts leaves=1".'
)


@shares_options(
    MODEL,
    temperature="Of sampling, but for greedy.",
    slots="Rows that the model computes at once; requests that a server has at once.",
)
def bench(
    *,
    input: Annotated[
        Path,
        typer.Option(
            "--input",
            metavar="FILE",
            show_default=False,
            help="A JSON object a line: problem, target, perhaps id and kind.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            show_default=False,
            help="For results.csv, table.tex and figure.png. A killed run goes on.",
        ),
    ],
    methods: Annotated[
        str,
        typer.Option(help=METHODS_HELP),
    ] = "greedy,sample,mcts",
    budgets: Annotated[
        str, typer.Option(help="Budgets of one kind: of tokens, calls, simulations or seconds.")
    ] = "tokens=500,2000",
    seeds: Annotated[
        int, typer.Option(min=1, help="Searches of each problem with each method and budget.")
    ] = 1,
    guide: Guided = "builtin",
    value: Judged = None,
    shard: Shared = None,
    allow: Allowed = None,
    options: ModelOptions,
) -> None:
    """Compare methods on your problems: a table with 95 % intervals (table.tex for LaTeX),
    results.csv, and a figure of accuracy against compute.
    """
    kinds.allow(allow or [])
    share = shard_of(shard)
    model = options.model(guide, value).checked()
    plan = import_ours("benchmarks.sweep.plan")
    task = plan.task_of_file(input, model.answer, model.check).share(share)
    runs = plan.read_runs(methods.split(","), task)
    limits = plan.read_budgets(budgets)
    settings = {"value": value, **model.judging, "answer": model.answer, **model.language}
    plan.claim(out, task, settings)
    results = out / "results.csv"

    def load(**policy: Any) -> Guide:
        return replace(model, language={**model.language, **policy}).load()

    whole = import_ours("benchmarks.sweep.run").sweep(task, runs, limits, seeds, results, load)
    tables = import_ours("benchmarks.sweep.rows")
    rows = tables.read(results)
    failed = sum(map(tables.failed, rows))
    if rows:
        reports = import_ours("benchmarks.sweep.report")
        streams = import_ours("benchmarks.sweep.streams")
        at = reports.Levels(tuple(limits))
        parts = [reports.report(rows, at=at), reports.against_first(rows, at)]
        parts.append(streams.table(rows, streams.read(results)))
        say("\n\n".join(filter(None, parts)))
        with atomic(out / "table.tex") as part:
            part.write_text(reports.latex_report(rows, at))
    if len(rows) > failed:
        _draw(rows, out / "figure.png")
    if not whole:
        say("interrupted: give the same command again to go on", err=True)
        raise typer.Exit(INTERRUPTED)
    if failed:
        complain(
            f"{failed} of {len(rows)} rows are of searches that failed: no rate counts "
            "them, the column errors does; give the same command again to search them again"
        )
        raise typer.Exit(FAILED)


def _draw(rows: Any, figure: Path) -> None:
    try:
        import_ours("benchmarks.sweep.plot").curves(rows, figure)
    except ImportError as error:
        complain(f"{error}; the rows are in {figure.parent / 'results.csv'}")
    else:
        say(f"figure: {figure}")
