"""Four neighbouring edges at a time, beside what `search.kernels.simd` does with any numbers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from search.kernels.simd import FOUR, pointer, spread_value

_INTS = ir.VectorType(ir.IntType(32), 4)
_LONGS = ir.VectorType(ir.IntType(64), 4)
_LANES = [0, 1, 2, 3]


def loaded(context: Any, builder: Any, kind: Any, array: Any, place: Any) -> Any:
    """Four neighbours of an array of type `kind`, as they are."""
    four = builder.load(pointer(context, builder, kind, array, place, 4))
    four.align = context.get_abi_alignment(four.type.element)
    return four


@intrinsic
def add_to_lane(context, array, place, lane, number):
    """Add a number to one of four neighbours of an array of float64 or int32 from `place` (uint64)
    on; lane (uint64): to which.

    The four are written as one, so that a CPU can hand them to the next load of four before they
    are in the cache.
    """

    def build(context, builder, signature, args):
        four = loaded(context, builder, array, args[0], args[1])
        chosen = spread_value(builder, args[2], 4)
        here = builder.icmp_unsigned("==", chosen, ir.Constant(_LONGS, _LANES))
        nothing = ir.Constant(four.type, [0] * 4)
        more = builder.select(here, spread_value(builder, args[3], 4), nothing)
        act = builder.fadd if array.dtype == types.float64 else builder.add
        target = pointer(context, builder, array, args[0], args[1], 4)
        builder.store(act(four, more), target).align = four.align
        return context.get_dummy_value()

    return types.void(array, types.uint64, types.uint64, array.dtype), build


@intrinsic
def prefetch(context, array, place):
    """Begin to bring an array's `place` (uint64) near: it will be read and written soon."""

    def build(context, builder, signature, args):
        byte = ir.IntType(8).as_pointer()
        word = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        target = builder.bitcast(pointer(context, builder, array, *args), byte)
        builder.call(function, [target, word(1), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(array, types.uint64), build


@intrinsic
def count_up(context, array, place, start):
    """Write start, start + 1, start + 2, start + 3 into an int32 array from `place` (uint64) on."""

    def build(context, builder, signature, args):
        target = pointer(context, builder, array, args[0], args[1], 4)
        counts = builder.add(spread_value(builder, args[2], 4), ir.Constant(_INTS, _LANES))
        builder.store(counts, target).align = 4
        return context.get_dummy_value()

    return types.void(array, types.uint64, types.int32), build


@intrinsic
def ranked(context, f4, prior, i4, value, skip):
    """Numbers ordered like the priors of four neighbours, of equals the one of the lowest move
    first; below 0 where the prior is, and for the first `skip` (uint64). prior, value: where they
    begin.
    """

    def build(context, builder, signature, args):
        priors = loaded(context, builder, f4, args[0], args[1])
        values = loaded(context, builder, i4, args[2], args[3])
        lowest = ir.Constant(_INTS, [65_535] * 4)
        moves = builder.xor(builder.and_(values, lowest), lowest)
        # of the 29 bits that a float32 leaves of a float64
        low = builder.shl(builder.zext(moves, _LONGS), ir.Constant(_LONGS, [13] * 4))
        high = builder.bitcast(builder.fpext(priors, FOUR.value), _LONGS)
        keys = builder.bitcast(builder.or_(high, low), FOUR.value)
        skipped = builder.icmp_unsigned(
            "<", ir.Constant(_LONGS, _LANES), spread_value(builder, args[4], 4)
        )
        return builder.select(skipped, FOUR.constant(-1.0), keys)

    return FOUR(f4, types.uint64, i4, types.uint64, types.uint64), build
