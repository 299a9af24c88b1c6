"""Numba set-up shared by the modules that hold kernels: where compiled code is kept, and one log line at a first compile."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

log = logging.getLogger(__name__)


def _cache_folder() -> str | None:
    """A folder for compiled kernels where the one beside the source cannot be written; None: that one can.

    Numba would give up with an error in a read-only installation without a home folder.
    """
    beside = Path(__file__).parent
    if os.access(beside, os.W_OK) and ((beside / "__pycache__").exists() is False or os.access(beside / "__pycache__", os.W_OK)):
        return None
    places = [Path(os.environ["XDG_CACHE_HOME"]) / "copse"] if os.environ.get("XDG_CACHE_HOME") else []
    if os.environ.get("HOME"):
        places.append(Path(os.environ["HOME"]) / ".cache" / "copse")
    places.append(Path(tempfile.gettempdir()) / f"copse-{os.getuid() if hasattr(os, 'getuid') else 'user'}")
    for place in places:
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(place, os.W_OK) and (not hasattr(os, "getuid") or place.stat().st_uid == os.getuid()):
            return str(place)
    return tempfile.mkdtemp(prefix="copse-")


if not numba.config.CACHE_DIR and (_folder := _cache_folder()):  # what NUMBA_CACHE_DIR says comes first
    numba.config.CACHE_DIR = _folder

_told = False


def kernel(signature: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a kernel at definition (explicit signature, GIL released), from the cache where it is there."""

    def compile_(function: Callable[..., Any]) -> Any:
        global _told
        start = time.perf_counter()
        compiled = numba.njit(signature, nogil=True, cache=True, **options)(function)
        if not _told and sum(compiled.stats.cache_misses.values()):
            _told = True
            log.info(
                "compiling search kernels (once; kept in %s): first took %.1f s",
                compiled.stats.cache_path,
                time.perf_counter() - start,
            )
        return compiled

    return compile_
