"""From traces to examples: grade, label, hold out and distil.

What cannot be learnt from is refused before any training: traces without tokens or with those of
another tokenizer, of another guide, without a grade, and those where nothing was right. The last
also where only a value head is trained: from failures alone it would learn to say 0.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from guides.data.distill import counts, may_be_imitated
from guides.data.distillation import Distillation, distilled, imitated, streamed
from guides.data.examples import Segment, write_examples
from guides.data.grading import Checker, Graded, Replay, checker_of, searched
from guides.data.holdout import held_of, hold_out
from guides.data.labels import Labels, hardened, read_labels
from guides.data.trace_rewards import Rewards, Sources, rewards_of
from guides.data.trace_tokens import TraceReader
from guides.engines import locate
from models.checkpoints.checkpoint import describe, resolve, version
from models.checkpoints.settings import check_settings
from search.trace import Trace

log = logging.getLogger(f"copse.{__name__}")

NAMED = 3  #: of many problems or steps, so many are named in a message
#: settings of a search without which its traces cannot be read
READ_BY = ("delimiter", "prompt", "instruction", "system", "answer")


def prepare(
    traces: str | Path,
    targets: Mapping[str, str],
    base: str | Path,
    out_file: str | Path,
    *,
    held_file: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    earlier: Sequence[str | Path] = (),
    hinted: Sequence[str | Path] = (),
    **choices: Any,
) -> dict[str, Any]:
    """Grade and distil all traces of a folder into one file of examples; what was counted.

    targets     the target of each problem by its key (`guides.data.grading`); problems that verify
                themselves need none
    base        the checkpoint that is to be trained: its tokenizer and prompt made the traces
    out_file    of the first threshold; those of the others are `numbered` after it. There is none
                of a threshold that leaves the chains of the one before, or no chain
    held_file   where the chains of the problems go that are held out
    settings    prompt, delimiter and answer of the search; what is not given is as the traces say
                they were made, else as the base's guide.json says
    earlier     folders with traces of earlier rounds, by whatever guide: learnt from, not counted
    hinted      folders with traces of searches whose prompts held the target: imitated as if they
                had not, and never labelled
    choices     the fields of `Distillation`

    Returns {"traces", "problems", "graded", "solved" (problems each), "outcomes", "right" (finished
    nodes), "solutions" (right ones at most `keep` a trace), "rationalised" (problems that are
    solved in `hinted` alone), "verdicts" (`guides.data.trace_rewards.Rewards`), "kinds", "language"
    (settings that the traces say), "held" (problems), "examples", "tokens", "labels", "pairs",
    "lines" and "line_tokens" (of the longest stream and the longest line, where streams are made),
    "improve" (threshold and imitated chains of each file)}. Raises ValueError, before anything is
    written, for traces that nothing can be learnt from.
    """
    chosen = Distillation(**choices)
    folder = resolve(locate(base))
    found = _read(traces, folder, chosen.off_policy)
    language = language_of(found, settings or {})
    guide = describe(folder) | language | dict(settings or {})
    reader = TraceReader(folder, guide)
    if chosen.streams is not None:
        _check_plain(found)
    replays = _replays(found, reader, guide)
    before = []
    for place in earlier:
        before.append(_replays(Trace.load(place), reader, guide))
    _warn_of_unused(targets, [*replays, *itertools.chain.from_iterable(before)])
    own, verdicts = _graded(replays, targets, reader, chosen)
    graded = hold_out(own, chosen.held_share)
    kept, held = _parted(graded, chosen.held_share)
    others: list[Graded] = []
    for part in before:  # of a round each, whose samples vote among themselves
        others += _graded(part, targets, reader, chosen)[0]
    told = []
    for place in hinted:
        told += _unlabelled(_replays(Trace.load(place), reader, guide), targets, reader, chosen)
    others = _free(hold_out([*others, *told], chosen.held_share))

    report = _count(kept, others, chosen)
    report["rationalised"] = _rationalised(kept, told)
    report |= {"verdicts": verdicts, "language": language}
    report["held"] = len({one.replay.key for one in held})
    kept += others
    improve: list[dict[str, Any]] = []
    before_this: list[list[int]] = []
    for threshold in chosen.steps:
        ends = imitated(kept, chosen, threshold)
        if before_this and (ends == before_this or not any(ends)):
            continue
        before_this = ends
        if chosen.streams is not None:
            examples = streamed(kept, chosen.streams, chosen.seed, reader.encode, reader.turn)
            report["lines"] = max(map(len, examples)) - 1
            report["line_tokens"] = _longest_line(examples)
        else:
            examples = distilled(kept, chosen, ends)
        write_examples(numbered(out_file, len(improve) + 1), examples, seed=chosen.seed)
        improve.append({"threshold": threshold, "chains": sum(map(len, ends))})
        if len(improve) == 1:
            report |= _sizes(examples)
    report["improve"] = improve
    if held and held_file is not None:
        held_of(held).save(Path(held_file))
    return report


def numbered(out_file: str | Path, number: int) -> Path:
    """The file of examples of the threshold with this number, from 1 on."""
    path = Path(out_file)
    return path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def language_of(traces: Sequence[Trace], settings: Mapping[str, Any]) -> dict[str, Any]:
    """How a search asked its model, as all traces say; what they do not agree on is left out.
    Raises ValueError for what must be known to read them, where `settings` do not say it.
    """
    language = dict(traces[0].language)
    for trace in traces:
        for name in {**language, **trace.language}:
            first = traces[0].language.get(name)
            other = trace.language.get(name)
            if first == other:
                continue
            if name in READ_BY and name not in settings:
                raise ValueError(
                    f"the traces were made with different settings ({name} {first!r} and "
                    f"{other!r}): give traces of one search, or say {name} yourself"
                )
            language.pop(name, None)
    check_settings({"format": 1, **language}, "what the traces say of their search")
    return language


def _longest_line(examples: Sequence[Sequence[Segment]]) -> int:
    """Tokens of the longest segment that is no prompt."""
    lines = itertools.chain.from_iterable(example[1:] for example in examples)
    return max(len(line.tokens) for line in lines)


def _sizes(examples: Sequence[Sequence[Segment]]) -> dict[str, int]:
    sizes = {"examples": len(examples), "tokens": 0, "labels": 0, "pairs": 0}
    for segment in itertools.chain.from_iterable(examples):
        sizes["tokens"] += len(segment.tokens)
        sizes["labels"] += segment.outcomes > 0
        sizes["pairs"] += len(segment.over)
    return sizes


def _check_plain(traces: Sequence[Trace]) -> None:
    """Raises ValueError for a trace whose chains hold moves already."""
    for trace in traces:
        if (trace.kind, trace.arguments) != searched(trace):
            raise ValueError(
                f"the trace {trace.id} is of a stream, whose chains go back and try again already: "
                "make streams of traces of a model that writes plain chains, or imitate these as "
                "they are (copse train guide)"
            )


def _replays(
    traces: Sequence[Trace], reader: TraceReader, guide: Mapping[str, Any]
) -> list[Replay]:
    """Traces with their problems. Raises ValueError for tokens that the checkpoint reads in
    another way.
    """
    for trace in traces:
        reader.check(trace)
    return [Replay(trace, guide.get("answer")) for trace in traces]


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
) -> tuple[list[Graded], dict[str, int]]:
    """Traces with outcomes and labels of their nodes, the labels from the one source that there
    is; and how many finished nodes have each verdict.
    """
    checker = checker_of(chosen.checker)
    stored = None
    if chosen.labels is not None:
        stored = read_labels(chosen.labels, [replay.trace for replay in replays])
    rewards = _rewards(replays, targets, chosen)
    graded = []
    for replay, own in zip(replays, rewards.outcomes, strict=True):
        if stored is not None:
            one = _with_stored(replay, own, stored.get(replay.trace.id))
        else:
            one = _with_counted(replay, own, checker)
        if chosen.hard:
            one = replace(one, labels=hardened(one.labels))
        graded.append(replace(one, prompt=reader.prompt(replay.problem)))
    return graded, rewards.verdicts


def _rewards(
    replays: Sequence[Replay], targets: Mapping[str, str], chosen: Distillation
) -> Rewards:
    sources = Sources(targets, chosen.verifier, chosen.seed)
    return rewards_of(replays, chosen.reward, sources)


def _unlabelled(
    replays: Sequence[Replay],
    targets: Mapping[str, str],
    reader: TraceReader,
    chosen: Distillation,
) -> list[Graded]:
    """Traces of searches that were told the target: what they found is right or wrong as ever, but
    how often says nothing of the problem, and the log-probs are not those without the hint.
    """
    graded = []
    outcomes = _rewards(replays, targets, chosen).outcomes
    for replay, own in zip(replays, outcomes, strict=True):
        steps = tuple(replace(step, log_probs=()) for step in replay.trace.steps)
        replay.trace = replace(replay.trace, steps=steps)
        none = Labels(*np.zeros((2, len(own))))
        graded.append(Graded(replay, own, own, none, reader.prompt(replay.problem)))
    return graded


def _rationalised(kept: Sequence[Graded], told: Sequence[Graded]) -> int:
    """Problems with a right chain among those that were told the target, and with none before."""
    return len(_solved(told) - _solved(kept))


def _solved(graded: Sequence[Graded]) -> set[str]:
    """The keys of the problems that have a right chain."""
    return {one.replay.key for one in graded if (one.outcomes == 1.0).any()}


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


def _free(graded: Sequence[Graded]) -> list[Graded]:
    """Those whose problems are not held out."""
    kept = []
    for one in graded:
        if not one.held:
            kept.append(one)
    return kept


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


def _count(
    graded: Sequence[Graded], others: Sequence[Graded], chosen: Distillation
) -> dict[str, Any]:
    """What `prepare` reports of the grades. Raises ValueError where there is none, or nothing that
    is right, or good enough, in these or in `others`.
    """
    problems: set[str] = set()
    with_grade: set[str] = set()
    solved: set[str] = set()
    kinds: set[str] = set()
    outcomes = right = solutions = finished = 0
    for one in graded:
        found = int((~np.isnan(one.outcomes)).sum())
        good = int((one.outcomes == 1.0).sum())
        kinds.add(searched(one.trace)[0])
        problems.add(one.replay.key)
        if found:
            with_grade.add(one.replay.key)
        if good:
            solved.add(one.replay.key)
        outcomes += found
        right += good
        solutions += min(good, chosen.keep)
        finished += int(one.trace.node_finished.sum())
    if not outcomes and not others:
        raise ValueError(
            f"no trace can be graded: {len(graded)} traces of {len(problems)} problems "
            f"with {finished} finished chains; give the "
            "targets of these problems, or let the search finish more chains"
        )
    lowest = chosen.steps[0] if chosen.policy != "none" else 1.0
    if not any(_good(one, chosen, lowest).any() for one in [*graded, *others]):
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


def _good(one: Graded, chosen: Distillation, threshold: float) -> np.ndarray:
    """bool [nodes]: graded chains that are good enough to learn from."""
    if chosen.policy == "best":
        return may_be_imitated(one.trace, one.outcomes, "best", threshold)
    return may_be_imitated(one.trace, one.outcomes, "solutions", threshold)
