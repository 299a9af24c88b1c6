"""The methods by name, and a scripted first step."""

from __future__ import annotations

from search.problems.countdown import Countdown

PUZZLE = Countdown((4, 7, 8, 8), 24)


HOPELESS = Countdown((1, 1, 1, 1), 99)


METHODS = {
    "mcts": {},
    "gumbel": {},
    "beam": {"width": 4, "branch": 3},
    "sample": {},
    "dvts": {"width": 4, "subtrees": 2},
}


def method_of(name):
    return "beam" if name == "dvts" else name


class Nim:
    """Take 1 to 3 sticks, who takes the last one wins: lost for the mover exactly when sticks %
    4 == 0.
    """

    players, inline = 2, True

    def __init__(self, sticks):
        self.sticks = sticks

    def initial(self):
        return (self.sticks, 0)

    def to_move(self, state):
        return state[1]

    def actions(self, state):
        return [n for n in (1, 2, 3) if n <= state[0]]

    def apply(self, state, step):
        return (state[0] - step, 1 - state[1])

    def is_terminal(self, state):
        return state[0] == 0

    def verify(self, state):
        return 1.0

    def answer(self, state):
        return None

    def prompt(self, state):
        return f"{state[0]} sticks"

    def key(self, state, step):
        return step
