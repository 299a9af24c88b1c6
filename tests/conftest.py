"""Set-up of all tests: one thread a library, no hub, child processes that find the packages.
Seeds belong to the tests themselves.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import sys
from collections.abc import Generator
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# kernels of a GPU are interpreted; Triton asks when it is loaded, and other libraries load it
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")

_spec = importlib.util.find_spec("search")
assert _spec is not None and _spec.origin is not None, (
    "install the package first: pip install -e '.[test]'"
)
_root = Path(_spec.origin).resolve().parent.parent
_places = [str(_root), str(_root / "search" / "toplevel")]  # of `copse`, too
os.environ["PYTHONPATH"] = os.pathsep.join(
    [*_places, *filter(None, [os.environ.get("PYTHONPATH")])]
)
sys.path.append(_places[1])

import pytest  # noqa: E402


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays to the end: the garbage collector, which would go
    through all of it again and again, leaves it alone.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # libraries complain of what was never freed


def pytest_runtest_setup(item: pytest.Item) -> None:
    """One torch thread, wherever torch was loaded: on a busy machine two are far slower than
    one. Nothing was told by another test.
    """
    if (remarks := sys.modules.get("search.remarks")) is not None:
        remarks._noted.clear()
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
