"""Guides with a part taken away, to measure what that part is worth: values made constant or
shuffled, priors made equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from search.guide import Guide, Known, Policy, Proposal
from search.problem import Problem, State, Step
from search.scheduling.requests import Backend

Change = Callable[[list[Proposal], np.random.Generator], list[Proposal]]


class Changed:
    """A policy whose proposals are changed before the search sees them; the steps stay as they
    are.
    """

    def __init__(self, policy: Policy, change: Change):
        self._policy = policy
        self._change = change
        self.step_tokens = policy.step_tokens
        self.chain_tokens = policy.chain_tokens
        self.max_steps = policy.max_steps
        self.version = policy.version

    @property
    def backends(self) -> Mapping[str, Backend]:
        return self._policy.backends

    def __getattr__(self, name: str) -> Any:
        """What the policy tells of itself beside the protocol, such as what ends its chains."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._policy, name)

    async def propose(
        self, problem: Problem, state: State, n: int, rng: np.random.Generator, **avoid: Any
    ) -> list[Proposal]:
        """The proposals of the policy itself, from the same draws of `rng`, changed."""
        child = rng.spawn(1)[0]
        return self._change(await self._policy.propose(problem, state, n, rng, **avoid), child)

    async def complete(
        self, problem: Problem, state: State, rng: np.random.Generator
    ) -> list[Step]:
        return await self._policy.complete(problem, state, rng)


def constant_value(guide: Guide, value: float) -> Guide:
    """`guide` with this value, in [0, 1], for every state."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"value={value} is no probability: give a number from 0 to 1")
    policy = Changed(
        guide.policy, lambda proposals, rng: [replace(p, value=value) for p in proposals]
    )
    return replace(guide, policy=policy, value=Known(value))


def shuffled_values(guide: Guide) -> Guide:
    """`guide` with the values of steps that are proposed together dealt to them anew: all that is
    lost is which is whose.

    Raises ValueError where the values are not those of the policy's own pass.
    """
    if guide.value.version not in ("known", guide.policy.version):
        raise ValueError(
            "value=shuffled deals out the values of the policy's own pass: give a guide of one "
            "checkpoint with a value head"
        )
    return replace(guide, policy=Changed(guide.policy, _deal))


def uniform_priors(guide: Guide) -> Guide:
    """`guide` with equal priors for all steps of a state, whose log-probs nobody knows: neither
    how probable the others are.
    """
    change = Changed(
        guide.policy,
        lambda proposals, rng: [
            replace(p, log_prob=math.nan, prior=1 / len(proposals)) for p in proposals
        ],
    )
    return replace(guide, policy=change)


def _deal(proposals: list[Proposal], rng: np.random.Generator) -> list[Proposal]:
    order = rng.permutation(len(proposals))
    return [
        replace(proposal, value=proposals[other].value)
        for proposal, other in zip(proposals, order.tolist(), strict=True)
    ]
