"""What the methods share: asking for the children of one state, and writing them into the tree.

`grow` is a child of `parallel`: it asks and returns, and never touches the tree. `write` is the
parent's part.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np

from search.guide import Guide, normalise
from search.parts import PRECISION, Proposal, examined, proposed
from search.problem import IllegalStep, Problem, State, apply, verify
from search.scheduling.budget import Meter
from search.scheduling.requests import Avoided, RequestFailed
from search.scheduling.scheduler import Asks, begin, granted, parallel
from search.tree.tree import Tree

T = TypeVar("T")
SHORT = 5  #: tokens of a step up to which its log-prob is the sum over them
RETRIES = 2  #: what failed is asked again this often
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD = re.compile(r"\w+")


@dataclass
class Child:
    """A legal proposal: the state behind it, whether that is finished, and its reward in [0, 1]
    (None: only the label could tell).
    """

    proposal: Proposal
    key: Hashable
    state: State
    finished: bool
    reward: float | None


@dataclass
class Growth:
    """What asking at one state brought.

    children  legal, distinct, finished ones with their reward;  value: of the state itself in [0,
              1], nan unknown
    drawn     what was sampled, illegal steps included
    error     why there are no proposals at all: requests failed or the budget ended; None otherwise
    """

    children: list[Child] = field(default_factory=list)
    value: float = math.nan
    proposed: int = 0
    unusable: int = 0
    example: Any = None
    error: RequestFailed | None = None
    drawn: list[Avoided] = field(default_factory=list)


async def grow(
    problem: Problem,
    guide: Guide,
    state: State,
    own: float,
    n: int,
    rng: np.random.Generator,
    judge: bool = True,
    avoid: Sequence[Avoided] = (),
) -> Growth:
    """Ask the policy for up to `n` steps from `state` and, if `judge`, the value function for
    its value, side by side. own: the policy's own value of the state, nan unknown.
    """
    growth = Growth()
    for_policy, for_value = rng.spawn(2)
    tasks: list[Asks[Any]] = [_propose(problem, guide, state, n, for_policy, avoid, growth)]
    if judge:
        tasks.append(state_value(problem, guide, state, own, for_value))
    results = await parallel(tasks)
    if judge:
        growth.value = results[1]
    return growth


async def _propose(
    problem: Problem,
    guide: Guide,
    state: State,
    n: int,
    rng: np.random.Generator,
    avoid: Sequence[Avoided],
    growth: Growth,
) -> None:
    try:
        proposals = await proposed(guide.policy, problem, state, n, rng, avoid)
    except RequestFailed as error:
        growth.error = error
        return
    growth.proposed = len(proposals)
    growth.drawn = [sample for proposal in proposals for sample in proposal.drawn]
    children = await parallel(child_of(problem, state, proposal) for proposal in proposals)
    for proposal, child in zip(proposals, children, strict=True):
        if child is None:
            growth.unusable += 1
            growth.example = proposal.step
            continue
        if getattr(proposal.step, "finish", "stop") == "length" and not child.finished:
            growth.unusable += 1
            growth.example = proposal.step
        growth.children.append(child)


async def child_of(problem: Problem, state: State, proposal: Proposal) -> Child | None:
    """What a proposed step leads to; None where it is illegal, or its verifier did not answer."""
    try:
        key = problem.key(state, proposal.step)
        behind = await apply(problem, state, proposal.step)
        if behind is None:
            return None
        finished = problem.is_terminal(behind)
        reward = await verify(problem, behind) if finished else None
    except (IllegalStep, RequestFailed):
        return None
    return Child(proposal, key, behind, finished, reward)


async def state_value(
    problem: Problem, guide: Guide, state: State, own: float, rng: np.random.Generator
) -> float:
    """The guide's value of one state in [0, 1], nan unknown. own: the policy's, nan unknown."""
    try:
        values = await examined(guide.value, problem, [state], np.array([own], np.float32), rng)
    except RequestFailed:
        return math.nan
    value = float(values[0])
    return value if math.isnan(value) else round(value / PRECISION) * PRECISION


def at_once(asks: Asks[T]) -> T:
    """The result of a coroutine that asks for nothing."""
    try:
        begin(asks)
    except StopIteration as stop:
        return cast("T", stop.value)
    asks.close()
    raise RuntimeError(
        "a part that says it makes no calls has asked for something: correct its `calls`"
    )


def cost(guide: Guide, n: int, judge: bool) -> tuple[int, int]:
    """The most tokens and calls that `grow` can use."""
    tokens = n * guide.policy.step_tokens
    calls = n if guide.policy.backends else 0
    if judge:
        tokens += guide.value.tokens
        calls += guide.value.calls
    return tokens, calls


async def round_of(
    problem: Problem,
    guide: Guide,
    meter: Meter,
    tree: Tree,
    nodes: Sequence[int],
    n: int | Mapping[int, int],
    rng: np.random.Generator,
    judge: bool = True,
) -> dict[int, Growth]:
    """Grow all `nodes` side by side, as far as the budget has grants: node -> what came. Those
    without a grant are not in it.

    A node that has steps already was judged before: it only gets more proposals. n: steps asked
    for, perhaps of each node.
    """
    asked = n if isinstance(n, Mapping) else dict.fromkeys(nodes, n)
    most = max(asked.values(), default=0)
    tokens, calls = cost(guide, most, judge)
    growths: list[Growth] = []
    spawned = rng.spawn(len(nodes))
    # what the first did not use serves the next
    while grants := meter.grant(len(nodes) - len(growths), tokens, calls, max(1, most)):
        at = len(growths)
        growths += await parallel(
            granted(
                grow(
                    problem,
                    guide,
                    tree.states[node],
                    tree.value(node),
                    asked[node],
                    child,
                    judge and not tree.block(node),
                    tuple(tree.drawn.get(node, {}).values()),
                ),
                grant,
            )
            for node, grant, child in zip(nodes[at:], grants, spawned[at:], strict=False)
        )
    return dict(zip(nodes, growths, strict=False))


def write(
    tree: Tree, problem: Problem, node: int, growth: Growth, tau: float = 1.0, merge: float = 1.0
) -> list[int]:
    """Add the new distinct children to `node`; returns their edges. Finished ones become nodes at
    once.

    The prior of a step is the sum over its samples, those of earlier calls included, of
    exp(log-prob / tau). The log-prob of a sample of more than `SHORT` tokens is first scaled to
    that length: else the shortest of the long steps would have it all. Where a log-prob is unknown,
    the prior is the step's share of the samples. `Tree.set_unseen` gets the probability of the
    steps not proposed yet. Below 1, `merge` is the `similarity` from which on a step counts as one
    that is there already.
    """
    tree.proposed += growth.proposed
    tree.unusable += growth.unusable
    if growth.example is not None:
        tree.example = growth.example
    if growth.drawn:
        drawn = tree.drawn.setdefault(node, {})
        for sample in growth.drawn:
            drawn[sample.tokens] = sample
    steps = [tree.steps[edge] for edge in tree.block(node)]
    places = {problem.key(tree.states[node], step): place for place, step in enumerate(steps)}
    samples = tree.samples.setdefault(node, [])
    fresh: list[Child] = []
    texts = []  # of those that do not end a chain
    for edge, step in zip(tree.block(node), steps, strict=True):
        texts.append("" if tree.child(edge) in tree.finished else getattr(step, "text", ""))
    for child in growth.children:
        if child.key not in places:
            place = _alike(child, texts, merge) if merge < 1 else None
            if place is None:
                place = len(samples)
                samples.append({})
                fresh.append(child)
                texts.append("" if child.finished else getattr(child.proposal.step, "text", ""))
            places[child.key] = place
        samples[places[child.key]].update(_samples(child, growth.proposed))
    priors = _priors(samples, tau)
    edges = range(0)
    if fresh:
        edges = tree.add(
            node,
            [child.proposal.step for child in fresh],
            [child.state for child in fresh],
            priors,
            values=[child.proposal.value for child in fresh],
            log_probs=[child.proposal.log_prob for child in fresh],
            players=[mover(problem, child.state) for child in fresh],
        )
    elif growth.children:
        tree.set_priors(node, priors)
    tree.set_unseen(node, _unseen(tree, node))
    for edge, child in zip(edges, fresh, strict=True):
        if child.finished:
            tree.finished[tree.open(node, edge)] = child.reward
    return list(edges)


def _alike(child: Child, texts: Sequence[str], merge: float) -> int | None:
    """Which of these texts is the first that says what a child says in other words; None: none
    does. A finished child is like no other.
    """
    text = getattr(child.proposal.step, "text", "")
    if child.finished or not text:
        return None
    for place, other in enumerate(texts):
        if similarity(text, other) >= merge:
            return place
    return None


def similarity(first: str, second: str) -> float:
    """Words that two texts share, of all their words (Jaccard index of the multisets), in [0, 1]; 0
    where their numbers differ.

    Case and punctuation do not count. Numbers are compared in order, since they are what a step
    works out.
    """
    if _NUMBER.findall(first) != _NUMBER.findall(second):
        return 0.0
    one = Counter(_WORD.findall(first.lower()))
    two = Counter(_WORD.findall(second.lower()))
    either = (one | two).total()
    return (one & two).total() / either if either else 1.0


def _samples(child: Child, proposed: int) -> dict[Hashable, tuple[float, float]]:
    """What was drawn and means this child: tokens -> (log-prob, share); a name of its own where
    nothing is known of that.

    A policy that says what it drew but not how probable the step is has it counted once, however
    often and in whatever writing it came: so `benchmarks.sweep.ablations.uniform_priors` has equal
    priors and still draws nothing twice.
    """
    proposal = child.proposal
    if proposal.drawn and math.isnan(proposal.log_prob):
        return {None: (math.nan, 1.0)}
    if proposal.drawn:
        drawn = {sample.tokens: math.fsum(sample.log_probs) for sample in proposal.drawn}
        return {tokens: (_scaled(log_prob, len(tokens)), 1.0) for tokens, log_prob in drawn.items()}
    length = len(getattr(proposal.step, "tokens", ()))
    return {object(): (_scaled(proposal.log_prob, length), proposal.prior * proposed)}


def _scaled(log_prob: float, length: int) -> float:
    """The log-prob of a sample as if it had at most `SHORT` tokens (a length normalisation as of
    Wu et al. 2016, section 7).
    """
    return log_prob * min(1.0, SHORT / max(1, length))


def _priors(samples: Sequence[Mapping[Hashable, tuple[float, float]]], tau: float) -> np.ndarray:
    """Priors of the edges of one block, float64 [edges], from the samples of each."""
    owners = np.repeat(np.arange(len(samples)), np.array(list(map(len, samples)), np.int64))
    pairs = np.array([pair for drawn in samples for pair in drawn.values()]).reshape(-1, 2)
    log_probs = pairs[:, 0]
    weights = pairs[:, 1]
    if len(pairs) and np.isfinite(pairs).all():
        weights = np.exp((log_probs - log_probs.max()) / tau)
    return normalise(np.bincount(owners, weights, len(samples)))


def _unseen(tree: Tree, node: int) -> float:
    """Probability, in [0, 1], that a step of `node` is not proposed yet, given that it is none of
    those known to be illegal or another writing of one that is there. 1 where the policy does not
    tell its log-probs.
    """
    log_probs = [tree.log_probs[edge] for edge in tree.block(node)]
    if any(map(math.isnan, log_probs)):
        return 1.0
    there = math.fsum(math.exp(min(0.0, log_prob)) for log_prob in log_probs)
    drawn = math.fsum(sample.probability for sample in tree.drawn.get(node, {}).values())
    left = 1.0 - max(there, drawn)
    if not left > 0:
        return 0.0
    return round(left / (there + left) / PRECISION) * PRECISION


def plant(problem: Problem, meter: Meter | None = None) -> Tree:
    """A tree of the problem's first state alone. `meter`: of the search, through which progress
    reports see the tree.
    """
    state = problem.initial()
    if problem.is_terminal(state):
        raise ValueError(
            "the problem is finished before its first step: there is nothing to search"
        )
    tree = Tree(state, player=mover(problem, state), players=problem.players)
    if meter is not None:
        meter.tree = tree
    return tree


def mover(problem: Problem, state: State) -> int:
    """0 or 1: who moves in `state`. Two-player problems say it by `to_move(state)`."""
    return int(problem.to_move(state)) if problem.players == 2 else 0  # type: ignore[attr-defined]


async def state_values(
    problem: Problem,
    guide: Guide,
    meter: Meter,
    states: Sequence[State],
    own: Sequence[float],
    rng: np.random.Generator,
) -> list[float]:
    """`state_value` of many states, as far as the budget has grants; nan for the others."""
    values: list[float] = []
    spawned = rng.spawn(len(states))
    while grants := meter.grant(len(states) - len(values), guide.value.tokens, guide.value.calls):
        at = len(values)
        values += await parallel(
            granted(state_value(problem, guide, state, value, child), grant)
            for state, value, grant, child in zip(
                states[at:], own[at:], grants, spawned[at:], strict=False
            )
        )
    return values + [math.nan] * (len(states) - len(values))


def solved(problem: Problem, tree: Tree) -> bool:
    """Whether a search for one player has found a verified solution: nothing more is to be done."""
    return problem.players == 1 and tree.verified is not None
