"""The commands `copse train ...`: models that guide searches."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from search import kinds
from search.cli.options import given, search_arguments
from search.cli.shared_options import ADVANCED, METHOD_HELP, Allowed, ModelOptions, shares_options
from search.cli.terminal import say
from search.imports import LAYERS, add_working_folder, import_ours

ASKED = "How the model is asked, as in the search"  #: panel of the help for options of the model
STEP_END = r"What ends a step; \n is a line's end."

train = typer.Typer(help="Train a model that guides searches.")


class Tune(StrEnum):
    """What is trained beside the value head: `guides.training.options.TUNES`."""

    full = "full"
    lora = "lora"
    head = "head"


class Policy(StrEnum):
    """What is imitated: `guides.data.distill.POLICIES`."""

    solutions = "solutions"
    visits = "visits"
    all = "all"
    none = "none"


class Optimizer(StrEnum):
    """`guides.training.options.OPTIMIZERS`."""

    adamw = "adamw"
    muon = "muon"


class Pairs(StrEnum):
    """`guides.data.preferences.KINDS`."""

    steps = "steps"
    chains = "chains"


class Preference(StrEnum):
    """`guides.training.options.PREFERENCES`."""

    dpo = "dpo"
    ipo = "ipo"


# flags that several commands have
Traces = Annotated[
    Path,
    typer.Option(
        "--from",
        metavar="DIR",
        show_default=False,
        help="Traces that copse solve --traces wrote.",
    ),
]
Base = Annotated[
    str,
    typer.Option(
        metavar="DIR",
        show_default=False,
        help="The model that made them, which is trained further.",
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        show_default=False,
        help="Folder of the new model. A run that was killed goes on.",
    ),
]
Targets = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help='The problems with a "target" in each line; those that verify themselves need none.',
    ),
]
HeldOut = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        help="Of the problems, on which the values are calibrated and judged instead. 0: none.",
    ),
]
OffPolicy = Annotated[
    bool,
    typer.Option(
        "--off-policy", help="Take traces that another model with the same tokenizer made."
    ),
]
Imitated = Annotated[
    Policy,
    typer.Option(
        help="Imitate right solutions, a tree search's visits, all that was finished, or none (a "
        "verifier)."
    ),
]
Kept = Annotated[int, typer.Option(min=1, help="Most solutions of a search that are imitated.")]
Checked = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FUNCTION",
        help="Labels every state exactly: a function of problem and state, in [0, 1] or None.",
    ),
]


@dataclass(frozen=True)
class TrainingOptions:
    """How a language model is trained: fields of `guides.training.options`. None: not given."""

    tune: Annotated[
        Tune,
        typer.Option(
            help="All weights, low-rank additions (merged in the end), or the value head alone."
        ),
    ] = Tune.full
    epochs: Annotated[
        float | None,
        typer.Option(
            show_default=False,
            help="Passes through the examples. Default: 2, and 30 with --tune head, which reads "
            "once.",
        ),
    ] = None
    steps: Annotated[int | None, typer.Option(min=1, help="Updates, instead of --epochs.")] = None
    batch: Annotated[int, typer.Option(min=1, help="Examples that are computed at once.")] = 8
    accumulation: Annotated[int, typer.Option(min=1, help="Batches of an update.")] = 1
    lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate. Default: 1e-5, 2e-4 with --tune lora, 3e-4 with --tune head."
        ),
    ] = None
    optimizer: Annotated[
        Optimizer,
        typer.Option(help="muon only for weights that it made, like the built-in model's."),
    ] = Optimizer.adamw
    value_weight: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Weight of the value head's loss beside imitation's. Default: 0.5; less spares "
            "the policy.",
        ),
    ] = None

    @property
    def chosen(self) -> dict[str, Any]:
        """Those that were given or have a default, as plain values."""
        whole = {**asdict(self), "tune": self.tune.value, "optimizer": self.optimizer.value}
        return given(whole)


def log_progress() -> None:
    """Log what our packages do, too."""
    for name in LAYERS:
        logging.getLogger(name).setLevel(logging.INFO)


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
    _done(
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
        _done(folder)


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
    _done(
        import_ours("guides.training.train_guide").train_guide(
            traces,
            answers,
            base,
            out,
            training.chosen | {"preference": preference},
            policy="none",
            keep=keep,
            pairs=pairing,
            reference=reference,
            held_out=held_out,
            seed=seed,
            off_policy=off_policy,
            settings=options.kept,
        )
    )


@train.command("iterate")
@shares_options(
    ASKED,
    without=ADVANCED,
    delimiter=STEP_END,
    device="Of the searches: auto, cpu, cuda, ...",
    dtype="Of the searches: auto, float32, bfloat16, ...",
)
def train_iterate(
    *,
    guide: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            show_default=False,
            help="The model to begin with: a folder, a hub id, or builtin.",
        ),
    ],
    input: Annotated[
        Path,
        typer.Option(
            "--input",
            metavar="FILE",
            show_default=False,
            help='A JSON object a line: problem, "target", perhaps id and kind.',
        ),
    ],
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
    method: Annotated[str, typer.Option(help=METHOD_HELP)] = "sample",
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
    window: Annotated[int, typer.Option(min=1, help="Rounds whose examples are trained on.")] = 1,
    examples: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Other examples for every round. Can be repeated."),
    ] = None,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart", help="Train the first model anew each round, not the accepted one."
        ),
    ] = False,
    policy: Imitated = Policy.solutions,
    keep: Kept = 10,
    checker: Checked = None,
    training: TrainingOptions,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same run.")] = 0,
    allow: Allowed = None,
    model: ModelOptions,
) -> None:
    """Expert iteration: search, learn from what was right, keep the new model if it is better on
    held-out problems, and again.
    """
    from search.files.problems_file import read_jobs
    from search.scheduling.budget import Budget

    log_progress()
    add_working_folder()
    kinds.allow(allow or [])
    search = search_arguments(method, budget, None, seed, option or [])
    limits = search["budget"]
    options = search.copy()
    for name in ("method", "budget", "seed", "choose"):
        del options[name]
    first = model.model(guide).checked()
    jobs = read_jobs(input, first.answer, first.check)
    read_targets = import_ours("guides.data.grading").read_targets
    targets = dict(read_targets(input))
    gate_jobs = None
    if gate is not None:
        gate_jobs = read_jobs(gate, first.answer, first.check)
        targets |= read_targets(gate)
    iteration = import_ours("guides.iteration.expert_iteration")
    plan = iteration.Plan(
        method=method,
        options=options,
        budget=limits,
        gate_budget=None if gate_budget is None else Budget.parse(gate_budget),
        language=model.kept,
        engine=model.engine,
        per_round=per_round,
        policy=policy.value,
        keep=keep,
        checker=checker,
        window=window,
        seed_examples=[str(path.resolve()) for path in examples or []],
        restart=restart,
        training=training.chosen,
        seed=seed,
    )
    _done(
        iteration.expert_iteration(
            guide, jobs, targets, out, rounds=rounds, gate=gate_jobs, plan=plan
        )
    )


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


def _done(folder: Path) -> None:
    say(f"the model is in {folder}; solve with it: copse solve --guide {folder} PROBLEM")
