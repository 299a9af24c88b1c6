"""Rationalisation: a problem that was not solved is asked again with its target as a hint (STaR;
Zelikman et al. 2022, "STaR: Bootstrapping Reasoning With Reasoning", section 3.2).

Only what the model reads first is another text. States, rules, verifier and answer are those of the
problem, and so are its name and its arguments in traces: what reads the trace sees the chain
without the hint.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from search.problem import Problem, State


@dataclass(frozen=True)
class _Prompt:
    """The `prompt` of a problem with its target in it."""

    problem: Problem
    hint: str
    target: str

    def __call__(self, state: State) -> str:
        # statement and target may hold these words, too
        parts = [part.replace("{target}", self.target) for part in self.hint.split("{problem}")]
        return self.problem.prompt(state).join(parts)


def hinted(problem: Problem, hint: str, target: str) -> Problem:
    """The problem with a prompt that says its target.

    hint  text with {problem} and {target}
    """
    told = copy.copy(problem)
    # on the object, as a problem may be frozen
    object.__setattr__(told, "prompt", _Prompt(problem, hint, target))
    return told
