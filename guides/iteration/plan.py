"""The arguments of a run that hold for all its rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guides.data.distill import check
from guides.data.grading import checker_of
from guides.training.options import check_installed, fine_tuning
from models.checkpoints.settings import SETTINGS, check_settings
from search.arguments import configured
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


@dataclass(frozen=True)
class Plan(SearchPlan):
    """What every round of expert iteration does.

    policy, keep     what is imitated, and most solutions of a problem (`guides.data.distill`)
    checker          "module:function" that labels every state exactly (`guides.data.grading`),
                     None: labels are shares of right ends
    window           rounds whose examples are trained on;  seed_examples: files of examples that
                     are trained on in every round
    restart          train from the base instead of the accepted guide
    """

    policy: str = "solutions"
    keep: int = 10
    checker: str | None = None
    window: int = 1
    seed_examples: Sequence[str | Path] = ()
    restart: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.policy, self.keep)
        checker_of(self.checker)
        if self.window < 1:
            raise ValueError("window is a whole number from 1 on: correct it")
        for path in self.seed_examples:
            if not Path(path).is_file():
                raise ValueError(
                    f"there are no examples at {path}: give files that write_examples wrote"
                )
