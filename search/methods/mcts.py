"""Monte-Carlo tree search with a policy prior and a learned value (PUCT; Silver et al. 2017), in rounds of distinct leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from search.asks import Asks
from search.budget import Meter
from search.guide import Guide
from search.methods.grow import plant, solved
from search.methods.simulate import Simulations
from search.problem import Problem
from search.rules import Rule, alphazero, puct, ucb1
from search.tree import Tree

#: Selection rules by name, of `c_puct` and `fpu_reduction`
RULES: Mapping[str, Callable[[float, float], Rule]] = {
    "puct": puct,
    "alphazero": lambda c, reduction: alphazero(c, fpu_reduction=reduction),
    "normalised": lambda c, reduction: alphazero(c, fpu_reduction=reduction, normalise=True),
    "ucb1": lambda c, reduction: ucb1(c),
}


def mcts(
    problem: Problem,
    guide: Guide,
    meter: Meter,
    rng: np.random.Generator,
    *,
    branch: int = 1,
    leaves: int = 8,
    c_puct: float = 1.5,
    fpu_reduction: float = 0.0,
    tau: float = 1.0,
    widen: float = 1.0,
    lookahead: float = 0.5,
    rule: str = "puct",
    noise: float = 0.0,
    concentration: float = 0.3,
) -> Asks[Tree]:
    """Search by simulations: select a leaf by PUCT, propose its steps, judge it, back its value up.

    branch         steps sampled at a leaf. A node whose steps are all settled is widened by as many more, until no new one comes
                   anywhere in the tree, not even at a second asking
    leaves         distinct leaves of one round, evaluated together
    widen          the steps that the policy has not proposed yet are one more choice at every node, its Q the first-play urgency, its
                   prior widen * their probability / (1 + steps there): taking it asks for `branch` more. 0: never
    lookahead      weight of the best new step's value in what a leaf backs up; the rest is the leaf's own value
    tau            temperature of the priors: softmax of log_prob / tau over the steps proposed
    c_puct         weight of the prior;  fpu_reduction: how far below its parent's mean an unvisited step without a value starts
    rule           "puct" (c constant), "alphazero" (c grows with the visits), "normalised" (and Q is scaled between siblings, MuZero) or
                   "ucb1" (no priors): see `search.rules`
    noise          share of Dirichlet noise in the root's priors;  concentration: of the noise (AlphaZero: 0.25, and 0.3 in chess)
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}: choose one of {', '.join(RULES)}")
    if not 0 <= noise <= 1 or concentration <= 0:
        raise ValueError(f"noise={noise} must lie in [0, 1] and concentration={concentration} above 0: correct the options of mcts")
    if lookahead > 1 or tau <= 0:
        raise ValueError(f"lookahead={lookahead} must lie in [0, 1] and tau={tau} above 0: correct the options of mcts")
    chosen = RULES[rule](c_puct, fpu_reduction)
    search = Simulations(problem, guide, meter, rng, plant(problem, meter), branch, tau, lookahead, noise, concentration)
    tree = search.tree
    tree.use(chosen, widen)  # compiles, if ever, before anything is asked
    yield from search.root()
    explored = 0  # edges when no new step came the last time
    while not solved(problem, tree):
        if tree.exhausted and len(tree.steps) > explored:  # ask every node once more
            explored, tree.exhausted = len(tree.steps), False
            tree.reopen()
            search.barren.clear()
        begun = 0 if tree.exhausted else meter.begin(leaves)
        if not begun:
            break
        picked = tree.select(begun, chosen, stop_at_collision=True, widen=widen)
        values = yield from search.simulate(picked)
        tree.backup(picked, values)
        meter.finish(int((~np.isnan(values)).sum()), begun)
    return tree
