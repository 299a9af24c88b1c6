"""A stopwatch of measurements: time by the clock, and that of the cores."""

from __future__ import annotations

import time


class Watch:
    """Time since it was made: `seconds` on the clock, and `cpu`, that of all threads of this
    process, which nobody else's work inflates.
    """

    def __init__(self) -> None:
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    def read(self) -> dict[str, float]:
        wall = time.perf_counter() - self._wall
        return {"seconds": wall, "cpu": time.process_time() - self._cpu}
