"""What the commands `copse train ...` share: their options, and what they say."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.cli.options import Model, given
from search.cli.terminal import say
from search.imports import import_ours

if TYPE_CHECKING:
    from search.files.problems_file import Job

ASKED = "How the model is asked, as in the search"  #: panel of the help for options of the model
STEP_END = r"What ends a step; \n is a line's end."


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
    mcts_dpo = "mcts_dpo"
    self_training = "self_training"


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
Beginning = Annotated[
    str,
    typer.Option(
        metavar="DIR",
        show_default=False,
        help="The model to begin with: a folder, a hub id, or builtin.",
    ),
]
Problems = Annotated[
    Path,
    typer.Option(
        "--input",
        metavar="FILE",
        show_default=False,
        help='A JSON object a line: problem, "target", perhaps id and kind.',
    ),
]
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
    logging.getLogger("copse").setLevel(logging.INFO)


def done(folder: Path) -> None:
    say(f"the model is in {folder}; solve with it: copse solve --guide {folder} PROBLEM")


def problems_of(
    model: Model, file: Path, gate: Path | None
) -> tuple[list[Job], list[Job] | None, dict[str, str]]:
    """The problems to train on, those of the gate (None: there is no file), and the targets of
    both. Raises ValueError for a line that cannot be read.
    """
    from search.files.problems_file import read_jobs

    read_targets = import_ours("guides.data.grading").read_targets
    jobs = read_jobs(file, model.answer, model.check)
    targets = dict(read_targets(file))
    if gate is None:
        return jobs, None, targets
    return jobs, read_jobs(gate, model.answer, model.check), targets | read_targets(gate)
