"""Time as budgets count it: it stands still while kernels compile, which a machine does once and
no search is to pay for.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_pauses = 0  # blocks that are open now
_since = 0.0  # when the first of them began
_paused = 0.0  # seconds of all pauses before


def now() -> float:
    """Seconds of `time.monotonic`, less those of all pauses."""
    with _lock:
        return (_since if _pauses else time.monotonic()) - _paused


def _forked() -> None:
    """In a process that was made by a fork: the threads that held the lock or compile are not
    there.
    """
    global _lock, _pauses
    _lock = threading.Lock()
    _pauses = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@contextmanager
def paused() -> Iterator[None]:
    """Stand still inside the block, for all threads; blocks may overlap."""
    global _pauses, _since, _paused
    with _lock:
        if not _pauses:
            _since = time.monotonic()
        _pauses += 1
    try:
        yield
    finally:
        with _lock:
            _pauses -= 1
            if not _pauses:
                _paused += time.monotonic() - _since
