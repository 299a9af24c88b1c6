"""The final answer of a written solution: where it stands, and how it is cut out. Reads, and
evaluates nothing.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

# a place to be filled, \boxed{} or \boxed{\}; then what opens and closes a box
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{(?:\s*\\?\})?|\\[^a-zA-Z]|[{}]")
# what stands in a box that shows where the answer is to go
_PLACE = re.compile(
    r"(?:\\(?:text|mathrm|textbf)\s*\{[\s_.]*\}|\\[lc]?dots|[\s._…?]|\\[_,; ()\[\]])*"
)
# \boxed 2, with nothing behind it on its line
_BARE_BOX = re.compile(
    r"\\(?:boxed|fbox)[ \t]*([-+]?(?:\d|\\[dt]?frac|\\sqrt|\\pi)[^\s$]*)[ \t]*\$*\.?[ \t]*$",
    re.MULTILINE,
)
_TAG_MARKS = re.compile(r"<(/?)answer>|\[(/?)ANSWER\]", re.IGNORECASE)
_FENCE = re.compile(r"\A```[a-z]*\s(.*)```\Z", re.DOTALL)
_KEYS = ("answer", "final_answer", "final answer")  # of an object of JSON, in any case
_MARK = r"(?:final )?answer[*_]*(?: is\b(?:\s*:)?|\s*[:=])[*_]*"
_MARKS = re.compile(
    rf"""
    # a heading that says Answer, and the next line that is not blank; [ ] is a blank
    ^[ \t]*(?:\#{{1,6}}[ \t]*\**|\*\*)(?:the[ ])?(?:final[ ])?answer:?\**:?[ \t]*\n
        \s*(?:(?:\\\[|\$\$)[ \t]*\n\s*)?([^\n]+)
    # GSM8K's mark, "the answer is", "Answer:", and "Final answer: the answer is"
    |(?:(?<!\#)\#\#\#\#(?!\#)[ \t*]*|\b(?={_MARK.replace(" ", "[ ]")}))
        (?:\s*(?:(?:so|thus|hence|therefore),?[ ])?(?:the[ ]|my[ ])?\b{_MARK.replace(" ", "[ ]")})*
        \s*(?:(?:\\\[|\$\$)[ \t]*\n\s*)?([^\n]+)
    |答案[】\s]*(?:(?:应该?)?[是为]|[:：]|(?<=】))\s*[:：]?\s*([^\n]+)
    |^[ \t]*\**A:\**[ \t]*([^\n]+)
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
# beside it "A: 5" is one of several choices
_OTHER_CHOICE = re.compile(r"^[ \t]*\**B:", re.MULTILINE)
# formulas and bold words within a line: $5$, not $5 and $6
_SPANS = re.compile(
    r"(?<![\\$\d])\$(?![\s$])([^$]*[^$\s\\])\$(?![\d$])"
    r"|\\\(((?:(?!\\[()]).)+)\\\)|\*\*(?! )(.+?)\*\*"
)
# what begins as a number or a formula does; what begins as a word may be a name with a full stop
_FORMAL = re.compile(r"[-+$]*(?:\d|\\|[(\[{|√π∞]|[a-zA-Z](?:_\w+)? ?=)")
_SENTENCE = re.compile(
    r"(?<=\S)[.!](?:\s+(?=[^a-z\s])|(?<=[\d)}\]%$][.!])\s+(?=[a-z]))|。\s*(?=\S)"
)
_HOPE = re.compile(r"[.!]\s+I hope (?:it|this|that) is (?:correct|right)\b.*")
_CLAUSE = re.compile(
    r",? (?:so|thus|hence|therefore|which|because|since|altogether|in total|in all|as (?:required|"
    r"needed|desired|wanted|expected|claimed|requested|stated|shown|above)|and (?:so|thus|hence|"
    r"therefore|s?he|they|we))\b|, as\b"
)
# what may take an answer back
_RETRACTS = re.compile(
    r"n['’]t\b|\b(?:no|not|never|wait|but|however|actually|sorry|wrong|incorrect|instead|unless|"
    r"if|or|oops|hmm+|mistake|error|maybe|perhaps|should|rather|only|except)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d[\d,.]*")

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
    length    its characters;  start: of them, those up to the end of the last thoughts
    """

    tail: str = ""
    thinking: bool = False
    box: bool = False
    length: int = 0
    start: int = 0

    def after(self, piece: str) -> Reading:
        """Of the text with `piece` added. Takes no longer for a longer text."""
        text = self.tail + piece
        tags = list(_TAGS.finditer(text))
        thinking = self.thinking
        box = self.box or _has_box(text)
        start = self.start
        if tags:
            thinking = tags[-1][0] in THOUGHTS
            box = _has_box(text[tags[-1].end() :])
            start = self.length - len(self.tail) + tags[-1].end()
        return Reading(text[-_LONGEST_MARK:], thinking, box, self.length + len(piece), start)


def final_answers(text: str) -> list[str] | None:
    r"""Everything that `text` marks as its final answer in its strongest way, in order.

    The ways: `<answer>x</answer>`; `\boxed{x}`; an object of JSON with "answer"; else `#### x`,
    "the answer is x", "Answer: x", a heading "Answer" and a line below it, or a line "A: x". Only
    what is `spoken` counts. [] where nothing is marked; None where a mark is not finished: open
    thoughts, or a box or tag that is not closed. Empty boxes give "" where no
    other is there. Linear in the length of
    `text`.
    """
    behind = spoken(text)
    if behind is None:
        return None
    for way in (_tagged, _boxes, _in_json):
        found = way(behind)
        if found is None or found:
            return found
    return _marked(behind)


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
    return _has_box(text) and any(_braced(text) or ())


def _tagged(text: str) -> list[str] | None:
    """What stands between tags, and in boxes behind the last of them; None where one is not
    closed.
    """
    found: list[str] = []
    start = -1  # where the tag that is open ends, -1: none is
    end = 0
    for match in _TAG_MARKS.finditer(text):
        if not (match[1] or match[2]):
            start = match.end()
        elif start >= 0:
            inside = text[start : match.start()].strip()
            if inside:
                found += _boxes(inside) or _in_json(inside) or _marked(inside) or [_clean(inside)]
            start = -1
            end = match.end()
    if start >= 0:
        return None
    if not found:
        return []
    behind = _boxes(text[end:])
    return None if behind is None else found + behind


def _has_box(text: str) -> bool:
    return "\\boxed" in text or "\\fbox" in text


def _boxes(text: str) -> list[str] | None:
    """What stands in the boxes, those without braces first; None where one is not closed."""
    if not _has_box(text):
        return []
    found = _braced(text)
    return None if found is None else _BARE_BOX.findall(text) + found


def _braced(text: str) -> list[str] | None:
    """What stands in the outermost boxes with braces; None where one is not closed. A brace with a
    backslash before it is no brace.
    """
    boxes: list[str] = []
    depth = 0
    start = -1  # where the box that is open begins, -1: none is
    outside = 0  # depth around that box
    for match in _BRACES.finditer(text):
        mark = match[0]
        if mark[-1] == "}" and len(mark) > 2:
            if start < 0:
                boxes.append("")
        elif mark[-1] == "{" and mark != "\\{":
            depth += 1
            if start < 0 and len(mark) > 1:
                start = match.end()
                outside = depth - 1
        elif mark == "}":
            depth -= 1
            if start >= 0 and depth == outside:
                boxes.append(text[start : match.start()].strip())
                start = -1
    if start >= 0:
        return None
    return [box for box in boxes if not _PLACE.fullmatch(box)] or boxes[-1:]


def _in_json(text: str) -> list[str]:
    """The answer of an object of JSON that is all of `text` or its last line."""
    text = text.strip()
    fenced = _FENCE.match(text)
    if fenced is not None:
        text = fenced[1].strip()
    if not text.endswith("}"):
        return []
    for part in (text, text[text.rfind("\n") + 1 :]):
        if not part.startswith("{"):
            continue
        try:
            found = json.loads(part, parse_int=str, parse_float=str)
        except (ValueError, RecursionError):
            continue
        values = [value for key, value in found.items() if key.lower() in _KEYS]
        if len(values) == 1 and isinstance(values[0], str):
            return values
    return []


def _marked(text: str) -> list[str]:
    """What stands behind the marks in words."""
    choices = _OTHER_CHOICE.search(text) is not None
    found = [match.groups() for match in _MARKS.finditer(text)]
    return [_clean(a or b or c or d) for a, b, c, d in found if d is None or not choices]


def _clean(line: str) -> str:
    """A mark's line without what frames its answer: bold, dollars, a full stop, what is said
    behind it.
    """
    line = _HOPE.sub("", line.strip())
    if line.endswith(("**!", "$!")):  # no factorial
        line = line[:-1]
    if not _FRAMED.fullmatch(line):
        line = _SPANS.sub(lambda match: match[1] or match[2] or match[3], line)
    line = line.strip().removeprefix("**")
    if _FORMAL.match(line):
        line = _alone(line)
    line = line.strip().strip("*").strip()
    if line.startswith("$") and "$" not in line[1:-1]:
        line = line[1:].removesuffix("$")
    return line.rstrip(".。 ").removesuffix("$").strip().removesuffix("**").strip()


_FRAMED = re.compile(r"\$\$[^$]+\$\$|\\\[.+\\\]")


def _alone(line: str) -> str:
    """A number or formula without the sentences and the clause behind it; all of the line where
    these may take it back.
    """
    sentence = _SENTENCE.search(line)
    head = line if sentence is None else line[: sentence.start()]
    clause = _CLAUSE.search(head)
    if clause is not None:
        rest = head[clause.start() :]
        head = head[: clause.start()]
        if not set(_numbers(rest)) <= set(_numbers(head)):
            return line
    return line if _RETRACTS.search(line[len(head) :]) else head


def _numbers(text: str) -> list[str]:
    return [match[0].rstrip(",.") for match in _NUMBER.finditer(text)]
