"""Folders of the user's that stand where Python should find ours."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from search.shadow import Shadowed, import_ours

ROOT = Path(__file__).resolve().parent.parent


def test_ours_are_imported():
    assert import_ours("guides").__file__ == str(ROOT / "guides" / "__init__.py")
    assert import_ours("models.scripted").Scripted


def test_what_is_loaded_already_counts(monkeypatch, tmp_path):
    other = types.ModuleType("models")
    other.__file__ = str(tmp_path / "models.py")
    monkeypatch.setitem(sys.modules, "models", other)
    for name in ("models", "guides", "guides.loading", "benchmarks"):
        with pytest.raises(Shadowed, match="rename it") as caught:
            import_ours(name)
        assert str(tmp_path / "models.py") in str(caught.value)
    assert import_ours("search") is sys.modules["search"], "what lies below is not concerned"


#: ours is found last, as in an editable installation of setuptools
LAST = f"""
import importlib.machinery, os, sys
sys.path[:] = [path for path in sys.path if os.path.realpath(path) != {str(ROOT)!r}]
class Last:
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.PathFinder.find_spec(name, [{str(ROOT)!r}]) if path is None else None
sys.meta_path.append(Last())
from search.shadow import Shadowed, import_ours
try:
    import_ours("guides")
except Shadowed as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("file", ["models/__init__.py", "models/weights.bin", "guides.py", "guides/__init__.py"])
def test_packages_modules_and_plain_folders(tmp_path, file):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    done = subprocess.run([sys.executable, "-c", LAST], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.startswith(f"{tmp_path / file.split('/')[0]} hides"), done.stderr
    assert "rename it" in done.stderr and str(ROOT) in done.stderr


def test_nothing_is_hidden_by_folders_of_other_names(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "benchmarks").mkdir()  # needed by nothing here
    done = subprocess.run([sys.executable, "-c", LAST], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
