r"""A small grammar of algebra: numbers, letters, + - * / ^, \frac, \sqrt[n], functions, |x|, n!,
products without a sign.

A recursive descent over tokens, with limits on length and depth. It makes tuples and evaluates
nothing; `guides.answers.evaluate` tells what they are worth. What has two readings, such as 1/2x,
1/2/3 or 2 3, is not read at all.
"""

from __future__ import annotations

import itertools
import re
from fractions import Fraction
from functools import lru_cache

from guides.answers.quantities import quantity
from guides.answers.units import Unit, unit_of

#: ("num", Fraction) ("var", name) ("pi",) ("e",) ("i",) ("add" | "mul" | "div" | "pow", a, b)
#: ("neg" | "abs" | "fact", a) ("root", n, a) ("call", name, a) ("log", base or None, a)
Node = tuple

DEEPEST = 40  #: brackets within brackets
MOST = 400  #: tokens
TALLEST = 150  #: operations upon operations: recursion over the tree stays far from Python's limit
GREEK = frozenset(
    ("alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "kappa",
    "lambda", "mu", "nu", "xi", "rho",
     "sigma", "tau", "phi", "varphi", "chi", "psi", "omega")
)  # fmt: skip
FUNCTIONS = frozenset(
    ("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh",
    "exp", "ln")
)  # fmt: skip
#: what is a command without a backslash, too
_BARE_COMMANDS = FUNCTIONS | {"sqrt", "pi", "log", "abs"}
_TOKEN = re.compile(
    r"\s*(?:(?P<num>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)"
    r"|\\(?P<command>[a-zA-Z]+)|(?P<word>[a-zA-Z]+)|(?P<sign>[-+*/^(){}\[\]|!_°]))",
    re.ASCII,
)
_PROSE = re.compile(
    r"(?<![a-zA-Z])[a-zA-Z]{2,} +[a-zA-Z\d]|[a-zA-Z\d})] +[a-zA-Z]{2,}(?![a-zA-Z])|\d(?:st|nd|rd|"
    r"th)(?![a-zA-Z])",
    re.ASCII,
)
_NAMES = re.compile(rf"\\[a-zA-Z]+|\b(?:{'|'.join(sorted(FUNCTIONS))}|sqrt|log|pi)\b")


class Unreadable(ValueError):
    """The text is no expression of this grammar, or has two readings."""


@lru_cache(2048)
def read(text: str) -> Node | None:
    """The expression that a tidy `text` (`normalise.tidy`) writes, None where the grammar does
    not read it. Raises nothing.
    """
    bare = _NAMES.sub("\\\\", text)
    if not text or _PROSE.search(bare) or re.fullmatch(r"[a-zA-Z]{2,}", text):
        return None
    try:
        parser = _Parser(_tokens(text))
        node = parser.sum(0)
    except Unreadable:
        return None
    if parser.at < len(parser.tokens) or _taller(node, TALLEST):
        return None
    return node


@lru_cache(2048)
def measured(text: str) -> tuple[Node | None, Unit | None]:
    """The expression of a text, and the unit after it where there is one that we know, as in
    2\\sqrt{3} cm.
    """
    node = read(text)
    body, _, tail = text.rpartition(" ")
    if body and (node is None or tail[1:2].isalpha()):
        unit = unit_of(tail)
        if unit and unit[0] not in ("%", "word"):
            return read(body.strip()), unit
    if node is None:
        number = quantity(text)
        if number is not None and number.unit is None:
            return ("num", number.value), None
    return node, None


def _taller(node: Node, levels: int) -> bool:
    """Whether an expression has more levels than that. Without recursion."""
    level = [node]
    for _ in range(levels):
        level = list(itertools.chain.from_iterable(map(operands, level)))
    return bool(level)


def operands(node: Node) -> list[Node]:
    """The expressions that an expression is made of."""
    return [part for part in node[1:] if isinstance(part, tuple)]


def letters(node: Node) -> frozenset[str]:
    """The names of the variables of an expression."""
    if node[0] == "var":
        return frozenset((node[1],))
    return frozenset().union(*map(letters, operands(node)))


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or len(tokens) > MOST:
            raise Unreadable
        kind = str(match.lastgroup)
        found = match[kind]
        if kind != "word":
            tokens.append((kind, found))
        elif found in _BARE_COMMANDS:
            tokens.append(("command", found))
        elif len(found) <= 3:
            tokens += [("letter", letter) for letter in found]
        else:
            raise Unreadable  # a word, not a product
        at = match.end()
    return tokens


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]):
        self.tokens = tokens
        self.at = 0

    def peek(self) -> tuple[str, str]:
        if self.at == len(self.tokens):
            return ("end", "")
        return self.tokens[self.at]

    def take(self, sign: str | None = None) -> tuple[str, str]:
        token = self.peek()
        if token[0] == "end" or (sign is not None and token != ("sign", sign)):
            raise Unreadable
        self.at += 1
        return token

    def accept(self, sign: str) -> bool:
        if self.peek() != ("sign", sign):
            return False
        self.at += 1
        return True

    def sum(self, depth: int) -> Node:
        """term (+ | -) term ..."""
        if depth > DEEPEST:
            raise Unreadable
        node = self.term(depth)
        while self.peek() in (("sign", "+"), ("sign", "-")):
            minus = self.take()[1] == "-"
            term = self.term(depth)
            node = ("add", node, ("neg", term) if minus else term)
        return node

    def term(self, depth: int) -> Node:
        """Signs, then factors with * or / or nothing between them. 1/2x and 1/2/2 have two
        readings.
        """
        minus = False
        while self.peek() in (("sign", "+"), ("sign", "-")):
            minus ^= self.take()[1] == "-"
        node = self.power(depth)
        divided = False
        while True:
            if self.accept("*"):
                node = ("mul", node, self.signed(depth))
                divided = False
            elif not divided and self.accept("/"):
                node = ("div", node, self.signed(depth))
                divided = True
            elif self.starts():
                if divided or self.peek()[0] == "num":
                    raise Unreadable
                node = ("mul", node, self.power(depth))
            else:
                return ("neg", node) if minus else node

    def signed(self, depth: int) -> Node:
        if self.accept("-"):
            return ("neg", self.power(depth))
        return self.power(depth)

    def starts(self) -> bool:
        """Whether a factor starts here."""
        kind, text = self.peek()
        return (
            kind in ("num", "letter", "command")
            or (kind == "sign" and text in "({")
            or (text == "|" and not self.bars)
        )

    bars = False  # inside |...| the next bar closes

    def power(self, depth: int) -> Node:
        node = self.primary(depth)
        while True:
            if self.accept("!"):
                if self.peek() == ("sign", "!"):  # 5!! is 15 to most
                    raise Unreadable
                node = ("fact", node)
            elif self.accept("°"):
                node = ("div", ("mul", node, ("pi",)), ("num", Fraction(180)))
            elif self.accept("^"):
                return ("pow", node, self.exponent(depth))
            else:
                return node

    def exponent(self, depth: int) -> Node:
        if self.peek() == ("sign", "{"):
            node = self.group("{", "}", depth)
        elif self.accept("-"):
            node = ("neg", self.primary(depth + 1))
        else:
            node = self.primary(depth + 1)
        if self.accept("^"):
            return ("pow", node, self.exponent(depth + 1))
        return node

    def group(self, left: str, right: str, depth: int) -> Node:
        self.take(left)
        outer = self.bars
        self.bars = False
        node = self.sum(depth + 1)
        self.bars = outer
        self.take(right)
        return node

    def argument(self, depth: int) -> Node:
        r"""What \frac and \sqrt take: a group, or one letter, digit or command. \frac12 has two
        arguments; \sqrt12 has two readings.
        """
        kind, text = self.peek()
        if (kind, text) == ("sign", "{"):
            return self.group("{", "}", depth)
        if kind == "num" and text.isdigit():
            self.tokens[self.at] = ("num", text[1:])
            if len(text) == 1:
                self.at += 1
            return ("num", Fraction(text[0]))
        if kind not in ("letter", "command"):
            raise Unreadable
        return self.primary(depth + 1)

    def primary(self, depth: int) -> Node:
        if depth > DEEPEST:
            raise Unreadable
        kind, text = self.take()
        if kind == "num":
            return self.number(text, depth)
        if kind == "letter":
            return (text,) if text in ("e", "i") else self.variable(text)
        if kind == "command":
            return self.command(text, depth)
        self.at -= 1
        if text == "(":
            return self.group("(", ")", depth)
        if text == "{":
            return self.group("{", "}", depth)
        if text == "|" and not self.bars:
            self.take("|")
            self.bars = True
            node = self.sum(depth + 1)
            self.bars = False
            self.take("|")
            return ("abs", node)
        raise Unreadable

    def number(self, digits: str, depth: int) -> Node:
        if len(digits) > 400:
            raise Unreadable
        if "." in digits and self.peek() == ("sign", "("):  # 0.(3) is a third
            raise Unreadable
        value = Fraction(digits.replace(",", "").rstrip("."))
        # a mixed number, where it can be one
        if self.peek() == ("command", "frac") and digits.isdigit():
            self.take()
            top = self.argument(depth)
            bottom = self.argument(depth)
            if self.peek() in (("sign", "^"), ("sign", "!")):
                raise Unreadable
            if top[0] != "num" or bottom[0] != "num":
                return ("mul", ("num", value), ("div", top, bottom))
            if top[1] >= bottom[1] or bottom[1] == 0:
                raise Unreadable
            return ("num", value + top[1] / bottom[1])
        return ("num", value)

    def variable(self, name: str) -> Node:
        # f(2x) is hardly f times 2x
        if name in ("f", "g", "h", "phi", "varphi") and self.peek() == ("sign", "("):
            raise Unreadable
        if self.accept("_"):
            if self.accept("{"):
                while not self.accept("}"):
                    name += "_" + self.take()[1]
            else:
                name += "_" + self.take()[1]
        return ("var", name)

    def command(self, name: str, depth: int) -> Node:
        if name == "pi":
            return ("pi",)
        if name in GREEK:
            return self.variable(name)
        if name == "frac":
            return ("div", self.argument(depth), self.argument(depth))
        if name == "binom":
            top = self.argument(depth)
            bottom = self.argument(depth)
            rest = ("add", top, ("neg", bottom))
            return ("div", ("fact", top), ("mul", ("fact", bottom), ("fact", rest)))
        if name == "sqrt":
            return self.root(depth)
        if name == "abs":
            return ("abs", self.group("(", ")", depth))
        if name == "log":
            base = None
            if self.accept("_") and (self.peek()[0] != "sign" or self.peek()[1] == "{"):
                base = self.argument(depth)
            return ("log", base, self.applied(depth))
        if name in FUNCTIONS:
            return self.function(name, depth)
        raise Unreadable

    def root(self, depth: int) -> Node:
        degree = 2
        if self.accept("["):
            kind, digits = self.take()
            if kind != "num" or not digits.isdigit() or len(digits) > 2:
                raise Unreadable
            degree = int(digits)
            if not 2 <= degree <= 50:
                raise Unreadable
            self.take("]")
        if self.peek() == ("sign", "("):
            return ("root", degree, self.group("(", ")", depth))
        if self.peek()[0] == "num" and len(self.peek()[1]) > 1:
            raise Unreadable
        return ("root", degree, self.argument(depth))

    def function(self, name: str, depth: int) -> Node:
        if not self.accept("^"):
            return ("call", name, self.applied(depth))
        exponent = self.exponent(depth)
        if exponent == ("neg", ("num", Fraction(1))):  # an inverse to some, a reciprocal to others
            raise Unreadable
        return ("pow", ("call", name, self.applied(depth)), exponent)

    def applied(self, depth: int) -> Node:
        """The argument of a function: a bracket, or numbers and letters up to the next sign,
        bracket or function.
        """
        if self.peek() in (("sign", "("), ("sign", "{")):
            node = self.primary(depth + 1)
            if self.peek() in (("sign", "^"), ("sign", "!")):  # sin(x)^2 has two readings
                raise Unreadable
            return node
        node = self.power(depth + 1)
        while self.peek()[0] == "letter" or (
            self.peek()[0] == "command" and self.peek()[1] in GREEK | {"pi"}
        ):
            node = ("mul", node, self.power(depth + 1))
        if self.peek() in (("sign", "("), ("sign", "/")):
            raise Unreadable
        return node
