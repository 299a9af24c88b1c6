"""A model, its problems and searches of them (`letters`), made once for all tests of a process."""

from __future__ import annotations

from pathlib import Path

import letters
import pytest


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return letters.taught(tmp_path_factory.mktemp("foreign") / "base")


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return letters.write_problems(tmp_path_factory.mktemp("problems") / "p.jsonl")


@pytest.fixture(scope="session")
def traces(base: Path, file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searched") / "traces"
    letters.search(base, file, folder, *letters.FLAGS)
    return folder
