"""Files and folders of the user's that have the names of our packages: in scripts, at a prompt,
in pytest, with `python -m`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from search.imports import LAYERS, Shadowed, absent, import_ours

ROOT = Path(__file__).resolve().parent.parent.parent
#: What may stand beside a script. Folders without __init__.py are namespace packages, which Python
#: takes last.
BESIDE = {
    "modules": ["search.py", "models.py", "guides.py", "benchmarks.py"],
    "packages": [f"{name}/__init__.py" for name in LAYERS],
    "folders": [f"{name}/notes.txt" for name in LAYERS],
}
USE = """
import copse, guides.policies.steps, models.scripted, benchmarks.sweep.statistics, search
assert copse.solve is search.solve and copse.Budget(tokens=1).tokens == 1 and "solve" in dir(copse)
assert copse.__version__ == search.__version__
print(*(name.__path__[0] for name in (search, models, guides, benchmarks)))
"""


def put(folder: Path, file: str, text: str = "mine = 7\n") -> Path:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(text)
    return folder / file


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Python with our packages as an installation has them: behind the folder of a script, and
    behind the working directory.
    """
    paths = os.pathsep.join([str(ROOT), str(ROOT / "search" / "toplevel")])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment.pop("PYTHONSAFEPATH", None)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def run(way: str, folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """`code` as a script, at a prompt (or in a notebook), or as a test."""
    if way == "script":
        return python(str(put(folder, "script.py", code)), cwd=folder.parent)
    if way == "prompt":
        return python("-c", code, cwd=folder)
    test = "def test_it():\n" + "".join(f"    {line}\n" for line in code.strip().splitlines())
    put(folder, "test_beside.py", test)
    put(folder, "pytest.ini", "[pytest]\n")
    options = [
        "-q",
        "-s",
        "-p",
        "no:cacheprovider",
        *([] if way == "pytest" else ["--import-mode=importlib"]),
    ]
    return python("-m", "pytest", *options, cwd=folder)


WAYS = ["script", "prompt", "pytest", "importlib"]


@pytest.mark.thorough
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", BESIDE)
def test_import_copse_finds_ours_whatever_lies_beside(tmp_path, kind, way):
    for file in BESIDE[kind]:
        put(tmp_path / "project", file)
    done = run(way, tmp_path / "project", USE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " ".join(str(ROOT / layer) for layer in LAYERS) in done.stdout


@pytest.mark.parametrize("way", WAYS)
def test_modules_in_plain_folders_of_the_users_are_found_as_ever(tmp_path, way):
    """Without `__init__.py`: Python would take our packages for theirs. Ours reach into theirs."""
    for name in LAYERS:
        put(tmp_path / "project", f"{name}/nets.py", f"mine = {name!r}\n")
    code = "".join(
        f"import {name}.nets\nfrom {name} import nets as {name}_nets\n" for name in LAYERS
    )
    code += "import copse\n"
    code += f"print({', '.join(f'{name}_nets.mine' for name in LAYERS)})"
    done = run(way, tmp_path / "project", code)
    assert done.returncode == 0 and " ".join(LAYERS) in done.stdout, done.stdout + done.stderr


ASK = """
import copse
for name in ("search", "models", "guides", "benchmarks"):
    for use in ("import {0}; {0}.mine", "from {0} import mine"):
        try:
            exec(use.format(name))
        except ImportError as error:
            print(error)
"""


@pytest.mark.thorough
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["modules", "packages"])
def test_a_name_of_the_users_that_is_asked_of_ours(tmp_path, kind, way):
    for file in BESIDE[kind]:
        put(tmp_path / "project", file)
    told = run(way, tmp_path / "project", ASK).stdout
    for name in LAYERS:
        mine = tmp_path / "project" / (f"{name}.py" if kind == "modules" else name)
        sentence = (
            f"module {name!r} has no attribute 'mine': it is the package of Copse in {ROOT}, "
            f"and {mine} has the same name: rename that"
        )
        assert told.count(sentence) == 2, told


def test_names_that_nobody_has():
    for name in ("nothing", "_nothing"):
        assert type(absent("models", name)) is AttributeError
    for package in LAYERS:
        with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
            import_ours(package).nothing  # noqa: B018


BEFORE = """
import search
assert search.mine == 7
for name in ("copse", "models", "guides", "benchmarks"):
    try:
        __import__(name)
    except ImportError as error:
        print(name, "->", error)
"""


@pytest.mark.thorough
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["search.py", "search/__init__.py"])
def test_a_search_of_the_users_that_is_imported_before(tmp_path, kind, way):
    file = put(tmp_path / "project", kind)
    told = run(way, tmp_path / "project", BEFORE).stdout
    lines = dict(line.split(" -> ", 1) for line in told.splitlines() if " -> " in line)
    assert (
        lines["copse"]
        == f"{file} is loaded as 'search', the name of a package of Copse in {ROOT}: rename it"
    )
    # an editable installation finds modules of ours below a package of theirs
    for name in LAYERS[1:]:
        assert (
            lines[name].startswith(str(tmp_path / "project" / "search"))
            and "of Copse" in lines[name]
        )
        assert ": rename it" in lines[name]


def test_what_is_loaded_already_counts(monkeypatch, tmp_path):
    assert import_ours("guides").__file__ == str(ROOT / "guides" / "__init__.py")
    assert import_ours("models.scripted").Scripted
    other = types.ModuleType("models")
    other.__file__ = str(tmp_path / "models.py")
    monkeypatch.setitem(sys.modules, "models", other)
    for name in ("models", "guides", "guides.loading", "benchmarks"):
        with pytest.raises(Shadowed, match="rename it") as caught:
            import_ours(name)
        assert str(tmp_path / "models.py") in str(caught.value)
    assert import_ours("search") is sys.modules["search"], "what lies below is not concerned"


@pytest.mark.thorough
@pytest.mark.parametrize("file", ["models/__init__.py", "guides.py"])
def test_solve_takes_its_own_models(tmp_path, file):
    put(tmp_path, file)
    done = python(
        "-c",
        "import search\nprint(search.solve('Use 4, 7, 8 and 8 to make 24.').answer)",
        cwd=tmp_path,
    )
    assert done.returncode == 0 and "8" in done.stdout, done.stderr


@pytest.mark.thorough
def test_solve_names_the_users_models_where_they_are_loaded(tmp_path):
    put(tmp_path, "models.py")
    code = "import models, search\nsearch.solve('Use 4, 7, 8 and 8 to make 24.')"
    done = python("-c", code, cwd=tmp_path)
    assert (
        f"{tmp_path / 'models.py'} is loaded as 'models', the name of a package of Copse in "
        f"{ROOT}: rename it"
    ) in done.stderr


@pytest.mark.thorough
@pytest.mark.parametrize("kind", BESIDE)
def test_the_command_as_a_module(tmp_path, kind):
    for file in BESIDE[kind]:
        put(tmp_path, file)
    wrong = python(
        "-m", "copse", "solve", "Use 4 and 7 to make 11.", "--budget", "tokens=0", cwd=tmp_path
    )
    assert wrong.returncode == 2 and wrong.stderr.startswith("copse: "), wrong.stderr


@pytest.mark.thorough
def test_modules_of_the_users_benchmarks_run(tmp_path):
    put(tmp_path, "benchmarks/speed.py", "print('fast')")
    assert python("-m", "benchmarks.speed", cwd=tmp_path).stdout == "fast\n"
    put(tmp_path, "benchmarks/__init__.py", "")
    ours = ["-P", "-m", "benchmarks.sweep.run", "--help"]
    assert python(*ours, cwd=tmp_path).returncode == 0
