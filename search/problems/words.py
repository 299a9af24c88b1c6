"""Word problems: a question in English, a chain of thought in free lines, and a number in the last
one ("#### 18").

Any line that is not empty is a legal step, once; below our own stories, any line that could be
theirs. One answer is right, and nothing but an answer key can tell which: `verify` never does. A
problem may be any question; `parse` takes only the stories of `search.problems.words_story`, whose
answer key is with the labels, outside what a search can reach.
"""

from __future__ import annotations

import random
import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from search.problem import IllegalStep, TextStep
from search.problems.splits import split_of
from search.problems.words_story import NAMES, Definition, Story, read_line, read_story, tell

WINDOW = 6  #: one operand of a definition is among this many counts made last
LIMIT = 99  #: largest count of a generated story, unless another is asked for
TRIES = 20  #: definitions tried for one count
#: of definitions: how often
KINDS = {"more": 0.2, "fewer": 0.2, "times": 0.15, "half": 0.1, "sum": 0.2, "difference": 0.15}
PAIRS = ("sum", "difference")  #: kinds with two operands
#: kinds with an amount: what it may be
AMOUNTS = {"more": range(2, 21), "fewer": range(2, 21), "times": range(2, 6)}
_CUMULATED = tuple(accumulate(KINDS.values()))
_NUMBER = r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?"
_ANSWER = re.compile(rf"####[ ]*\$?({_NUMBER})")

State = tuple[TextStep, ...]


@dataclass(frozen=True)
class Words:
    """Find the number that `statement` asks for. Raises ValueError if it is empty."""

    statement: str

    players = 1
    inline = True
    verifies = False

    def __post_init__(self) -> None:
        if not isinstance(self.statement, str) or not self.statement.strip():
            raise ValueError("the word problem is empty: write the question that is to be answered")

    @cached_property
    def story(self) -> Story | None:
        """What the statement says, if it is one of our stories. From there it is a step to the
        answer: nothing that a search calls may read it.
        """
        return read_story(self.statement)

    @cached_property
    def ours(self) -> bool:
        """Whether the statement is one of our stories."""
        return read_story(self.statement) is not None

    def initial(self) -> State:
        return ()

    def actions(self, state: State) -> None:
        return None

    def apply(self, state: State, step: TextStep) -> State:
        """`state` with `step` added. Raises IllegalStep for a line that is empty, was cut off, or
        stands there already.

        Below one of our stories also for what is no line of theirs (`words_story.read_line`, or an
        answer); false ones are legal.
        """
        if step.finish == "length":
            raise IllegalStep(f"the line {step.text[:80]!r} was cut off; allow more tokens a step")
        if not step.text.strip():
            raise IllegalStep("an empty line leads nowhere")
        if step.text.strip() in (line.text.strip() for line in state):
            raise IllegalStep(f"the line {step.text[:80]!r} stands there already; go on from it")
        if self.ours and read_line(step.text) is None and not _ANSWER.fullmatch(step.text.strip()):
            raise IllegalStep(
                f"{step.text[:80]!r} is no line of a story; write it like: Note Ann's is twice "
                "Ben's., or: #### 8"
            )
        return (*state, step)

    def is_terminal(self, state: State) -> bool:
        return bool(state) and (state[-1].finish == "end" or self.answer(state) is not None)

    def verify(self, state: State) -> None:
        """None: only an answer key could tell."""

    def answer(self, state: State) -> str | None:
        """The number of the last line, written as `plain_number` does; None while there is none."""
        match = _ANSWER.fullmatch(state[-1].text.strip()) if state else None
        return plain_number(match[1]) if match else None

    def prompt(self, state: State) -> str:
        """The statement."""
        return self.statement

    def key(self, state: State, step: TextStep) -> Hashable:
        """The line without spaces around it. Raises IllegalStep."""
        self.apply(state, step)
        return step.text.strip()

    def to_json(self) -> dict[str, Any]:
        """The arguments that make this problem again: Words(**problem.to_json())."""
        return {"statement": self.statement}

    def canonical(self) -> str:
        """Equal for stories that differ in names, wording and distractors only; the statement of
        other problems.
        """
        return self.statement if self.story is None else self.story.canonical()

    def split(self) -> str:
        """ "train" (90 %), "validation" (5 %) or "test" (5 %), by a hash of the canonical form."""
        return split_of(self.canonical())


def plain_number(text: str) -> str:
    """A decimal number without thousands separators and needless zeros: "1,200.50" is "1200.5",
    "-0" is "0".
    """
    whole, _, part = text.removeprefix("-").replace(",", "").partition(".")
    plain = whole.lstrip("0") or "0"
    part = part.rstrip("0")
    if part:
        plain += f".{part}"
    return f"-{plain}" if text.startswith("-") and plain != "0" else plain


def parse(text: str) -> Words | None:
    """The problem that `text` states, if it is one of our stories, word for word; None for any
    other text.
    """
    text = text.strip()
    return Words(text) if read_story(text) is not None else None


def generate(
    seed: int,
    count: int,
    operations: int = 4,
    distractors: int = 2,
    limit: int = LIMIT,
    shuffle: bool = True,
    split: str | None = None,
) -> Iterator[Words]:
    """`count` different stories (by canonical form), deterministic in the arguments.

    operations   definitions that must be computed, 1 to 8;  distractors: definitions that need not,
                 0 to 4
    limit        largest count of the story, 20 to 999
    shuffle      sentences in random order, else each after those it needs;  split: only stories of
                 this split
    Raises ValueError for other sizes.
    """
    if not 1 <= operations <= 8 or not 0 <= distractors <= 4 or not 20 <= limit <= 999:
        raise ValueError(
            f"stories of {operations} operations and {distractors} distractors with counts "
            f"up to {limit} are not made: "
            "give 1 to 8, 0 to 4, and 20 to 999"
        )
    rng = random.Random(seed)
    seen: set[str] = set()
    while len(seen) < count:
        story = draw(rng, operations, distractors, limit)
        if story is None:
            continue
        form = story.canonical()
        if form not in seen and split in (None, split_of(form)):
            seen.add(form)
            yield Words(tell(story, rng, shuffle))


def draw(rng: random.Random, operations: int, distractors: int, limit: int = LIMIT) -> Story | None:
    """A random story, or None: draw again. One in which some count needs exactly `operations`
    definitions, its own included.
    """
    leaves = max(2, operations // 2 + 1)
    names = rng.sample(NAMES, leaves + operations + distractors)
    counts = {name: rng.randint(2, 20) for name in names[:leaves]}
    needs: dict[str, frozenset[str]] = {name: frozenset() for name in names[:leaves]}
    given = dict(counts)
    defined: dict[str, Definition] = {}
    for i, name in enumerate(names[leaves:], leaves):
        for _ in range(TRIES):
            definition = _define(rng, names[:i])
            made = definition.made([counts[operand] for operand in definition.operands])
            if made is not None and made <= limit:
                break
        else:
            return None
        counts[name] = made
        defined[name] = definition
        needs[name] = frozenset({name}).union(*map(needs.__getitem__, definition.operands))
    queries = [name for name in names if len(needs[name]) == operations]
    if not queries:
        return None
    return Story(given, defined, rng.choice(queries))


def _define(rng: random.Random, names: list[str]) -> Definition:
    """A definition from one or two of `names`, one of them among the last `WINDOW`."""
    kind = rng.choices(tuple(KINDS), cum_weights=_CUMULATED)[0]
    operands = [rng.choice(names[-WINDOW:])]
    if kind in PAIRS:
        operands.append(rng.choice([name for name in names if name not in operands]))
        rng.shuffle(operands)
    return Definition(kind, rng.choice(AMOUNTS.get(kind, [0])), tuple(operands))
