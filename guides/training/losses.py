"""The losses of a language model with a value head: pure functions of a batch of trees
(`guides.data.examples.collate`).

    loss = sum(weight * token NLL) / tokens with a weight
         + value_weight * sum(c * value cross-entropy) / sum(c)
         + (policy gradient + kl * KL) / samples - entropy * sum(samples * entropy) / samples
         + sum(loss of a pair) / pairs (`guides.training.preferences`)

Only what a batch holds counts: without weights no imitation, without samples no policy gradient.
Sums and counts are taken over the whole accumulated batch, so 4 accumulated batches of 8 give the
gradient of one batch of 32.

c = n / (n + DOUBT), with `guides.data.labels.DOUBT`, is how far a value label is trusted that is
the mean of n outcomes, 1 where it is exact. The variance of such a label is p (1 - p) (1 / n + 1 /
DOUBT): what n draws leave open, and what they all share (one policy, one search), which does not
shrink with n. Its inverse grows like c: a label from 16 outcomes counts 4 times as much as one from
a single outcome, an exact one 5 times.

The policy gradient of a token that several samples share is exactly the sum over them. A bound on
the ratio r depends on the sign of the advantage alone, so two sums of advantages suffice:

    min(r A, clip(r) A) = min(r, 1 + high) max(A, 0) + max(r, 1 - low) min(A, 0)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from guides.data.labels import DOUBT
from guides.training.preferences import paired, preference_loss
from guides.training.tree_attention import tree_states

if TYPE_CHECKING:
    from guides.training.options import Options, PolicyLoss

Batch = Mapping[str, torch.Tensor]


class Terms(NamedTuple):
    """Sums over a batch, float32 scalars with gradients.

    imitation  weight * NLL;  value: c * cross-entropy
    policy     what the policy gradient is the gradient of, negated;  kl: samples * KL to the
               reference, of what is not free, 0 where its weight is 0;  entropy: samples *
               entropy, with a gradient where it has a weight
    log_probs  float32 [rows, tokens], without gradient, at the temperature of the samples: of the
               tokens that samples count; 0 elsewhere
    preference of the pairs
    """

    imitation: torch.Tensor
    value: torch.Tensor
    policy: torch.Tensor
    kl: torch.Tensor
    entropy: torch.Tensor
    log_probs: torch.Tensor
    preference: torch.Tensor


def counts(batch: Batch, options: Options) -> torch.Tensor:
    """float32 [4], what the sums of a batch are divided by: tokens with a weight, the sum of c over
    labels, the sum of samples over tokens, pairs.
    """
    _, imitated, sampled = _places(batch, options)
    samples = (batch["samples"] * sampled).sum()
    pairs = samples.new_tensor(len(batch["pairs"]))
    return torch.stack([imitated.sum(), trust(batch["counts"]).sum(), samples, pairs])


def total(terms: Terms, counts: torch.Tensor, options: Options) -> torch.Tensor:
    """The loss, a scalar, from the terms of a batch and the `counts` of the whole accumulated
    batch, each of which is above 0 or of nothing.
    """
    imitated, trusted, samples, pairs = torch.where(counts > 0, counts, 1.0)
    loss = terms.imitation / imitated + options.value_weight * terms.value / trusted
    loss = loss + terms.preference / pairs
    if not counts[2]:
        return loss
    own = options.policy
    divider = samples if own.constant is None else own.constant
    return (
        loss + (terms.policy + own.kl * terms.kl) / divider - own.entropy * terms.entropy / samples
    )


def terms(
    model: nn.Module, batch: Batch, options: Options, decoder: Callable[..., Any] | None = None
) -> Terms:
    """The terms of a batch, in one pass.

    model    a causal language model of transformers that carries a `ValueHead` as `value_head`
    batch    as `collate` makes it, on the model's device. With `options.policy.kl` or pairs it has
             "reference", too: float32 [rows, tokens], `log_probs` under the reference
    decoder  the model's, compiled; None: as it is

    Raises ValueError where a reference is missing.
    """
    own = options.policy
    tokens = batch["tokens"]
    values = batch["values"]
    chosen, _, sampled = _places(batch, options)
    any_sampled = bool(sampled.any())
    any_paired = len(batch["pairs"]) > 0
    if ((any_sampled and own.kl) or any_paired) and "reference" not in batch:
        raise ValueError(
            "the KL has a weight, or there are pairs, but the batch has no log-probs of a "
            "reference: give kl=0 and no pairs, or a reference"
        )
    hidden, logits = _read(model, batch, chosen, options, decoder)
    nll = nn.functional.cross_entropy(logits, tokens[chosen], reduction="none")
    labelled = ~values.isnan()
    odds = model.value_head.logits(hidden[labelled])  # type: ignore[union-attr, operator]
    doubt = nn.functional.binary_cross_entropy_with_logits(odds, values[labelled], reduction="none")
    imitation = nll @ batch["weights"][chosen]
    value = doubt @ trust(batch["counts"][labelled])
    nothing = torch.zeros((), device=tokens.device)
    grid = torch.zeros(tokens.shape, device=tokens.device)
    if not any_sampled and not any_paired:
        return Terms(imitation, value, nothing, nothing, nothing, grid, nothing)

    logits = logits / own.temperature
    grid[chosen] = -nn.functional.cross_entropy(logits, tokens[chosen], reduction="none")
    preference = nothing
    if any_paired:
        preference = preference_loss(grid, batch, options.preference)
    grid = grid * sampled
    if not any_sampled:
        return Terms(imitation, value, nothing, nothing, nothing, grid.detach(), preference)

    kl = nothing
    if own.kl:
        held = batch["samples"] * ~batch["free"]
        kl = (held * divergence(grid, batch, own))[sampled].sum()
    with torch.set_grad_enabled(bool(own.entropy) and torch.is_grad_enabled()):
        entropy = entropies(logits) @ (batch["samples"] * sampled)[chosen]
    policy = -gain(grid, batch, own)[sampled].sum()
    return Terms(imitation, value, policy, kl, entropy, grid.detach(), preference)


@torch.no_grad()
def log_probs(
    model: nn.Module, batch: Batch, options: Options, decoder: Callable[..., Any] | None = None
) -> torch.Tensor:
    """float32 [rows, tokens]: log-probs at the temperature of the samples of the tokens that these
    or pairs count, 0 elsewhere. What a reference says of a batch.
    """
    _, _, sampled = _places(batch, options)
    counted = sampled | paired(batch)
    _, logits = _read(model, batch, counted, options, decoder)
    logits = logits / options.policy.temperature
    grid = torch.zeros(batch["tokens"].shape, device=logits.device)
    grid[counted] = -nn.functional.cross_entropy(logits, batch["tokens"][counted], reduction="none")
    return grid


def gain(log_probs: torch.Tensor, batch: Batch, loss: PolicyLoss) -> torch.Tensor:
    """float [rows, tokens]: what the policy gradient is the gradient of; meaningless where there
    are no samples.

    log_probs  float [rows, tokens], of the tokens. One that was sampled with an unknown log-prob
               has the ratio 1 (on policy)
    """
    low, high = loss.bounds
    positive = batch["positive"]
    negative = batch["negative"]
    before = _before(log_probs, batch)
    ratio = torch.exp(log_probs - before)
    if loss.region == "clip":
        return ratio.clamp(max=1 + high) * positive + ratio.clamp(min=1 - low) * negative
    if loss.region == "mask":
        moved = (log_probs.exp() - before.exp()).detach()
        return ratio * (positive * (moved <= high) + negative * (moved >= -low))
    if loss.region == "weight":
        return ratio.detach().clamp(max=1 + high) * log_probs * (positive + negative)
    if loss.region == "none":
        return ratio * (positive + negative)
    return _gain_of_chains(log_probs - before, batch, low, high)


def _gain_of_chains(
    log_ratios: torch.Tensor, batch: Batch, low: float, high: float
) -> torch.Tensor:
    """As `gain`, at the last token of each chain for all of its tokens: they have one ratio, the
    geometric mean of theirs.
    """
    sampled = batch["samples"] > 0
    lengths = _sums_above(sampled.float(), batch["ends"])
    sums = _sums_above(torch.where(sampled, log_ratios, 0.0), batch["ends"])
    ratio = torch.exp(sums / lengths.clamp(min=1))
    # rounding is no chain
    last = _ending("samples", batch) > 1e-5 * batch["samples"]
    gains = ratio.clamp(max=1 + high) * _ending("positive", batch)
    gains = gains + ratio.clamp(min=1 - low) * _ending("negative", batch)
    return torch.where(last & sampled, lengths * gains, 0.0)


def _sums_above(array: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """float [rows, tokens]: the sum of `array` over each token and those that it continues. Padding
    must be 0.
    """
    # a token enters the sum where it stands and leaves it at its end
    changes = nn.functional.pad(array, (0, 1)).double()
    changes = changes.scatter_add(1, ends, -array.double())
    return changes.cumsum(1)[:, :-1].to(array.dtype)


def _ending(name: str, batch: Batch) -> torch.Tensor:
    """float [rows, tokens]: what of a sum belongs to the chains that end at each token; the others
    go on to the tokens behind it.
    """
    sums = batch[name]
    previous = batch["previous"]
    on = torch.where(previous >= 0, sums, 0.0)
    return sums.scatter_add(1, previous.clamp(min=0), -on)


def divergence(log_probs: torch.Tensor, batch: Batch, loss: PolicyLoss) -> torch.Tensor:
    """float [rows, tokens]: the KL to the reference, estimated at each token (Schulman 2020,
    "Approximating KL Divergence"), times the ratio to the sampler (DeepSeek-AI 2025,
    "DeepSeek-V3.2"). "k3" is r' - 1 - log r', with r' the ratio of the reference to the policy;
    "k1" is -log r'.

    The mean gradient is that of the KL by the ratio alone: as they stand, that of k1 is 0, and that
    of k3 the gradient of the KL the other way round.
    """
    ratio = torch.exp(log_probs - _before(log_probs, batch))
    moved = batch["reference"] - log_probs
    if loss.estimator == "k1":
        return -ratio * moved
    return ratio * (torch.exp(moved) - 1 - moved)


def entropies(logits: torch.Tensor) -> torch.Tensor:
    """float [tokens] of [tokens, vocabulary]: the entropy of each distribution, in nats."""
    log_probs = logits.log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1)


def _before(log_probs: torch.Tensor, batch: Batch) -> torch.Tensor:
    """float [rows, tokens]: log-probs of when the tokens were sampled; the present ones where they
    are unknown.
    """
    sampled = batch["log_probs"]
    return torch.where(sampled.isnan(), log_probs.detach(), sampled)


def trust(counts: torch.Tensor) -> torch.Tensor:
    """c of value labels: n / (n + DOUBT), float in [0, 1]; 0 without a label, 1 for an exact one
    (n is inf).
    """
    return 1 / (1 + DOUBT / counts)


def _places(batch: Batch, options: Options) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """bool [rows, tokens] each: tokens whose likelihood counts, those that are imitated, and those
    that samples count; the first are these, and those of pairs. A text's first token follows
    nothing; a frozen trunk imitates none.
    """
    follows = (batch["previous"] >= 0) & (options.tune != "head")
    imitated = (batch["weights"] > 0) & follows
    sampled = (batch["samples"] > 0) & follows
    return imitated | sampled | paired(batch), imitated, sampled


def _read(
    model: Any,
    batch: Batch,
    chosen: torch.Tensor,
    options: Options,
    decoder: Callable[..., Any] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The hidden states of a batch [rows, tokens, hidden], and float32 [chosen, vocabulary]: the
    logits of what stands before each chosen token.
    """
    tokens = batch["tokens"]
    decoder = decoder or model.get_decoder()
    autocast: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if half(options.precision, tokens.device):
        autocast = torch.autocast(tokens.device.type, torch.bfloat16)
    with autocast:
        hidden = tree_states(decoder, tokens, batch["ends"], batch["positions"])
        rows = torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(tokens)
        before = hidden[rows[chosen], batch["previous"][chosen]]
        logits = model.get_output_embeddings()(before)
    return hidden, logits.float()


def half(precision: str, device: torch.device) -> bool:
    """Whether a pass computes in bfloat16."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported()
