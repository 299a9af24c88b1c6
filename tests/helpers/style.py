"""How lines are written, counted by the syntax tree: `python tests/helpers/style.py [FOLDER ...]`.

The figures are those by which the code is compared with others: lines, long ones, assignments of
tuples, conditional expressions and comprehensions a thousand lines of code, parameters.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("search", "models", "guides", "benchmarks")
WIDTH = 100
#: in a module that holds kernels
COMPILED = re.compile(
    r"^(from search\.kernels|import triton|from numba|import numba)", re.MULTILINE
)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass
class Style:
    """Counts over files.

    code     lines that are not blank, comments or docstrings
    tuples   assignments of a tuple to a tuple of names; unpacked: those to three or more targets
    chained  conditional expressions in a branch of another one; nested: comprehensions in another
    many     functions of more than eight parameters; most: the largest number of parameters.
             Neither counts those that declare a command's options, nor modules of kernels, whose
             functions take arrays one by one
    """

    files: int = 0
    lines: int = 0
    code: int = 0
    long: int = 0
    statements: int = 0
    tuples: int = 0
    unpacked: int = 0
    ternaries: int = 0
    chained: int = 0
    comprehensions: int = 0
    nested: int = 0
    functions: int = 0
    many: int = 0
    most: int = 0

    def per_thousand(self, count: int) -> float:
        """`count` a thousand lines of code."""
        return 1000 * count / max(1, self.code)


def sources(folders: Iterable[Path]) -> Iterator[Path]:
    """The Python files below folders, in order."""
    for folder in folders:
        yield from sorted(folder.rglob("*.py"))


def style(paths: Iterable[Path]) -> Style:
    """The counts of all files together."""
    counts = Style()
    for path in paths:
        text = path.read_text()
        lines = text.splitlines()
        counts.files += 1
        counts.lines += len(lines)
        counts.long += sum(len(line) > WIDTH for line in lines)
        tree = ast.parse(text)
        compiled = COMPILED.search(text) is not None
        bare = sum(not line.strip() or line.strip().startswith("#") for line in lines)
        counts.code += len(lines) - bare
        for node in ast.walk(tree):
            counts.code -= _documentation(node)
            _count(node, counts, compiled)
    return counts


def _documentation(node: ast.AST) -> int:
    """Lines of the docstring of a module, class or function that are not blank."""
    if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return 0
    text = ast.get_docstring(node, clean=False)
    if text is None:
        return 0
    last = text.rsplit("\n", 1)[-1]
    return sum(bool(line.strip()) for line in text.splitlines()) + (not last.strip())


def _count(node: ast.AST, counts: Style, compiled: bool) -> None:
    counts.statements += isinstance(node, ast.stmt)
    if isinstance(node, ast.Assign):
        wide = [target for target in node.targets if isinstance(target, ast.Tuple)]
        counts.tuples += bool(wide) and isinstance(node.value, ast.Tuple)
        counts.unpacked += isinstance(node.value, ast.Tuple) and any(
            len(target.elts) > 2 for target in wide
        )
    elif isinstance(node, ast.IfExp):
        counts.ternaries += 1
        counts.chained += any(isinstance(part, ast.IfExp) for part in (node.body, node.orelse))
    elif isinstance(node, COMPREHENSIONS):
        counts.comprehensions += 1
        parts = list(ast.walk(node))[1:]
        counts.nested += any(isinstance(part, COMPREHENSIONS) for part in parts)
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        counts.functions += 1
        if not compiled and not is_command(node):
            given = node.args
            parameters = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)
            counts.many += parameters > 8
            counts.most = max(counts.most, parameters)


def is_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether the parameters of a function are options of a command."""
    return any(
        part.annotation is not None and "typer." in ast.unparse(part.annotation)
        for part in [*node.args.args, *node.args.kwonlyargs]
    )


def table(rows: dict[str, Style]) -> str:
    """A Markdown table, a row a package."""
    head = [field.name for field in fields(Style)]
    lines = ["| | " + " | ".join([*head, "tuples/k", "ternaries/k", "comprehensions/k"]) + " |"]
    lines.append("|---" * (len(head) + 4) + "|")
    for name, counts in rows.items():
        shares = (counts.tuples, counts.ternaries, counts.comprehensions)
        cells = [str(getattr(counts, field)) for field in head]
        cells += [f"{counts.per_thousand(share):.1f}" for share in shares]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    folders = [Path(name) for name in sys.argv[1:]] or [ROOT / name for name in PACKAGES]
    rows = {folder.name: style(sources([folder])) for folder in folders}
    rows["all"] = style(sources(folders))
    sys.stdout.write(table(rows) + "\n")
