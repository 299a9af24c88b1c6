"""The command `copse train score`: learning to correct oneself by reinforcement learning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search import kinds
from search.cli.options import given
from search.cli.shared_options import ADVANCED, Allowed, ModelOptions, shares_options
from search.cli.train_options import (
    ASKED,
    STEP_END,
    Beginning,
    Problems,
    TrainingOptions,
    done,
    log_progress,
    problems_of,
)
from search.imports import add_working_folder, import_ours


@shares_options(
    ASKED,
    without=(*ADVANCED, "top_p"),
    delimiter=STEP_END,
    temperature="Of the samples. Default: 1.",
    device="Of the searches: auto, cpu, cuda, ...",
    dtype="Of the searches: auto, float32, bfloat16, ...",
)
def train_score(
    *,
    guide: Beginning,
    input: Problems,
    first: Annotated[
        int,
        typer.Option(
            min=0, help="Rounds of stage 1: the second attempt is rewarded, the first held."
        ),
    ] = 20,
    second: Annotated[
        int, typer.Option(min=1, help="Rounds of stage 2: both are rewarded, gains above all.")
    ] = 20,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder of both runs; second/best in it is the model. A killed run goes on.",
        ),
    ] = Path("corrected"),
    gate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Held-out problems that say which round is best. Default: a tenth of --input, not "
            "trained on.",
        ),
    ] = None,
    gate_every: Annotated[int, typer.Option(min=1, help="Rounds from one gate to the next.")] = 10,
    per_round: Annotated[
        int, typer.Option(min=1, help="Problems of a round with something to learn from.")
    ] = 32,
    chains: Annotated[int, typer.Option(min=2, help="Samples of a problem: the group.")] = 8,
    hold: Annotated[
        float, typer.Option(min=0, help="Weight of the KL that holds the first attempt in stage 1.")
    ] = 0.1,
    kl: Annotated[float, typer.Option(min=0, help="Weight of the KL of both in stage 2.")] = 0.01,
    bonus: Annotated[
        float,
        typer.Option(min=0, help="Of the second attempt in stage 2, times what it gains."),
    ] = 10.0,
    again: Annotated[str, typer.Option(metavar="TEXT", help="The line between both.")] = (
        "Try again."
    ),
    updates: Annotated[
        int,
        typer.Option(min=1, help="Of a round, each from its share of the samples. 1: on policy."),
    ] = 1,
    training: TrainingOptions,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same run.")] = 0,
    allow: Allowed = None,
    model: ModelOptions,
) -> None:
    """SCoRe: two attempts at each problem, of which the second learns to correct the first
    (Kumar et al. 2024).
    """
    log_progress()
    add_working_folder()
    kinds.allow(allow or [])
    jobs, gate_jobs, targets = problems_of(model.model(guide).checked(), input, gate)
    learning = import_ours("guides.iteration.rl")
    scoring = import_ours("guides.iteration.score")
    plan = scoring.ScorePlan(
        learning.RLPlan(
            options={"chains": chains, "wave": chains, "solutions": None},
            language=given(model.kept),
            engine=model.engine,
            per_round=per_round,
            updates=updates,
            gate_every=gate_every,
            training=training.chosen,
            seed=seed,
        ),
        again,
        hold,
        kl,
        bonus,
    )
    done(
        scoring.score(guide, jobs, targets, out, rounds=(first, second), gate=gate_jobs, plan=plan)
    )
