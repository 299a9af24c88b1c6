"""What expressions are worth at points drawn from their letters' names: exact fractions.

pi and e are letters here, and functions are tables of random values: what is equal then is equal
whatever they are.
"""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction
from functools import lru_cache
from typing import Any

from guides.answers.grammar import Node, letters, operands

BITS = 50_000  #: of the largest number that is computed


class Undefined(ArithmeticError):
    """No value here: a division by zero, the factorial of 1/2."""


class TooBig(ArithmeticError):
    """A value beyond the limits."""


class Irrational(ArithmeticError):
    """A value that is no fraction."""


def constant(node: Node) -> bool:
    """Whether an expression is made of numbers alone."""
    if node[0] == "num":
        return True
    return node[0] in ("add", "mul", "div", "neg") and all(map(constant, node[1:]))


def calculation(node: Node) -> bool:
    """Whether an expression of numbers alone holds a sum or a product, still to be worked out."""
    return _rational(node) and _has_operation(node)


def _rational(node: Node) -> bool:
    if node[0] in ("var", "pi", "e", "i", "root", "call", "log"):
        return False
    return all(map(_rational, operands(node)))


def _has_operation(node: Node) -> bool:
    return node[0] in ("add", "mul") or any(map(_has_operation, operands(node)))


@lru_cache(4096)
def draw(name: str, index: int) -> Fraction:
    """The value of a letter at a point; positive at the first two."""
    digest = hashlib.sha256(f"{index} {name}".encode(errors="surrogatepass")).digest()
    number = int.from_bytes(digest[:12], "big")
    value = Fraction(number % 999_983 + 2, (number >> 40) % 61 + 37)
    if index >= 2 and (number >> 90) % 2 == index % 2:
        return -value
    return value


@lru_cache(64)
def surrogate(name: str, index: int) -> Fraction:
    """A fraction beside pi or e, for where they are letters."""
    shift = Fraction(draw(name, index).numerator, 10**14)
    return Fraction({"pi": 314159265, "e": 271828182}[name], 10**8) + shift


def _table(*key: Any) -> Fraction:
    """The value of a function that is a table."""
    return draw(repr(key), 0)


def exact(node: Node, index: int) -> Fraction:
    """The value at a point, functions being tables. Raises Undefined, Irrational, TooBig."""
    kind = node[0]
    if kind == "num":
        return node[1]
    if kind == "var":
        return draw(node[1], index)
    if kind in ("pi", "e"):
        return surrogate(kind, index)
    if kind == "i":
        raise Irrational
    if kind == "log":
        return _table("log", node[1] and exact(node[1], index), exact(node[2], index))
    if kind == "call":
        return _table(node[1], exact(node[2], index))
    if kind == "root":
        return _root(exact(node[2], index), node[1])
    a = exact(node[1], index)
    if kind == "neg":
        return -a
    if kind == "abs":
        return abs(a)
    if kind == "fact":
        return factorial(a, bool(letters(node)))
    b = exact(node[2], index)
    if kind == "pow":
        return _power(a, b, constant(node[2]))
    if kind == "div":
        if b == 0:
            raise Undefined
        return a / b
    value = a + b if kind == "add" else a * b
    if value.numerator.bit_length() + value.denominator.bit_length() > BITS:
        raise TooBig
    return value


def _power(a: Fraction, b: Fraction, constant: bool) -> Fraction:
    if b.denominator != 1:
        if not constant:
            return _table("pow", a, b)
        if b.denominator > 50:
            raise TooBig
        return _power(_root(a, b.denominator), Fraction(b.numerator), True)
    if a == 0 and b <= 0:
        raise Undefined
    if abs(a) == 1:
        return a if b % 2 else Fraction(1)
    if a != 0 and abs(b) * (a.numerator.bit_length() + a.denominator.bit_length()) > BITS:
        raise TooBig
    return Fraction(a) ** int(b)


def _root(a: Fraction, degree: int) -> Fraction:
    if a < 0:
        if degree % 2 == 0:
            raise Irrational
        return -_root(-a, degree)
    return Fraction(_whole_root(a.numerator, degree), _whole_root(a.denominator, degree))


def _whole_root(n: int, degree: int) -> int:
    if degree == 2:
        root = math.isqrt(n)
    else:
        high = 1 << (n.bit_length() // degree + 1)
        low = 0
        while low < high:
            middle = (low + high + 1) // 2
            if middle**degree <= n:
                low = middle
            else:
                high = middle - 1
        root = low
    if root**degree != n:
        raise Irrational
    return root


def factorial(a: Fraction, letter: bool) -> Fraction:
    if letter:
        return _table("fact", a)
    if a.denominator != 1 or a < 0:
        raise Undefined
    if a > 2_000:
        raise TooBig
    return Fraction(math.factorial(int(a)))
