"""What comes from others is shown as text: nothing in it steers a terminal."""

from __future__ import annotations

import ast
import errno
import logging
import os
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from command_cases import PUZZLE, run, with_scripted_models

import search
from search import Trace
from search.plain_text import Formatter, harmless, one_line
from search.problem import TextStep
from search.scheduling.requests import RequestFailed

ROOT = Path(__file__).resolve().parent.parent.parent
EVIL = "a\x1b[31mred\x1b]0;title\x07\x9b2J\r\u202egnp.exe\u2066x\u200f\u061c\u2028\x00z"


def steers(text: str) -> list[str]:
    """What in a text is no plain text, by Unicode's own categories."""
    kinds = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return [hex(ord(c)) for c in text if unicodedata.category(c) in kinds and c not in "\n\t"]


@pytest.mark.thorough
def test_every_character_is_shown_or_replaced():
    everything = "".join(map(chr, range(0x110000)))
    shown = harmless(everything)
    assert len(shown) == len(everything)
    assert set(steers(shown)) == {"0x200c", "0x200d"}, "joiners spell words and emoji"
    ordinary = "é 漢字 שלום مرحبا 👩\u200d🔬 x²≤3\n\t\u00a0"
    assert harmless(ordinary) == ordinary


def test_lines_are_one():
    assert one_line(" a\nb\x1b\tc ") == "a b\N{REPLACEMENT CHARACTER} c"


@pytest.fixture
def evil_traces(tmp_path):
    guide = search.Guide(lambda text: ["because", "\\boxed{so}"])
    solved = search.solve("Why?", guide, "sample", "simulations=2").trace
    steps = tuple(TextStep(EVIL, step.tokens) for step in solved.steps)
    fields = ("method", "version", "judge", "error", "kind")
    evil = replace(
        solved, steps=steps, options={EVIL: EVIL}, arguments={"statement": EVIL},
        **dict.fromkeys(fields, EVIL),
    )  # fmt: skip
    Trace.save([evil], tmp_path / "t" / "a.parquet")
    (tmp_path / "t" / "bad\x1b[31m\u202e.parquet").write_text("hello")
    return tmp_path / "t"


def test_traces_of_others(capsys, evil_traces):
    code, out, err = run(capsys, "view", evil_traces)
    assert code == 0 and "red" in out and "skipped the trace shard" in err
    assert not steers(out) and not steers(err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["solve", PUZZLE, "--budget", EVIL],
        ["solve", PUZZLE, "--method", EVIL],
        ["solve", PUZZLE, "--option", EVIL],
        ["solve", "--input", f"/nowhere/{EVIL}".replace("\0", "")],
        ["view", f"/nowhere/{EVIL}".replace("\0", "")],
        ["bench", "--input", "x", "--out", "y", "--methods", EVIL],
        [EVIL],
        ["solve", f"--{EVIL}"],
    ],
)
def test_arguments_in_errors(capsys, monkeypatch, arguments):
    with_scripted_models(monkeypatch)
    code, out, err = run(capsys, *arguments)
    assert code != 0 and not steers(out) and not steers(err)


def test_what_a_server_says_is_wrong(capsys, monkeypatch):
    with_scripted_models(monkeypatch)

    def fails(*args, **options):
        raise RequestFailed(EVIL)

    monkeypatch.setattr(search, "solve", fails)
    code, out, err = run(capsys, "solve", PUZZLE)
    assert code == 1 and "red" in out and not steers(out) and not steers(err)


def test_an_error_of_the_system(capsys, monkeypatch, tmp_path):
    with_scripted_models(monkeypatch)

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), EVIL)

    monkeypatch.setattr(Trace, "save", staticmethod(full))
    code, out, err = run(capsys, "solve", PUZZLE, "--traces", tmp_path / "t")
    assert code == 1 and not steers(out) and not steers(err)


def test_logs():
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s", (EVIL,), None)
    assert not steers(Formatter("%(message)s").format(record))


def test_the_command_writes_by_one_function_alone():
    found = []
    for path in (ROOT / "search" / "cli").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in ("typer.echo", "print", "click.echo", "sys.stdout.write"):
                found.append(path.name)
    assert found == ["terminal.py"]
