"""What a search gives back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from search import choose as choosers
from search.choose import Chooser, Finish
from search.guide import Guide
from search.problem import Problem, chain_text
from search.scheduling.budget import Meter
from search.scheduling.requests import RequestFailed, Usage
from search.trace import Trace
from search.tree.tree import Tree


@dataclass(frozen=True, repr=False)
class Solution:
    """What a search found.

    answer      the chosen answer in canonical form (in free text: as it was first written); None:
                no finished state with an answer
    text, steps the chain of thought that leads to it (to the best unfinished state where there is
    no answer)
    value       of that chain in [0, 1]: its reward, else what the search or the guide thinks of it;
                nan unknown
    verified    True, False, or None where only the label could tell
    candidates  (answer, share of votes, value) of every distinct answer, most votes first
    stopped     "verified", "finished" (the method was done), "exhausted" (nothing left to explore),
                "tokens", "calls", "simulations" or "seconds" (that budget ended, or too little is
                left of it for one more chain), "interrupted", "time_limit" (of all searches
                together), "error"
    error       why the search failed, as a whole or in requests that nobody answered: its answer,
                if there is one, may then be another than it would have been. None otherwise, and
                where a solution was verified all the same
    usage       what it cost;  tree: the search tree, None where the search failed as a whole
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

    @property
    def answered(self) -> bool:
        """Whether there is an answer that was not refuted, or a verified solution without one."""
        return self.verified is True or (self.answer is not None and self.verified is not False)

    def __repr__(self) -> str:
        verdict = {True: "verified", False: "refuted", None: "unverified"}[self.verified]
        outcome = f"answer={self.answer!r}, {verdict}, value={self.value:.2f}"
        if self.error is not None:
            outcome = (
                f"error={self.error!r}"
                if self.answer is None
                else f"{outcome}, error={self.error!r}"
            )
        return (
            f"Solution({outcome}, stopped={self.stopped!r}, {self.usage.generated} tokens, "
            f"{self.usage.seconds:.1f} s)"
        )

    def __str__(self) -> str:
        verdict = {True: "verified", False: "refuted", None: "not verified"}[self.verified]
        lines = [self.text] if self.text else []
        if self.answer is not None:
            lines.append(f"answer: {self.answer} ({verdict})")
        elif self.error is None:
            lines.append("no answer")
        if self.error is not None:
            # others say little without their name
            said = isinstance(self.error, (RequestFailed, ValueError))
            lines.append(
                f"error: {self.error}"
                if said
                else f"error: {type(self.error).__name__}: {self.error}"
            )
        u = self.usage
        rows = "" if math.isnan(u.mean_rows) else f", {u.mean_rows:.1f} rows a pass"
        lines.append(
            f"cost: {u.generated:,} tokens in {u.calls:,} calls, {u.simulations:,} "
            f"simulations, {u.seconds:.2f} s{rows}; "
            f"stopped: {self.stopped}"
        )
        return "\n".join(lines)


def pick(found: Sequence[Finish], problem: Problem, choose: Chooser | None) -> Finish | None:
    """The finished state whose answer is given: a verified one first, else what the chooser
    picks; None without any.
    """
    if not found:
        return None
    if problem.players == 2:  # it may be the opponent who won
        return (choose or choosers.most_visited)(found)
    verified = [finish for finish in found if finish.reward == 1.0]
    return (choose or choosers.weighted)(verified or found)


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
    found = choosers.finishes(tree, problem, guide.classes)
    alone = problem.players == 1
    proof = tree.verified if alone else None
    chosen = pick(found, problem, choose)
    if proof is not None and chosen is not None and chosen.reward != 1.0:
        chosen = None  # what was verified has no answer to name, and is better than any that has
    node = chosen.node if chosen else proof if proof is not None else _most_promising(tree)
    usage = meter.usage
    error = None if proof is not None else meter.failures.verdict(answered=chosen is not None)
    steps = tuple(tree.chain(node))
    told = "" if error is None else str(error)
    trace = Trace.of(
        tree, problem, _path(method), options, seed, guide.version, usage, guide.value.version, told
    )
    return Solution(
        problem=problem,
        answer=chosen.answer if chosen else None,
        text=chain_text(steps)
        if steps and hasattr(steps[0], "finish")
        else "\n".join(map(str, steps)),
        steps=steps,
        value=chosen.score if chosen else 1.0 if proof is not None else tree.mean(node),
        verified=True
        if proof is not None
        else None
        if chosen is None or chosen.reward is None or not alone
        else chosen.reward == 1.0,
        candidates=tuple(choosers.candidates(found)) if found else (),
        stopped=_stopped(tree, meter, proof is not None, error),
        error=error,
        usage=usage,
        tree=tree,
        trace=trace,
    )


def _stopped(tree: Tree, meter: Meter, verified: bool, error: Exception | None) -> str:
    """Why the search ended: the first of these that is so."""
    if verified:
        return "verified"
    halted = meter.halted
    if halted in ("interrupted", "time_limit"):
        return halted
    if error is not None:
        return "error"
    if halted is not None:
        return halted
    if tree.exhausted:
        return "exhausted"
    return meter.stopped or meter.short_of or "finished"


def _path(method: Callable[..., Any]) -> str:
    """ "module:function" of a method, of what a functools.partial wraps, or of the class of a
    callable object.
    """
    function = getattr(method, "func", method)
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


def _most_promising(tree: Tree) -> int:
    """The unfinished state at the end of the most visited path."""
    node = 0
    while True:
        children = [
            child
            for edge in tree.block(node)
            if (child := tree.child(edge)) >= 0 and tree.visits(child)
        ]
        if not children:
            return node
        node = max(children, key=lambda child: (tree.visits(child), tree.mean(child)))
