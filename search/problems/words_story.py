"""Stories: word problems in plain English whose quantities depend on one another, as the
definitions of chains do (iGSM; Ye et al. 2024).

    Some friends keep their apples in bags. Ben's bag holds 3 more than Ann's. Ann has 5 apples. In
    Cal's bag there are twice as many as in Ben's. How many apples does Cal's bag hold?

A sentence gives the count of one person ("Ann has 5") or defines it from those of others ("Ben's
bag holds ..."). Givens name the owner, definitions the owner's bag, so that each is found again by
one word. Some are not needed. A solution notes what is needed, from the question backwards, then
computes forwards:

    Note Cal's is twice Ben's.
    Note Ben's is 3 more than Ann's.
    Now Ben's is 3 more than Ann's; Ann has 5, so Ben has 8.
    Now Cal's is twice Ben's; Ben has 8, so Cal has 16.
    #### 16
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

NAMES = (
    *("Amy", "Ann", "Ben", "Cal", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jan", "Kim"),
    *("Lee", "Max", "Ned", "Ola", "Pam", "Ray", "Sue", "Tom", "Una", "Vic", "Wes", "Zoe"),
)
GROUPS = ("friends", "children", "cousins", "neighbours")
ITEMS = (
    "apples",
    "beads",
    "cards",
    "coins",
    "eggs",
    "marbles",
    "nuts",
    "pears",
    "pens",
    "plums",
    "shells",
    "stamps",
)
BOXES = {"bag": "bags", "basket": "baskets", "box": "boxes", "jar": "jars", "tin": "tins"}
_BOX_OF = {boxes: box for box, boxes in BOXES.items()}
LARGEST = 999  #: no count is larger

INTRODUCTIONS = (
    "Some {group} keep their {items} in {boxes}.",
    "Some {group} fill {boxes} with {items}.",
)
GIVENS = (
    "{x} has {n}.",
    "{x} has {n} {items}.",
    "{x} owns {n} {items}.",
    "{x} found {n} {items}.",
    "{x} counted {n}.",
)
QUESTIONS = (
    "How many does {x}'s {box} hold?",
    "How many {items} does {x}'s {box} hold?",
    "How many {items} are in {x}'s {box}?",
)
SENTENCES = {  #: kind of definition -> its wordings; {n} is the amount, {k} "twice" or "3 times"
    "more": (
        "{x}'s {box} holds {n} more than {a}'s.",
        "In {x}'s {box} there are {n} more than in {a}'s.",
        "{x}'s {box} held as many as {a}'s until {n} were added.",
    ),
    "fewer": (
        "{x}'s {box} holds {n} fewer than {a}'s.",
        "In {x}'s {box} there are {n} fewer than in {a}'s.",
        "{x}'s {box} held as many as {a}'s until {n} were given away.",
    ),
    "times": (
        "{x}'s {box} holds {k} as many as {a}'s.",
        "In {x}'s {box} there are {k} as many as in {a}'s.",
    ),
    "half": (
        "{x}'s {box} holds half as many as {a}'s.",
        "In {x}'s {box} there are half as many as in {a}'s.",
    ),
    "sum": (
        "{x}'s {box} holds as many as {a}'s and {b}'s together.",
        "In {x}'s {box} there are as many as in {a}'s and {b}'s together.",
    ),
    "difference": (
        "{x}'s {box} holds the difference of {a}'s and {b}'s.",
        "In {x}'s {box} there is what {a}'s holds beyond {b}'s.",
    ),
}
PHRASES = {  #: kind of definition -> how a line of the solution says it
    "more": "{n} more than {a}'s",
    "fewer": "{n} fewer than {a}'s",
    "times": "{k} {a}'s",
    "half": "half of {a}'s",
    "sum": "{a}'s plus {b}'s",
    "difference": "{a}'s minus {b}'s",
}
# (amount, operands) -> count, None: there is none
_RULES: dict[str, Callable[[int, Sequence[int]], int | None]] = {
    "more": lambda n, v: v[0] + n,
    "fewer": lambda n, v: v[0] - n,
    "times": lambda n, v: v[0] * n,
    "half": lambda n, v: None if v[0] % 2 else v[0] // 2,
    "sum": lambda n, v: v[0] + v[1],
    "difference": lambda n, v: v[0] - v[1],
}
_NUMBER = "0|[1-9][0-9]{0,2}"
_FIELDS = {
    "group": "|".join(GROUPS),
    "items": "|".join(ITEMS),
    "boxes": "|".join(BOXES.values()),
    "box": "|".join(BOXES),
    "n": _NUMBER,
    "k": f"twice|(?:{_NUMBER}) times",
    **dict.fromkeys(("x", "a", "b"), "|".join(NAMES)),
}


class Definition(NamedTuple):
    """How a count follows from one or two others. `kind` is a key of `PHRASES`; `amount` is 0
    where the kind has none.
    """

    kind: str
    amount: int
    operands: tuple[str, ...]

    def made(self, values: Sequence[int]) -> int | None:
        """What it makes of the operands' counts; None where that is no whole number from 0 to
        `LARGEST`.
        """
        made = _RULES[self.kind](self.amount, values)
        if made is None or not 0 <= made <= LARGEST:
            return None
        return made

    def fields(self) -> dict[str, str]:
        """What its wordings need."""
        times = "twice" if self.amount == 2 else f"{self.amount} times"
        return {"n": str(self.amount), "k": times, **dict(zip("ab", self.operands, strict=False))}

    def __str__(self) -> str:
        return PHRASES[self.kind].format(**self.fields())


class Line(NamedTuple):
    """A line of a solution: a note (`values` is ()), or the counts of the operands and of `name`
    itself.
    """

    name: str
    definition: Definition
    values: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        if not self.values:
            return f"Note {self.name}'s is {self.definition}."
        *operands, result = [f"{name} has {value}" for name, value in self.values]
        return f"Now {self.name}'s is {self.definition}; {', '.join(operands)}, so {result}."


def _pattern(wording: str) -> re.Pattern[str]:
    text, *rest = re.split(r"\{(\w+)\}", wording)
    pattern = re.escape(text)
    for name, text in zip(rest[::2], rest[1::2], strict=True):
        pattern += f"(?P<{name}>{_FIELDS[name]}){re.escape(text)}"
    return re.compile(pattern)


_INTRODUCTIONS = list(map(_pattern, INTRODUCTIONS))
_GIVENS = list(map(_pattern, GIVENS))
_QUESTIONS = list(map(_pattern, QUESTIONS))
_SENTENCES = [(kind, _pattern(text)) for kind, texts in SENTENCES.items() for text in texts]
_PHRASES = [(kind, _pattern(text)) for kind, text in PHRASES.items()]
_LINE = re.compile(
    rf"(?:Note|Now) (?P<x>{_FIELDS['x']})'s is (?P<phrase>[^;.]+)(?:; (?P<known>[^;.]+), so "
    rf"(?P<y>{_FIELDS['x']}) has (?P<n>{_NUMBER}))?\."
)
_KNOWN = re.compile(rf"({_FIELDS['x']}) has ({_NUMBER})")


@dataclass(frozen=True)
class Story:
    """What a statement says. `given` and `defined` in the order of their sentences; `query` is
    defined.

    Raises ValueError for a count that is used but neither given nor defined, definitions in a
    circle, and counts outside 0 to `LARGEST`.
    """

    given: dict[str, int]
    defined: dict[str, Definition]
    query: str

    def __post_init__(self) -> None:
        if self.query not in self.defined or not self._tells_all():
            raise ValueError(
                "the story does not tell every count that it uses: give or define each once, not "
                "in a circle, from 0 to 999"
            )

    def _tells_all(self) -> bool:
        """Whether every count is given or follows, once each, from 0 to `LARGEST`."""
        order = self.order()
        if len(order) < len(self.defined) or self.given.keys() & self.defined.keys():
            return False
        counts = dict(self.given)
        for name in order:
            definition = self.defined[name]
            made = definition.made([counts[operand] for operand in definition.operands])
            if made is None:
                return False
            counts[name] = made
        return True

    def order(self) -> list[str]:
        """The defined names, each behind those that it needs. Those that need what is nowhere
        given or defined, or one another in a circle, are left out.
        """
        order: list[str] = []
        available = set(self.given)
        before = -1
        while len(order) > before:
            before = len(order)
            for name, definition in self.defined.items():
                if name not in available and set(definition.operands) <= available:
                    order.append(name)
                    available.add(name)
        return order

    def needed(self) -> list[str]:
        """The counts that must be computed, from the query on, each in the place where it is
        first met: the plan.
        """
        plan = [self.query]
        for name in plan:
            for operand in self.defined[name].operands:
                if operand in self.defined and operand not in plan:
                    plan.append(operand)
        return plan

    def canonical(self) -> str:
        """What must be computed, with names, wording and distractors removed: equal for stories
        that differ in those only.
        """
        plan = self.needed()
        shown = {name: str(value) for name, value in self.given.items()}
        shown |= {name: f"v{i}" for i, name in enumerate(plan)}
        lines = []
        for name in plan:
            kind, amount, operands = self.defined[name]
            lines.append(f"{kind}{amount or ''}({','.join(map(shown.__getitem__, operands))})")
        return f"words: {' '.join(lines)}"


def _match(patterns: Sequence[re.Pattern[str]], text: str) -> dict[str, str] | None:
    for pattern in patterns:
        if match := pattern.fullmatch(text):
            return match.groupdict()
    return None


def _definition(
    patterns: Sequence[tuple[str, re.Pattern[str]]], text: str
) -> tuple[Definition, dict[str, str]] | None:
    """The definition in `text`, and the fields of its wording; None where it has none."""
    for kind, pattern in patterns:
        if match := pattern.fullmatch(text):
            fields = match.groupdict()
            times = fields.get("k", "0").split(" ")[0]
            amount = int(fields.get("n", "2" if times == "twice" else times))
            return Definition(kind, amount, tuple(fields[o] for o in "ab" if o in fields)), fields
    return None


def read_line(text: str) -> Line | None:
    """What a line of a solution says; None where it is neither a note nor counts."""
    match = _LINE.fullmatch(text.strip(" "))
    found = match and _definition(_PHRASES, match["phrase"])
    if not match or not found or text.strip(" ").startswith("Now") != bool(match["known"]):
        return None
    values: list[tuple[str, int]] = []
    if match["known"]:
        for part in match["known"].split(", "):
            count = _KNOWN.fullmatch(part)
            if count is None:
                return None
            values.append((count[1], int(count[2])))
        values.append((match["y"], int(match["n"])))
    return Line(match["x"], found[0], tuple(values))


def read_story(statement: str) -> Story | None:
    """The story that `statement` tells; None where any sentence is not one of ours, or the
    sentences do not make a story.
    """
    if ". " not in statement:
        return None
    first, *middle, last = re.split(r"(?<=\.) ", statement.strip())
    opening = _match(_INTRODUCTIONS, first)
    question = _match(_QUESTIONS, last)
    if not opening or not question:
        return None
    setting = {
        "items": opening["items"],
        "box": _BOX_OF[opening["boxes"]],
    }
    given: dict[str, int] = {}
    defined: dict[str, Definition] = {}
    sentences = [question]
    for text in middle:
        fields = _match(_GIVENS, text)
        if fields:
            given[fields["x"]] = int(fields["n"])
        else:
            found = _definition(_SENTENCES, text)
            if not found:
                return None
            definition, fields = found
            defined[fields["x"]] = definition
        sentences.append(fields)
    for fields in sentences:
        if any(fields.get(name, word) != word for name, word in setting.items()):
            return None
    if len(given) + len(defined) < len(middle) or given.keys() & defined.keys():
        return None
    try:
        return Story(given, defined, question["x"])
    except ValueError:
        return None


def tell(story: Story, rng: random.Random, shuffle: bool = True) -> str:
    """A statement of `story`, in wordings drawn from `rng`; `shuffle` False: givens first, then
    definitions, in their order.
    """
    box = rng.choice(list(BOXES))
    words = {
        "group": rng.choice(GROUPS),
        "items": rng.choice(ITEMS),
        "box": box,
        "boxes": BOXES[box],
    }
    sentences: list[str] = []
    for name, value in story.given.items():
        sentences.append(rng.choice(GIVENS).format(x=name, n=value, **words))
    for name, definition in story.defined.items():
        wording = rng.choice(SENTENCES[definition.kind])
        sentences.append(wording.format(x=name, **definition.fields(), **words))
    if shuffle:
        rng.shuffle(sentences)
    opening = rng.choice(INTRODUCTIONS).format(**words)
    question = rng.choice(QUESTIONS).format(x=story.query, **words)
    return " ".join([opening, *sentences, question])
