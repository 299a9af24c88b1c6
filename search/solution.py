"""What a search gives back."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from search import choose as choosers
from search.chain import piece
from search.choose import Chooser, Finish
from search.guide import Guide
from search.problem import Problem, chain_text
from search.scheduling.budget import Meter
from search.scheduling.failures import described, noted
from search.scheduling.requests import RequestFailed, Usage
from search.trace import Trace
from search.tree.tree import Tree

if TYPE_CHECKING:
    from search.page.document import Page

#: why a search ended
STOPPED = (
    "verified", "finished", "exhausted", "tokens", "calls", "simulations", "seconds",
    "interrupted", "time_limit", "error",
)  # fmt: skip
_VERDICTS = {True: "verified", False: "refuted", None: "not verified"}


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
    votes       (chains that end with this answer, chains that end with any) where a vote chose
                among answers that nobody could verify, else None
    candidates  (answer, share of votes, value) of every distinct answer, most votes first
    stopped     "verified", "finished" (the method was done), "exhausted" (nothing left to explore),
                "tokens", "calls", "simulations" or "seconds" (that budget ended, or too little is
                left of it for one more chain), "interrupted", "time_limit" (of all searches
                together), "error"
    error       why the search failed, as a whole or in requests that nobody answered: its answer,
                if there is one, may then be another than it would have been. None otherwise, and
                where a solution was verified all the same
    usage       what it cost;  tree: the search tree, None where the search failed as a whole
    finishes    every finished chain that has an answer, as it voted
    settings    method, options, seed, guide (its version) and budget of the search; empty where it
                failed as a whole
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
    votes: tuple[int, int] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    finishes: tuple[Finish, ...] = ()

    @property
    def answered(self) -> bool:
        """Whether there is an answer that was not refuted, or a verified solution without one."""
        return self.verified is True or (self.answer is not None and self.verified is not False)

    def to_json(self) -> dict[str, Any]:
        """All but the tree, as `json.dumps` takes it and `solution.schema.json` describes it: nan
        is None, steps are their texts. What a result line of `copse solve --input` has is named as
        there.
        """
        whole = {
            "problem": self.problem.prompt(self.problem.initial()),
            "candidates": [
                {"answer": answer, "share": share, "value": value}
                for answer, share, value in self.candidates
            ],
            **result_of(self),
            "steps": [str(getattr(step, "text", step)) for step in self.steps],
            **self.settings,
        }
        return dict(plain(whole))

    def show(self) -> Page:
        """The search tree as a page to explore: in a notebook the last line of a cell, elsewhere
        `solution.show().save("tree.html")`. Raises ValueError where the search failed as a whole.
        """
        from search import view
        from search.page.data import Subject
        from search.page.document import page

        if self.trace is None:
            raise ValueError(
                "this search failed and has no tree to show: print the solution to see why"
            )
        winner = view.end_of(self.trace, self.steps)
        alone = self.problem.players == 1
        return page([Subject(self.trace, self.finishes, winner, alone)])

    def __repr__(self) -> str:
        verdict = "unverified" if self.verified is None else _VERDICTS[self.verified]
        outcome = f"answer={self.answer!r}, {verdict}, value={self.value:.2f}"
        if self.error is not None and self.answer is None:
            outcome = f"error={self.error!r}"
        elif self.error is not None:
            outcome += f", error={self.error!r}"
        return (
            f"Solution({outcome}, stopped={self.stopped!r}, {self.usage.generated} tokens, "
            f"{self.usage.seconds:.1f} s)"
        )

    def __str__(self) -> str:
        parts = [self._struck("~~", "~~"), self._outcome(), self._failure(), self._cost()]
        return "\n".join(filter(None, parts))

    def _repr_html_(self) -> str:
        """What a notebook shows: the chain, the answer, the votes and the cost. All text is
        escaped: a model may write anything.
        """
        text = self._struck("<s>", "</s>", html.escape)
        parts = [f"<pre>{text}</pre>"] if text else []
        if outcome := self._outcome():
            parts.append(f"<p><b>{html.escape(outcome)}</b></p>")
        if len(self.candidates) > 1:
            rows = ["<tr><th>answer</th><th>share of votes</th><th>value</th></tr>"]
            for answer, share, value in self.candidates:
                cells = (html.escape(answer), f"{share:.0%}", f"{value:.2f}")
                rows.append(f"<tr><td>{'</td><td>'.join(cells)}</td></tr>")
            parts.append(f"<table>{''.join(rows)}</table>")
        for line in filter(None, [self._failure(), self._cost()]):
            parts.append(f"<p>{html.escape(line)}</p>")
        return "\n".join(parts)

    def _struck(self, begin: str, end: str, written: Callable[[str], str] = str) -> str:
        """The text, with what a stream withdrew between `begin` and `end`."""
        find = getattr(self.problem, "withdrawn", None)
        if find is None or not self.steps:
            return written(self.text)
        text = ""
        for step, withdrawn in zip(self.steps, find(self.steps), strict=True):
            line = written(step.text)
            if withdrawn:
                line = f"{begin}{line}{end}"
            text += line + piece(step).removeprefix(step.text)
        return text.rstrip("\n")

    def _outcome(self) -> str:
        """The line of the answer; "" where an error takes its place."""
        if self.answer is None:
            return self._without_answer() if self.error is None else ""
        verdict = _VERDICTS[self.verified]
        if self.votes is not None:
            verdict += f"; {self.votes[0]} of {self.votes[1]} chains"
        return f"answer: {self.answer} ({verdict})"

    def _without_answer(self) -> str:
        if self.verified is True:
            return "verified, with no answer to name"
        if self.text:
            return "no answer: the chain above is the most promising one and has none"
        return "no answer"

    def _failure(self) -> str:
        """The line of the error, "" without one."""
        if self.error is None:
            return ""
        if isinstance(self.error, (RequestFailed, ValueError)):
            return f"error: {self.error}{noted(self.error)}"
        # the messages of others say little without the name of their class
        return f"error: {described(self.error)}"

    def _cost(self) -> str:
        u = self.usage
        rows = "" if math.isnan(u.mean_rows) else f", {u.mean_rows:.1f} rows a pass"
        return (
            f"cost: {u.generated:,} tokens in {u.calls:,} calls, {u.simulations:,} "
            f"simulations, {u.seconds:.2f} s{rows}; "
            f"stopped: {self.stopped}"
        )


def plain(value: Any) -> Any:
    """`value` as strict JSON can say it: nan and infinity become None."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return list(map(plain, value))
    if hasattr(value, "item"):  # a numpy scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def result_of(solution: Solution) -> dict[str, Any]:
    """What a result line of `copse solve --input` has of a solution."""
    usage = solution.usage
    error = solution.error
    votes, chains = solution.votes or (None, None)
    return {
        "answer": solution.answer,
        "verified": solution.verified,
        "votes": votes,
        "chains": chains,
        "value": solution.value,
        "text": solution.text,
        "stopped": solution.stopped,
        "usage": asdict(usage) | {"mean_rows": usage.mean_rows, "slot_use": usage.slot_use},
        "error": None if error is None else described(error),
    }


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
    """The solution of a search that has ended, from its tree."""
    alone = problem.players == 1
    candidates = choosers.finishes(tree, problem, guide.classes)
    proof = tree.verified if alone else None
    chosen = choosers.pick(candidates, problem, choose)
    if proof is not None and chosen is not None and chosen.reward != 1.0:
        chosen = None  # what was verified has no answer to name, and is better than any that has
    usage = meter.usage
    error = None if proof is not None else meter.failures.verdict(answered=chosen is not None)
    if chosen is not None:
        node = chosen.node
        value = chosen.score
    elif proof is not None:
        node = proof
        value = 1.0
    else:
        node = _most_promising(tree)
        value = tree.mean(node)
    verified = None
    if proof is not None:
        verified = True
    elif chosen is not None and chosen.reward is not None and alone:
        verified = chosen.reward == 1.0
    votes = None
    if chosen is not None and alone and verified is None:
        votes = choosers.votes(candidates, chosen, choose)
    steps = tuple(tree.chain(node))
    trace = Trace.of(
        tree, problem, _path(method), options, seed, guide.version, usage, guide.value.version,
        "" if error is None else str(error),
    )  # fmt: skip
    trace = replace(trace, language=guide.language)
    return Solution(
        problem=problem,
        answer=None if chosen is None else chosen.answer,
        text=_chain_text(steps),
        steps=steps,
        value=value,
        verified=verified,
        candidates=tuple(choosers.candidates(candidates)) if candidates else (),
        stopped=_stopped(tree, meter, proof is not None, error),
        error=error,
        usage=usage,
        tree=tree,
        trace=trace,
        votes=votes,
        settings={
            "method": trace.method,
            "options": trace.options,
            "seed": seed,
            "guide": guide.version,
            "budget": asdict(meter.budget),
        },
        finishes=tuple(candidates),
    )


def _chain_text(steps: tuple[Any, ...]) -> str:
    if steps and hasattr(steps[0], "finish"):
        return chain_text(steps)
    return "\n".join(map(str, steps))


def _stopped(tree: Tree, meter: Meter, verified: bool, error: Exception | None) -> str:
    """Why the search ended: the first of these that is so."""
    halted = meter.halted
    # where that kept it from something, its seed would have given another tree
    if halted in ("interrupted", "time_limit") and (meter.cut or not verified):
        return str(halted)
    if verified:
        return "verified"
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
