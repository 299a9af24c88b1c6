"""Losses of packed trees against plain code on separate rows, closed forms, and TRL's where that is
installed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import rl_cases
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from rl_cases import merged
from training_cases import torch

from guides.data.advantages import Credit, advantage_segments, advantages, method_of
from guides.data.distill import split
from guides.data.examples import ExampleFile, Segment, collate, write_examples
from guides.data.grading import Graded
from guides.data.groups import groups_of
from guides.training import losses
from guides.training.options import REGIONS, Options, PolicyLoss, fine_tuning
from guides.training.tree_attention import use_trees
from models.checkpoints.heads import ValueHead

PROMPT = (1, 2, 3)
NOTHING = math.nan
#: wide enough that some tokens are inside and some outside
BOUNDS = {"clip": (0.5, 0.8), "mask": (0.002, 0.003), "weight": (0.0, 0.5), "sequence": (0.2, 0.3)}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made() -> Any:
    model = tiny.model().float().train()
    use_trees(model)
    torch.manual_seed(0)
    model.value_head = ValueHead(32)
    torch.nn.init.normal_(model.value_head.weight)
    return model


def near() -> Any:
    """A reference: another model near by."""
    other = made()
    torch.manual_seed(1)
    for parameter in other.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return other


def options(**choices: Any) -> Options:
    return Options(precision="float32", compile=False, policy=PolicyLoss(**choices))


def rows_of(tmp_path: Any, examples: list[list[Segment]]) -> dict[str, torch.Tensor]:
    write_examples(tmp_path / "examples.npz", examples)
    file = ExampleFile(tmp_path / "examples.npz")
    return collate([file[i] for i in range(len(file))])


def noisy(one: Graded, rng: np.random.Generator) -> Graded:
    """With random log-probs of all tokens but those of one step in ten, and a critic's values."""
    steps = []
    for step in one.trace.steps:
        known = tuple(rng.uniform(-6.5, -4.5, len(step.tokens)).tolist())
        steps.append(replace(step, log_probs=known if rng.random() < 0.9 else ()))
    trace = replace(one.trace, steps=tuple(steps))
    trace.edge_value[:] = rng.random(len(steps))
    labels = rng.random(len(one.outcomes)).tolist()
    return rl_cases.graded(trace, one.outcomes.tolist(), labels, trace.arguments["statement"])


def loss_of_token(
    log_prob: torch.Tensor, before: torch.Tensor, advantage: float, loss: PolicyLoss
) -> torch.Tensor:
    """The textbook's loss of the tokens of one chain, float [tokens] each."""
    low, high = loss.bounds
    ratio = (log_prob - before).exp()
    if loss.region == "sequence":
        ratio = (log_prob - before).mean().exp().expand(len(before))
    if loss.region in ("clip", "sequence"):
        return -torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
    if loss.region == "mask":
        moved = log_prob.exp() - before.exp()
        dropped = moved > high if advantage > 0 else moved < -low
        return -ratio * advantage * ~dropped
    if loss.region == "weight":
        return -ratio.clamp(max=1 + high).detach() * advantage * log_prob
    return -ratio * advantage


def separate(
    model: Any, batch: list[Graded], credit: Credit, own: Options, reference: Any
) -> torch.Tensor:
    """The loss with a row for each sample, without values: each has what its method says of it, and
    counts 1 / m where what m share counts once.
    """
    groups = groups_of(batch, credit)
    method, once = method_of(credit.method)
    total = torch.zeros(())
    samples = 0.0
    policy = own.policy
    for group, ways in zip(groups, method(groups, credit), strict=True):
        for chain, values in zip(group.chains, ways, strict=True):
            trace = batch[chain.trace].trace
            tokens = list(PROMPT)
            before, weights, taken = [], [], []
            for edge, value in zip(
                chain.edges, np.broadcast_to(values, len(chain.edges)), strict=True
            ):
                step = trace.steps[edge]
                size = len(step.tokens)
                tokens += step.tokens
                before += step.log_probs or [NOTHING] * size
                shared = sum(other.times for other in group.chains if edge in other.edges)
                weight = 1 / shared if once else 1.0
                if credit.normalise == "sequences":
                    weight /= chain.tokens
                weights += [weight] * size
                taken += [float(value)] * size
            text = torch.tensor([tokens])

            def read(model: Any, text: Any = text) -> tuple[torch.Tensor, torch.Tensor]:
                logits = model(input_ids=text).logits[0, len(PROMPT) - 1 : -1]
                logs = (logits / policy.temperature).log_softmax(-1)
                after = text[0, len(PROMPT) :]
                return logs[range(len(after)), after], -(logs.exp() * logs).sum(-1)

            log_prob, entropy = read(model)
            old = torch.tensor(before)
            old = torch.where(old.isnan(), log_prob.detach(), old)
            weight = torch.tensor(weights) * chain.times
            for value in set(taken):
                part = torch.tensor([own == value for own in taken])
                found = loss_of_token(log_prob, old, value, policy)
                total = total + (found * weight)[part].sum()
            if policy.kl:
                with torch.no_grad():
                    other, _ = read(reference)
                away = other - log_prob
                kl = -away if policy.estimator == "k1" else away.exp() - 1 - away
                kl = (log_prob - old).exp() * kl
                total = total + policy.kl * (kl * weight).sum()
            total = total - policy.entropy * (entropy * weight).sum()
            samples += float(weight.sum())
    return total / samples


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not name.startswith("value_head"):
            found[name] = parameter.grad.clone()
    return found


LOSSES = st.builds(
    PolicyLoss,
    kl=st.sampled_from([0.0, 0.3]),
    estimator=st.sampled_from(["k1", "k3"]),
    entropy=st.sampled_from([0.0, 0.1]),
    temperature=st.sampled_from([1.0, 0.7]),
)
METHODS = ("group", "leave_one_out", "max_likelihood", "tree", "step", "critic", "progress")


@pytest.mark.thorough
@pytest.mark.parametrize("region", sorted(REGIONS))
@settings(max_examples=10, deadline=None)
@given(
    rl_cases.groups(),
    LOSSES,
    st.sampled_from(METHODS),
    st.sampled_from(["tokens", "sequences"]),
    st.integers(0, 1 << 30),
)
def test_gradients_of_trees_are_those_of_separate_rows(
    tmp_path_factory, region, problems, policy, method, normalise, seed
) -> None:
    low, high = BOUNDS.get(region, (None, None))
    policy = replace(policy, region=region, low=low, high=high)
    if policy.region == "sequence":  # a chain has one advantage
        method = "leave_one_out"
    rng = np.random.default_rng(seed)
    batch = [noisy(merged(samples, str(i)), rng) for i, samples in enumerate(problems)]
    credit = Credit(method, normalise=normalise)
    groups = groups_of(batch, credit)
    if not any(group.chains for group in groups):
        return
    found = advantages(batch, groups, credit)
    examples = []
    for one, own in zip(batch, found, strict=True):
        blank = replace(one, labels=one.labels._replace(n=np.zeros(len(one.outcomes))))
        if segments := advantage_segments(blank, own, PROMPT):
            examples.append(segments)
    model = made()
    reference = near()
    own = options()
    own = replace(own, policy=policy)
    rows = rows_of(tmp_path_factory.mktemp("rows"), examples)
    rows["reference"] = losses.log_probs(reference, rows, own)
    loss = losses.total(losses.terms(model, rows, own), losses.counts(rows, own), own)
    packed = gradients(model, loss)
    model.set_attn_implementation("eager")
    reference.set_attn_implementation("eager")
    truth = separate(model, batch, credit, own, reference)
    assert loss.item() == pytest.approx(truth.item(), abs=1e-5, rel=1e-5)
    for name, expected in gradients(model, truth).items():
        torch.testing.assert_close(packed[name], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("region", sorted(set(REGIONS) - {"sequence"}))
def test_a_token_has_the_gradient_of_its_region(region: str) -> None:
    """Token by token, on both sides of both bounds."""
    generator = torch.Generator().manual_seed(0)
    log_probs = -4 * torch.rand(1, 400, generator=generator, dtype=torch.float64)
    before = log_probs + torch.randn(1, 400, generator=generator, dtype=torch.float64)
    signs = torch.where(torch.rand(1, 400, generator=generator) < 0.5, 0.7, -0.4).double()
    batch = {"log_probs": before, "positive": signs.clamp(min=0), "negative": signs.clamp(max=0)}
    loss = PolicyLoss(region)
    found = []
    for way in ("packed", "textbook"):
        own = log_probs.clone().requires_grad_()
        if way == "packed":
            total = losses.gain(own, batch, loss).sum()
        else:
            parts = zip(own[0], before[0], signs[0].tolist(), strict=True)
            total = -sum(loss_of_token(one, old, sign, loss) for one, old, sign in parts)
        total.backward()
        found.append(own.grad)
    torch.testing.assert_close(*found)
    assert (found[1] == 0).any() == (region in ("clip", "mask"))


TREE = [
    Segment(PROMPT, 0.0, 0.5, -1),
    Segment((7, 8), 0.5, 0.25, 0, 4.0, False, 3.0, 0.7, -0.4, (-5.0, NOTHING)),
    Segment((9,), 0.5, NOTHING, 1, 0.0, False, 2.0, 0.7, 0.0, (-6.0,)),
    Segment((11, 12, 13), 0.0, 1.0, 1, math.inf, True, 1.0, 0.0, -0.4, (-5.0, -5.5, -6.0)),
]
LINE = [
    Segment(PROMPT, 0.0, NOTHING, -1),
    Segment((20, 21), 0.0, NOTHING, 0, 0.0, False, 1.0, 0.3, 0.0),
]


@pytest.mark.thorough
@pytest.mark.parametrize("region", sorted(REGIONS))
def test_parts_of_a_batch_add_up_to_the_whole(tmp_path, region: str) -> None:
    """Every kind of loss at once, in one batch and in two that are accumulated."""
    model = made()
    own = options(region=region, kl=0.1, entropy=0.01)
    whole = rows_of(tmp_path, [TREE, LINE])
    parts = [rows_of(tmp_path, [TREE]), rows_of(tmp_path, [LINE])]
    for rows in (whole, *parts):
        rows["reference"] = losses.log_probs(near(), rows, own)
    counts = losses.counts(whole, own)
    assert counts.tolist() == pytest.approx([3.0, 0.5 + 4 / 8 + 3 + 0.5, 11.0 + 2.0, 0.0])
    expected = gradients(model, losses.total(losses.terms(model, whole, own), counts, own))
    found = [losses.total(losses.terms(model, rows, own), counts, own) for rows in parts]
    for name, gradient in gradients(model, found[0] + found[1]).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4)


def test_a_tree_that_is_split_has_the_gradient_of_the_whole(tmp_path) -> None:
    model = made()
    own = options(entropy=0.1)
    whole = rows_of(tmp_path, [TREE])
    halves = rows_of(tmp_path, split(TREE, 6))
    assert len(halves["tokens"]) == 2
    counts = losses.counts(whole, own)
    torch.testing.assert_close(losses.counts(halves, own), counts)
    expected = gradients(model, losses.total(losses.terms(model, whole, own), counts, own))
    found = gradients(model, losses.total(losses.terms(model, halves, own), counts, own))
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4)


def test_without_samples_the_policy_loss_is_not_there(tmp_path) -> None:
    """And a constant divides the policy gradient alone."""
    model = made()
    blank = [segment._replace(samples=0.0) for segment in TREE]
    rows = rows_of(tmp_path, [blank])
    plain = losses.terms(model, rows, options())
    assert not plain.policy and not plain.entropy and not plain.log_probs.any()
    counts = losses.counts(rows, options())
    assert losses.total(plain, counts, options()) == losses.total(
        plain, counts, options(entropy=9.0, kl=9.0, constant=3.0)
    )
    rows = rows_of(tmp_path, [TREE])
    found = losses.terms(model, rows, options())
    counts = losses.counts(rows, options())
    by_tokens = losses.total(found, counts, options()) - found.policy / 11
    by_constant = losses.total(found, counts, options(constant=50.0)) - found.policy / 50
    torch.testing.assert_close(by_tokens, by_constant)


def test_log_probs_are_at_the_temperature_of_the_samples(tmp_path) -> None:
    model = made()
    plain = tiny.model()
    rows = rows_of(tmp_path, [LINE])
    for temperature in (1.0, 0.6):
        own = options(temperature=temperature)
        logits = plain(input_ids=torch.tensor([[*PROMPT, 20, 21]])).logits[0]
        logs = (logits / temperature).log_softmax(-1)
        expected = torch.tensor([[0, 0, 0, logs[2, 20].item(), logs[3, 21].item()]])
        torch.testing.assert_close(losses.log_probs(model, rows, own), expected)
        torch.testing.assert_close(losses.terms(model, rows, own).log_probs, expected)


def test_the_estimators_are_those_of_the_kl() -> None:
    """By exact sums over the vocabulary: both have its mean, and the mean of its gradient."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_()
    reference = torch.randn(5, generator=generator, dtype=torch.float64).log_softmax(-1)
    log_probs = logits.log_softmax(-1)
    chances = log_probs.exp()
    kl = (chances * (log_probs - reference)).sum()
    (truth,) = torch.autograd.grad(kl, logits, retain_graph=True)
    batch = {"reference": reference, "log_probs": log_probs.detach()}
    for estimator in ("k1", "k3"):
        own = losses.divergence(log_probs, batch, PolicyLoss(estimator=estimator))
        mean = (own * chances.detach()).sum()
        torch.testing.assert_close(mean, kl)
        (gradient,) = torch.autograd.grad(mean, logits, retain_graph=True)
        torch.testing.assert_close(gradient, truth)
    expected = torch.distributions.Categorical(logits=logits[None]).entropy()
    torch.testing.assert_close(losses.entropies(logits[None]), expected)


def test_a_frozen_trunk_takes_no_policy_gradient(tmp_path) -> None:
    rows = rows_of(tmp_path, [TREE])
    assert losses.counts(rows, replace(options(), tune="head"))[[0, 2]].tolist() == [0.0, 0.0]


def test_a_kl_without_a_reference_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="reference"):
        losses.terms(made(), rows_of(tmp_path, [TREE]), options(kl=0.1))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"region": "ppo"}, "clip"),
        ({"estimator": "k2"}, "k3"),
        ({"low": -0.1}, "low"),
        ({"high": math.inf}, "high"),
        ({"kl": math.nan}, "kl"),
        ({"entropy": -1.0}, "entropy"),
        ({"temperature": 0.0}, "temperature"),
        ({"constant": 0.0}, "constant"),
    ],
)
def test_options_that_do_not_fit_are_refused(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PolicyLoss(**wrong)


def test_options_come_from_a_file() -> None:
    assert fine_tuning(policy={"region": "mask", "high": 0.1}).policy.bounds == (0.2, 0.1)


# -- TRL

KINDS = {
    "grpo": ("sequences", {"region": "clip"}),
    "dr_grpo": ("tokens", {"region": "clip", "constant": 4 * 6.0, "entropy": 0.05}),
    "dapo": ("tokens", {"region": "clip", "entropy": 0.05}),
    "cispo": ("tokens", {"region": "weight", "entropy": 0.05}),
    "gspo": ("sequences", {"region": "sequence"}),
}
CASES = [(kind, beta) for kind in KINDS for beta in (0.0, 0.2) if not (kind == "gspo" and beta)]


@pytest.mark.thorough
@pytest.mark.parametrize(("kind", "beta"), CASES)
def test_losses_and_gradients_are_those_of_trl(tmp_path, kind: str, beta: float) -> None:
    """One batch of four samples of different lengths, as rows there and as a tree here. There, the
    entropy is a mean over tokens even where the gradient is one over chains, and GSPO's KL is
    weighed by the ratio of the chain.
    """
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    model = made()
    normalise, choices = KINDS[kind]
    low, high = 0.3, 0.5
    own = options(low=low, high=high, kl=beta, **choices)
    samples = [((0, 1), 1.0), ((0, 2, 1), 0.0), ((0, 1), 1.0), ((2,), 0.0)]
    rng = np.random.default_rng(3)
    one = merged(samples)
    steps = [
        replace(step, log_probs=tuple(rng.uniform(-6.5, -4.5, len(step.tokens)).tolist()))
        for step in one.trace.steps
    ]
    one = rl_cases.graded(replace(one.trace, steps=tuple(steps)), one.outcomes.tolist())
    credit = Credit("group", divisor="group", normalise=normalise)
    groups = groups_of([one], credit)
    (found,) = advantages([one], groups, credit)
    rows = rows_of(tmp_path, [advantage_segments(one, found, PROMPT)])
    reference = near()
    rows["reference"] = losses.log_probs(reference, rows, own)
    loss = losses.total(losses.terms(model, rows, own), losses.counts(rows, own), own)
    ours = gradients(model, loss)
    model.set_attn_implementation("eager")  # rows as TRL has them are no trees
    reference.set_attn_implementation("eager")

    texts, before, rewards = [], [], []
    for chain in groups[0].chains:
        for _ in range(int(chain.times)):
            texts.append([token for edge in chain.edges for token in steps[edge].tokens])
            before.append([known for edge in chain.edges for known in steps[edge].log_probs])
            rewards.append(chain.reward)
    longest = max(map(len, texts))
    pad = [longest - len(text) for text in texts]
    completion = torch.tensor([[*text, *[0] * n] for text, n in zip(texts, pad, strict=True)])
    seen = torch.tensor([[1] * len(text) + [0] * n for text, n in zip(texts, pad, strict=True)])
    scores = torch.tensor(rewards)
    inputs = {
        "prompt_ids": torch.tensor([PROMPT] * 4),
        "prompt_mask": torch.ones(4, 3, dtype=torch.long),
        "completion_ids": completion,
        "completion_mask": seen,
        "advantages": (scores - scores.mean()) / (scores.std() + 1e-4),
        "old_per_token_logps": torch.tensor(
            [[*known, *[0.0] * n] for known, n in zip(before, pad, strict=True)]
        ),
        "num_items_in_batch": seen.sum(),
    }
    with torch.no_grad():
        logits = reference(input_ids=torch.cat([inputs["prompt_ids"], completion], 1)).logits
        logs = logits[:, len(PROMPT) - 1 : -1].log_softmax(-1)
        inputs["ref_per_token_logps"] = logs.gather(2, completion[..., None])[..., 0]
    name = "grpo" if kind == "gspo" else kind
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=4, use_cpu=True,
        report_to="none", loss_type=name, beta=0.0, entropy_coef=choices.get("entropy", 0.0),
        bf16=False,
        epsilon=low, epsilon_high=1 + high if kind == "cispo" else high,
        max_completion_length=6,
        importance_sampling_level="sequence" if kind == "gspo" else "token",
    )  # fmt: skip
    head = model.value_head
    del model.value_head
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=datasets.Dataset.from_list([{"prompt": "a"}] * 4),
        processing_class=tiny.tokenizer(),
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.beta = beta
    theirs = trainer._compute_loss(model, inputs)
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-5)
    for parameter, gradient in gradients(model, theirs).items():
        torch.testing.assert_close(ours[parameter], gradient, atol=1e-5, rtol=1e-4)
    model.value_head = head
