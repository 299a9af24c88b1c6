"""The folders stand in layers. Reads all imports with `ast`, imports nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# each may import those before it; `search.cli` stands on all
PACKAGES = ("search", "models", "guides", "benchmarks")
LONGEST = 500  # lines of a file, as a guide: one idea a file

#: Folders, and modules that stand in none, from the ground up. One may import those of the rows
#: above its own, in its row those before it.
ROWS = (
    (
        "search.imports",
        "search.child",
        "search.final_answer",
        "search.files.atomic",
        "search.chain",
        "search.patterns",
        "search.plain_text",
        "search.repetition",
        "search.scheduling",
    ),
    ("search.sandbox",),
    ("search.kernels", "search.problem", "search.kinds", "search.tree"),
    (
        "search.parts",
        "search.functions",
        "search.guide",
        "search.choose",
        "search.parquet_footer",
        "search.shards",
        "search.trace",
    ),
    ("search.methods", "search.problems"),
    (
        "search.view",
        "search.page",
        "search.solution",
        "search.arguments",
        "search.remarks",
        "search.firstuse",
        "search.progress",
        "search.solver",
        "search.running",
        "search.cluster",
        "search.serving",
        "search.checks",
        "search.files",
    ),
    (
        "models.memory",
        "models.checkpoints",
        "models.detokenizer",
        "models.boardnet",
        "models.scripted",
    ),
    ("models.engine", "models.server", "models.environment"),
    ("guides.answers", "guides.engines", "guides.policies"),
    ("guides.rewards", "guides.values", "guides.loading", "guides.data"),
    ("guides.training",),
    ("guides.iteration", "guides.builtin"),
    (
        "benchmarks.tasks",
        "benchmarks.output",
        "benchmarks.processes",
        "benchmarks.answers",
        "benchmarks.sweep",
        "benchmarks.tree",
        "benchmarks.engine",
    ),
    ("benchmarks.verifiers", "benchmarks.learning"),
    ("search.cli", "search.toplevel"),
)
#: Side by side: neither imports the other.
PAIRS = {
    ("search.tree", "search.problem"),
    ("search.trace", "search.choose"),
    ("search.problems", "search.methods"),
    ("models.server", "models.engine"),
    ("guides.builtin", "guides.iteration"),
    ("benchmarks.engine", "benchmarks.tree"),
}
# the command, and all names under `copse`: these may import everything
ROOF = ("search.cli", "search.toplevel")
# the others of their folder are what these have in common
METHODS = ("mcts", "gumbel", "beam", "sample", "selfplay")
# all that `models` imports of `search`
FOR_MODELS = (
    "search.scheduling",
    "search.kernels",
    "search.imports",
    "search.child",
    "search.patterns",
)

#: The only import that reaches upwards, inside a function: the default guide.
SANCTIONED = {("search.arguments", "guides")}

KERNELS = (  # what may import numba in `search`
    "search.kernels",
    "search.tree.edge_vectors",
    "search.tree.selection",
    "search.tree.game_kernels",
    "search.tree.subtree_kernels",
    "search.problems.hex",
)
# what `search` never imports
HEAVY = {"torch", "transformers", "tokenizers", "safetensors", "accelerate", "peft"}
# what `search` imports inside functions only,
LATE = {"pyarrow", "networkx", "sympy", "typer", "rich", "tqdm", "matplotlib", "ray"}
# but for what these are made of
TERMINAL = {"search.cli": {"typer", "rich"}, "search.view": {"rich"}}
# where the built-in kinds may be named
TELLS_ITS_OWN = (
    "search/problems/", "models/builtin/", "guides/builtin/", "benchmarks/tasks.py",
    "benchmarks/learning/symbolic.py",
)  # fmt: skip


@dataclass(frozen=True)
class Import:
    """One imported name: "search.asks" or "search.asks.ask". `lazy`: inside a function.
    `typing`: for annotations only.
    """

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
    """All imports of a source, those that `importlib.import_module("...")` names included.
    `package`: its own, for relative ones.
    """

    def walk(node: ast.AST, lazy: bool, typing: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, lazy, typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = (
                package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            )
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (
                Import(f"{base}.{alias.name}", node.lineno, lazy, typing) for alias in node.names
            )
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("import_module", "__import__", "import_ours")
        ):
            yield from (
                Import(str(arg.value), node.lineno, lazy, typing)
                for arg in node.args[:1]
                if isinstance(arg, ast.Constant)
            )
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
    return list(
        imports(
            path.read_text(), module if path.name == "__init__.py" else module.rpartition(".")[0]
        )
    )


def within(name: str, folder: str) -> bool:
    return name == folder or name.startswith(f"{folder}.")


def place_of(name: str) -> str | None:
    """The folder or module of ROWS in which a name stands; None for a package itself, its public
    names, and what is none of ours.
    """
    return next((place for row in ROWS for place in row if within(name, place)), None)


def broken(module: str, found: Import) -> str | None:
    """Which rule an import of `module` breaks; None: none."""
    top, here = module.partition(".")[0], place_of(module)
    if top == "search":
        if found.top in HEAVY:
            return f"search never imports {found.top}"
        if found.top in LATE - TERMINAL.get(here or "", set()) and not (found.lazy or found.typing):
            return f"{found.top} is imported inside functions only"
    if (
        found.top == "numba"
        and top == "search"
        and not any(within(module, kernel) for kernel in KERNELS)
    ):
        return "only modules that hold kernels import numba"
    if found.top not in PACKAGES or here in ROOF:
        return None
    if here is None and "." in module:
        return f"{module} has no place in the layers yet: give it one in ROWS"
    if PACKAGES.index(found.top) > PACKAGES.index(top):
        sanctioned = found.lazy and (here, found.top) in SANCTIONED
        return None if sanctioned else f"{top} stands below {found.top}"
    if top == "models" and found.top == "search" and place_of(found.name) not in FOR_MODELS:
        return f"models imports {' and '.join(FOR_MODELS)} only"
    if found.typing or here is None:
        return None
    return _broken_between(module, here, found.name)


def _broken_between(module: str, here: str, name: str) -> str | None:
    there = place_of(name)
    if there is None:
        return None
    if here == there:
        mine, yours = module.split(".")[2:], name.split(".")[2:]
        if (
            here == "search.methods"
            and mine
            and yours
            and mine[0] != yours[0]
            and yours[0] in METHODS
        ):
            return "a method imports no other method"
        return None
    rows = {place: (i, j) for i, row in enumerate(ROWS) for j, place in enumerate(row)}
    if (here, there) in PAIRS or (there, here) in PAIRS or rows[there] > rows[here]:
        return f"{here} stands below or beside {there}"
    return None


@pytest.mark.parametrize("path", files(), ids=module_of)
def test_imports_go_down(path: Path) -> None:
    found = [(one, broken(module_of(path), one)) for one in imports_of(path)]
    faults = [
        f"{path.name}:{one.line} imports {one.name}: {fault}" for one, fault in found if fault
    ]
    assert not faults, "\n".join(faults)


def test_every_module_has_its_place() -> None:
    homeless = [
        module_of(path)
        for path in files()
        if "." in module_of(path) and place_of(module_of(path)) is None
    ]
    assert not homeless, f"give them a place in ROWS: {homeless}"


def test_every_place_is_there() -> None:
    there = {module_of(path) for path in files()}
    assert not [
        place for row in ROWS for place in row if not any(within(module, place) for module in there)
    ], "a row names what is gone"


def test_no_file_stands_in_a_circle() -> None:
    """Imports inside functions count, those for annotations do not."""
    modules = {module_of(path): path for path in files() if path.name != "__init__.py"}
    below: dict[str, set[str]] = {}
    for module, path in modules.items():
        found = [one.name for one in imports_of(path) if not one.typing]
        below[module] = {
            part for name in found for part in (name, name.rpartition(".")[0]) if part in modules
        } - {module}
    while free := [module for module, needs in below.items() if not needs & below.keys()]:
        for module in free:
            del below[module]
    assert not below, f"these import one another: {sorted(below)}"


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("search.scheduling.scheduler", "import torch", "never"),
        ("search.scheduling.scheduler", "def f():\n    import torch", "never"),
        ("search.scheduling.scheduler", "import models", "below"),
        ("search.scheduling.scheduler", "import search.methods.mcts", "below"),
        ("search.scheduling.scheduler", "from search import tree", "below"),
        ("search.scheduling.scheduler", "from .. import tree", "below"),
        (
            "search.scheduling.scheduler",
            "import importlib\nimportlib.import_module('search.tree.tree')",
            "below",
        ),
        ("search.scheduling.scheduler", "from search.scheduling.budget import Meter", None),
        ("search.scheduling.scheduler", "import search.cli.main", "below"),
        ("search.trace", "from search.tree.tree import Tree", None),
        ("search.trace", "import pyarrow", "inside"),
        ("search.trace", "def f():\n    import pyarrow", None),
        ("search.choose", "import numba", "kernels"),
        ("search.tree.tree", "import search.problem", "beside"),
        ("search.problem", "import search.tree.tree", "below"),
        ("search.methods.mcts", "from search.methods.beam import beam", "no other method"),
        ("search.methods.mcts", "from search.methods.expand import grow", None),
        ("search.methods.mcts", "from search.problems import parse", "beside"),
        ("search.arguments", "import guides", "below"),
        ("search.arguments", "def f():\n    import guides", None),
        ("search.arguments", "def f():\n    import benchmarks", "below"),
        ("search.solver", "def f():\n    import guides", "below"),
        ("search.cli.main", "import benchmarks.sweep.run", None),
        ("models.engine.engine", "import guides", "below"),
        ("models.engine.engine", "from search.tree.tree import Tree", "only"),
        ("models.engine.engine", "from models.server.client import Server", "beside"),
        (
            "models.checkpoints.checkpoint",
            "def f():\n    from models.engine.kv_pool import Store",
            "below",
        ),
        ("models.engine.engine", "import torch", None),
        ("guides.policies.lm", "import models, search", None),
        ("guides.policies.lm", "from guides.loading import load", "below"),
        ("guides.policies.lm", "import benchmarks", "below"),
        ("guides.data.holdout", "from guides.iteration.gate import outcomes", "below"),
        ("benchmarks.tree.core", "import guides", None),
        ("benchmarks.tree.core", "import search.cli.options", "below"),
        ("search.new", "from search.scheduling.scheduler import ask", "no place"),
    ],
)
def test_the_rules_catch_a_cheat(module: str, source: str, fault: str | None) -> None:
    faults = [
        text
        for found in imports(source, module.rpartition(".")[0])
        if (text := broken(module, found))
    ]
    assert any(fault in text for text in faults) if fault else not faults


@pytest.mark.parametrize("path", files(), ids=module_of)
def test_files_are_short_and_quiet(path: Path) -> None:
    source = path.read_text()
    lines = source.count("\n")
    assert lines <= LONGEST, f"{lines} lines: a file beyond {LONGEST} wants splitting"
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    printed = [
        node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not printed, f"print() in lines {printed}: use logging"
    if source.strip():
        assert ast.get_docstring(ast.parse(source)), (
            "a module begins with a sentence that says what it is for"
        )


def test_all_loggers_of_ours_have_one_root() -> None:
    """Users turn the records of all of Copse on and off by the logger `copse`."""
    ours = re.compile(r"getLogger\((?:f?\"(?!copse)(?:search|guides|models|benchmarks)|__name__)")
    assert [path for path in files() if ours.search(path.read_text())] == []
    assert sum('getLogger(f"copse.{__name__}")' in path.read_text() for path in files()) > 40


def test_only_the_problems_know_the_built_in_kind() -> None:
    """Search, models and guides serve any problem: none of their files names one."""
    told = [
        path.relative_to(ROOT).as_posix()
        for path in files()
        if "countdown" in path.read_text().lower()
    ]
    assert [name for name in told if not name.startswith(TELLS_ITS_OWN)] == []


def test_no_file_names_a_place_of_one_machine() -> None:
    machine = re.compile(r"(?<![\w.}])/(?:work|home|root|opt|Users|mnt)/")
    patterns = (
        "*.md",
        "*.toml",
        ".ci/*",
        "tests/**/*.py",
        "benchmarks/**/*.md",
        "models/builtin/*.json",
        "models/builtin/*.md",
    )
    texts = [*files(), *(path for pattern in patterns for path in ROOT.glob(pattern))]
    assert not [
        path.relative_to(ROOT).as_posix()
        for path in texts
        if path != Path(__file__) and machine.search(path.read_text())
    ]
