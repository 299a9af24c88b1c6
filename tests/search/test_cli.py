"""`copse solve | view | train` as people call them: what is printed, exit codes, and what bad
use gets.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes import generated, scripted_guide

import guides
import guides.loading
from search import Trace
from search.cli.main import main

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = sorted(str(folder) for folder in (ROOT / "tests").iterdir() if folder.is_dir())
PUZZLE, IMPOSSIBLE = "Use 4, 7, 8 and 8 to make 24.", "Use 1 and 1 to make 24."
COUNTDOWN = "search.problems.countdown:Countdown"

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
    """Every checkpoint is the tests' scripted model; `loaded` lists what was asked for."""
    loaded = []

    def load(path, **options):
        loaded.append((path, options))
        return scripted_guide()

    monkeypatch.setattr(
        guides,
        "settings",
        lambda path: {"kinds": [COUNTDOWN]} if path == "builtin" else {},
        raising=False,
    )
    monkeypatch.setattr(guides, "load", load, raising=False)
    return loaded


def run(capsys, *args):
    code = main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return code, out, err


# -- solving one problem


def test_solve_prints_chain_answer_and_cost(capsys, scripted):
    code, out, err = run(capsys, "solve", PUZZLE, "--budget", "tokens=5000")
    lines = out.splitlines()
    assert code == 0 and err == ""
    assert all(re.fullmatch(r"\d+[-+*/]\d+=\d+", line) for line in lines[:3])
    assert (
        lines[3].startswith("answer: ")
        and lines[3].endswith("(verified)")
        and lines[4].startswith("cost: ")
    )
    assert scripted == [
        ("builtin", {"answer": None, "device": "auto", "dtype": "auto", "slots": 64})
    ]


def test_a_refuted_answer_and_none_at_all_exit_with_1(capsys):
    code, out, _ = run(capsys, "solve", IMPOSSIBLE)
    assert code == 1 and "(refuted)" in out
    code, out, _ = run(capsys, "solve", PUZZLE, "--budget", "tokens=1")
    assert code == 1 and "no answer" in out and "stopped: tokens" in out


def test_json_is_one_strict_object(capsys):
    code, out, _ = run(capsys, "solve", PUZZLE, "--json", "--budget", "tokens=5000", "--seed", 3)
    solution = json.loads(out)
    assert (
        code == 0
        and solution["problem"] == PUZZLE
        and solution["verified"] is True
        and solution["seed"] == 3
    )
    assert solution["usage"]["generated"] <= 5000 and solution["usage"]["mean_rows"] > 0
    assert solution["candidates"][0].keys() == {"answer", "share", "value"}
    code, out, _ = run(capsys, "solve", PUZZLE, "--json", "--budget", "tokens=1")
    solution = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert code == 1 and solution["answer"] is None and solution["usage"]["generated"] <= 1


def test_the_tree_marks_the_path_of_the_solution(capsys):
    code, out, _ = run(capsys, "solve", PUZZLE, "--tree", "--budget", "tokens=5000", "--width", 2)
    text, tree = out.split("start  ")
    assert code == 0
    assert re.findall(r"\* (\d\S+)", tree) == text.splitlines()[:3], (
        "the marked steps are the chain of thought"
    )
    assert "reward 1" in tree and "prior" in tree and "more step" in tree
    code, shallow, _ = run(
        capsys, "solve", PUZZLE, "--tree", "--budget", "tokens=5000", "--depth", 1
    )
    assert len(shallow.splitlines()) < len(out.splitlines()) and "deeper" in shallow


def test_flags_reach_the_search_and_the_guide(capsys, scripted, monkeypatch):
    seen = {}
    import search

    monkeypatch.setattr(
        search,
        "solve",
        lambda problem, guide, **arguments: (
            seen.update(arguments) or search.Solution(problem, answer="1")
        ),
    )
    flags = [
        "--method",
        "beam",
        "--option",
        "width=8",
        "--option",
        "branch=2",
        "--choose",
        "majority",
        "--seed",
        "5",
        "--budget",
        "calls=7",
    ]
    flags += [
        "--guide",
        "some/model",
        "--delimiter",
        r"\n",
        "--step-tokens",
        "9",
        "--max-steps",
        "3",
        "--temperature",
        "0.5",
    ]
    flags += ["--top-p", "0.9", "--instruction", r"Go.\nNow."]
    flags += [
        "--prompt",
        r"Q: {problem}\n",
        "--answer",
        "= (.*)",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--slots",
        "8",
    ]
    assert run(capsys, "solve", "What is 1?", *flags)[0] == 0
    assert seen == {
        "method": "beam", "width": 8, "branch": 2, "choose": "majority", "seed": 5,
        "budget": search.Budget(calls=7),
    }  # fmt: skip
    language = {
        "delimiter": "\n",
        "step_tokens": 9,
        "max_steps": 3,
        "temperature": 0.5,
        "prompt": "Q: {problem}\n",
        "answer": "= (.*)",
    }
    language |= {"top_p": 0.9, "instruction": "Go.\nNow."}
    assert scripted == [
        ("some/model", {**language, "device": "cpu", "dtype": "float32", "slots": 8})
    ]


def test_usage_and_the_size_of_the_pool(capsys, monkeypatch):
    monkeypatch.setattr(guides, "load", guides.loading.load)
    code, _, err = run(capsys, "solve", PUZZLE, "--usage", "--pool-tokens", "400")
    assert code == 0 and re.search(
        r"^policy: (\d+) tokens read for \1 stored ones \(ratio 1.00\), \d+ passes",
        err,
        re.MULTILINE,
    ), err
    code, _, err = run(capsys, "solve", PUZZLE, "--pool-tokens", "10")
    assert (
        code == 2
        and "and the context takes 10: shorten the problem" in err
        and "larger pool_tokens" in err
    )
    assert run(capsys, "solve", PUZZLE, "--pool-tokens", "0")[0] == 2


def test_a_judge_of_its_own(capsys, monkeypatch):
    whole, made = scripted_guide(), []
    monkeypatch.setattr(guides, "check_judge", lambda *given: made.append(given), raising=False)
    monkeypatch.setattr(
        guides,
        "LM",
        lambda path, **options: made.append((path, options)) or whole.policy,
        raising=False,
    )
    monkeypatch.setattr(
        guides,
        "PRM",
        lambda path, **options: made.append((path, options)) or whole.value,
        raising=False,
    )
    assert (
        run(
            capsys,
            "solve",
            PUZZLE,
            "--guide",
            "a",
            "--value",
            "b",
            "--max-steps",
            "9",
            "--budget",
            "tokens=5000",
        )[0]
        == 0
    )
    engine = {"device": "auto", "dtype": "auto", "slots": 64}
    assert made == [("b", None, None), ("a", {**engine, "max_steps": 9}), ("b", engine)]
    made.clear()
    flags = ["--value-format", "trl", "--aggregate", "min"]
    assert (
        run(
            capsys,
            "solve",
            PUZZLE,
            "--guide",
            "a",
            "--value",
            "b",
            *flags,
            "--budget",
            "tokens=5000",
        )[0]
        == 0
    )
    assert made == [
        ("b", "trl", "min"),
        ("a", engine),
        ("b", {**engine, "format": "trl", "aggregate": "min"}),
    ]


@pytest.mark.parametrize("method", ["mcts", "beam", "sample"])
def test_same_seed_same_output(capsys, method):
    outputs = {
        re.sub(
            r"[\d.]+ s,",
            "",
            run(capsys, "solve", PUZZLE, "--method", method, "--seed", 4, "--tree")[1],
        )
        for _ in range(2)
    }
    assert len(outputs) == 1


def test_a_method_beside_ones_files(capsys, tmp_path, monkeypatch):
    (tmp_path / "nearby.py").write_text("from search.methods.sample import sample as again\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert (
        run(
            capsys,
            "solve",
            PUZZLE,
            "--method",
            "nearby:again",
            "--option",
            "wave=16",
            "--budget",
            "tokens=20000",
        )[0]
        == 0
    )


def test_a_failed_search_says_why(capsys, monkeypatch):
    from search import RequestFailed

    def fail(request):
        raise RequestFailed("the server is away")

    monkeypatch.setattr(guides, "load", lambda path, **options: scripted_guide(fail))
    code, out, err = run(capsys, "solve", PUZZLE)
    assert code == 1 and "error: the server is away" in out and "Traceback" not in err
    code, out, _ = run(capsys, "solve", PUZZLE, "--json")
    assert code == 1 and json.loads(out)["error"] == "RequestFailed: the server is away"


# -- wrong use

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


# -- help, imports, versions


def test_help_names_the_default_budgets(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    code, out, _ = run(capsys, "solve", "--help")
    assert code == 0
    for part in (
        "tokens=2000,seconds=120",
        "tokens=20000,seconds=120",
        "--traces",
        "--step-tokens",
    ):
        assert part in out, part
    from search.guide import Guide

    assert str(Guide(scripted_guide().policy).budget) == "tokens=20000,seconds=120"
    recipe = json.loads((ROOT / "models" / "builtin" / "recipe.json").read_text())
    assert recipe["guide"]["budget"] == {"tokens": 2000, "seconds": 120}
    assert run(capsys)[0] == 0 and run(capsys, "--version")[1].startswith("copse ")


@pytest.mark.parametrize(
    "statement",
    [
        "import search",
        "from search.cli.main import main; main(['--help'])",
        "from search.cli.main import main; main(['solve', '--help'])",
    ],
)
def test_nothing_heavy_is_loaded(statement):
    code = (
        f"import sys; {statement}; print([m for m in ('torch', 'transformers', 'numba', "
        "'pyarrow', 'sympy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_folder_of_the_users_with_our_name_stands_beside_ours(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").touch()
    code = (
        f"import sys; sys.path.append({str(ROOT)!r}); import search.cli.main; "
        f"sys.exit(search.cli.main.main(['solve', {PUZZLE!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "(verified)" in done.stdout, done.stderr


# -- traces


def test_traces_are_stored_and_viewed(capsys, tmp_path):
    for seed in (1, 2):
        assert (
            run(
                capsys,
                "solve",
                PUZZLE,
                "--traces",
                tmp_path,
                "--seed",
                seed,
                "--budget",
                "tokens=20000",
            )[0]
            == 0
        )
    assert run(capsys, "solve", IMPOSSIBLE, "--traces", tmp_path)[0] == 1
    code, out, err = run(capsys, "view", tmp_path)
    assert (
        code == 0
        and err == ""
        and out.startswith("trace 1 of 3: ")
        and "* best path" in out
        and "visit" in out
    )
    code, out, _ = run(capsys, "view", tmp_path, "--problem", "4, 7", "--depth", 1, "--width", 1)
    assert code == 0 and "deeper" in out
    code, out, _ = run(capsys, "view", tmp_path, "--problem", "1 and 1")
    assert code == 0 and IMPOSSIBLE in out and "reward 0" in out
    code, out, err = run(capsys, "view", tmp_path, "--problem", 4)
    assert code == 2 and out == "" and "from 1 to 3" in err
    assert run(capsys, "view", tmp_path, "--problem", "make 99")[0] == 2


def test_a_damaged_shard_is_named_and_skipped(capsys, tmp_path):
    assert run(capsys, "solve", PUZZLE, "--traces", tmp_path, "--budget", "tokens=20000")[0] == 0
    whole = next(tmp_path.glob("*.parquet"))
    (tmp_path / "half.parquet").write_bytes(whole.read_bytes()[:500])
    code, out, err = run(capsys, "view", tmp_path)
    assert code == 0 and "trace 1 of 1" in out and "half.parquet" in err
    whole.unlink()
    assert run(capsys, "view", tmp_path)[0] == 2


def test_a_full_disk_ends_in_one_error_and_exit_1(capsys, tmp_path, monkeypatch):
    def full(traces, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Trace, "save", staticmethod(full))
    problems = tmp_path / "p.jsonl"
    problems.write_text("".join(json.dumps({"problem": PUZZLE}) + "\n" for _ in range(3)))
    code, out, err = run(
        capsys, "solve", "--input", problems, "--traces", tmp_path / "t", "--budget", "tokens=20000"
    )
    assert code == 1 and err.count("No space left") == 1 and "Traceback" not in err
    assert [json.loads(line)["verified"] for line in out.splitlines()] == [True] * 3, (
        "the searches go on"
    )
    code, out, err = run(
        capsys, "solve", PUZZLE, "--traces", tmp_path / "t", "--budget", "tokens=20000"
    )
    assert code == 1 and "(verified)" in out and err.count("No space left") == 1


# -- interruption, in processes


SLOW = """
import pathlib, time

async def slow(search):
    search.tree.visit(0, 0.5)
    pathlib.Path("begun").touch()
    while not search.over:
        time.sleep(0.01)
"""


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
