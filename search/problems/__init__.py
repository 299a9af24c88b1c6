"""The kinds of problem that Copse brings. A module listed here may have `parse(text) -> Problem
| None`.
"""

from __future__ import annotations

import importlib

from search.problem import Problem, TextProblem

__all__ = ["MODULES", "parse"]

MODULES = ("search.problems.countdown", "search.problems.chains", "search.problems.words")


def parse(text: str, answer: str | None = None) -> Problem:
    """The problem that `text` states: of the first kind that knows it, else an open `TextProblem`.

    answer  regular expression with one group that marks the answer of open text
    Raises ValueError where a kind says that the text is one of its problems, but malformed.
    """
    for name in MODULES:
        parse_kind = getattr(importlib.import_module(name), "parse", None)
        if parse_kind is not None and (problem := parse_kind(text)) is not None:
            return problem
    return TextProblem(text, answer=answer)
