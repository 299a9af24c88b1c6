"""Warnings of what went wrong in the searches of one call, once each."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from search.guide import Known
from search.methods.presets import searching
from search.scheduling.failures import described
from search.scheduling.requests import RequestFailed

if TYPE_CHECKING:
    from search.arguments import Configured
    from search.guide import Value
    from search.scheduling.budget import Meter
    from search.solution import Solution

log = logging.getLogger(f"copse.{__name__}")

FIRST = 3  #: failed searches that are logged at once; the others are counted


_noted: set[str] = set()  # notes of value functions that were logged already


def log_note(value: Value, method: Configured) -> None:
    """Log once what a value function that was not trained is worth (its `note`), where the search
    or the choice goes by values.
    """
    note = getattr(value, "note", "")
    if note and note not in _noted and _goes_by_values(value, method):
        _noted.add(note)
        log.warning(note)


def _goes_by_values(value: Value, method: Configured) -> bool:
    from search import choose  # loads the kernels

    if method.function is not searching("sample"):
        return True
    if method.options.get("enough") is not None:
        return True
    # a vote that weighs all chains alike
    alike = method.choose in (None, choose.weighted) and isinstance(value, Known)
    return method.choose not in (choose.majority, choose.verdict) and not alike


class Remarks:
    """Looks at every search that ends: says at once that one failed, and in the end why answers
    are missing.
    """

    def __init__(self) -> None:
        self._searches = self._failed = 0
        self._last: Exception | None = None
        self._proposed = self._unusable = 0
        self._example: Any = None
        self._calls: Counter[str] = Counter()
        self._crashed: Counter[str] = Counter()
        self._crash: dict[str, RequestFailed] = {}

    def add(self, solution: Solution, meter: Meter) -> None:
        """Take note of a search that has ended."""
        self._searches += 1
        if solution.error is not None:
            self._failed += 1
            self._last = solution.error
            if self._failed <= FIRST:
                log.warning("a search failed: %s", described(solution.error))
            return
        for name, crashed, calls, last in meter.failures.crashes():
            self._crashed[name] += crashed
            self._calls[name] += calls
            self._crash[name] = last
        tree = solution.tree
        # a chain that was refuted has been understood, and so were its steps
        refuted = tree is not None and 0.0 in tree.finished.values()
        if tree is not None and not solution.answered and not refuted:
            self._proposed += tree.proposed
            self._unusable += tree.unusable
            if tree.example is not None:
                self._example = tree.example

    def log_all(self) -> None:
        """Log what there is to say of all of them."""
        if self._last is not None and self._failed > FIRST:
            log.warning("%d of %d searches failed, the last: %s",
                        self._failed, self._searches, described(self._last))  # fmt: skip
        for name, crashed in self._crashed.items():
            log.warning("%d of %d calls of %s failed, each of which cost its step, the last: %s",
                        crashed, self._calls[name], name, self._crash[name])  # fmt: skip
        if self._unusable * 2 > self._proposed:
            self._log_unusable()

    def _log_unusable(self) -> None:
        counts = f"{self._unusable} of {self._proposed} proposed steps"
        text = getattr(self._example, "text", self._example)
        if getattr(self._example, "finish", "stop") == "length":
            log.warning(
                "no answer was found, and %s were cut off or not understood, for example %r: "
                    "allow longer ones with step_tokens "
                "(--step-tokens), or name what ends a step of this model with delimiter "
                    "(--delimiter)", counts, text,
            )  # fmt: skip
        else:
            log.warning(
                "no answer was found, and %s were cut off or not understood, for example %r: "
                    "either the model does not know this kind "
                "of problem, or it must be told how its steps are written with prompt "
                    "(--prompt)", counts, text,
            )  # fmt: skip
