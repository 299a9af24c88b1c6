"""Files that are whole or not there."""

from __future__ import annotations

import errno
import fcntl
import os
from io import FileIO
from pathlib import Path

import pytest

from search.files.atomic import append, atomic, lock


def test_a_file_takes_its_place_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    with atomic(path) as part:
        part.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    for error in (OSError("full"), KeyboardInterrupt()):
        with pytest.raises(type(error)), atomic(path) as part:
            part.write_text("half")
            raise error
        assert path.read_text() == "one" and os.listdir(path.parent) == ["file"]
    with pytest.raises(FileNotFoundError), atomic(path):
        pass  # nothing was written
    assert path.read_text() == "one"


def test_a_short_write_is_taken_back(tmp_path: Path) -> None:
    class Short(FileIO):
        def write(self, data: bytes) -> int:  # type: ignore[override]
            return super().write(data[:3])

    path = tmp_path / "lines"
    path.write_bytes(b"first\n")
    with Short(path, "a") as file, pytest.raises(OSError, match="No space"):
        append(file, b"second\n")
    assert path.read_bytes() == b"first\n"


def test_one_run_alone_has_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    with path.open("a") as one, path.open("a") as other:
        lock(one, "busy")
        with pytest.raises(ValueError, match="another run"):
            lock(other, "another run has it")
    with path.open("a") as free:
        lock(free, "busy")


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    caplog.set_level("INFO")
    monkeypatch.setattr(fcntl, "flock", none)
    with (tmp_path / "f").open("a") as file:
        lock(file, "busy")
    assert "No locks available" in caplog.text
