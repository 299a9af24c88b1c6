"""From a folder of traces to a file of labels, all traces side by side on one engine, a line as
each is done.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from guides.data.grading import checker_of, grade, key_of
from guides.data.labellers import by_bisection, by_rollouts, from_checker, from_trace
from guides.data.labels import Labels, line_of
from guides.engines import locate
from guides.policies.lm import LM
from search.files.jsonl import Lines, Mixed
from search.guide import Policy
from search.scheduling.budget import Budget, Meter
from search.scheduling.scheduler import metered, parallel, run
from search.trace import Trace

log = logging.getLogger(__name__)

LABELLERS = ("rollouts", "omega", "trace", "checker")
#: what a line tells of its trace alone, beside the settings of all
COST = ("rollouts", "failed", "calls", "generated", "errors")
#: traces whose roll-outs wait together: many times more of these than an engine has rows
SIDE_BY_SIDE = 64


@dataclass(frozen=True)
class Plan:
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
    def samples(self) -> bool:
        """Are there roll-outs?"""
        return self.by in ("rollouts", "omega")


@dataclass
class Counts:
    """What was done. traces that were labelled now, before, that nobody can grade, and whose
    roll-outs all failed; what it took.
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
    plan: Plan,
    policy: Policy | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
) -> Counts:
    """Label `traces` into the file `out` (`guides.data.labels`); those that have a line there are
    left alone, so a killed run goes on.

    targets   the target of each problem by its key (`guides.data.grading`); problems that verify
              themselves need none
    policy    completes the chains; it need not be the one that searched, but must read its tokens
              (`guides.data.trace_tokens.Reader.check`)
    settings  of the policy, which the labels depend on: they stand in each line, as the target
              does, and a file with others is refused

    A trace that nobody can grade gets no line, and none whose roll-outs all failed: the next run
    tries these again. Raises ValueError before anything is written for what cannot be labelled,
    OSError for a full disk with all finished lines kept.
    """
    if plan.samples and policy is None:
        raise ValueError(f"labels by {plan.by} need a policy that completes chains: give one")
    told = gradable(traces, targets, plan)
    if len(told) < len(traces):
        log.warning(
            "%d traces get no labels: their problems have no target and do not verify themselves",
            len(traces) - len(told),
        )
    settings = json.loads(json.dumps(_settings(plan, policy) | dict(settings or {})))
    done: set[str] = set()
    wanted = {trace.id: _target(trace, targets, plan) for trace in told}
    lines = Lines(
        Path(out),
        lambda row: done.add(_known(row, settings, wanted)),
        first="trace",
        what="line of labels",
        flag="--out",
    )
    waiting = [trace for trace in told if trace.id not in done]
    counts = Counts(before=len(told) - len(waiting), ungraded=len(traces) - len(told))
    labeller = _Labeller(targets, plan, policy, settings, lines, counts)
    try:
        labeller.label(waiting)
    finally:
        lines.close()
    if counts.failed:
        log.warning(
            "all roll-outs of %d traces failed: give the same command again to label them",
            counts.failed,
        )
    return counts


@dataclass
class _Labeller:
    targets: Mapping[str, str]
    plan: Plan
    policy: Policy | None
    settings: Mapping[str, Any]
    lines: Lines
    counts: Counts = field(default_factory=Counts)

    def label(self, traces: Sequence[Trace]) -> None:
        from tqdm.auto import tqdm

        from search.solver import workers_of

        backends = dict(self.policy.backends) if self.policy is not None else {}
        problems = [trace.problem() for trace in traces] if self.plan.samples else []
        with (
            tqdm(total=len(traces), unit="trace", disable=None) as bar,
            workers_of(problems, backends),
        ):
            run(parallel((self._one(trace, bar) for trace in traces), SIDE_BY_SIDE), backends)

    async def _one(self, trace: Trace, bar: Any) -> None:
        meter = Meter(Budget(tokens=self._most(trace)))
        labels, cost = await metered(self._labels(trace), meter)
        bar.update()
        if labels is None:
            self.counts.failed += 1
            return
        if self.plan.samples:
            usage = meter.usage
            cost = {"calls": usage.calls, "generated": usage.generated, **cost}
            self.counts.generated += usage.generated
            self.counts.rollouts += cost["rollouts"]
        self.lines.append(
            line_of(
                trace, labels, {**self.settings, **_target(trace, self.targets, self.plan), **cost}
            )
        )
        self.counts.labelled += 1

    def _most(self, trace: Trace) -> int:
        """A limit that no labelling reaches, because a meter wants one."""
        chain = self.policy.chain_tokens if self.policy is not None else 1
        return max(1, len(trace.node_parent) * self.plan.count * chain)

    async def _labels(self, trace: Trace) -> tuple[Labels | None, dict[str, Any]]:
        """Labels, None where every roll-out failed, and what they cost."""
        target, plan = self.targets.get(key_of(trace)), self.plan
        if plan.by == "checker":
            checker = checker_of(plan.checker)
            assert checker is not None
            return from_checker(trace, checker), {}
        if plan.by == "trace":
            return from_trace(trace, grade(trace, target, plan.answer)), {}
        assert self.policy is not None
        arguments = (trace, target, self.policy, plan.count, plan.seed)
        if plan.by == "rollouts":
            rolled = await by_rollouts(*arguments, answer=plan.answer, finished=plan.finished)
            cost: dict[str, Any] = {}
        else:
            rolled = await by_bisection(*arguments, answer=plan.answer)
            cost = {"errors": {str(node): step for node, step in rolled.errors.items()}}
        cost |= {"rollouts": rolled.made, "failed": rolled.failed}
        return (None if rolled.failed and not rolled.made else rolled.labels), cost


def gradable(traces: Sequence[Trace], targets: Mapping[str, str], plan: Plan) -> list[Trace]:
    """The traces whose problem has a target, or verified itself in some trace; all for a
    checker. Raises ValueError where there is none.
    """
    verified = {
        trace.kind for trace in traces if np.isfinite(trace.node_reward[trace.node_finished]).any()
    }
    found = [
        trace
        for trace in traces
        if plan.by == "checker" or trace.kind in verified or key_of(trace) in targets
    ]
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
    from guides.data.trace_tokens import Reader
    from models.checkpoints.checkpoint import describe, resolve

    folder = resolve(locate(guide))
    reader = Reader(folder, describe(folder) | dict(language))
    for trace in traces:
        reader.check(trace)
    return LM(guide, **engine, **language)


def _settings(plan: Plan, policy: Policy | None) -> dict[str, Any]:
    """What labels depend on, as each line tells it."""
    if plan.by == "checker":
        return {"by": plan.by, "checker": plan.checker}
    chosen: dict[str, Any] = {"by": plan.by} | (
        {} if plan.answer is None else {"answer": plan.answer}
    )
    if not plan.samples:
        return chosen
    assert policy is not None
    chosen |= {"policy": policy.version, "count": plan.count, "seed": plan.seed}
    return chosen | ({"finished": plan.finished} if plan.by == "rollouts" else {})


def _target(trace: Trace, targets: Mapping[str, str], plan: Plan) -> dict[str, str]:
    """The target as a line tells it; nothing where labels depend on none."""
    target = None if plan.by == "checker" else targets.get(key_of(trace))
    return {} if target is None else {"target": target}


def _known(row: Any, settings: Mapping[str, Any], wanted: Mapping[str, Mapping[str, str]]) -> str:
    """The trace of a line that is there. Raises Mixed for labels that were made otherwise."""
    if not isinstance(row["k"], list) or not isinstance(row["n"], list):
        raise TypeError
    trace, made = (
        str(row["trace"]),
        {name: value for name, value in row["how"].items() if name not in COST},
    )
    # of a trace that is not asked for: any
    target = wanted.get(trace, {name: value for name, value in made.items() if name == "target"})
    expected = {**settings, **target}
    if made != expected:
        raise Mixed(f"has labels of another run ({_said(made)} instead of {_said(expected)})")
    return trace


def _said(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
