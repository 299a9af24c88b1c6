"""Grading: labels meet traces here, after the search, and nowhere else in this package.

A targets file is the problems file of `copse solve --input` with a "target" in each line whose
problem cannot verify itself. A task that has more than answers may have a checker, a function of a
problem and a state, that tells of every state whether it is right.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from guides.answers.verdict import Verdict, check, check_many
from search.files.problems_file import half_character, read_jobs
from search.problem import Problem, TextProblem
from search.trace import Trace

_TEXT = f"{TextProblem.__module__}:{TextProblem.__qualname__}"
_OUTCOMES = {Verdict.RIGHT: 1.0, Verdict.WRONG: 0.0, Verdict.UNDECIDED: math.nan}

#: (problem, state) -> probability of success in [0, 1], exact; None: cannot tell
Checker = Callable[[Problem, Any], float | None]


def key_of(problem: Problem | Trace) -> str:
    """The name of a problem: its class path and its JSON arguments with sorted names; the same
    for the problem and for its traces.
    """
    if isinstance(problem, Trace):
        kind, arguments = problem.kind, problem.arguments
    else:
        kind, arguments = (
            f"{type(problem).__module__}:{type(problem).__qualname__}",
            problem.to_json(),
        )  # type: ignore[attr-defined]
    return f"{kind} {json.dumps(arguments, sort_keys=True)}"


def form_of(problem: Problem) -> str:
    """Equal for problems that are the same but for how they are written: by their `canonical()`
    where they have one, else `key_of`.
    """
    canonical = getattr(problem, "canonical", None)
    return (
        f"{type(problem).__module__}:{type(problem).__qualname__} {canonical()}"
        if canonical
        else key_of(problem)
    )


def read_targets(path: str | Path) -> dict[str, str]:
    """`key_of` each problem of a file that has a target -> its target, as text.

    A line without a target is left out: its problem verifies itself, or stays without a grade.
    Raises ValueError that names the line for a line that `read_jobs` refuses, a target that is
    neither text nor a number, and two targets of one problem.
    """
    jobs = read_jobs(path)
    rows = [
        line
        for line in enumerate(Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1)
        if line[1].strip()
    ]
    targets: dict[str, str] = {}
    for (number, line), job in zip(rows, jobs, strict=True):
        target = json.loads(line).get("target")
        if target is None:
            continue
        text = isinstance(target, str) and target.strip() and not half_character(target)
        numeric = (
            isinstance(target, (int, float))
            and not isinstance(target, bool)
            and math.isfinite(target)
        )
        if not text and not numeric:
            raise ValueError(
                f"{path}, line {number}: the target is {json.dumps(target)[:60]}: write it as "
                "text or as a finite number"
            )
        known = targets.setdefault(key_of(job.problem), str(target))
        verdict = check(str(target), known)
        if verdict is Verdict.WRONG:
            raise ValueError(
                f"{path}, line {number}: this problem has the target {known!r} in another line: "
                "keep the right one"
            )
        if verdict is Verdict.UNDECIDED:
            raise ValueError(
                f"{path}, line {number}: this problem has the target {known!r} in another "
                f"line, and whether {str(target)!r} is the same "
                "cannot be decided: write both alike"
            )
    return targets


def same(answer: str | None, target: str) -> bool:
    """Whether an answer is surely the target: `verdict.check` says RIGHT. Nothing is evaluated."""
    return answer is not None and check(answer, target) is Verdict.RIGHT


def outcome(answer: str | None, target: str) -> float:
    """1.0 or 0.0: is an answer the target? nan where `verdict.check` cannot decide. No answer is
    0.0.
    """
    return _OUTCOMES[check(answer or "", target)]


def problem_of(trace: Trace, answer: str | None = None) -> Problem:
    """The problem of a trace; open text with the regular expression that marked its answer.
    Raises ValueError where its class is gone.
    """
    return TextProblem(**trace.arguments, answer=answer) if trace.kind == _TEXT else trace.problem()


def grade(trace: Trace, target: str | None, answer: str | None = None) -> np.ndarray:
    """float64 [nodes], in [0, 1]: the outcome of each finished node; nan where unfinished, or where
    nobody can tell.

    The outcome is the node's reward where the problem verified itself, else whether its answer is
    the `target`: 1.0, 0.0, or nan where `verdict.check` cannot decide. Without an answer it is 0.0.

    target  None: only rewards count
    answer  the regular expression that marked the answer of open text in the search; None: the
            problem knows
    Raises IllegalStep where the problem's rules changed since the search, ValueError where its
    class is not there any more.
    """
    outcomes = np.where(trace.node_finished, trace.node_reward, math.nan)
    open_ended = np.flatnonzero(trace.node_finished & np.isnan(outcomes))
    if target is not None and len(open_ended):
        problem = problem_of(trace, answer)
        states = trace.states(problem)
        said = [problem.answer(states[node]) for node in open_ended]
        verdicts = check_many((answer or "", target) for answer in said)
        outcomes[open_ended] = [_OUTCOMES[verdict] for verdict in verdicts]
    return outcomes


def checker_of(path: str | None) -> Checker | None:
    """The checker that "module:function" names. Raises ValueError where there is none."""
    if path is None:
        return None
    module, _, name = path.partition(":")
    try:
        checker = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"cannot load the checker {path!r} ({error}): write it as module:function of an "
            "importable module"
        ) from None
    if not callable(checker):
        raise ValueError(f"the checker {path!r} is no function: name one of a problem and a state")
    return checker


def checked(trace: Trace, checker: Checker) -> np.ndarray:
    """float64 [nodes], in [0, 1]: what the checker says of each state; nan where it cannot tell.
    Raises ValueError for anything else.
    """
    problem = trace.problem()
    said = [checker(problem, state) for state in trace.states(problem)]
    labels = np.array([math.nan if label is None else float(label) for label in said])
    if not np.all(np.isnan(labels) | ((labels >= 0) & (labels <= 1))):
        raise ValueError(
            f"the checker said {np.nanmax(np.abs(labels))} of a state: it must give a number in "
            "[0, 1], or None"
        )
    return labels
