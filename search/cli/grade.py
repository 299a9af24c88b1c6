"""The command `copse grade`: which outputs of any model give the right answer."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from search.cli.terminal import say
from search.imports import import_ours


class Style(StrEnum):
    """The styles by name: `guides.answers.styles.STYLES`."""

    strict = "strict"
    math = "math"
    gsm8k = "gsm8k"


def grade(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", show_default=False, help="JSON lines, with texts and targets."
        ),
    ],
    text: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            show_default=False,
            help="What the model wrote: a text, a conversation, or a list of texts. Default: text, "
            "completion, output, response and the like.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            show_default=False,
            help="The right answer. Default: answer, target, solution or ground_truth.",
        ),
    ] = None,
    problem: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            show_default=False,
            help="Lines that are alike in it vote together. Default: problem, question, prompt or "
            "id.",
        ),
    ] = None,
    style: Annotated[
        Style,
        typer.Option(help="How several boxes, orders and bases are read: as that benchmark does."),
    ] = Style.strict,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default=False, help="The lines again, each with its verdict."
        ),
    ] = None,
) -> None:
    """Grade outputs: right, wrong, or undecided where it cannot be known; and votes by problem."""
    grading = import_ours("guides.data.grade_outputs")
    rows = grading.read_outputs(file, text, target, problem)
    report = grading.grade_outputs(rows, style.value)
    for line in report.lines():
        say(line)
    if out is not None:
        grading.write_graded(rows, report, out)
