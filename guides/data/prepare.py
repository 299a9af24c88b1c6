"""From traces to examples: grade, label, hold out and distil.

What cannot be learnt from is refused before any training: traces without tokens or with those of
another tokenizer, of another guide, without a grade, and those where nothing was right. The last
also where only a value head is trained: from failures alone it would learn to say 0.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from guides.data.distill import check, counts, distill, split
from guides.data.examples import Segment, write_examples
from guides.data.grading import Checker, Graded, Replay, checker_of
from guides.data.holdout import held_of, hold_out
from guides.data.labels import Labels, hardened, read_labels
from guides.data.preferences import Pairing, pairs_of
from guides.data.trace_tokens import TraceReader
from guides.engines import locate
from models.checkpoints.checkpoint import describe, resolve, version
from search.trace import Trace

log = logging.getLogger(__name__)

LONGEST = 512  #: tokens of an example, whose pass takes memory with their square
NAMED = 3  #: of many problems or steps, so many are named in a message


@dataclass(frozen=True)
class Distillation:
    """What is learnt from traces.

    every_token, policy, keep   as in `guides.data.distill`; a problem that was searched several
                                times weighs as much as one that was
                                searched once
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

    Raises ValueError for values that are none of these, two sources of labels, and a file that is
    not there.
    """

    policy: str = "solutions"
    keep: int = 10
    seed: int = 0
    off_policy: bool = False
    checker: str | None = None
    labels: str | Path | None = None
    hard: bool = False
    every_token: bool = False
    held_share: float = 0.0
    pairs: Pairing | None = None

    def __post_init__(self) -> None:
        if isinstance(self.pairs, dict):  # from a file
            object.__setattr__(self, "pairs", Pairing(**self.pairs))
        check(self.policy, self.keep)
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


def prepare(
    traces: str | Path,
    targets: Mapping[str, str],
    base: str | Path,
    out_file: str | Path,
    *,
    held_file: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    **choices: Any,
) -> dict[str, Any]:
    """Grade and distil all traces of a folder into one file of examples; what was counted.

    targets     the target of each problem by its key (`guides.data.grading`); problems that verify
                themselves need none
    base        the checkpoint that is to be trained: its tokenizer and prompt made the traces
    held_file   where the chains of the problems go that are held out
    settings    prompt, delimiter and answer of the search where they were not those of the base's
                guide.json
    choices     the fields of `Distillation`

    Returns {"traces", "problems", "graded", "solved" (problems each), "outcomes", "right" (finished
    nodes), "solutions" (right ones at most `keep` a trace), "kinds", "held" (problems), "examples",
    "tokens", "labels", "pairs"}. Raises ValueError, before anything is written, for traces that
    nothing can be learnt from.
    """
    chosen = Distillation(**choices)
    folder = resolve(locate(base))
    guide = describe(folder) | dict(settings or {})
    found = _read(traces, folder, chosen.off_policy)
    reader = TraceReader(folder, guide)
    for trace in found:
        reader.check(trace)
    replays = [Replay(trace, guide.get("answer")) for trace in found]
    _warn_of_unused(targets, replays)
    graded = hold_out(_graded(replays, targets, reader, chosen), chosen.held_share)
    kept, held = _parted(graded, chosen.held_share)

    report = _count(kept, chosen.keep)
    report["held"] = len({one.replay.key for one in held})
    examples = _distilled(kept, chosen)
    write_examples(out_file, examples, seed=chosen.seed)
    if held and held_file is not None:
        held_of(held).save(Path(held_file))
    report |= {"examples": len(examples), "tokens": 0, "labels": 0, "pairs": 0}
    for segment in itertools.chain.from_iterable(examples):
        report["tokens"] += len(segment.tokens)
        report["labels"] += segment.outcomes > 0
        report["pairs"] += len(segment.over)
    return report


def _read(traces: str | Path, folder: Path, off_policy: bool) -> list[Trace]:
    """All traces of a folder. Raises ValueError where there is none, or one of another guide than
    the checkpoint in `folder`.
    """
    found = Trace.load(traces)
    if not found:
        raise ValueError(
            f"there is no readable trace in {traces}: give a folder that copse solve --traces wrote"
        )
    if not off_policy:
        _check_version(found, version(folder))
    return found


def _check_version(traces: Sequence[Trace], ours: str) -> None:
    # in whatever float type
    others = Counter(trace.version for trace in traces if trace.version.partition("/")[0] != ours)
    if others:
        theirs, _ = others.most_common(1)[0]
        raise ValueError(
            f"{others.total()} of {len(traces)} traces are of another guide ({theirs}) than "
            f"the one to train ({ours}): give the guide that "
            "made them, or --off-policy to learn from them all the same"
        )


def _warn_of_unused(targets: Mapping[str, str], replays: Sequence[Replay]) -> None:
    searched = {replay.key for replay in replays}
    unused = [key for key in targets if key not in searched]
    if unused:
        first = "; ".join(key.partition(" ")[2][:80] for key in unused[:NAMED])
        log.warning(
            "%d of %d targets are of problems that have no trace, such as %s",
            len(unused),
            len(targets),
            first,
        )


def _graded(
    replays: Sequence[Replay],
    targets: Mapping[str, str],
    reader: TraceReader,
    chosen: Distillation,
) -> list[Graded]:
    """Traces with outcomes and labels of their nodes, the labels from the one source that there
    is.
    """
    checker = checker_of(chosen.checker)
    stored = None
    if chosen.labels is not None:
        stored = read_labels(chosen.labels, [replay.trace for replay in replays])
    graded = []
    for replay in replays:
        own = replay.grade(targets.get(replay.key))
        if stored is not None:
            one = _with_stored(replay, own, stored.get(replay.trace.id))
        else:
            one = _with_counted(replay, own, checker)
        if chosen.hard:
            one = replace(one, labels=hardened(one.labels))
        graded.append(replace(one, prompt=reader.prompt(replay.problem)))
    return graded


def _with_stored(replay: Replay, grades: np.ndarray, stored: Labels | None) -> Graded:
    """With the labels of a file, which say what finished nodes are worth where there is no
    grade.
    """
    labels = stored or Labels(*np.zeros((2, len(grades))))
    open_ended = replay.trace.node_finished & np.isnan(grades)
    return Graded(replay, grades, np.where(open_ended, labels.soft, grades), labels)


def _with_counted(replay: Replay, grades: np.ndarray, checker: Checker | None) -> Graded:
    """With labels that are counted from outcomes. What a checker says, of finished nodes too,
    stands before them.
    """
    exact = np.full(len(grades), np.nan)
    if checker is not None:
        exact = replay.check(checker)
    checked = ~np.isnan(exact)
    outcomes = np.where(replay.trace.node_finished & checked, exact, grades)
    k, n = counts(replay.trace, outcomes)
    labels = Labels(np.where(checked, exact, k), np.where(checked, np.inf, n))
    return Graded(replay, grades, outcomes, labels)


def _parted(graded: Sequence[Graded], share: float) -> tuple[list[Graded], list[Graded]]:
    """Those to learn from, and those that are held out. Raises ValueError where none is left."""
    kept: list[Graded] = []
    held: list[Graded] = []
    for one in graded:
        (held if one.held else kept).append(one)
    if not kept:
        raise ValueError(
            "all problems are held out, and none is left to learn from: give a share below "
            f"{share}, or traces of more"
        )
    if share and not held:
        log.warning(
            "none of the problems is held out, so nothing is calibrated or judged: give a larger "
            "share, or traces of more problems"
        )
    return kept, held


def _count(graded: Sequence[Graded], keep: int) -> dict[str, Any]:
    """What `prepare` reports of the grades. Raises ValueError where there is none, or nothing is
    right.
    """
    problems: set[str] = set()
    with_grade: set[str] = set()
    solved: set[str] = set()
    kinds: set[str] = set()
    outcomes = right = solutions = finished = 0
    for one in graded:
        found = int((~np.isnan(one.outcomes)).sum())
        good = int((one.outcomes == 1.0).sum())
        kinds.add(one.trace.kind)
        problems.add(one.replay.key)
        if found:
            with_grade.add(one.replay.key)
        if good:
            solved.add(one.replay.key)
        outcomes += found
        right += good
        solutions += min(good, keep)
        finished += int(one.trace.node_finished.sum())
    if not outcomes:
        raise ValueError(
            f"no trace can be graded: {len(graded)} traces of {len(problems)} problems "
            f"with {finished} finished chains; give the "
            "targets of these problems, or let the search finish more chains"
        )
    if not right:
        raise ValueError(
            f"all {outcomes} graded chains of {len(with_grade)} problems are wrong: there is "
            "nothing right to learn from; search easier "
            "problems, with a larger budget, or check targets and answer pattern"
        )
    return {
        "traces": len(graded),
        "problems": len(problems),
        "graded": len(with_grade),
        "solved": len(solved),
        "outcomes": outcomes,
        "right": right,
        "solutions": solutions,
        "kinds": sorted(kinds),
    }


def _distilled(graded: Sequence[Graded], chosen: Distillation) -> list[list[Segment]]:
    """The examples of all traces, cut to `LONGEST`. Raises ValueError where there is none."""
    rngs = np.random.default_rng(chosen.seed).spawn(len(graded))
    keys = []
    whole = []
    for one, rng in zip(graded, rngs, strict=True):
        pairs: list[tuple[int, int]] = []
        if chosen.pairs is not None:
            pairs = pairs_of(
                one.trace, one.outcomes, one.labels, chosen.pairs, keep=chosen.keep, rng=rng
            )
        example = distill(
            one.trace,
            one.outcomes,
            one.prompt,
            policy=chosen.policy,
            keep=chosen.keep,
            rng=rng,
            labels=one.labels,
            every_token=chosen.every_token,
            pairs=pairs,
        )
        keys.append(one.replay.key)
        whole.append(example)
    examples: list[list[Segment]] = []
    for example in _even(keys, whole):
        if example:
            examples += split(example, LONGEST)
    if not examples:
        raise ValueError(
            f"no step of the {len(graded)} traces has a label, and nothing is imitated: label "
            "them, or choose another --policy"
        )
    if chosen.pairs is not None and not any(one.over for one in itertools.chain(*examples)):
        raise ValueError(
            f"no two {chosen.pairs.kind} of the {len(graded)} traces differ in what they are "
            "worth: search more, or ask for fewer visits and a smaller margin"
        )
    return examples


def _even(keys: Sequence[str], examples: Iterable[list[Segment]]) -> list[list[Segment]]:
    """The examples with their weights divided by how many of the same problem have some."""
    pairs = list(zip(keys, examples, strict=True))
    times = Counter[str]()
    for key, example in pairs:
        times[key] += any(segment.weight > 0 for segment in example)
    even: list[list[Segment]] = []
    for key, example in pairs:
        even.append([])
        for segment in example:
            weight = segment.weight / max(1, times[key])
            even[-1].append(segment._replace(weight=weight))
    return even
