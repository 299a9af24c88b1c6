"""Independent chains of thought: ancestral sampling from the policy.

With a chooser this is chain of thought (one chain), majority vote (`choose.majority`; Wang et al. 2022), best-of-N
(`choose.best`), weighted vote (`choose.weighted`) and rejection sampling (a problem that verifies itself).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from search.asks import Asks, granted, parallel
from search.budget import Meter
from search.guide import Guide, Proposal
from search.methods.grow import Child, child_of, judge_all, mover, plant, solved
from search.problem import Problem, Step
from search.requests import RequestFailed
from search.tree import Tree


def sample(
    problem: Problem,
    guide: Guide,
    meter: Meter,
    rng: np.random.Generator,
    *,
    chains: int | None = None,
    wave: int = 8,
) -> Asks[Tree]:
    """Sample chains until one is verified, `chains` are there, or the budget ends.

    chains  how many; None: as many as the budget allows
    wave    chains sampled side by side; after each wave the search looks whether one is verified

    A simulation is one chain. Chains share their common beginnings in the tree; a step's prior there is its share of the samples.
    """
    tree = plant(problem, meter)
    tree.visit(0, 0.5)
    left = math.inf if chains is None else chains
    barren = 0
    while left > 0 and not solved(problem, tree):
        begun = meter.begin(int(min(wave, left)))
        grants = meter.grant(begun, guide.policy.chain_tokens, guide.policy.max_steps if guide.policy.backends else 0)
        if not grants:
            break
        results = yield from parallel(
            granted(_chain(problem, guide, child), grant) for grant, child in zip(grants, rng.spawn(len(grants)), strict=True)
        )
        failed = [result for result in results if isinstance(result, RequestFailed)]
        barren = barren + 1 if len(failed) == len(results) else 0
        if barren == 3 and not meter.stopped:
            if len(tree.nodes) == 1:
                raise failed[-1]
            break
        leaves = [leaf for chain in results if not isinstance(chain, RequestFailed) and (leaf := _write(tree, problem, chain))]
        yield from _judge(problem, guide, meter, tree, leaves, rng)
        _share_priors(tree)
        sampled = len(results) - len(failed)  # what failed is sampled again
        meter.finish(sampled, begun)
        left -= sampled
    return tree


@dataclass
class _Chain:
    """A sampled chain: its legal steps with the states behind them, and the illegal one that ended it, if any."""

    children: list[Child]
    illegal: Step | None = None


def _chain(problem: Problem, guide: Guide, rng: np.random.Generator) -> Asks[_Chain | RequestFailed]:
    state, chain = problem.initial(), _Chain([])
    try:
        steps = yield from guide.policy.complete(problem, state, rng)
    except RequestFailed as error:
        return error
    for step in steps:
        child = yield from child_of(problem, state, Proposal(step, math.nan, 1.0))
        if child is None:
            chain.illegal = step
            break
        chain.children.append(child)
        state = child.state
    return chain


def _write(tree: Tree, problem: Problem, chain: _Chain) -> int:
    """Add one chain to the tree; the node it ends at, 0 if its first step is illegal."""
    node = 0
    for child in chain.children:
        step, state = child.proposal.step, tree.states[node]
        edge = next((e for e in tree.block(node) if problem.key(state, tree.steps[e]) == child.key), None)
        if edge is None:
            count = len(tree.block(node)) + 1
            edge = tree.add(node, [step], [child.state], np.full(count, 1.0 / count), players=[mover(problem, child.state)])[0]
            if child.finished:
                tree.finished[tree.open(node, edge)] = child.reward
        node = tree.open(node, edge)
    cut = [child.proposal.step for child in chain.children if getattr(child.proposal.step, "finish", "stop") == "length"]
    bad = cut if chain.illegal is None else [*cut, chain.illegal]
    tree.proposed += len(chain.children) + (chain.illegal is not None)
    tree.unusable += len(bad)
    tree.example = bad[-1] if bad else tree.example
    return node


def _judge(problem: Problem, guide: Guide, meter: Meter, tree: Tree, leaves: list[int], rng: np.random.Generator) -> Asks[None]:
    """One visit for each chain: the reward where there is one, the guide's value where only the label could tell, 0 if unfinished."""
    unknown = [node for node in dict.fromkeys(leaves) if node in tree.finished and tree.finished[node] is None]
    judged = yield from judge_all(problem, guide, meter, [tree.states[n] for n in unknown], [tree.value(n) for n in unknown], rng)
    values = dict(zip(unknown, judged, strict=True))
    for node in leaves:
        value = values.get(node, tree.finished.get(node) or 0.0)
        tree.visit(node, 0.5 if math.isnan(value) else value)


def _share_priors(tree: Tree) -> None:
    """Priors of every block: the share of the chains that took each step."""
    for node in range(len(tree.nodes)):
        block = tree.block(node)
        if block:
            counts = np.maximum(tree.field(node, "visits"), 1)
            tree.set_priors(node, counts / counts.sum())
