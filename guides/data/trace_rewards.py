"""What the finished chains of traces are worth, by the name of who says so.

outcome          the problem's own verifier, else whether the answer is the target
verifier         a learned one: the score that a checkpoint gives the finished chain
majority         1 for the answer that most samples of the problem have, 0 for others; no label
                 is read (TTRL; Zuo et al. 2025, "Test-Time Reinforcement Learning")
confidence       the geometric mean of the probabilities of the chain's tokens, when they were
                 sampled; no label is read (Yarowsky 1995, with the policy as the classifier)
format           1 where the chain ends with an answer that can be read, 0 elsewhere: a control
random           1 or 0, each with probability 1/2, by the seed: a control
module:function  a function of your own, of the problem and the text of the chain (of its state,
                 where the chain is no text): a number in [0, 1], a bool, or None where it
                 cannot tell
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from guides.answers.checker import classes
from guides.data.grading import Replay, function_of
from guides.engines import EngineOptions, unload
from guides.values.prm import PRM
from search.chain import GIVEN, TextStep, chain_text
from search.choose import Finish, counts, merge_equal
from search.problem import checked_reward
from search.scheduling.driver import run
from search.scheduling.scheduler import parallel
from search.solver import seed_of

log = logging.getLogger(f"copse.{__name__}")

SIDE_BY_SIDE = 64  #: traces whose chains a verifier reads together
#: votes of equally many samples may differ so much by rounding
_TIE = 1e-9


class Rewards(NamedTuple):
    """What the chains of traces are worth.

    outcomes  float64 [nodes] of each trace, in [0, 1], of finished nodes; nan: not finished,
              undecided, or an error
    verdicts  finished nodes of all traces that are "right" (1), "partial" (between 0 and 1),
              "wrong" (0), "undecided", and of which the reward failed ("error")
    """

    outcomes: list[np.ndarray]
    verdicts: dict[str, int]


@dataclass(frozen=True)
class Sources:
    """What a reward may look at beside the traces.

    targets   of the problems, by their keys (`guides.data.grading`)
    verifier  folder of a checkpoint with a value head, or of a published reward model
    seed      of "random"
    engine    of the verifier: device, dtype, slots, pool_tokens
    """

    targets: Mapping[str, str] = field(default_factory=dict)
    verifier: str | Path | None = None
    seed: int = 0
    engine: EngineOptions = field(default_factory=EngineOptions)


class Found(NamedTuple):
    """outcomes: as in `Rewards`;  errors: finished nodes that are nan because the reward failed"""

    outcomes: list[np.ndarray]
    errors: int = 0


Reward = Callable[[Sequence[Replay], Sources], Found]


def rewards_of(
    replays: Sequence[Replay], name: str = "outcome", sources: Sources | None = None
) -> Rewards:
    """The rewards of the finished nodes of traces, by a name of this module.

    Raises ValueError for a name that `check_reward` refuses, a reward that is nan or outside
    [0, 1], and where it failed at every chain.
    """
    sources = sources or Sources()
    check_reward(name, sources.verifier)
    reward = REWARDS.get(name) or _by_function(name)
    outcomes, errors = reward(replays, sources)
    verdicts = dict.fromkeys(("right", "partial", "wrong", "undecided", "error"), 0)
    for replay, own in zip(replays, outcomes, strict=True):
        finished = replay.trace.node_finished
        verdicts["right"] += int((own == 1.0).sum())
        verdicts["partial"] += int(((own > 0.0) & (own < 1.0)).sum())
        verdicts["wrong"] += int((own == 0.0).sum())
        verdicts["undecided"] += int((finished & np.isnan(own)).sum())
    verdicts["undecided"] -= errors
    verdicts["error"] = errors
    return Rewards(outcomes, verdicts)


def check_reward(name: str, verifier: str | Path | None = None) -> None:
    """Raises ValueError for a reward that is not there, and for a verifier that is missing or
    that nobody asks.
    """
    if name not in REWARDS and ":" not in name:
        raise ValueError(
            f"there is no reward {name!r}: use one of {', '.join(REWARDS)}, or module:function of "
            "your own"
        )
    if ":" in name:
        function_of(name, "reward", "a problem and a chain")
    if name == "verifier" and verifier is None:
        raise ValueError(
            "the reward 'verifier' needs a model that judges: give its folder as verifier"
        )
    if name != "verifier" and verifier is not None:
        raise ValueError(
            f"the reward {name!r} asks no verifier: leave it out, or choose the reward 'verifier'"
        )


def needs_targets(name: str) -> bool:
    """Whether a reward tells nothing of a problem that has no target and does not verify
    itself.
    """
    return name == "outcome"


def _outcome(replays: Sequence[Replay], sources: Sources) -> Found:
    outcomes = []
    for replay in replays:
        outcomes.append(replay.grade(sources.targets.get(replay.key)))
    return Found(outcomes)


def _format(replays: Sequence[Replay], sources: Sources) -> Found:
    outcomes = list(map(_blank, replays))
    for replay, own in zip(replays, outcomes, strict=True):
        ends = np.flatnonzero(replay.trace.node_finished)
        for node, answer in zip(ends, replay.answers(ends), strict=True):
            own[node] = float(bool(answer and answer.strip()))
    return Found(outcomes)


def _random(replays: Sequence[Replay], sources: Sources) -> Found:
    outcomes = list(map(_blank, replays))
    for replay, own in zip(replays, outcomes, strict=True):
        for node in np.flatnonzero(replay.trace.node_finished):
            name = f"{replay.key} {replay.trace.seed} {node}"
            own[node] = float(seed_of(name, sources.seed) >> 62)  # the first of 63 bits
    return Found(outcomes)


def _confidence(replays: Sequence[Replay], sources: Sources) -> Found:
    outcomes = list(map(_blank, replays))
    for replay, own in zip(replays, outcomes, strict=True):
        trace = replay.trace
        for node in np.flatnonzero(trace.node_finished):
            tokens = 0
            log_probs: list[float] = []
            for edge in trace.path(int(node)):
                step = trace.steps[edge]
                if step.finish != GIVEN:
                    tokens += len(step.tokens)
                    log_probs += step.log_probs
            if tokens and len(log_probs) == tokens:
                own[node] = math.exp(math.fsum(log_probs) / tokens)
    return Found(outcomes)


def _majority(replays: Sequence[Replay], sources: Sources) -> Found:
    """A chain without an answer is wrong. Where two answers have as many samples, or there are
    fewer than two samples, there is no majority, and all are undecided.
    """
    outcomes = list(map(_blank, replays))
    problems: defaultdict[str, list[int]] = defaultdict(list)
    for place, replay in enumerate(replays):
        problems[replay.key].append(place)
    for places in problems.values():
        found: list[Finish] = []
        owners: list[int] = []
        weights: list[float] = []
        for place in places:
            own = _finishes(replays[place], outcomes[place])
            found += own
            owners += [place] * len(own)
            weights += counts(own)
        if not found:
            continue
        if getattr(replays[places[0]].problem, "open_answers", False):
            found = merge_equal(found, classes)
        winner = _winner(found, weights)
        for place, finish in zip(owners, found, strict=True):
            if winner is not None:
                outcomes[place][finish.node] = float(finish.answer == winner)
    return Found(outcomes)


def _finishes(replay: Replay, outcomes: np.ndarray) -> list[Finish]:
    """The finished nodes that have an answer; the others get the outcome 0."""
    trace = replay.trace
    ends = np.flatnonzero(trace.node_finished)
    found = []
    for node, answer in zip(ends.tolist(), replay.answers(ends), strict=True):
        if answer is None:
            outcomes[node] = 0.0
            continue
        visits = int(trace.edge_visits[trace.node_edge[node]])
        log_prob = float(trace.edge_log_prob[trace.path(node)].sum())
        found.append(Finish(node, answer, None, math.nan, visits, log_prob, trace.independent))
    return found


def _winner(found: Sequence[Finish], weights: Sequence[float]) -> str | None:
    """The answer with the most votes; None where two have as many, or only one sample voted."""
    votes: defaultdict[str, float] = defaultdict(float)
    samples = 0
    for finish, weight in zip(found, weights, strict=True):
        votes[finish.answer] += weight
        samples += max(1, finish.visits)
    (winner, most), *others = sorted(votes.items(), key=lambda vote: -vote[1])
    if samples < 2 or (others and others[0][1] >= most * (1 - _TIE)):
        return None
    return winner


def _verifier(replays: Sequence[Replay], sources: Sources) -> Found:
    """The score of each finished chain. One that could not be read is an error."""
    assert sources.verifier is not None
    judge = PRM(sources.verifier, **sources.engine)

    scores = (_scores(judge, replay) for replay in replays)
    try:
        outcomes = run(parallel(scores, SIDE_BY_SIDE), dict(judge.backends))
    finally:
        unload(sources.verifier)
    errors = 0
    chains = 0
    for replay, own in zip(replays, outcomes, strict=True):
        finished = replay.trace.node_finished
        chains += int(finished.sum())
        errors += int(np.isnan(own[finished]).sum())
    if chains and errors == chains:
        raise ValueError(
            f"the verifier {sources.verifier} gave none of {chains} chains a score: look at its "
            "warnings above, then start again; the traces are kept"
        )
    return Found(list(outcomes), errors)


async def _scores(judge: PRM, replay: Replay) -> np.ndarray:
    own = _blank(replay)
    ends = np.flatnonzero(replay.trace.node_finished)
    if not len(ends):
        return own
    states = list(map(replay.states.__getitem__, ends))
    unknown = np.full(len(ends), np.nan, np.float32)
    try:
        values = await judge.evaluate(
            replay.problem, states, unknown, np.random.default_rng(replay.trace.seed)
        )
    except ValueError as error:  # the problem holds the marker of the verifier's format
        log.warning("the verifier cannot read a problem: %s", error)
        return own
    own[ends] = np.clip(values.astype(np.float64), 0.0, 1.0)
    return own


def _by_function(path: str) -> Reward:
    """The reward that a user's function gives."""
    function = function_of(path, "reward", "a problem and a chain")

    def reward(replays: Sequence[Replay], sources: Sources) -> Found:
        outcomes = list(map(_blank, replays))
        failures: list[Exception] = []
        chains = 0
        for replay, own in zip(replays, outcomes, strict=True):
            for node in np.flatnonzero(replay.trace.node_finished):
                chains += 1
                try:
                    worth = function(replay.problem, _read(replay.states[node]))
                except Exception as error:  # a user's function may raise anything
                    failures.append(error)
                    continue
                if worth is not None:
                    own[node] = checked_reward(worth, f"the reward {path}")
        if failures:
            said = f"{type(failures[0]).__name__}: {failures[0]}"
            if len(failures) == chains:
                raise ValueError(
                    f"the reward {path} failed at all {chains} chains ({said}): correct it and "
                    "start again; the traces are kept"
                )
            log.warning(
                "the reward %s failed at %d of %d chains (%s)", path, len(failures), chains, said
            )
        return Found(outcomes, len(failures))

    return reward


def _read(state: Any) -> Any:
    """The text of a chain, or a state that is none."""
    if isinstance(state, Sequence) and len(state) and isinstance(state[0], TextStep):
        return chain_text(state)
    return state


def _blank(replay: Replay) -> np.ndarray:
    return np.full(len(replay.trace.node_parent), np.nan)


#: by name; each is given all traces of a round, and what it may look at beside them
REWARDS: dict[str, Reward] = {
    "outcome": _outcome,
    "verifier": _verifier,
    "majority": _majority,
    "confidence": _confidence,
    "format": _format,
    "random": _random,
}
