"""What guides a search: a policy proposes steps, a value function judges states."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from search.asks import check_coroutine
from search.budget import Budget
from search.problem import IllegalStep, Problem, State, Step
from search.requests import Avoided, Backend

log = logging.getLogger(__name__)

_ROUNDING = 1e-6  # that of float32 is no fault of a value function
PRECISION = 2.0**-16  #: priors and values are rounded to this before they enter a tree: logits differ in their last bits with the batch


@dataclass(frozen=True)
class Proposal:
    """A step that a policy proposes.

    log_prob  sum of the model's own token log-probs at temperature 1, untruncated, end of step included; nan where unknown
    prior     share of the samples that were proposed together, among the distinct steps; sums to 1
    value     the value head's in [0, 1] if the same pass gave it, else nan
    drawn     the distinct continuations that were sampled and mean this step, for `propose` to avoid at this state from now on; empty
              where the policy cannot avoid
    """

    step: Step
    log_prob: float
    prior: float
    value: float = math.nan
    drawn: tuple[Avoided, ...] = ()


class Policy(Protocol):
    """Proposes steps.

    backends     the backends its requests are addressed to, by name
    step_tokens  the most tokens that one proposed step can take; 0 where nothing is generated
    chain_tokens the most tokens that `complete` can take;  max_steps: the most steps of a chain
    version      content hash of what it was made from
    """

    backends: Mapping[str, Backend]
    step_tokens: int
    chain_tokens: int
    max_steps: int
    version: str

    async def propose(
        self, problem: Problem, state: State, n: int, rng: np.random.Generator, avoid: Sequence[Avoided] = ()
    ) -> list[Proposal]:
        """Up to `n` distinct next steps with priors, at most `n` requests. Raises the last RequestFailed if every request failed.

        avoid: what it gave as `Proposal.drawn` at this state before, and no more is wanted of. It is passed only where there is some, so
        a policy whose proposals carry no `drawn` may do without this argument. [] where nothing else is left.
        """

    async def complete(self, problem: Problem, state: State, rng: np.random.Generator) -> list[Step]:
        """Sample on from `state`: the steps to a finished state, or as far as it went."""


class ValueFunction(Protocol):
    """Judges states.

    tokens  the most tokens that judging one state can take; 0 where nothing is generated
    calls   the most requests that judging one state can take

    One that nobody trained may have a `note`: a sentence on what it is and how much that is worth, which whoever makes a guide of it
    is told once.
    """

    backends: Mapping[str, Backend]
    tokens: int
    calls: int
    version: str

    async def evaluate(self, problem: Problem, states: Sequence[State], known: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """float32 [states] in [0, 1]: probability of success for the player who led there; nan where it could not be told.

        known: float32 [states], the policy's value where the same pass gave it, else nan.
        """


class Uniform:
    """Policy of a problem that lists its own actions: all of them, equally likely."""

    backends: Mapping[str, Backend] = {}
    step_tokens = chain_tokens = 0
    max_steps = 1_000
    version = "uniform"

    async def propose(
        self, problem: Problem, state: State, n: int, rng: np.random.Generator, avoid: Sequence[Avoided] = ()
    ) -> list[Proposal]:
        actions = _actions(problem, state)
        return [Proposal(step, -math.log(len(actions)), 1.0 / len(actions)) for step in actions]

    async def complete(self, problem: Problem, state: State, rng: np.random.Generator) -> list[Step]:
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
        raise ValueError(f"{type(problem).__name__} lists no actions: use a language-model policy, for example guides.load(...)")
    return actions


class Known:
    """Value function that asks for nothing: the policy's value where it gave one, `default` elsewhere. `note`: see `ValueFunction`."""

    backends: Mapping[str, Backend] = {}
    tokens = 0
    calls = 0
    version = "known"

    def __init__(self, default: float = 0.5, note: str = ""):
        self.default, self.note = default, note

    async def evaluate(self, problem: Problem, states: Sequence[State], known: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.where(np.isnan(known), np.float32(self.default), known)


@dataclass(frozen=True)
class Guide:
    """A policy and a value function, and what is known of them.

    budget    the default budget of a search with it
    kinds     classes of problem ("module:Class") it was trained on; None: any
    answer    regular expression with one group that marks the answer in free text; None: `problem.final_answer`
    classes   tells which answers in free text are equal: the class of each, so that 1/2 and 0.5 vote together; None: equal texts are
    """

    policy: Policy
    value: ValueFunction = field(default_factory=Known)
    budget: Budget = Budget(tokens=20_000, seconds=120)
    kinds: tuple[str, ...] | None = None
    answer: str | None = None
    classes: Callable[[Sequence[str]], Sequence[int]] | None = None

    @property
    def backends(self) -> dict[str, Backend]:
        """All backends by name. Raises ValueError where two different ones have one name."""
        merged: dict[str, Backend] = dict(self.policy.backends)
        for name, backend in self.value.backends.items():
            if merged.setdefault(name, backend) is not backend:
                raise ValueError(f"policy and value function both name a backend {name!r}: give one of them another name")
        return merged

    @property
    def version(self) -> str:
        """Content hash of policy and value function, kept in every trace."""
        parts = f"{self.policy.version}|{self.value.version}"
        return self.policy.version if self.value.version in ("known", self.policy.version) else _digest(parts)

    def check(self, problem: Problem) -> None:
        """Raises ValueError where this guide was not trained for the problem's kind."""
        check_kind(self.kinds, problem)


def check_kind(kinds: Sequence[str] | None, problem: Problem) -> None:
    """Raises ValueError that names what a guide knows, where `problem` is of none of those `kinds`."""
    kind = f"{type(problem).__module__}:{type(problem).__qualname__}"
    if kinds is not None and kind not in kinds:
        known = ", ".join(k.rsplit(":", 1)[1] for k in kinds)
        raise ValueError(
            f"this guide was trained on {known} problems only and cannot solve a {type(problem).__name__}: "
            "load a model that can with guides.load(path or hub id) and give it as guide=, "
            "or say the problem like one of those, such as: Use 4, 7, 8 and 8 to make 24."
        )


async def examined(
    value: ValueFunction, problem: Problem, states: Sequence[State], known: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """`value.evaluate`, examined: float64 [states] in [0, 1], nan unknown. Raises ValueError, naming the part, for anything else."""
    name = type(value).__name__
    asks = value.evaluate(problem, states, known, rng)
    check_coroutine(asks, f"{name}.evaluate")
    told = await asks
    try:
        values = np.array(told, np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if told is None or values.shape != (len(states),):
        raise ValueError(
            f"{name}.evaluate returned {_short(told)} for {len(states)} state(s): return one number for each, nan where unknown"
        )
    if ((values < -_ROUNDING) | (values > 1 + _ROUNDING)).any():
        raise ValueError(f"{name}.evaluate returned {_short(told)}: a value is a probability in [0, 1], or nan where it is unknown")
    return np.clip(values, 0.0, 1.0)


def _short(told: object) -> str:
    text = " ".join(repr(told).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def normalise(weights: np.ndarray) -> np.ndarray:
    """Priors of the steps of one block: their weights, scaled and rounded. float64 [steps], sums to 1.

    weights: float [steps], each from 0 on, not all 0
    """
    weights = np.asarray(weights, np.float64)
    if len(weights) == 0:
        return weights
    weights = np.maximum(np.round(weights / weights.sum() / PRECISION) * PRECISION, PRECISION)
    return weights / weights.sum()


def multiplicity(log_probs: np.ndarray) -> np.ndarray:
    """How often each of these distinct samples would be drawn, as a share of all draws. float64 [samples], sums to 1.

    log_probs: float [samples], of what was drawn from a policy without replacement. A sample of probability p counts p / q.
    q = 1 - exp(-m p) is its probability to be among what is found in the time of m draws with replacement, and m is such
    that the counts sum to 1 (Horvitz and Thompson 1952; Kool, van Hoof and Welling 2019, "Stochastic Beams and Where to Find
    Them"). So unlikely samples count alike, as samples do, and likely ones by their probability: of long steps each is one
    draw, whatever its length (the empirical prior of Sampled MuZero; Hubert et al. 2021, "Learning and Planning in Complex
    Action Spaces"), and of short ones that are nearly all found the prior is the policy's own.
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


def check_policy(policy: Policy, problem: Problem, drive: Any) -> None:
    """Examine a policy on a problem's first state. `drive(asks)` runs a coroutine that asks. Raises AssertionError naming the fault."""
    state = problem.initial()
    first = drive(policy.propose(problem, state, 4, np.random.default_rng(0)))
    again = drive(policy.propose(problem, state, 4, np.random.default_rng(0)))
    assert [p.step for p in first] == [p.step for p in again], "the same generator must give the same proposals"
    if first:
        assert abs(sum(p.prior for p in first) - 1) < 1e-3, "priors must sum to 1"
    keys = [problem.key(state, p.step) for p in first]
    assert len(set(keys)) == len(keys), "proposals must be distinct"
    steps = drive(policy.complete(problem, state, np.random.default_rng(0)))
    for i, step in enumerate(steps):
        try:
            state = problem.apply(state, step)
        except IllegalStep:
            assert i == len(steps) - 1, "complete must end at an illegal step"


def check_value(value: ValueFunction, problem: Problem, drive: Any) -> None:
    """Examine a value function on a problem's first state. Raises AssertionError naming the fault."""
    states = [problem.initial()] * 2
    values = drive(value.evaluate(problem, states, np.full(2, np.nan, np.float32), np.random.default_rng(0)))
    assert np.shape(values) == (2,), "evaluate must return one value a state"
    finite = np.asarray(values)[~np.isnan(values)]
    assert ((finite >= 0) & (finite <= 1)).all(), "values must lie in [0, 1]"
