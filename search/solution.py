"""What a search gives back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from search import choose as choosers
from search.budget import Meter
from search.choose import Chooser
from search.guide import Guide
from search.problem import Problem, TextProblem, chain_text
from search.requests import Usage
from search.trace import Trace
from search.tree import Tree


@dataclass(frozen=True, repr=False)
class Solution:
    """What a search found.

    answer      the chosen answer in canonical form (in free text: as it was first written); None: no finished state with an answer
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


def solution_of(
    problem: Problem,
    guide: Guide,
    tree: Tree,
    meter: Meter,
    method: Callable[..., Any],
    options: dict[str, Any],
    seed: int,
    choose: Chooser | None,
) -> Solution:
    found = choosers.finishes(tree, problem)
    if guide.classes is not None and isinstance(problem, TextProblem) and len(found) > 1:  # other problems' answers are canonical
        found = choosers.united(found, guide.classes)
    alone = problem.players == 1
    verified = [finish for finish in found if finish.reward == 1.0] if alone else []  # in a game it may be the opponent who won
    proof = tree.verified if alone else None
    chosen = (choose or (choosers.weighted if alone else choosers.most_visited))(verified or found) if found else None
    if proof is not None and not verified:  # what was verified has no answer to name, and is better than any that has
        chosen = None
    node = chosen.node if chosen else proof if proof is not None else _most_promising(tree)
    usage = meter.usage
    stopped = (
        "verified"
        if problem.players == 1 and tree.verified is not None
        else meter.halted or ("exhausted" if tree.exhausted else meter.stopped)
    )
    steps = tuple(tree.chain(node))
    trace = Trace.of(tree, problem, _path(method), options, seed, guide.version, usage, guide.value.version)
    return Solution(
        problem=problem,
        answer=chosen.answer if chosen else None,
        text=chain_text(steps) if steps and hasattr(steps[0], "finish") else "\n".join(map(str, steps)),
        steps=steps,
        value=chosen.score if chosen else 1.0 if proof is not None else tree.mean(node),
        verified=True if proof is not None else None if chosen is None or chosen.reward is None or not alone else chosen.reward == 1.0,
        candidates=tuple(choosers.candidates(found)) if found else (),
        stopped=stopped or "finished",
        usage=usage,
        tree=tree,
        trace=trace,
    )


def _path(method: Callable[..., Any]) -> str:
    """ "module:function" of a method, of what a functools.partial wraps, or of the class of a callable object."""
    function = getattr(method, "func", method)
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


def _most_promising(tree: Tree) -> int:
    """The unfinished state at the end of the most visited path."""
    node = 0
    while True:
        children = [child for edge in tree.block(node) if (child := tree.child(edge)) >= 0 and tree.visits(child)]
        if not children:
            return node
        node = max(children, key=lambda child: (tree.visits(child), tree.mean(child)))
