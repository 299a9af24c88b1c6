"""The answer key of word problems: the true counts of a story, the right answer, and which lines
are wrong, as functions of the problem. For labels and reports; no search may call it.
"""

from __future__ import annotations

from operator import itemgetter

from search.problems.words import State, Words
from search.problems.words_story import Line, Story, read_line


def true_counts(story: Story) -> dict[str, int]:
    """Name -> true count, of all."""
    counts = dict(story.given)
    for name in story.order():
        definition = story.defined[name]
        count = definition.made([counts[operand] for operand in definition.operands])
        assert count is not None, "a story has no other counts"
        counts[name] = count
    return counts


def target(problem: Words) -> str | None:
    """The right answer of a story; None for other problems."""
    story = problem.story
    return None if story is None else str(true_counts(story)[story.query])


def mistakes(problem: Words, state: State) -> list[bool] | None:
    """Which lines of `state` are wrong: bool, one a line; None for a problem that is no story.

    A note is right if its definition is in the statement. Counts are right if, besides, the
    operands' were given or computed before, and all are true. The answer is right if it is the
    count that was asked for, computed before. Any other line is wrong; a right line that is not
    needed is no mistake.
    """
    story = problem.story
    if story is None:
        return None
    truth = true_counts(story)
    answer = str(truth[story.query])
    computed = set(story.given)
    wrong = []
    for i, step in enumerate(state):
        line = read_line(step.text)
        if line is None:
            right = story.query in computed and problem.answer(state[: i + 1]) == answer
        else:
            right = story.defined.get(line.name) == line.definition
            if line.values:
                right &= _follows(line, computed, truth)
                if right:
                    computed.add(line.name)
        wrong.append(not right)
    return wrong


def _follows(line: Line, computed: set[str], truth: dict[str, int]) -> bool:
    """Whether a line of counts names the operands and itself, in their order, and all are true."""
    operands = line.definition.operands
    names = tuple(map(itemgetter(0), line.values))
    if names != (*operands, line.name) or not set(operands) <= computed:
        return False
    return all(truth.get(name) == count for name, count in line.values)
