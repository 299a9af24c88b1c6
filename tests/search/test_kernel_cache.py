"""Compiled kernels between processes: which are kept, what a damaged or a full disk means."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numba
import pytest
from numba.core import event

from search.kernels import kernel_cache

I8 = numba.int64


def more(a):
    return a + 1


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A cache of this test's own."""
    monkeypatch.setattr(kernel_cache, "folder", lambda: tmp_path / "copse")
    kernel_cache._warn_unkept.cache_clear()
    return tmp_path / "copse"


def compiled() -> int:
    """How often `more` was compiled for a new dispatcher: 0 where it came from the cache."""
    with event.install_recorder("numba:run_pass") as passes:
        dispatcher = kernel_cache.keep(numba.njit(more))
        dispatcher.compile(I8(I8))
        assert dispatcher(2) == 3
    return int(bool(passes.buffer))


def test_a_kernel_is_compiled_once_and_loaded_then(place):
    assert [compiled(), compiled()] == [1, 0]
    (index,) = place.rglob("*.nbi")
    assert index.parent.name.startswith("tests") and index.parent.parent == place


def test_other_sources_are_another_version(place, monkeypatch):
    assert compiled() == 1
    monkeypatch.setattr(kernel_cache, "_version", lambda package: "0" * 16)
    assert [compiled(), compiled()] == [1, 0]
    assert len(list(place.iterdir())) == 2


def test_the_version_changes_with_any_kernel_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_cache, "_HOME", tmp_path)

    def version(name: str, text: str) -> str:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        return kernel_cache._version.__wrapped__("models")

    changed = ["search/a.py", "search/deep/b.py", "models/c.py"]
    found = [version(name, "import numba") for name in changed]
    found.append(version("search/a.py", "import numba  # another way"))
    assert len(set(found)) == 4
    for name in ("search/plain.py", "guides/d.py"):
        assert version(name, "a = 1") == found[-1], (
            "what has no kernels, or none that models inline"
        )


@pytest.mark.parametrize("content", [b"", b"nothing of Numba's"])
@pytest.mark.parametrize("damaged", ["*.nbi", "*.nbc"])
def test_a_damaged_file_is_written_again(place, damaged, content):
    assert compiled() == 1
    (file,) = place.rglob(damaged)
    file.write_bytes(content)
    assert [compiled(), compiled()] == [1, 0]


@pytest.mark.parametrize("content", [b"", b"nothing of Numba's", b"\x80\x04"])
def test_a_damaged_file_that_cannot_be_written_again(place, monkeypatch, caplog, content):
    """As in a cache that this user may only read."""
    assert compiled() == 1
    for file in place.rglob("*.nbi"):
        file.write_bytes(content)

    def refused(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(kernel_cache.caching.IndexDataCacheFile, "_open_for_write", refused)
    with caplog.at_level(logging.WARNING, logger="copse.search.kernels.kernel_cache"):
        assert [compiled(), compiled()] == [1, 1]
    assert caplog.text.count("kernels cannot be kept") == 1


@pytest.mark.parametrize("damaged", ["*.nbi", "*.nbc"])
def test_a_file_that_was_cut_anywhere_is_written_again(place, damaged):
    assert compiled() == 1
    (file,) = place.rglob(damaged)
    whole = file.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert [compiled(), compiled()] == [1, 0], f"{length} of {len(whole)} bytes"
        (file,) = place.rglob(damaged)


def test_a_full_disk_costs_the_cache_alone(place, monkeypatch, caplog):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kernel_cache.caching.IndexDataCacheFile, "save", full)
    with caplog.at_level(logging.WARNING, logger="copse.search.kernels.kernel_cache"):
        assert [compiled(), compiled()] == [1, 1]
    (said,) = [record.message for record in caplog.records]
    assert said.startswith("kernels cannot be kept") and "No space left" in said


def test_functions_of_a_shell_are_not_kept(place):
    names: dict = {}
    exec(compile("def typed(a):\n    return a + 2", "<shell>", "exec"), names)
    assert kernel_cache.keep(numba.njit(names["typed"]))(3) == 5
    assert not place.exists()


def folders(place: Path, *names: str, size: int = 10) -> None:
    """Folders of kernels, the last named used last."""
    for age, name in enumerate(names):
        (place / name).mkdir(parents=True)
        (place / name / "kernel.nbc").write_bytes(bytes(size))
        os.utime(place / name, (1e9 + age, 1e9 + age))


def test_the_last_used_versions_of_each_source_are_kept(place):
    folders(
        place,
        "search-1",
        "models-1",
        "search-2",
        "search-3",
        "models-2",
        "search-4",
        "search_3902bd91",
    )
    kernel_cache.trim(place, versions=2)
    assert sorted(path.name for path in place.iterdir()) == [
        "models-1",
        "models-2",
        "search-3",
        "search-4",
    ]


def test_all_together_have_so_many_bytes(place):
    folders(place, "a-1", "b-1", "c-1", "d-1", size=100)
    kernel_cache.trim(place, size=250)
    assert sorted(path.name for path in place.iterdir()) == ["c-1", "d-1"]


def test_a_new_version_removes_the_oldest(place, monkeypatch):
    for age, version in enumerate("abcd"):
        monkeypatch.setattr(kernel_cache, "_version", lambda package, version=version: version)
        assert compiled() == 1
        (made,) = place.glob(f"*-{version}")
        os.utime(made, (1e9 + age, 1e9 + age))
    assert len(list(place.iterdir())) == kernel_cache.VERSIONS == 3
    assert not list(place.glob("*-a"))
