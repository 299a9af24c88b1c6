"""How a language model with a value head is trained: the options, and what they need that is not
installed with Copse.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from typing import Any

TUNES = ("full", "lora", "head")
OPTIMIZERS = ("muon", "adamw")
PRECISIONS = ("auto", "bfloat16", "float32")
#: trust regions of the policy gradient, and how far below and above the ratio of 1 (of "mask": the
#: difference of 0) each reaches by default
REGIONS = {
    "clip": (0.2, 0.28),
    "mask": (0.2, 0.2),
    "weight": (1.0, 4.0),
    "sequence": (3e-4, 4e-4),
    "none": (0.0, 0.0),
}
ESTIMATORS = ("k1", "k3")
PREFERENCES = ("dpo", "ipo")


@dataclass(frozen=True)
class PolicyLoss:
    """The loss of tokens that have advantages (`guides.training.losses`).

    region       the trust region, with r the ratio of a token's probability to that when it was
                 sampled:
        "clip"      min(r A, clip(r) A), r between 1 - low and 1 + high (PPO; Schulman et al. 2017;
                    with two bounds DAPO, Yu et al. 2025)
        "mask"      r A, without the tokens whose probability is more than `high` above the
                    sampled one for A > 0, or more than `low` below it for A < 0 (DPPO; Qi et al.
                    2026)
        "weight"    min(r, 1 + high) A log p, with a gradient through log p alone (CISPO; MiniMax
                    2025); `low` is not used
        "sequence"  as "clip", with the geometric mean of the ratios of the whole chain (GSPO; Zheng
                    et al. 2025); for advantages that are sums over chains, of examples that are not
                    split
        "none"      r A
    low, high    its bounds; None: those of `REGIONS`
    kl           weight of the KL to a reference, each sample's token counted once
    estimator    of the KL: "k3" or "k1" (`guides.training.losses.divergence`)
    entropy      weight of the mean entropy, which is taken off the loss
    constant     what the sums of gradient and KL are divided by (Dr. GRPO: chains times longest
                 chain); None: by the samples' tokens, or chains where tokens weigh by chains
                 (`guides.data.advantages.Credit`)
    temperature  that the samples were drawn with; logits are divided by it

    Raises ValueError for values that are none of these.
    """

    region: str = "clip"
    low: float | None = None
    high: float | None = None
    kl: float = 0.0
    estimator: str = "k3"
    entropy: float = 0.0
    constant: float | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        choices: dict[str, Any] = {"region": REGIONS, "estimator": ESTIMATORS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is one of {', '.join(allowed)}, not {getattr(self, name)!r}; correct "
                    "the options of the policy loss"
                )
        amounts = [self.kl, self.entropy, *self.bounds]
        if not all(0 <= amount < math.inf for amount in amounts):
            raise ValueError(
                "kl, entropy, low and high are finite and at least 0; correct the options of the "
                "policy loss"
            )
        dividers = [self.temperature]
        if self.constant is not None:
            dividers.append(self.constant)
        if not all(0 < divider < math.inf for divider in dividers):
            raise ValueError(
                "temperature and constant are finite and above 0; correct the options of the "
                "policy loss"
            )

    @property
    def bounds(self) -> tuple[float, float]:
        """`low` and `high`, or the defaults of the region."""
        low, high = REGIONS[self.region]
        return (
            low if self.low is None else self.low,
            high if self.high is None else self.high,
        )


@dataclass(frozen=True)
class PreferenceLoss:
    """The loss of pairs of texts (`guides.training.preferences`).

    kind       "dpo" or "ipo"
    beta       how much the policy is held to the reference, above 0
    per_token  log-probs are divided by the number of tokens, so that length is no advantage

    Raises ValueError for values that are none of these.
    """

    kind: str = "dpo"
    beta: float = 0.1
    per_token: bool = False

    def __post_init__(self) -> None:
        if self.kind not in PREFERENCES:
            raise ValueError(
                f"the loss of preferences is one of {', '.join(PREFERENCES)}, not {self.kind!r}: "
                "choose one"
            )
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta is finite and above 0, not {self.beta}: give 0.1")


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
    policy        the loss of tokens that have advantages
    preference    the loss of pairs of texts
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
    policy: PolicyLoss = PolicyLoss()
    preference: PreferenceLoss = PreferenceLoss()

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
    if isinstance(options.get("policy"), dict):  # from a file
        options["policy"] = PolicyLoss(**options["policy"])
    if isinstance(options.get("preference"), dict):
        options["preference"] = PreferenceLoss(**options["preference"])
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
