"""Advantages against brute force over the list of samples, and their gradients on a policy whose
chains can all be enumerated, against the gradient of what they claim to climb.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import rl_cases
from hypothesis import given, settings
from hypothesis import strategies as st
from rl_cases import Sample, merged, names_of, signed
from training_cases import torch

from guides.data.advantages import (
    METHODS,
    Credit,
    advantage_segments,
    advantages,
)
from guides.data.distill import distill
from guides.data.grading import Graded
from guides.data.groups import Group, charged, groups_of
from guides.data.labels import Labels
from search.guide import multiplicity
from search.problem import TextStep

FLAT = ("group", "leave_one_out", "max_likelihood", "attempts")


def found_of(batch: Sequence[Graded], credit: Credit) -> list[rl_cases.Advantages]:
    return advantages(batch, groups_of(batch, credit), credit)


def own_half(groups: Sequence[Group]) -> list[list[float]]:
    """A method of one's own: half of the reward at all steps but the first, which takes no part."""
    found = []
    for group in groups:
        found.append([])
        for chain in group.chains:
            own = np.full(len(chain.edges), chain.reward / 2)
            own[0] = math.nan
            found[-1].append(own)
    return found


def too_few(groups: Sequence[Group]) -> list[list[float]]:
    return [[] for _ in groups]


def endless(groups: Sequence[Group]) -> list[list[float]]:
    return [[math.inf for _ in group.chains] for group in groups]


def mean(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) / len(numbers)


def deviation(numbers: Sequence[float]) -> float:
    if len(numbers) < 2:
        return 0.0
    return math.sqrt(math.fsum((x - mean(numbers)) ** 2 for x in numbers) / (len(numbers) - 1))


class Slow:
    """The definitions, sample by sample. A node is its steps; values: of some nodes."""

    def __init__(
        self,
        problems: Sequence[Sequence[Sample]],
        credit: Credit,
        values: dict[tuple[int, tuple[int, ...]], float],
        heads: dict[tuple[int, tuple[int, ...]], float],
    ):
        self.credit = credit
        self.values = values
        self.heads = heads
        self.problems: list[list[tuple[tuple[int, ...], float]]] = []
        for samples in problems:
            taken = []
            for steps, outcome in samples:
                if outcome is None and credit.unfinished == "penalise":
                    taken.append((steps, 0.0))
                elif outcome is not None and not math.isnan(outcome):
                    taken.append((steps, outcome))
            self.problems.append(taken)

    def value(self, number: int, node: tuple[int, ...]) -> float:
        """The share of right samples below a node."""
        if self.credit.values == "labels" or self.credit.method == "progress":
            return self.values.get((number, node), math.nan)
        samples = self.problems[number]
        return mean([reward for steps, reward in samples if steps[: len(node)] == node])

    def others(self, number: int, place: int) -> float:
        samples = self.problems[number]
        rest = [reward for i, (_, reward) in enumerate(samples) if i != place]
        return samples[place][1] - mean(rest) if rest else 0.0

    def of(self, number: int, place: int, length: int) -> float:
        """The advantage of step `length` (from 1) of a sample."""
        steps, reward = self.problems[number][place]
        samples = self.problems[number]
        rewards = [reward for _, reward in samples]
        node, parent = steps[:length], steps[: length - 1]
        method = self.credit.method
        if method in ("group", "attempts"):  # alike, where a chain has one attempt
            every = [reward for samples in self.problems for _, reward in samples]
            divisor = {
                "none": 1.0,
                "group": deviation(rewards) + 1e-4,
                "batch": deviation(every) + 1e-4,
            }[self.credit.divisor]
            return (reward - mean(rewards)) / divisor
        if method == "leave_one_out":
            return self.others(number, place)
        if method == "max_likelihood":
            return (reward - mean(rewards)) / mean(rewards) if any(rewards) else 0.0
        if method == "progress":
            gain = self.value(number, node) - self.value(number, parent)
            return self.others(number, place) + self.credit.alpha * gain
        if method == "step":
            return self.value(number, node) - self.value(number, parent)
        if method == "tree":
            gain = 2 * self.value(number, node) - self.value(number, parent)
            leaves = sum(steps[:length] == node for steps, _ in samples)
            return (gain - self.value(number, ())) / math.sqrt(leaves)
        assert method == "critic"
        total = 0.0
        for later in range(length, len(steps) + 1):
            delta = self.head(number, place, later) - self.head(number, place, later - 1)
            total += self.credit.discount ** (later - length) * delta
        return total

    def head(self, number: int, place: int, length: int) -> float:
        steps, reward = self.problems[number][place]
        if length == 0:
            samples = range(len(self.problems[number]))
            return mean([self.head(number, other, 1) for other in samples])
        return reward if length == len(steps) else self.heads[number, steps[:length]]

    def sums(
        self, number: int, node: tuple[int, ...], lengths: dict[tuple[int, ...], int]
    ) -> np.ndarray:
        """samples, positive, negative of the step to a node; lengths: tokens of the steps."""
        rows = []
        through = [
            i for i, (steps, _) in enumerate(self.problems[number]) if steps[: len(node)] == node
        ]
        for place in through:
            weight = 1.0
            if self.credit.normalise == "sequences":
                steps = self.problems[number][place][0]
                weight /= sum(lengths[steps[:i]] for i in range(1, len(steps) + 1))
            own = self.of(number, place, len(node))
            if not math.isnan(own):
                rows.append(np.array([1.0, max(own, 0.0), min(own, 0.0)]) * weight)
        once = self.credit.once
        if once is None:
            once = self.credit.method not in FLAT
        return sum(rows, np.zeros(3)) / (max(1, len(through)) if once else 1)


CREDITS = st.builds(
    Credit,
    method=st.sampled_from(sorted(METHODS)),
    divisor=st.sampled_from(["none", "group", "batch"]),
    once=st.sampled_from([None, True, False]),
    unfinished=st.sampled_from(["penalise", "mask"]),
    normalise=st.sampled_from(["tokens", "sequences"]),
    values=st.sampled_from(["chains", "labels"]),
    discount=st.sampled_from([0.0, 0.5, 1.0]),
    alpha=st.sampled_from([0.0, 0.7]),
)


@pytest.mark.thorough
@settings(max_examples=300, deadline=None)
@given(rl_cases.groups(), CREDITS, st.randoms(use_true_random=False))
def test_advantages_are_those_of_the_list_of_samples(problems, credit, random) -> None:
    batch: list[Graded] = []
    values: dict[tuple[int, tuple[int, ...]], float] = {}
    heads: dict[tuple[int, tuple[int, ...]], float] = {}
    for number, samples in enumerate(problems):
        one = merged(samples)
        labels = []
        for node, steps in enumerate(names_of(samples)):
            labels.append(random.choice([0.25, 0.5, math.nan]))
            values[number, steps] = labels[-1]
            if node:
                edge = one.trace.node_edge[node]
                one.trace.edge_value[edge] = random.random()
                heads[number, steps] = float(one.trace.edge_value[edge])
        batch.append(rl_cases.graded(one.trace, one.outcomes.tolist(), labels, str(number)))
    slow = Slow(problems, credit, values, heads)
    groups = groups_of(batch, credit)
    found = advantages(batch, groups, credit)

    for group, samples in zip(groups, problems, strict=True):
        assert group.undecided == sum(o is not None and math.isnan(o) for _, o in samples)
        assert group.unfinished == sum(o is None for _, o in samples)
    for number, (own, one) in enumerate(zip(found, batch, strict=True)):
        names = names_of(problems[number])[1:]
        edges = dict(zip(names, rl_cases.prefixes(one), strict=True))
        lengths = {name: len(one.trace.steps[edge].tokens) for name, edge in edges.items()}
        for name, edge in edges.items():
            got = [own.samples[edge], own.positive[edge], own.negative[edge]]
            np.testing.assert_allclose(got, slow.sums(number, name, lengths), atol=1e-9)


@pytest.mark.parametrize("method", ["group", "leave_one_out", "max_likelihood"])
def test_a_group_may_be_several_traces(method: str) -> None:
    samples: list[Sample] = [((0, 1), 1.0), ((0, 0), 0.0), ((1,), 0.0), ((0, 1), 1.0)]
    credit = Credit(method)
    (whole,) = found_of([merged(samples)], credit)
    parts = found_of([merged(samples[:2]), merged(samples[2:])], credit)
    (one,) = groups_of([merged(samples[:2]), merged(samples[2:])], credit)
    assert one.times.sum() == 4 and one.mean == 0.5
    # edges: 0, 1 | 0-1, 0-0 of the whole; 0 | 0-1, 0-0 and 1, 0 | 0-1 of the parts
    left, right = map(signed, parts)
    np.testing.assert_allclose(
        signed(whole), [left[0] + right[1], right[0], left[1] + right[2], left[2]]
    )


# -- a policy of two steps of two choices each, whose chains are all enumerated

LOGITS = torch.tensor([[0.3, -0.4], [1.0, 0.2], [-0.5, 0.1]], dtype=torch.float64)
CHAINS = [(0, 0), (0, 1), (1, 0), (1, 1)]
REWARDS = {(0, 0): 0.0, (0, 1): 1.0, (1, 0): 1.0, (1, 1): 0.0}


def policy() -> tuple[torch.Tensor, dict[tuple[int, ...], torch.Tensor]]:
    """The logits, and the log-prob of each step given those before it."""
    logits = LOGITS.clone().requires_grad_()
    log_probs = logits.log_softmax(-1)
    steps = {(first,): log_probs[0, first] for first in (0, 1)}
    steps |= {(first, second): log_probs[1 + first, second] for first, second in CHAINS}
    return logits, steps


def chance(steps: dict[tuple[int, ...], torch.Tensor], chain: tuple[int, ...]) -> torch.Tensor:
    return (steps[chain[:1]] + steps[chain]).exp()


def gradient_of(what: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
    """Of a function of the probability of reward."""
    logits, steps = policy()
    right = sum(chance(steps, chain) * REWARDS[chain] for chain in CHAINS)
    (gradient,) = torch.autograd.grad(what(right), logits)
    return gradient.numpy()


def mean_gradient(n: int, credit: Credit) -> np.ndarray:
    """The expectation, over all ways to draw n chains, of sum(A grad log p) / n."""
    total = np.zeros(LOGITS.shape)
    exact = {(0,): 0.0, (1,): 0.0, (): 0.0} | REWARDS
    _, steps = policy()
    for chain in CHAINS:
        exact[chain[:1]] += REWARDS[chain] * steps[chain].exp().item()
        exact[()] += REWARDS[chain] * chance(steps, chain).item()
    for drawn in itertools.product(CHAINS, repeat=n):
        logits, steps = policy()
        one = merged([(chain, REWARDS[chain]) for chain in drawn])
        names = names_of([(chain, 0.0) for chain in drawn])
        labels = [exact[name] for name in names]
        one = rl_cases.graded(one.trace, one.outcomes.tolist(), labels)
        (found,) = found_of([one], credit)
        taken = signed(found)[rl_cases.prefixes(one)]
        chances = math.prod(chance(steps, chain).item() for chain in drawn)
        score = sum(float(own) * steps[name] for own, name in zip(taken, names[1:], strict=True))
        (gradient,) = torch.autograd.grad(score, logits)
        total += chances * gradient.numpy() / n
    return total


def test_leave_one_out_and_reinforce_climb_the_expected_reward() -> None:
    """The mean of the group holds the chain itself, which takes 1/n off the gradient."""
    truth = gradient_of(lambda p: p)
    for n in (2, 3):
        np.testing.assert_allclose(mean_gradient(n, Credit("leave_one_out")), truth, atol=1e-12)
        plain = mean_gradient(n, Credit("group", divisor="none"))
        np.testing.assert_allclose(plain, truth * (1 - 1 / n), atol=1e-12)


def test_steps_with_exact_values_climb_the_expected_reward() -> None:
    """Where each sample counts; what m samples share is one decision where it counts once."""
    truth = gradient_of(lambda p: p)
    credit = Credit("step", values="labels", once=False)
    np.testing.assert_allclose(mean_gradient(2, credit), truth, atol=1e-12)
    once = mean_gradient(2, replace(credit, once=None))
    assert np.abs(once - truth).max() > 1e-3


@pytest.mark.thorough
def test_max_likelihood_climbs_the_log_likelihood_to_its_order() -> None:
    """log p = -sum (1 - p)^k / k; of n samples the first n - 1 terms."""
    errors = []
    for n in (2, 3, 4):
        truth = gradient_of(lambda p, n=n: -sum((1 - p) ** k / k for k in range(1, n)))
        own = mean_gradient(n, Credit("max_likelihood"))
        np.testing.assert_allclose(own, truth, atol=1e-12)
        errors.append(np.abs(own - gradient_of(torch.log)).max())
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 2


def test_a_search_that_found_every_chain_is_weighed_to_the_exact_gradient() -> None:
    logits, steps = policy()
    one = merged([(chain, REWARDS[chain]) for chain in CHAINS], sampled=False)
    names = names_of([(chain, 0.0) for chain in CHAINS])
    for node, name in enumerate(names[1:], 1):
        one.trace.edge_log_prob[one.trace.node_edge[node]] = steps[name].item()
    credit = Credit("group", divisor="none", searched="weigh")
    (found,) = found_of([one], credit)
    taken = signed(found)[rl_cases.prefixes(one)]
    score = sum(float(own) * steps[name] for own, name in zip(taken, names[1:], strict=True))
    (gradient,) = torch.autograd.grad(score, logits)
    np.testing.assert_allclose(gradient.numpy() / 4, gradient_of(lambda p: p), atol=1e-9)
    with pytest.raises(ValueError, match="searched=weigh"):
        found_of([one], Credit())
    one.trace.edge_log_prob[:] = math.nan
    with pytest.raises(ValueError, match="how likely"):
        found_of([one], credit)


def test_a_search_that_found_some_chains_is_weighed_by_inclusion() -> None:
    samples: list[Sample] = [((0, 0), 1.0), ((0, 1), 0.0), ((1,), 0.0)]
    one = merged(samples, sampled=False)
    log_probs = np.log([0.5, 0.4, 0.6, 0.1])  # of 0, 1 | 0-0, 0-1
    one.trace.edge_log_prob[:] = log_probs
    weights = 3 * multiplicity(np.log([0.5 * 0.6, 0.5 * 0.1, 0.4]))
    for method in ("group", "step"):
        (found,) = found_of([one], Credit(method, divisor="none", searched="weigh"))
        np.testing.assert_allclose(
            found.samples, [weights[0] + weights[1], weights[2], weights[0], weights[1]]
        )
    v = weights[0] / weights[:2].sum()
    np.testing.assert_allclose(
        signed(found)[2:], [weights[0] * (1 - v), -weights[1] * v], atol=1e-9
    )


# -- groups, rewards, segments


def test_groups_say_why_nothing_is_learnt_from_them() -> None:
    batch = [
        merged([((0,), 1.0), ((1,), 1.0)], "right"),
        merged([((0,), 0.0), ((1,), None)], "wrong"),
        merged([((0,), math.nan)], "empty"),
        merged([((0,), 0.5), ((1,), 0.5), ((2,), math.nan)], "equal"),
        merged([((0,), 0.0), ((1,), 1.0)], "mixed"),
    ]
    for group in groups_of(batch, Credit()):
        assert group.verdict == group.graded[list(group.graded)[0]].trace.arguments["statement"]
    (masked,) = groups_of([batch[1]], Credit(unfinished="mask"))
    assert masked.verdict == "wrong" and masked.unfinished == 1 and len(masked.chains) == 1
    groups = [group for group in groups_of(batch, Credit()) if group.verdict == "mixed"]
    found = advantages(batch, groups, Credit())
    assert [bool(own.samples.any()) for own in found] == [False] * 4 + [True]


def test_the_kl_in_the_reward_is_taken_off_before_the_baseline() -> None:
    one = merged([((0, 0), 1.0), ((0, 1), 1.0), ((1,), 0.0)])
    own = [(-0.1,), (-0.2, -0.3), (-0.3, -0.1, -0.4), (-1.0,)]
    steps = [
        replace(step, tokens=(5,) * len(known), log_probs=known)
        for step, known in zip(one.trace.steps, own, strict=True)
    ]
    trace = replace(one.trace, steps=tuple(steps))
    batch = [rl_cases.graded(trace, one.outcomes.tolist())]
    reference = [np.array([-0.5, -0.5, -1.0, -1.5])]
    groups = groups_of(batch, Credit())
    (moved,) = charged(groups, reference, 0.5)
    ratios = [0.4 + 0.2, 0.4 + 0.5, 0.0]  # of 0-0, 0-1, 1
    expected = np.array([1.0, 1.0, 0.0]) - 0.5 * np.array(ratios)
    np.testing.assert_allclose(sorted(moved.rewards), sorted(expected))
    assert groups[0].verdict == "mixed" and groups[0].mean == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="log-probs"):
        charged(groups_of([one], Credit()), reference, 0.5)


def test_segments_have_advantages_log_probs_and_the_labels_of_distilling() -> None:
    one = merged([((0, 0), 1.0), ((0, 1), 0.0), ((1,), 0.0)])
    steps = list(one.trace.steps)
    steps[0] = TextStep("a", (7, 8), log_probs=(-0.5, -1.5))
    trace = replace(one.trace, steps=tuple(steps))
    share = Labels(np.array([1, 1, 1, 0, 0.0]), np.array([3, 2, 1, 1, 1.0]))
    one = replace(rl_cases.graded(trace, one.outcomes.tolist()), labels=share)
    (found,) = found_of([one], Credit("group", divisor="none"))
    segments = advantage_segments(one, found, (1, 2))
    plain = distill(
        trace, one.outcomes, (1, 2), policy="none", rng=np.random.default_rng(0), labels=share
    )
    named = {segment.tokens: segment for segment in segments}
    assert [segment[:6] for segment in segments] == [segment[:6] for segment in plain]
    first = named[7, 8]
    assert first.log_probs == (-0.5, -1.5) and first.samples == 2
    assert first.positive == pytest.approx(2 / 3) and first.negative == pytest.approx(-1 / 3)
    weights = np.arange(len(trace.steps), dtype=float)
    mixed = advantage_segments(one, found, (1, 2), weights=weights, every_token=True)
    assert [segment.weight for segment in mixed[1:]] == [0.0, 2.0, 3.0, 1.0]
    assert mixed[1].spread and not segments[1].spread
    blank = replace(one, labels=Labels(*np.zeros((2, 5))))
    nothing = rl_cases.Advantages(*np.zeros((3, len(trace.steps))))
    assert advantage_segments(blank, nothing, (1, 2)) == []


def test_a_method_of_ones_own() -> None:
    one = merged([((0, 0), 1.0), ((0, 1), 1.0), ((1,), 0.0)])
    (found,) = found_of([one], Credit(f"{__name__}:own_half"))
    np.testing.assert_array_equal(found.samples, [0, 0, 1, 1])
    np.testing.assert_array_equal(found.positive, [0, 0, 0.5, 0.5])
    for name in ("too_few", "endless"):
        with pytest.raises(ValueError, match=name):
            found_of([one], Credit(f"{__name__}:{name}"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"method": "mean"}, "leave_one_out"),
        ({"method": "math:pi"}, "groups of chains"),
        ({"divisor": "all"}, "divisor"),
        ({"unfinished": "drop"}, "penalise"),
        ({"searched": "yes"}, "refuse"),
        ({"normalise": "chains"}, "sequences"),
        ({"values": "critic"}, "labels"),
        ({"discount": 1.5}, "discount"),
        ({"alpha": -1}, "alpha"),
    ],
)
def test_options_that_do_not_fit_are_refused(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Credit(**wrong)


def test_a_critic_needs_values() -> None:
    one = merged([((0, 0), 1.0), ((1,), 0.0)])
    with pytest.raises(ValueError, match="value head"):
        found_of([one], Credit("critic"))
