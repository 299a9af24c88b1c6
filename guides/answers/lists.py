r"""Lists, tuples, sets and matrices as their members: (1, 2), \{1, 2\}, 1 and 2, \pm 3, matrices of
LaTeX and [[1, 2], [3, 4]].
"""

from __future__ import annotations

import re
from itertools import chain

from guides.answers.normalise import parts

_BRACKETS = (("(", ")"), ("[", "]"), ("(", "]"), ("[", ")"), ("\\{", "\\}"), ("{", "}"))
_OR = re.compile(r",? or(?: |(?=[-+]))|(?<=[)\]}])or(?=[(\[{\\])")
_AND = re.compile(r",? and(?: |(?=[-+]))|(?<=[)\]}])and(?=[(\[{\\])")
_EITHER_SIGN = re.compile(r" ?\\pm(?![a-zA-Z]) ?")
_MATRIX = re.compile(r"\\begin\{([pbvBV]?)matrix\}((?:(?!\\begin|\\end).)*)\\end\{\1matrix\}")
_TRANSPOSED = re.compile(r"\^ ?\{?(?:T|\\top|\\intercal)\}?$")


def structure(text: str) -> tuple[str, list[str]] | None:
    r"""The brackets around a list ("()", "[)", "\{\}", "" for none) and what stands between its
    commas; None where it is no list.
    """
    for left, right in _BRACKETS:
        if text.startswith(left) and text.endswith(right) and len(text) >= len(left + right):
            inside = parts(text[len(left) : len(text) - len(right)], thousands=False)
            if inside is None or (len(inside) == 1 and left != "\\{"):
                continue
            brackets = "\\{\\}" if left == "{" else left + right
            return brackets, [] if inside == [""] else inside
    if len(_EITHER_SIGN.findall(text)) == 1 and "," not in text:
        return "\\{\\}", [_EITHER_SIGN.sub(sign, text) for sign in "+-"]
    found = parts(_AND.sub(", ", _OR.sub(", ", text)), thousands=True)
    if found is None or len(found) == 1 or not all(found):
        return None
    return "", found


def set_of_one(text: str, beside: tuple[str, list[str]] | None) -> tuple[str, list[str]] | None:
    r"""{5} as a set, which it is beside a set such as \{5\}; None elsewhere."""
    if beside is None or beside[0] != "\\{\\}" or not (text[:1] == "{" and text[-1:] == "}"):
        return None
    return structure(f"\\{text[:-1]}\\}}")


def alternatives(text: str) -> bool:
    """Whether a list without brackets is joined by "or", so that its order does not count."""
    return _OR.search(text) is not None and _AND.search(text) is None


def matrix(text: str) -> tuple[bool, list[list[str]]] | None:
    """(whether it is a determinant, the cells of each row) of a matrix; None where it is none."""
    for left, right in (("(", ")"), ("[", "]")):
        if text.startswith(left + "\\begin") and text.endswith("}" + right):
            text = text[1:-1]
    match = _MATRIX.fullmatch(text)
    if match is not None:
        lines = match[2].strip().removesuffix("\\\\").split("\\\\")
        return match[1] in ("v", "V"), [line.split("&") for line in lines]
    if not text.startswith("[["):
        return None
    outer = structure(text)
    if outer is None:
        return None
    rows = []
    for row in outer[1]:
        cells = structure(row)
        if cells is None or cells[0] != "[]":
            return None
        rows.append(cells[1])
    return (False, rows) if outer[0] == "[]" else None


def vector(text: str) -> tuple[bool | None, list[str]] | None:
    """(whether it is a column, the components) of a tuple, a row or a column; None where it is
    none of them. A tuple is both a row and a column: None; transposed, it is a column.
    """
    found = matrix(text)
    if found is not None and not found[0]:
        rows = found[1]
        if len(rows) == 1:
            return False, rows[0]
        if set(map(len, rows)) == {1}:
            return True, list(chain.from_iterable(rows))
        return None
    bare = _TRANSPOSED.sub("", text)
    listed = structure(bare)
    if listed is None or listed[0] not in ("()", "[]"):
        return None
    return (None if bare == text else True), listed[1]
