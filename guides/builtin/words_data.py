"""Training data for stories: the lines that solve a problem, and wrong lines for a value head, all
from the generator.

An example is a problem with a small tree below it: the notes and the counts that solve it, to be
imitated, and branches that begin with a wrong line, which are only judged. A label says whether all
lines so far are right. A shard depends on nothing but its seed, its index and how far the training
has come. Every problem belongs to the split "train".
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from guides.builtin.example_trees import (
    AFTER,
    DISTRACTORS,
    OPERATIONS,
    PREMATURE,
    Segment,
    computing_order,
    example_tree,
    sizes,
)
from guides.builtin.words_key import true_counts
from search.problems.words import AMOUNTS, LIMIT, PAIRS, draw, split_of
from search.problems.words_story import NAMES, PHRASES, Definition, Line, Story, tell

NEAR = 10  #: a made-up number differs by up to this much


def examples(
    seed: int,
    shard: int,
    count: int,
    progress: float = 0.0,
    operations: Mapping[int | str, float] = OPERATIONS,
    ends: float = 0.0,
) -> Iterator[list[Segment]]:
    """`count` examples, each a tree of segments (text, weight, value, parent), deterministic in its
    arguments.

    progress    in [0, 1], how far the training has come when it reads them; before `EARLY` some
                size must be up to `EASY`
    operations  definitions to compute: how often; the numbers, or their texts as JSON has them
    ends        share of the wrong branches that go on to an answer, and some to one before all is
                counted: a search comes there, and a value head that never saw an answer below a
                mistake takes any for right

    Segment 0 is the prompt with its newline; the others are lines, newline included, each in the
    place after its parent (an earlier segment; -1 for the prompt). The texts have no end token: a
    chain ends with its answer.
    weight  1.0 on the lines that solve the problem, 0.0 on those that are only judged
    value   1.0 or 0.0: are all lines up to here right
    """
    rng = random.Random(f"words {seed} {shard}")
    made = 0
    while made < count:
        (size,) = rng.choices(*sizes(operations, progress))
        distractors = rng.randint(0, DISTRACTORS)
        story = None
        while story is None:
            story = draw(rng, size, distractors)
        if split_of(story.canonical()) == "train":
            yield _tree(story, rng, ends)
            made += 1


def solution(story: Story) -> list[str]:
    """The lines that solve it: the notes, the counts, of each moment's computable ones the last
    noted, and the answer.
    """
    plan = story.needed()
    known = dict(story.given)
    lines = [str(Line(name, story.defined[name])) for name in plan]
    for name in _order(story, plan):
        lines.append(_count(story.defined[name], name, known))
    lines.append(f"#### {known[story.query]}")
    return lines


def _order(story: Story, plan: list[str]) -> list[str]:
    """The noted names in the order in which their counts are computed."""
    return computing_order(plan, story.given, lambda name: story.defined[name].operands)


def _count(
    definition: Definition, name: str, known: dict[str, int], result: int | None = None
) -> str:
    """The line that computes `name` from what is `known`, or says it is `result`; what it says is
    added there.

    A made-up definition may have no count in our range: it says 0 then.
    """
    operands = definition.operands
    if result is None:
        result = definition.made([known[operand] for operand in operands]) or 0
    known[name] = result
    counts = tuple((person, known[person]) for person in (*operands, name))
    return str(Line(name, definition, counts))


def _tree(story: Story, rng: random.Random, ends: float) -> list[Segment]:
    plan = story.needed()
    counted = _order(story, plan)

    def branch(at: int, whole: bool) -> Iterator[str]:
        return _branch(story, plan, counted, at, whole, rng)

    return example_tree(tell(story, rng), solution(story), branch, ends, rng)


def _branch(
    story: Story, plan: list[str], order: list[str], at: int, whole: bool, rng: random.Random
) -> Iterator[str]:
    """A wrong line in place of the solution's line `at`, and some that follow from it; whole:
    all, to an answer.
    """
    computed = max(0, at - len(plan))
    truth = true_counts(story)
    known = story.given | {name: truth[name] for name in order[:computed]}
    if at < len(plan):
        definition = _other(story, story.defined[plan[at]], rng)
        yield str(Line(plan[at], definition))
        if whole:
            defined = story.defined | {plan[at]: definition}
            try:
                yield from solution(Story(story.given, defined, story.query))[at + 1 :]
            except ValueError:  # in a circle, or counts that there are not
                return
        return
    answers = computed == len(plan) or (whole and rng.random() < PREMATURE)
    if answers:
        yield f"#### {_another(known.get(story.query, -1), list(known.values()), rng)}"
    else:
        yield _wrong_count(story, order[computed], known, rng)
    if answers and whole:
        return
    left = order[computed + 1 :]
    if not whole:
        left = left[: rng.randint(0, AFTER)]
    for name in left:
        yield _count(story.defined[name], name, known)
    if whole:
        yield f"#### {known[story.query]}"


def _wrong_count(story: Story, name: str, known: dict[str, int], rng: random.Random) -> str:
    """A line that computes `name` with one mistake: a definition that is nowhere, a count that is
    not the operand's, or a wrong result.

    The rest of it follows from the mistake. `known` gets the count that the line gives to `name`.
    """
    mistake = rng.randrange(3)
    made_up = dict(known)
    definition = story.defined[name]
    if mistake == 0:
        definition = _other(story, definition, rng)
    for operand in definition.operands:
        made_up.setdefault(operand, rng.randint(0, LIMIT))
    if mistake == 1:
        operand = rng.choice(definition.operands)
        made_up[operand] = _another(made_up[operand], list(known.values()), rng)
    text = _count(definition, name, made_up)
    if mistake == 2:
        wrong = _another(made_up[name], list(known.values()), rng)
        text = _count(definition, name, made_up, wrong)
    known[name] = made_up[name]
    return text


def _another(value: int, others: list[int], rng: random.Random) -> int:
    """One of `others`, or a number near `value`, but not `value` itself."""
    near = [*range(max(0, value - NEAR), value), *range(value + 1, value + NEAR + 1)]
    if rng.random() < 0.5:
        return rng.choice([n for n in others if n != value] or near)
    return rng.choice(near)


def _other(story: Story, definition: Definition, rng: random.Random) -> Definition:
    """`definition` with one part exchanged for another one; operands are people of the
    statement.
    """
    kind, amount, operands = definition
    part = rng.choice(("kind", "amount", "operand") if amount else ("kind", "operand"))
    if part == "amount":
        return Definition(kind, rng.choice([n for n in AMOUNTS[kind] if n != amount]), operands)
    if part == "kind":
        alike = [one for one in PHRASES if (one in PAIRS) == (kind in PAIRS) and one != kind]
        other = rng.choice(alike)
        return Definition(other, rng.choice(AMOUNTS.get(other, [0])), operands)
    at = rng.randrange(len(operands))
    told = story.given.keys() | story.defined.keys()
    names = [name for name in NAMES if name in told and name not in operands]
    return Definition(kind, amount, (*operands[:at], rng.choice(names), *operands[at + 1 :]))
