"""The page as a file: one HTML document with its data, which loads nothing from anywhere.

What models wrote cannot become part of the page. It stands as JSON in script tags that are no
scripts, with every `<` escaped, and the page writes it as text only. A policy in the document's
head lets the browser run the page's own script and style, by their digests, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from search import view
from search.files.atomic import atomic
from search.page import data
from search.page.data import Subject
from search.plain_text import harmless

SCRIPTS = ("layout.js", "tree.js", "picture.js", "pane.js", "panel.js", "page.js")
HEIGHT = 720  #: pixels of the frame in a notebook


@dataclass(frozen=True)
class Page:
    """A page of search trees: `html` is the whole document. A notebook shows it in a frame."""

    html: str

    def save(self, path: str | Path) -> Path:
        """Write the page to a file, which a browser opens. Raises OSError."""
        with atomic(Path(path)) as part:
            part.write_text(self.html, encoding="utf-8")
        return Path(path)

    def __repr__(self) -> str:
        return f"Page({len(self.html):,} characters; save(path) writes it)"

    def _repr_html_(self) -> str:
        return (
            f'<iframe title="Search trees" sandbox="allow-scripts" '
            f'style="width:100%;height:{HEIGHT}px;border:0" '
            f'srcdoc="{html.escape(self.html)}"></iframe>'
        )


def page(subjects: Sequence[Subject], beside: Sequence[Subject] = ()) -> Page:
    """The page of some trees. Trees of one problem stand together, so that two of them can be
    looked at side by side.

    beside  trees of other searches of the same problems, each shown at the right of the first tree
            of its problem; those of other problems are left out
    Raises ValueError without a tree, and where `beside` has none of these problems.
    """
    if not subjects:
        raise ValueError("there is no tree to show: give the trace of a search")
    problems: dict[str, dict[str, Any]] = {}
    blocks: list[str] = []

    def add(shown: Subject, row: dict[str, Any]) -> None:
        told = data.tree(shown)
        name = f"tree{len(blocks)}"
        vote = told["vote"] and told["vote"]["right"]
        verdicts = {"search": told["search"]["right"], "vote": vote}
        row["trees"].append({"data": name, "name": told["name"], **verdicts})
        blocks.append(_block(name, told))

    for shown in subjects:
        statement = harmless(view.statement(shown.trace))
        empty: dict[str, Any] = {"statement": statement, "trees": [], "beside": None}
        add(shown, problems.setdefault(data.key(shown.trace), empty))
    for shown in beside:
        row = problems.get(data.key(shown.trace))
        if row is None:
            continue
        if row["beside"] is None:
            row["beside"] = len(row["trees"])
        add(shown, row)
    if beside and len(blocks) == len(subjects):
        raise ValueError(
            "no trace to stand beside is of the same problem: give traces of the same problems"
        )
    blocks.insert(0, _block("problems", list(problems.values())))
    script = "\n".join(map(_part, SCRIPTS))
    style = _part("page.css")
    first = next(iter(problems.values()))["statement"]
    text = Template(_part("page.html")).substitute(
        policy=f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}",
        title=html.escape(first.strip().partition("\n")[0]),
        style=style,
        data="\n".join(blocks),
        script=script,
    )
    return Page(text)


def _block(name: str, value: Any) -> str:
    """JSON in ASCII, so that no separator of lines and no half of a character stands in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _part(name: str) -> str:
    return files("search.page").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """A source of a content security policy: the script or style that has this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
