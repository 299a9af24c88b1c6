"""`python -m models.environment` imports the libraries that compute and writes what each says of
itself, a line of JSON each.

It is for a process of its own: a library that was built for another machine may end the process
that imports it. The first library without a line is the one that did.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any


def _nothing(module: Any) -> dict[str, Any]:
    return {}


def _kernels(numba: Any) -> dict[str, Any]:
    """Where compiled kernels are kept (None: nowhere), and how many of them are there."""
    from search.kernels import kernel_cache

    folder = kernel_cache.folder()
    kept = 0 if folder is None else kernel_cache.kept(folder)
    return {"folder": None if folder is None else str(folder), "kept": kept}


def _devices(torch: Any) -> dict[str, Any]:
    """What torch was built for, the devices that it sees, and the threads that it would take."""
    from models.engine import gpu, threads

    devices = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, whole = torch.cuda.mem_get_info(number)
        device = torch.device("cuda", number)
        devices.append({
            "name": torch.cuda.get_device_name(number),
            "free": free,
            "whole": whole,
            "kernels": gpu.has_kernels(device),
        })  # fmt: skip
    return {
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "devices": devices,
        "mps": torch.backends.mps.is_available(),
        "threads": torch.get_num_threads(),
        "cores": threads.cores(),
    }


#: the libraries, in the order in which they are imported, and what else is asked of each
LIBRARIES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "numpy": _nothing,
    "numba": _kernels,
    "pyarrow": _nothing,
    "torch": _devices,
    "transformers": _nothing,
}


def look(name: str) -> dict[str, Any]:
    """`library` and its `version`, with what else is asked of it; or with an `error` in words where
    it cannot be imported or asked.
    """
    try:
        module = importlib.import_module(name)
        found = {"version": module.__version__, **LIBRARIES[name](module)}
    except Exception as error:  # a broken library raises anything
        found = {"error": f"{type(error).__name__}: {error}"}
    return {"library": name, **found}


if __name__ == "__main__":
    for library in LIBRARIES:
        sys.stdout.write(json.dumps(look(library)) + "\n")
        sys.stdout.flush()
