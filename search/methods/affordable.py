"""How many states of a beam the tokens last for, down to one chain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from search.guide import Policy
from search.methods.concurrent_chains import GUESS, TAIL, InFlight
from search.tree.tree import Tree

#: Until a chain has ended, at least and at most this share of the tokens may go to steps beside
#: those of one chain
ASIDE_LEAST = 1 / 4
ASIDE_MOST = 2 / 3


class Affordable:
    """What the chains of a beam take, as far as they have been seen.

    Until a chain has ended their length is not known, and one of them is to come to its end.
    So three quarters of the tokens are kept for it. Where they would last for a whole beam of
    chains of `GUESS` tokens (or a third of the longest there could be), only a third is kept, and
    something between where they nearly would. Afterwards chains are taken to be as long as those
    that have ended. Without a limit to the tokens a beam is never narrowed.

    width, branch  of the whole beam;  tokens: of the budget
    """

    def __init__(self, policy: Policy, flight: InFlight, width: int, branch: int, tokens: float):
        self.width = width
        self.branch = branch
        self.tokens = tokens if policy.step_tokens else math.inf
        self.guess = min(GUESS, policy.chain_tokens / 3)
        self.flight = flight
        self._texts = 0  # steps that were written, and their tokens
        self._written = 0
        self._ended: list[int] = []  # tokens of the chains that have ended

    @property
    def step(self) -> float:
        """Tokens of a step, on average."""
        return self._written / max(1, self._texts)

    def wrote(self, steps: Sequence[object]) -> None:
        """Steps have been written."""
        self._texts += len(steps)
        self._written += sum(map(_tokens, steps))

    def ended(self, tree: Tree, nodes: Sequence[int]) -> None:
        """Chains have come to their ends at these nodes."""
        self._ended += [_length(tree, node) for node in nodes]

    def depth(self, tree: Tree, nodes: Sequence[int]) -> float:
        """Tokens of the chains up to these nodes, on average."""
        if not nodes:
            return 0.0
        return float(np.mean([_length(tree, node) for node in nodes]))

    def fits(self, depth: float) -> bool:
        """Whether a chain that has `depth` tokens is likely to come to its end."""
        return not self._ended or self._rest(depth) <= self.tokens - self.flight.spent

    def shape(self, wanted: int, depth: float, running: int, judged: bool) -> tuple[int, int]:
        """How many states may be expanded next, and by how many steps each, where `wanted` steps in
        all would be.

        depth    tokens of the chains up to these states
        running  steps that are still being written before
        judged   whether states are told apart. If not, there is nothing to choose: of few steps
                 each is another state's
        """
        full = self.width, max(self.branch, self.width)
        if math.isinf(self.tokens):
            return full
        each = self.flight.spent / self._texts if self._texts else self.guess
        spent = self.flight.spent + each * running
        if self._ended:
            steps = (self.tokens - spent) // self._rest(depth)
        else:
            beside = spent - self._price * depth
            steps = 1 + (self._aside - beside) // each
        if steps >= wanted:
            return full
        count = max(1, int(steps))
        states = min(self.width, count)
        if judged:
            states = max(1, math.isqrt(count * self.width // self.branch))
        return states, max(1, count // states)

    @property
    def _aside(self) -> float:
        """Tokens that may go to other steps than those of one chain, until a chain has ended."""
        share = self.tokens / (self.width * self.branch * self.guess)
        return self.tokens * min(max(ASIDE_MOST * share, ASIDE_LEAST), ASIDE_MOST)

    @property
    def _price(self) -> float:
        """Tokens that are spent for one of a step, judging included."""
        return self.flight.spent / self._written if self._written else 1.0

    def _rest(self, depth: float) -> float:
        """Tokens that a chain of `depth` tokens is likely to take to its end, going by those
        that have ended.
        """
        mean = sum(self._ended) / len(self._ended)
        return max(1.0, self._price * max(mean - depth, mean * TAIL))


def _tokens(step: object) -> int:
    return len(getattr(step, "tokens", ()))


def _length(tree: Tree, node: int) -> int:
    """Tokens of the chain up to a node."""
    return sum(map(_tokens, tree.chain(node)))
