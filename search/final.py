"""The final answer of a written solution: where it stands, and how it is cut out. Reads, and evaluates nothing."""

from __future__ import annotations

import re

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[^a-zA-Z]|[{}]")
_MARKS = re.compile(
    r"####\s*([^\n]+)|\b(?:final )?answer\**(?: is\b(?:\s*:)?|\s*:)\**\s*([^\n]+)|^[ \t]*\**A:\**[ \t]*([^\n]+)",
    re.IGNORECASE | re.MULTILINE,
)
_OTHER_CHOICE = re.compile(r"^[ \t]*\**B:", re.MULTILINE)  # beside it "A: 5" is one of several choices
_SENTENCE = re.compile(r"\.\s+(?=[A-Z])")  # "18 dollars. She has ..."


def final_answers(text: str) -> list[str] | None:
    r"""Everything that `text` marks as its final answer in its strongest way, in order.

    The ways: `\boxed{...}`; else `#### x`, "the answer is x", "Answer: x" or a line "A: x". Only what stands after `</think>` counts
    where there is one. [] where nothing is marked; None where a mark is not finished: an open `<think>`, or a box that is not closed.
    An empty box gives "". Linear in the length of `text`.
    """
    if "</think>" in text:
        text = text.rsplit("</think>", 1)[1]
    elif "<think>" in text:
        return None
    if "\\boxed" in text or "\\fbox" in text:
        boxes = _boxes(text)
        if boxes is None or boxes:
            return boxes
    choices = _OTHER_CHOICE.search(text) is not None
    found = [match.groups() for match in _MARKS.finditer(text)]
    return [_clean(a or b or c) for a, b, c in found if c is None or not choices]


def final_answer(text: str) -> str | None:
    r"""The last of `final_answers`: the last `\boxed{...}` in `text`, else the last `#### x`, "the answer is x", "Answer: x" or "A: x".

    None without any. Only what stands after `</think>` counts where there is one; an unfinished `<think>` has no answer yet.
    """
    found = final_answers(text)
    return (found[-1] or None) if found else None


def _boxes(text: str) -> list[str] | None:
    """What stands in the outermost boxes; None where one is not closed. A brace with a backslash before it is no brace."""
    boxes, depth, start, outside = [], 0, -1, 0
    for match in _BRACES.finditer(text):
        mark = match[0]
        if mark[-1] == "{" and mark != "\\{":
            depth += 1
            if start < 0 and len(mark) > 1:
                start, outside = match.end(), depth - 1
        elif mark == "}":
            depth -= 1
            if start >= 0 and depth == outside:
                boxes.append(text[start : match.start()].strip())
                start = -1
    return None if start >= 0 else boxes


def _clean(mark: str) -> str:
    """A mark's line without what frames its answer: bold, dollars, a full stop, the sentence after it."""
    if mark.lstrip("$*-\\ ")[:1].isdigit():
        mark = _SENTENCE.split(mark, maxsplit=1)[0]
    mark = mark.strip().strip("*").strip()
    return mark.removeprefix("$").rstrip(".$ ").strip().removesuffix("**").strip()
