"""Grading: labels meet traces here, after the search, and nowhere else in this package.

A targets file is the problems file of `copse solve --input` with a "target" in each line whose
problem cannot verify itself. A task that has more than answers may have a checker, a function of a
problem and a state, that says of every state whether it is right.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from guides.answers.checker import Verdict, check, check_many
from guides.data.labels import Labels
from search.files.problems_file import half_character, read_jobs
from search.kinds import kind_of
from search.problem import Problem, State
from search.problems.stream import AGAIN, Stream
from search.trace import Trace

_STREAM = f"{Stream.__module__}:{Stream.__qualname__}"
_OUTCOMES = {Verdict.RIGHT: 1.0, Verdict.WRONG: 0.0, Verdict.UNDECIDED: math.nan}

#: (problem, state) -> probability of success in [0, 1], exact; None: cannot tell
Checker = Callable[[Problem, Any], float | None]


def key_of(problem: Problem | Trace) -> str:
    """The name of a problem: its class path and its JSON arguments with sorted names; the same
    for the problem, for its traces and for its streams.
    """
    if isinstance(problem, Trace):
        return _named(*searched(problem))
    if isinstance(problem, Stream):
        problem = problem.problem
    return _named(kind_of(problem), problem.to_json())  # type: ignore[attr-defined]


def searched(trace: Trace) -> tuple[str, dict[str, Any]]:
    """The kind and the arguments of the problem of a trace, of a stream that of which it is one."""
    if trace.kind == _STREAM:
        return trace.arguments["kind"], trace.arguments["problem"]
    return trace.kind, trace.arguments


def _named(kind: str, arguments: dict[str, Any]) -> str:
    return f"{kind} {json.dumps(arguments, sort_keys=True)}"


def form_of(problem: Problem) -> str:
    """Equal for problems that are the same but for how they are written: by their `canonical()`
    where they have one, else `key_of`.
    """
    if isinstance(problem, Stream):
        problem = problem.problem
    canonical = getattr(problem, "canonical", None)
    if canonical is None:
        return key_of(problem)
    return f"{kind_of(problem)} {canonical()}"


def read_targets(path: str | Path) -> dict[str, str]:
    """`key_of` each problem of a file that has a target -> its target, as text.

    A line without a target is left out: its problem verifies itself, or stays without a grade.
    Raises ValueError that names the line for a line that `read_jobs` refuses, a target that is
    neither text nor a number, and two targets of one problem.
    """
    jobs = read_jobs(path)
    lines = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    rows = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    targets: dict[str, str] = {}
    for (number, line), job in zip(rows, jobs, strict=True):
        target = json.loads(line).get("target")
        if target is None:
            continue
        if not _is_target(target):
            raise ValueError(
                f"{path}, line {number}: the target is {json.dumps(target)[:60]}: write it as "
                "text or as a finite number"
            )
        earlier = targets.setdefault(key_of(job.problem), str(target))
        verdict = check(str(target), earlier)
        if verdict is Verdict.WRONG:
            raise ValueError(
                f"{path}, line {number}: this problem has the target {earlier!r} in another line: "
                "keep the right one"
            )
        if verdict is Verdict.UNDECIDED:
            raise ValueError(
                f"{path}, line {number}: this problem has the target {earlier!r} in another "
                f"line, and whether {str(target)!r} is the same "
                "cannot be decided: write both alike"
            )
    return targets


def _is_target(value: Any) -> bool:
    """Whether a value of JSON is text that is not blank, or a finite number."""
    if isinstance(value, str):
        return bool(value.strip()) and not half_character(value)
    if isinstance(value, bool):
        return False
    return isinstance(value, (int, float)) and math.isfinite(value)


def same(answer: str | None, target: str) -> bool:
    """Whether an answer is surely the target: `checker.check` says RIGHT. Nothing is evaluated."""
    return answer is not None and check(answer, target) is Verdict.RIGHT


def outcome(answer: str | None, target: str) -> float:
    """1.0 or 0.0: is an answer the target? nan where `checker.check` cannot decide. No answer is
    0.0.
    """
    return _OUTCOMES[check(answer or "", target)]


def answered(stream: Stream, state: State, target: str | None) -> float:
    """What the answer is worth that stands in a state of the stream's problem, in [0, 1]: its
    verifier's reward, else whether it is the target. 0.0 without an answer, nan where nobody can
    tell.
    """
    problem = stream.problem
    if not problem.is_terminal(state):
        return 0.0
    reward = problem.verify(state)
    if reward is not None:
        return float(reward)
    return math.nan if target is None else outcome(problem.answer(state), target)


def attempts(replay: Replay, target: str | None) -> np.ndarray:
    """float64 [edges]: at each move that begins another attempt, what the one before it is worth;
    nan elsewhere.
    """
    worth = np.full(len(replay.trace.steps), math.nan)
    stream = replay.problem
    if not isinstance(stream, Stream):
        return worth
    for edge, step in enumerate(replay.trace.steps):
        move = stream.moves.read(step.text)
        if move is not None and move.kind == AGAIN:
            before = replay.states[int(replay.trace.edge_node[edge])]
            worth[edge] = answered(stream, stream.read(before).state, target)
    return worth


class Replay:
    """A trace with its problem and the states of its nodes, each made again once, when it is first
    read.

    answer  the regular expression that marked the answer of open text in the search; None: the
            problem knows
    problem  as it was searched; None: it is made again from the trace
    """

    def __init__(self, trace: Trace, answer: str | None = None, problem: Problem | None = None):
        self.trace = trace
        self._answer = answer
        if problem is not None:
            self.problem = problem

    @cached_property
    def problem(self) -> Problem:
        """Raises ValueError where the class of the problem is gone."""
        problem = self.trace.problem()
        asked = getattr(problem, "asked", None)
        if asked is None:
            return problem
        marked: Problem = asked(self._answer, None)
        return marked

    @cached_property
    def states(self) -> list[State]:
        """The state of every node. Raises IllegalStep where the problem's rules changed since the
        search.
        """
        return self.trace.states(self.problem)

    @cached_property
    def key(self) -> str:
        """`key_of` the problem."""
        return key_of(self.trace)

    def answers(self, nodes: Iterable[int]) -> list[str | None]:
        """The answers of nodes; None: none."""
        return [self.problem.answer(self.states[node]) for node in nodes]

    def chain(self, node: int) -> tuple[Hashable, ...]:
        """What makes a chain another one than others of its problem: the keys of its steps."""
        keys = []
        for edge in self.trace.path(node):
            state = self.states[int(self.trace.edge_node[edge])]
            keys.append(self.problem.key(state, self.trace.steps[edge]))
        return tuple(keys)

    def grade(self, target: str | None) -> np.ndarray:
        """`grade` of the trace."""
        trace = self.trace
        outcomes = np.where(trace.node_finished, trace.node_reward, math.nan)
        open_ended = np.flatnonzero(trace.node_finished & np.isnan(outcomes))
        if target is not None and len(open_ended):
            verdicts = check_many((answer or "", target) for answer in self.answers(open_ended))
            outcomes[open_ended] = list(map(_OUTCOMES.__getitem__, verdicts))
        return outcomes

    def check(self, checker: Checker) -> np.ndarray:
        """`checked` of the trace."""
        labels = np.full(len(self.states), math.nan)
        for node, state in enumerate(self.states):
            label = checker(self.problem, state)
            if label is not None:
                labels[node] = float(label)
        if not np.all(np.isnan(labels) | ((labels >= 0) & (labels <= 1))):
            raise ValueError(
                f"the checker said {np.nanmax(np.abs(labels))} of a state: it must give a number "
                "in [0, 1], or None"
            )
        return labels


@dataclass(frozen=True, eq=False)
class Graded:
    """A trace with everything that is known of it.

    grades    float64 [nodes], in [0, 1]: what rewards and target say of finished nodes (`grade`);
              nan: nothing
    outcomes  float64 [nodes], in [0, 1]: of finished nodes, `grades` and what labels say beside
              them (`guides.data.prepare`); nan: not graded
    labels    of the nodes
    prompt    the tokens that the policy read before the first step
    held      is its problem held out?
    attempts  float64 [edges], of the traces of streams: at the move that begins another attempt,
              what the one before it is worth (`attempts`); None: not looked at
    refused   where illegal steps are edges (`guides.data.groups.with_refused`): node -> theirs, and
              how often each was sampled
    """

    replay: Replay
    grades: np.ndarray
    outcomes: np.ndarray
    labels: Labels
    prompt: tuple[int, ...] = ()
    held: bool = False
    attempts: np.ndarray | None = None
    refused: Mapping[int, Sequence[tuple[int, int]]] = field(default_factory=dict)

    @property
    def trace(self) -> Trace:
        return self.replay.trace


def grade(trace: Trace, target: str | None, answer: str | None = None) -> np.ndarray:
    """float64 [nodes], in [0, 1]: the outcome of each finished node; nan where unfinished, or where
    it cannot be graded.

    The outcome is the node's reward where the problem verified itself, else whether its answer is
    the `target`: 1.0, 0.0, or nan where `checker.check` cannot decide. Without an answer it is 0.0.

    target  None: only rewards count
    answer  the regular expression that marked the answer of open text in the search; None: the
            problem knows
    Raises IllegalStep where the problem's rules changed since the search, ValueError where its
    class is not there any more.
    """
    return Replay(trace, answer).grade(target)


def function_of(path: str, what: str, takes: str) -> Callable[..., Any]:
    """The function that "module:function" names.

    Raises ValueError where there is none, in words that say `what` it should be and what it
    `takes`.
    """
    module, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"cannot load the {what} {path!r} ({error}): write it as module:function of an "
            "importable module"
        ) from None
    if not callable(function):
        raise ValueError(f"the {what} {path!r} is no function: name one of {takes}")
    return function  # type: ignore[no-any-return]


def checker_of(path: str | None) -> Checker | None:
    """The checker that "module:function" names. Raises ValueError where there is none."""
    if path is None:
        return None
    return function_of(path, "checker", "a problem and a state")


def checked(trace: Trace, checker: Checker) -> np.ndarray:
    """float64 [nodes], in [0, 1]: what the checker says of each state; nan where it cannot tell.
    Raises ValueError for anything else.
    """
    return Replay(trace).check(checker)
