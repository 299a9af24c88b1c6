"""What expressions with roots and functions are worth, to any number of bits, and how near to zero
one can be that is not zero.

The bound is of Burnikel, Fleischer, Mehlhorn, Schirra (2000), "A strong and easily computable
separation bound for arithmetic expressions involving radicals".
"""

from __future__ import annotations

import math
import threading
from fractions import Fraction
from typing import Any

from guides.answers.evaluate import (
    BITS,
    TooBig,
    Undefined,
    constant,
    draw,
    exact,
    factorial,
    surrogate,
)
from guides.answers.grammar import Node, letters

_local = threading.local()


def context(bits: int) -> Any:
    """An mpmath context of this thread alone, at so many bits."""
    if not hasattr(_local, "context"):
        from mpmath import MPContext

        _local.context = MPContext()
    _local.context.prec = bits
    return _local.context


def approximate(node: Node, index: int, ctx: Any, true: bool) -> Any:
    """mpf or mpc: the value at a point to the context's bits. true: with the true pi and e, else
    with the fractions beside them.

    Raises Undefined, TooBig.
    """
    kind = node[0]
    if kind == "num":
        return _number(node[1], ctx)
    if kind == "var":
        value = draw(node[1], index)
        if true:
            value /= 5_000  # powers and functions want small ones
        return _number(value, ctx)
    if kind in ("pi", "e"):
        if true:
            return +getattr(ctx, kind)
        return _number(surrogate(kind, index), ctx)
    if kind == "i":
        return ctx.mpc(0, 1)
    if kind == "log":
        base = ctx.mpf("2.345")
        if node[1] is not None:
            base = _ln(approximate(node[1], index, ctx, true), ctx)
        if base == 0:
            raise Undefined
        return _ln(approximate(node[2], index, ctx, true), ctx) / base
    if kind == "call":
        return _call(node[1], approximate(node[2], index, ctx, true), ctx)
    if kind == "root":
        return _near_root(approximate(node[2], index, ctx, true), node[1], ctx)
    a = approximate(node[1], index, ctx, true)
    if kind == "neg":
        return -a
    if kind == "abs":
        return abs(a)
    if kind == "fact":
        if letters(node):
            return ctx.gamma(a + 1)
        return ctx.mpf(factorial(exact(node[1], index), False).numerator)
    b = approximate(node[2], index, ctx, true)
    if kind == "pow":
        return _near_power(a, b, node[2], index, ctx)
    if kind == "div":
        if abs(b) < ctx.mpf(2) ** (-ctx.prec // 2):
            raise Undefined
        return a / b
    return a + b if kind == "add" else a * b


def _number(value: Fraction, ctx: Any) -> Any:
    return ctx.mpf(value.numerator) / value.denominator


def _near_root(a: Any, degree: int, ctx: Any) -> Any:
    if degree % 2 and ctx.im(a) == 0 and ctx.re(a) < 0:
        return -ctx.root(-a, degree)
    return ctx.root(a, degree)


def _near_power(a: Any, b: Any, exponent: Node, index: int, ctx: Any) -> Any:
    if constant(exponent):
        q = exact(exponent, index)
        if q.denominator > 50:
            raise TooBig
        if q.denominator > 1:
            a = _near_root(a, q.denominator, ctx)
        b = int(q.numerator)
    if abs(a) < ctx.mpf(2) ** (-ctx.prec // 2):
        raise Undefined
    if abs(b) * (abs(ctx.log(abs(a))) + 4) > BITS:
        raise TooBig
    return a**b


def _ln(a: Any, ctx: Any) -> Any:
    if a == 0:
        raise Undefined
    return ctx.ln(a)


def _call(name: str, a: Any, ctx: Any) -> Any:
    largest = 10**30 if name == "ln" else 100_000
    if abs(a) > largest:
        raise TooBig
    function = {"arcsin": "asin", "arccos": "acos", "arctan": "atan"}.get(name, name)
    try:
        if name == "ln":
            return _ln(a, ctx)
        return getattr(ctx, function)(a)
    except (ZeroDivisionError, ValueError):
        raise Undefined from None


def bound(node: Node, index: int) -> tuple[float, float, frozenset]:
    """(log2 u, log2 l, {(degree, root)}) of an expression without functions: u and l of table 1
    of the paper.
    """
    kind = node[0]
    if kind in ("num", "var", "pi", "e"):
        value = exact(node, index)
        return math.log2(abs(value.numerator) or 1), math.log2(value.denominator), frozenset()
    if kind == "i":
        return 0.0, 0.0, frozenset(((2, node),))
    if kind == "fact":
        return bound(("num", exact(node, index)), index)
    if kind == "neg":
        return bound(node[1], index)
    if kind == "abs":  # the root of a number times its conjugate
        over, under, roots = bound(node[1], index)
        return _root_bound((2 * over, 2 * under, roots), 2, node)
    if kind == "root":
        return _root_bound(bound(node[2], index), node[1], node)
    if kind == "pow":
        q = exact(node[2], index)
        inner = bound(node[1], index)
        if q.denominator > 1:
            inner = _root_bound(inner, q.denominator, ("root", q.denominator, node[1]))
        over, under, roots = inner
        if q < 0:
            over, under = under, over
        return over * abs(q.numerator), under * abs(q.numerator), roots
    over, under, roots = bound(node[1], index)
    over2, under2, others = bound(node[2], index)
    both = roots | others
    if kind == "div":
        return over + under2, under + over2, both
    if kind == "add":
        return max(over + under2, under + over2) + 1, under + under2, both
    return over + over2, under + under2, both


def _root_bound(
    inner: tuple[float, float, frozenset], degree: int, node: Node
) -> tuple[float, float, frozenset]:
    over, under, roots = inner
    roots = roots | {(degree, node)}
    if over >= under:
        return (over + under * (degree - 1)) / degree, under, roots
    return over, (over * (degree - 1) + under) / degree, roots
