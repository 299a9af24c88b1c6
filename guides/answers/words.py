"""Answers in words: choices such as (B), yes and no, equal words."""

from __future__ import annotations

import re

_CHOICE = re.compile(r"(\()?([A-Za-z])(?(1)\))")
# a choice and what it says, unless that may take it back or name another one; "A longer path"
# begins with an article
_CHOSEN = re.compile(
    r"(?:\(([A-Z])\)|([A-Z])[).:] )(?: ?A (?!(?i:is|was|are|were|has|does|only|alone)\b)(?=[a-z]))?"
    r"(?!.*(?:n['’]t\b|\b(?:[A-Z]|(?i:or|and|not?|nor|none|neither|never|cannot|impossible|ruled|"
    r"excluded|eliminated|except|wrong|incorrect|false))\b)).*"
)
_WORDS = re.compile(r"[A-Za-z]{2,}(?: [A-Za-z]{2,})*")
# a name, with or without spaces where its parts begin: Rug B, RugB
_NAME = re.compile(r"[A-Z][a-z]{2,}[A-Za-z\d. ]*")
_PARTS = re.compile(r"(?<=[a-z.])(?=[A-Z])|(?<=[a-z])(?=\d)")
_OPPOSITES = (("yes", "no"), ("true", "false"))


def same_words(answer: str, target: str) -> bool | None:
    """Whether two answers in words are the same; None where that cannot be known; NotImplemented
    where they are something else.
    """
    choice = _CHOICE.fullmatch(target)
    if choice is not None and (choice[1] or choice[2].isupper()):
        return _same_choice(answer, choice)
    if _NAME.fullmatch(answer) and _NAME.fullmatch(target) and _apart(answer) == _apart(target):
        return True
    if not _WORDS.fullmatch(answer) or not _WORDS.fullmatch(target):
        return NotImplemented
    mine = bare(answer)
    other = bare(target)
    if mine != other:
        return False if any(mine in pair and other in pair for pair in _OPPOSITES) else None
    one_in_capitals = answer.isupper() != target.isupper()
    if one_in_capitals and len(mine) == 3 and list(mine) == sorted(set(mine)):
        return None  # ABC may be a product, and abc another
    return True if len(mine) > 2 or mine == "no" else None  # AB may not be ab


def _same_choice(answer: str, choice: re.Match[str]) -> bool | None:
    chosen = _CHOICE.fullmatch(answer) or _CHOSEN.fullmatch(answer)
    if chosen is None:
        return None  # what the choice says, perhaps
    mine = chosen[2] or chosen[1]
    if choice[1] or chosen.group(0).startswith("("):
        return mine.upper() == choice[2].upper()
    if mine == choice[2]:
        return True
    return None if mine.islower() else False


def _apart(name: str) -> list[str]:
    """The parts of a name."""
    return _PARTS.sub(" ", name).split()


def bare(words: str) -> str:
    """In small letters and without an article."""
    return re.sub(r"^(?:the|a|an) ", "", words.lower())
