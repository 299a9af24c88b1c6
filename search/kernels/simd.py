"""Vectors of numbers as one value in a kernel: what a CPU computes in one instruction.

Compilers find such vectors by themselves in simple loops only; here they are written. There are
two: `FOUR` float64, in which a search compares four edges, and `SIXTEEN` float32, in which a model
is computed. In a kernel: `spread(x)`, the same number in every lane, of a float64 or a float32;
`load4` and `load16`, neighbours of a one-dimensional array, and `store`; + - * / with each other
and with numbers; and the functions below, whose names are numpy's where numpy has the operation.
What goes over the lanes of one vector is named `lane_...`. A place in an array is an int64 or a
uint64 from its beginning: Numba would ask at every use whether an index is negative.

Arrays of uint16 hold bfloat16, the upper halves of float32 numbers, which numpy has no type for:
`get` and `load16` make float32 of them, exactly, `put` and `store` round to the nearest (of equally
near ones to the even one), as torch does.
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

_BIT = ir.IntType(1)
_SHORT = ir.IntType(16)
_INT = ir.IntType(32)
_LONG = ir.IntType(64)
#: ln(2)^k / k!: the series of 2^x, to 6e-9 for |x| <= 1/2
_SERIES = (1.0, 0.6931471805599453, 0.2402265069591007, 0.05550410866482158, 0.009618129107628477,
0.0013333558146428443,
           0.0001540353039338161, 1.525273380405984e-05)  # fmt: skip


class VectorType(types.Type):
    """`width` numbers of a float type; in LLVM: `value`, each of them a `number`."""

    def __init__(self, element: Any, number: Any, width: int) -> None:
        super().__init__(name=f"{element}x{width}")
        self.element = element
        self.width = width
        self.value = ir.VectorType(number, width)
        #: how LLVM's own functions name it
        self.suffix = f"v{width}f{element.bitwidth}"

    def constant(self, number: float) -> ir.Constant:
        """The same number in every lane."""
        return ir.Constant(self.value, [number] * self.width)

    def alike(self, kind: Any) -> Any:
        """LLVM's type of as many numbers of another kind."""
        return ir.VectorType(kind, self.width)


FOUR = VectorType(types.float64, ir.DoubleType(), 4)
SIXTEEN = VectorType(types.float32, ir.FloatType(), 16)


@register_model(VectorType)
class _Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, kind.value)


def _call(builder: Any, name: str, result: Any, args: Any, **options: Any) -> Any:
    """One of LLVM's own functions."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}")
    return builder.call(function, args, **options)


def _filled(kind: Any, number: int) -> ir.Constant:
    """The same whole number in every lane of a type, or once."""
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


def spread_value(builder: Any, number: Any, width: int) -> Any:
    """Instructions for the same number in every lane."""
    undefined = ir.Constant(ir.VectorType(number.type, width), ir.Undefined)
    one = builder.insert_element(undefined, number, _INT(0))
    return builder.shuffle_vector(one, undefined, _filled(ir.VectorType(_INT, width), 0))


@intrinsic
def spread(context, number):
    """The same number in every lane: a float32 of `SIXTEEN`, any other of `FOUR`."""
    vector = SIXTEEN if number == types.float32 else FOUR

    def build(context, builder, signature, args):
        return spread_value(builder, args[0], vector.width)

    return vector(vector.element), build


# -- arithmetic


def _arithmetic(name: str, act: Callable[..., Any]) -> None:
    """Teach Numba one operator between vectors, or vectors and numbers.

    As Numba's own numbers do it: an `overload` would be compiled anew at each place of use.
    """

    @infer_global(act)
    class _Operator(ConcreteTemplate):  # type: ignore[misc]
        cases = [
            signature(vector, *pair)
            for vector in (FOUR, SIXTEEN)
            for pair in ((vector, vector), (vector, vector.element), (vector.element, vector))
        ]

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        width = sig.return_type.width
        sides = []
        for arg, kind in zip(args, sig.args, strict=True):
            whole = isinstance(kind, VectorType)
            sides.append(arg if whole else spread_value(builder, arg, width))
        return getattr(builder, name)(*sides)

    for case in _Operator.cases:
        lower_builtin(act, *case.args)(build)


for _name, _act in (
    ("fadd", operator.add),
    ("fsub", operator.sub),
    ("fmul", operator.mul),
    ("fdiv", operator.truediv),
):
    _arithmetic(_name, _act)


def _function(name: str) -> Any:
    @intrinsic
    def apply(context, x):
        def build(context, builder, signature, args):
            return _call(builder, f"{name}.{x.suffix}", x.value, args)

        return x(x), build

    return apply


sqrt = _function("sqrt")
exp = _function("exp")
rint = _function("nearbyint")


@intrinsic
def fma(context, a, b, c):
    """a * b + c, rounded once where the CPU can."""

    def build(context, builder, signature, args):
        return _call(builder, f"fma.{a.suffix}", a.value, args)

    return a(a, a, a), build


@intrinsic
def exp2(context, x, less):
    """2 to the power of each of `x - less`, of `SIXTEEN`; `less` holds whole numbers or -inf. 0
    below -120, nan for nan; defined up to 120.

    Relative error below 1e-7. Another `less` gives the very same number times a power of two: sums
    of such powers can be scaled on without a rounding.
    """
    ints = x.alike(_INT)

    def build(context, builder, signature, args):
        number = _call(builder, f"nearbyint.{x.suffix}", x.value, args[:1])
        part = builder.fsub(args[0], number)
        power = x.constant(_SERIES[-1])
        for factor in reversed(_SERIES[:-1]):
            power = _call(builder, f"fma.{x.suffix}", x.value, [power, part, x.constant(factor)])
        number = builder.fsub(number, args[1])
        # a conversion that is defined for all numbers would be done lane by lane: 1.5 * 2^23 more
        # leaves a whole number in the last bits, from where it becomes the exponent of a factor
        last = builder.bitcast(builder.fadd(number, x.constant(1.5 * 2**23)), ints)
        exponent = builder.shl(builder.add(last, _filled(ints, 127)), _filled(ints, 23))
        scaled = builder.fmul(power, builder.bitcast(exponent, x.value))
        small = builder.fcmp_ordered("<", number, x.constant(-120.0))
        return builder.select(small, x.constant(0.0), scaled)

    return x(x, x), build


@intrinsic
def uniform(context, low, high, first):
    """Uniform numbers in (0, 1), `SIXTEEN`, of the ids `first`, `first` + 1, ...: two rounds of
    murmur3's finaliser with two keys. All arguments uint32.
    """
    ints = SIXTEEN.alike(_INT)

    def finalised(builder, bits):
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, None)):
            bits = builder.xor(bits, builder.lshr(bits, _filled(ints, shift)))
            if factor is not None:
                bits = builder.mul(bits, _filled(ints, factor))
        return bits

    def build(context, builder, signature, args):
        keys = [spread_value(builder, arg, SIXTEEN.width) for arg in args]
        ids = builder.add(keys[2], ir.Constant(ints, list(range(SIXTEEN.width))))
        bits = finalised(builder, builder.xor(builder.mul(ids, _filled(ints, 0x9E3779B1)), keys[0]))
        bits = finalised(builder, builder.xor(bits, keys[1]))
        shifted = builder.fadd(builder.uitofp(bits, SIXTEEN.value), SIXTEEN.constant(0.5))
        scaled = builder.fmul(shifted, SIXTEEN.constant(2.0**-32))
        most = SIXTEEN.constant(1 - 2.0**-24)
        return builder.select(builder.fcmp_ordered("<", scaled, most), scaled, most)

    return SIXTEEN(types.uint32, types.uint32, types.uint32), build


# -- choosing


@intrinsic
def maximum(context, a, b):
    """The larger of each two; where one is nan, the second."""

    def build(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return a(a, a), build


@intrinsic
def minimum(context, a, b):
    """The smaller of each two; where one is nan, the second."""

    def build(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered("<", *args), *args)

    return a(a, a), build


@intrinsic
def where_positive(context, x, yes, no):
    """`yes` where x > 0, else `no`."""

    def build(context, builder, signature, args):
        positive = builder.fcmp_ordered(">", args[0], x.constant(0.0))
        return builder.select(positive, args[1], args[2])

    return x(x, x, x), build


@intrinsic
def unless_nan(context, x, other):
    """x where it is a number, else `other`."""

    def build(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered("ord", args[0], args[0]), *args)

    return x(x, x), build


@intrinsic
def below(context, a, b):
    """Which of `a` are below those of `b`: int64, a bit a lane, the first the lowest."""

    def build(context, builder, signature, args):
        bits = builder.bitcast(builder.fcmp_ordered("<", *args), ir.IntType(a.width))
        return builder.zext(bits, _LONG)

    return types.int64(a, a), build


# -- over the lanes of a vector


@intrinsic
def lane_of(context, x, number):
    """The number in one lane (uint64)."""

    def build(context, builder, signature, args):
        return builder.extract_element(*args)

    return x.element(x, types.uint64), build


@intrinsic
def lane_sum(context, x):
    """The sum of all lanes. Of four: (first + second) + (third + fourth); of sixteen: each half is
    added to the other, four times.
    """

    def build(context, builder, signature, args):
        (sums,) = args
        if x.width == 4:
            a, b, c, d = (builder.extract_element(sums, _INT(i)) for i in range(4))
            return builder.fadd(builder.fadd(a, b), builder.fadd(c, d))
        width = x.width
        while width > 1:
            width //= 2
            sums = _paired(builder, sums, None, range(width), range(width, 2 * width))
        return builder.extract_element(sums, _INT(0))

    return x.element(x), build


def _paired(builder: Any, x: Any, y: Any, first: Any, second: Any) -> Any:
    """The sums of some lanes of two vectors, or of one, with as many others."""
    other = ir.Constant(x.type, ir.Undefined) if y is None else y
    low, high = (
        builder.shuffle_vector(x, other, ir.Constant(ir.VectorType(_INT, len(side)), list(side)))
        for side in (first, second)
    )
    return builder.fadd(low, high)


@intrinsic
def lane_sums(context, a, b, c, d, array, p0, p1, p2, p3):
    """Write the `lane_sum` of each of four vectors of `SIXTEEN` to a place of a float32 array: half
    the work of four calls, and the same bits.
    """

    def build(context, builder, signature, args):
        # of two vectors in blocks of `width`: the lower or the upper half of each block
        def halves(width, shift):
            return [block + shift + i for block in range(0, 32, width) for i in range(width // 2)]

        def added(x, y, width):
            return _paired(builder, x, y, halves(width, 0), halves(width, width // 2))

        sums = added(added(args[0], args[1], 16), added(args[2], args[3], 16), 8)
        sums = added(sums, sums, 4)  # of four lanes of each: two, twice
        sums = added(sums, sums, 2)
        for i, place in enumerate(args[5:]):
            target = pointer(context, builder, array, args[4], place)
            builder.store(builder.extract_element(sums, _INT(i)), target)
        return context.get_dummy_value()

    place = types.int64
    return types.void(a, a, a, a, array, place, place, place, place), build


@intrinsic
def lane_max(context, x):
    """The largest of all lanes; none may be nan."""

    def build(context, builder, signature, args):
        return _largest(builder, x, args[0])

    return x.element(x), build


def _largest(builder: Any, x: Any, value: Any) -> Any:
    name = f"vector.reduce.fmax.{x.suffix}"
    return _call(builder, name, x.value.element, [value], fastmath=("nnan",))


@intrinsic
def lane_argmax(context, x, allowed):
    """(value, lane) of the largest of the lanes whose `allowed` is not below 0, the first of
    equals; value -inf where none is. None may be nan.
    """

    def build(context, builder, signature, args):
        fits = builder.fcmp_ordered(">=", args[1], x.constant(0.0))
        values = builder.select(fits, args[0], x.constant(float("-inf")))
        top = _largest(builder, x, values)
        same = builder.fcmp_ordered("==", values, spread_value(builder, top, x.width))
        bits = builder.bitcast(same, ir.IntType(x.width))
        first = builder.cttz(builder.zext(bits, _LONG), _BIT(0))
        return context.make_tuple(builder, signature.return_type, [top, first])

    return types.Tuple((x.element, types.uint64))(x, x), build


# -- arrays


def _whole(place: Any) -> Any:
    """The type of a place: 64 bits, as they are."""
    return types.int64 if place.signed else types.uint64


def pointer(context: Any, builder: Any, kind: Any, array: Any, place: Any, width: int = 1) -> Any:
    """Where an array of type `kind` has its `place`, as that of one number or of a vector."""
    data = context.make_array(kind)(context, builder, array).data
    target = builder.gep(data, [place])
    if width == 1:
        return target
    element = context.get_data_type(kind.dtype)
    return builder.bitcast(target, ir.VectorType(element, width).as_pointer())


def _widened(builder: Any, half: Any, floats: Any, ints: Any) -> Any:
    """bfloat16 as float32: its bits, then sixteen zeros."""
    bits = builder.shl(builder.zext(half, ints), _filled(ints, 16))
    return builder.bitcast(bits, floats)


def _rounded(builder: Any, number: Any, ints: Any, shorts: Any) -> Any:
    """float32 as the nearest bfloat16: half of the last place is added, a little less where that
    place is even; nan stays nan.
    """
    bits = builder.bitcast(number, ints)
    odd = builder.and_(builder.lshr(bits, _filled(ints, 16)), _filled(ints, 1))
    more = builder.add(odd, _filled(ints, 0x7FFF))
    nearest = builder.lshr(builder.add(bits, more), _filled(ints, 16))
    nan = builder.fcmp_unordered("uno", number, number)
    return builder.trunc(builder.select(nan, _filled(ints, 0x7FC0), nearest), shorts)


@intrinsic
def get(context, array, place):
    """One number of a one-dimensional array."""
    half = array.dtype == types.uint16

    def build(context, builder, signature, args):
        number = builder.load(pointer(context, builder, array, *args))
        return _widened(builder, number, ir.FloatType(), _INT) if half else number

    return (types.float32 if half else array.dtype)(array, _whole(place)), build


@intrinsic
def put(context, array, place, x):
    """Write one number of a one-dimensional array."""
    half = array.dtype == types.uint16

    def build(context, builder, signature, args):
        number = _rounded(builder, args[2], _INT, _SHORT) if half else args[2]
        builder.store(number, pointer(context, builder, array, *args[:2]))
        return context.get_dummy_value()

    return types.void(array, _whole(place), types.float32 if half else array.dtype), build


def loader(vector: VectorType) -> Any:
    """`load(array, place)`: neighbours from `place` on as a vector. Of float64, float32 or int32
    for `FOUR`, of float32 or bfloat16 for `SIXTEEN`.
    """

    @intrinsic
    def load(context, array, place):
        def build(context, builder, signature, args):
            numbers = builder.load(pointer(context, builder, array, *args, vector.width))
            numbers.align = context.get_abi_alignment(numbers.type.element)
            if array.dtype == vector.element:
                return numbers
            if array.dtype == types.uint16:
                return _widened(builder, numbers, vector.value, vector.alike(_INT))
            if array.dtype == types.int32:
                return builder.sitofp(numbers, vector.value)
            return builder.fpext(numbers, vector.value)

        return vector(array, _whole(place)), build

    return load


load4 = loader(FOUR)
load16 = loader(SIXTEEN)


@intrinsic
def store(context, array, place, x):
    """Write neighbours from `place` on, into an array of what `loader` takes."""

    def build(context, builder, signature, args):
        element = context.get_data_type(array.dtype)
        numbers = args[2]
        if array.dtype == types.uint16:
            numbers = _rounded(builder, numbers, x.alike(_INT), x.alike(_SHORT))
        elif array.dtype == types.int32:
            numbers = builder.fptosi(numbers, x.alike(element))
        elif array.dtype != x.element:
            numbers = builder.fptrunc(numbers, x.alike(element))
        target = pointer(context, builder, array, *args[:2], x.width)
        builder.store(numbers, target).align = context.get_abi_alignment(element)
        return context.get_dummy_value()

    return types.void(array, _whole(place), x), build
