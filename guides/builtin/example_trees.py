"""What the training data of chains and of stories have in common: how large problems are, the
order of computing, and an example as a tree.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping

#: definitions to compute: how often
OPERATIONS: Mapping[int | str, float] = {1: 0.05, 2: 0.15, 3: 0.2, 4: 0.25, 5: 0.2, 6: 0.15}
EARLY = 0.3  #: until this share of the training only up to `EASY` operations are drawn
EASY = 3
DISTRACTORS = 3  #: up to this many, evenly
BRANCHES = 4  #: wrong lines in an example
AFTER = 2  #: lines behind a wrong one, up to this many, evenly
#: share of the branches that go on to an answer which give one at once, before all is computed
PREMATURE = 0.25

Segment = tuple[str, float, float, int]


def sizes(operations: Mapping[int | str, float], progress: float) -> tuple[list[int], list[float]]:
    """How many definitions there may be to compute so far in the training, and how often each."""
    now = {int(k): p for k, p in operations.items() if progress >= EARLY or int(k) <= EASY}
    return list(now), list(now.values())


def computing_order(
    plan: list[str], given: Iterable[str], operands: Callable[[str], Iterable[str]]
) -> list[str]:
    """The planned names in the order in which they are computed: of those whose operands are known,
    the last planned first.
    """
    left = list(plan)
    known = set(given)
    found = []
    while left:
        name = next(name for name in reversed(left) if known.issuperset(operands(name)))
        left.remove(name)
        known.add(name)
        found.append(name)
    return found


def example_tree(
    prompt: str,
    solution: list[str],
    branch: Callable[[int, bool], Iterator[str]],
    ends: float,
    rng: random.Random,
) -> list[Segment]:
    """The solution below the prompt, and `BRANCHES` branches that leave it by a wrong line.

    branch  (at, whole) -> the lines of a branch in place of the solution's line `at`; whole: all,
            to an answer
    ends    share of the branches that are whole
    """
    segments: list[Segment] = [(prompt + "\n", 0.0, 1.0, -1)]
    segments += [(text + "\n", 1.0, 1.0, i) for i, text in enumerate(solution)]
    for _ in range(BRANCHES):
        at = rng.randrange(len(solution))
        whole = bool(ends) and rng.random() < ends
        for i, text in enumerate(branch(at, whole)):
            segments.append((text + "\n", 0.0, 0.0, len(segments) - 1 if i else at))
    return segments
