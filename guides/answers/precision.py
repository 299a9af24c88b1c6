"""What expressions with roots and functions are worth, to any number of bits, and how near to zero
one can be that is not zero.

The bound is of Burnikel, Fleischer, Mehlhorn, Schirra (2000), "A strong and easily computable
separation bound for arithmetic expressions involving radicals".
"""

from __future__ import annotations

import math
import threading
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
    if kind in ("num", "var"):
        # powers and functions want small ones
        value = node[1] if kind == "num" else draw(node[1], index) / (5_000 if true else 1)
        return ctx.mpf(value.numerator) / value.denominator
    if kind in ("pi", "e"):
        near = surrogate(kind, index)
        return +getattr(ctx, kind) if true else ctx.mpf(near.numerator) / near.denominator
    if kind == "i":
        return ctx.mpc(0, 1)
    if kind == "log":
        base = (
            ctx.mpf("2.345")
            if node[1] is None
            else _ln(approximate(node[1], index, ctx, true), ctx)
        )
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
        return (
            ctx.mpf(factorial(exact(node[1], index), False).numerator)
            if not letters(node)
            else ctx.gamma(a + 1)
        )
    b = approximate(node[2], index, ctx, true)
    if kind == "pow":
        return _near_power(a, b, node[2], index, ctx)
    if kind == "div":
        if abs(b) < ctx.mpf(2) ** (-ctx.prec // 2):
            raise Undefined
        return a / b
    return a + b if kind == "add" else a * b


def _near_root(a: Any, degree: int, ctx: Any) -> Any:
    if degree % 2 and ctx.im(a) == 0 and ctx.re(a) < 0:
        return -ctx.root(-a, degree)
    return ctx.root(a, degree)


def _near_power(a: Any, b: Any, exponent: Node, index: int, ctx: Any) -> Any:
    if constant(exponent):
        q = exact(exponent, index)
        if q.denominator > 50:
            raise TooBig
        a, b = _near_root(a, q.denominator, ctx) if q.denominator > 1 else a, int(q.numerator)
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
    if abs(a) > (10**30 if name == "ln" else 100_000):
        raise TooBig
    function = {"arcsin": "asin", "arccos": "acos", "arctan": "atan"}.get(name, name)
    try:
        return _ln(a, ctx) if name == "ln" else getattr(ctx, function)(a)
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
        over, under, roots = bound(node[1], index)
        if q.denominator > 1:
            over, under, roots = _root_bound(
                (over, under, roots), q.denominator, ("root", q.denominator, node[1])
            )
        if q < 0:
            over, under = under, over
        return over * abs(q.numerator), under * abs(q.numerator), roots
    (over, under, roots), (over2, under2, others) = bound(node[1], index), bound(node[2], index)
    both = roots | others
    if kind == "div":
        return over + under2, under + over2, both
    return (
        (max(over + under2, under + over2) + 1 if kind == "add" else over + over2),
        under + under2,
        both,
    )


def _root_bound(
    inner: tuple[float, float, frozenset], degree: int, node: Node
) -> tuple[float, float, frozenset]:
    over, under, roots = inner
    roots = roots | {(degree, node)}
    if over >= under:
        return (over + under * (degree - 1)) / degree, under, roots
    return over, (over * (degree - 1) + under) / degree, roots
