"""The commands `copse train ...`: models that guide searches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search import kinds
from search.cli.shared_options import ADVANCED, Allowed, ModelOptions, shares_options
from search.cli.terminal import say
from search.cli.train_correct import train_correct
from search.cli.train_iterate import train_iterate
from search.cli.train_options import (
    ASKED,
    STEP_END,
    Base,
    Checked,
    HeldOut,
    Imitated,
    Kept,
    OffPolicy,
    Out,
    Pairs,
    Policy,
    Preference,
    Targets,
    Traces,
    TrainingOptions,
    done,
    log_progress,
)
from search.cli.train_rl import train_rl
from search.cli.train_score import train_score
from search.imports import add_working_folder, import_ours

train = typer.Typer(help="Train a model that guides searches.")


@train.command("builtin")
def train_builtin(
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            show_default=False,
            help="Folder of the checkpoint. A run that was killed goes on.",
        ),
    ],
    size: Annotated[
        str,
        typer.Option(
            help="small (one night on two CPU cores at the most) or full (minutes on a GPU)."
        ),
    ] = "small",
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of weights and data. Default: the recipe's.")
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(help="The first stage of the recipe that is run. Default: all are."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="The model that it begins with. Default: new weights."),
    ] = None,
) -> None:
    """Train the built-in model by its recipe, from scratch or from a stage on."""
    log_progress()
    done(
        import_ours("guides.builtin.train").train_builtin(
            size=size, out=out, seed=seed, stage=stage, base=base
        )
    )


@train.command("guide")
@shares_options(
    ASKED,
    without=(*ADVANCED, "temperature", "top_p", "device", "dtype", "slots"),
    delimiter=STEP_END,
)
def train_guide(
    *,
    traces: Traces,
    base: Base,
    out: Out,
    targets: Targets = None,
    policy: Imitated = Policy.solutions,
    keep: Kept = 10,
    checker: Checked = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Labels of the traces' steps, as copse label writes them, instead of counted "
            "ones.",
        ),
    ] = None,
    hard: Annotated[
        bool, typer.Option("--hard", help="Labels are 0 or 1: was any outcome right?")
    ] = False,
    every_token: Annotated[
        bool,
        typer.Option(
            "--every-token",
            help="Label each token of a step, not only its last: an outcome verifier.",
        ),
    ] = False,
    held_out: HeldOut = 0.1,
    training: TrainingOptions,
    off_policy: OffPolicy = False,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same model.")] = 0,
    allow: Allowed = None,
    options: ModelOptions,
) -> None:
    """Train a model on the traces of its own searches. Flags of the search are kept in the new
    model, which then needs none.
    """
    log_progress()
    add_working_folder()
    kinds.allow(allow or [])
    answers = {}
    if targets is not None:
        answers = import_ours("guides.data.grading").read_targets(targets)
    folder = import_ours("guides.training.train_guide").train_guide(
        traces,
        answers,
        base,
        out,
        training.chosen,
        policy=policy.value,
        keep=keep,
        checker=checker,
        labels=labels,
        hard=hard,
        every_token=every_token,
        held_out=held_out,
        seed=seed,
        off_policy=off_policy,
        settings=options.kept,
    )
    if policy == Policy.none:
        say(
            f"the verifier is in {folder}; let it judge: copse solve --guide {base} --value "
            f"{folder} PROBLEM"
        )
    else:
        done(folder)


@train.command("preferences")
@shares_options(
    ASKED,
    without=(*ADVANCED, "temperature", "top_p", "device", "dtype", "slots"),
    delimiter=STEP_END,
)
def train_preferences(
    *,
    traces: Traces,
    base: Base,
    out: Out,
    targets: Targets = None,
    pairs: Annotated[
        Pairs,
        typer.Option(
            help="The best and the worst step of each node by Q, or right and wrong chains."
        ),
    ] = Pairs.steps,
    visits: Annotated[
        int, typer.Option(min=1, help="Least visits of a step that is in a pair.")
    ] = 2,
    mix: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="A step counts MIX * Q + (1 - MIX) * the value that the guide gave."
        ),
    ] = 1.0,
    margin: Annotated[
        float, typer.Option(min=0, help="By which the better step of a pair is more.")
    ] = 0.0,
    keep: Annotated[int, typer.Option(min=1, help="Most pairs of chains of a search.")] = 10,
    policy: Annotated[
        Policy, typer.Option(help="What is imitated beside: solutions hold the likelihood up.")
    ] = Policy.none,
    loss: Annotated[Preference, typer.Option(help="Of a pair.")] = Preference.dpo,
    beta: Annotated[float, typer.Option(help="How much the model is held to the reference.")] = 0.1,
    per_token: Annotated[
        bool,
        typer.Option("--per-token", help="Divide log-probs by the number of tokens."),
    ] = False,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="A model with the same tokenizer. Default: --base as it is."
        ),
    ] = None,
    held_out: HeldOut = 0.1,
    training: TrainingOptions,
    off_policy: OffPolicy = False,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same model.")] = 0,
    allow: Allowed = None,
    options: ModelOptions,
) -> None:
    """Train a model to prefer what its own searches found better (DPO, IPO)."""
    log_progress()
    add_working_folder()
    kinds.allow(allow or [])
    answers = {}
    if targets is not None:
        answers = import_ours("guides.data.grading").read_targets(targets)
    preference = {"kind": loss.value, "beta": beta, "per_token": per_token}
    pairing = import_ours("guides.data.preferences").Pairing(pairs.value, visits, mix, margin)
    done(
        import_ours("guides.training.train_guide").train_guide(
            traces,
            answers,
            base,
            out,
            training.chosen | {"preference": preference},
            policy=policy.value,
            keep=keep,
            pairs=pairing,
            reference=reference,
            held_out=held_out,
            seed=seed,
            off_policy=off_policy,
            settings=options.kept,
        )
    )


train.command("correct")(train_correct)
train.command("iterate")(train_iterate)
train.command("rl")(train_rl)
train.command("score")(train_score)


@train.command("hex")
def train_hex(
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            show_default=False,
            help="Folder of the run; best/ in it is the network. A killed run goes on.",
        ),
    ],
    size: Annotated[
        int,
        typer.Option(
            min=2, max=11, help="Of the board. 3 takes seconds a round on one core, 4 a few."
        ),
    ] = 3,
    rounds: Annotated[
        int, typer.Option(min=1, help="How often to play and train; may grow later.")
    ] = 10,
    games: Annotated[int, typer.Option(min=1, help="Games that a round plays.")] = 512,
    simulations: Annotated[
        int, typer.Option(min=1, help="Of a move, in self-play and at the gate.")
    ] = 64,
    width: Annotated[int, typer.Option(min=1, help="Of the network's layers.")] = 64,
    depth: Annotated[int, typer.Option(min=1, help="Residual layers of the network.")] = 3,
    window: Annotated[int, typer.Option(min=1, help="Rounds whose positions are trained on.")] = 4,
    epochs: Annotated[int, typer.Option(min=1, help="Passes through them.")] = 4,
    batch: Annotated[int, typer.Option(min=1, help="Positions of an update.")] = 128,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same run.")] = 0,
) -> None:
    """Train a network on Hex by self-play: play, learn from the games, keep the network that
    does not lose to the last, and again.
    """
    from search.problems.hex import Hex

    log_progress()
    boards = import_ours("guides.iteration.alphazero")
    plan = boards.BoardPlan(
        width=width,
        depth=depth,
        games=games,
        simulations=simulations,
        window=window,
        epochs=epochs,
        batch=batch,
        lr=lr,
        seed=seed,
    )
    best = boards.board_iteration(Hex(size), out, rounds=rounds, plan=plan)
    say(
        f"the network is in {best}; search with it in Python: search.solve(Hex({size}), "
        f"guides.load_board({str(best)!r}))"
    )
