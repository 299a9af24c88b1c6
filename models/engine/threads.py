"""How many threads a model on a CPU computes with.

The number never changes a result: torch's oneDNN products share out rows and columns, never a sum
(a test compares one thread and two). So it may follow what the machine has to give.
"""

from __future__ import annotations

import os
from pathlib import Path

SMALL = 50_000_000  #: parameters up to which a product is too small to share


def suitable(parameters: int) -> int | None:
    """Threads for a model of so many parameters; None: OMP_NUM_THREADS says it.

    One for a small model: on two cores the built-in one made 1,860 tokens a second with one thread,
    1,310 with two, and 129 with two while another program used one of the cores. For others as many
    as there are cores that nothing else keeps busy (by the load of the last minute): threads that
    must wait for a core make all others wait, so that two on a busy machine of two cores take 4.5
    times as long for a pass as one.
    """
    if os.environ.get("OMP_NUM_THREADS"):
        return None
    if parameters <= SMALL:
        return 1
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, cores() - round(busy))


def cores() -> int:
    """Physical cores that this process may use: two threads of one core share what multiplies."""
    allowed = set(range(os.cpu_count() or 1))
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
    found = set()
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            found.add(siblings.read_text().strip())
        except OSError:
            found.add(str(cpu))
    return min(len(found), _granted())


def _granted() -> int:
    """Cores that a container's quota grants (cgroup 2), rounded up; all where there is none."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        return os.cpu_count() or 1
