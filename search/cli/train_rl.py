"""The command `copse train rl`: reinforcement learning with verifiable rewards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from search import kinds
from search.cli.options import given, named_values, search_arguments
from search.cli.shared_options import ADVANCED, METHOD_HELP, Allowed, ModelOptions, shares_options
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
def train_rl(
    *,
    guide: Beginning,
    input: Problems,
    rounds: Annotated[
        int,
        typer.Option(min=1, show_default=False, help="How often to sample and learn; may grow."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder of the run; best/ in it is the model, rounds.html its numbers. A killed "
            "run goes on.",
        ),
    ] = Path("reinforced"),
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
    refill: Annotated[
        int,
        typer.Option(
            min=1,
            help="Search at most so many times --per-round problems, in place of those that are "
            "all right or all wrong.",
        ),
    ] = 3,
    method: Annotated[str, typer.Option(help=METHOD_HELP)] = "sample",
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Option of the method, such as wave=4. Can be repeated."
        ),
    ] = None,
    budget: Annotated[str, typer.Option(help="Limits of one search.")] = "tokens=20000",
    reward: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What a chain is worth: outcome (verifier or target), verifier (a learned one), "
            "majority or confidence (no labels), format, random, or module:function of problem and "
            "text.",
        ),
    ] = "outcome",
    verifier: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The model that judges, of --reward verifier."),
    ] = None,
    advantage: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="How chains share the credit: group (GRPO), leave_one_out, max_likelihood, tree, "
            "step, critic, progress, attempts, or module:function of groups.",
        ),
    ] = "group",
    credit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Field of guides.data.advantages.Credit, such as divisor=none or "
            "unfinished=mask. Can be repeated.",
        ),
    ] = None,
    loss: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Field of guides.training.options.PolicyLoss, such as region=mask, kl=0.01 or "
            "entropy=0.001. Can be repeated.",
        ),
    ] = None,
    updates: Annotated[
        int,
        typer.Option(min=1, help="Of a round, each from its share of the samples. 1: on policy."),
    ] = 1,
    stale: Annotated[
        int, typer.Option(min=0, help="Earlier rounds whose samples are learnt from as well.")
    ] = 0,
    training: TrainingOptions,
    track: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Tell the numbers to tensorboard, trackio or wandb, too."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same run.")] = 0,
    allow: Allowed = None,
    model: ModelOptions,
) -> None:
    """Reinforcement learning: sample, grade, learn from what was better than its group, and again
    from the new model.
    """

    log_progress()
    add_working_folder()
    kinds.allow(allow or [])
    options: dict[str, Any] = {}
    if method == "sample":
        options = {"chains": chains, "wave": chains, "solutions": None}
    chosen = search_arguments(method, budget, None, seed, option or [])
    limits = chosen["budget"]
    for part in ("method", "budget", "seed", "choose"):
        del chosen[part]
    jobs, gate_jobs, targets = problems_of(model.model(guide).checked(), input, gate)
    learning = import_ours("guides.iteration.rl")
    plan = learning.RLPlan(
        method=method,
        options=options | chosen,
        budget=limits,
        language=given(model.kept),
        engine=model.engine,
        per_round=per_round,
        reward=reward,
        verifier=None if verifier is None else str(verifier.resolve()),
        credit={"method": advantage, **named_values(credit or [], "divisor=none")},
        loss=named_values(loss or [], "kl=0.01"),
        updates=updates,
        stale=stale,
        refill=refill,
        gate_every=gate_every,
        training=training.chosen,
        track=track,
        seed=seed,
    )
    done(learning.reinforce(guide, jobs, targets, out, rounds=rounds, gate=gate_jobs, plan=plan))
