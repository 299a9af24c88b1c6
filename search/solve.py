"""`solve` and `solve_many`: from a problem to a `Solution`."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from search.asks import Asks, metered, parallel, run
from search.budget import Budget, Meter, Usage
from search.guide import Guide, check_kind
from search.problem import Problem, chain_text
from search.requests import Backend

if TYPE_CHECKING:
    from search.choose import Chooser
    from search.trace import Trace
    from search.tree import Tree

log = logging.getLogger(__name__)

METHODS = ("mcts", "beam", "sample")
Method = Callable[..., Any]  #: (problem, guide, meter, rng, **options) -> Asks[Tree]


@dataclass(frozen=True, repr=False)
class Solution:
    """What a search found.

    answer      the chosen answer in canonical form; None: no finished state with an answer
    text, steps the chain of thought that leads to it (to the best unfinished state where there is no answer)
    value       of that chain in [0, 1]: its reward, else what the search or the guide thinks of it; nan unknown
    verified    True, False, or None where only the label could tell
    candidates  (answer, share of votes, value) of every distinct answer, most votes first
    stopped     "verified", "finished" (the method was done), "exhausted" (nothing left to explore), "tokens", "calls",
                "simulations" or "seconds" (that budget ended), "interrupted", "error"
    error       the exception of a search that failed, None otherwise
    usage       what it cost;  tree: the search tree, None after an error
    """

    problem: Problem
    answer: str | None = None
    text: str = ""
    steps: tuple[Any, ...] = ()
    value: float = math.nan
    verified: bool | None = None
    candidates: tuple[tuple[str, float, float], ...] = ()
    stopped: str = "error"
    error: Exception | None = None
    usage: Usage = field(default_factory=Usage)
    tree: Tree | None = None
    trace: Trace | None = None

    def __repr__(self) -> str:
        verdict = {True: "verified", False: "refuted", None: "unverified"}[self.verified]
        outcome = f"error={self.error!r}" if self.error else f"answer={self.answer!r}, {verdict}, value={self.value:.2f}"
        return f"Solution({outcome}, stopped={self.stopped!r}, {self.usage.generated} tokens, {self.usage.seconds:.1f} s)"

    def __str__(self) -> str:
        verdict = {True: "verified", False: "refuted", None: "not verified"}[self.verified]
        lines = [self.text] if self.text else []
        if self.error is not None:
            lines.append(f"error: {self.error}")
        else:
            lines.append("no answer" if self.answer is None else f"answer: {self.answer} ({verdict})")
        u = self.usage
        rows = "" if math.isnan(u.mean_rows) else f", {u.mean_rows:.1f} rows a pass"
        lines.append(
            f"cost: {u.generated:,} tokens in {u.calls:,} calls, {u.simulations:,} simulations, {u.seconds:.2f} s{rows}; "
            f"stopped: {self.stopped}"
        )
        return "\n".join(lines)


def solve(
    problem: Problem | str,
    guide: Guide | None = None,
    method: str | Method = "mcts",
    budget: Budget | str | None = None,
    seed: int = 0,
    choose: Chooser | None = None,
    **options: Any,
) -> Solution:
    """Search for a solution of one problem.

    problem  a Problem, or text: a puzzle that a module of `search.problems` knows, else an open text problem
    guide    policy and value function; None: the built-in model, for the kinds of problem it was trained on
    method   "mcts", "beam", "sample", "my.module:function", or a function like them
    budget   a Budget or text such as "tokens=2000,seconds=10"; None: the guide's own
    choose   a chooser of `search.choose`; None: a verified state first, else the weighted vote
    options  of the method, for example branch=8

    Raises ValueError for bad input, before any model is loaded; the backend's error where not even the root can be expanded.
    Ctrl-C ends the search and gives back what there is; a second one raises KeyboardInterrupt.
    """
    return _solve([problem], guide, method, budget, seed, choose, options, limit=1, isolate=False)[0]


def solve_many(
    problems: Iterable[Problem | str],
    guide: Guide | None = None,
    method: str | Method = "mcts",
    budget: Budget | str | None = None,
    seed: int = 0,
    choose: Chooser | None = None,
    *,
    on_finish: Callable[[int, Solution], None] | None = None,
    limit: int = 256,
    progress: bool | None = None,
    **options: Any,
) -> list[Solution]:
    """Search all problems side by side on one engine; solutions in the order of the problems.

    Each search is the one that `solve` with the same seed would make. One that fails becomes a Solution with its error.

    on_finish  called with (index, solution) as each search ends
    limit      searches that run at once
    progress   show a bar; None: where somebody is looking (a terminal or a notebook)
    """
    if limit < 1:
        raise ValueError(f"limit={limit} lets no search run: give at least 1")
    return _solve(list(problems), guide, method, budget, seed, choose, options, limit, True, on_finish, progress)


def _solve(
    problems: Sequence[Problem | str],
    guide: Guide | None,
    method: str | Method,
    budget: Budget | str | None,
    seed: int,
    choose: Chooser | None,
    options: dict[str, Any],
    limit: int,
    isolate: bool,
    on_finish: Callable[[int, Solution], None] | None = None,
    progress: bool | None = False,
) -> list[Solution]:
    search = _method(method)
    _check_options(search, options)
    budget = Budget.parse(budget) if isinstance(budget, str) else budget
    ready = [_problem(problem, guide) for problem in problems]
    guide = _guide(guide, ready)
    spend = budget or guide.budget
    backends = dict(guide.backends)
    workers = _workers(ready, backends)
    interrupt = threading.Event()

    def job(index: int, problem: Problem) -> Asks[Solution]:
        solution = yield from _search(problem, guide, search, spend, interrupt, seed, choose, options, isolate)
        bar.update()
        if on_finish is not None:
            on_finish(index, solution)
        return solution

    with _bar(len(ready), progress) as bar, _ctrl_c(interrupt), workers:
        solutions = run(parallel((job(i, p) for i, p in enumerate(ready)), limit), backends)
    _warn_of_unusable(solutions)
    return solutions


def _search(
    problem: Problem,
    guide: Guide,
    method: Method,
    budget: Budget,
    interrupt: threading.Event,
    seed: int,
    choose: Chooser | None,
    options: dict[str, Any],
    isolate: bool,
) -> Asks[Solution]:
    import numpy as np

    meter = Meter(budget, interrupt)
    try:
        tree = yield from metered(method(problem, guide, meter, np.random.default_rng(seed), **options), meter)
        return _solution(problem, guide, tree, meter, method, options, seed, choose)
    except Exception as error:
        if not isolate:
            raise
        log.warning("a search failed: %s: %s", type(error).__name__, error)
        return Solution(problem, stopped="error", error=error, usage=meter.usage)


def _solution(
    problem: Problem,
    guide: Guide,
    tree: Tree,
    meter: Meter,
    method: Method,
    options: dict[str, Any],
    seed: int,
    choose: Chooser | None,
) -> Solution:
    from search import choose as choosers
    from search.trace import Trace

    found = choosers.finishes(tree, problem)
    verified = [finish for finish in found if finish.reward == 1.0]
    chosen = (choose or choosers.weighted)(verified or found) if found else None
    node = chosen.node if chosen else _most_promising(tree)
    usage = meter.usage
    stopped = "verified" if tree.verified is not None else meter.halted or ("exhausted" if tree.exhausted else meter.stopped)
    steps = tuple(tree.chain(node))
    trace = Trace.of(tree, problem, f"{method.__module__}:{method.__qualname__}", _all_options(method, options), seed, guide.version, usage)
    return Solution(
        problem=problem,
        answer=chosen.answer if chosen else None,
        text=chain_text(steps) if steps and hasattr(steps[0], "finish") else "\n".join(map(str, steps)),
        steps=steps,
        value=chosen.score if chosen else tree.mean(node),
        verified=None if chosen is None or chosen.reward is None else chosen.reward == 1.0,
        candidates=tuple(choosers.share(found)) if found else (),
        stopped=stopped or "finished",
        usage=usage,
        tree=tree,
        trace=trace,
    )


def _most_promising(tree: Tree) -> int:
    """The unfinished state at the end of the most visited path."""
    node = 0
    while True:
        children = [child for edge in tree.block(node) if (child := tree.child(edge)) >= 0 and tree.visits(child)]
        if not children:
            return node
        node = max(children, key=lambda child: (tree.visits(child), tree.mean(child)))


# -- the door: everything is checked before any model is loaded


def _method(method: str | Method) -> Method:
    if callable(method):
        return method
    module, _, name = method.partition(":")
    if method in METHODS:
        module, name = f"search.methods.{method}", method
    try:
        return getattr(importlib.import_module(module), name) if name else _no_method(method)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot load the method {method!r} ({error}): write it as module:function of an importable module") from None


def _no_method(method: str) -> Method:
    raise ValueError(f"there is no method {method!r}: use one of {', '.join(METHODS)}, or module:function of your own")


def _all_options(method: Method, options: dict[str, Any]) -> dict[str, Any]:
    defaults = {n: p.default for n, p in inspect.signature(method).parameters.items() if p.kind is p.KEYWORD_ONLY}
    return {**{n: d for n, d in defaults.items() if d is not inspect.Parameter.empty}, **options}


def _check_options(method: Method, options: dict[str, Any]) -> None:
    parameters = inspect.signature(method).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    allowed = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    name = getattr(method, "__name__", str(method))
    for option, value in options.items():
        if option not in allowed:
            raise ValueError(f"{name} has no option {option!r}: it knows {', '.join(allowed) or 'none'}")
        default = allowed[option]
        if isinstance(default, (int, float)) and not isinstance(default, bool):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"{name} cannot use {option}={value!r}: give a number such as {default}")
            if isinstance(default, int) and (value != int(value) or value < 1):
                raise ValueError(f"{name} cannot use {option}={value!r}: give a whole number from 1 on")


def _problem(problem: Problem | str, guide: Guide | None) -> Problem:
    if isinstance(problem, str):
        from search.problems import parse

        return parse(problem, answer=guide.answer if guide else None)
    if not isinstance(problem, Problem):
        raise ValueError(f"{problem!r} is no problem: give text, or an object with the methods of search.Problem")
    return problem


def _guide(guide: Guide | None, problems: Sequence[Problem]) -> Guide:
    if guide is not None:
        for problem in problems:
            guide.check(problem)
        return guide
    import guides  # the one way in which `search` reaches above itself: the default guide

    kinds = guides.settings("builtin").get("kinds")
    for problem in problems:
        check_kind(kinds, problem)
    return guides.load("builtin")


@contextlib.contextmanager
def _ctrl_c(interrupt: threading.Event) -> Iterator[None]:
    """Let the first Ctrl-C end all searches with what they have; only the main thread can listen."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        if interrupt.is_set():
            raise KeyboardInterrupt
        interrupt.set()

    try:
        before = signal.signal(signal.SIGINT, stop)
    except ValueError:  # an embedded interpreter
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _workers(problems: Sequence[Problem], backends: dict[str, Backend]) -> contextlib.AbstractContextManager[Any]:
    if all(problem.inline for problem in problems) or "workers" in backends:
        return contextlib.nullcontext()
    from search.workers import Workers

    backends["workers"] = workers = Workers()
    return contextlib.closing(workers)


def _bar(total: int, progress: bool | None) -> Any:
    from tqdm.auto import tqdm

    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(total=total, unit="problem", disable=not (watched if progress is None else progress))


def _warn_of_unusable(solutions: Sequence[Solution]) -> None:
    trees = [solution.tree for solution in solutions if solution.tree is not None]
    proposed, unusable = sum(tree.proposed for tree in trees), sum(tree.unusable for tree in trees)
    if unusable * 2 > proposed:
        example = next(tree.example for tree in trees if tree.example is not None)
        log.warning(
            "%d of %d proposed steps were cut off or not understood, for example %r: check the guide's step delimiter, answer pattern "
            "and tokens a step, or whether the model knows this kind of problem",
            unusable, proposed, getattr(example, "text", example),
        )  # fmt: skip
