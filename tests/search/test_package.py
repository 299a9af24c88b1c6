"""What a user installs: light to import, complete as a wheel, at home in places that cannot be
written.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import textwrap
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("search", "models", "guides", "benchmarks")
HEAVY = ("torch", "transformers", "numba", "pyarrow", "sympy")
WEIGHTS = ("model.safetensors", "value_head.safetensors")

pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").exists(), reason="needs the source tree"
)


def python(
    code: str,
    *arguments: str,
    cwd: Path | None = None,
    seconds: float = 300,
    **environment: str | None,
) -> str:
    """Standard output of a new interpreter that runs `code`, started away from the source tree;
    None takes a variable away.
    """
    variables = {
        **os.environ,
        **{name: value for name, value in environment.items() if value is not None},
    }
    for name in (name for name, value in environment.items() if value is None):
        variables.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code), *arguments],
        cwd=cwd or Path(sys.prefix), env=variables, capture_output=True, text=True, timeout=seconds,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.thorough
def test_importing_helping_and_bad_input_load_nothing_heavy() -> None:
    """One after the other in one process: what any of them loads is there at the end."""
    code = f"""
        import sys

        def say(name, heavy={HEAVY}):
            print(name, "loaded", [module for module in heavy if module in sys.modules], flush=True)

        import search
        say("search")
        import copse, guides, models, benchmarks
        dir(search), dir(copse), copse.Budget(tokens=1), search.TextProblem("x")
        search.Guide, search.check_backend, search.IllegalStep
        say("all packages")
        from search.cli.main import main
        for asked in (["--help"], ["solve", "--help"]):
            sys.argv[1:] = asked
            try:
                main()
            except SystemExit as end:
                assert not end.code
            say(f"help{{len(asked)}}")
        for wrong in ({{"budget": "tokens=0"}}, {{"method": "guess"}}, {{"branch": "many"}}):
            try:
                search.solve("Use 4 and 7 to make 11.", **wrong)
            except ValueError:
                print("refused")
        say("bad input", ("torch", "transformers"))
    """
    found = [line for line in python(code).splitlines() if "loaded" in line or line == "refused"]
    asked = ["search", "all packages", "help1", "help2"]
    assert found[:4] == [f"{name} loaded []" for name in asked]
    assert found[4:] == ["refused"] * 3 + ["bad input loaded []"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree."""
    source = tmp_path_factory.mktemp("source") / "copse"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for package in (*PACKAGES, "tests"):
        shutil.copytree(
            ROOT / package,
            source / package,
            ignore=shutil.ignore_patterns("__pycache__", "work", "checkpoint-*"),
        )
    return source


def built(kind: str, source: Path, out: Path) -> Path:
    """The "wheel" or the "sdist" of a source tree, as `python -m build` has them made."""
    code = "import sys; from setuptools import build_meta; print(build_meta.build_{}(sys.argv[1]))"
    return out / python(code.format(kind), str(out), cwd=source).splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the source tree."""
    return built("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source distribution of it."""
    return built("sdist", source, tmp_path_factory.mktemp("sdist"))


@pytest.mark.thorough
def test_the_wheel_is_complete(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    modules = {name.removeprefix("search/toplevel/") for name in modules}
    assert modules <= set(names), "every module is in"
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert {f"models/builtin/{name}" for name in ("recipe.json", *WEIGHTS)} <= set(names)
    pages = {path.name for path in (ROOT / "search" / "page").iterdir() if path.suffix != ".py"}
    pages.discard("__pycache__")
    assert len(pages) > 5 and {f"search/page/{name}" for name in pages} <= set(names)
    kept = {path.name for path in (ROOT / "models" / "builtin").iterdir() if path.is_file()}
    assert kept <= {Path(name).name for name in names if name.startswith("models/builtin/")}, (
        "all of the built-in model is in"
    )


def test_the_wheel_has_nothing_else(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {*PACKAGES, "copse"}
    assert {"copse/__init__.py", "copse/__main__.py", "copse/py.typed"} <= set(archive.namelist())
    assert not [name for name in archive.namelist() if name.endswith((".nbi", ".nbc", ".pyc"))]
    (metadata,) = (
        archive.read(name).decode() for name in archive.namelist() if name.endswith("METADATA")
    )
    assert "Name: copse-search\n" in metadata
    assert (
        "License-Expression: Apache-2.0" in metadata
        and "Requires-Dist: torch<2.14,>=2.11" in metadata
    )
    assert "copse = copse.__main__:main" in next(
        archive.read(n).decode() for n in archive.namelist() if n.endswith("entry_points.txt")
    )
    assert wheel.stat().st_size < 100e6


@pytest.mark.thorough
def test_the_source_distribution_makes_the_same_wheel(
    wheel: Path, sdist: Path, tmp_path: Path
) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    again = built("wheel", unpacked, tmp_path)
    contents = []
    for path in (wheel, again):
        files = zipfile.ZipFile(path)
        names = sorted(name for name in files.namelist() if not name.endswith("/RECORD"))
        contents.append({name: files.read(name) for name in names})
    assert contents[0] == contents[1]


@pytest.mark.thorough
def test_an_index_would_take_both(wheel: Path, sdist: Path) -> None:
    """Their metadata is valid, and the README can be shown."""
    pytest.importorskip("twine")
    command = [sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and done.stdout.count("PASSED") == 2, done.stdout + done.stderr


@pytest.mark.thorough
def test_every_hint_names_an_extra_of_this_distribution() -> None:
    """`copse` is the name of a stranger's package: whoever installs its extras gets that."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    files = [ROOT / "pyproject.toml", *ROOT.glob("*.md"), *(ROOT / ".ci").iterdir()]
    files += [
        path
        for folder in (*PACKAGES, "tests")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".md")
    ]
    hints = [
        hint
        for path in files
        for hint in re.findall(r"([\w.-]*copse[\w.-]*)\[(\w+(?:, ?\w+)*)\]", path.read_text())
    ]
    assert len(hints) >= 8
    assert {name for name, _ in hints} == {project["name"]} == {"copse-search"}
    extras = {extra.strip() for _, given in hints for extra in given.split(",")}
    assert extras <= set(project["optional-dependencies"])
    sources = [path for path in files if path.suffix == ".py" and "tests" not in path.parts]
    joined = re.sub(r'"\s*\n\s*f?[\'"]', "", "".join(path.read_text() for path in sources))
    asked = re.findall(r"pip install ([^`\n]+)", joined)
    assert asked and all(text.startswith('"copse-search[') for text in asked), asked


def test_extras_and_what_they_are_for() -> None:
    """An extra that nothing uses is not offered."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert set(extras) == {"math", "train", "bench", "serve", "ray", "all", "test", "dev", "peers"}
    assert extras["all"] == ["copse-search[math,train,bench,serve]"]


SEARCHES = """
    import logging, sys
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    import search, numpy
    from search.tree.tree import Tree
    tree = Tree("root")
    tree.add(0, ["a", "b"], ["A", "B"], numpy.array([0.5, 0.5]))
    for _ in range(3):
        leaves = tree.select(1)
        tree.backup(leaves, [1.0])
    assert tree.visits(0) == 3
    print("from", search.__file__)
"""


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """A folder with the packages of the wheel, nothing else: what an installation leaves in
    site-packages.
    """
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    return tmp_path / "site"


@pytest.mark.thorough
def test_the_installed_wheel_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    assert f"from {installed / 'search'}" in python(
        SEARCHES, cwd=tmp_path, PYTHONPATH=str(installed)
    )
    helped = python(
        "from copse.__main__ import main; main()", "--help", cwd=tmp_path, PYTHONPATH=str(installed)
    )
    assert "solve" in helped and "view" in helped


@pytest.mark.thorough
def test_an_installation_and_a_home_that_cannot_be_written(installed: Path, tmp_path: Path) -> None:
    """Kernels are kept in the temporary folder, compiled once."""
    (tmp_path / "home").touch()
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    surroundings = {
        "PYTHONPATH": str(installed),
        "TMPDIR": str(temporary),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    surroundings |= {
        "HOME": str(tmp_path / "home"),
        "XDG_CACHE_HOME": None,
        "NUMBA_CACHE_DIR": None,
    }  # type: ignore[dict-item]
    before = set(installed.rglob("*"))
    for folder in (installed, *filter(Path.is_dir, before)):
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        first = python(SEARCHES, cwd=tmp_path, **surroundings)
        assert first.count("compiling kernels") == 1, "a first compile logs one line"
        assert str(temporary) in first and list(temporary.rglob("*.nbi")), "they are kept"
        assert "compiling" not in python(SEARCHES, cwd=tmp_path, **surroundings)
        assert set(installed.rglob("*")) == before, "root may write there, but nothing does"
    finally:
        for folder in (installed, *filter(Path.is_dir, before)):
            folder.chmod(0o755)


@pytest.mark.thorough
def test_every_module_that_compiles_leaves_the_installation_as_it_was(
    installed: Path, tmp_path: Path
) -> None:
    """Whichever of them is imported first, and where Numba would keep kernels of the user's own."""
    before = set(installed.rglob("*"))
    code = """
        import importlib, pathlib, sys, numba
        hexes = importlib.import_module("search.problems.hex")
        import numpy
        row = numpy.zeros(10, numpy.uint8)
        hexes.start(row)
        hexes.play(row, 3)
        kept = list(pathlib.Path(sys.argv[1]).rglob("*.nbi"))
        print(row[3], len(kept), repr(numba.config.CACHE_DIR))
    """
    surroundings = {
        "PYTHONPATH": str(installed),
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": str(tmp_path / "kept"),
    }
    found = python(code, str(tmp_path / "kept"), cwd=tmp_path, NUMBA_CACHE_DIR=None, **surroundings)
    assert found.split() == ["1", "2", "''"]
    assert set(installed.rglob("*")) == before


@pytest.mark.thorough
def test_compiled_code_is_kept_for_the_user_and_never_beside_the_source(tmp_path: Path) -> None:
    """Numba's variable, read once by Numba, is asked in a process of its own."""
    code = """
        import os, sys
        from search.kernels import kernel_cache
        print(kernel_cache.folder())
        kernel_cache.folder.cache_clear()
        os.environ["XDG_CACHE_HOME"] = sys.argv[1]
        print(kernel_cache.folder())
    """
    given = str(tmp_path / "given")
    surroundings = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": None}
    found = python(code, given, NUMBA_CACHE_DIR=None, **surroundings).split()
    assert found == [str(tmp_path / "home" / ".cache" / "copse"), f"{given}/copse"]
    (found, _) = python(code, str(tmp_path), NUMBA_CACHE_DIR=given, **surroundings).split()
    assert found == f"{given}/copse"


@pytest.mark.parametrize(
    "given",
    [
        pytest.param("NUMBA_CACHE_DIR", marks=pytest.mark.thorough),
        pytest.param("XDG_CACHE_HOME", marks=pytest.mark.slow),
    ],
)
def test_where_no_kernel_can_be_kept_it_is_compiled_in_memory_and_said_once(
    installed: Path, tmp_path: Path, given: str
) -> None:
    """A folder that is asked for by Numba's variable is the only one; of the others all must
    fail.
    """
    nowhere = tmp_path / "file"
    nowhere.touch()
    surroundings = {
        "PYTHONPATH": str(installed),
        "NUMBA_CACHE_DIR": None,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    surroundings[given] = str(nowhere)
    if given == "XDG_CACHE_HOME":
        surroundings["HOME"] = str(nowhere)
    nothing = f"""
        import tempfile
        tempfile.tempdir = {str(nowhere)!r}
    """ if given == "XDG_CACHE_HOME" else ""  # fmt: skip
    before = set(installed.rglob("*"))
    found = python(
        textwrap.dedent(nothing) + textwrap.dedent(SEARCHES), cwd=tmp_path, **surroundings
    )
    assert found.count("set NUMBA_CACHE_DIR to a folder of yours") == 1 and str(nowhere) in found
    assert "for this process alone" in found and f"from {installed / 'search'}" in found
    assert set(installed.rglob("*")) == before


BUILTIN = """
    import sys
    from search.cli.main import main
    assert main(["solve", "Use 4, 7, 8 and 8 to make 24.", *sys.argv[1:]]) == 0
    print("loaded", [m for m in {heavy} if m in sys.modules])
"""


@pytest.mark.thorough
def test_the_built_in_model_answers_without_transformers() -> None:
    heavy = ("transformers", "accelerate", "pyarrow", "pandas", "scipy")
    *told, loaded = python(BUILTIN.format(heavy=heavy)).splitlines()
    assert loaded == "loaded []" and any(line.startswith("answer: ") for line in told)


@pytest.mark.slow
def test_a_budget_of_seconds_is_spent_on_searching_though_kernels_must_be_compiled(
    tmp_path: Path,
) -> None:
    fresh = {"NUMBA_CACHE_DIR": str(tmp_path)}
    told = python(BUILTIN.format(heavy=()), "--budget", "seconds=5", **fresh)
    assert "answer: " in told and "stopped: verified" in told


@pytest.mark.thorough
def test_two_processes_compile_at_once(tmp_path: Path) -> None:
    code = "import sys; sys.stdin.readline()\n" + textwrap.dedent(SEARCHES)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-P", "-c", code]
    pipe = subprocess.PIPE
    both = [
        subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        for _ in range(2)
    ]
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in both:
        out, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        assert "from " in out
    assert list((tmp_path / "cache").rglob("*.nbi"))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("models", marks=pytest.mark.thorough),
        pytest.param("guides", marks=pytest.mark.slow),
    ],
)
def test_a_folder_of_the_users_with_our_name_stands_beside_ours(tmp_path: Path, name: str) -> None:
    """Ours is taken where we want it, in Python and by the command; once the user's own is loaded,
    a sentence says what to do.
    """
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    problem = "Use 4, 7, 8 and 8 to make 24."
    ways = {
        "models": f"from search.cli.main import main; main(['solve', {problem!r}])",
        "guides": f"print(search.solve({problem!r}))",
    }
    for first, told in (("", "(verified)"), (f"import {name}; ", "rename")):
        script = tmp_path / "script.py"
        script.write_text(
            f"{first}import search\ntry:\n    {ways[name]}\nexcept ImportError as error:\n    "
            "print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, timeout=120, cwd=tmp_path
        )
        assert told in done.stdout + done.stderr, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_installs_into_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    place = tmp_path / "env" / "bin"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def call(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=1500
        )

    assert call(str(place / "pip"), "install", "-q", str(wheel)).returncode == 0
    assert call(str(place / "copse"), "--help").returncode == 0
    done = call(str(place / "copse"), "solve", "Use 4, 7, 8 and 8 to make 24.")
    assert done.returncode == 0 and "24" in done.stdout, done.stderr
