"""The API references are made of the docstrings of today, and name every public name."""

from __future__ import annotations

import importlib
import inspect
import re

import pytest
from api import PACKAGES, ROOT, reference

MADE = "run `python tests/helpers/api.py`"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_a_section(package: str) -> None:
    names = importlib.import_module(package).__all__
    text = (ROOT / package / "API.md").read_text()
    headings = re.findall(r"^## `(.+)`$", text, re.MULTILINE)
    assert sorted(headings) == sorted(f"{package}.{name}" for name in names), MADE


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_said_is_what_the_docstrings_say(package: str) -> None:
    """But for signatures, which another version of Python may print in another way."""
    text = (ROOT / package / "API.md").read_text()
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    made = re.split(r"^## ", reference(package), flags=re.MULTILINE)[1:]
    for written, fresh in zip(sections, made, strict=True):
        name = fresh.split("`")[1]
        item = getattr(importlib.import_module(package), name.rpartition(".")[2])
        said = inspect.getdoc(item) or ""
        if not said.startswith(name.rpartition(".")[2] + "("):  # dataclasses without a docstring
            assert "\n".join(f"    {line}".rstrip() for line in said.splitlines()) in written, MADE
        assert re.findall(r"^\w+\.\w+", written, re.MULTILINE) == re.findall(
            r"^\w+\.\w+", fresh, re.MULTILINE
        ), MADE
