"""From the samples of a round of reinforcement learning to its training examples: rewards, groups,
advantages, segments. No model, but where the reward is a verifier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guides.data.advantages import Credit, advantage_segments, advantages
from guides.data.distill import counts, split
from guides.data.examples import Segment, write_examples
from guides.data.grading import Graded, Replay, attempts
from guides.data.groups import Group, groups_of, with_refused
from guides.data.labels import Labels
from guides.data.trace_rewards import Sources, rewards_of
from guides.data.trace_tokens import TraceReader
from models.checkpoints.checkpoint import describe
from search.trace import Trace

LONGEST = 4096  #: tokens of an example


@dataclass(frozen=True)
class Creditor:
    """How the traces of a checkpoint become examples.

    checkpoint  folder of the model that sampled them
    credit      `guides.data.advantages.Credit`
    reward, sources  `guides.data.trace_rewards`
    """

    checkpoint: Path
    credit: Credit
    reward: str
    sources: Sources

    def groups(self, traces: Sequence[Trace]) -> tuple[list[Graded], list[Group], dict[str, int]]:
        """Traces with their outcomes, the groups of their chains, and how many finished chains have
        which verdict. Raises what `rewards_of` and `groups_of` raise.
        """
        settings = describe(self.checkpoint)
        reader = TraceReader(self.checkpoint, settings)
        replays = [Replay(trace, settings.get("answer")) for trace in traces]
        rewards = rewards_of(replays, self.reward, self.sources)
        graded = []
        for replay, outcomes in zip(replays, rewards.outcomes, strict=True):
            labels = Labels(*counts(replay.trace, outcomes))
            prompt = reader.prompt(replay.problem)
            own = None
            if self.credit.method == "attempts":
                own = attempts(replay, self.sources.targets.get(replay.key))
            one = Graded(replay, outcomes, outcomes, labels, prompt, attempts=own)
            graded.append(with_refused(one))
        return graded, groups_of(graded, self.credit), dict(rewards.verdicts)

    def write(self, traces: Sequence[Trace], path: Path, seed: int) -> dict[str, Any]:
        """Write the examples of all groups from which something can be learnt; what was counted:

        all of `summary`
        error            finished chains of which the reward failed
        groups, dropped  problems; those whose chains are all right, all wrong or equal
        examples
        """
        graded, groups, verdicts = self.groups(traces)
        keys = set()
        for group in groups:
            if group.verdict == "mixed":
                keys.add(group.key)
        chosen = [one for one in graded if one.replay.key in keys]
        # indices of a group are those of the batch that is credited
        kept = groups_of(chosen, self.credit)
        examples: list[list[Segment]] = []
        for one, found in zip(chosen, advantages(chosen, kept, self.credit), strict=True):
            free = _later(one) if self.credit.held == "first" else None
            segments = advantage_segments(one, found, one.prompt, free=free)
            if segments:
                examples += split(segments, LONGEST)
        write_examples(path, examples, seed=seed)
        return summary(groups) | {
            "error": verdicts["error"],
            "groups": len(groups),
            "dropped": len(groups) - len(kept),
            "examples": len(examples),
        }  # fmt: skip


def _later(one: Graded) -> np.ndarray:
    """bool [edges]: the steps of attempts behind the first, the moves to them included."""
    trace = one.trace
    later = np.zeros(len(trace.steps), bool)
    if one.attempts is None:
        return later
    begins = ~np.isnan(one.attempts)
    for node in range(1, len(trace.node_parent)):  # a child stands behind its parent
        edge = int(trace.node_edge[node])
        above = int(trace.node_edge[trace.node_parent[node]])
        later[edge] = begins[edge] or (above >= 0 and later[above])
    return later


def summary(groups: Sequence[Group]) -> dict[str, float]:
    """What became of the samples of groups, nan where there are none:

    chains                 that take part in the gradient
    right, partial, wrong  of them, by reward 1, between, 0; cut off ones are wrong where they are
                           penalised
    undecided, unfinished  samples without an outcome; cut off, not those that an illegal step ended
    reward                 mean over the groups of their mean rewards
    first                  mean reward of the first attempts of chains that have several
    tokens                 mean length of a chain
    """
    counted = dict.fromkeys(("right", "partial", "wrong", "undecided", "unfinished"), 0.0)
    means = []
    firsts = []
    tokens = 0.0
    for group in groups:
        counted["undecided"] += float(group.undecided)
        counted["unfinished"] += float(group.unfinished)
        if group.chains:
            means.append(group.mean)
            firsts += [chain.first for chain in group.chains if not math.isnan(chain.first)]
        for chain in group.chains:
            name = {1.0: "right", 0.0: "wrong"}.get(chain.reward, "partial")
            counted[name] += chain.times
            tokens += chain.times * chain.tokens
    chains = counted["right"] + counted["partial"] + counted["wrong"]
    return counted | {
        "chains": chains,
        "reward": float(np.mean(means)) if means else math.nan,
        "first": float(np.mean(firsts)) if firsts else math.nan,
        "tokens": tokens / chains if chains else math.nan,
    }


def useful(groups: Sequence[Group]) -> int:
    """How many groups have chains that differ in their reward."""
    return sum(group.verdict == "mixed" for group in groups)
