"""The settings of a checkpoint: what its `guide.json` may hold."""

from __future__ import annotations

import json
from typing import Any

from search.patterns import Pattern
from search.scheduling.budget import Budget

GUIDE = "guide.json"
AGGREGATES = ("last", "min", "prod", "mean")
SETTINGS = {
    "format": "1, the version of this file",
    "kinds": 'list of problem classes it was trained on, each "module:Class"; null: any',
    "budget": "object with simulations, calls, tokens, seconds: the default budget of a search",
    "prompt": "text with {problem} in it: what the model reads before the first step",
    "instruction": "text that a chat model is told after the problem",
    "system": "text of the chat's system turn",
    "delimiter": "text that ends a step",
    "step_tokens": "whole number, tokens of a step at most",
    "max_steps": "whole number, steps of a solution at most",
    "value_head": "true or false, whether value_head.safetensors must be there",
    "answer": "regular expression with one group that finds the answer; null: the problem knows",
    "prm": "name of a format of process reward models, or an object that describes one "
    "(guides.values.prm_formats): how it reads a chain",
    "aggregate": "last, min, prod or mean: what the value of a chain is of the scores of its steps",
    "stream": "object with moves, attempts, checked (search.problems.stream.Stream): how its "
    "chains go back, check and try again; null: they do not",
    "within": "number in [0, 1]: how often its value tells a right chain from a wrong one of the "
    "same problem, measured at training",
}


def check_settings(settings: Any, where: str = GUIDE) -> None:
    """Raise ValueError unless `settings` is what a `guide.json` may hold; `where` names it in
    the message.
    """
    if not isinstance(settings, dict):
        raise ValueError(f"{where} is no JSON object: write one with {', '.join(SETTINGS)}")
    for name, value in settings.items():
        if name not in SETTINGS:
            raise ValueError(f"{where}: unknown setting {name!r}: use {', '.join(SETTINGS)}")
        if value is None and name not in ("format", "value_head") or _allowed(name, value):
            continue
        raise ValueError(
            f"{where}: {name} is {json.dumps(value)[:60]}, but must be {SETTINGS[name]}: correct it"
        )
    if "format" not in settings:
        raise ValueError(f'{where} does not say its format: add "format": 1')


def _allowed(name: str, value: Any) -> bool:
    if name == "format":
        return value == 1 and not isinstance(value, bool)
    if name == "kinds":
        return isinstance(value, list) and all(
            isinstance(k, str) and k.count(":") == 1 for k in value
        )
    if name == "budget":
        try:
            return isinstance(value, dict) and bool(Budget(**value))
        except (TypeError, ValueError):
            return False
    if name in ("step_tokens", "max_steps"):
        return isinstance(value, int) and not isinstance(value, bool) and value > 0
    if name == "value_head":
        return isinstance(value, bool)
    if name == "instruction":
        return isinstance(value, str)  # an empty one says nothing
    if name == "prm":
        return isinstance(value, (str, dict)) and bool(value)
    if name == "aggregate":
        return value in AGGREGATES
    if name == "stream":
        return isinstance(value, dict) and set(value) <= {"moves", "attempts", "checked", "insist"}
    if name == "within":
        return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
    if name == "answer":
        try:
            return isinstance(value, str) and bool(Pattern(value, groups=1))
        except ValueError:
            return False
    return isinstance(value, str) and bool(value) and (name != "prompt" or "{problem}" in value)
