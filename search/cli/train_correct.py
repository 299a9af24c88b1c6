"""The command `copse train correct`: models that go back, check and try again."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from search import kinds
from search.cli.options import given
from search.cli.shared_options import ADVANCED, Allowed, ModelOptions, shares_options
from search.cli.train_options import (
    ASKED,
    STEP_END,
    Base,
    Checked,
    HeldOut,
    OffPolicy,
    Out,
    Targets,
    Traces,
    TrainingOptions,
    done,
    log_progress,
)
from search.imports import add_working_folder, import_ours


class Kind(StrEnum):
    """`guides.data.streams.KINDS`."""

    retry = "retry"
    walk = "walk"
    pairs = "pairs"
    critiques = "critiques"


class Source(StrEnum):
    """`guides.data.streams.SOURCES`."""

    tree = "tree"
    early = "early"


class Order(StrEnum):
    """`guides.data.streams.ORDERS`."""

    depth = "depth"
    breadth = "breadth"
    search = "search"


class Checks(StrEnum):
    """`guides.data.streams.CHECKS`."""

    none = "none"
    answers = "answers"
    lines = "lines"


@shares_options(
    ASKED,
    without=(*ADVANCED, "temperature", "top_p", "device", "dtype", "slots"),
    delimiter=STEP_END,
)
def train_correct(
    *,
    traces: Traces,
    base: Base,
    out: Out,
    targets: Targets = None,
    kind: Annotated[
        Kind,
        typer.Option(
            help="Right chains with wrong lines that are gone back from; walks of the tree to its "
            "solution; a wrong chain and then a right one; or checks of chains (a judge)."
        ),
    ] = Kind.retry,
    rate: Annotated[
        float,
        typer.Option(
            help="Of retry, the chance of a wrong line before each right one; of walk, the share "
            "of what led nowhere that is walked; of pairs, the chance of another one, of a right "
            "chain and itself. In [0, 1)."
        ),
    ] = 0.3,
    source: Annotated[
        Source,
        typer.Option(
            help="Of the wrong lines of retry: steps of the tree, or later ones copied early."
        ),
    ] = Source.tree,
    order: Annotated[
        Order, typer.Option(help="Of walk: depth or breadth first, or as the search went.")
    ] = Order.depth,
    checks: Annotated[
        Checks, typer.Option(help="Behind which lines a check says whether they are right.")
    ] = Checks.none,
    masked: Annotated[
        bool, typer.Option("--masked", help="Read wrong lines without imitating them.")
    ] = False,
    alike: Annotated[
        float,
        typer.Option(
            min=0, help="Of pairs: how much likelier are wrong chains like the right one."
        ),
    ] = 0.0,
    keep: Annotated[int, typer.Option(min=1, help="Most streams of a search.")] = 10,
    longest: Annotated[
        int, typer.Option(min=1, help="Most tokens of a stream; longer ones are left out.")
    ] = 4096,
    back: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="The line that goes back, with {line} for the number of the last line that "
            'stands, or without: one line back. Default: "Back to {line}."',
        ),
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help='The line that checks. Default: "Check: {verdict}."'),
    ] = None,
    again: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help='The line that begins anew. Default: "Try again."'),
    ] = None,
    checker: Checked = None,
    held_out: HeldOut = 0.1,
    training: TrainingOptions,
    off_policy: OffPolicy = False,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same model.")] = 0,
    allow: Allowed = None,
    options: ModelOptions,
) -> None:
    """Train a model on streams that are made of the trees of its own searches: it errs, goes back,
    checks and tries again. Searches with the new model read its streams as such.
    """
    log_progress()
    add_working_folder()
    kinds.allow(allow or [])
    answers = {}
    if targets is not None:
        answers = import_ours("guides.data.grading").read_targets(targets)
    streaming = import_ours("guides.data.streams").Streaming(
        kind.value,
        rate,
        source.value,
        order.value,
        checks.value,
        masked,
        alike,
        keep,
        longest,
        given({"back": back, "check": check, "again": again}),
    )
    done(
        import_ours("guides.training.train_guide").train_guide(
            traces,
            answers,
            base,
            out,
            training.chosen,
            streams=streaming,
            checker=checker,
            held_out=held_out,
            seed=seed,
            off_policy=off_policy,
            settings=options.kept,
        )
    )
