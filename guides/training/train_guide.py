"""From traces to a trained guide: examples are prepared (`guides.data.prepare`) and trained on
in a child process.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from guides.data.prepare import Distillation, prepare
from guides.data.streams import Streaming
from guides.engines import locate
from guides.policies.lm import MAX_STEPS, STEP_TOKENS
from guides.training.options import check_installed, fine_tuning
from guides.training.reference import check_reference
from guides.training.train import FULL, INTERRUPTED, JUDGED, MISUSE, REPORT
from guides.training.value_report import table_of
from guides.values.prm_formats import verdict_format
from models.checkpoints.checkpoint import check_settings, describe, resolve, version
from models.checkpoints.foreign import read_by
from models.checkpoints.head_layouts import LAYOUTS, architecture, head_layout
from search.child import command
from search.files.atomic import alone, atomic

log = logging.getLogger(f"copse.{__name__}")

LONGER = 2  #: a stream of a search has as many times the lines of the longest that was learnt


def train_guide(
    traces: str | Path,
    targets: Mapping[str, str],
    base: str | Path,
    out: str | Path,
    options: Mapping[str, Any] | None = None,
    *,
    held_out: float = 0.1,
    settings: Mapping[str, Any] | None = None,
    reference: str | Path | None = None,
    **choices: Any,
) -> Path:
    """Train `base` on traces into the checkpoint `out`, which `guides.load` takes; returns `out`.

    options   of `guides.training.options.Options`, over those of
              `guides.training.options.fine_tuning`
    held_out  share of the problems that is not trained on; on them the value head is calibrated and
              judged (`guides.training.value_report`), and the checkpoint gets `report.json` and, as
              "within" of its guide.json, the AUROC within a problem. 0: none
    settings  of the search, as `prepare` takes them, where the traces do not tell; they and what
              the traces tell stand in the new guide.json, so the next search needs no flags
    reference a checkpoint, whose log-probs preferences are measured by; None: the base's
    choices   what is learnt from the traces: policy, keep, seed, off_policy, checker, labels, hard,
              every_token, pairs and streams of `guides.data.distillation.Distillation`. A guide
              that learnt streams writes them: its guide.json says `stream`, and allows for more
              lines

    A run that was killed goes on when it is started again; one that is complete is left alone.
    Raises what `prepare` and `run_training` raise, and ValueError where `out` holds another run,
    and for a published reward model as base, which has made no trace.
    """
    out = Path(out)
    folder = resolve(locate(base))
    settings = dict(settings or {})
    check_settings({"format": 1, **settings}, "the settings of the new guide")
    if head_layout(folder) in LAYOUTS:
        raise ValueError(
            f"{base} is a reward model ({architecture(folder)}), which judges and does not "
            "write: give the model that made the traces"
        )
    options = {"seed": choices.get("seed", Distillation.seed), **(options or {})}
    wanted = fine_tuning(**options)
    judged = wanted.value_weight > 0
    chosen = Distillation(**choices, held_share=held_out, judged=judged)
    check_installed(wanted)
    if chosen.streams is not None:
        _judging(chosen.streams, folder, {**describe(folder), **settings})
    if chosen.pairs is not None and wanted.tune == "head":
        raise ValueError(
            "preferences train what the model writes, not its value head: choose to tune full or "
            "lora"
        )
    other = None
    if reference is not None:
        other = resolve(locate(reference))
        check_reference(other, folder)
    run = _run_of(traces, targets, folder, chosen, settings, options)
    if other is not None:
        run["reference"] = version(other)
    if out.exists() and out.samefile(folder):
        raise ValueError(
            f"{out} is the checkpoint to start from: choose another folder for the new one"
        )
    if _complete(out, run):
        return out
    work = out / "work"
    begun = (work / "config.json").exists()
    if not begun and out.exists() and any(path != work for path in out.iterdir()):
        raise ValueError(f"{out} holds something else: choose another folder for the new guide")
    with alone(work, f"another run is training into {out}: wait for its end"):
        # perhaps the other run has come to its end meanwhile
        if not _complete(out, run):
            _train(work, traces, targets, base, chosen, settings, options, run, other)
    if (out / JUDGED).exists():
        log.info("%s", table_of(json.loads((out / JUDGED).read_text())))
    return out


def _complete(out: Path, run: Mapping[str, Any]) -> bool:
    """Whether the guide is there already. Raises ValueError where it is of another run."""
    if not (out / REPORT).exists():
        return False
    _same_run(json.loads((out / REPORT).read_text()).get("data", {}).get("run"), run, out)
    log.info("%s is complete", out)
    return True


def _train(
    work: Path,
    traces: str | Path,
    targets: Mapping[str, str],
    base: str | Path,
    chosen: Distillation,
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
    run: Mapping[str, Any],
    reference: Path | None,
) -> None:
    """Prepare the examples in `work`, where they are not there yet, and train on them."""
    config = work / "config.json"
    if config.exists():
        _same_run(json.loads(config.read_text())["data"]["run"], run, work.parent)
    else:
        examples = work / "examples.npz"
        held = work / "held.npz"
        counted = prepare(
            traces,
            targets,
            base,
            examples,
            held_file=held,
            settings=settings,
            **asdict(chosen),
        )
        numbers = [f"{n} {name}" for name, n in counted.items() if isinstance(n, int)]
        log.info("examples: %s", ", ".join(numbers))
        folder = resolve(locate(base))
        guide = {**counted["language"], **settings}
        own = describe(folder)
        if own.get("kinds"):
            guide["kinds"] = sorted({*own["kinds"], *counted["kinds"]})
        if chosen.streams is not None:
            guide |= _judging(chosen.streams, folder, {**own, **guide})
        if chosen.streams is not None and chosen.streams.rules is not None:
            guide["stream"] = chosen.streams.rules
            before = {"max_steps": MAX_STEPS, "step_tokens": STEP_TOKENS, **own, **guide}
            needed = {
                "max_steps": LONGER * counted["lines"],
                "step_tokens": counted["line_tokens"],
            }
            for name, least in needed.items():
                if name not in settings:
                    guide[name] = max(before[name], least)
        content: dict[str, Any] = {
            "model": str(folder),
            "examples": [str(examples.resolve())],
            "out": str(work.parent.resolve()),
            "options": options,
            "guide": guide,
            "data": {"run": run, "counted": counted},
        }
        if reference is not None:
            content["reference"] = str(reference)
        if counted["held"]:
            content["held"] = str(held.resolve())
        _write(config, json.dumps(content, indent=2))
    run_training(config)


def _judging(streams: Streaming, folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the guide.json of a model says that learns critiques: how it judges. Else nothing.
    Raises ValueError for verdicts that its tokenizer does not tell apart.
    """
    if streams.rules is not None:
        return {}
    tokenizer = read_by(AutoTokenizer, folder)
    ending = settings.get("delimiter") or "\n\n"
    moves = streams.moves
    return {"prm": verdict_format(moves.say(True), moves.say(False), tokenizer, ending)}


def _run_of(
    traces: str | Path,
    targets: Mapping[str, str],
    folder: Path,
    chosen: Distillation,
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """All that the result of a run depends on, by which a start knows its own."""
    run = {
        "traces": str(traces),
        "targets": _digest(json.dumps(targets, sort_keys=True).encode()),
        "base": version(folder),
        **asdict(chosen),
        "settings": settings,
        "options": options,
    }
    if chosen.labels is not None:
        run["labels"] = str(chosen.labels)
        run["label_file"] = _digest(Path(chosen.labels).read_bytes())
    return run


def run_training(config: str | Path) -> None:
    """`python -m guides.training.train config.json` as a child process, which shows its progress on
    stderr and goes on where it stopped.

    Raises ValueError or OSError with the child's last line, ChildProcessError where there is
    none. The child ends with this process (`search.child`), and when this is interrupted.
    """
    paths = [str(Path(__file__).resolve().parent.parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    training = command("guides.training.train", str(config))
    with subprocess.Popen(training, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            message = child.stdout.read().strip().rpartition("\n")[2]
            code = child.wait()
        except BaseException:
            child.terminate()
            raise
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    # a library that cannot be loaded ends a process with such a code as well, and without a word
    if code == MISUSE and message:
        raise ValueError(message)
    if code == FULL and message:
        raise OSError(message)
    if code:
        how = "failed: see what it wrote above"
        if code < 0:
            how = f"was killed by signal {-code}, perhaps for want of memory: give a smaller batch"
        raise ChildProcessError(
            f"the training of {config} {how}; start again and it goes on from its last checkpoint"
        )


def _same_run(before: Any, now: Mapping[str, Any], out: Path) -> None:
    if before != json.loads(json.dumps(now)):
        raise ValueError(
            f"{out} holds a run with other traces, targets or options; remove it, or choose "
            "another --out"
        )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _write(path: Path, text: str) -> None:
    with atomic(path) as part:
        part.write_text(text)
