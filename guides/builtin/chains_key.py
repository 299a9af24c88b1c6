"""The answer key of chains: the true values, the right answer, and which lines are wrong, as
functions of the problem. For labels and reports; no search may call it.
"""

from __future__ import annotations

from graphlib import TopologicalSorter
from operator import itemgetter

from search.problems.chains import Chains, State, compute, read


def true_values(problem: Chains) -> dict[str, int]:
    """Variable -> true value, of all."""
    values = dict(problem.given)
    for name in TopologicalSorter(problem.operands()).static_order():
        if name in problem.defined:
            a, sign, b = problem.defined[name]
            values[name] = compute(values[a], sign, values[b], problem.modulus)
    return values


def target(problem: Chains) -> str:
    """The right answer."""
    return str(true_values(problem)[problem.query])


def mistakes(problem: Chains, state: State) -> list[bool]:
    """Which lines of `state` are wrong: bool, one a line.

    A plan is right if it is in the statement. A value is right if its definition is, both operands
    were given or computed before, and all three values are true. A line that is not needed is no
    mistake.
    """
    truth = true_values(problem)
    computed = set(problem.given)
    wrong = []
    for step in state:
        (name, a, sign, b), values = read(step.text)
        right = problem.defined.get(name) == (a, sign, b)
        if values:
            letters = tuple(map(itemgetter(0), values))
            right &= letters == (a, b, name) and {a, b} <= computed
            right &= all(truth.get(letter) == value for letter, value in values)
            if right:
                computed.add(name)
        wrong.append(not right)
    return wrong
