"""The command `copse train iterate`: expert iteration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search import kinds
from search.cli.options import given, search_arguments, unescape
from search.cli.shared_options import ADVANCED, METHOD_HELP, Allowed, ModelOptions, shares_options
from search.cli.train_options import (
    ASKED,
    STEP_END,
    Algorithm,
    Beginning,
    Checked,
    Pairs,
    Policy,
    Problems,
    TrainingOptions,
    done,
    log_progress,
    problems_of,
)
from search.imports import add_working_folder, import_ours


@shares_options(
    ASKED,
    without=ADVANCED,
    delimiter=STEP_END,
    device="Of the searches: auto, cpu, cuda, ...",
    dtype="Of the searches: auto, float32, bfloat16, ...",
)
def train_iterate(
    *,
    guide: Beginning,
    input: Problems,
    rounds: Annotated[
        int,
        typer.Option(
            min=1, show_default=False, help="How often to search and train; may grow later."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Folder of the run; best/ in it is the model. A killed run goes on."
        ),
    ] = Path("iterated"),
    gate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Held-out problems that decide. Default: a tenth of --input, not trained on.",
        ),
    ] = None,
    method: Annotated[str | None, typer.Option(help=f"{METHOD_HELP} Default: sample.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Option of the method, such as chains=16. Can be repeated."
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Limits of one search, such as tokens=2000. Default: the guide's own."),
    ] = None,
    gate_budget: Annotated[
        str | None,
        typer.Option(help="Limits of one search at the gate. Default: those of --budget."),
    ] = None,
    per_round: Annotated[
        int | None, typer.Option(min=1, help="Problems that a round searches. Default: all.")
    ] = None,
    algorithm: Annotated[
        Algorithm | None,
        typer.Option(
            help="Set method, options and what follows as in the literature. What is given beside "
            "it goes before.",
        ),
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What a chain is worth: outcome (verifier or target), verifier (a learned one), "
            "majority or confidence (no labels), format, random, or module:function of problem and "
            "text. Default: outcome.",
        ),
    ] = None,
    verifier: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The model that judges, of --reward verifier."),
    ] = None,
    threshold: Annotated[
        list[float] | None,
        typer.Option(
            min=0,
            max=1,
            help="Imitate chains from this reward on. Repeated, rising: a round trains once for "
            "each. Default: 1; above 0 with --policy best.",
        ),
    ] = None,
    pairs: Annotated[
        Pairs | None,
        typer.Option(
            help="Learn preferences, too: the best and the worst step of each node by Q, or right "
            "and wrong chains."
        ),
    ] = None,
    hint: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Ask what was not solved again, with {problem} and {target} in this text; learn "
            "it without.",
        ),
    ] = None,
    train_verifier: Annotated[
        bool | None,
        typer.Option(
            "--train-verifier",
            show_default=False,
            help="Train a verifier on the chains of all rounds, right and wrong, in the end.",
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(min=0, help="Rounds whose traces are learnt from, 0: all. Default: 1."),
    ] = None,
    examples: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Other examples for every round. Can be repeated."),
    ] = None,
    restart: Annotated[
        bool | None,
        typer.Option(
            "--restart/--no-restart",
            show_default=False,
            help="Train the first model anew each round, not the accepted one.",
        ),
    ] = None,
    policy: Annotated[
        Policy | None, typer.Option(help="What is imitated. Default: solutions.")
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most solutions of a problem that are imitated, all alike. Default: 10."
        ),
    ] = None,
    checker: Checked = None,
    training: TrainingOptions,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same run.")] = 0,
    allow: Allowed = None,
    model: ModelOptions,
) -> None:
    """Expert iteration: search, learn from what was right, keep the new model if it is better on
    held-out problems, and again. --algorithm names its forms: STaR, ReST, ReST-EM, best-of-N,
    V-STaR, MCTS-DPO and self-training.
    """
    from search.scheduling.budget import Budget

    log_progress()
    add_working_folder()
    kinds.allow(allow or [])
    algorithms = import_ours("guides.iteration.algorithms")
    name = None if algorithm is None else algorithm.value
    search = search_arguments(
        method or algorithms.method_of(name), budget, None, seed, option or []
    )
    limits = search["budget"]
    options = search.copy()
    for part in ("method", "budget", "seed", "choose"):
        del options[part]
    jobs, gate_jobs, targets = problems_of(model.model(guide).checked(), input, gate)
    chosen = {
        "method": method,
        "per_round": per_round,
        "policy": None if policy is None else policy.value,
        "keep": keep,
        "reward": reward,
        "verifier": None if verifier is None else str(verifier.resolve()),
        "thresholds": tuple(threshold) if threshold else None,
        "pairs": None if pairs is None else pairs.value,
        "hint": unescape(hint),
        "train_verifier": train_verifier,
        "window": window,
        "restart": restart,
    }
    plan = algorithms.plan_of(
        name,
        options=options,
        budget=limits,
        gate_budget=None if gate_budget is None else Budget.parse(gate_budget),
        language=model.kept,
        engine=model.engine,
        checker=checker,
        seed_examples=[str(path.resolve()) for path in examples or []],
        training=training.chosen,
        seed=seed,
        **given(chosen),
    )
    iteration = import_ours("guides.iteration.expert_iteration")
    done(
        iteration.expert_iteration(
            guide, jobs, targets, out, rounds=rounds, gate=gate_jobs, plan=plan
        )
    )
