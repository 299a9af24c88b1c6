r"""A small grammar of algebra: numbers, letters, + - * / ^, \frac, \sqrt[n], functions, |x|, n!,
products without a sign.

A recursive descent over tokens, with limits on length and depth. It makes tuples and evaluates
nothing; `guides.answers.evaluate` tells what they are worth. What has two readings, such as 1/2x,
1/2/3 or 2 3, is not read at all.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

#: ("num", Fraction) ("var", name) ("pi",) ("e",) ("i",) ("add" | "mul" | "div" | "pow", a, b)
#: ("neg" | "abs" | "fact", a) ("root", n, a) ("call", name, a) ("log", base or None, a)
Node = tuple

DEEPEST = 40  #: brackets within brackets
MOST = 400  #: tokens
TALLEST = 150  #: operations upon operations: who walks the tree stays far from Python's own limit
GREEK = frozenset(
    ("alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "kappa",
    "lambda", "mu", "nu", "xi", "rho",
     "sigma", "tau", "phi", "varphi", "chi", "psi", "omega")
)  # fmt: skip
FUNCTIONS = frozenset(
    ("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh",
    "exp", "ln")
)  # fmt: skip
_TOKEN = re.compile(
    r"\s*(?:(?P<num>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)|\\(?P<command>[a-zA-Z]+)|(?P<word>[a-zA-Z]+)|(?P<sign>[-+*/^(){}\[\]|!_°]))",
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
        return node if parser.at == len(parser.tokens) and not _taller(node, TALLEST) else None
    except Unreadable:
        return None


def _taller(node: Node, levels: int) -> bool:
    """Whether an expression has more levels than that. Without recursion."""
    level = [node]
    for _ in range(levels):
        level = [part for one in level for part in one[1:] if isinstance(part, tuple)]
    return bool(level)


def letters(node: Node) -> frozenset[str]:
    """The names of the variables of an expression."""
    if node[0] == "var":
        return frozenset((node[1],))
    return frozenset().union(*(letters(part) for part in node[1:] if isinstance(part, tuple)))


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or len(tokens) > MOST:
            raise Unreadable
        kind = str(match.lastgroup)
        if (
            kind == "word"
            and match[kind] not in FUNCTIONS
            and match[kind] not in ("sqrt", "pi", "log", "abs")
        ):
            if len(match[kind]) > 3:
                raise Unreadable  # a word, not a product
            tokens += [("letter", letter) for letter in match[kind]]
        else:
            tokens.append(("command" if kind == "word" else kind, match[kind]))
        at = match.end()
    return tokens


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]):
        self.tokens, self.at = tokens, 0

    def peek(self, ahead: int = 0) -> tuple[str, str]:
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else ("end", "")

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
        node, divided = self.power(depth), False
        while True:
            if self.accept("*"):
                node, divided = ("mul", node, self.signed(depth)), False
            elif not divided and self.accept("/"):
                node, divided = ("div", node, self.signed(depth)), True
            elif self.starts():
                if divided or self.peek()[0] == "num":
                    raise Unreadable
                node = ("mul", node, self.power(depth))
            else:
                return ("neg", node) if minus else node

    def signed(self, depth: int) -> Node:
        return ("neg", self.power(depth)) if self.accept("-") else self.power(depth)

    def starts(self) -> bool:
        """Whether a factor starts here."""
        kind, said = self.peek()
        return (
            kind in ("num", "letter", "command")
            or (kind == "sign" and said in "({")
            or (said == "|" and not self.bars)
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
        return ("pow", node, self.exponent(depth + 1)) if self.accept("^") else node

    def group(self, left: str, right: str, depth: int) -> Node:
        self.take(left)
        outer, self.bars = self.bars, False
        node = self.sum(depth + 1)
        self.bars = outer
        self.take(right)
        return node

    def argument(self, depth: int) -> Node:
        r"""What \frac and \sqrt take: a group, or one letter, digit or command. \frac12 has two
        arguments; \sqrt12 has two readings.
        """
        kind, said = self.peek()
        if (kind, said) == ("sign", "{"):
            return self.group("{", "}", depth)
        if kind == "num" and said.isdigit():
            self.tokens[self.at] = ("num", said[1:])
            if len(said) == 1:
                self.at += 1
            return ("num", Fraction(said[0]))
        if kind not in ("letter", "command"):
            raise Unreadable
        return self.primary(depth + 1)

    def primary(self, depth: int) -> Node:
        if depth > DEEPEST:
            raise Unreadable
        kind, said = self.take()
        if kind == "num":
            return self.number(said, depth)
        if kind == "letter":
            return ("e",) if said == "e" else ("i",) if said == "i" else self.variable(said)
        if kind == "command":
            return self.command(said, depth)
        self.at -= 1
        if said in ("(", "{"):
            return self.group(said, ")" if said == "(" else "}", depth)
        if said == "|" and not self.bars:
            self.take("|")
            self.bars = True
            node = self.sum(depth + 1)
            self.bars = False
            self.take("|")
            return ("abs", node)
        raise Unreadable

    def number(self, said: str, depth: int) -> Node:
        value = Fraction(said.replace(",", "").rstrip(".")) if len(said) <= 400 else None
        if value is None or ("." in said and self.peek() == ("sign", "(")):  # 0.(3) is a third
            raise Unreadable
        # a mixed number, where it can be one
        if self.peek() == ("command", "frac") and said.isdigit():
            self.take()
            top, bottom = self.argument(depth), self.argument(depth)
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
            top, bottom = self.argument(depth), self.argument(depth)
            rest = ("add", top, ("neg", bottom))
            return ("div", ("fact", top), ("mul", ("fact", bottom), ("fact", rest)))
        if name == "sqrt":
            return self.root(depth)
        if name == "abs":
            return ("abs", self.group("(", ")", depth))
        if name == "log":
            base = (
                (
                    self.argument(depth)
                    if self.peek()[0] != "sign" or self.peek()[1] == "{"
                    else None
                )
                if self.accept("_")
                else None
            )
            return ("log", base, self.applied(depth))
        if name in FUNCTIONS:
            return self.function(name, depth)
        raise Unreadable

    def root(self, depth: int) -> Node:
        degree = 2
        if self.accept("["):
            kind, said = self.take()
            if kind != "num" or not said.isdigit() or not 2 <= int(said[:3]) <= 50 or len(said) > 2:
                raise Unreadable
            degree = int(said)
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
