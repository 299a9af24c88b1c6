"""Progress of long searches: one bar, or lines of the log."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from search.plain_text import one_line
from search.problem import Problem
from search.scheduling import stopwatch
from search.scheduling.budget import Budget, Meter
from search.scheduling.requests import Timer, Usage
from search.scheduling.scheduler import ask

if TYPE_CHECKING:
    from search.choose import Chooser
    from search.solution import Solution

log = logging.getLogger(f"copse.{__name__}")

DELAY = 1.5  #: seconds until a bar appears: what is done by then needs none
INTERVAL = 0.5  #: seconds between two looks for a bar
LOGGED = 10.0  #: seconds between two lines of the log
SHARE = 0.02  #: of the time at most goes into looking
_LONGEST = 40  # characters of an answer that are shown


def watched(show: bool | None) -> bool:
    """Whether to show a bar: `show`, or if that is None, whether a terminal or a notebook is
    there.
    """
    if show is not None:
        return show
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class Watch:
    """The searches of one call, as a bar shows them; a context that removes or completes it.

    total  searches
    alone  the call is of one problem, and its bar is of the budget
    show   a bar; None: where somebody is looking. Without a bar the log reports progress at level
           INFO, unless `show` is False

    It looks at the searches between two passes, by a timer that the driver answers: nothing is
    called in their way.
    """

    def __init__(
        self, total: int, budget: Budget, choose: Chooser | None, alone: bool, show: bool | None
    ):
        self._total = total
        self._alone = alone
        self._choose = choose
        self._bar: Any = None
        self._barred = watched(show)
        self._logged = show is not False and log.isEnabledFor(logging.INFO)
        self._kind, self._spent, self._limit = _limit_of(budget)
        self._meters: dict[int, tuple[Meter, Problem]] = {}  # of the searches under way
        self._usage = Usage()  # of those that have ended
        self._ended = self._answered = 0
        self._done = threading.Event()
        self._start = time.time()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def on(self) -> bool:
        """Whether there is anything to be shown to anybody."""
        return self._barred or self._logged

    def begin(self, index: int, meter: Meter, problem: Problem) -> None:
        """A search starts."""
        self._meters[index] = meter, problem

    def end(self, index: int, solution: Solution) -> None:
        """A search has ended."""
        del self._meters[index]
        self._usage += solution.usage
        self._ended += 1
        self._answered += solution.answered
        if self._ended == self._total:
            self._done.set()

    async def asks(self) -> None:
        """Look at the searches now and then, until all have ended."""
        pause = DELAY if self._barred else LOGGED
        while self._ended < self._total:
            await ask(Timer(stopwatch.now() + pause, self._done))
            first = self._bar is None
            began = time.perf_counter()
            self._look()
            cost = 0.0 if first else time.perf_counter() - began  # the first look loads what draws
            pause = max(INTERVAL if self._barred else LOGGED, cost / SHARE)

    def _look(self) -> None:
        usage = sum((meter.usage for meter, _ in self._meters.values()), self._usage)
        summary = self._summary(usage)
        if not self._barred:
            if self._ended < self._total:
                log.info("%d of %d searches done, %s", self._ended, self._total, summary)
            return
        if self._bar is None and self._ended == self._total:
            return  # all was done before a bar appeared
        bar = self._bar = self._bar or self._drawn()
        bar.n = self._ended
        if self._alone:
            bar.n = min(self._limit, getattr(usage, self._spent))
        bar.set_postfix_str(summary)

    def _drawn(self) -> Any:
        from tqdm.auto import tqdm

        if self._alone:
            limit = f"{self._limit:,g} {self._kind}"
            form = "{percentage:3.0f}% of " + limit + " |{bar:10}| {elapsed}{postfix}"
            bar = tqdm(total=self._limit, bar_format=form, leave=False, dynamic_ncols=True)
        else:
            bar = tqdm(total=self._total, unit="problem", dynamic_ncols=True)
        bar.start_t = self._start
        return bar

    def _summary(self, usage: Usage) -> str:
        parts = []
        # the bar itself shows them
        if not (self._barred and self._alone and self._kind == "tokens"):
            parts.append(f"{usage.generated:,} tokens")
        if usage.passes:
            parts.append(f"{usage.mean_rows:.1f} rows a pass")
        if self._alone:
            parts += [f"best so far: {answer}" for answer in self._best()]
        else:
            parts.append(f"{self._answered} answered")
        return ", ".join(parts)

    def _best(self) -> list[str]:
        """The answer that the search would give now; [] where it has none, or shows no tree."""
        for meter, problem in self._meters.values():
            answer = best_so_far(meter, problem, self._choose)
            if answer is not None:
                return [one_line(answer[: 2 * _LONGEST])[:_LONGEST]]
        return []


def best_so_far(meter: Meter, problem: Problem, choose: Chooser | None) -> str | None:
    """The answer that a search under way would give now; None where it has none, or shows no
    tree.
    """
    from search.choose import finishes, pick

    if meter.tree is None:
        return None
    chosen = pick(finishes(meter.tree, problem), problem, choose)
    return None if chosen is None else chosen.answer


def _limit_of(budget: Budget) -> tuple[str, str, float]:
    """The kind of limit that a bar shows, the field of `Usage` that tells what is spent, the
    limit.
    """
    kinds = {
        "tokens": "generated",
        "simulations": "simulations",
        "calls": "calls",
        "seconds": "seconds",
    }
    kind = next(name for name in kinds if getattr(budget, name) is not None)
    return kind, kinds[kind], getattr(budget, kind)
