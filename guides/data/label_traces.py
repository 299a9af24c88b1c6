"""From a folder of traces to a file of labels, all traces side by side on one engine, a line as
each is done.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from guides.data.grading import checker_of, grade, key_of
from guides.data.labellers import (
    RolledOut,
    by_bisection,
    by_rollouts,
    from_checker,
    from_trace,
)
from guides.data.labels import Labels, line_of
from guides.engines import locate
from guides.policies.lm import LM
from search.files.jsonl import Lines, Mixed
from search.files.partition import WHOLE, Shard
from search.guide import Policy
from search.scheduling.budget import Budget, Meter
from search.scheduling.driver import run
from search.scheduling.scheduler import metered, parallel
from search.trace import Trace

log = logging.getLogger(f"copse.{__name__}")

#: what a line tells of its trace alone, beside the settings of all
COST = ("rollouts", "failed", "calls", "generated", "errors")
#: traces whose roll-outs wait together: many times more of these than an engine has rows
SIDE_BY_SIDE = 64


@dataclass(frozen=True)
class Labelling:
    """How traces are labelled (`guides.data.labellers`).

    by        "rollouts" and "omega" complete chains by a policy and need it; "trace" counts what
              the search found; "checker" asks a checker
    count     roll-outs of a node
    seed      the same seed gives the same labels
    finished  of "rollouts": leave out nodes without a finished one below
    checker   "module:function" of a problem and a state;  answer: the regular expression that marks
              the answer of open text
    """

    by: str = "rollouts"
    count: int = 8
    seed: int = 0
    finished: bool = False
    checker: str | None = None
    answer: str | None = None

    def __post_init__(self) -> None:
        if self.by not in LABELLERS:
            raise ValueError(f"unknown labeller {self.by!r}: choose one of {', '.join(LABELLERS)}")
        if self.count < 1:
            raise ValueError(f"count={self.count} roll-outs tell nothing: give at least 1")
        if (self.checker is not None) != (self.by == "checker"):
            raise ValueError(
                "a checker is for labels by checker and these need one: give both --by checker "
                "and --checker MODULE:FUNCTION"
            )
        checker_of(self.checker)

    @property
    def labeller(self) -> type[Labeller]:
        return LABELLERS[self.by]


@dataclass(frozen=True)
class Labeller:
    """What labels a trace, in one of four ways.

    ROLLS_OUT  are there roll-outs, which need the policy?
    BY_TARGET  do labels depend on targets?
    """

    ROLLS_OUT: ClassVar[bool] = False
    BY_TARGET: ClassVar[bool] = True

    options: Labelling
    policy: Policy | None = None

    def settings(self) -> dict[str, Any]:
        """What labels depend on beside the target, as each line tells it."""
        settings = {"by": self.options.by}
        if self.options.answer is not None:
            settings["answer"] = self.options.answer
        return settings

    async def label(self, trace: Trace, target: str | None) -> tuple[Labels | None, dict[str, Any]]:
        """Labels, None where every roll-out failed, and what they cost."""
        raise NotImplementedError


class CheckerLabeller(Labeller):
    """Exact labels of a checker."""

    BY_TARGET = False

    def settings(self) -> dict[str, Any]:
        return {"by": self.options.by, "checker": self.options.checker}

    async def label(self, trace: Trace, target: str | None) -> tuple[Labels | None, dict[str, Any]]:
        checker = checker_of(self.options.checker)
        assert checker is not None
        return from_checker(trace, checker), {}


class TraceLabeller(Labeller):
    """Counts of what the search found."""

    async def label(self, trace: Trace, target: str | None) -> tuple[Labels | None, dict[str, Any]]:
        return from_trace(trace, grade(trace, target, self.options.answer)), {}


class RolloutLabeller(Labeller):
    """Roll-outs of every node."""

    ROLLS_OUT = True

    def settings(self) -> dict[str, Any]:
        return self._sampling() | {"finished": self.options.finished}

    async def label(self, trace: Trace, target: str | None) -> tuple[Labels | None, dict[str, Any]]:
        options = self.options
        assert self.policy is not None
        rolled = await by_rollouts(
            trace,
            target,
            self.policy,
            options.count,
            options.seed,
            answer=options.answer,
            finished=options.finished,
        )
        return _result(rolled, {})

    def _sampling(self) -> dict[str, Any]:
        assert self.policy is not None
        return super().settings() | {
            "policy": self.policy.version,
            "count": self.options.count,
            "seed": self.options.seed,
        }


class BisectionLabeller(RolloutLabeller):
    """Roll-outs at the places of a bisection for the first error of each wrong chain."""

    def settings(self) -> dict[str, Any]:
        return self._sampling()

    async def label(self, trace: Trace, target: str | None) -> tuple[Labels | None, dict[str, Any]]:
        options = self.options
        assert self.policy is not None
        rolled = await by_bisection(
            trace, target, self.policy, options.count, options.seed, answer=options.answer
        )
        errors = {str(node): step for node, step in rolled.errors.items()}
        return _result(rolled, {"errors": errors})


def _result(rolled: RolledOut, cost: dict[str, Any]) -> tuple[Labels | None, dict[str, Any]]:
    cost |= {"rollouts": rolled.made, "failed": rolled.failed}
    if rolled.failed and not rolled.made:
        return None, cost
    return rolled.labels, cost


LABELLERS: dict[str, type[Labeller]] = {
    "rollouts": RolloutLabeller,
    "omega": BisectionLabeller,
    "trace": TraceLabeller,
    "checker": CheckerLabeller,
}


@dataclass
class Counts:
    """What was done.

    labelled   traces that were labelled now;  before: that had a line already
    ungraded   traces that cannot be graded;  failed: whose roll-outs all failed
    rollouts   that were made;  generated: tokens of theirs
    """

    labelled: int = 0
    before: int = 0
    ungraded: int = 0
    failed: int = 0
    rollouts: int = 0
    generated: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{number} {name}" for name, number in asdict(self).items())


def label_traces(
    traces: Sequence[Trace],
    targets: Mapping[str, str],
    out: str | Path,
    options: Labelling,
    policy: Policy | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    shard: Shard = WHOLE,
) -> Counts:
    """Label `traces` into the file `out` (`guides.data.labels`); those that have a line there are
    left alone, so a killed run goes on.

    targets   the target of each problem by its key (`guides.data.grading`); problems that verify
              themselves need none
    policy    completes the chains; it need not be the one that searched, but must read its tokens
              (`guides.data.trace_tokens.TraceReader.check`)
    settings  of the policy, which the labels depend on: they stand in each line, as the target
              does, and a file with others is refused
    shard     which of the traces that can be graded are labelled

    A trace that cannot be graded gets no line, and none whose roll-outs all failed: the next run
    tries these again. Raises ValueError before anything is written for what cannot be labelled,
    OSError for a full disk with all finished lines kept.
    """
    labeller = options.labeller(options, policy)
    if labeller.ROLLS_OUT and policy is None:
        raise ValueError(f"labels by {options.by} need a policy that completes chains: give one")
    wanted = gradable(traces, targets, options)
    if len(wanted) < len(traces):
        log.warning(
            "%d traces get no labels: their problems have no target and do not verify themselves",
            len(traces) - len(wanted),
        )
    share = shard.of(wanted)
    # as a line of JSON gives it back
    settings = json.loads(json.dumps(labeller.settings() | dict(settings or {})))
    done: set[str] = set()
    its_target = {}
    for trace in wanted:
        its_target[trace.id] = _target(labeller, trace, targets)
    lines = Lines(
        Path(out),
        lambda row: done.add(_labelled(row, settings, its_target)),
        first="trace",
        what="line of labels",
        flag="--out",
    )
    waiting = [trace for trace in share if trace.id not in done]
    counts = Counts(before=len(share) - len(waiting), ungraded=len(traces) - len(wanted))
    try:
        _Run(labeller, targets, settings, lines, counts).label(waiting)
    finally:
        lines.close()
    if counts.failed:
        log.warning(
            "all roll-outs of %d traces failed: give the same command again to label them",
            counts.failed,
        )
    return counts


@dataclass(frozen=True)
class _Run:
    """Labelling of traces side by side. settings: what each line tells beside target and cost."""

    labeller: Labeller
    targets: Mapping[str, str]
    settings: Mapping[str, Any]
    lines: Lines
    counts: Counts

    def label(self, traces: Sequence[Trace]) -> None:
        from tqdm.auto import tqdm

        from search.solver import workers_of

        policy = self.labeller.policy
        backends = {} if policy is None else dict(policy.backends)
        problems = []
        if self.labeller.ROLLS_OUT:
            problems = [trace.problem() for trace in traces]
        with (
            tqdm(total=len(traces), unit="trace", disable=None) as bar,
            workers_of(problems, backends),
        ):
            run(parallel((self._one(trace, bar) for trace in traces), SIDE_BY_SIDE), backends)

    async def _one(self, trace: Trace, bar: Any) -> None:
        meter = Meter(Budget(tokens=self._most(trace)))
        target = self.targets.get(key_of(trace))
        labels, cost = await metered(self.labeller.label(trace, target), meter)
        bar.update()
        if labels is None:
            self.counts.failed += 1
            return
        if self.labeller.ROLLS_OUT:
            usage = meter.usage
            cost = {"calls": usage.calls, "generated": usage.generated, **cost}
            self.counts.generated += usage.generated
            self.counts.rollouts += cost["rollouts"]
        how = {**self.settings, **_target(self.labeller, trace, self.targets), **cost}
        self.lines.append(line_of(trace, labels, how))
        self.counts.labelled += 1

    def _most(self, trace: Trace) -> int:
        """A limit that no labelling reaches, because a meter wants one."""
        policy = self.labeller.policy
        chain = 1 if policy is None else policy.chain_tokens
        return max(1, len(trace.node_parent) * self.labeller.options.count * chain)


def gradable(
    traces: Sequence[Trace], targets: Mapping[str, str], options: Labelling
) -> list[Trace]:
    """The traces whose problem has a target, or verified itself in some trace; all where labels
    depend on no target. Raises ValueError where there is none.
    """
    verified = set()  # kinds of problems
    for trace in traces:
        if np.isfinite(trace.node_reward[trace.node_finished]).any():
            verified.add(trace.kind)
    found = list(traces)
    if options.labeller.BY_TARGET:
        found = [trace for trace in traces if trace.kind in verified or key_of(trace) in targets]
    if not found:
        raise ValueError(
            f"none of {len(traces)} traces can be graded: give the targets of these "
            "problems, in the file that copse solve --input read"
        )
    return found


def completer(
    guide: str | Path,
    traces: Sequence[Trace],
    engine: Mapping[str, Any],
    language: Mapping[str, Any],
) -> LM:
    """The model that completes the chains of `traces`: it reads the tokens that were sampled, so it
    must have their tokenizer.

    engine, language  the options of `guides.LM`
    Raises ValueError, before the model is loaded, for traces with tokens that are no steps to it.
    """
    from guides.data.trace_tokens import TraceReader
    from models.checkpoints.checkpoint import describe, resolve

    folder = resolve(locate(guide))
    reader = TraceReader(folder, describe(folder) | dict(language))
    for trace in traces:
        reader.check(trace)
    return LM(guide, **engine, **language)


def _target(labeller: Labeller, trace: Trace, targets: Mapping[str, str]) -> dict[str, str]:
    """The target as a line tells it; nothing where labels depend on none."""
    target = targets.get(key_of(trace)) if labeller.BY_TARGET else None
    return {} if target is None else {"target": target}


def _labelled(
    row: Any, settings: Mapping[str, Any], targets: Mapping[str, Mapping[str, str]]
) -> str:
    """The id of the trace that a line of the file labels. Raises Mixed for labels that were made
    otherwise.

    targets  of each trace that is to be labelled, as its line tells it
    """
    if not isinstance(row["k"], list) or not isinstance(row["n"], list):
        raise TypeError
    trace = str(row["trace"])
    made = {name: value for name, value in row["how"].items() if name not in COST}
    expected = dict(settings)
    if trace in targets:
        expected |= targets[trace]
    elif "target" in made:  # of a trace that is not asked for: any
        expected["target"] = made["target"]
    if made != expected:
        raise Mixed(f"has labels of another run ({_text(made)} instead of {_text(expected)})")
    return trace


def _text(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
