"""The commands `copse train ...`: models that guide searches."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from search import kinds
from search.cli.options import given, search_arguments, unescape
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
    best = "best"
    visits = "visits"
    all = "all"
    none = "none"


class Algorithm(StrEnum):
    """Names of `guides.iteration.algorithms.ALGORITHMS`."""

    star = "star"
    rest = "rest"
    rest_em = "rest_em"
    best_of_n = "best_of_n"
    vstar = "vstar"
    self_training = "self_training"


class Optimizer(StrEnum):
    """`guides.training.options.OPTIMIZERS`."""

    adamw = "adamw"
    muon = "muon"


# flags that both commands have
Imitated = Annotated[
    Policy,
    typer.Option(
        help="Imitate right solutions, the chains of the best rewards, a tree search's visits, all "
        "that was finished, or none (a verifier)."
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
    traces: Annotated[
        Path,
        typer.Option(
            "--from",
            metavar="DIR",
            show_default=False,
            help="Traces that copse solve --traces wrote.",
        ),
    ],
    base: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            show_default=False,
            help="The model that made them, which is trained further.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            show_default=False,
            help="Folder of the new model. A run that was killed goes on.",
        ),
    ],
    targets: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='The problems with a "target" in each line; those that verify themselves need '
            "none.",
        ),
    ] = None,
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
    held_out: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Of the problems, on which the values are calibrated and judged instead. 0: none.",
        ),
    ] = 0.1,
    training: TrainingOptions,
    off_policy: Annotated[
        bool,
        typer.Option(
            "--off-policy", help="Take traces that another model with the same tokenizer made."
        ),
    ] = False,
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
    V-STaR and self-training.
    """
    from search.files.problems_file import read_jobs
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
    first = model.model(guide).checked()
    jobs = read_jobs(input, first.answer, first.check)
    read_targets = import_ours("guides.data.grading").read_targets
    targets = dict(read_targets(input))
    gate_jobs = None
    if gate is not None:
        gate_jobs = read_jobs(gate, first.answer, first.check)
        targets |= read_targets(gate)
    chosen = {
        "method": method,
        "per_round": per_round,
        "policy": None if policy is None else policy.value,
        "keep": keep,
        "reward": reward,
        "verifier": None if verifier is None else str(verifier.resolve()),
        "thresholds": tuple(threshold) if threshold else None,
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


def done(folder: Path) -> None:
    say(f"the model is in {folder}; solve with it: copse solve --guide {folder} PROBLEM")
