"""Write the API references of the packages, from docstrings: `python tests/helpers/api.py`.

`search/API.md`, `models/API.md` and `guides/API.md` hold the public names of each package with
their signatures, what is said of them, and the public methods of classes. A test compares them with
what this module would write.
"""

from __future__ import annotations

import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("search", "models", "guides")
WIDTH = 72  #: of a signature that stays on one line
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def reference(package: str) -> str:
    """The API reference of a package, as Markdown."""
    module = importlib.import_module(package)
    lines = [
        f"# API of `{package}`",
        "",
        "Made from the docstrings by `python tests/helpers/api.py`; what to do with it is in",
        "[README.md](README.md).",
    ]
    for name in sorted(module.__all__, key=str.lower):
        lines += ["", *_section(f"{package}.{name}", getattr(module, name))]
    return "\n".join(lines) + "\n"


def _section(name: str, item: Any) -> Iterator[str]:
    yield f"## `{name}`"
    yield ""
    yield "```text"
    if isinstance(item, types.ModuleType):
        yield from _documented(name, item, signature=False)
        for inner in _public_of_module(item):
            yield ""
            yield from _documented(f"{name}.{inner}", getattr(item, inner))
    else:
        yield from _documented(name, item)
    if inspect.isclass(item):
        for method, function in _methods(item):
            yield ""
            yield from _documented(method, function)
    yield "```"


def _documented(name: str, item: Any, signature: bool = True) -> Iterator[str]:
    if signature and callable(item):
        yield name + _signature(item)
    else:
        yield name
    for line in (inspect.getdoc(item) or "").splitlines():
        yield f"    {line}".rstrip()


def _signature(item: Any) -> str:
    try:
        signature = inspect.signature(item)
    except (TypeError, ValueError):
        return "(...)"
    parameters = [
        _parameter(parameter)
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    after = signature.return_annotation
    end = "" if after is signature.empty or inspect.isclass(item) else f" -> {_type(after)}"
    line = f"({', '.join(parameters)}){end}"
    if len(line) <= WIDTH:
        return line
    return "(" + "".join(f"\n    {parameter}," for parameter in parameters) + f"\n){end}"


def _parameter(parameter: inspect.Parameter) -> str:
    text = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text += parameter.name
    if parameter.annotation is not parameter.empty:
        text += f": {_type(parameter.annotation)}"
    if parameter.default is not parameter.empty:
        text += f" = {ADDRESS.sub('', repr(parameter.default))}"
    return text


def _type(annotation: Any) -> str:
    if isinstance(annotation, typing.ForwardRef):
        return annotation.__forward_arg__
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _methods(item: type) -> Iterator[tuple[str, Any]]:
    """Methods and properties of a class that are its own, public and documented."""
    for name, value in vars(item).items():
        if isinstance(value, (classmethod, staticmethod)):
            value = value.__func__
        if isinstance(value, property):
            value = value.fget
        if not name.startswith("_") and inspect.isfunction(value) and value.__doc__:
            yield f"{item.__name__}.{name}", value


def _public_of_module(module: types.ModuleType) -> list[str]:
    """Functions and classes that a public module names as its own, or defines and documents."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
        and getattr(value, "__doc__", None)
    ]


if __name__ == "__main__":
    for package in PACKAGES:
        (ROOT / package / "API.md").write_text(reference(package))
