"""What is learnt from graded traces, which of their chains are imitated, and the examples that are
made of them.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from guides.data.distill import check, distill, drawn, least, may_be_imitated, split
from guides.data.examples import Segment, written
from guides.data.grading import Graded, checker_of
from guides.data.preferences import Pairing, pairs_of
from guides.data.streams import Streaming, segments_of, streams_of
from guides.data.trace_rewards import check_reward

Encode = Callable[[str], Sequence[int]]  #: the tokens of a line with its delimiter
#: of a line that a search writes, behind the tokens before it
Turn = Callable[[str, Sequence[int]], Sequence[int]]

#: tokens of an example: an update learns from a number of examples, which should be about as large
LONGEST = 512


@dataclass(frozen=True)
class Distillation:
    """What is learnt from traces.

    every_token, policy, keep   as in `guides.data.distill`, `keep` of a problem: the solutions of
                                one that was searched several times are drawn together, each
                                different one once, and weigh alike
    reward, verifier   who says what a finished chain is worth (`guides.data.trace_rewards`)
    thresholds  a chain is imitated from this outcome on; of several, which rise, each makes
                examples of its own, to be trained on one after the other (ReST; Gulcehre et al.
                2023). (): `guides.data.distill.least`
    seed        of the solutions that are drawn, and of the order of the examples
    off_policy  take traces of another guide with the same tokenizer, too (ReST-EM trains the base
                again on samples of later guides)
    checker     "module:function" of a problem and a state that labels every state exactly
                (`guides.data.grading.Checker`)
    labels      a label file (`guides.data.labels`), whose labels alone are learnt; not beside a
                checker
    hard        labels are 0 or 1: is any outcome at or below right?
    held_share  share of the problems, in [0, 1), that is in no example (`guides.data.holdout`)
    pairs       preferences are learnt, too: a `guides.data.preferences.Pairing`, or its fields; of
                chains at most `keep` a trace
    streams     in place of the trees, streams of moves are learnt that are made of them: a
                `guides.data.streams.Streaming`, or its fields; policy, keep and thresholds say
                nothing then, and there are no pairs
    judged      what is there for the value head alone is in the examples, too; a training that
                gives it no weight need not read it

    Raises ValueError for values that are none of these, two sources of labels, and a file that is
    not there.
    """

    policy: str = "solutions"
    keep: int = 10
    reward: str = "outcome"
    verifier: str | Path | None = None
    thresholds: Sequence[float] = ()
    seed: int = 0
    off_policy: bool = False
    checker: str | None = None
    labels: str | Path | None = None
    hard: bool = False
    every_token: bool = False
    held_share: float = 0.0
    pairs: Pairing | None = None
    streams: Streaming | None = None
    judged: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.pairs, dict):  # from a file
            object.__setattr__(self, "pairs", Pairing(**self.pairs))
        if isinstance(self.streams, dict):
            object.__setattr__(self, "streams", Streaming(**self.streams))
        if self.streams is not None and self.pairs is not None:
            raise ValueError(
                "streams are imitated, and pairs are compared: learn one after the other"
            )
        check(self.policy, self.keep)
        check_reward(self.reward, self.verifier)
        check_thresholds(self.thresholds)
        checker_of(self.checker)
        if self.checker is not None and self.labels is not None:
            raise ValueError(
                "labels come from a checker or from a file, not from both: leave one of them out"
            )
        if self.labels is not None and not Path(self.labels).is_file():
            raise ValueError(
                f"there is no label file {self.labels}: give the one that copse label wrote"
            )
        if not 0 <= self.held_share < 1:
            raise ValueError(
                f"held out is a share of the problems in [0, 1), not {self.held_share}: give 0.1, "
                "or 0 for none"
            )

    @property
    def steps(self) -> list[float]:
        """The thresholds, at least one."""
        return list(self.thresholds) or [least(self.policy)]


def check_thresholds(thresholds: Sequence[float]) -> None:
    """Raises ValueError for thresholds of rewards that do not rise within [0, 1]."""
    rising = sorted(set(thresholds)) == list(thresholds)
    if thresholds and not (rising and thresholds[0] >= 0.0 and thresholds[-1] <= 1.0):
        shown = ", ".join(map(str, thresholds))
        raise ValueError(f"thresholds are rewards in [0, 1] that rise, not {shown}: correct them")


def imitated(graded: Sequence[Graded], chosen: Distillation, threshold: float) -> list[list[int]]:
    """The ends of the chains of each trace that are imitated: of each problem at most `keep`
    different ones, drawn from all of its traces together. Empty for policies that imitate no whole
    chains.
    """
    ends: list[list[int]] = []
    problems: defaultdict[str, list[int]] = defaultdict(list)
    for place, one in enumerate(graded):
        ends.append([])
        problems[one.replay.key].append(place)
    if chosen.policy in ("visits", "none"):
        return ends
    rngs = np.random.default_rng(chosen.seed).spawn(len(problems))
    for places, rng in zip(problems.values(), rngs, strict=True):
        chains: dict[Hashable, tuple[int, int]] = {}
        for place in places:
            one = graded[place]
            good = may_be_imitated(one.trace, one.outcomes, chosen.policy, threshold)
            for node in np.flatnonzero(good).tolist():
                key = one.replay.chain(node) if len(places) > 1 else node
                chains.setdefault(key, (place, node))
        found = list(chains.values())
        worth = np.zeros(len(found))
        for i, (place, node) in enumerate(found):
            worth[i] = graded[place].outcomes[node]
        for i in drawn(worth, chosen.policy, chosen.keep, rng).tolist():
            place, node = found[i]
            ends[place].append(node)
    return ends


def streamed(
    graded: Sequence[Graded], chosen: Streaming, seed: int, encode: Encode, turn: Turn
) -> list[list[Segment]]:
    """The streams of all traces as examples, those of a problem weighing as much as those of
    another. Raises ValueError where there is none.
    """
    rng = np.random.default_rng(seed)
    examples: list[list[Segment]] = []
    keys: list[str] = []
    for one in graded:
        for lines in streams_of(one, chosen, rng):
            example = segments_of(lines, one.prompt, encode, turn)
            if sum(len(segment.tokens) for segment in example) <= chosen.longest:
                examples.append(example)
                keys.append(one.replay.key)
    if not examples:
        raise ValueError(
            f"none of the {len(graded)} traces gives a stream of the kind {chosen.kind!r}: it "
            f"needs what was right in the search, wrong steps beside it, and at most "
            f"{chosen.longest} tokens; search more, or choose another kind"
        )
    return _even(keys, examples, [[0]] * len(keys))


def distilled(
    graded: Sequence[Graded], chosen: Distillation, ends: Sequence[Sequence[int]]
) -> list[list[Segment]]:
    """The examples of all traces, cut to `LONGEST`. Raises ValueError where there is none.

    ends  of the chains of each trace that are imitated
    """
    rng = np.random.default_rng(chosen.seed)
    policy = "solutions" if chosen.policy in ("all", "best") else chosen.policy
    whole = []
    keys = []
    for one, own in zip(graded, ends, strict=True):
        keys.append(one.replay.key)
        imitated = np.zeros(len(one.outcomes))
        imitated[list(own)] = 1.0
        pairs: list[tuple[int, int]] = []
        if chosen.pairs is not None:
            pairs = pairs_of(
                one.trace, one.outcomes, one.labels, chosen.pairs, keep=chosen.keep, rng=rng
            )
        example = distill(
            one.trace,
            imitated,
            one.prompt,
            policy=policy,
            keep=max(1, len(own)),
            rng=rng,
            labels=one.labels,
            every_token=chosen.every_token,
            pairs=pairs,
        )
        whole.append(example)
    examples: list[list[Segment]] = []
    for example in _even(keys, whole, ends):
        if not chosen.judged:
            example = written(example)
        if example:
            examples += split(example, LONGEST)
    if chosen.pairs is not None and not any(one.over for one in itertools.chain(*examples)):
        raise ValueError(
            f"no two {chosen.pairs.kind} of the {len(graded)} traces differ in what they are "
            "worth: search more, or ask for fewer visits and a smaller margin"
        )
    if not examples:
        raise ValueError(
            f"no step of the {len(graded)} traces has a label, and nothing is imitated: label "
            "them, or choose another --policy"
        )
    return examples


def _even(
    keys: Sequence[str], examples: Sequence[list[Segment]], ends: Sequence[Sequence[int]]
) -> list[list[Segment]]:
    """The examples with their weights times the share that each has of what is imitated of its
    problem: of its chains, or of its traces where those are not counted.
    """
    parts = []
    totals = Counter[str]()
    for key, example, own in zip(keys, examples, ends, strict=True):
        parts.append(len(own) or any(segment.weight > 0 for segment in example))
        totals[key] += parts[-1]
    even: list[list[Segment]] = []
    for key, example, part in zip(keys, examples, parts, strict=True):
        even.append([])
        for segment in example:
            weight = segment.weight * part / max(1, totals[key])
            even[-1].append(segment._replace(weight=weight))
    return even
