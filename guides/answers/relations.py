"""What is asked of math-verify: sets and inequalities that our own grammar does not read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from guides.answers.proofs import installed, math_verify_equal

#: what relates two sides, or makes a set
RELATES = re.compile(r"[=<>]|\\(?:le|ge|ne|in|cup|cap|setminus|pm|emptyset|mathbb)(?![a-zA-Z])")
COMPARES = re.compile(r"[<>]|\\(?:le|ge|ne)(?![a-zA-Z])")
_FOR_MATH_VERIFY = re.compile(
    r"(?:\\(?:le|ge|ne|in|cup|cap|infty|frac|sqrt|pi|pm|setminus|emptyset|"
    r"varnothing|subset|sin|cos|tan|ln|log|alpha|beta|theta|"
    r"mathbb\{[RZQNC]\})(?![a-zA-Z])|\\[\\{}]|(?<![a-zA-Z])[a-zA-Z](?![a-zA-Z])|[-+*/^=<>()\[\]{}|"
    r",;.!&_ ]|\d)+",
    re.ASCII,
)
_MEMBER = re.compile(r"^([a-zA-Z]) ?\\in(?![a-z]) ?", re.ASCII)
_BARE = re.compile(r"\\(?:mathbb\{.\}|[a-zA-Z]+)")
_LETTER = re.compile(r"[a-zA-Z]")


@dataclass(frozen=True)
class Asked:
    """What has to be asked of a process (`guides.answers.proofs`): whether `function(*args)` is
    True.
    """

    function: Callable[..., bool | None]
    args: tuple


def relation(answer: str, target: str) -> tuple[Asked | None, str]:
    """The question whether two relations are the same, and the way by which it is answered."""
    asked = for_math_verify(answer, target)
    if asked is None:
        return None, "text"
    return (asked if installed() else None), "math-verify"


def for_math_verify(answer: str, target: str) -> Asked | None:
    """The question for math-verify; None where it is none for it: words and units, of which it
    drops some, and what relates nothing.
    """
    texts = [answer, target]
    if not all(len(text) <= 400 and _FOR_MATH_VERIFY.fullmatch(text) for text in texts):
        return None
    if not any(map(RELATES.search, texts)):
        return None
    for text in texts:
        # equations, of which it thinks too well, and 1 < 2
        if "=" in text or (COMPARES.search(text) and not has_letter(text)):
            return None
    members = [_MEMBER.match(text) for text in texts]
    if all(members) and len({member[1] for member in members if member}) > 1:
        return None
    regions = [_MEMBER.sub("", text) for text in texts]
    if any(map(has_letter, regions)):
        # the letter that one of them names must be the one that the other is of
        for member, other in zip(members, texts[::-1], strict=True):
            if member and member[1] not in _BARE.sub("", other):
                return None
    return Asked(math_verify_equal, tuple(regions))


def has_letter(text: str) -> bool:
    """Whether a letter stands in a text that is no name of a command."""
    return _LETTER.search(_BARE.sub("", text)) is not None
