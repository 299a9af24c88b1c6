"""Four float64 numbers as one value in a kernel: what a processor computes in one instruction.

Compilers find such vectors by themselves in simple loops only; here they are said. In a kernel:
`lanes(x)` of one number, `load(array, place)` of four neighbours (float64, float32 or int32), + - *
/ with each other and with numbers, and `over`, `known`, `root`, `power`. The last of a computation
is `highest`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

_DOUBLE, _VECTOR = ir.DoubleType(), ir.VectorType(ir.DoubleType(), 4)


class LanesType(types.Type):
    """Four float64."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


LANES = LanesType()


@register_model(LanesType)
class _Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _constant(number: float) -> ir.Constant:
    return ir.Constant(_VECTOR, [number] * 4)


def spread(builder: Any, number: Any) -> Any:
    """Instructions for the same number four times."""
    nothing = ir.Constant(ir.VectorType(number.type, 4), ir.Undefined)
    one = builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        one, nothing, ir.Constant(ir.VectorType(ir.IntType(32), 4), [0] * 4)
    )


@intrinsic
def lanes(context, number):
    """The same number four times."""
    return LANES(types.float64), lambda context, builder, signature, args: spread(builder, args[0])


@intrinsic
def load(context, array, place):
    """Four neighbours of a one-dimensional array of float64, float32 or int32, from `place`
    (uint64) on.
    """

    def build(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        element = context.get_data_type(signature.args[0].dtype)
        kind = ir.VectorType(element, 4)
        four = builder.load(builder.bitcast(builder.gep(data, [args[1]]), kind.as_pointer()))
        four.align = context.get_abi_alignment(element)
        if signature.args[0].dtype == types.int32:
            return builder.sitofp(four, _VECTOR)
        return four if signature.args[0].dtype == types.float64 else builder.fpext(four, _VECTOR)

    return LANES(array, types.uint64), build


def _arithmetic(name: str, act: Callable[..., Any]) -> None:
    """Teach Numba one operator between lanes, or lanes and a number.

    As Numba's own numbers do it: an `overload` would be compiled anew at each place of use.
    """

    @infer_global(act)
    class _Operator(ConcreteTemplate):  # type: ignore[misc]
        cases = [
            signature(LANES, LANES, LANES),
            signature(LANES, LANES, types.float64),
            signature(LANES, types.float64, LANES),
        ]

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        x, y = (
            arg if kind == LANES else spread(builder, arg)
            for arg, kind in zip(args, sig.args, strict=True)
        )
        return getattr(builder, name)(x, y)

    for case in _Operator.cases:
        lower_builtin(act, *case.args)(build)


for _name, _act in (
    ("fadd", operator.add),
    ("fsub", operator.sub),
    ("fmul", operator.mul),
    ("fdiv", operator.truediv),
):
    _arithmetic(_name, _act)


@intrinsic
def over(context, x, yes, no):
    """`yes` where x > 0, else `no`."""

    def build(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", args[0], _constant(0.0)), args[1], args[2])

    return LANES(LANES, LANES, LANES), build


@intrinsic
def known(context, x, other):
    """x where it is a number, else `other`."""

    def build(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered("ord", args[0], args[0]), args[0], args[1])

    return LANES(LANES, LANES), build


@intrinsic
def store(context, array, place, four):
    """Write four neighbours of an array of float64, float32 or int32 from `place` (uint64) on."""

    def build(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        element, four = context.get_data_type(signature.args[0].dtype), args[2]
        kind = ir.VectorType(element, 4)
        if signature.args[0].dtype != types.float64:
            four = (builder.fptosi if signature.args[0].dtype == types.int32 else builder.fptrunc)(
                four, kind
            )
        builder.store(
            four, builder.bitcast(builder.gep(data, [args[1]]), kind.as_pointer())
        ).align = context.get_abi_alignment(element)
        return context.get_dummy_value()

    return types.void(array, types.uint64, LANES), build


@intrinsic
def add(context, array, place, lane, number):
    """Add a number to one of four neighbours of an array of float64 or int32 from `place` (uint64)
    on; lane (uint64): to which.

    The four are written as one, so that a processor can hand them to the next load of four before
    they are in the cache.
    """

    def build(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        element = context.get_data_type(signature.args[0].dtype)
        kind, places = ir.VectorType(element, 4), ir.VectorType(ir.IntType(64), 4)
        target = builder.bitcast(builder.gep(data, [args[1]]), kind.as_pointer())
        four = builder.load(target)
        here = builder.icmp_unsigned(
            "==", spread(builder, args[2]), ir.Constant(places, [0, 1, 2, 3])
        )
        more = builder.select(here, spread(builder, args[3]), ir.Constant(kind, [0] * 4))
        four.align = context.get_abi_alignment(element)
        total = (
            builder.fadd(four, more)
            if signature.args[0].dtype == types.float64
            else builder.add(four, more)
        )
        builder.store(total, target).align = four.align
        return context.get_dummy_value()

    return types.void(array, types.uint64, types.uint64, array.dtype), build


@intrinsic
def fetch(context, array, place):
    """Begin to bring an array's `place` (uint64) near: it will be read and written soon."""

    def build(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        place = builder.bitcast(builder.gep(data, [args[1]]), byte)
        builder.call(function, [place, word(1), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(array, types.uint64), build


@intrinsic
def count_up(context, array, place, start):
    """Write start, start + 1, start + 2, start + 3 into an int32 array from `place` (uint64) on."""

    def build(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        kind = ir.VectorType(ir.IntType(32), 4)
        target = builder.bitcast(builder.gep(data, [args[1]]), kind.as_pointer())
        builder.store(
            builder.add(spread(builder, args[2]), ir.Constant(kind, [0, 1, 2, 3])), target
        ).align = 4
        return context.get_dummy_value()

    return types.void(array, types.uint64, types.int32), build


@intrinsic
def ranked(context, f4, prior, i4, value, skip):
    """Numbers ordered like the priors of four neighbours, of equals the one of the lowest move
    first; below 0 where the prior is, and for the first `skip` (uint64). prior, value: where they
    begin.
    """

    def build(context, builder, signature, args):
        whole, half = ir.VectorType(ir.IntType(64), 4), ir.VectorType(ir.IntType(32), 4)
        wide = []
        for kind, array, place in zip(
            (ir.VectorType(ir.FloatType(), 4), half), args[::2], args[1::2], strict=False
        ):
            data = context.make_array(signature.args[0 if array is args[0] else 2])(
                context, builder, array
            ).data
            four = builder.load(builder.bitcast(builder.gep(data, [place]), kind.as_pointer()))
            four.align = 4
            wide.append(four)
        moves = builder.xor(
            builder.and_(wide[1], ir.Constant(half, [65_535] * 4)), ir.Constant(half, [65_535] * 4)
        )
        # of the 29 bits that a float32 leaves of a float64
        low = builder.shl(builder.zext(moves, whole), ir.Constant(whole, [13] * 4))
        keys = builder.bitcast(
            builder.or_(builder.bitcast(builder.fpext(wide[0], _VECTOR), whole), low), _VECTOR
        )
        seen = builder.icmp_unsigned(
            "<", ir.Constant(whole, [0, 1, 2, 3]), spread(builder, args[4])
        )
        return builder.select(seen, _constant(-1.0), keys)

    return LANES(f4, types.uint64, i4, types.uint64, types.uint64), build


@intrinsic
def together(context, x):
    """The sum of the four, (first + second) + (third + fourth)."""

    def build(context, builder, signature, args):
        a, b, c, d = (
            builder.extract_element(args[0], ir.Constant(ir.IntType(32), i)) for i in range(4)
        )
        return builder.fadd(builder.fadd(a, b), builder.fadd(c, d))

    return types.float64(LANES), build


def _function(name: str) -> Any:
    @intrinsic
    def apply(context, x):
        def build(context, builder, signature, args):
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(_VECTOR, [_VECTOR]), f"llvm.{name}.v4f64"
            )
            return builder.call(function, args)

        return LANES(LANES), build

    return apply


root, power = _function("sqrt"), _function("exp")  # square root; e to the power of


@intrinsic
def pick(context, x, lane):
    """One of the four; lane: uint64."""
    return types.float64(
        LANES, types.uint64
    ), lambda context, builder, signature, args: builder.extract_element(*args)


@intrinsic
def highest(context, points, allowed):
    """(value, lane) of the highest of those whose `allowed` is not below 0, the first of equals;
    -inf where none is. None may be nan.
    """

    def build(context, builder, signature, args):
        low = _constant(float("-inf"))
        four = builder.select(builder.fcmp_ordered(">=", args[1], _constant(0.0)), args[0], low)
        kind = ir.FunctionType(_DOUBLE, [_VECTOR])
        reduce = cgutils.get_or_insert_function(
            builder.module, kind, "llvm.vector.reduce.fmax.v4f64"
        )
        top = builder.call(reduce, [four], fastmath=("nnan",))
        same = builder.bitcast(
            builder.fcmp_ordered("==", four, spread(builder, top)), ir.IntType(4)
        )
        lane = builder.cttz(builder.zext(same, ir.IntType(64)), ir.Constant(ir.IntType(1), 0))
        return context.make_tuple(builder, signature.return_type, [top, lane])

    return types.Tuple((types.float64, types.uint64))(LANES, LANES), build
