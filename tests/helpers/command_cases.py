"""The command, called in this process."""

from __future__ import annotations

from pathlib import Path

from fakes import scripted_guide

import guides
from search.cli.main import main

ROOT = Path(__file__).resolve().parent.parent.parent


PUZZLE, IMPOSSIBLE = "Use 4, 7, 8 and 8 to make 24.", "Use 1 and 1 to make 24."


COUNTDOWN = "search.problems.countdown:Countdown"


def run(capsys, *args):
    code = main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return code, out, err


def with_scripted_models(monkeypatch):
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
