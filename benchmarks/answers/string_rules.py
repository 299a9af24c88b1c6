r"""The string rules by which evaluation harnesses grade: GSM8K's last number, and MATH's
normalised text (Hendrycks et al. 2021), as lm-evaluation-harness uses them. They say right or
wrong, never that they do not know.
"""

from __future__ import annotations

import re

from search.final_answer import final_answers

_NUMBER = re.compile(r"-?[$\d.,]{2,}|-?\d", re.ASCII)
_LEFT_OUT = (
    r"\n", r"\\!", r"\\left(?![a-z])", r"\\right(?![a-z])", r"\^\{?\\circ\}?", r"\\\$", r"\\?%",
    r" ",
)  # fmt: skip
_UNIT = re.compile(r"\\text\{ .*$", re.DOTALL)
_SHORT = r"(?:\{[^{}]*\}|[a-zA-Z\d])"


def last_number(text: str, target: str) -> bool:
    """Whether the last number of a text is the target, as text without dollars and commas."""
    found = _NUMBER.findall(text)
    return bool(found) and _bare(found[-1]) == _bare(target)


def _bare(number: str) -> str:
    return number.replace(",", "").replace("$", "").removesuffix(".")


def same_text(text: str, target: str) -> bool:
    """Whether the last box of a text is the target, both normalised."""
    found = final_answers(text)
    return bool(found) and _normalised(found[-1]) == _normalised(target)


def _normalised(answer: str) -> str:
    r"""Without spaces, units and percent signs; \frac and \sqrt with braces, 0 before a point, no
    "x =" in front.
    """
    answer = _UNIT.sub("", answer)
    for part in _LEFT_OUT:
        answer = re.sub(part, "", answer)
    answer = re.sub(r"\\[dt]frac", r"\\frac", answer)
    answer = re.sub(r"(?<!\d)\.(?=\d)", "0.", answer)
    name, equals, value = answer.partition("=")
    if equals and len(name) <= 2 and "=" not in value:
        answer = value
    answer = re.sub(r"\\sqrt([^\[{])", r"\\sqrt{\1}", answer)
    answer = re.sub(rf"\\frac({_SHORT})({_SHORT})", _braced, answer)
    if answer == "0.5":
        return r"\frac{1}{2}"
    return re.sub(r"^(-?\d+)/(\d+)$", r"\\frac{\1}{\2}", answer)


def _braced(match: re.Match[str]) -> str:
    top, bottom = (part.strip("{}") for part in match.groups())
    return rf"\frac{{{top}}}{{{bottom}}}"
