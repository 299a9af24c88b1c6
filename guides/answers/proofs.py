"""Proofs in processes that can be killed: sympy for expressions that agree at every point,
math-verify for what our grammar does not read.

Both may take for ever or fill the memory, whatever their own limits say, so they run in warm worker
processes (`search.scheduling.workers`) with a limit of time and memory. math-verify is optional:
`pip install "copse-search[math]"`.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from functools import cache, lru_cache
from typing import Any

from guides.answers.grammar import Node
from search.scheduling.requests import Call, Request
from search.scheduling.workers import Workers

log = logging.getLogger(f"copse.{__name__}")

PROCESSES = 2
_ROUNDED = re.compile(r"\.|\d{9}|\^\{?-?\d{2}|!")  # decimals, long numbers, high powers, factorials
MEMORY = 4 << 30  #: bytes of address space of a process


class Pool:
    """Worker processes shared by all threads. Each call is a future: its result, or the
    exception that says why there is none.
    """

    def __init__(self, processes: int = PROCESSES, memory: int = MEMORY):
        self._workers = Workers(processes, memory)
        self._futures: dict[Request, Future[Any]] = {}
        self._lock = threading.Lock()
        self._some = threading.Event()
        threading.Thread(target=self._collect, name="copse-proofs", daemon=True).start()

    def submit(self, function: Any, args: tuple[Any, ...], seconds: float) -> Future[Any]:
        """Have `function(*args)` performed, at most `seconds` long; starting a process and its
        imports do not count.
        """
        request = Call(_called, (_Loaded(), function, args), seconds)
        future = Future[Any]()
        with self._lock:
            self._futures[request] = future
        self._workers.submit(request)
        self._some.set()
        return future

    def _collect(self) -> None:
        while True:
            self._some.wait()
            replies = self._workers.poll(1.0)
            with self._lock:
                futures = [self._futures.pop(reply.request) for reply in replies]
                if not self._futures:
                    self._some.clear()
            for future, reply in zip(futures, replies, strict=True):
                if reply.error is None:
                    future.set_result(reply.result)
                else:
                    future.set_exception(reply.error)


@cache
def pool() -> Pool:
    """The pool of this process, made when it is first needed."""
    return Pool()


# a fork has neither its threads nor its processes
os.register_at_fork(after_in_child=pool.cache_clear)


@cache
def installed() -> bool:
    """Whether math-verify is there; a warning says once what to install where it is not."""
    there = importlib.util.find_spec("math_verify") is not None
    if not there:
        log.warning(
            "some sets and inequalities stay undecided without math-verify: pip install "
            '"copse-search[math]"'
        )
    return there


class _Loaded:
    """Crosses to a worker as the import of sympy and math-verify, so that a call's own time
    begins when they are there.
    """

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return _load, ()


def _load() -> None:
    import sympy

    if importlib.util.find_spec("math_verify") is not None:
        import math_verify

        logging.getLogger(math_verify.__name__).setLevel(logging.ERROR)
    assert sympy


def _called(loaded: None, function: Any, args: tuple[Any, ...]) -> Any:
    return function(*args)


# -- what the processes do


def prove_equal(a: Node, b: Node) -> bool | None:
    """True where sympy proves two expressions equal for all real values of their letters, else
    None.
    """
    import sympy

    difference = _sympy(a) - _sympy(b)
    for attempt in (sympy.expand, _expand_all, sympy.simplify):
        if attempt(difference) == 0:
            return True
    return None


def _expand_all(expression: Any) -> Any:
    import sympy

    return sympy.simplify(
        sympy.expand_log(sympy.expand_trig(sympy.expand(expression)), force=False)
    )


def _sympy(node: Node) -> Any:
    """The sympy object of an expression, made by constructors: no text is ever evaluated."""
    import sympy

    kind = node[0]
    if kind == "num":
        return sympy.Rational(node[1].numerator, node[1].denominator)
    if kind == "var":
        return sympy.Symbol(node[1], real=True)
    if kind in ("pi", "e", "i"):
        return {"pi": sympy.pi, "e": sympy.E, "i": sympy.I}[kind]
    parts = [_sympy(part) if isinstance(part, tuple) else part for part in node[1:]]
    if kind == "root":
        degree, a = parts
        if degree % 2:
            return sympy.real_root(a, degree)
        return sympy.root(a, degree)
    if kind == "call":
        names = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "ln": "log"}
        return getattr(sympy, names.get(parts[0], parts[0]))(parts[1])
    if kind == "log":
        base = parts[0]
        if base is None:
            base = sympy.Symbol("the base of log", positive=True)
        return sympy.log(parts[1]) / sympy.log(base)
    if kind == "fact":
        return sympy.factorial(parts[0])
    if kind == "abs":
        return sympy.Abs(parts[0])
    if kind == "neg":
        return -parts[0]
    a, b = parts
    if kind == "add":
        return a + b
    if kind == "mul":
        return a * b
    if kind == "div":
        return a / b
    return sympy.Pow(a, b)


def math_verify_equal(answer: str, target: str) -> bool | None:
    """What math-verify says of two tidy texts; None where it does not read both, or is known to
    err.

    It takes an interval for an inequality in one order only, so both are tried. It takes x + 1 = 5
    for 5 and x^2 = -1 for x^2 = -2, so it is asked about sets and inequalities only. It rounds, so
    it is not believed where that may hide a difference (`_ROUNDED`). Two sets differ where sympy
    finds what is in one of them only; all else that it finds different stays open: it may lack an
    idea.
    """
    from math_verify import verify

    a = _parsed(answer)
    b = _parsed(target)
    kinds = {_kind(a), _kind(b)}
    if "" in kinds or (len(kinds) > 1 and kinds != {"set", "relation"}):
        return None
    sure = not _ROUNDED.search(answer) and not _ROUNDED.search(target)
    if (
        kinds == {"set"}
        and not a.free_symbols | b.free_symbols
        and (alike := a.symmetric_difference(b).is_empty) is not None
    ):
        return None if alike and not sure else alike
    equal = verify(b, a, raise_on_error=True) or (
        len(kinds) > 1 and verify(a, b, raise_on_error=True)
    )
    return True if equal and sure else None


@lru_cache(512)
def _parsed(text: str) -> Any:
    from math_verify import LatexExtractionConfig, parse

    found = parse(f"${text}$", extraction_config=[LatexExtractionConfig()], raise_on_error=True)
    return next((one for one in found if not isinstance(one, str)), None)


def _kind(thing: Any) -> str:
    """ "set" or "relation" (an inequality, or several); "" for what is neither, and for nothing."""
    from sympy import And, Eq, Or, Set
    from sympy.core.relational import Relational

    if isinstance(thing, Set):
        return "set"
    if isinstance(thing, (Relational, And, Or)) and not thing.has(Eq):
        return "relation"
    return ""


def results(futures: Sequence[Future[Any]]) -> list[Any]:
    """What the calls gave, None for those that failed, in order."""
    found = []
    for future in futures:
        failed = future.exception() is not None
        found.append(None if failed else future.result())
    return found
