"""From traces to a trained guide: grade, distil, and train in a child process.

What cannot be learnt from is refused before any training: traces without tokens or with those of another tokenizer, of another guide,
without a grade, and those where nothing was right. The last also where only a value head is trained: from failures alone it
would learn to say 0.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guides.distill import check, distill, split
from guides.examples import Segment, write_examples
from guides.grade import checked, checker_of, grade, key_of
from guides.loading import locate
from guides.reader import Reader
from guides.train import FULL, INTERRUPTED, MISUSE, REPORT, Options, check_installed
from models.checkpoint import check_settings, describe, resolve, version
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
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Grade and distil all traces of a folder into one file of examples; what was counted.

    targets     the target of each problem by its key (`guides.grade`); problems that verify themselves need none
    base        the checkpoint that is to be trained: its tokenizer and prompt made the traces
    policy, keep  as in `guides.distill`; a problem that was searched several times weighs as much as one that was searched once
    off_policy  take traces of another guide with the same tokenizer, too (ReST-EM trains the base again on samples of later guides)
    checker     "module:function" of a problem and a state that labels every state exactly (`guides.grade.Checker`)
    settings    prompt, delimiter and answer of the search where they were not those of the base's guide.json

    Returns {"traces", "problems", "graded", "solved" (problems each), "outcomes", "right" (finished nodes), "solutions" (right ones at
    most `keep` a trace), "examples", "tokens", "labels", "kinds"}. Raises ValueError, before anything is written, for traces that
    nothing can be learnt from.
    """
    check(policy, keep)
    judge = checker_of(checker)
    found = Trace.load(traces)
    if not found:
        raise ValueError(f"there is no readable trace in {traces}: give a folder that copse solve --traces wrote")
    folder = resolve(locate(base))
    known = describe(folder) | dict(settings or {})
    if not off_policy:
        _check_version(found, version(folder))
    reader = Reader(folder, known)
    for trace in found:
        reader.check(trace)
    _warn_of_unused(targets, found)

    outcomes = [grade(trace, targets.get(key_of(trace)), known.get("answer")) for trace in found]
    exact = [None if judge is None else checked(trace, judge) for trace in found]
    for trace, graded, labels in zip(found, outcomes, exact, strict=True):
        if labels is not None:
            np.copyto(graded, labels, where=trace.node_finished & ~np.isnan(labels))
    report = _count(found, outcomes, keep)
    examples, rng = [], np.random.default_rng(seed)
    for trace, graded, labels, child in zip(found, outcomes, exact, rng.spawn(len(found)), strict=True):
        examples.append(distill(trace, graded, reader.prompt(trace), policy=policy, keep=keep, rng=child, exact=labels))
    examples = [part for example in _even(found, examples) if example for part in split(example, LONGEST)]
    write_examples(out_file, examples, seed=seed)
    flat = [segment for example in examples for segment in example]
    labels = sum(segment.count > 0 for segment in flat)
    return report | {"examples": len(examples), "tokens": sum(len(s.tokens) for s in flat), "labels": labels}


def train_guide(
    traces: str | Path,
    targets: Mapping[str, str],
    base: str | Path,
    out: str | Path,
    options: Mapping[str, Any] | None = None,
    *,
    policy: str = "solutions",
    keep: int = 10,
    seed: int = 0,
    off_policy: bool = False,
    checker: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Train `base` on traces into the checkpoint `out`, which `guides.load` takes; returns `out`.

    options  of `guides.train.Options`, over those of `guides.train.fine_tuning`
    The others are those of `prepare`; `settings` stand in the new guide.json, so the next search needs no flags.

    A run that was killed goes on when it is started again; one that is complete is left alone. Raises what `prepare` and
    `run_training` raise, and ValueError where `out` holds another run.
    """
    out, folder, settings = Path(out), resolve(locate(base)), dict(settings or {})
    check_settings({"format": 1, **settings}, "the settings of the new guide")
    options = {"seed": seed, **(options or {})}
    check_installed(Options(**options))
    checker_of(checker)
    chosen = {"policy": policy, "keep": keep, "seed": seed, "off_policy": off_policy, "checker": checker}
    run = {"traces": str(traces), "targets": _digest(targets), "base": version(folder), **chosen, "settings": settings, "options": options}
    if out.exists() and out.samefile(folder):
        raise ValueError(f"{out} is the checkpoint to start from: choose another folder for the new one")
    if (out / REPORT).exists():
        _same_run(json.loads((out / REPORT).read_text()).get("data", {}).get("run"), run, out)
        log.info("%s is complete", out)
        return out
    work = out / "work"
    config, examples = work / "config.json", work / "examples.npz"
    if config.exists():
        _same_run(json.loads(config.read_text())["data"]["run"], run, out)
    elif out.exists() and any(path.name != "work" for path in out.iterdir()):
        raise ValueError(f"{out} holds something else: choose another folder for the new guide")
    else:
        counted = prepare(traces, targets, base, examples, **chosen, settings=settings)
        log.info("examples: %s", ", ".join(f"{count} {name}" for name, count in counted.items() if name != "kinds"))
        kinds = describe(folder).get("kinds")
        guide = settings | ({"kinds": sorted({*kinds, *counted["kinds"]})} if kinds else {})
        data = {"run": run, "counted": counted}
        content = {"model": str(folder), "examples": [str(examples.resolve())], "out": str(out.resolve())}
        _write(config, json.dumps(content | {"options": options, "guide": guide, "data": data}, indent=2))
    run_training(config)
    return out


def run_training(config: str | Path) -> None:
    """`python -m guides.train config.json` as a child process, which shows its progress on stderr and goes on where it stopped.

    Raises ValueError or OSError with what the child said, ChildProcessError where it ended without a word. The child ends with this
    process, at the end of its step, and at once when this is interrupted.
    """
    paths = [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "guides.train", str(config), str(os.getpid())]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            said = child.stdout.read().strip().rpartition("\n")[2]
            code = child.wait()
        except BaseException:
            child.terminate()
            raise
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code == MISUSE:
        raise ValueError(said)
    if code == FULL:
        raise OSError(said)
    if code:
        how = f"was killed by signal {-code}, perhaps for want of memory: give a smaller batch" if code < 0 else "failed: see what it said"
        raise ChildProcessError(f"the training of {config} {how}; start again and it goes on from its last checkpoint")


def _check_version(traces: Sequence[Trace], ours: str) -> None:
    others = Counter(trace.version for trace in traces if trace.version != ours)
    if others:
        theirs, _ = others.most_common(1)[0]
        raise ValueError(
            f"{others.total()} of {len(traces)} traces are of another guide ({theirs}) than the one to train ({ours}): give the guide that "
            "made them, or --off-policy to learn from them all the same"
        )


def _warn_of_unused(targets: Mapping[str, str], traces: Sequence[Trace]) -> None:
    there = {key_of(trace) for trace in traces}
    unused = [key for key in targets if key not in there]
    if unused:
        first = "; ".join(key.partition(" ")[2][:80] for key in unused[:NAMED])
        log.warning("%d of %d targets are of problems that have no trace, such as %s", len(unused), len(targets), first)


def _count(traces: Sequence[Trace], outcomes: Sequence[np.ndarray], keep: int) -> dict[str, Any]:
    """What `prepare` reports of the grades. Raises ValueError where there is none, or nothing is right."""
    keys = [key_of(trace) for trace in traces]
    right = [int((graded == 1.0).sum()) for graded in outcomes]
    count = int(sum((~np.isnan(graded)).sum() for graded in outcomes))
    report = {
        "traces": len(traces),
        "problems": len(set(keys)),
        "graded": len({key for key, graded in zip(keys, outcomes, strict=True) if not np.isnan(graded).all()}),
        "solved": len({key for key, number in zip(keys, right, strict=True) if number}),
        "outcomes": count,
        "right": sum(right),
        "solutions": sum(min(number, keep) for number in right),
        "kinds": sorted({trace.kind for trace in traces}),
    }
    finished = int(sum(trace.node_finished.sum() for trace in traces))
    if not count:
        raise ValueError(
            f"no trace can be graded: {len(traces)} traces of {report['problems']} problems with {finished} finished chains; give the "
            "targets of these problems, or let the search finish more chains"
        )
    if not report["right"]:
        raise ValueError(
            f"all {count} graded chains of {report['graded']} problems are wrong: there is nothing right to learn from; search easier "
            "problems, with a larger budget, or check targets and answer pattern"
        )
    return report


def _even(traces: Sequence[Trace], examples: Iterable[list[Segment]]) -> list[list[Segment]]:
    """The examples with their weights divided by how many of the same problem have some."""
    examples = list(examples)
    weighted = [any(segment.weight > 0 for segment in example) for example in examples]
    times = Counter(key_of(trace) for trace, has in zip(traces, weighted, strict=True) if has)
    return [
        [segment._replace(weight=segment.weight / max(1, times[key_of(trace)])) for segment in example]
        for trace, example in zip(traces, examples, strict=True)
    ]


def _same_run(before: Any, now: Mapping[str, Any], out: Path) -> None:
    if before != json.loads(json.dumps(now)):
        raise ValueError(f"{out} holds a run with other traces, targets or options; remove it, or choose another --out")


def _digest(targets: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(targets, sort_keys=True).encode()).hexdigest()[:16]


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    os.replace(part, path)
