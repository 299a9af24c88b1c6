"""What chains of thought do beside going straight on: how often they go back, check and try again,
and whether that was right. For reports; nothing learns from it.

Streams (`search.problems.stream`) are read by their moves, exactly. Text of other models is read
by patterns, which find words and not what was meant.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from guides.data.distill import ended
from guides.data.grading import Replay, answered
from search.problem import State, TextStep
from search.problems.stream import AGAIN, BACK, CHECK, Stream

#: what in open text shows each behaviour (after Gandhi et al. 2025, "Cognitive Behaviors that
#: Enable Self-Improving Reasoners", whose judge is a model)
PATTERNS: Mapping[str, str] = {
    BACK: r"\b(?:wait|hmm|go(?:ing)? back|that(?:'s| is) (?:wrong|not right)|made a mistake)\b",
    CHECK: r"\b(?:let me (?:check|verify)|let's (?:check|verify)|to verify|double[- ]check)\b",
    AGAIN: r"\b(?:try again|start over|another approach|from scratch)\b",
}


@dataclass(frozen=True)
class Behaviour:
    """Of one chain. nan: not known.

    lines      of the chain, moves among them;  withdrawn: those that do not stand in the end
    backs, checks, agains   moves of each kind
    true, false  checks whose verdict is what a checker says of the chain up to there, or is not
    useless    checks of what had been checked and had not changed
    first, last  what the first and the last attempt are worth, in [0, 1]
    changed    share of the lines in which the last two attempts differ, in [0, 1]; 0: a copy
    """

    lines: int
    withdrawn: int = 0
    backs: int = 0
    checks: int = 0
    agains: int = 0
    true: int = 0
    false: int = 0
    useless: int = 0
    first: float = math.nan
    last: float = math.nan
    changed: float = math.nan


def of_stream(
    stream: Stream,
    state: Sequence[TextStep],
    right: Callable[[State], float | None] | None = None,
    target: str | None = None,
) -> Behaviour:
    """The behaviour of a stream.

    right   whether a state of the stream's problem is right so far, 1.0 or 0.0, None where it
            cannot tell: says which checks are true; None: nobody knows
    target  the right answer; None: the problem's verifier says, where it can
    """
    reading = stream.read(state)
    counts = {BACK: 0, CHECK: 0, AGAIN: 0}
    true = false = useless = 0
    checked: set[tuple[int, ...]] = set()
    attempts: list[Sequence[TextStep]] = []
    ends: list[State] = []
    for made in reading.made:
        counts[made.move.kind] += 1
        before = stream.read(state[: made.place])
        if made.move.kind == AGAIN:
            attempts.append(tuple(state[place] for place, _ in before.standing))
            ends.append(before.state)
        if made.move.kind != CHECK:
            continue
        about = tuple(place for place, _ in before.standing)
        useless += about in checked
        checked.add(about)
        verdict = None if right is None else right(before.state)
        if verdict is not None:
            agrees = (verdict == 1.0) == made.move.right
            true += agrees
            false += not agrees
    attempts.append(tuple(state[place] for place, _ in reading.standing))
    ends.append(reading.state)
    return Behaviour(
        lines=len(state),
        withdrawn=sum(stream.withdrawn(state)),
        backs=counts[BACK],
        checks=counts[CHECK],
        agains=counts[AGAIN],
        true=true,
        false=false,
        useless=useless,
        first=answered(stream, ends[0], target),
        last=answered(stream, ends[-1], target),
        changed=_changed(*attempts[-2:]) if len(attempts) > 1 else math.nan,
    )


def _changed(before: Sequence[TextStep], after: Sequence[TextStep]) -> float:
    """1 less the share of lines that both have (the ratio of difflib), in [0, 1]."""
    first = list(map(attrgetter("text"), before))
    second = list(map(attrgetter("text"), after))
    return 1.0 - difflib.SequenceMatcher(None, first, second, autojunk=False).ratio()


def of_text(text: str, patterns: Mapping[str, str] = PATTERNS) -> Behaviour:
    """The behaviour that patterns find in open text, which cannot tell what was withdrawn or true.

    patterns  regular expressions by "back", "check" and "again"; case does not matter
    """
    found = {kind: len(re.findall(patterns[kind], text, re.IGNORECASE)) for kind in patterns}
    lines = len(list(filter(str.strip, text.splitlines())))
    return Behaviour(
        lines, backs=found.get(BACK, 0), checks=found.get(CHECK, 0), agains=found.get(AGAIN, 0)
    )


def of_replay(
    replay: Replay,
    checker: Callable[[Any, State], float | None] | None = None,
    target: str | None = None,
) -> list[Behaviour]:
    """Of every chain of a trace, as often as it was sampled, also where it came to no end; of
    traces whose chains are no independent samples those that did, once each.

    checker  of a problem and its state (`guides.data.grading.Checker`)
    """
    found: list[Behaviour] = []
    trace = replay.trace
    times_of = ended(trace) if trace.independent else trace.node_finished
    for node, times in enumerate(times_of.astype(np.int64).tolist()):
        if not times or not node:
            continue
        state = replay.states[node]
        problem = replay.problem
        if isinstance(problem, Stream):
            one = of_stream(problem, state, _bound(checker, problem), target)
        else:
            one = of_text("\n".join(step.text for step in state))
        found += [one] * times
    return found


def _bound(
    checker: Callable[[Any, State], float | None] | None, stream: Stream
) -> Callable[[State], float | None] | None:
    if checker is None:
        return None

    def right(state: State) -> float | None:
        return checker(stream.problem, state)

    return right


def sentence(found: Sequence[Behaviour]) -> str:
    """What chains do, in one line; "" where none does anything but go on."""
    whole = summary(found)
    if not found or not whole["backs"] + whole["checks"] + whole["agains"]:
        return ""
    line = (
        f"a chain goes back {whole['backs']:.1f} times, checks {whole['checks']:.1f} times and "
        f"begins anew {whole['agains']:.1f} times; {whole['withdrawn']:.0%} of its lines are "
        "withdrawn"
    )
    if not math.isnan(whole["true"]):
        line += f"; {whole['true']:.0%} of the checks are true"
    if not math.isnan(whole["delta"]):
        line += (
            f"; {whole['first']:.0%} of the first attempts are right, {whole['last']:.0%} of the "
            "last"
        )
    return line


def summary(found: Iterable[Behaviour]) -> dict[str, float]:
    """What chains do on average; nan where none of them tells.

    "chains", "lines"        how many, and the mean of their lines
    "backs", "checks", "agains"  moves a chain;  "withdrawn": share of the lines
    "true"                   share of the checks that were true, of those whose truth is known
    "useless"                share of the checks
    "first", "last"          share of right first and last attempts, of chains with several
    "delta"                  last less first;  "to_right", "to_wrong": shares of those chains that
                             the last attempt made right, or wrong
    "copied"                 share of those chains whose last attempt is a copy of the one before
    """
    chains = list(found)
    if not chains:
        return {"chains": 0.0}

    def column(name: str) -> np.ndarray:
        return np.array([getattr(one, name) for one in chains], np.float64)

    def share(part: float, whole: float) -> float:
        return part / whole if whole else math.nan

    lines = column("lines").sum()
    checks = column("checks").sum()
    true = column("true").sum()
    several = column("agains") > 0
    first = column("first")[several]
    last = column("last")[several]
    known = ~np.isnan(first) & ~np.isnan(last)
    first = first[known]
    last = last[known]
    return {
        "chains": float(len(chains)),
        "lines": lines / len(chains),
        "backs": float(column("backs").mean()),
        "checks": float(column("checks").mean()),
        "agains": float(column("agains").mean()),
        "withdrawn": share(column("withdrawn").sum(), lines),
        "true": share(true, true + column("false").sum()),
        "useless": share(column("useless").sum(), checks),
        "first": share(first.sum(), len(first)),
        "last": share(last.sum(), len(last)),
        "delta": share(last.sum() - first.sum(), len(first)),
        "to_right": share(((first == 0) & (last == 1)).sum(), len(first)),
        "to_wrong": share(((first == 1) & (last == 0)).sum(), len(first)),
        "copied": share((column("changed")[several] == 0).sum(), several.sum()),
    }
