"""Stories, and lines of their solutions."""

from __future__ import annotations

import re

from search.problem import TextStep
from search.problems.words import Words

PROBLEM = Words(
    "Some friends keep their apples in bags. Ben's bag holds 3 more than Ann's. Ann has 5 "
    "apples. In Cal's bag there are twice as many as "
    "in Ben's. Eve's bag holds half as many as Cal's. How many apples does Cal's bag hold?"
)


def state(*lines: str) -> tuple[TextStep, ...]:
    return tuple(TextStep(line) for line in lines)


def by_equations(statement: str) -> int:
    """The answer by keywords and linear equations: neither the wordings nor the rules of the
    module are asked.
    """
    import sympy

    _, *told, question = statement.split(". ")
    equations = []
    for sentence in told:
        owners = [sympy.Symbol(name) for name in re.findall(r"([A-Z][a-z]+)'s", sentence)]
        number = int((re.findall(r"[0-9]+", sentence) or [0])[0])
        if not owners:
            equations.append(sympy.Eq(sympy.Symbol(sentence.split()[0]), number))
            continue
        made, first, *second = owners
        if "together" in sentence:
            right = first + second[0]
        elif "difference" in sentence or "beyond" in sentence:
            right = first - second[0]
        elif "half" in sentence:
            right = first / 2
        elif "twice" in sentence or "times" in sentence:
            right = first * (number or 2)
        else:
            right = (
                first - number
                if "fewer" in sentence or "given away" in sentence
                else first + number
            )
        equations.append(sympy.Eq(made, right))
    (solved,) = sympy.linsolve(
        equations, unknowns := sorted(set().union(*(e.free_symbols for e in equations)), key=str)
    )
    return int(solved[unknowns.index(sympy.Symbol(re.findall(r"([A-Z][a-z]+)'s", question)[0]))])
