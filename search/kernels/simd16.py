"""Sixteen float32 numbers as one value in a kernel, and powers of two: what attention on a
processor needs.

In a kernel: `splat(x)`, `get(array, place)` and `put(array, place, x)` of one number, `load(array,
place)` and `store(array, place, v)` of sixteen neighbours of a one-dimensional float32 array (place
int64), + - * / of vectors, `fma`, `highest` and `lowest` (lane by lane), `total`, `totals` and
`top` over the lanes, `whole`, `power`, `below`, `uniform`.

Arrays of uint16 hold bfloat16, the upper halves of float32 numbers, which numpy has no type for:
`get` and `load` make float32 of them, exactly, `put` and `store` round to the nearest (of equally
near ones to the even one), as torch does.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

WIDTH = 16
_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_VECTOR, _INTS = ir.VectorType(_FLOAT, WIDTH), ir.VectorType(_INT, WIDTH)
_SHORT = ir.IntType(16)
_SHORTS = ir.VectorType(_SHORT, WIDTH)
#: ln(2)^k / k!: the series of 2^x, to 6e-9 for |x| <= 1/2
_SERIES = (1.0, 0.6931471805599453, 0.2402265069591007, 0.05550410866482158, 0.009618129107628477,
0.0013333558146428443,
           0.0001540353039338161, 1.525273380405984e-05)  # fmt: skip


class SixteenType(types.Type):
    """Sixteen float32."""

    def __init__(self) -> None:
        super().__init__(name="Sixteen")


SIXTEEN = SixteenType()


@register_model(SixteenType)
class _Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _constant(number: float) -> ir.Constant:
    return ir.Constant(_VECTOR, [number] * WIDTH)


def _call(builder: Any, name: str, result: Any, args: list[Any], **options: Any) -> Any:
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(
        cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}"), args, **options
    )


def _place(context: Any, builder: Any, kind: Any, array: Any, place: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    vector = _SHORTS if kind.dtype == types.uint16 else _VECTOR
    return builder.bitcast(builder.gep(data, [place]), vector.as_pointer())


def _widened(builder: Any, half: Any, floats: Any, ints: Any) -> Any:
    """bfloat16 as float32: its bits, then sixteen zeros."""
    sixteen = _filled(ints, 16)
    return builder.bitcast(builder.shl(builder.zext(half, ints), sixteen), floats)


def _rounded(builder: Any, number: Any, ints: Any, shorts: Any) -> Any:
    """float32 as the nearest bfloat16: half of the last place is added, a little less where that
    place is even; nan stays nan.
    """
    bits = builder.bitcast(number, ints)
    high = builder.lshr(bits, _filled(ints, 16))
    odd = builder.and_(high, _filled(ints, 1))
    nearest = builder.lshr(
        builder.add(bits, builder.add(odd, _filled(ints, 0x7FFF))), _filled(ints, 16)
    )
    nan = builder.fcmp_unordered("uno", number, number)
    return builder.trunc(builder.select(nan, _filled(ints, 0x7FC0), nearest), shorts)


def _filled(kind: Any, number: int) -> ir.Constant:
    return ir.Constant(kind, [number] * WIDTH if isinstance(kind, ir.VectorType) else number)


@intrinsic
def splat(context, x):
    """The same number sixteen times."""

    def build(context, builder, signature, args):
        one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), args[0], _INT(0))
        return builder.shuffle_vector(
            one, ir.Constant(_VECTOR, ir.Undefined), ir.Constant(_INTS, [0] * WIDTH)
        )

    return SIXTEEN(types.float32), build


@intrinsic
def get(context, array, place):
    """One number of a one-dimensional array, at `place` from its beginning: Numba would ask at
    every use whether an index is negative.
    """

    def build(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        found = builder.load(builder.gep(data, [args[1]]))
        return _widened(builder, found, _FLOAT, _INT) if array.dtype == types.uint16 else found

    return (types.float32 if array.dtype == types.uint16 else array.dtype)(
        array, types.int64
    ), build


@intrinsic
def put(context, array, place, x):
    """Write one number of a one-dimensional array, at `place` from its beginning."""

    def build(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        written = (
            _rounded(builder, args[2], _INT, _SHORT) if array.dtype == types.uint16 else args[2]
        )
        builder.store(written, builder.gep(data, [args[1]]))
        return context.get_dummy_value()

    return types.void(
        array, types.int64, types.float32 if array.dtype == types.uint16 else array.dtype
    ), build


@intrinsic
def below(context, a, b):
    """Which of `a` are below those of `b`: sixteen bits, the first the lowest."""

    def build(context, builder, signature, args):
        bits = builder.bitcast(builder.fcmp_ordered("<", *args), ir.IntType(WIDTH))
        return builder.zext(bits, ir.IntType(64))

    return types.int64(SIXTEEN, SIXTEEN), build


@intrinsic
def uniform(context, low, high, first):
    """Uniform numbers in (0, 1) of the ids `first`, `first` + 1, ...: two rounds of murmur3's
    finaliser with two keys (uint32).
    """

    def build(context, builder, signature, args):
        def spread(number):
            one = builder.insert_element(ir.Constant(_INTS, ir.Undefined), number, _INT(0))
            return builder.shuffle_vector(
                one, ir.Constant(_INTS, ir.Undefined), ir.Constant(_INTS, [0] * WIDTH)
            )

        def finalised(bits):
            for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, None)):
                bits = builder.xor(bits, builder.lshr(bits, ir.Constant(_INTS, [shift] * WIDTH)))
                bits = (
                    bits
                    if factor is None
                    else builder.mul(bits, ir.Constant(_INTS, [factor] * WIDTH))
                )
            return bits

        ids = builder.add(spread(args[2]), ir.Constant(_INTS, list(range(WIDTH))))
        bits = finalised(
            builder.xor(builder.mul(ids, ir.Constant(_INTS, [0x9E3779B1] * WIDTH)), spread(args[0]))
        )
        bits = builder.uitofp(finalised(builder.xor(bits, spread(args[1]))), _VECTOR)
        scaled = builder.fmul(builder.fadd(bits, _constant(0.5)), _constant(2.0**-32))
        most = _constant(1 - 2.0**-24)
        return builder.select(builder.fcmp_ordered("<", scaled, most), scaled, most)

    return SIXTEEN(types.uint32, types.uint32, types.uint32), build


@intrinsic
def load(context, array, place):
    """Sixteen neighbours from `place` on."""

    def build(context, builder, signature, args):
        found = builder.load(_place(context, builder, signature.args[0], *args))
        found.align = 2 if array.dtype == types.uint16 else 4
        return _widened(builder, found, _VECTOR, _INTS) if array.dtype == types.uint16 else found

    return SIXTEEN(array, types.int64), build


@intrinsic
def store(context, array, place, vector):
    """Write sixteen neighbours from `place` on."""

    def build(context, builder, signature, args):
        half = array.dtype == types.uint16
        written = _rounded(builder, args[2], _INTS, _SHORTS) if half else args[2]
        builder.store(written, _place(context, builder, signature.args[0], *args[:2])).align = (
            2 if half else 4
        )
        return context.get_dummy_value()

    return types.void(array, types.int64, SIXTEEN), build


def _arithmetic(name: str, act: Any) -> None:
    """Teach Numba one operator between vectors, as its own numbers do: an `overload` would be
    compiled anew at each place of use.
    """

    @infer_global(act)
    class _Operator(ConcreteTemplate):  # type: ignore[misc]
        cases = [signature(SIXTEEN, SIXTEEN, SIXTEEN)]

    @lower_builtin(act, SIXTEEN, SIXTEEN)
    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, name)(*args)


for _name, _act in (
    ("fadd", operator.add),
    ("fsub", operator.sub),
    ("fmul", operator.mul),
    ("fdiv", operator.truediv),
):
    _arithmetic(_name, _act)


@intrinsic
def fma(context, a, b, c):
    """a * b + c, rounded once where the processor can."""

    def build(context, builder, signature, args):
        return _call(builder, "fma.v16f32", _VECTOR, list(args))

    return SIXTEEN(SIXTEEN, SIXTEEN, SIXTEEN), build


@intrinsic
def highest(context, a, b):
    """The larger of each two; where one is nan, the second."""

    def build(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[0], args[1])

    return SIXTEEN(SIXTEEN, SIXTEEN), build


@intrinsic
def lowest(context, a, b):
    """The smaller of each two; where one is nan, the second."""

    def build(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[0], args[1])

    return SIXTEEN(SIXTEEN, SIXTEEN), build


@intrinsic
def total(context, vector):
    """The sum of the sixteen: each half added to the other, four times."""

    def build(context, builder, signature, args):
        (found,), width = args, WIDTH
        while width > 1:
            width //= 2
            low, high = (
                builder.shuffle_vector(
                    found,
                    ir.Constant(found.type, ir.Undefined),
                    ir.Constant(ir.VectorType(_INT, width), list(side)),
                )
                for side in (range(width), range(width, 2 * width))
            )
            found = builder.fadd(low, high)
        return builder.extract_element(found, _INT(0))

    return types.float32(SIXTEEN), build


@intrinsic
def totals(context, a, b, c, d, array, p0, p1, p2, p3):
    """Write the `total` of each of four vectors to a place of a float32 array: half the work of
    four calls, and the same bits.
    """

    def build(context, builder, signature, args):
        def paired(x, y, first, second):
            low, high = (
                builder.shuffle_vector(x, y, ir.Constant(_INTS, side)) for side in (first, second)
            )
            return builder.fadd(low, high)

        # of two vectors in blocks of `width`: the lower or the upper half of each block
        def lanes(width, shift):
            blocks = range(0, 32, width)
            return [block + shift + i for block in blocks for i in range(width // 2)]

        ab = paired(args[0], args[1], lanes(16, 0), lanes(16, 8))
        cd = paired(args[2], args[3], lanes(16, 0), lanes(16, 8))
        found = paired(ab, cd, lanes(8, 0), lanes(8, 4))  # four lanes of each
        found = paired(found, found, lanes(4, 0), lanes(4, 2))  # two of each, twice
        found = paired(found, found, lanes(2, 0), lanes(2, 1))
        data = context.make_array(signature.args[4])(context, builder, args[4]).data
        for i, place in enumerate(args[5:]):
            builder.store(builder.extract_element(found, _INT(i)), builder.gep(data, [place]))
        return context.get_dummy_value()

    place = types.int64
    return types.void(SIXTEEN, SIXTEEN, SIXTEEN, SIXTEEN, array, place, place, place, place), build


@intrinsic
def top(context, vector):
    """The largest of the sixteen; none may be nan."""

    def build(context, builder, signature, args):
        return _call(builder, "vector.reduce.fmax.v16f32", _FLOAT, [args[0]], fastmath=("nnan",))

    return types.float32(SIXTEEN), build


@intrinsic
def whole(context, vector):
    """Each one's nearest whole number."""

    def build(context, builder, signature, args):
        return _call(builder, "nearbyint.v16f32", _VECTOR, list(args))

    return SIXTEEN(SIXTEEN), build


@intrinsic
def power(context, vector, less):
    """2 to the power of each of `vector - less`; `less` holds whole numbers or -inf. 0 below -120,
    nan for nan; defined up to 120.

    Relative error below 1e-7. Another `less` gives the very same number times a power of two: sums
    of such powers can be scaled on without a rounding.
    """

    def build(context, builder, signature, args):
        number = _call(builder, "nearbyint.v16f32", _VECTOR, [args[0]])
        part, found = builder.fsub(args[0], number), _constant(_SERIES[-1])
        for factor in reversed(_SERIES[:-1]):
            found = _call(builder, "fma.v16f32", _VECTOR, [found, part, _constant(factor)])
        number = builder.fsub(number, args[1])
        shift = builder.shl(
            _call(builder, "fptosi.sat.v16i32.v16f32", _INTS, [number]),
            ir.Constant(_INTS, [23] * WIDTH),
        )
        scaled = builder.bitcast(builder.add(builder.bitcast(found, _INTS), shift), _VECTOR)
        return builder.select(
            builder.fcmp_ordered("<", number, _constant(-120.0)), _constant(0.0), scaled
        )

    return SIXTEEN(SIXTEEN, SIXTEEN), build
