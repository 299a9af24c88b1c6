"""`copse solve | view | train` as people call them: what is printed, exit codes, and what bad
use gets.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys

import pytest
from command_cases import IMPOSSIBLE, PUZZLE, ROOT, run, with_scripted_models
from fakes import scripted_guide

import guides
import guides.loading
from search import Trace


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    return with_scripted_models(monkeypatch)


# -- solving one problem


@pytest.mark.thorough
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


@pytest.mark.thorough
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


@pytest.mark.thorough
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


@pytest.mark.thorough
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


# -- traces


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_a_damaged_shard_is_named_and_skipped(capsys, tmp_path):
    assert run(capsys, "solve", PUZZLE, "--traces", tmp_path, "--budget", "tokens=20000")[0] == 0
    whole = next(tmp_path.glob("*.parquet"))
    (tmp_path / "half.parquet").write_bytes(whole.read_bytes()[:500])
    code, out, err = run(capsys, "view", tmp_path)
    assert code == 0 and "trace 1 of 1" in out and "half.parquet" in err
    whole.unlink()
    assert run(capsys, "view", tmp_path)[0] == 2


@pytest.mark.thorough
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
    assert out == "", "a result counts as done, and its trace would be missing for ever"
    code, out, err = run(
        capsys, "solve", PUZZLE, "--traces", tmp_path / "t", "--budget", "tokens=20000"
    )
    assert code == 1 and "(verified)" in out and err.count("No space left") == 1
