"""The tokens of chains, step after step: of a long chain those of the chain before it are known."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence

from search.chain import TextStep

SHORT = 64  #: steps up to which a chain is put together anew
ROOM = 4_000_000  #: tokens of long chains that are kept

Chain = Sequence[TextStep]


class SampledTokens:
    """The sampled tokens of a chain. The last long ones are kept, so that a chain of n steps takes
    no more than the copies of its tokens, instead of a walk through all steps at every step.
    """

    def __init__(self) -> None:
        # by its last step: a chain, and its tokens
        self._known: OrderedDict[int, tuple[Chain, tuple[int, ...]]] = OrderedDict()
        self._kept = 0

    def __call__(self, state: Chain) -> tuple[int, ...]:
        if len(state) <= SHORT:
            return tuple(itertools.chain.from_iterable(step.tokens for step in state))
        found = self._of(state)
        if found is None:
            before = self._of(state[:-1])
            if before is None:
                before = tuple(itertools.chain.from_iterable(step.tokens for step in state[:-1]))
            found = before + state[-1].tokens
            self._keep(state, found)
        return found

    def _of(self, state: Chain) -> tuple[int, ...] | None:
        chain, tokens = self._known.get(id(state[-1]), ((), ()))
        return tokens if chain == state else None

    def _keep(self, state: Chain, tokens: tuple[int, ...]) -> None:
        _, replaced = self._known.pop(id(state[-1]), ((), ()))
        self._known[id(state[-1])] = state, tokens
        self._kept += len(tokens) - len(replaced)
        while self._kept > ROOM and len(self._known) > 1:
            _, (_, oldest) = self._known.popitem(last=False)
            self._kept -= len(oldest)
