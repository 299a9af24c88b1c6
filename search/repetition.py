"""Chains of thought that go round in a circle: a language model that repeats itself seldom stops
by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

TIMES = 3  #: so often the same in a row is a loop
LONGEST = 8  #: steps of the longest cycle that is looked for
LEAST = 64  #: characters of the shortest loop: short steps may well come a few times in a row


def repeats(steps: Sequence[str]) -> bool:
    """Whether a chain of steps ends with the same step, or the same few steps, three times in a
    row or more.
    """
    for size in range(1, min(LONGEST, len(steps) // TIMES) + 1):
        first = len(steps) - size
        while first > 0 and steps[first - 1] == steps[first - 1 + size]:
            first -= 1
        if len(steps) - first >= TIMES * size and sum(map(len, steps[first:])) >= LEAST:
            return True
    return False


def stutters(text: str) -> bool:
    """Whether at least half of a text, up to its end, is one piece three times or more (the last
    perhaps in part).

    Linear in the length of the text, by the prefix function of Knuth, Morris and Pratt.
    """
    backwards = text[::-1]
    borders = [0] * len(backwards)
    for i in range(1, len(backwards)):
        border = borders[i - 1]
        while border and backwards[i] != backwards[border]:
            border = borders[border - 1]
        borders[i] = border + (backwards[i] == backwards[border])
    least = max(LEAST, (len(text) + 1) // 2)
    lengths = range(least, len(text) + 1)
    return any(length >= TIMES * (length - borders[length - 1]) for length in lengths)
