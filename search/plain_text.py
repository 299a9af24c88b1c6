"""Text of others as a terminal may show it: models, files, servers and arguments can hold what
steers a terminal, or turns the order of what is read.
"""

from __future__ import annotations

import logging
import unicodedata

#: categories of Unicode that are not shown: control characters (escapes), formats (which turn the
#: direction of a line), halves of characters, ends of lines and paragraphs
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_KEPT = "\n\t\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"  # the latter two spell words


def harmless(text: str) -> str:
    """`text` with a replacement character for each that is not shown but does something; line
    ends and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(map(_harmless, text))


def one_line(text: str) -> str:
    """`text` in one line, harmless."""
    return harmless(" ".join(text.split()))


def _harmless(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in _HIDDEN:
        return character
    return "\N{REPLACEMENT CHARACTER}"


class Formatter(logging.Formatter):
    """Of log messages that a terminal shows."""

    def format(self, record: logging.LogRecord) -> str:
        return harmless(super().format(record))
