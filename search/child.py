"""`python -m search.child PARENT MODULE ARGUMENT ...` runs a module as `python -m` does, in a
process that is gone as soon as its parent, the process with the id PARENT, is: also while it
imports.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import sys
import threading
import time

_SET_SIGNAL_OF_PARENTS_DEATH = 1  # PR_SET_PDEATHSIG of prctl(2)
_PAUSE = 0.2  # seconds between two looks for the parent where the kernel tells nothing


def command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours so, for a child of this process."""
    return [sys.executable, "-P", "-m", "search.child", str(os.getpid()), module, *arguments]


def end_with(parent: int) -> None:
    """Have this process killed when `parent`, which started it, ends; at once where it has."""
    if not _ask_kernel():
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _ask_kernel() -> bool:
    """Whether the kernel will tell: Linux does."""
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        prctl = ctypes.CDLL(None).prctl
        return prctl(_SET_SIGNAL_OF_PARENTS_DEATH, int(signal.SIGKILL)) == 0
    return False


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PAUSE)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
