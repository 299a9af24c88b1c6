"""What guides a search: a policy proposes steps, a value function judges states."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from search.functions import PlainPolicy, PlainValue, policy_of, value_of
from search.kinds import kind_of
from search.parts import PRECISION, Policy, Proposal, Value
from search.problem import Problem, State, Step
from search.scheduling.budget import Budget
from search.scheduling.requests import Avoided, Backend

log = logging.getLogger(f"copse.{__name__}")

DEFAULT_BUDGET = Budget(tokens=20_000, seconds=120)


class Uniform(Policy):
    """Policy of a problem that lists its own actions: all of them, equally likely."""

    max_steps = 1_000
    version = "uniform"

    async def propose(
        self,
        problem: Problem,
        state: State,
        n: int,
        rng: np.random.Generator,
        avoid: Sequence[Avoided] = (),
    ) -> list[Proposal]:
        actions = _actions(problem, state)
        return [Proposal(step, -math.log(len(actions)), 1.0 / len(actions)) for step in actions]

    async def complete(
        self, problem: Problem, state: State, rng: np.random.Generator
    ) -> list[Step]:
        steps = []
        while not problem.is_terminal(state):
            actions = _actions(problem, state)
            if not actions:
                break
            steps.append(actions[int(rng.integers(len(actions)))])
            state = problem.apply(state, steps[-1])
        return steps


def _actions(problem: Problem, state: State) -> Sequence[Step]:
    actions = problem.actions(state)
    if actions is None:
        raise ValueError(
            f"{type(problem).__name__} lists no actions: use a language-model policy, for "
            "example guides.load(...)"
        )
    return actions


class Known(Value):
    """Value function that asks for nothing: the policy's value where it gave one, `default`
    elsewhere. `note`: see `Value`.
    """

    version = "known"

    def __init__(self, default: float = 0.5, note: str = ""):
        self.default = default
        self.note = note

    async def evaluate(
        self, problem: Problem, states: Sequence[State], known: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        return np.where(np.isnan(known), np.float32(self.default), known)


@dataclass(frozen=True, init=False)
class Guide:
    """A policy and a value function, with what a search must know of them.

    policy    a `Policy`, or a function: (text) -> list of the next steps as str, or (problem,
              state) -> list of steps. Either may be async. text: the statement and the steps so
              far, a line each
    value     a `Value`, or a function: (problem, states) -> floats in [0, 1], or (text) -> float.
              Either may be async. None: the policy's own value where it gives one, 0.5 elsewhere
    budget    the default budget of a search with it
    kinds     classes of problem ("module:Class") it was trained on; None: any
    answer    regular expression with one group that marks the answer in free text; None:
              `problem.final_answer`
    classes   tells which answers in free text are equal: the class of each, so that 1/2 and 0.5
              vote together; None: equal texts are
    stream    moves, attempts and checked of the `search.problems.stream.Stream` that every problem
              becomes, for a policy that was taught to go back, check and try again; None: none does

    Raises ValueError, in a sentence that says what to write, for what is no policy or no value
    function.
    """

    policy: Policy
    value: Value
    budget: Budget
    kinds: tuple[str, ...] | None
    answer: str | None
    classes: Callable[[Sequence[str]], Sequence[int]] | None
    stream: Mapping[str, Any] | None
    looked_at: bool = field(default=False, init=False, repr=False, compare=False)

    def __init__(
        self,
        policy: Policy | PlainPolicy,
        value: Value | PlainValue | None = None,
        budget: Budget = DEFAULT_BUDGET,
        kinds: tuple[str, ...] | None = None,
        answer: str | None = None,
        classes: Callable[[Sequence[str]], Sequence[int]] | None = None,
        stream: Mapping[str, Any] | None = None,
    ):
        given = {
            "policy": policy_of(policy),
            "value": Known() if value is None else value_of(value),
            "budget": budget,
            "kinds": kinds,
            "answer": answer,
            "classes": classes,
            "stream": stream,
        }
        given["looked_at"] = False  # by `search.firstuse`
        for name, part in given.items():
            object.__setattr__(self, name, part)  # it is frozen

    @property
    def backends(self) -> dict[str, Backend]:
        """All backends by name. Raises ValueError where two different ones have one name."""
        merged: dict[str, Backend] = dict(self.policy.backends)
        for name, backend in self.value.backends.items():
            if merged.setdefault(name, backend) is not backend:
                raise ValueError(
                    f"policy and value function both name a backend {name!r}: give one of them "
                    "another name"
                )
        return merged

    @property
    def version(self) -> str:
        """Content hash of policy and value function, kept in every trace."""
        if self.value.version in (Known.version, self.policy.version):
            return self.policy.version
        return _digest(f"{self.policy.version}|{self.value.version}")

    @property
    def language(self) -> dict[str, Any]:
        """How the policy was told to ask its model (`Policy.language`), with the pattern of the
        answer; kept in every trace.
        """
        told = getattr(self.policy, "language", {})
        answer = {} if self.answer is None else {"answer": self.answer}
        # a policy of others may call something else so
        return {**(told if isinstance(told, dict) else {}), **answer}

    def check(self, problem: Problem) -> None:
        """Raises ValueError where this guide was not trained for the problem's kind."""
        check_kind(self.kinds, problem)


def check_kind(kinds: Sequence[str] | None, problem: Problem) -> None:
    """Raises ValueError that names what a guide knows, where `problem` is of none of those
    `kinds`.
    """
    kind = getattr(problem, "statement_kind", None) or kind_of(problem)
    if kinds is not None and kind not in kinds:
        trained = ", ".join(name.rsplit(":", 1)[1] for name in kinds)
        raise ValueError(
            f"this guide was trained on {trained} problems only and cannot solve a "
            f"{type(problem).__name__}: "
            "load a model that can with guides.load(path or hub id) and give it as guide=, "
            "or say the problem like one of those, such as: Use 4, 7, 8 and 8 to make 24."
        )


def normalise(weights: np.ndarray) -> np.ndarray:
    """Priors of the steps of one block: their weights, scaled and rounded. float64 [steps], sums to
    1.

    weights: float [steps], each from 0 on, not all 0
    """
    weights = np.asarray(weights, np.float64)
    if len(weights) == 0:
        return weights
    weights = np.maximum(np.round(weights / weights.sum() / PRECISION) * PRECISION, PRECISION)
    return weights / weights.sum()


def multiplicity(log_probs: np.ndarray) -> np.ndarray:
    """How often each of these distinct samples would be drawn, as a share of all draws. float64
    [samples], sums to 1.

    log_probs: float [samples], of what was drawn from a policy without replacement. A sample of
    probability p counts p / q. q = 1 - exp(-m p) is its probability to be among what is found in
    the time of m draws with replacement, and m is such that the counts sum to 1 (Horvitz and
    Thompson 1952; Kool, van Hoof and Welling 2019, "Stochastic Beams and Where to Find Them"). So
    unlikely samples count alike, as samples do, and likely ones by their probability: of long steps
    each is one draw, whatever its length (the empirical prior of Sampled MuZero; Hubert et al.
    2021, "Learning and Planning in Complex Action Spaces"), and of short ones that are nearly all
    found the prior is the policy's own.
    """
    p = np.exp(np.minimum(np.asarray(log_probs, np.float64), 0.0))
    if not len(p):
        return p
    total = float(p.sum())
    if total >= 1 - 1e-9:
        return p / total
    low = float(len(p))  # of m, as p / q lies between 1 / m and 1 / m + p
    high = len(p) / (1 - total)
    for _ in range(100):
        middle = (low + high) / 2
        if _counted(p, middle).sum() > 1:
            low = middle
        else:
            high = middle
    return _counted(p, high)


def _counted(p: np.ndarray, m: float) -> np.ndarray:
    """p / (1 - exp(-m p)), and its limit 1 / m where p is 0."""
    x = np.maximum(m * p, 1e-12)
    return x / -np.expm1(-x) / m


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
