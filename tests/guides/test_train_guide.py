"""From traces to a trained guide, on the model and the problems of `letters`, step by step."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import letters  # noqa: E402
import tiny  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from guides.data.examples import ExampleFile  # noqa: E402
from guides.data.grading import key_of, read_targets  # noqa: E402
from guides.data.trace_tokens import TraceReader  # noqa: E402
from guides.training import train  # noqa: E402
from guides.training import train_guide as learn  # noqa: E402
from guides.training.train_guide import prepare, run_training, train_guide  # noqa: E402
from models.checkpoints.checkpoint import describe, save_model, version  # noqa: E402
from search.cli import main  # noqa: E402
from search.problem import TextProblem, TextStep  # noqa: E402
from search.trace import Trace  # noqa: E402

TRAINING = {"lr": 0.003, "epochs": 20, "precision": "float32"}


def nothing_is_right(problem: Any, state: Any) -> float:
    return 0.0


@pytest.mark.thorough
def test_prepare_counts_and_every_solved_problem_weighs_the_same(
    base: Path, file: Path, traces: Path, tmp_path: Path
) -> None:
    targets = read_targets(file)
    report = prepare(traces, targets, base, tmp_path / "e.npz", keep=2, settings=letters.SETTINGS)
    found = Trace.load(traces)
    right = [
        sum(
            t.steps[t.node_edge[n]].text.endswith(dict(letters.PROBLEMS)[t.arguments["statement"]])
            for n in np.flatnonzero(t.node_finished)
        )
        for t in found
    ]
    assert report["traces"] == report["problems"] == report["graded"] == 18 and report["kinds"] == [
        "search.problem:TextProblem"
    ]
    assert report["outcomes"] == sum(int(t.node_finished.sum()) for t in found) and report[
        "right"
    ] == sum(right)
    assert report["solved"] == sum(number > 0 for number in right) and report["solutions"] == sum(
        min(2, number) for number in right
    )
    rows = ExampleFile(tmp_path / "e.npz")
    assert len(rows) == report["examples"] == 18 and report["labels"] == int(
        np.sum(rows.counts > 0)
    )
    for i in range(len(rows)):
        part = slice(rows.segments[i], rows.segments[i + 1])
        assert rows.weights[part][rows.parents[part] == 0].sum() == pytest.approx(
            float(rows.weights[part].any())
        ), "the first steps"
    shutil.copytree(traces, tmp_path / "twice")
    again = [replace(trace, id=f"{i}") for i, trace in enumerate(found)]
    Trace.save(again, tmp_path / "twice" / "again.parquet")
    both = prepare(
        tmp_path / "twice", targets, base, tmp_path / "f.npz", keep=2, settings=letters.SETTINGS
    )
    assert both["problems"] == 18 and both["traces"] == 36
    total = [float(ExampleFile(tmp_path / name).weights.sum()) for name in ("e.npz", "f.npz")]
    assert total[1] == pytest.approx(total[0], rel=0.05), (
        "a problem that was searched twice weighs no more"
    )
    with pytest.raises(ValueError, match="are wrong"):
        prepare(
            traces,
            targets,
            base,
            tmp_path / "h.npz",
            keep=2,
            settings=letters.SETTINGS,
            checker=f"{__name__}:nothing_is_right",
        )
    prepare(traces, targets, base, tmp_path / "g.npz", keep=2, settings=letters.SETTINGS)
    assert (tmp_path / "g.npz").read_bytes() == (tmp_path / "e.npz").read_bytes(), (
        "the same seed gives the same examples"
    )


def changed(traces: Path, folder: Path, change: Any) -> Path:
    Trace.save([change(trace) for trace in Trace.load(traces)], folder / "changed" / "a.parquet")
    return folder / "changed"


def respelt(trace: Trace) -> Trace:
    return replace(
        trace,
        steps=tuple(
            TextStep(s.text, tuple(t + 1 for t in s.tokens), s.finish) for s in trace.steps
        ),
    )


def refused(
    traces: Path,
    targets: dict[str, str],
    base: Path,
    folder: Path,
    settings: Any = None,
    **options: Any,
) -> str:
    """What `prepare` says; it must have written nothing."""
    with pytest.raises(ValueError) as caught:
        prepare(
            traces,
            targets,
            base,
            folder / "e.npz",
            settings=letters.SETTINGS | (settings or {}),
            **options,
        )
    assert not (folder / "e.npz").exists()
    return str(caught.value)


def test_traces_say_how_their_model_was_asked(
    base: Path, file: Path, traces: Path, tmp_path: Path
) -> None:
    targets = read_targets(file)
    found = Trace.load(traces)
    assert all(trace.language == letters.SETTINGS for trace in found)
    report = prepare(traces, targets, base, tmp_path / "told.npz")
    assert report["language"] == letters.SETTINGS
    prepare(traces, targets, base, tmp_path / "given.npz", settings=letters.SETTINGS)
    assert (tmp_path / "told.npz").read_bytes() == (tmp_path / "given.npz").read_bytes()
    older = changed(traces, tmp_path, lambda trace: replace(trace, language={}))
    assert (
        prepare(older, targets, base, tmp_path / "older.npz", settings=letters.SETTINGS)["language"]
        == {}
    )


def test_traces_of_different_searches_are_refused_where_flags_do_not_decide(
    base: Path, file: Path, traces: Path, tmp_path: Path
) -> None:
    targets = read_targets(file)
    first = Trace.load(traces)[0].id

    def other(trace: Trace, **settings: Any) -> Trace:
        if trace.id != first:
            return trace
        return replace(trace, language={**trace.language, **settings})

    mixed = changed(traces, tmp_path, lambda trace: other(trace, delimiter="u", max_steps=9))
    with pytest.raises(ValueError, match="different settings .delimiter .*or say delimiter"):
        prepare(mixed, targets, base, tmp_path / "e.npz")
    report = prepare(mixed, targets, base, tmp_path / "e.npz", settings=letters.SETTINGS)
    assert "delimiter" not in report["language"] and "max_steps" not in report["language"]
    broken = changed(traces, tmp_path, lambda trace: replace(trace, language={"colour": "red"}))
    with pytest.raises(ValueError, match="what the traces say of their search: unknown setting"):
        prepare(broken, targets, base, tmp_path / "f.npz")


def test_what_nobody_can_learn_from_is_refused(
    base: Path, file: Path, traces: Path, tmp_path: Path
) -> None:
    targets = read_targets(file)
    (tmp_path / "none").mkdir()
    assert "no readable trace" in refused(tmp_path / "none", targets, base, tmp_path)
    foreign = changed(traces, tmp_path, respelt)
    said, first = refused(foreign, targets, base, tmp_path), Trace.load(foreign)[0]
    assert first.id in said and repr(first.steps[0].text) in said and "another tokenizer" in said
    assert "another tokenizer or delimiter" in refused(
        traces, targets, base, tmp_path, {"delimiter": "u"}
    )
    assert "another tokenizer" in refused(
        changed(
            traces,
            tmp_path,
            lambda t: replace(t, steps=tuple(replace(s, tokens=(), log_probs=()) for s in t.steps)),
        ),
        targets,
        base,
        tmp_path,
    )
    older = changed(traces, tmp_path, lambda trace: replace(trace, version="0123456789abcdef"))
    said = refused(older, targets, base, tmp_path)
    assert (
        "18 of 18 traces" in said
        and "0123456789abcdef" in said
        and version(base) in said
        and "--off-policy" in said
    )
    assert (
        prepare(
            older, targets, base, tmp_path / "off.npz", settings=letters.SETTINGS, off_policy=True
        )["traces"]
        == 18
    )
    said = refused(traces, {}, base, tmp_path)
    assert "no trace can be graded: 18 traces of 18 problems" in said and "give the targets" in said
    said = refused(traces, dict.fromkeys(targets, "z"), base, tmp_path)
    outcomes = sum(int(trace.node_finished.sum()) for trace in Trace.load(traces))
    assert f"all {outcomes} graded chains of 18 problems are wrong" in said
    assert "choose one of solutions" in refused(traces, targets, base, tmp_path, policy="worst")


def test_targets_without_a_trace_are_counted_and_named(
    base: Path, file: Path, traces: Path, tmp_path: Path, caplog: Any
) -> None:
    targets = read_targets(file) | {key_of(TextProblem(f"never {i}")): "a" for i in range(7)}
    prepare(traces, targets, base, tmp_path / "e.npz", settings=letters.SETTINGS)
    assert "7 of 25 targets are of problems that have no trace" in caplog.text
    assert "never 0" in caplog.text and "never 2" in caplog.text and "never 3" not in caplog.text


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in this process: starting another takes longer than the training."""
    monkeypatch.setattr(learn, "run_training", train.main)


@pytest.mark.thorough
@pytest.mark.usefixtures("at_once")
def test_kinds_grow_only_where_the_base_has_some(
    base: Path, file: Path, traces: Path, tmp_path: Path
) -> None:
    narrow = shutil.copytree(base, tmp_path / "narrow")
    (narrow / "guide.json").write_text(
        json.dumps({"format": 1, "kinds": ["my:Kind"], **letters.SETTINGS})
    )
    out = train_guide(
        traces,
        read_targets(file),
        narrow,
        tmp_path / "new",
        {"steps": 1},
        off_policy=True,
        held_out=0,
    )
    assert describe(out) == {
        "format": 1,
        "kinds": ["my:Kind", "search.problem:TextProblem"],
        "value_head": True,
        **letters.SETTINGS,
    }


@pytest.mark.thorough
@pytest.mark.usefixtures("at_once")
def test_a_finished_run_is_left_alone_and_another_refused(
    base: Path, file: Path, traces: Path, tmp_path: Path
) -> None:
    targets = read_targets(file)
    out = train_guide(
        traces, targets, base, tmp_path / "new", {"steps": 1}, settings=letters.SETTINGS
    )
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert train_guide(traces, targets, base, out, {"steps": 1}, settings=letters.SETTINGS) == out
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    for other in ({"steps": 2}, {"steps": 1, "tune": "head"}):
        with pytest.raises(ValueError, match="other traces, targets or options"):
            train_guide(traces, targets, base, out, other, settings=letters.SETTINGS)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    for wrong, said in (
        (base, "checkpoint to start from"),
        (tmp_path / "full", "holds something else"),
    ):
        with pytest.raises(ValueError, match=said):
            train_guide(traces, targets, base, wrong, {"steps": 1}, settings=letters.SETTINGS)


def test_a_verifier_is_named_as_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What imitated nothing is no model to solve with."""
    monkeypatch.setattr(learn, "train_guide", lambda *args, **options: args[3])
    for policy, said in (("none", "--guide mine --value new"), ("visits", "--guide new")):
        assert (
            main.main(
                [
                    "train",
                    "guide",
                    "--from",
                    "traces",
                    "--base",
                    "mine",
                    "--out",
                    "new",
                    "--policy",
                    policy,
                ]
            )
            == 0
        )
        assert f"copse solve {said} PROBLEM" in capsys.readouterr().out


def test_a_reward_model_of_others_is_no_base(
    base: Path, file: Path, traces: Path, tmp_path: Path
) -> None:
    """By its class, or by the name of a tensor, before anything is read or written."""
    for name in ("class", "tensor"):
        shutil.copytree(
            base, tmp_path / name, ignore=shutil.ignore_patterns("value_head*", "guide.json")
        )
    config = json.loads((tmp_path / "class" / "config.json").read_text()) | {
        "architectures": ["LlamaForTokenClassification"]
    }
    (tmp_path / "class" / "config.json").write_text(json.dumps(config))
    save_file(
        {"v_head.summary.weight": torch.zeros(1, 8)}, tmp_path / "tensor" / "head.safetensors"
    )
    for name in ("class", "tensor"):
        with pytest.raises(
            ValueError, match="is a reward model .* give the model that made the traces"
        ):
            train_guide(traces, read_targets(file), tmp_path / name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_bad_use_of_the_command_is_one_line(
    base: Path, file: Path, traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "guide", "--from", traces, "--base", base, "--out", tmp_path / "new"]
    bad = [
        ["--targets", tmp_path / "none"],
        ["--epochs", 0],
        ["--tune", "half"],
        ["--prompt", "no place"],
        ["--answer", "(a)(b)"],
        [],
    ]
    for more in bad:
        assert main.main([*map(str, command), *map(str, more)]) == 2, more
        said = capsys.readouterr().err
        assert said.startswith("copse: ") and said.count("\n") == 1, said
    assert not (tmp_path / "new").exists()


# -- the child process


def config(base: Path, folder: Path, **more: Any) -> Path:
    content = {
        "model": str(base),
        "examples": [str(folder / "e.npz")],
        "out": str(folder / "new"),
        "options": {"steps": 2},
        **more,
    }
    (folder / "config.json").write_text(json.dumps(content))
    return folder / "config.json"


@pytest.mark.slow
def test_the_child_s_error_is_ours(
    base: Path, file: Path, traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="e.npz holds no training examples"):
        run_training(config(base, tmp_path))
    prepare(traces, read_targets(file), base, tmp_path / "e.npz", settings=letters.SETTINGS)
    with pytest.raises(OSError, match="Not a directory"):
        run_training(config(base, tmp_path, out="/dev/full/new"))
    for program, said in (
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
        ("1/0", "failed"),
        ("import os; os._exit(2)", "failed: see what it wrote above"),
    ):
        (tmp_path / "python").write_text(
            f"#!/bin/sh\nexec {sys.executable} -c '{program}' 2>/dev/null\n"
        )
        (tmp_path / "python").chmod(0o755)
        with monkeypatch.context() as patched, pytest.raises(ChildProcessError, match=said):
            patched.setattr(sys, "executable", str(tmp_path / "python"))
            run_training(config(base, tmp_path))


@pytest.mark.slow
def test_a_killed_training_takes_its_child_along_and_goes_on(
    base: Path, file: Path, traces: Path, tmp_path: Path
) -> None:
    targets, options = read_targets(file), {**TRAINING, "steps": 60, "save_steps": 4}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(learn, "run_training", train.main)
        whole = train_guide(
            traces, targets, base, tmp_path / "whole", options, settings=letters.SETTINGS
        )
    program = (
        "from guides.training.train_guide import *; from guides.data.grading import *; from "
        "pathlib import Path; "
    )
    program += f"train_guide(Path({str(traces)!r}), "
    program += (
        f"read_targets({str(file)!r}), {str(base)!r}, {str(tmp_path / 'new')!r}, {options!r}, "
        f"settings={letters.SETTINGS!r})"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    )
    work = tmp_path / "new" / "work"
    while parent.poll() is None and not list(work.glob("checkpoint-*/complete")):
        time.sleep(0.02)
    (child,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 30
    while (
        Path(f"/proc/{child}/cmdline").exists()
        and Path(f"/proc/{child}/cmdline").read_bytes()
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    assert time.monotonic() < deadline, "the child goes on without its parent"
    kept = max(int(path.parent.name.split("-")[1]) for path in work.glob("checkpoint-*/complete"))
    assert 4 <= kept < 60
    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(learn, "prepare", lambda *a, **k: seen.append(1))
        patched.setattr(learn, "run_training", train.main)
        train_guide(traces, targets, base, tmp_path / "new", options, settings=letters.SETTINGS)
    assert not seen, "the examples were there"
    for name in ("model.safetensors", "value_head.safetensors"):
        assert (tmp_path / "new" / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.thorough
@pytest.mark.parametrize("merges", [(), (("a", "b"), ("u", "Ċ"))])
def test_traces_are_read_as_the_engine_wrote_them(
    merges: tuple[tuple[str, str], ...], tmp_path: Path
) -> None:
    """Steps that were cut off, ended by a stop inside a token or by the end of the text, and
    broken characters are all understood.
    """
    import guides
    import search as package

    folder = save_model(
        tmp_path / "m",
        tiny.model("qwen2", vocab=258 + len(merges), spread=0.5, max_position_embeddings=2048),
        tiny.tokenizer(merges),
    )
    guide = guides.load(folder, delimiter="\n", step_tokens=30, max_steps=4, temperature=3.0)
    solution = package.solve("What?", guide, "sample", "tokens=6000", chains=150)
    assert solution.trace is not None
    finishes = {solution.trace.steps[edge].finish for edge in solution.trace.node_edge[1:]}
    assert finishes >= {"stop", "length", "end"} and any(
        "\ufffd" in step.text for step in solution.trace.steps
    )
    known = TraceReader(folder, {"delimiter": "\n"})
    known.check(solution.trace)
    node = int(np.flatnonzero([len(step.text) > 3 for step in solution.trace.steps])[0])
    steps = list(solution.trace.steps)
    steps[node] = replace(steps[node], tokens=steps[node].tokens[:-1], log_probs=())
    with pytest.raises(ValueError, match="another tokenizer"):
        known.check(replace(solution.trace, steps=tuple(steps)))
