"""Kinds of problem named by files: only problem classes that somebody allowed are made, and nothing
is imported for a name.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from command_cases import run, with_scripted_models

import guides
import search
from search import Trace
from search.kinds import build, kind_of
from search.problem import TextProblem
from search.problems.countdown import Countdown

OWN = """
from pathlib import Path
from search.problem import TextProblem

Path(__file__).with_suffix(".ran").touch()

class Riddle(TextProblem):
    pass

class Other:
    def __init__(self, **arguments):
        Path(__file__).with_suffix(".made").touch()

    def apply(self, state, step):
        return state
"""


def thinker():
    """A guide for open text."""
    return search.Guide(lambda text: ["because", "\\boxed{so}"])


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """The working folder, with a module `riddles` in it that leaves a file when it runs, and
    another when its class that is no problem is made.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("riddles", "antigravity", "multiprocessing.pool"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "riddles.py").write_text(OWN)
    yield tmp_path
    sys.modules.pop("riddles", None)


@pytest.fixture
def traces(tmp_path):
    """A folder with a trace whose kind is replaced: `traces(kind)`."""
    solved = search.solve("Why?", thinker(), "sample", "simulations=2")

    def stored(kind: str):
        Trace.save([replace(solved.trace, kind=kind)], tmp_path / "t" / "a.parquet")
        return tmp_path / "t"

    return stored


FOREIGN = ["riddles:Riddle", "riddles:Other", "multiprocessing.pool:Pool", "antigravity:x"]


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_of_problems_has_nothing_imported_and_nothing_made(
    capsys, beside, monkeypatch, kind
):
    with_scripted_models(monkeypatch)
    row = {"kind": kind, "problem": {"statement": "Why?"}}
    (beside / "p").write_text(json.dumps(row) + "\n")
    before = set(sys.modules)
    for command in (["solve"], ["bench", "--out", "b"]):
        code, out, err = run(capsys, *command, "--input", "p")
        assert code == 2 and out == "" and f"p, line 1: the kind '{kind}'" in err, err
        assert err.count("\n") == 1 and "--allow" in err
    assert not {"riddles", "antigravity", "multiprocessing.pool"} & (set(sys.modules) - before)
    assert not list(beside.glob("riddles.[rm]*"))


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_trace_has_nothing_imported_and_nothing_made(capsys, beside, traces, kind):
    folder = traces(kind)
    with pytest.raises(ValueError, match="--allow"):
        Trace.load(folder)[0].problem()
    sys.path.append(str(beside))
    with pytest.raises(ValueError, match="--allow"):
        Trace.load(folder)[0].states()
    assert run(capsys, "view", folder)[0] == 0
    assert not list(beside.glob("riddles.[rm]*"))


def test_what_is_allowed_is_solved_and_read_again(capsys, beside, monkeypatch, traces):
    with_scripted_models(monkeypatch)
    monkeypatch.setattr(guides, "load", lambda path, **options: thinker())
    row = {"kind": "riddles:Riddle", "problem": {"statement": "Why?"}}
    (beside / "p").write_text(json.dumps(row) + "\n")
    given = ["--input", "p", "--budget", "simulations=2", "--guide", "x"]
    code, out, err = run(capsys, "solve", *given, "--allow", "riddles")
    assert code in (0, 1) and len(out.splitlines()) == 1, err
    assert (beside / "riddles.ran").exists()
    assert kind_of(Trace.load(traces("riddles:Riddle"))[0].problem()) == "riddles:Riddle"
    with pytest.raises(ValueError, match="no problem class"):
        build("riddles:Other", {})
    assert not (beside / "riddles.made").exists()
    code, _, err = run(capsys, "solve", *given, "--allow", "no_riddles")
    assert code == 2 and "no_riddles" in err and err.count("\n") == 1


def test_classes_of_the_program_itself_are_there(traces):
    kind = f"{__name__}:Mine"
    assert kind_of(Trace.load(traces(kind))[0].problem()) == kind


class Mine(TextProblem):
    """A kind of this program's own."""


@pytest.mark.parametrize(
    "kind",
    [
        "builtins:eval", "os:system", "subprocess:Popen", "search.problem:Problem", "sys:x",
        "search.problem:", ":x", "x", "", "search.problems.none:None", "search.problem:boxed",
        "search.problems.countdown:Countdown.parse", "pathlib:Path", "__main__:x", "a..b:c",
    ],
)  # fmt: skip
def test_nothing_else_is_a_problem_class(kind):
    with pytest.raises(ValueError):
        build(kind, {"statement": "Why?"})


@pytest.mark.parametrize("arguments", [{}, {"numbers": 3}, [1], None, {"x": 1}, {"numbers": [[]]}])
def test_arguments_that_are_none_are_named(arguments):
    with pytest.raises(ValueError, match=r".+"):
        build("search.problems.countdown:Countdown", arguments)


def test_an_installed_package_brings_kinds(tmp_path):
    (tmp_path / "riddles.py").write_text(OWN)
    info = tmp_path / "riddles-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: riddles\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[copse.problems]\nriddles = riddles\n")
    code = f"""
        import sys
        sys.path.append({str(tmp_path)!r})
        from search.kinds import build
        print(build("riddles:Riddle", {{"statement": "Why?"}}))
    """
    lines = "\n".join(line.strip() for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    assert done.stdout == "TextProblem('Why?')\n", done.stderr


def test_ours_need_no_leave():
    arguments = Countdown((1, 2), 3).to_json()
    assert build("search.problems.countdown:Countdown", arguments) == Countdown((1, 2), 3)
