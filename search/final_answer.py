"""The final answer of a written solution: where it stands, and how it is cut out. Reads, and
evaluates nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[^a-zA-Z]|[{}]")
_MARKS = re.compile(
    r"####\s*([^\n]+)|\b(?:final )?answer\**(?: is\b(?:\s*:)?|\s*:)\**\s*([^\n]+)|^[ \t]*\**A:\**[ "
    r"\t]*([^\n]+)",
    re.IGNORECASE | re.MULTILINE,
)
# beside it "A: 5" is one of several choices
_OTHER_CHOICE = re.compile(r"^[ \t]*\**B:", re.MULTILINE)
_SENTENCE = re.compile(r"\.\s+(?=[A-Z])")  # "18 dollars. She has ..."

#: What opens the thoughts of a model, and what closes them (DeepSeek-R1 and Qwen3, Magistral,
#: GPT-OSS, Command A, Kimi, others)
THOUGHTS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",
    "<|channel|>analysis": "<|channel|>final",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "\u25c1think\u25b7": "\u25c1/think\u25b7",
}
_LONGEST_MARK = max(map(len, [*THOUGHTS, *THOUGHTS.values()]))
_TAGS = re.compile("|".join(map(re.escape, [*THOUGHTS, *THOUGHTS.values()])))
_OPENED = re.compile(rf"(?:{'|'.join(map(re.escape, THOUGHTS))})(?:<\|message\|>)?\s*\Z")


def opens_thought(prompt: str) -> bool:
    """Whether a prompt ends with what opens the thoughts of a model, so that its text begins
    among them.
    """
    return _OPENED.search(prompt) is not None


def thinking(text: str, before: bool = False) -> bool:
    """Whether `text` ends among the thoughts of a model. before: whether it began among them."""
    tags = _TAGS.findall(text)
    return tags[-1] in THOUGHTS if tags else before


def spoken(text: str) -> str | None:
    """What stands behind the last thoughts in `text`, all of it where there are none; None where
    they are not closed.
    """
    end = 0
    last = ""
    for match in _TAGS.finditer(text):
        end = match.end()
        last = match[0]
    return None if last in THOUGHTS else text[end:]


@dataclass(frozen=True)
class Reading:
    """What of a text that grows tells whether it can have an answer yet, without the text.

    tail      its last characters, in which a mark may have begun
    thinking  whether it ends among thoughts;  box: whether a box begins behind the last of them
    """

    tail: str = ""
    thinking: bool = False
    box: bool = False

    def after(self, piece: str) -> Reading:
        """Of the text with `piece` added. Takes no longer for a longer text."""
        text = self.tail + piece
        tags = list(_TAGS.finditer(text))
        thinking = self.thinking
        box = self.box or _has_box(text)
        if tags:
            thinking = tags[-1][0] in THOUGHTS
            box = _has_box(text[tags[-1].end() :])
        return Reading(text[-_LONGEST_MARK:], thinking, box)


def final_answers(text: str) -> list[str] | None:
    r"""Everything that `text` marks as its final answer in its strongest way, in order.

    The ways: `\boxed{...}`; else `#### x`, "the answer is x", "Answer: x" or a line "A: x". Only
    what is `spoken` counts. [] where nothing is marked; None where a mark is not finished: open
    thoughts, or a box that is not closed. An empty box gives "". Linear in the length of `text`.
    """
    behind = spoken(text)
    if behind is None:
        return None
    text = behind
    if _has_box(text):
        boxes = _boxes(text)
        if boxes is None or boxes:
            return boxes
    choices = _OTHER_CHOICE.search(text) is not None
    found = [match.groups() for match in _MARKS.finditer(text)]
    return [_clean(a or b or c) for a, b, c in found if c is None or not choices]


def final_answer(text: str) -> str | None:
    r"""The last of `final_answers`: the last `\boxed{...}` in `text`, else the last `#### x`, "the
    answer is x", "Answer: x" or "A: x".

    None without any. Only what is `spoken` counts; while thoughts are open there is no answer yet.
    """
    found = final_answers(text)
    if not found:
        return None
    return found[-1] or None


def boxed(text: str) -> bool:
    r"""Whether a `\boxed{...}` that is not empty is completed in `text`, and none is open."""
    return _has_box(text) and any(_boxes(text) or ())


def _has_box(text: str) -> bool:
    return "\\boxed" in text or "\\fbox" in text


def _boxes(text: str) -> list[str] | None:
    """What stands in the outermost boxes; None where one is not closed. A brace with a backslash
    before it is no brace.
    """
    boxes: list[str] = []
    depth = 0
    start = -1  # where the box that is open begins, -1: none is
    outside = 0  # depth around that box
    for match in _BRACES.finditer(text):
        mark = match[0]
        if mark[-1] == "{" and mark != "\\{":
            depth += 1
            if start < 0 and len(mark) > 1:
                start = match.end()
                outside = depth - 1
        elif mark == "}":
            depth -= 1
            if start >= 0 and depth == outside:
                boxes.append(text[start : match.start()].strip())
                start = -1
    return None if start >= 0 else boxes


def _clean(mark: str) -> str:
    """A mark's line without what frames its answer: bold, dollars, a full stop, the sentence
    after it.
    """
    if mark.lstrip("$*-\\ ")[:1].isdigit():
        mark = _SENTENCE.split(mark, maxsplit=1)[0]
    mark = mark.strip().strip("*").strip()
    return mark.removeprefix("$").rstrip(".$ ").strip().removesuffix("**").strip()
