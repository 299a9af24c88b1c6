"""Training data for chains: the steps that solve a problem, and wrong steps for a value head, all
from the generator.

An example is a problem with a small tree below it: the plan and the values that solve it, to be
imitated, and branches that begin with a wrong line, which are only judged. A label says whether all
lines so far are right. A shard depends on nothing but its seed, its index and how far the training
has come. Every problem belongs to the split "train".
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace

from guides.builtin.chains_key import true_values
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
from search.problems.chains import LETTERS, OPERATORS, Chains, Definition, compute, draw

MODULUS = 11


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
    operations  definitions to compute: how often they are tried (of many, most draws fail, and then
                another number is tried); the numbers, or their texts as JSON has them
    ends        share of the wrong branches that go on to an answer, and some to one before all is
                computed: a search comes there, and a value head that never saw an answer below a
                mistake takes any for right

    Segment 0 is the prompt with its newline; the others are lines, newline included, each in the
    place after its parent (an earlier segment; -1 for the prompt). The texts have no end token: a
    chain ends with its answer.
    weight  1.0 on the lines that solve the problem, 0.0 on those that are only judged
    value   1.0 or 0.0: are all lines up to here right
    """
    rng = random.Random(f"{seed} {shard}")
    made = 0
    while made < count:
        (size,) = rng.choices(*sizes(operations, progress))
        problem = draw(rng, size, rng.randint(0, DISTRACTORS), MODULUS)
        if problem is not None and problem.split() == "train":
            yield _tree(problem, rng, ends)
            made += 1


def solution(problem: Chains) -> list[str]:
    """The lines that solve `problem`: the plan, then the values, of each moment's computable
    variables the last planned.
    """
    plan = problem.needed()
    known = dict(problem.given)
    lines = [_plan(problem, name) for name in plan]
    for name in _order(problem, plan):
        lines.append(_value(problem.defined[name], name, known, problem))
    return lines


def _order(problem: Chains, plan: list[str]) -> list[str]:
    """The planned variables in the order in which they are computed."""
    return computing_order(plan, problem.given, lambda name: problem.defined[name][::2])


def _plan(problem: Chains, name: str) -> str:
    a, sign, b = problem.defined[name]
    return f"{name}={a}{sign}{b}"


def _value(definition: Definition, name: str, known: dict[str, int], problem: Chains) -> str:
    """The line that computes `name` from what is `known`; its value is added there."""
    a, sign, b = definition
    known[name] = compute(known[a], sign, known[b], problem.modulus)
    return (
        f"{name}={a}{sign}{b} {a.upper()}{known[a]} {b.upper()}{known[b]} "
        f"{name.upper()}{known[name]}"
    )


def _tree(problem: Chains, rng: random.Random, ends: float) -> list[Segment]:
    plan = problem.needed()
    computed = _order(problem, plan)

    def branch(at: int, whole: bool) -> Iterator[str]:
        return _branch(problem, plan, computed, at, whole, rng)

    return example_tree(problem.prompt(problem.initial()), solution(problem), branch, ends, rng)


def _branch(
    problem: Chains, plan: list[str], order: list[str], at: int, whole: bool, rng: random.Random
) -> Iterator[str]:
    """A wrong line in place of the solution's line `at`, and some that follow from it; whole:
    all, to an answer.
    """
    computed = max(0, at - len(plan))
    truth = true_values(problem)
    known = {**problem.given, **{name: truth[name] for name in order[:computed]}}
    if at < len(plan):
        name = plan[at]
        text = f"{name}={''.join(_other(problem, problem.defined[name], rng))}"
        yield text
        if whole:
            lines = list(problem.definitions)
            for i, line in enumerate(lines):
                if line.startswith(f"{name}="):
                    lines[i] = text
            try:
                yield from solution(replace(problem, definitions=tuple(lines)))[at + 1 :]
            except ValueError:  # in a circle
                return
        return
    if whole and rng.random() < PREMATURE:
        yield _wrong_value(problem, problem.query, known, rng)
        return
    yield _wrong_value(problem, order[computed], known, rng)
    left = order[computed + 1 :]
    if not whole:
        left = left[: rng.randint(0, AFTER)]
    for name in left:
        yield _value(problem.defined[name], name, known, problem)


def _wrong_value(problem: Chains, name: str, known: dict[str, int], rng: random.Random) -> str:
    """A line that computes `name` with one mistake: a definition that is nowhere, a value that is
    not the operand's, or a wrong result.

    The rest of it follows from the mistake. `known` gets the value that the line gives to `name`.
    """
    mistake = rng.randrange(3)
    made_up = dict(known)
    definition = problem.defined[name]
    if mistake == 0:
        definition = _other(problem, definition, rng)
    for operand in (definition[0], definition[2]):
        made_up.setdefault(operand, rng.randrange(problem.modulus))
    if mistake == 1:
        operand = definition[rng.choice((0, 2))]
        others = [*known.values(), rng.randrange(problem.modulus)]
        made_up[operand] = _another(made_up[operand], others, problem.modulus, rng)
    text = _value(definition, name, made_up, problem)
    if mistake == 2:
        others = [rng.randrange(problem.modulus)]
        made_up[name] = _another(made_up[name], others, problem.modulus, rng)
        text = f"{text.rpartition(' ')[0]} {name.upper()}{made_up[name]}"
    known[name] = made_up[name]
    return text


def _another(value: int, others: list[int], modulus: int, rng: random.Random) -> int:
    """One of `others` that is not `value`, else the next number."""
    different = [other for other in others if other != value]
    if not different:
        return (value + 1) % modulus
    return rng.choice(different)


def _other(problem: Chains, definition: Definition, rng: random.Random) -> Definition:
    """`definition` with one part exchanged for another one; operands are variables of the
    statement.
    """
    part = rng.randrange(3)
    names = [name for name in LETTERS if name in problem.given or name in problem.defined]
    parts = list(definition)
    choices = list(OPERATORS) if part == 1 else names
    parts[part] = rng.choice([choice for choice in choices if choice != parts[part]])
    return parts[0], parts[1], parts[2]
