"""The time that searches share while they run side by side."""

from __future__ import annotations

import math

from search.scheduling import stopwatch


class Clock:
    """Seconds that a search has had for itself: time is divided evenly among the searches under
    way.

    Of n searches side by side each waits for the others' rows, so for each of them this clock goes
    at 1/n of the speed (the virtual time of fair queueing; Demers, Keshav and Shenker 1989). A
    search gets at least what it would get alone, and N searches of s seconds each take N * s
    seconds at most.

    limit  wall-clock seconds for all searches together, from the making of the clock; None: none
    """

    def __init__(self, limit: float | None = None):
        self._running = 0
        self._read = stopwatch.now()
        self._seconds = 0.0
        self.end = math.inf if limit is None else self._read + limit

    @property
    def seconds(self) -> float:
        """What the clock shows; it stands still while no search is under way."""
        self._advance()
        return self._seconds

    @property
    def ended(self) -> bool:
        """Whether the limit of all searches together is reached."""
        return stopwatch.now() >= self.end

    def enter(self) -> float:
        """One more search is under way; what the clock shows at its start."""
        self._advance()
        self._running += 1
        return self._seconds

    def leave(self) -> None:
        """One search has ended."""
        assert self._running > 0, "a search ended that never started"
        self._advance()
        self._running -= 1

    def _advance(self) -> None:
        now = stopwatch.now()
        if self._running:
            self._seconds += (now - self._read) / self._running
        self._read = now
