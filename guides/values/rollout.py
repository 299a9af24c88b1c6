"""Value functions from roll-outs, and AlphaGo's mixture of a learned value with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from search.functions import PlainPolicy, PlainValue, policy_of, value_of
from search.parts import Policy, Value, completed, examined
from search.problem import Problem, State, apply, verify
from search.scheduling.requests import Backend, RequestFailed
from search.scheduling.scheduler import parallel


class Rollout:
    """Monte-Carlo value: the mean reward of `count` completions by `policy` (1/M sum of Ver(y_m);
    Math-Shepherd, Wang et al. 2023).

    judge  value function for finished states whose reward only the label could tell; None: such a
           problem is a ValueError

    Both may be plain functions, as in a `search.Guide`.
    """

    def __init__(
        self, policy: Policy | PlainPolicy, count: int = 4, judge: Value | PlainValue | None = None
    ):
        if count < 1:
            raise ValueError(f"count={count} roll-outs tell nothing: give at least 1")
        policy = policy_of(policy)
        tokens = policy.chain_tokens
        calls = policy.max_steps if policy.step_tokens else 0
        version = f"rollout{count}-{policy.version}"
        self._judge = None
        if judge is not None:
            self._judge = judge = value_of(judge)
            tokens += judge.tokens
            calls += judge.calls
            version += f"-{judge.version}"
        self._policy = policy
        self._count = count
        self.tokens = count * tokens
        self.calls = count * calls
        self.version = version

    @property
    def backends(self) -> Mapping[str, Backend]:
        judging = {} if self._judge is None else self._judge.backends
        return {**self._policy.backends, **judging}

    async def evaluate(
        self, problem: Problem, states: Sequence[State], known: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """float32 [states] in [0, 1]; nan where no roll-out could be made."""
        found = await parallel([self.outcomes(problem, state, rng) for state in states])
        rewards = np.array(found, np.float32).reshape(len(states), self._count)
        made = ~np.isnan(rewards)
        means = np.where(made, rewards, 0).sum(axis=1) / np.maximum(made.sum(axis=1), 1)
        return np.where(made.any(axis=1), means, np.float32(np.nan)).astype(np.float32)

    async def outcomes(
        self, problem: Problem, state: State, rng: np.random.Generator
    ) -> np.ndarray:
        """float64 [count], in [0, 1]: the reward of each completion, 0 where it never finished;
        nan where it could not be made.
        """
        children = rng.spawn(self._count)
        rewards = await parallel(self._one(problem, state, child) for child in children)
        return np.array(rewards, np.float64)

    async def _one(self, problem: Problem, state: State, rng: np.random.Generator) -> float:
        try:
            return await self._reward(problem, state, rng)
        except RequestFailed:  # the other roll-outs still tell something
            return math.nan

    async def _reward(self, problem: Problem, state: State, rng: np.random.Generator) -> float:
        """Reward of one completion in the view of the player who led to `state`; 0 if it never
        finished, nan if it was cut short.
        """
        mover = problem.to_move if problem.players == 2 else None  # type: ignore[attr-defined]
        start = mover(state) if mover else 0
        steps = await completed(self._policy, problem, state, rng)
        for step in steps:
            before = state
            state = await apply(problem, state, step)
            if state is None:
                return 0.0
            last = mover(before) if mover else 0
        if not problem.is_terminal(state):
            if hasattr(state, "__len__") and len(state) < self._policy.max_steps:
                return math.nan  # something cut it short: then nothing is known
            return 0.0
        reward = await verify(problem, state)
        if reward is None:
            if self._judge is None:
                raise ValueError(
                    f"{type(problem).__name__} cannot verify itself: give Rollout(judge=...) "
                    "a value function for finished states"
                )
            unknown = np.array([np.nan], np.float32)
            values = await examined(self._judge, problem, [state], unknown, rng)
            reward = float(values[0])
        if mover and steps and last == start:
            return 1.0 - reward
        return reward


class Mixture:
    """(1 - lam) * value + lam * rollout, as AlphaGo's leaf value (Silver et al. 2016, eq. V = (1 -
    lambda) v + lambda z).

    Where one of the two is unknown the other stands alone. Both may be plain functions, as in a
    `search.Guide`.
    """

    def __init__(self, value: Value | PlainValue, rollout: Value | PlainValue, lam: float = 0.5):
        if not 0.0 <= lam <= 1.0:
            raise ValueError(
                f"lam={lam} is no mixture: give a number from 0 (value alone) to 1 (roll-outs "
                "alone)"
            )
        value = value_of(value)
        rollout = value_of(rollout)
        self._value = value
        self._rollout = rollout
        self._lam = lam
        self.tokens = value.tokens + rollout.tokens
        self.calls = value.calls + rollout.calls
        self.version = f"mix{lam:g}-{value.version}-{rollout.version}"

    @property
    def backends(self) -> Mapping[str, Backend]:
        return {**self._value.backends, **self._rollout.backends}

    async def evaluate(
        self, problem: Problem, states: Sequence[State], known: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """float32 [states] in [0, 1], nan where both are unknown."""
        first, second = rng.spawn(2)
        both = [
            examined(self._value, problem, states, known, first),
            examined(self._rollout, problem, states, known, second),
        ]
        a, b = await parallel(both)
        a = a.astype(np.float32)
        b = b.astype(np.float32)
        mixed = (1 - self._lam) * a + self._lam * b
        one_known = np.where(np.isnan(a), b, a)
        return np.where(np.isnan(mixed), one_known, mixed).astype(np.float32)
