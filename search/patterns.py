"""Regular expressions of users and of checkpoints, with a limit of time.

Texts of models are searched with them. Python's own engine knows no limit: `(?:a+)+(b)` takes it
longer than a life for forty letters.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

SECONDS = 1.0  #: that one search of a text may take
LONGEST = 10_000  #: characters of an expression
MOST = 100_000  #: its characters, each as often as `{n}` repeats it: the engine writes them all out

_REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT)


class Pattern:
    """A regular expression. Raises ValueError, saying what to do, for one that is none.

    groups  how many groups it must have; None: any number
    """

    def __init__(self, text: str, groups: int | None = None):
        self.text = text
        self._compiled = _compiled(text)
        found = self._compiled.groups
        if groups is not None and found != groups:
            raise ValueError(
                f"the answer pattern {text!r} has {found} groups: mark the answer with exactly "
                "one (...)"
            )

    def matches(self, text: str) -> Sequence[Any]:
        """All matches in `text`, in their order. Raises ValueError where they take too long."""
        try:
            return list(self._compiled.finditer(text, timeout=SECONDS))
        except TimeoutError:
            raise self._too_slow(text) from None

    def found_in(self, text: str) -> bool:
        """Whether it matches anywhere in `text`. Raises ValueError where that takes too long."""
        try:
            return self._compiled.search(text, timeout=SECONDS) is not None
        except TimeoutError:
            raise self._too_slow(text) from None

    def _too_slow(self, text: str) -> ValueError:
        return ValueError(
            f"the answer pattern {self.text!r} takes longer than {SECONDS:g} s on a text of "
            f"{len(text):,} characters: write it without a repetition inside a repetition"
        )


def _compiled(text: str) -> Any:
    import regex  # takes a while, and most searches have no pattern

    if len(text) > LONGEST:
        raise ValueError(
            f"the answer pattern has {len(text):,} characters: give at most {LONGEST:,}"
        )
    try:
        size = _size(_parser.parse(text))  # what Python itself would not take is none here
        if size > MOST:
            raise ValueError(
                f"the answer pattern {text[:200]!r} repeats what it repeats, {size:,} times in "
                f"all: give at most {MOST:,}"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of sets that mean something else once
            return regex.compile(text)
    except (re.error, regex.error, RecursionError, OverflowError, MemoryError) as error:
        raise ValueError(
            f"the answer pattern {text[:200]!r} is no regular expression ({error}): correct it"
        ) from None


def _size(parsed: Any) -> int:
    """How many characters a parsed expression is when its repetitions are written out."""
    if not isinstance(parsed, (tuple, list, _parser.SubPattern)):
        return 1
    if len(parsed) == 2 and parsed[0] in _REPEATS:
        least, most, repeated = parsed[1]
        times = least if most == _constants.MAXREPEAT else most
        return max(1, int(times)) * _size(repeated)
    return 1 + sum(map(_size, parsed))
