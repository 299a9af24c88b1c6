"""`copse view --html`: search trees as a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search.cli.terminal import say
from search.imports import import_ours

if TYPE_CHECKING:
    from search.page.data import Right
    from search.trace import Trace


def write_page(
    path: Path, traces: Sequence[Trace], beside: Sequence[Trace], targets: Path | None
) -> None:
    """Write the page of some traces, and say so. Raises ValueError for what cannot be shown, for a
    file of targets that is none, and where the page cannot be written.
    """
    from search.page.data import subject
    from search.page.document import page

    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file for the page, such as tree.html")
    right = None if targets is None else _right(targets)
    classes = import_ours("guides.answers.checker").classes
    shown = [subject(trace, classes, right) for trace in traces]
    others = [subject(trace, classes, right) for trace in beside]
    made = page(shown, others)
    try:
        made.save(path)
    except OSError as error:
        raise ValueError(
            f"cannot write the page to {path} ({error.strerror}): choose another file for --html"
        ) from None
    say(f"the page is in {path}: open it in a browser")


def _right(targets: Path) -> Right:
    """Whether an answer is the target of its problem."""
    grading = import_ours("guides.data.grading")
    known = grading.read_targets(targets)

    def right(trace: Trace, answer: str) -> bool | None:
        target = known.get(grading.key_of(trace))
        outcome = math.nan if target is None else grading.outcome(answer, target)
        return None if math.isnan(outcome) else outcome == 1.0

    return right
