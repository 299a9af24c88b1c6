"""The packages stand in layers. Reads all imports with `ast`, imports nothing.

`a <- b` reads "b may import a":  search <- models <- guides <- benchmarks.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("search", "models", "guides", "benchmarks")  # each may import those before it
LONGEST = 500  # lines of a file, as a guide: one idea a file

#: Modules of `search` from the ground up. A module may import those of the rows above its own, and within its row those before it.
SEARCH = (
    ("shadow", "requests", "final", "loops", "stopwatch", "clock"),
    ("failures", "budget"),
    ("asks", "pool"),
    ("kernel_cache", "problem", "jit", "lanes", "kernels", "rounds", "rules", "fused", "replant", "arena", "tree", "forest", "halving"),
    ("parts", "functions", "guide", "choose", "trace"),
    ("methods", "problems"),
    ("worker", "workers", "solution", "remarks", "firstuse", "door", "view", "progress", "solver", "checks"),
    ("flags", "lines", "jobs", "cli_file", "cli_bench", "cli_train", "cli_label", "cli", "toplevel"),
)
#: Side by side: neither imports the other.
PAIRS = {("tree", "problem"), ("trace", "choose"), ("problems", "methods"), ("methods", "problems")}

#: The only imports that reach upwards, inside functions: module -> packages.
SANCTIONED = {
    "search.door": {"guides"},
    "search.flags": {"guides"},
    "search.cli": {"models", "guides", "benchmarks"},
    "search.cli_file": {"guides"},
    "search.cli_bench": {"benchmarks"},
    "search.cli_train": {"guides"},
    "search.cli_label": {"guides"},
}

KERNELS = {
    "search.jit",
    "search.kernel_cache",
    "search.lanes",
    "search.rules",
    "search.fused",
    "search.replant",
    "search.problems.countdown_paths",
    "search.problems.hex",
}  # what may import numba
HEAVY = {"torch", "transformers", "tokenizers", "safetensors", "accelerate", "peft"}  # what `search` never imports
LATE = {"pyarrow", "networkx", "sympy", "typer", "rich", "tqdm", "matplotlib"}  # what `search` imports inside functions only,
TERMINAL = {  # but for what these are made of
    "search.cli": {"typer", "rich"},
    "search.cli_file": {"typer"},
    "search.cli_bench": {"typer"},
    "search.cli_train": {"typer"},
    "search.cli_label": {"typer"},
    "search.view": {"rich"},
}
SHARED = ("affordable", "grow", "session", "inflight", "flight", "simulate")  # what methods may import of each other's package
TELLS_ITS_OWN = ("search/problems/", "models/builtin/", "benchmarks/tasks.py")  # where the built-in kinds of problem may be named


@dataclass(frozen=True)
class Import:
    """One imported name: "search.asks" or "search.asks.ask". `lazy`: inside a function. `typing`: for annotations only."""

    name: str
    line: int
    lazy: bool
    typing: bool

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


def files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, package: str = "") -> Iterator[Import]:
    """All imports of a source, those that `importlib.import_module("...")` names included. `package`: its own, for relative ones."""

    def walk(node: ast.AST, lazy: bool, typing: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, lazy, typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (Import(f"{base}.{alias.name}", node.lineno, lazy, typing) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__", "import_ours")):
            yield from (Import(str(arg.value), node.lineno, lazy, typing) for arg in node.args[:1] if isinstance(arg, ast.Constant))
        lazy = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from walk(child, lazy, True)
            for child in node.orelse:
                yield from walk(child, lazy, typing)
            return
        for child in ast.iter_child_nodes(node):
            yield from walk(child, lazy, typing)

    yield from walk(ast.parse(source), False, False)


def imports_of(path: Path) -> list[Import]:
    module = module_of(path)
    return list(imports(path.read_text(), module if path.name == "__init__.py" else module.rpartition(".")[0]))


def inner(name: str) -> str:
    """ "methods" of "search.methods.mcts", "" of "search" and of what is not a module of `search`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "search" and any(parts[1] in row for row in SEARCH) else ""


def broken(module: str, found: Import) -> str | None:
    """Which rule an import of `module` breaks; None: none."""
    top = module.partition(".")[0]
    if top == "search":
        if found.top in HEAVY:
            return f"search never imports {found.top}"
        if found.top in LATE - TERMINAL.get(module, set()) and not (found.lazy or found.typing):
            return f"{found.top} is imported inside functions only"
    if found.top == "numba" and top == "search" and module not in KERNELS:
        return "only modules that hold kernels import numba"
    if found.top not in PACKAGES:
        return None
    if PACKAGES.index(found.top) > PACKAGES.index(top):
        if found.lazy and found.top in SANCTIONED.get(module, ()):
            return None
        return f"{top} stands below {found.top}"
    if top == "models" and found.top == "search" and inner(found.name) not in ("requests", "budget", "jit", "shadow"):
        return "models imports search.requests, search.budget, search.jit and search.shadow only"
    if top == "search" and found.top == "search" and not found.typing and module != "search":
        return _broken_inside(module, found.name)
    return None


def _broken_inside(module: str, name: str) -> str | None:
    here, there = inner(module), inner(name)
    if not there:
        return None
    if here == there:
        mine, yours = module.split(".")[2:], name.split(".")[2:]
        if here == "methods" and mine and yours and mine[0] != yours[0] and yours[0] not in SHARED:
            return "a method imports no other method (but grow, session and simulate)"
        return None
    rows = {part: (i, j) for i, row in enumerate(SEARCH) for j, part in enumerate(row)}
    if not here:
        return f"{module} has no place in the layers yet: give it one in SEARCH"
    if (here, there) in PAIRS or rows[there] > rows[here]:
        return f"search.{here} stands below or beside search.{there}"
    return None


@pytest.mark.parametrize("path", files(), ids=module_of)
def test_imports_go_down(path: Path) -> None:
    found = [(one, broken(module_of(path), one)) for one in imports_of(path)]
    faults = [f"{path.name}:{one.line} imports {one.name}: {fault}" for one, fault in found if fault]
    assert not faults, "\n".join(faults)


def test_every_module_of_search_has_its_place() -> None:
    placed = {part for row in SEARCH for part in row}
    there = {path.stem for path in (ROOT / "search").glob("*.py")} - {"__init__"}
    there |= {path.parent.name for path in (ROOT / "search").glob("*/__init__.py")}
    assert there <= placed, f"give them a place in SEARCH: {sorted(there - placed)}"


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("search.asks", "import torch", "never"),
        ("search.asks", "def f():\n    import torch", "never"),
        ("search.asks", "import models", "below"),
        ("search.asks", "import search.methods.mcts", "below"),
        ("search.asks", "from search import tree", "below"),
        ("search.asks", "from . import tree", "below"),
        ("search.asks", "import importlib\nimportlib.import_module('search.tree')", "below"),
        ("search.asks", "from search.budget import Meter", None),
        ("search.trace", "from search.tree import Tree", None),
        ("search.trace", "import pyarrow", "inside"),
        ("search.trace", "def f():\n    import pyarrow", None),
        ("search.choose", "import numba", "kernels"),
        ("search.tree", "import search.problem", "beside"),
        ("search.problem", "import search.tree", "below"),
        ("search.methods.mcts", "from search.methods.beam import beam", "no other method"),
        ("search.methods.mcts", "from search.methods.grow import grow", None),
        ("search.methods.mcts", "from search.problems import parse", "beside"),
        ("search.door", "import guides", "below"),
        ("search.door", "def f():\n    import guides", None),
        ("search.door", "def f():\n    import benchmarks", "below"),
        ("models.engine", "import guides", "below"),
        ("models.engine", "from search.tree import Tree", "only"),
        ("models.engine", "import torch", None),
        ("guides.lm", "import models, search", None),
        ("guides.lm", "import benchmarks", "below"),
        ("benchmarks.core", "import guides", None),
        ("search.new", "from search.asks import ask", "no place"),
    ],
)
def test_the_rules_catch_a_cheat(module: str, source: str, fault: str | None) -> None:
    faults = [text for found in imports(source, module.rpartition(".")[0]) if (text := broken(module, found))]
    assert any(fault in text for text in faults) if fault else not faults


@pytest.mark.parametrize("path", files(), ids=module_of)
def test_files_are_short_and_quiet(path: Path) -> None:
    source = path.read_text()
    lines = source.count("\n")
    assert lines <= LONGEST, f"{lines} lines: a file beyond {LONGEST} wants splitting"
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    printed = [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]
    assert not printed, f"print() in lines {printed}: use logging"
    if source.strip():
        assert ast.get_docstring(ast.parse(source)), "a module begins with a sentence that says what it is for"


def test_only_the_problems_know_the_built_in_kind() -> None:
    """Search, models and guides serve any problem: none of their files names one."""
    told = [path.relative_to(ROOT).as_posix() for path in files() if "countdown" in path.read_text().lower()]
    assert [name for name in told if not name.startswith(TELLS_ITS_OWN)] == []


def test_no_file_names_a_place_of_one_machine() -> None:
    machine = re.compile(r"(?<![\w.}])/(?:work|home|root|opt|Users|mnt)/")
    patterns = ("*.md", "*.toml", ".ci/*", "tests/*.py", "*/README.md", "benchmarks/*.md", "models/builtin/*.json", "models/builtin/*.md")
    texts = [*files(), *(path for pattern in patterns for path in ROOT.glob(pattern))]
    assert not [path.relative_to(ROOT).as_posix() for path in texts if path != Path(__file__) and machine.search(path.read_text())]
