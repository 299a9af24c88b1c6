"""How a language model with a value head is trained: the options, and what they need that is not
installed with Copse.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

TUNES = ("full", "lora", "head")
OPTIMIZERS = ("muon", "adamw")
PRECISIONS = ("auto", "bfloat16", "float32")


@dataclass(frozen=True)
class Options:
    """How to train. A step is one update, from `batch * accumulation` examples.

    steps         how many; None: as many as make `epochs` passes through the examples
    lr            learning rate; with "adamw" that of the value head is at least 0.1 / hidden
    warmup        steps over which the learning rate rises, at most a tenth of all
    decay         share of the steps, at the end, over which the learning rate falls to 0; between
                  them it is constant
    value_weight  lambda in the loss
    tune          what is trained beside the value head: "full" all weights, "lora" low-rank
                  additions that are merged into the weights in the end, "head" nothing
    optimizer     "muon", the better one from scratch, or "adamw", to go on from weights that were
                  made with it, as most were
    precision     "auto" (bfloat16 where the machine has it), "bfloat16" or "float32"; weights stay
                  float32 while they are trained
    compile       compile the model where a compiler is there
    """

    steps: int | None = None
    epochs: float = 2.0
    batch: int = 64
    accumulation: int = 1
    lr: float = 1e-3
    warmup: int = 100
    decay: float = 0.3
    weight_decay: float = 0.05
    value_weight: float = 0.5
    tune: str = "full"
    optimizer: str = "muon"
    precision: str = "auto"
    compile: bool = True
    save_steps: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        counts = [self.batch, self.accumulation, self.save_steps]
        if self.steps is not None:
            counts.append(self.steps)
        if min(counts) < 1:
            raise ValueError(
                "steps, batch, accumulation and save_steps must be at least 1; correct the "
                "training options"
            )
        if (
            not 0 <= self.decay <= 1
            or not 0 < self.lr < 1
            or self.value_weight < 0
            or not 0 < self.epochs < 1e6
        ):
            raise ValueError(
                "decay is in [0, 1], lr in (0, 1), epochs positive, value_weight at least 0; "
                "correct the training options"
            )
        choices = {"tune": TUNES, "optimizer": OPTIMIZERS, "precision": PRECISIONS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is one of {', '.join(allowed)}, not {getattr(self, name)!r}; correct "
                    "the training options"
                )

    def updates(self, rows: int) -> int:
        """How many steps it takes on `rows` examples."""
        return self.steps or max(1, round(self.epochs * rows / (self.batch * self.accumulation)))


LEARNING_RATES = {"full": 1e-5, "lora": 2e-4, "head": 3e-4}
#: a frozen model is read once, however often its head goes through the examples
EPOCHS = {"full": 2.0, "lora": 2.0, "head": 30.0}


def fine_tuning(**options: Any) -> Options:
    """Options to go on from a checkpoint: AdamW with a small learning rate, small batches;
    `options` override them.

    Muon goes on well only from weights that Muon made ("Muon is Scalable for LLM Training", Liu et
    al. 2025, section 3.5).
    """
    tune = options.get("tune", "full")
    defaults: dict[str, Any] = {
        "lr": LEARNING_RATES.get(tune, 1e-5),
        "epochs": EPOCHS.get(tune, 2.0),
        "batch": 8,
        "optimizer": "adamw",
        "weight_decay": 0.0,
        "compile": False,
        "save_steps": 200,
    }
    return Options(**{**defaults, **options})


def check_installed(options: Options) -> None:
    """Raises ValueError where a library is missing that training with `options` needs."""
    names = ["accelerate"]
    if options.tune == "lora":
        names.append("peft")
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(f'training needs {name}: pip install "copse-search[train]"')
