"""Whether two expressions are equal, by their values at a few points.

Equal at random points means equal, but for luck below 1e-15 (Schwartz 1980). Rational values are
exact. Roots are computed to more bits than the separation bound of their expression asks for, so
equal and different are certain there too. pi and e are transcendental, so among roots and fractions
they are letters. A function is first a table of random values: what is equal then is equal whatever
the function; else its true values show a difference, or a proof is needed that there is none
(`Unproven`).
"""

from __future__ import annotations

import math
from fractions import Fraction

from guides.answers.evaluate import Irrational, TooBig, Undefined, constant, exact
from guides.answers.grammar import Node, letters, operands
from guides.answers.precision import approximate, bound, context

ROOT_BITS = 6_000  #: precision that roots may ask for
POINTS = 4  #: the first two are positive
_DIGITS = 40  # agreement of true values that asks for a proof


class Unproven(Exception):
    """Equal as far as can be computed."""


def compare(a: Node, b: Node) -> bool | None:
    """Whether two expressions are equal; None where it cannot be known. Raises Unproven where only
    a proof can tell.

    Letters may be any real numbers. What is equal for positive ones only, as x and |x|, cannot be
    known.
    """
    try:
        return _compare(a, b)
    except (ArithmeticError, ValueError):  # beyond the limits, or nowhere defined
        return None


def _compare(a: Node, b: Node) -> bool | None:
    if a == b:
        return _written_alike(a)
    free = letters(a) | letters(b)
    verdicts = {}  # at the points where both have a value
    for index in range(POINTS if free else 2):
        verdict = _equal_at(a, b, index)
        if verdict is not None:
            verdicts[index] = verdict
    if len(verdicts) >= 2 and all(verdicts.values()):
        return True
    if opaque(a) or opaque(b):
        return _by_true_values(a, b)
    if len(verdicts) < 2 or (verdicts.get(0) and verdicts.get(1)):
        return None
    return False


def _written_alike(node: Node) -> bool | None:
    """Whether an expression is worth something at all."""
    try:
        exact(node, 0)
    except Undefined:
        return None
    except (Irrational, TooBig):
        pass
    return True


def opaque(node: Node) -> bool:
    """Whether an expression has functions, or powers with letters in the exponent."""
    if (
        node[0] in ("call", "log")
        or (node[0] == "pow" and not constant(node[2]))
        or (node[0] == "fact" and letters(node))
    ):
        return True
    return any(map(opaque, operands(node)))


def _equal_at(a: Node, b: Node, index: int) -> bool | None:
    """Whether a and b are equal at a point; None where one has no value there."""
    try:
        return exact(a, index) == exact(b, index)
    except Undefined:
        return None
    except Irrational:
        pass
    if opaque(a) or opaque(b):
        return False  # as far as tables tell
    try:
        over, under, roots = bound(a, index)
        over2, under2, others = bound(b, index)
        degree = math.prod(root[0] for root in roots | others)
        # bits of a - b, if it is not 0
        need = (degree - 1) * (max(over + under2, under + over2) + 1) + under + under2
        if need > ROOT_BITS:
            raise TooBig
        ctx = context(int(2 * need) + 200)
        gap = abs(approximate(a, index, ctx, False) - approximate(b, index, ctx, False))
        return bool(gap < ctx.mpf(2) ** -(int(need) + 2))
    except Undefined:
        return None


def _by_true_values(a: Node, b: Node) -> bool | None:
    ctx = context(4 * _DIGITS + 100)
    points = 0  # where both have a value
    alike = True  # at all of them
    for index in range(POINTS):
        try:
            x = approximate(a, index, ctx, True)
            y = approximate(b, index, ctx, True)
        except Undefined:
            continue
        points += 1
        if abs(x - y) > ctx.mpf(10) ** -_DIGITS * max(1, abs(x), abs(y)):
            if _has_bare_log(a) or _has_bare_log(b):
                return None  # the base is not given
            if index < 2:
                return False
            alike = False
    if points < 2 or not alike:
        return None
    raise Unproven


def _has_bare_log(node: Node) -> bool:
    """Whether a logarithm has no base."""
    if node[0] == "log" and node[1] is None:
        return True
    return any(map(_has_bare_log, operands(node)))


def fingerprint(node: Node) -> tuple[str, ...] | None:
    """The true values at the points to 12 digits: the same for equal expressions. None: it has
    none.
    """
    ctx = context(200)
    try:
        values = [approximate(node, index, ctx, True) for index in range(2)]
    except (ArithmeticError, ValueError):
        return None
    return tuple(ctx.nstr(ctx.mpc(value), 12) for value in values)


def near(node: Node, number: Fraction, within: Fraction | float) -> bool:
    """Whether an expression without letters is a real number that differs from `number` by at most
    so much.
    """
    if letters(node):
        return False
    ctx = context(_DIGITS * 8)
    try:
        value = approximate(node, 0, ctx, True)
    except (ArithmeticError, ValueError):
        return False
    gap = abs(value - ctx.mpf(number.numerator) / number.denominator)
    return bool(gap <= ctx.mpf(Fraction(within).numerator) / Fraction(within).denominator)


def surely(a: tuple[Node | None, tuple | None], b: tuple[Node | None, tuple | None]) -> bool:
    """Whether two expressions, each with its unit or None, are known to be equal without a proof.
    A unit that only one of them names is taken as understood.
    """
    if a[0] is None or b[0] is None or (a[1] and b[1] and a[1] != b[1]):
        return False
    try:
        return compare(a[0], b[0]) is True
    except Unproven:
        return False
