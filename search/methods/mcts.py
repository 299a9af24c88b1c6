"""Monte-Carlo tree search with a policy prior and a learned value (PUCT; Silver et al. 2017), in
rounds of distinct leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from search.methods.concurrent_chains import InFlight
from search.methods.concurrent_simulations import Flight
from search.methods.session import Search
from search.methods.simulate import Simulations
from search.tree.selection import Rule, alphazero, puct, ucb1

#: Selection rules by name, of `c_puct` and `fpu_reduction`
RULES: Mapping[str, Callable[[float, float], Rule]] = {
    "puct": puct,
    "alphazero": lambda c, reduction: alphazero(c, fpu_reduction=reduction),
    "normalised": lambda c, reduction: alphazero(c, fpu_reduction=reduction, normalise=True),
    "ucb1": lambda c, reduction: ucb1(c),
}

FIRST = 2 / 3  #: until a chain has ended, these of the tokens are kept for the first simulation


async def mcts(
    search: Search,
    *,
    branch: int = 1,
    leaves: int = 10,
    rollout: float = 0.35,
    c_puct: float = 1.5,
    fpu_reduction: float = 0.0,
    tau: float = 1.0,
    widen: float = 1.0,
    lookahead: float = 0.5,
    rule: str = "puct",
    noise: float = 0.0,
    merge: float = 1.0,
) -> None:
    """Search by simulations: select a leaf by PUCT, propose its steps, judge it, back its value up.

    branch         steps sampled at a leaf. A node whose steps are all settled is widened by as many
                   more, until no new one comes anywhere in the tree, not even at a second asking
    leaves         simulations in flight at once; the next begins as one ends, and sees those in
                   flight as visits of value 0
    rollout        how many chains are finished, at least, of those that sampling would finish with
                   the same tokens: where they are fewer, a simulation goes on below its leaf to the
                   end of its chain, whose value it backs up. Where nothing judges steps, every
                   simulation does; where they are judged and the problem verifies itself, none
                   does, since no other chain is an answer there. 0: never
    widen          the steps that the policy has not proposed yet are one more choice at every node,
                   its Q the first-play urgency, its prior widen * their probability / (1 + steps
                   there): taking it asks for `branch` more. 0: never
    lookahead      weight of the best new step's value in what a leaf backs up; the rest is the
                   leaf's own value
    tau            temperature of the priors: softmax of log_prob / tau over the steps proposed
    c_puct         weight of the prior;  fpu_reduction: how far below its parent's mean an unvisited
                   step without a value starts
    rule           "puct" (c constant), "alphazero" (c grows with the visits), "normalised" (and Q
                   is scaled between siblings, MuZero) or "ucb1" (no priors): see
                   `search.tree.selection`
    noise          share of Dirichlet noise, `tree.selection.dirichlet`, in the root's priors
                   (AlphaZero: 0.25)
    merge          share of common words from which on two steps of one node count as one
                   (`expand.similarity`); 1: only equal steps do
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}: choose one of {', '.join(RULES)}")
    if not 0 <= noise <= 1:
        raise ValueError(f"noise={noise} must lie in [0, 1]: correct the options of mcts")
    if lookahead > 1 or tau <= 0:
        raise ValueError(
            f"lookahead={lookahead} must lie in [0, 1] and tau={tau} above 0: correct the "
            "options of mcts"
        )
    chosen = RULES[rule](c_puct, fpu_reduction)
    simulations = Simulations(search, branch, tau, lookahead, noise, merge)
    search.tree.use(chosen, widen)  # compiles, if ever, before anything is asked
    await simulations.root()
    flight = Flight(
        simulations, InFlight(search.meter, search.guide, leaves, FIRST), chosen, widen, rollout
    )
    await flight.all()
