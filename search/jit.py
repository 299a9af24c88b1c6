"""Numba set-up shared by the modules that hold kernels: where compiled code is kept, and one log line at a first compile."""

from __future__ import annotations

import functools
import hashlib
import inspect
import logging
import os
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import cgutils
from numba.core.imputils import impl_ret_untracked
from numba.extending import intrinsic

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


@intrinsic
def bare(context, array):  # type: ignore[no-untyped-def]
    """The same array without a count of its references, which Numba would keep up to date at every use: five times the work of a kernel.

    For the outermost function alone, whose caller holds the array.
    """

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        kind = signature.args[0]
        copy = context.make_array(kind)(context, builder, args[0])
        copy.meminfo = copy.meminfo.type(None)
        copy.parent = copy.parent.type(None)
        return impl_ret_untracked(context, builder, kind, copy._getvalue())

    return array(array), build


@intrinsic
def cut(context, array, length):
    """The first `length` (int64, not more than there are) of a one-dimensional array; where that is a constant, loops over it know it."""

    def build(context, builder, signature, args):
        kind = signature.args[0]
        copy = context.make_array(kind)(context, builder, args[0])
        copy.shape = cgutils.pack_array(builder, [args[1]])
        copy.nitems = args[1]
        return impl_ret_untracked(context, builder, kind, copy._getvalue())

    return array(array, numba.int64), build


@intrinsic
def copy_row(context, rows, to, source, size):
    """Copy one row of a contiguous uint8 array [rows, size] over another; to, source: uint64."""

    def build(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        target, origin = (builder.gep(data, [builder.mul(place, args[3])]) for place in args[1:3])
        cgutils.raw_memcpy(builder, target, origin, args[3], 1)
        return context.get_dummy_value()

    return numba.void(rows, numba.uint64, numba.uint64, numba.uint64), build


_told = False


#: A function for use in kernels alone, compiled where it is called
inner = functools.partial(numba.njit, error_model="numpy", forceinline=True)


def kernel(signature: Any, cache: bool = True) -> Callable[[Callable[..., Any]], Any]:
    """Compile a kernel at definition (explicit signature, GIL released), from the cache where it is there.

    cache  False: it calls functions of a shell or a notebook, which later processes could not load with it
    """

    def compile_(function: Callable[..., Any]) -> Any:
        global _told
        start = time.perf_counter()
        compiled = numba.njit(signature, nogil=True, cache=cache, error_model="numpy")(function)
        if not _told and cache and sum(compiled.stats.cache_misses.values()):
            _told = True
            log.info(
                "compiling search kernels (once; kept in %s): first took %.1f s",
                compiled.stats.cache_path,
                time.perf_counter() - start,
            )
        return compiled

    return compile_


def bind(function: Callable[..., Any], names: dict[str, Any], name: str) -> Callable[..., Any]:
    """`function` with other globals, under a name of its own, by which its compiled code is found in the cache.

    Globals are no part of the cache's key, closures are (as a pickle that differs from run to run), so a template is bound this way.
    """
    bound = types.FunctionType(function.__code__, names, name)
    bound.__qualname__ = name
    bound.__module__ = function.__module__
    return bound


def digest(*functions: Callable[..., Any]) -> str:
    """Eight letters that change with the files of the functions and with what they close over: part of the name of their compiled code."""
    return hashlib.sha256("".join(map(_said, functions)).encode()).hexdigest()[:8]


def _said(function: Any) -> str:
    plain = getattr(function, "py_func", function)
    if not inspect.isfunction(plain):
        return repr(plain)
    closed = [_said(cell.cell_contents) for cell in plain.__closure__ or ()]
    return f"{_text(plain.__code__.co_filename)} {plain.__qualname__} {plain.__code__.co_code!r} {plain.__code__.co_consts!r} {closed}"


@functools.cache
def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:  # a shell, a notebook
        return ""
