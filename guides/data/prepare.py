"""From traces to examples: grade, label, hold out and distil.

What cannot be learnt from is refused before any training: traces without tokens or with those of
another tokenizer, of another guide, without a grade, and those where nothing was right. The last
also where only a value head is trained: from failures alone it would learn to say 0.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guides.data.distill import check, counts, distill, split
from guides.data.examples import Segment, write_examples
from guides.data.grading import Checker, checked, checker_of, grade, key_of
from guides.data.holdout import held_of, held_out
from guides.data.labels import Labels, hardened, read_labels
from guides.data.trace_tokens import Reader
from guides.engines import locate
from models.checkpoints.checkpoint import describe, resolve, version
from search.trace import Trace

log = logging.getLogger(__name__)

LONGEST = 512  #: tokens of an example, whose pass takes memory with their square
NAMED = 3  #: of many problems or steps, so many are named in a message


def prepare(
    traces: str | Path,
    targets: Mapping[str, str],
    base: str | Path,
    out_file: str | Path,
    *,
    policy: str = "solutions",
    keep: int = 10,
    seed: int = 0,
    off_policy: bool = False,
    checker: str | None = None,
    labels: str | Path | None = None,
    hard: bool = False,
    every_token: bool = False,
    held_file: str | Path | None = None,
    held_share: float = 0.0,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Grade and distil all traces of a folder into one file of examples; what was counted.

    targets     the target of each problem by its key (`guides.data.grading`); problems that verify
                themselves need none
    base        the checkpoint that is to be trained: its tokenizer and prompt made the traces
    every_token, policy, keep   as in `guides.data.distill`; a problem that was searched several
                                times weighs as much as one that was
                searched once
    off_policy  take traces of another guide with the same tokenizer, too (ReST-EM trains the base
                again on samples of later guides)
    checker     "module:function" of a problem and a state that labels every state exactly
                (`guides.data.grading.Checker`)
    labels      a label file (`guides.data.labels`), whose labels alone are learnt; not beside a
                checker
    hard        labels are 0 or 1: is any outcome at or below right?
    held_file   where the chains of the `held_share` of the problems that is held out go
                (`guides.data.holdout`), which are in no example
    settings    prompt, delimiter and answer of the search where they were not those of the base's
                guide.json

    Returns {"traces", "problems", "graded", "solved" (problems each), "outcomes", "right" (finished
    nodes), "solutions" (right ones at most `keep` a trace), "examples", "tokens", "labels",
    "kinds"}. Raises ValueError, before anything is written, for traces that nothing can be learnt
    from.
    """
    check(policy, keep)
    judge = checker_of(checker)
    check_sources(checker, labels, held_share)
    folder = resolve(locate(base))
    known = describe(folder) | dict(settings or {})
    found, reader = _read(traces, folder, known, off_policy)
    _warn_of_unused(targets, found)

    answered = [grade(trace, targets.get(key_of(trace)), known.get("answer")) for trace in found]
    outcomes, learnt = _labels(
        found, answered, judge, None if labels is None else read_labels(labels, found)
    )
    if hard:
        learnt = [hardened(label) for label in learnt]
    prompts = [reader.prompt(trace) for trace in found]
    away = held_out(found, held_share)
    held = [i for i, trace in enumerate(found) if trace.id in away]
    kept = [i for i, trace in enumerate(found) if trace.id not in away]
    if not kept:
        raise ValueError(
            "all problems are held out, and none is left to learn from: give a share below "
            f"{held_share}, or traces of more"
        )
    if held_share and not held:
        log.warning(
            "none of the problems is held out, so nothing is calibrated or judged: give a larger "
            "share, or traces of more problems"
        )

    report = _count([found[i] for i in kept], [outcomes[i] for i in kept], keep)
    report["held"] = len({key_of(found[i]) for i in held})
    examples = [
        distill(
            found[i],
            outcomes[i],
            prompts[i],
            policy=policy,
            keep=keep,
            rng=child,
            labels=learnt[i],
            every_token=every_token,
        )
        for i, child in zip(kept, np.random.default_rng(seed).spawn(len(kept)), strict=True)
    ]
    examples = [
        part
        for example in _even([found[i] for i in kept], examples)
        if example
        for part in split(example, LONGEST)
    ]
    if not examples:
        raise ValueError(
            f"no step of the {len(kept)} traces has a label, and nothing is imitated: label "
            "them, or choose another --policy"
        )
    write_examples(out_file, examples, seed=seed)
    if held and held_file is not None:
        # an answer counts, where it can be graded
        right = [np.where(np.isnan(answered[i]), outcomes[i], answered[i]) for i in held]
        told = held_of(
            [found[i] for i in held],
            right,
            [learnt[i] for i in held],
            [prompts[i] for i in held],
            known.get("answer"),
        )
        told.save(Path(held_file))
    flat = [segment for example in examples for segment in example]
    return report | {
        "examples": len(examples),
        "tokens": sum(len(segment.tokens) for segment in flat),
        "labels": sum(segment.count > 0 for segment in flat),
    }


def check_sources(checker: str | None, labels: str | Path | None, held_share: float) -> None:
    """Raises ValueError for two sources of labels, a file that is not there, and a share that is
    none.
    """
    if checker is not None and labels is not None:
        raise ValueError(
            "labels come from a checker or from a file, not from both: leave one of them out"
        )
    if labels is not None and not Path(labels).is_file():
        raise ValueError(f"there is no label file {labels}: give the one that copse label wrote")
    if not 0 <= held_share < 1:
        raise ValueError(
            f"held out is a share of the problems in [0, 1), not {held_share}: give 0.1, or 0 "
            "for none"
        )


def _read(
    traces: str | Path, folder: Path, known: Mapping[str, Any], off_policy: bool
) -> tuple[list[Trace], Reader]:
    """All traces of a folder, and who can read them. Raises ValueError where there is none, or
    one that the checkpoint did not make.
    """
    found = Trace.load(traces)
    if not found:
        raise ValueError(
            f"there is no readable trace in {traces}: give a folder that copse solve --traces wrote"
        )
    if not off_policy:
        _check_version(found, version(folder))
    reader = Reader(folder, known)
    for trace in found:
        reader.check(trace)
    return found, reader


def _labels(
    traces: Sequence[Trace],
    answered: Sequence[np.ndarray],
    judge: Checker | None,
    told: Mapping[str, Labels] | None,
) -> tuple[list[np.ndarray], list[Labels]]:
    """Outcomes and labels of each trace, from the one source that there is. Of finished nodes a
    checker's word stands before the grade, what a label file says where there is no grade.
    """
    outcomes, labels = [], []
    for trace, graded in zip(traces, answered, strict=True):
        if told is not None:
            label = told.get(trace.id) or Labels(*np.zeros((2, len(graded))))
            outcome = np.where(trace.node_finished & np.isnan(graded), label.soft, graded)
        else:
            exact = np.full(len(graded), np.nan) if judge is None else checked(trace, judge)
            known = ~np.isnan(exact)
            outcome = np.where(trace.node_finished & known, exact, graded)
            k, n = counts(trace, outcome)
            label = Labels(np.where(known, exact, k), np.where(known, np.inf, n))
        outcomes.append(outcome)
        labels.append(label)
    return outcomes, labels


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


def _warn_of_unused(targets: Mapping[str, str], traces: Sequence[Trace]) -> None:
    there = {key_of(trace) for trace in traces}
    unused = [key for key in targets if key not in there]
    if unused:
        first = "; ".join(key.partition(" ")[2][:80] for key in unused[:NAMED])
        log.warning(
            "%d of %d targets are of problems that have no trace, such as %s",
            len(unused),
            len(targets),
            first,
        )


def _count(traces: Sequence[Trace], outcomes: Sequence[np.ndarray], keep: int) -> dict[str, Any]:
    """What `prepare` reports of the grades. Raises ValueError where there is none, or nothing is
    right.
    """
    keys = [key_of(trace) for trace in traces]
    right = [int((graded == 1.0).sum()) for graded in outcomes]
    count = int(sum((~np.isnan(graded)).sum() for graded in outcomes))
    report = {
        "traces": len(traces),
        "problems": len(set(keys)),
        "graded": len(
            {key for key, graded in zip(keys, outcomes, strict=True) if not np.isnan(graded).all()}
        ),
        "solved": len({key for key, number in zip(keys, right, strict=True) if number}),
        "outcomes": count,
        "right": sum(right),
        "solutions": sum(min(number, keep) for number in right),
        "kinds": sorted({trace.kind for trace in traces}),
    }
    finished = int(sum(trace.node_finished.sum() for trace in traces))
    if not count:
        raise ValueError(
            f"no trace can be graded: {len(traces)} traces of {report['problems']} problems "
            f"with {finished} finished chains; give the "
            "targets of these problems, or let the search finish more chains"
        )
    if not report["right"]:
        raise ValueError(
            f"all {count} graded chains of {report['graded']} problems are wrong: there is "
            "nothing right to learn from; search easier "
            "problems, with a larger budget, or check targets and answer pattern"
        )
    return report


def _even(traces: Sequence[Trace], examples: Iterable[list[Segment]]) -> list[list[Segment]]:
    """The examples with their weights divided by how many of the same problem have some."""
    examples = list(examples)
    weighted = [any(segment.weight > 0 for segment in example) for example in examples]
    times = Counter(key_of(trace) for trace, has in zip(traces, weighted, strict=True) if has)
    return [
        [
            segment._replace(weight=segment.weight / max(1, times[key_of(trace)]))
            for segment in example
        ]
        for trace, example in zip(traces, examples, strict=True)
    ]
