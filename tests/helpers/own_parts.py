"""Parts of one's own as the tests write them."""

from __future__ import annotations

import search

TARGET = 6


class Sums(search.Problem):
    """Reach the target by adding 1, 2 or 3, in steps of text."""

    def initial(self):
        return ()

    def apply(self, state, step):
        if not step.text.isdigit() or total((*state, step)) > TARGET:
            raise search.IllegalStep(step.text)
        return (*state, step)

    def is_terminal(self, state):
        return total(state) == TARGET

    def answer(self, state):
        return " ".join(step.text for step in state)

    def prompt(self, state):
        return "Reach 6."


class Board(search.Problem):
    """The same with numbers as states."""

    def initial(self):
        return 0

    def actions(self, state):
        return [1, 2, 3]

    def apply(self, state, step):
        if state + step > TARGET:
            raise search.IllegalStep("beyond")
        return state + step

    def is_terminal(self, state):
        return state == TARGET

    def verify(self, state):
        return 1.0

    def prompt(self, state):
        return "Reach 6."


def total(state):
    return sum(int(step.text) for step in state)


def steps(text):
    return ["1", "2", "3"]


def progress(problem, states):
    return [total(state) / TARGET for state in states]


def solve(
    policy=steps, value=progress, problem=None, method="mcts", budget="simulations=20", **options
):
    return search.solve(
        Sums() if problem is None else problem,
        search.Guide(policy, value),
        method,
        budget,
        **options,
    )


def scaled(problem, states, scale=1.0):
    return [scale * value for value in progress(problem, states)]


def keyed(problem, states, *, scale):
    return [scale * value for value in progress(problem, states)]


class Minimal:
    async def evaluate(self, problem, states, known, rng):
        return [0.5] * len(states)


async def helper(problem, states):
    return progress(problem, states)
