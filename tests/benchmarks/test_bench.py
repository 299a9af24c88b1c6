"""`copse bench`: what it prints, what it refuses before any work, what is left after SIGKILL;
the figures.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes import random_player, scripted_guide
from sweep_cases import guesser

import guides
import search
from benchmarks.sweep import rows
from search.cli.main import main
from search.solver import seed_of

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = sorted(str(folder) for folder in (ROOT / "tests").iterdir() if folder.is_dir())


@pytest.fixture
def loaded(monkeypatch):
    """Every checkpoint is the tests' scripted model; a list of what was asked for."""
    asked = []
    monkeypatch.setattr(guides, "settings", lambda path: {}, raising=False)

    def load(path, *, answer=None, device, dtype, slots, **policy):
        asked.append(path)
        return scripted_guide(guesser, **policy)

    monkeypatch.setattr(guides, "load", load, raising=False)
    return asked


def problems(folder, count=6, **more):
    path = folder / "p.jsonl"
    lines = [
        {"id": f"q{i}", "problem": f"Question {i}", "target": i % 3, **more} for i in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def bench(capsys, *flags):
    code = main(["bench", *map(str, flags)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.thorough
def test_it_compares_methods_on_problems_of_the_users_own(tmp_path, capsys, loaded):
    out = tmp_path / "out"
    flags = [
        "--input",
        problems(tmp_path),
        "--out",
        out,
        "--budgets",
        "tokens=60,200",
        "--seeds",
        2,
    ]
    code, text, err = bench(
        capsys,
        *flags,
        "--methods",
        "self_consistency,mcts leaves=2,test_bench:walk",
        "--guide",
        "any",
    )
    assert (
        code == 0
        and "| method | searches | 60 tokens | 200 tokens |" in text
        and "points more than self_consistency" in text
    ), err
    found = rows.read(out / "results.csv")
    assert len(found) == 6 * 3 * 2 * 2 and {row["task"] for row in found} == {"p"}
    assert all(
        row["correct"] == str(int(row["answer"] == str(int(row["problem"][1:]) % 3)))
        for row in found
    )
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    before = (out / "results.csv").read_bytes()
    assert (
        bench(capsys, *flags, "--methods", "self_consistency", "--guide", "any")[0] == 0
        and (out / "results.csv").read_bytes() == before
    )


async def walk(search):
    """A method of the user's own."""
    from search.methods.sample import sample

    await sample(search, chains=2)


@pytest.mark.thorough
def test_problems_that_verify_themselves_need_no_target(tmp_path, capsys, loaded, monkeypatch):
    monkeypatch.setattr(
        guides,
        "load",
        lambda path, answer=None, device=None, dtype=None, slots=None, **policy: scripted_guide(
            **policy
        ),
    )
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"problem": "Use 1, 2, 3 and 4 to make 24."}\n{"problem": "Use 1 and 1 to make 24."}\n'
    )
    code, text, _ = bench(
        capsys,
        "--input",
        path,
        "--out",
        tmp_path / "o",
        "--methods",
        "sample,mcts",
        "--budgets",
        "tokens=100,1000",
    )
    found = {
        (row["problem"], row["method"]): row for row in rows.read(tmp_path / "o" / "results.csv")
    }
    assert (
        code == 0
        and found["1", "sample"]["correct"] == "1"
        and found["2", "sample"]["correct"] == "0"
    )
    assert "| searches | 100 tokens | 1,000 tokens | mean tokens |" in text, "what was asked for"
    assert {row["budget"] for row in found.values()} == {"tokens=1000"}
    rates = [line.split("|")[1:5] for line in text.splitlines() if line.startswith("| mcts |")]
    latex = (tmp_path / "o" / "table.tex").read_text().splitlines()
    assert [cells for cells in rates if len(cells) == 4]
    (told,) = [line.split("&")[:4] for line in latex if line.startswith("mcts &")]
    assert [cell.strip() for cell in rates[0]] == [cell.strip() for cell in told]


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--methods", "none"], "no method"),
        (["--methods", "mcts colour=1"], "no option"),
        (["--methods", "mcts,,"], "no method"),
        (["--budgets", "2000"], "write one kind"),
        (["--seeds", "0"], "--help"),
        (["--input", "missing"], "cannot read"),
        (["--answer", "(a)(b)"], "groups"),
    ],
)
def test_bad_input_is_refused_before_any_work(tmp_path, capsys, loaded, flags, word):
    code, _, err = bench(capsys, "--input", problems(tmp_path), "--out", tmp_path / "o", *flags)
    assert (
        code == 2
        and word in err
        and err.count("\n") == 1
        and not loaded
        and not (tmp_path / "o").exists()
    )


@pytest.mark.parametrize("target", [None, [1], True, " "])
def test_targets_that_are_missing_or_none_are_refused(tmp_path, capsys, loaded, target):
    code, _, err = bench(
        capsys, "--input", problems(tmp_path, target=target), "--out", tmp_path / "o"
    )
    assert code == 2 and "target" in err and not loaded


@pytest.mark.thorough
def test_results_of_other_problems_or_settings_are_not_mixed(tmp_path, capsys, loaded):
    flags = ["--out", tmp_path / "o", "--methods", "self_consistency", "--budgets", "tokens=60"]
    assert bench(capsys, "--input", problems(tmp_path), *flags)[0] == 0
    assert bench(capsys, "--input", problems(tmp_path, 8), *flags)[0] == 0, "more problems may come"
    code, _, err = bench(capsys, "--input", problems(tmp_path), *flags, "--step-tokens", 9)
    assert code == 2 and "settings" in err
    code, _, err = bench(capsys, "--input", problems(tmp_path, target=7), *flags)
    assert code == 2 and "another problem or target" in err
    assert len(rows.read(tmp_path / "o" / "results.csv")) == 8


@pytest.mark.thorough
def test_shards_are_the_sweep_that_nobody_shares(tmp_path, capsys, loaded, monkeypatch):
    """Their results one behind the other are results: the command without shard does what is
    missing. Only the third shard has targets, and what is searched depends on the whole file.
    """

    def player(request):
        prompt = "".join(map(chr, request.prompt if hasattr(request, "prompt") else request.tokens))
        return (guesser if prompt.startswith("Question") else random_player())(request)

    def load(path, answer=None, device=None, dtype=None, slots=None, **policy):
        return scripted_guide(player, **policy)

    monkeypatch.setattr(guides, "load", load)
    asked = problems(tmp_path, 2).read_text().splitlines()
    lines = []
    for number in range(4):
        lines.append(
            f'{{"id": "n{number}", "problem": "Use 4, 7, 8 and {number + 6} to make 24."}}'
        )
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join([*lines[:2], asked[0], *lines[2:], asked[1]]))
    flags = ["--input", path, "--budgets", "tokens=60,120", "--methods", "sample,mcts"]
    assert bench(capsys, *flags, "--out", tmp_path / "whole")[0] == 0
    shares = []
    for number in (1, 2, 3):
        out = tmp_path / f"shard-{number}"
        assert bench(capsys, *flags, "--shard", f"{number}/3", "--out", out)[0] == 0
        shares.append((out / "results.csv").read_text())

    def sound(path):
        loose = dict.fromkeys(("seconds", "rows"))
        return sorted(str(row | loose) for row in rows.read(path))

    whole = sound(tmp_path / "whole" / "results.csv")
    merged = tmp_path / "merged" / "results.csv"
    merged.parent.mkdir()
    merged.write_text("".join(shares))
    assert sound(merged) == whole and len(whole) == 6 * 2 * 2
    assert bench(capsys, *flags, "--out", merged.parent)[0] == 0
    assert merged.read_text() == "".join(shares), "nothing was missing"
    merged.write_text(shares[0] + shares[2])
    assert bench(capsys, *flags, "--out", merged.parent)[0] == 0
    assert sound(merged) == whole, "the second shard was missing"
    code, _, err = bench(capsys, *flags, "--shard", "9/8", "--out", tmp_path / "none")
    assert code == 2 and "counted from 1" in err and not (tmp_path / "none").exists()


def test_without_matplotlib_the_rows_are_there(tmp_path, capsys, loaded, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = bench(
        capsys,
        "--input",
        problems(tmp_path),
        "--out",
        tmp_path / "o",
        "--methods",
        "self_consistency",
        "--budgets",
        "tokens=60",
    )
    assert (
        code == 0
        and "copse-search[bench]" in err
        and len(rows.read(tmp_path / "o" / "results.csv")) == 6
    )


# -- killed and interrupted, in processes

#: a process whose model takes its time, and whose methods note which searches begin
SLOW = f"""
import os, signal, sys
# a shell starts what runs in its background without
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path[:0] = [{str(ROOT)!r}, *{FOLDERS!r}]
import types
import guides
from fakes import random_player, scripted_guide
from sweep_cases import guesser
from search.methods.sample import sample
from search.methods.mcts import mcts

def load(path, answer=None, device=None, dtype=None, slots=None, **policy):
    guide = scripted_guide(guesser, slots=8, **policy)
    guide.policy._loaded.engine.delay = 0.001
    return guide

def noted(method, name):
    async def run(search):
        with open(f"log-{{os.getpid()}}", "a") as log:
            entropy = search.rng.bit_generator.seed_seq.entropy
            last = search.problem.statement.split()[-1]
            log.write(f"{{last}} own:{{name}} {{search.budget}} {{entropy}}\\n")
        await method(search)
    return run

guides.settings, guides.load = (lambda path: {{}}), load
own = sys.modules["own"] = types.ModuleType("own")
own.chains, own.tree = noted(sample, "chains"), noted(mcts, "tree")
from search.cli.main import main
sys.exit(main())
"""
COUNT = 8


def start(folder, out="o"):
    flags = [
        "--methods",
        "own:chains,own:tree",
        "--budgets",
        "tokens=60,120",
        "--seeds",
        "2",
        "--input",
        "p.jsonl",
        "--out",
        out,
    ]
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, "bench", *flags],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_lines(process, path, count):
    while process.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < count):
        time.sleep(0.005)


def searches(lines):
    """What `own` notes of the searches behind these lines of a results file."""
    cells = [line.decode().split(",") for line in lines]
    return {
        f"{problem[1:]} {method} {budget} {seed_of(problem, int(seed))}"
        for _, problem, method, budget, seed, *_ in cells
    }


@pytest.mark.slow
def test_killed_at_random_moments_nothing_is_lost_or_repeated(tmp_path):
    problems(tmp_path, COUNT)
    rng, results, finished = random.Random(1), tmp_path / "o" / "results.csv", []
    for kill in (True, True, False):  # a process takes seconds to begin
        process = start(tmp_path)
        if kill:
            wait_for_lines(process, results, len(finished) + rng.randint(1, 20))
            time.sleep(rng.random() * 0.03)
            process.kill()
        _, err = process.communicate(timeout=120)
        lines = results.read_bytes().split(b"\n")[:-1]
        assert lines[: len(finished)] == finished, "what was finished stays as it is"
        log = tmp_path / f"log-{process.pid}"
        begun = log.read_text().splitlines() if log.exists() else []
        assert not searches(finished[1:]) & set(begun), "what was finished is not searched again"
        finished = lines
    assert process.returncode == 0, err
    assert (
        len(finished) == 1 + COUNT * 2 * 2 * 2 and len(searches(finished[1:])) == COUNT * 2 * 2 * 2
    )
    whole = start(tmp_path, "whole")
    assert whole.communicate(timeout=120) and whole.returncode == 0
    once, again = rows.read(tmp_path / "whole" / "results.csv"), rows.read(results)
    times = dict.fromkeys(("seconds", "rows"))
    assert sorted(str(row | times) for row in once) == sorted(str(row | times) for row in again)


@pytest.mark.thorough
def test_ctrl_c_keeps_what_is_finished(tmp_path):
    problems(tmp_path, COUNT)
    process, results = start(tmp_path), tmp_path / "o" / "results.csv"
    wait_for_lines(process, results, 5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    found = rows.read(results)
    assert (
        process.returncode == 130
        and 4 <= len(found) < COUNT * 8
        and "Traceback" not in err
        and "again to go on" in err
    )
    assert all(row["stopped"] != "interrupted" for row in found)


def test_ctrl_c_after_the_last_search_of_a_job(tmp_path, capsys, loaded, monkeypatch):
    solve_many = search.solve_many

    def late(*args, **options):
        solve_many(*args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "solve_many", late)
    flags = [
        "--input",
        problems(tmp_path),
        "--out",
        tmp_path / "o",
        "--methods",
        "self_consistency",
        "--budgets",
        "tokens=60,120",
    ]
    code, out, err = bench(capsys, *flags)
    assert (
        code == 130
        and "again to go on" in err
        and len(rows.read(tmp_path / "o" / "results.csv")) == 6
        and "self_consistency" in out
    )
