"""Advantages of graded traces: pure functions, no model.

Samples of one problem are a group, whether one trace holds them or several
(`guides.data.groups`). A method gives each step of each chain an advantage A, and `advantages` adds
them up over the chains that share a step, because what they share stands once in an example:

    samples = sum w,  positive = sum w max(A, 0),  negative = sum w min(A, 0)

with w = 1 for each chain, or 1 / its number of tokens (`Credit.normalise`).

So the gradient of a tree is that of its chains as separate rows. The methods of trees let a step
that m chains share count once instead: the sums are divided by m.

A method of one's own is a function of the groups. It returns, for each group, one entry a chain: a
number, or float [steps] with one for each step; nan takes no part in the gradient.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from guides.data.distill import segments_of
from guides.data.examples import Segment
from guides.data.grading import Graded, function_of
from guides.data.groups import Chain, Group

DIVISORS = ("none", "group", "batch")
UNFINISHED = ("penalise", "mask")
SEARCHED = ("refuse", "weigh")
NORMALISE = ("tokens", "sequences")
VALUES = ("chains", "labels")
HELD = ("all", "first")
FLOOR = 1e-4  #: added to a deviation before it divides, as TRL and nano-aha-moment do


@dataclass(frozen=True)
class Credit:
    """How chains share the credit.

    method      a name in `METHODS`, or "module:function" of groups
    divisor     of "group": "none" (Dr. GRPO; Liu et al. 2025), the deviation of the "group" (GRPO;
                Shao et al. 2024) or of the "batch" (Lite PPO; Liu et al. 2025)
    once        a step that m chains share counts as one sample, not as m; None: as the method is
                meant
    unfinished  chains that were cut off: "penalise" (reward 0) or "mask" (no gradient)
    searched    traces that a search drew, not independent samples: "refuse", or "weigh" by
                inclusion probabilities (`search.guide.multiplicity`)
    normalise   what counts alike: "tokens", or "sequences", whose tokens weigh 1 / their number
                (GRPO). The sum of samples over all tokens is then the number of tokens or of chains
    values      of "step" and "tree": the share of right "chains" below a node, or the "labels" of
                the traces (roll-outs, a checker's)
    discount    lambda of "critic", in [0, 1]
    alpha       of "progress": weight of the prover's advantage (Setlur et al. 2024 take 0.2 to 0.5
                where they search)
    first       of "attempts": weight of the first attempt's own reward, at least 0
    bonus       of "attempts": how much the last attempt gets for what it gains over the first
    held        what the KL of the loss holds: "all" steps, or those of the "first" attempt

    Raises ValueError for values that are none of these.
    """

    method: str = "group"
    divisor: str = "group"
    once: bool | None = None
    unfinished: str = "penalise"
    searched: str = "refuse"
    normalise: str = "tokens"
    values: str = "chains"
    discount: float = 0.95
    alpha: float = 0.5
    first: float = 1.0
    bonus: float = 10.0
    held: str = "all"

    def __post_init__(self) -> None:
        choices = {
            "divisor": DIVISORS,
            "unfinished": UNFINISHED,
            "searched": SEARCHED,
            "normalise": NORMALISE,
            "values": VALUES,
            "held": HELD,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is one of {', '.join(allowed)}, not {getattr(self, name)!r}; correct "
                    "the options of the advantages"
                )
        weights = (self.alpha, self.first, self.bonus)
        if not 0 <= self.discount <= 1 or not all(0 <= one < math.inf for one in weights):
            raise ValueError(
                "discount is in [0, 1] and alpha, first and bonus at least 0; correct the options "
                "of the advantages"
            )
        method_of(self.method)


class Advantages(NamedTuple):
    """Of the edges of one trace, float64 [edges] each: how many samples an edge counts as, and the
    sums of their advantages above and below 0.
    """

    samples: np.ndarray
    positive: np.ndarray
    negative: np.ndarray


#: for each group, one entry a chain: a number, or float [steps]
Method = Callable[[Sequence[Group]], Sequence[Sequence[Any]]]


def advantages(
    batch: Sequence[Graded], groups: Sequence[Group], credit: Credit
) -> list[Advantages]:
    """Of each trace of the batch, whose `groups` these are. Edges that no chain takes, and traces
    whose group is left out, have 0.

    Raises ValueError for what a method of one's own returns and is no number a chain or a step, and
    where "critic" finds no values.
    """
    method, once = method_of(credit.method)
    once = once if credit.once is None else credit.once
    found = [Advantages(*np.zeros((3, len(one.trace.steps)))) for one in batch]
    through = [np.zeros(len(one.trace.steps)) for one in batch]
    given = method(groups, credit)
    if list(map(len, given)) != [len(group.chains) for group in groups]:
        raise ValueError(
            f"the advantages {credit.method!r} are not one entry for each chain of each group: "
            "return a list a group"
        )
    chains = itertools.chain.from_iterable(group.chains for group in groups)
    for chain, own in zip(chains, itertools.chain.from_iterable(given), strict=True):
        of_steps = _of_steps(own, chain, credit)
        part = ~np.isnan(of_steps)
        edges = chain.edges[part]
        weight = chain.times
        if credit.normalise == "sequences":
            weight /= chain.tokens
        sums = found[chain.trace]
        sums.samples[edges] += weight
        sums.positive[edges] += weight * np.maximum(of_steps[part], 0.0)
        sums.negative[edges] += weight * np.minimum(of_steps[part], 0.0)
        through[chain.trace][edges] += chain.times
    if not once:
        return found
    for index, one in enumerate(batch):
        # a search draws a step once already, and its weight says how likely it is
        if one.trace.independent:
            for column in found[index]:
                column /= np.maximum(through[index], 1.0)
    return found


def _of_steps(own: Any, chain: Chain, credit: Credit) -> np.ndarray:
    """float64 [steps]: the advantage of each step of a chain."""
    try:
        of_steps = np.broadcast_to(np.asarray(own, np.float64), len(chain.edges))
    except (TypeError, ValueError):
        of_steps = np.array([math.inf])
    if np.isinf(of_steps).any():
        raise ValueError(
            f"the advantages {credit.method!r} give {own!r} for a chain of {len(chain.edges)} "
            "steps: give a finite number, or one for each step"
        )
    return of_steps


def advantage_segments(
    one: Graded,
    found: Advantages,
    prompt: Sequence[int],
    *,
    weights: np.ndarray | None = None,
    free: np.ndarray | None = None,
    every_token: bool = False,
) -> list[Segment]:
    """A trace as segments with its advantages, the sampler's log-probs and its value labels; []
    where there is nothing to learn from it.

    weights  float64 [edges]: how much each step is imitated beside; None: not at all
    free     bool [edges]: steps that the KL of the loss does not hold; None: it holds all
    every_token  as in `guides.data.distill`
    """
    columns = found._asdict()
    if weights is not None:
        columns["weight"] = weights
    if free is not None:
        columns["free"] = free & (found.samples > 0)
    return segments_of(one.trace, prompt, one.labels, columns, every_token)


# -- methods


def group(groups: Sequence[Group], credit: Credit) -> list[np.ndarray]:
    """Reward minus the group's mean, divided as `Credit.divisor` says (GRPO; Shao et al. 2024,
    section 4.1.2). Deviations are those of samples (n - 1).
    """
    return _compared([one.rewards for one in groups], groups, credit)


def attempts(groups: Sequence[Group], credit: Credit) -> list[list[np.ndarray]]:
    """Each attempt against those of the other chains, as `group` does it: the first by
    `Credit.first` times its own reward r1, the steps behind it by r + bonus * (r - r1), with the
    last attempt's reward r (SCoRe; Kumar et al. 2024, section 4.2). A chain whose first attempt
    nobody can tell, or that has one attempt, gets r alone.
    """
    firsts = []
    lasts = []
    for one in groups:
        first = np.array([chain.first for chain in one.chains])
        gain = np.nan_to_num(one.rewards - first)
        lasts.append(one.rewards + credit.bonus * gain)
        firsts.append(np.where(np.isnan(first), one.rewards, first))
    found: list[list[np.ndarray]] = []
    ways = zip(groups, *(_compared(own, groups, credit) for own in (firsts, lasts)), strict=True)
    for one, first, last in ways:
        found.append([])
        for chain, before, behind in zip(one.chains, first, last, strict=True):
            own = np.full(len(chain.edges), behind)
            if not math.isnan(chain.first):
                own[: chain.turn] = credit.first * before
            found[-1].append(own)
    return found


def _compared(
    rewards: Sequence[np.ndarray], groups: Sequence[Group], credit: Credit
) -> list[np.ndarray]:
    """Of the chains of each group, their rewards less the mean, divided as `Credit` says."""
    whole = np.concatenate([np.zeros(0), *rewards])
    times = np.concatenate([np.zeros(0), *(one.times for one in groups)])
    of_batch = _deviation(whole, times) + FLOOR
    found = []
    for own, one in zip(rewards, groups, strict=True):
        scale = 1.0
        if credit.divisor == "batch":
            scale = of_batch
        elif credit.divisor == "group":
            scale = _deviation(own, one.times) + FLOOR
        mean = own @ one.times / one.times.sum() if len(own) else math.nan
        found.append((own - mean) / scale)
    return found


def _deviation(rewards: np.ndarray, times: np.ndarray) -> float:
    """The standard deviation of samples; 0 where there is one, or none."""
    total = times.sum()
    if total <= 1:
        return 0.0
    mean = rewards @ times / total
    return math.sqrt((rewards - mean) ** 2 @ times / (total - 1))


def leave_one_out(groups: Sequence[Group], credit: Credit) -> list[np.ndarray]:
    """Reward minus the mean of the other chains of the group (RLOO; Kool et al. 2019, Ahmadian et
    al. 2024, equation 8): the mean gradient is that of the expected reward. A chain alone has 0.
    """
    return list(map(_against_others, groups))


def _against_others(one: Group) -> np.ndarray:
    """float64 [chains]"""
    single = np.array([chain.single for chain in one.chains])
    others = one.times.sum() - single
    means = (one.rewards @ one.times - one.rewards * single) / np.where(others > 0, others, 1.0)
    return np.where(others > 0, one.rewards - means, 0.0)


def max_likelihood(groups: Sequence[Group], credit: Credit) -> list[np.ndarray]:
    """Reward minus the group's mean, divided by the mean (MaxRL): of n samples the mean gradient is
    that of -sum_k (1 - p)^k / k over k < n, which is log p to the order n - 1, with p the
    probability of a right chain. A group without reward has 0.

    The mean over right chains alone reaches the order n. What is subtracted from it here has mean
    0, but for groups that are all wrong, in which it is left out.
    """
    found = []
    for one in groups:
        mean = one.mean if one.mean > 0 else math.inf
        found.append((one.rewards - one.mean) / mean)
    return found


def tree(groups: Sequence[Group], credit: Credit) -> list[list[np.ndarray]]:
    """(V - V(parent)) + (V - V(root)), divided by the root of the number of chains below (TreeRL;
    Hou et al. 2025). Each chain as a row of its own, as there, is `once=False`.
    """
    found: list[list[np.ndarray]] = []
    for one in groups:
        values = _values(one, credit.values)
        _, below = _below(one)
        found.append([])
        for chain in one.chains:
            after = values[chain.trace][_nodes(one, chain)]
            leaves = below[chain.trace][_nodes(one, chain)][1:]
            gain = np.diff(after) + after[1:] - after[0]
            found[-1].append(gain / np.sqrt(leaves))
    return found


def step(groups: Sequence[Group], credit: Credit) -> list[list[np.ndarray]]:
    """V - V(parent), V by Monte Carlo (VinePPO, Kazemnejad et al. 2024; SPO, Guo et al. 2025)."""
    found = []
    for one in groups:
        values = _values(one, credit.values)
        found.append([np.diff(values[chain.trace][_nodes(one, chain)]) for chain in one.chains])
    return found


def critic(groups: Sequence[Group], credit: Credit) -> list[list[np.ndarray]]:
    """Generalised advantage estimation over steps (Schulman et al. 2016, equation 16, gamma 1) with
    the value head's values that the traces hold. The root, which has none, is worth the mean of
    the first steps; the end of a chain its reward.
    """
    found = []
    for one in groups:
        ways = []
        for chain in one.chains:
            values = one.graded[chain.trace].trace.edge_value[chain.edges].astype(np.float64)
            values[-1] = chain.reward
            if np.isnan(values).any():
                raise ValueError(
                    f"the trace {one.graded[chain.trace].trace.id} has no values of its steps, "
                    "from which critic takes differences: sample with a guide that has a value "
                    "head, or choose other advantages"
                )
            ways.append(values)
        firsts = np.array([values[0] for values in ways])
        root = firsts @ one.times / max(one.times.sum(), 1e-9)
        found.append([_estimated(root, values, credit.discount) for values in ways])
    return found


def _estimated(root: float, values: np.ndarray, discount: float) -> np.ndarray:
    """float64 [steps]: sums of later temporal differences, discounted."""
    sums = np.diff(values, prepend=root)
    for place in range(len(sums) - 2, -1, -1):
        sums[place] += discount * sums[place + 1]
    return sums


def progress(groups: Sequence[Group], credit: Credit) -> list[list[np.ndarray]]:
    """The outcome's advantage (`leave_one_out`) plus `Credit.alpha` times that of a prover, V -
    V(parent) with the labels as its values (PAV; Setlur et al. 2024, equation 5). A step without
    labels before and behind it takes no part.
    """
    found: list[list[np.ndarray]] = []
    for one in groups:
        values = _values(one, "labels")
        found.append([])
        for chain, outcome in zip(one.chains, _against_others(one), strict=True):
            gain = np.diff(values[chain.trace][_nodes(one, chain)])
            found[-1].append(outcome + credit.alpha * gain)
    return found


def _nodes(one: Group, chain: Chain) -> np.ndarray:
    """int64 [steps + 1]: the nodes of a chain, from the root on."""
    return np.append(0, one.graded[chain.trace].trace.edge_child[chain.edges])


def _below(one: Group) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """By trace, float64 [nodes] each: the sum of the rewards of the chains through each node, and
    the number of these chains.
    """
    sums = {}
    counts = {}
    for index, graded in one.graded.items():
        sums[index] = np.zeros(len(graded.trace.node_parent))
        counts[index] = np.zeros(len(graded.trace.node_parent))
    for chain in one.chains:
        nodes = _nodes(one, chain)
        sums[chain.trace][nodes] += chain.times * chain.reward
        counts[chain.trace][nodes] += chain.times
    return sums, counts


def _values(one: Group, source: str) -> dict[int, np.ndarray]:
    """By trace, float64 [nodes]: what each node is worth; nan unknown. All traces begin at the
    same root.
    """
    values = {}
    if source == "labels":
        for index, graded in one.graded.items():
            values[index] = graded.labels.soft
        known = [own[0] for own in values.values() if not math.isnan(own[0])]
        root = sum(known) / len(known) if known else math.nan
    else:
        sums, counts = _below(one)
        for index, own in sums.items():
            values[index] = own / np.where(counts[index] > 0, counts[index], math.nan)
        root = one.mean
    for own in values.values():
        own[0] = root
    return values


#: name -> the method, and whether a step that several chains share counts once
METHODS: dict[str, tuple[Callable[..., Any], bool]] = {
    "group": (group, False),
    "leave_one_out": (leave_one_out, False),
    "max_likelihood": (max_likelihood, False),
    "tree": (tree, True),
    "step": (step, True),
    "critic": (critic, True),
    "progress": (progress, True),
    "attempts": (attempts, False),
}


def method_of(name: str) -> tuple[Callable[..., Any], bool]:
    """A method of the table, or "module:function", and whether a shared step counts once with it.
    Raises ValueError where there is none.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" not in name:
        raise ValueError(
            f"unknown advantages {name!r}: choose one of {', '.join(METHODS)}, or write "
            "module:function"
        )
    own: Method = function_of(name, "advantages", "groups of chains")
    return (lambda groups, credit: own(groups)), False
