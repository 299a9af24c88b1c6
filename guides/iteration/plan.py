"""The arguments of a run that hold for all its rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guides.data.distillation import Distillation
from guides.data.preferences import Pairing
from guides.training.options import check_installed, fine_tuning
from models.checkpoints.settings import SETTINGS, check_settings
from search.arguments import configured
from search.methods.presets import PRESETS
from search.scheduling.budget import Budget


@dataclass(frozen=True)
class SearchPlan:
    """How the rounds of a run search, and what they train with.

    method, options  of the search, by name;  budget: of one search, None: the guide's own;
                     gate_budget: None: as `budget`
    language         how the model is asked: delimiter, step_tokens, max_steps, prompt, answer,
                     temperature, ...
    engine           device, dtype, slots
    per_round        problems that a round searches, the next ones of the list each time; None: all
    training         options of `guides.training.options.fine_tuning`
    seed             with the problem's key makes the random numbers of a search; the same gives the
                     same run, but for what `seconds` of a budget cut off
    """

    method: str = "sample"
    options: Mapping[str, Any] = field(default_factory=dict)
    budget: Budget | None = None
    gate_budget: Budget | None = None
    language: Mapping[str, Any] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    per_round: int | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        configured(self.method, self.options)
        check_installed(fine_tuning(**self.training))
        check_settings({"format": 1, **self.settings}, "how the model is asked")
        if self.per_round is not None and self.per_round < 1:
            raise ValueError("per_round is a whole number from 1 on: correct it")

    @property
    def settings(self) -> dict[str, Any]:
        """What of `language` a guide.json keeps; the rest is given to each search."""
        return {name: value for name, value in self.language.items() if name in SETTINGS}

    @property
    def at_gate(self) -> Mapping[str, Any]:
        """Options of the method at the gate."""
        return self.options


@dataclass(frozen=True)
class Plan(SearchPlan):
    """What every round of expert iteration does.

    policy, keep     what is imitated, and most solutions of a problem (`guides.data.distill`)
    reward, verifier what a finished chain is worth (`guides.data.trace_rewards`)
    thresholds       a chain is imitated from this reward on; a round trains once for each of
                     several, which rise, from the last model on. (): right ones, or with the
                     policy "best" whatever is above 0
    pairs            preferences between "steps" or "chains" of the traces are learnt, too
                     (`guides.data.preferences.Pairing`); the reference is the model that a round
                     trains
    hint             text with {problem} and {target}: how a problem that was not solved is asked
                     again; None: it is not. Such a chain is imitated as if it had not been told
    train_verifier   after the last round, train a verifier on the right and wrong chains of all
    checker          "module:function" that labels every state exactly (`guides.data.grading`),
                     None: labels are shares of right ends
    window           rounds whose traces are learnt from, 0: all so far;  seed_examples: files of
                     examples that are trained on in every round
    restart          train from the base instead of the accepted guide
    algorithm        name of the one whose fields these are (`guides.iteration.algorithms`)
    """

    policy: str = "solutions"
    keep: int = 10
    reward: str = "outcome"
    verifier: str | Path | None = None
    thresholds: Sequence[float] = ()
    pairs: str | None = None
    hint: str | None = None
    train_verifier: bool = False
    checker: str | None = None
    window: int = 1
    seed_examples: Sequence[str | Path] = ()
    restart: bool = False
    algorithm: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        # all that says what is learnt from the traces
        Distillation(
            self.policy,
            self.keep,
            self.reward,
            self.verifier,
            self.thresholds,
            checker=self.checker,
            pairs=self.pairing,
        )
        if len(self.thresholds) > 1 and self.policy in ("visits", "all", "none"):
            raise ValueError(
                f"the policy {self.policy!r} asks for no reward, so thresholds mean nothing: give "
                "one at most, or imitate solutions"
            )
        whole = self.hint or "{problem}{target}"
        if "{problem}" not in whole or "{target}" not in whole:
            raise ValueError(
                f"the hint {self.hint!r} must say where problem and target go: write {{problem}} "
                "and {target} in it"
            )
        if self.window < 0:
            raise ValueError("window is a whole number from 0 on: correct it")
        for path in self.seed_examples:
            if not Path(path).is_file():
                raise ValueError(
                    f"there are no examples at {path}: give files that write_examples wrote"
                )

    @property
    def pairing(self) -> Pairing | None:
        """Which pairs are made of the traces."""
        return None if self.pairs is None else Pairing(self.pairs)

    @property
    def at_gate(self) -> dict[str, Any]:
        """The options without the number of solutions, of which one is enough at the gate."""
        options = dict(self.options)
        if self.method in PRESETS and PRESETS[self.method].search == "sample":
            options.pop("solutions", None)
        return options
