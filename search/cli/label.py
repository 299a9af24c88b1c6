"""The commands `copse label` and `copse export`: what the steps of stored searches are worth."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search import kinds
from search.cli.shared_options import (
    ADVANCED,
    Allowed,
    ModelOptions,
    Shared,
    shard_of,
    shares_options,
)
from search.cli.terminal import say
from search.cli.train import ASKED, STEP_END, Checked, Pairs, log_progress
from search.imports import add_working_folder, import_ours

if TYPE_CHECKING:
    from search.trace import Trace


class By(StrEnum):
    """The labellers: `guides.data.label_traces.LABELLERS`."""

    rollouts = "rollouts"
    omega = "omega"
    trace = "trace"
    checker = "checker"


Traces = Annotated[
    Path,
    typer.Option(
        "--from", metavar="DIR", show_default=False, help="Traces that copse solve --traces wrote."
    ),
]


@shares_options(ASKED, without=ADVANCED, delimiter=STEP_END)
def label(
    *,
    traces: Traces,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Where the labels go, a line a trace. A run that was killed goes on.",
        ),
    ],
    by: Annotated[
        By,
        typer.Option(
            help="Roll-outs of every node; of as few as find the first errors; what the search "
            "found at or below a node; or a checker."
        ),
    ] = By.rollouts,
    guide: Annotated[
        str | None,
        typer.Option(
            help="Of roll-outs: the model that completes the chains, a folder or builtin."
        ),
    ] = None,
    targets: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='The problems with a "target" in each line; those that verify themselves need '
            "none.",
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, show_default=False, help="Roll-outs of a node. Default: 8.")
    ] = None,
    finished: Annotated[
        bool, typer.Option("--finished", help="Leave out what no finished chain goes through.")
    ] = False,
    checker: Checked = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same labels.")] = 0,
    shard: Shared = None,
    allow: Allowed = None,
    options: ModelOptions,
) -> None:
    """Label the steps of stored searches, for a value head or a process reward model to learn."""
    log_progress()
    add_working_folder()
    kinds.allow(allow or [])
    language = options.language
    _check_use(by, guide, count, finished, bool(language))
    share = shard_of(shard)
    labelling = import_ours("guides.data.label_traces")
    model = None
    answer = options.answer
    if guide is not None:
        model = options.model(guide).checked()
        answer = model.answer
    plan = labelling.Labelling(
        by=by.value, count=count or 8, seed=seed, finished=finished, checker=checker, answer=answer
    )
    answers = {}
    if targets is not None:
        answers = import_ours("guides.data.grading").read_targets(targets)
    searches = _loaded(traces)
    share.of(labelling.gradable(searches, answers, plan))
    policy = None
    if model is not None:
        policy = labelling.completer(model.guide, searches, model.engine, language)
    counts = labelling.label_traces(
        searches, answers, out, plan, policy, settings=language, shard=share
    )
    say(f"the labels are in {out}: {counts}")
    if counts.failed:
        raise typer.Exit(1)


def export(
    traces: Traces,
    labels: Annotated[
        Path,
        typer.Option(metavar="FILE", show_default=False, help="Labels that copse label wrote."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Rows as JSON lines (.jsonl) or Parquet (.parquet).",
        ),
    ],
    soft: Annotated[
        bool,
        typer.Option("--soft", help="Labels are shares of right roll-outs, not true and false."),
    ] = False,
    pairs: Annotated[
        Pairs | None,
        typer.Option(
            help="Pairs of steps (by Q) or of right and wrong chains instead of labelled chains."
        ),
    ] = None,
    allow: Allowed = None,
) -> None:
    """Write labelled chains in the columns of TRL's process reward models (prompt, completions,
    labels), or pairs of them in those of its preferences (prompt, chosen, rejected).
    """
    if soft and pairs is not None:
        raise ValueError("--soft is of labelled chains, not of pairs: leave one of them out")
    kinds.allow(allow or [])
    exporting = import_ours("guides.data.export_trl")
    exporting.check_suffix(out)
    searches = _loaded(traces)
    labelled = import_ours("guides.data.labels").read_labels(labels, searches)
    if pairs is not None:
        pairing = import_ours("guides.data.preferences").Pairing(pairs.value)
        count = exporting.export_preferences(searches, labelled, out, pairing)
        say(f"{count} pairs of {pairs.value} are in {out}")
        return
    count = exporting.export_prm(searches, labelled, out, soft=soft)
    say(f"{count} chains are in {out}")


def _check_use(by: By, guide: str | None, count: int | None, finished: bool, sampled: bool) -> None:
    """Raises ValueError for options that do not go together."""
    rolled = by in (By.rollouts, By.omega)
    if rolled and guide is None:
        raise ValueError(
            f"labels by {by.value} are made of roll-outs: name the model that completes the "
            "chains with --guide"
        )
    if not rolled and (guide is not None or count is not None or sampled):
        raise ValueError(
            f"labels by {by.value} need no roll-outs: leave out --guide, --count and the flags "
            "of the model"
        )
    if finished and by != By.rollouts:
        raise ValueError(
            "--finished is of labels by rollouts: leave it out, or give --by rollouts instead "
            f"of {by.value}"
        )


def _loaded(folder: Path) -> list[Trace]:
    from search.trace import Trace

    traces = Trace.load(folder)
    if not traces:
        raise ValueError(
            f"there is no readable trace in {folder}: give a folder that copse solve --traces wrote"
        )
    return traces
