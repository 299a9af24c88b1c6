"""Controls of expert iteration and the two axes of a run, on folders that are planted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sweep_cases import QUESTIONS, ask

from benchmarks.learning import axes, controls
from benchmarks.sweep import plan, plot
from benchmarks.tasks import UNSEEN
from guides.builtin.train import build_tokenizer, read_recipe
from search.problems import parse
from search.problems.countdown import Countdown

ACCEPTED = (True, True, False, True)
TOKENS = (0, 500, 700, 900)


def planted(folder: Path) -> Path:
    """A run of three rounds, the second of which was rejected."""
    lines = ["round,total_flops"]
    for number, (accepted, tokens) in enumerate(zip(ACCEPTED, TOKENS, strict=True)):
        place = folder / f"round-{number:02d}"
        (place / "checkpoint").mkdir(parents=True)
        (place / "gate.json").write_text(json.dumps({"accepted": accepted}))
        (place / "checkpoint" / "training.json").write_text(
            json.dumps({"tokens": tokens, "flops": 1e9 if number == 0 else 7.0})
        )
        (place / "training.json").write_text(
            json.dumps({"options": {"batch": 8, "epochs": 2.0, "lr": 1e-3 * number}})
        )
        lines.append(f"{number},{(number + 1) * 1e8}")
    (folder / "rounds.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_what_accepted_rounds_read_is_counted(tmp_path):
    run = planted(tmp_path / "run")
    assert controls.accepted(run) == [(n, run / f"round-{n:02d}" / "checkpoint") for n in (0, 1, 3)]
    assert controls.spent(run) == (1400, {"batch": 8, "epochs": 2.0, "lr": 3e-3})
    with pytest.raises(ValueError, match="no finished round"):
        controls.accepted(tmp_path / "nothing")


@pytest.mark.slow
def test_fresh_paths_are_as_long_as_asked_and_of_all_kinds():
    tokenizer = build_tokenizer(
        **read_recipe()["tokenizer"], more=read_recipe()["stages"][-1]["words"]
    )
    found = controls.fresh_paths(tokenizer, 150_000)
    count = sum(len(segment.tokens) for example in found for segment in example)
    assert 145_000 < count < 155_000
    problems = [parse(tokenizer.decode(example[0].tokens).strip()) for example in found]
    puzzles = [problem for problem in problems if isinstance(problem, Countdown)]
    shares = {
        name.rpartition(".")[2]: source["share"]
        for name, source in read_recipe()["stages"][-1]["data"].items()
    }
    assert len(puzzles) / len(found) == pytest.approx(shares["countdown_data"], abs=0.05)
    assert not {puzzle.target for puzzle in puzzles} & UNSEEN and all(
        p.split() == "train" for p in problems
    )
    only = controls.fresh_paths(tokenizer, 30_000, "countdown")
    assert all(
        isinstance(parse(tokenizer.decode(example[0].tokens).strip()), Countdown)
        for example in only
    )
    with pytest.raises(ValueError, match="no stage 'none': choose one of countdown, both"):
        controls.fresh_paths(tokenizer, 1000, "none")


def test_the_control_trains_once_through_its_paths_with_the_options_of_the_run(
    tmp_path, monkeypatch
):
    made = []
    monkeypatch.setattr(
        controls,
        "fresh_paths",
        lambda tokenizer, tokens, stage=None: made.append(tokens) or [[((1, 2), 1.0, 1.0, -1)]] * 4,
    )
    monkeypatch.setattr(
        controls, "run_training", lambda config: made.append(json.loads(Path(config).read_text()))
    )
    monkeypatch.setattr(
        controls,
        "AutoTokenizer",
        type("Fake", (), {"from_pretrained": staticmethod(lambda path: None)}),
    )
    monkeypatch.setattr(controls, "resolve", lambda path: path)
    for _ in range(2):  # the second time the paths are there
        assert (
            controls.train_on_paths(
                tmp_path / "start", 77, {"batch": 2, "steps": 9, "lr": 0.1}, tmp_path / "out"
            )
            == tmp_path / "out"
        )
    tokens, first, second = made
    assert (
        tokens == 77
        and first == second
        and first["options"] == {"batch": 2, "lr": 0.1, "epochs": 1.0}
    )
    assert (
        first["examples"] == [str(tmp_path / "out" / "paths.npz")]
        and (tmp_path / "out" / "paths.npz").exists()
    )


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--tokens", "0"], "makes no path"),
        (["--tokens", "9", "--stage", "none"], "no stage 'none'"),
        (["--tokens-of", "run", "--stage", "both"], "--stage goes with --tokens"),
        (["--tokens-of", "run"], "no finished round"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        controls,
        "AutoTokenizer",
        type("Fake", (), {"from_pretrained": staticmethod(lambda path: None)}),
    )
    monkeypatch.setattr("sys.argv", ["controls", "start", *arguments, "--out", "out"])
    with pytest.raises(SystemExit, match="2"):
        controls.main()
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.thorough
def test_a_run_has_two_axes_and_rejected_rounds_count(tmp_path, monkeypatch):
    run = planted(tmp_path / "run")
    first = tmp_path / "first"
    first.mkdir()
    (first / "training.json").write_text('{"flops": 5e8}')
    found = axes.checkpoints(run, [f"first={first}"])
    assert [(name, flops) for name, _, flops in found] == [
        ("first", 5e8),
        ("start", 1e9),
        ("round 1", 1.2e9),
        ("round 3", 1.4e9),
    ]
    monkeypatch.setattr(axes.guides, "load", lambda folder, **policy: ask(**policy))
    (one,) = plan.read_runs(["mcts"], QUESTIONS)
    assert axes.measure(
        found, QUESTIONS, one, plan.read_budgets("tokens=60,200"), 1, tmp_path / "axes"
    )
    read = plot.read_checkpoints(tmp_path / "axes" / "checkpoints.csv", "mcts")
    assert [(c.name, c.flops, len(c.rows)) for c in read] == [
        (name, flops, 16) for name, _, flops in found
    ]
    assert len(plot.axes(read, tmp_path / "axes.png").splitlines()) == 2 + 4
    with pytest.raises(ValueError, match="does not say what the checkpoint cost"):
        axes.checkpoints(run, [f"none={tmp_path}"])
