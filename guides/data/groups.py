"""Groups: the chains of graded traces, problem by problem, for what compares them
(`guides.data.advantages`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from guides.data.distill import counts, ended
from guides.data.grading import Graded
from guides.data.labels import Labels
from search.chain import GIVEN
from search.guide import multiplicity
from search.trace import Trace

if TYPE_CHECKING:
    from guides.data.advantages import Credit


class Chain(NamedTuple):
    """A chain of a group, or several that are the same.

    trace   its trace, as an index into the batch
    edges   int64 [steps], at least one, from the root on
    reward  of its end
    times   how many samples it stands for, above 0
    single  how many of these are one draw: 1, or `times` where that is the weight of one
    tokens  that were sampled for it
    turn    steps of its first attempt, where another follows; all of them elsewhere
    first   what that attempt is worth, in [0, 1]; nan: there is no other, or nobody can tell
    """

    trace: int
    edges: np.ndarray
    reward: float
    times: float
    single: float
    tokens: int
    turn: int = 0
    first: float = math.nan


@dataclass(frozen=True, eq=False)
class Group:
    """The chains of one problem.

    key         of the problem (`guides.data.grading.key_of`)
    graded      its traces by their index in the batch
    chains      those that take part: finished ones with an outcome, and unfinished ones where these
                are penalised. A chain of which no step was written takes no part
    undecided   how many finished chains have no outcome
    unfinished  how many chains were cut off
    """

    key: str
    graded: Mapping[int, Graded]
    chains: tuple[Chain, ...]
    undecided: float
    unfinished: float

    @cached_property
    def rewards(self) -> np.ndarray:
        """float64 [chains]"""
        return np.array([chain.reward for chain in self.chains])

    @cached_property
    def times(self) -> np.ndarray:
        """float64 [chains]"""
        return np.array([chain.times for chain in self.chains])

    @property
    def mean(self) -> float:
        """The mean reward; nan without chains."""
        return float(self.rewards @ self.times / self.times.sum()) if self.chains else math.nan

    @property
    def verdict(self) -> str:
        """ "mixed", or why nothing can be learnt from the group by comparison: "empty", all chains
        "right" (reward 1), all "wrong" (reward 0), or all "equal".
        """
        if not self.chains:
            return "empty"
        first = self.rewards[0]
        if (self.rewards != first).any():
            return "mixed"
        return {0.0: "wrong", 1.0: "right"}.get(float(first), "equal")


def groups_of(batch: Sequence[Graded], credit: Credit) -> list[Group]:
    """The chains of a batch of traces by their problems, in the order of the first trace of each.

    Raises ValueError where a search drew a trace that `credit` refuses, or that does not tell how
    likely its chains are.
    """
    members: dict[str, dict[int, Graded]] = {}
    for index, one in enumerate(batch):
        members.setdefault(one.replay.key, {})[index] = one
    groups = []
    for key, graded in members.items():
        chains: list[Chain] = []
        undecided = 0.0
        unfinished = 0.0
        for index, one in graded.items():
            trace = one.trace
            times_of, single = _drawn(trace, credit)
            open_ended = trace.node_finished & np.isnan(one.outcomes)
            undecided += times_of[open_ended].sum()
            unfinished += times_of[~trace.node_finished].sum()
            part = trace.node_finished & ~open_ended
            if credit.unfinished == "penalise":
                part |= ~trace.node_finished
            part[0] = False
            rewards = np.where(trace.node_finished, one.outcomes, 0.0)
            for node in np.flatnonzero(part & (times_of > 0)):
                reward = float(rewards[node])
                for way, share in _ways(one, int(node)):
                    edges = np.array(way)
                    times = float(times_of[node]) * share
                    known = (single or times, _sampled(trace, edges), *_first_attempt(one, edges))
                    chains.append(Chain(index, edges, reward, times, *known))
        groups.append(Group(key, graded, tuple(chains), float(undecided), float(unfinished)))
    return groups


def with_refused(one: Graded) -> Graded:
    """A graded trace in which each illegal step is an edge to a finished node that is worth 0,
    behind all others, so that what is learnt of a chain that it ended is learnt of it, too.

    Where the chain went on behind a line of the search's (`search.problems.stream.Stream.due`),
    its edge has no visits: those of the chain stand behind that line.
    """
    trace = one.trace
    refused = [own for own in trace.refused if own.step.tokens]
    if not refused:
        return one
    nodes = len(trace.node_parent)
    edges = len(trace.steps)
    count = len(refused)
    withdrawn = list(_withdrawn(trace))
    parents = np.array([own.node for own in refused], np.int32)
    visits = np.array([own.times for own in refused], np.int32)
    zeros = np.zeros(count)
    unknown = np.full(count, math.nan)
    more: dict[str, np.ndarray] = {
        "node_parent": parents,
        "node_edge": np.arange(edges, edges + count),
        "node_finished": np.ones(count, bool),
        "node_reward": zeros,
        "edge_node": parents,
        "edge_child": np.arange(nodes, nodes + count),
        "edge_visits": np.where(np.isin(parents, withdrawn), 0, visits),
        "edge_sum": zeros,
        "edge_prior": zeros,
        "edge_value": zeros,
        "edge_log_prob": unknown,
    }
    grown: dict[str, Any] = {}
    for name, column in more.items():
        before = getattr(trace, name)
        grown[name] = np.append(before, column).astype(before.dtype)
    steps = (*trace.steps, *map(attrgetter("step"), refused))
    replay = copy.copy(one.replay)
    replay.trace = replace(trace, steps=steps, **grown)
    outcomes = np.append(one.outcomes, zeros)
    attempts = None if one.attempts is None else np.append(one.attempts, unknown)
    labels = Labels(*counts(replay.trace, outcomes))
    known: dict[int, list[tuple[int, int]]] = {}
    for edge, own in enumerate(refused, edges):
        known.setdefault(own.node, []).append((edge, own.times))
    return replace(
        one,
        replay=replay,
        grades=outcomes,
        outcomes=outcomes,
        labels=labels,
        attempts=attempts,
        refused=known,
    )


def _withdrawn(trace: Trace) -> set[int]:
    """The nodes behind which a line of the search's stands."""
    return {int(trace.edge_node[edge]) for edge in range(len(trace.steps)) if _given(trace, edge)}


def _given(trace: Trace, edge: int) -> bool:
    return trace.steps[edge].finish == GIVEN


def _ways(one: Graded, node: int) -> list[tuple[list[int], float]]:
    """The edges from the root to a node, with the illegal steps that were withdrawn on the way, and
    the share of its chains that went so.
    """
    trace = one.trace
    ways: list[tuple[list[int], float]] = [([], 1.0)]
    for edge in trace.path(node):
        there: Sequence[tuple[int, int]] = ()
        if _given(trace, edge):
            there = one.refused.get(int(trace.edge_node[edge]), ())
        total = sum(times for _, times in there)
        before = ways
        ways = []
        for edges, share in before:
            for illegal, times in there:
                ways.append(([*edges, illegal, edge], share * times / total))
            if not there:
                ways.append(([*edges, edge], share))
    return ways


def _sampled(trace: Trace, edges: np.ndarray) -> int:
    """Tokens of a chain that were sampled."""
    count = 0
    for edge in edges:
        step = trace.steps[edge]
        if step.finish != GIVEN:
            count += len(step.tokens)
    return count


def _first_attempt(one: Graded, edges: np.ndarray) -> tuple[int, float]:
    """The steps of the first attempt of a chain, and what it is worth."""
    if one.attempts is None:
        return len(edges), math.nan
    known = np.flatnonzero(~np.isnan(one.attempts[edges]))
    if not len(known):
        return len(edges), math.nan
    return int(known[0]), float(one.attempts[edges[known[0]]])


def _drawn(trace: Trace, credit: Credit) -> tuple[np.ndarray, float]:
    """float64 [nodes]: how many samples the chains that ended at each node stand for; and how many
    are one draw, 0: each chain is one.

    What a search drew has a chain at each finished node. It counts by p / q, with its probability p
    under the policy and q to be found (Horvitz and Thompson 1952), scaled so that the mean is 1.
    """
    if trace.independent:
        return ended(trace), 1.0
    if credit.searched == "refuse":
        raise ValueError(
            f"a search drew the trace {trace.id} ({trace.method}), so its chains are no samples of "
            "the policy: sample them with method sample, or weigh them with searched=weigh"
        )
    ends = np.flatnonzero(trace.node_finished)
    paths = map(trace.path, ends.tolist())
    log_probs = np.array([trace.edge_log_prob[path].sum() for path in paths])
    if np.isnan(log_probs).any():
        raise ValueError(
            f"the trace {trace.id} ({trace.method}) does not tell how likely its chains are, so "
            "they cannot be weighed: sample them with method sample"
        )
    times_of = np.zeros(len(trace.node_parent))
    times_of[ends] = multiplicity(log_probs) * len(ends)
    return times_of, 0.0


def charged(groups: Sequence[Group], reference: Sequence[np.ndarray], weight: float) -> list[Group]:
    """The groups with `weight` times the log-ratio of each chain to a reference taken off its
    reward: the KL in the reward, by the estimator k1 (Ouyang et al. 2022; Schulman 2020).

    reference  for each trace of the batch, float64 [edges]: log-prob of each step's tokens under
               the reference
    Raises ValueError where a trace does not hold the log-probs of its tokens.
    """
    moved = []
    for group in groups:
        ratios = {}
        for index, one in group.graded.items():
            ratios[index] = _log_probs(one.trace) - reference[index]
        chains = []
        for chain in group.chains:
            ratio = float(ratios[chain.trace][chain.edges].sum())
            if math.isnan(ratio):
                raise ValueError(
                    f"the trace {group.graded[chain.trace].trace.id} does not hold the log-probs "
                    "of its tokens, so the KL cannot be in the reward: sample it anew, or give the "
                    "KL in the loss"
                )
            chains.append(chain._replace(reward=chain.reward - weight * ratio))
        moved.append(replace(group, chains=tuple(chains)))
    return moved


def _log_probs(trace: Trace) -> np.ndarray:
    """float64 [edges]: log-prob of each step's tokens when it was sampled; nan: unknown."""
    sums = []
    for step in trace.steps:
        known = len(step.log_probs) == len(step.tokens)
        sums.append(math.fsum(step.log_probs) if known else math.nan)
    return np.array(sums)
