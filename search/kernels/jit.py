"""Numba set-up shared by the modules that hold kernels: when they are compiled, and in which
ways.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import inspect
import logging
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import cgutils, event
from numba.core import types as numba_types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.compiler_lock import global_compiler_lock
from numba.core.imputils import impl_ret_untracked
from numba.extending import intrinsic, typeof_impl

from search.kernels import kernel_cache
from search.scheduling import stopwatch

log = logging.getLogger(f"copse.{__name__}")


@intrinsic
def bare(context, array):  # type: ignore[no-untyped-def]
    """The same array without a count of its references, which Numba would keep up to date at every
    use: five times the work of a kernel.

    For the outermost function alone, whose caller holds the array.
    """

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        kind = signature.args[0]
        copy = context.make_array(kind)(context, builder, args[0])
        copy.meminfo = copy.meminfo.type(None)
        copy.parent = copy.parent.type(None)
        return impl_ret_untracked(context, builder, kind, copy._getvalue())

    return array(array), build


def _seen(context: Any, builder: Any, kind: Any, array: Any, seen: Any) -> Any:
    """Instructions for the numbers of a contiguous array as a one-dimensional one of another
    type, without a count of references.
    """
    before = context.make_array(kind)(context, builder, array)
    after = context.make_array(seen)(context, builder)
    old_size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    new_size = context.get_abi_sizeof(context.get_data_type(seen.dtype))
    parts = old_size // new_size
    size = context.get_constant(numba_types.intp, new_size)
    items = builder.mul(before.nitems, context.get_constant(numba_types.intp, parts))
    context.populate_array(
        after,
        data=builder.bitcast(before.data, context.get_data_type(seen.dtype).as_pointer()),
        shape=cgutils.pack_array(builder, [items]),
        strides=cgutils.pack_array(builder, [size]),
        itemsize=size,
        meminfo=None,
    )
    return after._getvalue()


def _view(dtype: Any) -> Any:
    @intrinsic
    def view(context, array):
        assert array.layout == "C" and (dtype is None or array.ndim == 1), (
            "only what lies in one piece can be seen so"
        )
        seen = numba_types.Array(dtype or array.dtype, 1, "C")
        return seen(array), lambda context, builder, signature, args: _seen(
            context, builder, array, args[0], seen
        )

    return view


#: A contiguous array as one row of numbers, and one of float64 as twice as many float32 or int32:
#: what `reshape` and `view` give, which Numba compiles for a tenth of a second at each place of use
ravel = _view(None)
as_f4 = _view(numba.float32)
as_i4 = _view(numba.int32)


@intrinsic
def cut(context, array, length):
    """The first `length` (int64, not more than there are) of a one-dimensional array; where that
    is a constant, loops over it know it.
    """

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
        target = builder.gep(data, [builder.mul(args[1], args[3])])
        origin = builder.gep(data, [builder.mul(args[2], args[3])])
        cgutils.raw_memcpy(builder, target, origin, args[3], 1)
        return context.get_dummy_value()

    return numba.void(rows, numba.uint64, numba.uint64, numba.uint64), build


#: What Python calls in place of a part's wrapper, which there is not: it sets TypeError and returns
#: 0
_REFUSE = int(ctypes.cast(ctypes.pythonapi.PyErr_BadArgument, ctypes.c_void_p).value or 0)


class _Part(JITCodeLibrary):  # type: ignore[misc]
    """Code that is only linked into kernels.

    Numba would optimise each function as a program of its own, make machine code of it and a
    wrapper for Python, before it does all of this for the kernel that the function goes into: a
    third to a half of the time. Only its first simplifications are left: without them kernels are a
    fifth slower.
    """

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        return _REFUSE

    @property
    def codegen(self) -> Any:
        """Where Numba would note what wrappers need."""
        return self

    def set_env(self, name: str, env: Any) -> None:
        """Nothing: there is no wrapper."""


class _PartCompiler(Compiler):  # type: ignore[misc]
    def compile_extra(self, function: Callable[..., Any]) -> Any:
        self.state.library = _Part(self.state.targetctx.codegen(), function.__qualname__)
        return super().compile_extra(function)


#: A function for use in kernels alone, compiled with them; from Python it raises TypeError
part = functools.partial(
    numba.njit,
    error_model="numpy",
    no_cpython_wrapper=True,
    no_cfunc_wrapper=True,
    pipeline_class=_PartCompiler,
)
inner = functools.partial(part, forceinline=True)  #: one that becomes a piece of its caller


class Kernel:
    """A function that is compiled for one signature when it is first called, or loaded from the
    cache where it is there.

    The clock of budgets stands still meanwhile. Arguments that do not fit the signature raise
    TypeError. A kernel may call others.
    """

    def __init__(self, function: Callable[..., Any], signature: Any, cache: bool):
        self.dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
        if cache:
            kernel_cache.keep(self.dispatcher)
        self._signature = signature
        self._call = self._first

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def prepare(self) -> None:
        """Compile or load it now."""
        with global_compiler_lock:
            if self._call is self.dispatcher:
                return
            with stopwatch.paused(), event.install_listener("numba:compile", _announcer):
                self.dispatcher.compile(self._signature)
            self.dispatcher.disable_compile()
            self._call = self.dispatcher

    def _first(self, *args: Any) -> Any:
        self.prepare()
        return self.dispatcher(*args)


@typeof_impl.register(Kernel)
def _typeof(kernel: Kernel, context: Any) -> Any:
    """What a kernel is for another that calls it, or for itself."""
    if not kernel.dispatcher.is_compiling:
        kernel.prepare()
    return numba_types.Dispatcher(kernel.dispatcher)


class _Announcer(event.Listener):  # type: ignore[misc]
    """Says once in a process that kernels are compiled."""

    def __init__(self) -> None:
        self._announced = False

    def on_start(self, event: Any) -> None:
        if not self._announced:
            self._announced = True
            place = kernel_cache.folder()
            kept = "for this process alone" if place is None else f"once; they are kept in {place}"
            log.info("compiling kernels for this CPU: some 10 s, %s", kept)

    def on_end(self, event: Any) -> None:
        pass


_announcer = _Announcer()


def kernel(signature: Any, cache: bool = True) -> Callable[[Callable[..., Any]], Kernel]:
    """Make a function a kernel: explicit signature, GIL released.

    cache  False: it calls functions of a shell or a notebook, which later processes could not load
           with it
    """
    return lambda function: Kernel(function, signature, cache)


def bind(function: Callable[..., Any], names: dict[str, Any], name: str) -> Callable[..., Any]:
    """`function` with other globals, under a name of its own, by which its compiled code is found
    in the cache.

    Globals are no part of the cache's key, closures are (as a pickle that differs from run to run),
    so a template is bound this way.
    """
    bound = types.FunctionType(function.__code__, names, name)
    bound.__qualname__ = name
    bound.__module__ = function.__module__
    return bound


def digest(*functions: Callable[..., Any]) -> str:
    """Eight letters that change with the files of the functions and with what they close over:
    part of the name of their compiled code.
    """
    return hashlib.sha256("".join(map(_description, functions)).encode()).hexdigest()[:8]


def _description(function: Any) -> str:
    plain = getattr(function, "py_func", function)
    if not inspect.isfunction(plain):
        return repr(plain)
    closed = [_description(cell.cell_contents) for cell in plain.__closure__ or ()]
    return (
        f"{_text(plain.__code__.co_filename)} {plain.__qualname__} {_instructions(plain.__code__)} "
        f"{closed}"
    )


def _instructions(code: types.CodeType) -> str:
    """Of a function and of those inside it, without the addresses that `repr` gives these."""
    parts = [repr(code.co_code)]
    for constant in code.co_consts:
        inner = isinstance(constant, types.CodeType)
        parts.append(_instructions(constant) if inner else repr(constant))
    return " ".join(parts)


@functools.cache
def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:  # a shell, a notebook
        return ""
