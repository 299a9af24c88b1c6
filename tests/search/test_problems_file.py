"""Files of problems: what is refused and how it is named, what is written and when, and what a
restart makes of it.
"""

from __future__ import annotations

import errno
import json
import math
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from fakes import scripted_guide

import guides
import search
from search import Trace
from search.cli.main import main
from search.files.problems_file import Results, plain, read_jobs

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = sorted(str(folder) for folder in (ROOT / "tests").iterdir() if folder.is_dir())
PUZZLE, IMPOSSIBLE = "Use 4, 7, 8 and 8 to make 24.", "Use 1 and 1 to make 24."


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    """Every checkpoint is the tests' scripted model; `loaded` counts how often one was asked
    for.
    """
    loaded = []
    monkeypatch.setattr(guides, "settings", lambda path: {}, raising=False)
    monkeypatch.setattr(
        guides,
        "load",
        lambda path, **options: loaded.append(path) or scripted_guide(),
        raising=False,
    )
    return loaded


def run(capsys, *args):
    code = main(["solve", *map(str, args)])
    out, err = capsys.readouterr()
    return code, out, err


def written(path, *rows):
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    )
    return path


def results(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- reading


def test_ids_kinds_and_blank_lines(tmp_path):
    path = written(
        tmp_path / "p", {"problem": PUZZLE, "target": "(7+8-... )", "note": [1]}, "",
        {"id": 9, "problem": "What is 1 + 1?"},
        {"id": "k", "kind": "countdown", "problem": {"numbers": [1, 2], "target": 3}},
        {"kind": "countdown", "problem": PUZZLE},
        {"id": "c", "kind": "search.problem:TextProblem", "problem": {"statement": "Why?"}},
    )  # fmt: skip
    jobs = read_jobs(path)
    assert [job.id for job in jobs] == ["1", 9, "k", "5", "c"]
    prompts = [job.problem.prompt(job.problem.initial()) for job in jobs]
    assert prompts == [PUZZLE, "What is 1 + 1?", "Use 1 and 2 to make 3.", PUZZLE, "Why?"]
    path.write_bytes(
        b"\xef\xbb\xbf"
        + b'{"problem": "with a mark"}\r\n{"problem": "without a last line end\xe2\x80\xa8"}'
    )
    assert len(read_jobs(path)) == 2


BAD_LINES = {
    "no JSON": "{'problem': 'x'}",
    "half a line": '{"problem": "x',
    "no object": "[1]",
    "text": '"Use 1 and 2 to make 3."',
    "nested": "[" * 100_000,
    "no problem": '{"id": "a"}',
    "no text": '{"problem": 24}',
    "empty problem": '{"problem": " "}',
    "object without kind": '{"problem": {"numbers": [1, 2], "target": 3}}',
    "malformed puzzle": '{"problem": "Use 4 and to make 24"}',
    "id of a list": '{"id": [1], "problem": "x"}',
    "id of true": '{"id": true, "problem": "x"}',
    "empty id": '{"id": "", "problem": "x"}',
    "the same id": '{"id": "first", "problem": "x"}',
    "unknown kind": '{"kind": "riddle", "problem": "x"}',
    "unknown kind of an object": '{"kind": "riddle", "problem": {}}',
    "kind of a number": '{"kind": 3, "problem": {}}',
    "kind that is a path": '{"kind": "../x", "problem": {}}',
    "not of its kind": '{"kind": "countdown", "problem": "What is 1 + 1?"}',
    "wrong arguments": '{"kind": "countdown", "problem": {"letters": "abc"}}',
    "impossible arguments": '{"kind": "countdown", "problem": {"numbers": [1], "target": 3}}',
    "arguments of another type": '{"kind": "countdown", "problem": {"numbers": 5, "target": 3}}',
    "class that is not there": '{"kind": "search.problem:Riddle", "problem": {}}',
    "module that is not there": '{"kind": "no_such_module:Riddle", "problem": {}}',
    "a function": '{"kind": "os:system", "problem": {"command": "exit 1"}}',
    "a class that is no problem": '{"kind": "subprocess:Popen", "problem": {"args": "true"}}',
    "text for a class": '{"kind": "search.problem:TextProblem", "problem": "x"}',
    "half a character": '{"problem": "what is \\ud83d?"}',
    "half a character in an id": '{"id": "\\ude00", "problem": "x"}',
    "half a character in an object": (
        '{"kind": "search.problem:TextProblem", "problem": {"statement": ["\\ud83d"]}}'
    ),
    "not UTF-8": b'{"problem": "\xff"}',
}


@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_is_named_before_anything_is_loaded(capsys, tmp_path, scripted, bad):
    path, output = tmp_path / "p.jsonl", tmp_path / "o.jsonl"
    path.write_bytes(
        b'{"id": "first", "problem": "x"}\n\n'
        + (bad if isinstance(bad, bytes) else bad.encode())
        + b"\n"
    )
    code, out, err = run(capsys, "--input", path, "--output", output)
    assert code == 2 and out == "" and not scripted and not output.exists()
    assert f"{path}, line 3: " in err, err
    assert err.count("\n") == 1 and "Traceback" not in err


def test_ids_given_twice_name_both_lines(tmp_path):
    path = written(
        tmp_path / "p",
        {"id": "a", "problem": "x"},
        {"id": "b", "problem": "x"},
        {"id": "a", "problem": "y"},
    )
    with pytest.raises(ValueError, match="line 3: the id 'a' is that of line 1"):
        read_jobs(path)
    with pytest.raises(ValueError, match="line 2: the id '2' is that of line 1"):
        read_jobs(written(path, {"id": 2, "problem": "x"}, {"problem": "y"}))


def test_an_empty_file_and_a_folder(capsys, tmp_path):
    assert run(capsys, "--input", written(tmp_path / "p", ""))[0] == 2
    assert run(capsys, "--input", tmp_path)[0] == 2


def test_a_kind_that_the_model_does_not_know(capsys, tmp_path, monkeypatch, scripted):
    monkeypatch.setattr(
        guides, "settings", lambda path: {"kinds": ["search.problems.countdown:Countdown"]}
    )
    code, _, err = run(
        capsys,
        "--input",
        written(tmp_path / "p", {"problem": PUZZLE}, {"problem": "What is 1 + 1?"}),
    )
    assert code == 2 and "line 2: " in err and "--guide" in err and not scripted


# -- writing


@pytest.mark.thorough
def test_results_of_a_file(capsys, tmp_path):
    path = written(
        tmp_path / "p",
        {"id": "a", "problem": PUZZLE, "target": "SECRET"},
        {"id": 2, "problem": IMPOSSIBLE},
    )
    code, out, err = run(
        capsys,
        "--input",
        path,
        "--output",
        tmp_path / "new" / "o",
        "--traces",
        tmp_path / "t",
        "--budget",
        "tokens=20000",
    )
    assert code == 1 and out == "" and "1 of 2 problems answered" in err
    rows = {row["id"]: row for row in results(tmp_path / "new" / "o")}
    assert rows.keys() == {"a", 2}
    assert rows["a"].keys() == {
        "id",
        "answer",
        "verified",
        "votes",
        "chains",
        "value",
        "text",
        "stopped",
        "usage",
        "error",
        "crc32",
    }
    assert (
        rows["a"]["verified"] is True
        and rows[2]["verified"] is False
        and rows[2]["stopped"] == "exhausted"
    )
    assert len(Trace.load(tmp_path / "t")) == 2
    for file in tmp_path.rglob("*"):
        assert file == path or file.is_dir() or b"SECRET" not in file.read_bytes()
    assert all(
        "SECRET" not in repr(trace) + repr(trace.arguments) for trace in Trace.load(tmp_path / "t")
    )


@pytest.mark.thorough
def test_stdout_without_output(capsys, tmp_path):
    path = written(tmp_path / "p", {"problem": PUZZLE}, {"problem": PUZZLE})
    code, out, _ = run(capsys, "--input", path, "--budget", "tokens=20000", "--json")
    assert code == 0 and [json.loads(line)["id"] for line in out.splitlines()] in (
        ["1", "2"],
        ["2", "1"],
    )


def test_nan_is_null(tmp_path):
    import numpy as np

    assert plain({"a": math.nan, "b": [math.inf, 1.5], "c": (np.float32("nan"), np.int64(3)),
    4: "x"}) == {
        "a": None, "b": [None, 1.5], "c": [None, 3], "4": "x",
    }  # fmt: skip
    out = Results(tmp_path / "o")
    out.write("a", search.Solution(None, error=ValueError("no\nthing")))
    out.close()
    assert (
        results(tmp_path / "o")[0]["value"] is None
        and results(tmp_path / "o")[0]["error"] == "ValueError: no\nthing"
    )


@pytest.mark.thorough
def test_a_restart_does_only_what_is_missing(capsys, tmp_path, scripted):
    path, output = (
        written(tmp_path / "p", *({"id": i, "problem": PUZZLE} for i in range(4))),
        tmp_path / "o",
    )
    assert run(capsys, "--input", path, "--output", output, "--budget", "tokens=20000")[0] == 0
    whole = output.read_text().splitlines(keepends=True)
    output.write_text(whole[0] + whole[1] + whole[2][:40])
    assert run(capsys, "--input", path, "--output", output, "--budget", "tokens=20000")[0] == 0
    again = output.read_text().splitlines(keepends=True)
    assert again[:2] == whole[:2] and sorted(row["id"] for row in results(output)) == [0, 1, 2, 3]
    assert len(scripted) == 2
    before = output.read_bytes()
    code, out, err = run(capsys, "--input", path, "--output", output)
    assert code == 0 and output.read_bytes() == before and len(scripted) == 2, (
        "nothing to do: no model is loaded"
    )
    assert "4 of 4 problems answered, 4 had been searched before" in err


@pytest.mark.thorough
def test_every_line_has_random_numbers_of_its_own_whichever_others_are_there(capsys, tmp_path):
    """With those of one seed for all, similar problems would get similar chains."""
    lines = [{"id": name, "problem": PUZZLE} for name in "abc"]
    together, alone = tmp_path / "t", tmp_path / "a"
    for rows, folder in ((lines, together), (lines[1:2], alone)):
        run(
            capsys,
            "--input",
            written(tmp_path / "p", *rows),
            "--output",
            tmp_path / f"{folder.name}.out",
            "--traces",
            folder,
        )
    trees = {
        trace.seed: [(step.text, step.tokens) for step in trace.steps[1:] if step]
        for trace in Trace.load(together)
    }
    (lonely,) = Trace.load(alone)
    assert len(trees) == 3 and len({repr(steps) for steps in trees.values()}) == 3
    assert trees[lonely.seed] == [(step.text, step.tokens) for step in lonely.steps[1:] if step]


@pytest.mark.thorough
def test_the_exit_code_counts_earlier_results(capsys, tmp_path):
    path, output = written(tmp_path / "p", {"id": "a", "problem": IMPOSSIBLE}), tmp_path / "o"
    assert run(capsys, "--input", path, "--output", output)[0] == 1
    written(path, {"id": "a", "problem": IMPOSSIBLE}, {"id": "b", "problem": PUZZLE})
    assert run(capsys, "--input", path, "--output", output, "--budget", "tokens=20000")[0] == 1
    assert [row["id"] for row in results(output)] == ["a", "b"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "content",
    [
        "my notes\nfrom Monday",
        "my notes",
        '{"name": 1}\n',
        "[1]\n",
        '{"identity": "of somebody else"}',
        "\n",
    ],
)
def test_a_file_of_something_else_is_left_alone(capsys, tmp_path, scripted, content):
    path, output = written(tmp_path / "p", {"problem": PUZZLE}), tmp_path / "notes"
    output.write_text(content)
    code, _, err = run(capsys, "--input", path, "--output", output)
    assert (
        code == 2
        and output.read_text() == content
        and not scripted
        and "choose another --output" in err
    )
    code, _, err = run(capsys, "--input", path, "--output", path)
    assert code == 2 and len(read_jobs(path)) == 1


def test_an_output_that_cannot_be_written(capsys, tmp_path, scripted):
    path = written(tmp_path / "p", {"problem": PUZZLE})
    for output in (tmp_path, path / "o"):
        code, _, err = run(capsys, "--input", path, "--output", output)
        assert code == 2 and not scripted and err.count("\n") == 1, err


@pytest.mark.thorough
def test_one_run_at_a_time_writes(capsys, tmp_path, scripted):
    path, output = written(tmp_path / "p", {"problem": PUZZLE}), tmp_path / "o"
    other = Results(output)
    code, _, err = run(capsys, "--input", path, "--output", output)
    assert code == 2 and "another run" in err and not scripted
    other.close()
    assert run(capsys, "--input", path, "--output", output, "--budget", "tokens=20000")[0] == 0


@pytest.mark.thorough
def test_a_line_is_done_when_its_trace_is(capsys, tmp_path, monkeypatch):
    """The disk has no room for the second trace but for its line; the next run does the rest."""
    path = written(tmp_path / "p", *({"id": name, "problem": PUZZLE} for name in "abc"))
    given = ["--input", path, "--output", tmp_path / "o", "--budget", "tokens=20000"]
    given += ["--traces", tmp_path / "t"]
    save = Trace.save

    def full(traces, place):
        if list((tmp_path / "t").glob("*.parquet")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return save(traces, place)

    with monkeypatch.context() as patch:
        patch.setattr(Trace, "save", staticmethod(full))
        code, _, err = run(capsys, *given)
    assert code == 1 and err.count(os.strerror(errno.ENOSPC)) == 1 and "Traceback" not in err
    assert len(results(tmp_path / "o")) == len(Trace.load(tmp_path / "t")) == 1
    assert run(capsys, *given)[0] == 0
    assert len(results(tmp_path / "o")) == len(Trace.load(tmp_path / "t")) == 3


@pytest.mark.thorough
def test_a_full_disk_leaves_no_half_line(capsys, tmp_path, monkeypatch):
    """The disk takes 100 bytes of the second line; the next run does the rest."""
    from search.files import jsonl as lines

    class Full(lines.FileIO):
        room = 600

        def write(self, data):
            size = os.fstat(self.fileno()).st_size
            return super().write(data[: max(0, self.room - size)])

    path, output = (
        written(tmp_path / "p", {"id": "a", "problem": PUZZLE}, {"id": "b", "problem": PUZZLE}),
        tmp_path / "o",
    )
    with monkeypatch.context() as patch:
        patch.setattr(lines, "FileIO", Full)
        code, _, err = run(capsys, "--input", path, "--output", output, "--budget", "tokens=20000")
    assert code == 1 and os.strerror(errno.ENOSPC) in err and "Traceback" not in err
    assert len(results(output)) == 1
    assert (
        run(capsys, "--input", path, "--output", output, "--budget", "tokens=20000")[0] == 0
        and len(results(output)) == 2
    )


@pytest.mark.thorough
def test_the_trace_is_on_disk_before_the_result(capsys, tmp_path, monkeypatch):
    path = written(tmp_path / "p", *({"id": i, "problem": PUZZLE} for i in range(3)))
    write = Results.write

    def checked(self, name, solution):
        assert len(Trace.load(tmp_path / "t")) == len(self.reported) + 1
        write(self, name, solution)

    monkeypatch.setattr(Results, "write", checked)
    assert (
        run(
            capsys,
            "--input",
            path,
            "--output",
            tmp_path / "o",
            "--traces",
            tmp_path / "t",
            "--budget",
            "tokens=20000",
        )[0]
        == 0
    )


def test_one_failed_search_is_a_line_like_the_others(capsys, tmp_path, monkeypatch):
    async def method(search):
        if search.problem.prompt(search.problem.initial()) == IMPOSSIBLE:
            raise RuntimeError("lost")
        from search.methods.sample import sample

        await sample(search)

    module = type(sys)("own_method")
    module.method = method
    monkeypatch.setitem(sys.modules, "own_method", module)
    path = written(
        tmp_path / "p", {"id": "a", "problem": IMPOSSIBLE}, {"id": "b", "problem": PUZZLE}
    )
    code, _, err = run(
        capsys,
        "--input",
        path,
        "--output",
        tmp_path / "o",
        "--method",
        "own_method:method",
        "--budget",
        "tokens=50000",
    )
    rows = {row["id"]: row for row in results(tmp_path / "o")}
    assert (
        code == 1
        and rows["a"]["error"].startswith("RuntimeError: lost (raised by the method ")
        and rows["a"]["stopped"] == "error"
        and rows["b"]["verified"] is True
    )


# -- killed and interrupted, in processes

#: a process whose method needs no model: problem `i` takes i / 100 seconds, and a log of the
#: process notes that it began
SLOW = f"""
import os, sys
sys.path[:0] = [{str(ROOT)!r}, *{FOLDERS!r}]
import guides
from fakes import scripted_guide
guides.settings, guides.load = (lambda path: {{}}), (lambda path, **options: scripted_guide())
import types
from search.scheduling.scheduler import ask
from search.problem import TextStep
from search.scheduling.requests import Timer

async def slow(search):
    problem, meter, tree = search.problem, search.meter, search.tree
    with open(f"log-{{os.getpid()}}", "a") as log:
        log.write(problem.statement + "\\n")
    number = int(problem.statement.split()[-1])
    await ask(Timer(meter.started + number / 100, meter.interrupt))
    if not meter.stopped:
        step = TextStep(f"The answer is {{number}}", finish="end")
        node = tree.open(0, tree.add(0, [step], [(step,)], [1.0])[0])
        tree.finished[node] = None
        tree.visit(node, 0.9)

sys.modules["own"] = types.SimpleNamespace(slow=slow)
from search.cli.main import main
sys.exit(main())
"""
COUNT = 150


def start(folder):
    command = [
        sys.executable,
        "-c",
        SLOW,
        "solve",
        "--method",
        "own:slow",
        "--input",
        "p",
        "--output",
        "o",
        "--traces",
        "t",
    ]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_lines(path, count):
    until = time.monotonic() + 60
    while time.monotonic() < until and (
        not path.exists() or path.read_bytes().count(b"\n") < count
    ):
        time.sleep(0.005)


@pytest.mark.slow
def test_killed_at_random_moments_nothing_is_lost_or_repeated(tmp_path):
    written(tmp_path / "p", *({"id": f"n{i}", "problem": f"Say {i}"} for i in range(COUNT)))
    rng, output, finished = random.Random(0), tmp_path / "o", []

    def statements(lines):
        return {f"Say {json.loads(line)['id'][1:]}" for line in lines}

    for kill in (True, True, True, False):
        process = start(tmp_path)
        if kill:
            wait_for_lines(output, len(finished) + rng.randint(1, 30))
            time.sleep(rng.random() * 0.03)
            process.kill()
        _, err = process.communicate(timeout=60)
        lines = output.read_bytes().split(b"\n")[:-1]
        assert lines[: len(finished)] == finished, "what was finished stays as it is"
        begun = (tmp_path / f"log-{process.pid}").read_text().splitlines()
        assert not statements(finished) & set(begun), "what was finished is not searched again"
        finished = lines
        traced = {trace.arguments["statement"] for trace in Trace.load(tmp_path / "t")}
        assert statements(lines) <= traced, "a trace is there before its result"
    assert process.returncode == 0, err
    rows = results(output)
    assert sorted(row["id"] for row in rows) == sorted(f"n{i}" for i in range(COUNT))
    assert all(row["answer"] == row["id"][1:] for row in rows)
    traced = sorted(trace.arguments["statement"] for trace in Trace.load(tmp_path / "t"))
    assert traced == sorted(f"Say {i}" for i in range(COUNT)), "each trace once"


@pytest.mark.thorough
def test_ctrl_c_keeps_what_is_finished(tmp_path):
    written(tmp_path / "p", *({"id": i, "problem": f"Say {i}"} for i in range(COUNT)))
    process = start(tmp_path)
    wait_for_lines(tmp_path / "o", 5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    rows = results(tmp_path / "o")
    assert process.returncode == 130 and 5 <= len(rows) < COUNT and "Traceback" not in err, (
        textwrap.shorten(err, 500)
    )
    assert all(row["stopped"] == "finished" for row in rows), "an interrupted search is not written"
    assert len(Trace.load(tmp_path / "t")) == len(rows)


def test_an_interrupt_that_escapes_is_told_like_any_other(capsys, tmp_path, monkeypatch):
    solve_many = search.solve_many

    def half(problems, guide, on_finish, seed, **options):
        solve_many(problems[:1], guide, on_finish=on_finish, seed=seed[:1], **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "solve_many", half)
    path = written(tmp_path / "p", {"problem": PUZZLE}, {"problem": PUZZLE})
    code, _, err = run(capsys, "--input", path, "--output", tmp_path / "o")
    assert code == 130 and "1 interrupted" in err and len(results(tmp_path / "o")) == 1
    code, _, err = run(capsys, "--input", path, "--output", tmp_path / "o")
    assert code != 130 and "interrupted" not in err and len(results(tmp_path / "o")) == 2, (
        "nothing was left to interrupt"
    )
