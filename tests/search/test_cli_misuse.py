"""Wrong use of `copse solve`, help, and interruptions."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from command_cases import PUZZLE, ROOT, run, with_scripted_models
from fakes import generated, scripted_guide

import guides
import guides.loading
from search import Trace

FOLDERS = sorted(str(folder) for folder in (ROOT / "tests").iterdir() if folder.is_dir())


#: `copse` in a process of its own, with the tests' scripted model for every checkpoint
RUN = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, *{FOLDERS!r}]
import guides
from fakes import scripted_guide
guides.settings, guides.load = (lambda path: {{}}), (lambda path, **options: scripted_guide())
from search.cli.main import main
sys.exit(main())
"""


def copse(*args, **options):
    return [sys.executable, "-c", RUN, *map(str, args)]


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    return with_scripted_models(monkeypatch)


BAD = {
    "nothing": [],
    "two problems": [PUZZLE, "--input", "p.jsonl"],
    "output alone": [PUZZLE, "--output", "o.jsonl"],
    "tree and json": [PUZZLE, "--tree", "--json"],
    "depth alone": [PUZZLE, "--depth", "3"],
    "unknown flag": [PUZZLE, "--tokens", "3"],
    "malformed puzzle": ["Use 4 and to make 24"],
    "empty problem": [" "],
    "unknown kind for the model": ["What is 1 + 1?"],
    "impossible budget": [PUZZLE, "--budget", "tokens=0"],
    "unreadable budget": [PUZZLE, "--budget", "2000"],
    "unknown method": [PUZZLE, "--method", "astar"],
    "method that is not there": [PUZZLE, "--method", "no_such_module:method"],
    "unknown option": [PUZZLE, "--option", "brunch=3"],
    "option without value": [PUZZLE, "--option", "branch"],
    "option twice": [PUZZLE, "--option", "branch=3", "--option", "branch=4"],
    "option of no number": [PUZZLE, "--option", "branch=many"],
    "option that is a flag": [PUZZLE, "--option", "seed=3"],
    "unknown chooser": [PUZZLE, "--choose", "worst"],
    "negative seed": [PUZZLE, "--seed", "-1"],
    "no slots": [PUZZLE, "--slots", "0"],
    "prompt without a place": [PUZZLE, "--prompt", "Solve it."],
    "a system turn without a chat": [PUZZLE, "--prompt", "{problem}", "--system", "Be kind."],
    "too much of the probability": [PUZZLE, "--top-p", "1.5"],
    "none of the probability": [PUZZLE, "--top-p", "0"],
    "answer without a group": [PUZZLE, "--guide", "x", "--answer", "x = 1"],
    "broken answer": [PUZZLE, "--guide", "x", "--answer", "("],
    "missing problems file": ["--input", "/no/such/file.jsonl"],
    "traces in a file": [PUZZLE, "--traces", __file__],
    "a format of nothing": [PUZZLE, "--value-format", "trl"],
    "unknown format": [PUZZLE, "--value", "builtin", "--value-format", "openr"],
    "unknown aggregation": [PUZZLE, "--aggregate", "max"],
    "aggregation of no head": [
        PUZZLE,
        "--guide",
        "x",
        "--server",
        "http://localhost:1/v1",
        "--aggregate",
        "min",
    ],
}


# -- wrong use


@pytest.mark.parametrize("args", BAD.values(), ids=BAD.keys())
def test_wrong_use_is_told_in_one_line_before_anything_is_loaded(capsys, scripted, args):
    code, out, err = run(capsys, "solve", *args)
    assert code == 2 and out == "" and not scripted
    assert err.startswith("copse: ") and err.count("\n") == 1, err
    assert re.search(r"[:;] |, or | (give|write|use|try|name|see|choose) ", err), (
        f"what to do is missing: {err}"
    )


def test_a_missing_checkpoint(capsys, monkeypatch):
    monkeypatch.undo()
    code, out, err = run(capsys, "solve", PUZZLE, "--guide", "/no/such/folder")
    assert code == 2 and out == "" and "/no/such/folder" in err and err.count("\n") == 1
    code, out, err = run(capsys, "solve", PUZZLE, "--guide", str(ROOT / "tests"))
    assert code == 2 and "tests" in err and err.count("\n") == 1


def test_wrong_use_of_the_other_commands(capsys, tmp_path):
    for args in (
        ["view", tmp_path / "none"],
        ["view", tmp_path],
        ["view"],
        ["sing"],
        ["train", "builtin"],
        ["train", "guide"],
        ["train"],
    ):
        code, out, err = run(capsys, *args)
        assert code == 2 and out == "" and err.startswith("copse: ") and err.count("\n") == 1, err


def test_train_builtin_hands_its_flags_over(capsys, monkeypatch, tmp_path):
    import types

    calls = []
    fake = types.SimpleNamespace(
        train_builtin=lambda **arguments: calls.append(arguments) or arguments["out"]
    )
    monkeypatch.setattr(
        "search.cli.train.import_ours", lambda name: {"guides.builtin.train": fake}[name]
    )
    code, out, _ = run(
        capsys, "train", "builtin", "--size", "full", "--out", tmp_path / "m", "--seed", 4
    )
    assert code == 0 and str(tmp_path / "m") in out
    assert (
        run(
            capsys,
            "train",
            "builtin",
            "--out",
            tmp_path / "n",
            "--stage",
            "words",
            "--base",
            "builtin",
        )[0]
        == 0
    )
    assert calls == [
        {"size": "full", "out": tmp_path / "m", "seed": 4, "stage": None, "base": None},
        {"size": "small", "out": tmp_path / "n", "seed": None, "stage": "words", "base": "builtin"},
    ]


def test_train_guide_hands_its_flags_over(capsys, monkeypatch, tmp_path):
    import types

    calls = []

    def train_guide(*given, **named):
        *paths, options = given
        calls.append(
            (
                (*paths, {name: option for name, option in options.items() if option is not None}),
                named,
            )
        )
        return given[3]

    learn = types.SimpleNamespace(train_guide=train_guide)
    grade = types.SimpleNamespace(read_targets=lambda path: {"key": path.name})
    monkeypatch.setattr(
        "search.cli.train.import_ours",
        lambda name: {"guides.training.train_guide": learn, "guides.data.grading": grade}[name],
    )
    needed = ["train", "guide", "--from", tmp_path / "t", "--base", "b", "--out", tmp_path / "g"]
    training = {"tune": "full", "optimizer": "adamw", "batch": 8, "accumulation": 1}
    assert run(capsys, *needed)[0] == 0
    distilling = {
        "policy": "solutions",
        "keep": 10,
        "checker": None,
        "seed": 0,
        "off_policy": False,
        "settings": {},
    }
    distilling |= {"labels": None, "hard": False, "every_token": False, "held_out": 0.1}
    assert calls.pop() == ((tmp_path / "t", {}, "b", tmp_path / "g", training), distilling)
    more = [
        "--targets",
        "p.jsonl",
        "--tune",
        "lora",
        "--lr",
        "0.5",
        "--steps",
        7,
        "--policy",
        "visits",
        "--off-policy",
        "--delimiter",
        r"\n",
        "--seed",
        3,
        "--checker",
        "math:sin",
        "--value-weight",
        0.25,
    ]
    assert run(capsys, *needed, *more)[0] == 0
    training |= {"tune": "lora", "lr": 0.5, "steps": 7, "value_weight": 0.25}
    distilling |= {
        "policy": "visits",
        "checker": "math:sin",
        "seed": 3,
        "off_policy": True,
        "settings": {"delimiter": "\n"},
    }
    assert calls.pop() == (
        (tmp_path / "t", {"key": "p.jsonl"}, "b", tmp_path / "g", training),
        distilling,
    )


def test_train_iterate_hands_its_flags_over(capsys, monkeypatch, tmp_path):
    import guides.iteration.expert_iteration as iteration

    calls = []
    monkeypatch.setattr(
        iteration,
        "expert_iteration",
        lambda *given, **named: calls.append((given, named)) or given[3],
    )
    file = tmp_path / "p.jsonl"
    file.write_text('{"problem": "Use 1, 2 and 3 to make 6."}\n')
    needed = [
        "train",
        "iterate",
        "--guide",
        "builtin",
        "--input",
        file,
        "--rounds",
        2,
        "--out",
        tmp_path / "run",
    ]
    assert run(capsys, *needed)[0] == 0
    plan = calls.pop()[1]["plan"]
    assert plan.checker is None and "value_weight" not in plan.training
    asked = ["--system", "Be kind.", "--instruction", "Go.", "--top-p", 0.5]
    assert (
        run(
            capsys,
            *needed,
            *asked,
            "--checker",
            "math:sin",
            "--value-weight",
            0.25,
            "--per-round",
            5,
            "--option",
            "chains=4",
        )[0]
        == 0
    )
    (guide, jobs, targets, out), named = calls.pop()
    assert (guide, len(jobs), targets, out, named["rounds"], named["gate"]) == (
        "builtin",
        1,
        {},
        tmp_path / "run",
        2,
        None,
    )
    plan = named["plan"]
    assert (plan.checker, plan.per_round, plan.options, plan.training["value_weight"]) == (
        "math:sin",
        5,
        {"chains": 4},
        0.25,
    )
    assert plan.language == {"system": "Be kind.", "instruction": "Go.", "top_p": 0.5}
    assert plan.settings == {"system": "Be kind.", "instruction": "Go."}, (
        "what the next model is told, too"
    )


SLOW = """
import pathlib, time

async def slow(search):
    search.tree.visit(0, 0.5)
    pathlib.Path("begun").touch()
    while not search.over:
        time.sleep(0.01)
"""


# -- interruption, in processes


@pytest.mark.thorough
def test_ctrl_c_gives_back_what_there_is(tmp_path):
    (tmp_path / "own.py").write_text(SLOW)
    args = copse("solve", PUZZLE, "--method", "own:slow", "--traces", tmp_path / "t", "--verbose")
    process = subprocess.Popen(
        args, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while not (tmp_path / "begun").exists() and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "stopped: interrupted" in out and "Traceback" not in err
    assert len(Trace.load(tmp_path / "t")) == 1


@pytest.mark.thorough
def test_a_closed_pipe_is_no_crash(tmp_path):
    command = (
        " ".join(
            f"'{part}'" if part != RUN else '"$RUN"' for part in copse("solve", PUZZLE, "--tree")
        )
        + " | head -n 1"
    )
    done = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        env={**os.environ, "RUN": RUN},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr, done.stderr


def test_a_model_that_writes_control_characters(capsys, monkeypatch):
    monkeypatch.setattr(
        guides,
        "load",
        lambda path, **options: scripted_guide(
            lambda r: (
                generated("\x1b[31mred \ud800", limit=r.max_tokens) if hasattr(r, "stop") else None
            ),
            value=False,
        ),
    )
    code, out, _ = run(
        capsys, "solve", "Say something.", "--guide", "x", "--tree", "--budget", "tokens=200"
    )
    text, tree = out.split("start  ")
    assert code == 1 and "\x1b" not in out and "red" in text and "red" in tree
