"""The commands `copse label` and `copse export`: what the steps of stored searches are worth."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli.bench import Instruction, System, TopP
from search.cli.options import Model, language_of
from search.cli.train import MODEL, Answer, Checked, Delimiter, MaxSteps, Prompt, StepTokens, tell
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


def label(
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
    delimiter: Delimiter = None,
    step_tokens: StepTokens = None,
    max_steps: MaxSteps = None,
    temperature: Annotated[
        float | None, typer.Option(rich_help_panel=MODEL, min=0, help="Of sampling.")
    ] = None,
    top_p: TopP = None,
    instruction: Instruction = None,
    system: System = None,
    prompt: Prompt = None,
    answer: Answer = None,
    device: Annotated[
        str, typer.Option(rich_help_panel=MODEL, help="auto, cpu, cuda, ...")
    ] = "auto",
    dtype: Annotated[
        str, typer.Option(rich_help_panel=MODEL, help="auto, float32, bfloat16, ...")
    ] = "auto",
    slots: Annotated[
        int,
        typer.Option(rich_help_panel=MODEL, min=1, help="Rows that the model computes at once."),
    ] = 64,
) -> None:
    """Label the steps of stored searches, for a value head or a process reward model to learn."""
    tell()
    add_working_folder()
    language = language_of(
        delimiter=delimiter, step_tokens=step_tokens, max_steps=max_steps, temperature=temperature,
        top_p=top_p, prompt=prompt,
        instruction=instruction, system=system,
    )  # fmt: skip
    _check_use(by, guide, count, finished, bool(language))
    labelling = import_ours("guides.data.label_traces")
    model = (
        None
        if guide is None
        else Model(
            guide, None, answer, {"device": device, "dtype": dtype, "slots": slots}, language
        ).checked()
    )
    answer = answer if model is None else model.answer
    plan = labelling.Labelling(
        by=by.value, count=count or 8, seed=seed, finished=finished, checker=checker, answer=answer
    )
    known = {} if targets is None else import_ours("guides.data.grading").read_targets(targets)
    found = _loaded(traces)
    labelling.gradable(found, known, plan)
    policy = (
        None if model is None else labelling.completer(model.guide, found, model.engine, language)
    )
    counts = labelling.label_traces(found, known, out, plan, policy, settings=language)
    typer.echo(f"the labels are in {out}: {counts}")
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
) -> None:
    """Write labelled chains in the columns of TRL's process reward models: prompt, completions,
    labels.
    """
    exporting = import_ours("guides.data.export_trl")
    exporting.check_suffix(out)
    found = _loaded(traces)
    count = exporting.export_prm(
        found, import_ours("guides.data.labels").read_labels(labels, found), out, soft=soft
    )
    typer.echo(f"{count} chains are in {out}")


def _check_use(by: By, guide: str | None, count: int | None, finished: bool, sampled: bool) -> None:
    """Raises ValueError for flags that do not go together."""
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

    found = Trace.load(folder)
    if not found:
        raise ValueError(
            f"there is no readable trace in {folder}: give a folder that copse solve --traces wrote"
        )
    return found
