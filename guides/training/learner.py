"""A model that learns in rounds, each from where the last one left it, with one optimiser.

The updates of a round share its examples among them. Sums and counts of the loss
(`guides.training.losses`) are taken over a whole update, however many batches it is computed in.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset

from guides.data.examples import collate
from guides.training import losses
from guides.training.options import Options
from guides.training.passes import most_tokens, passes
from guides.training.train import adapt, export
from guides.training.trainer import optimizer_of
from guides.training.tree_attention import use_trees
from models.checkpoints.checkpoint import load_model, resolve, version
from models.checkpoints.heads import ValueHead

log = logging.getLogger(f"copse.{__name__}")

#: of a learner's state: the trained weights in float32, and the optimiser
WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.pt"


class Update(NamedTuple):
    """What happened in the updates of a round.

    steps, tokens, flops   updates, tokens that were read (padding left out), floating-point
                           operations, those of a reference included
    entropy, kl            of the policy in nats a sampled token, in the first update; KL to the
                           reference, nan without one
    sampler_gap, sampler_kl  between trainer and sampler on the tokens of the first update, before
                           it: largest difference of a log-prob, and mean of `r - 1 - log r`. nan
                           where no log-prob is known
    moved                  share of the sampled tokens, in the last update, whose ratio is outside
                           the bounds of the trust region
    gradient               norm of the gradient before clipping, mean over the updates
    """

    steps: int
    tokens: int
    flops: float
    entropy: float
    kl: float
    sampler_gap: float
    sampler_kl: float
    moved: float
    gradient: float


class Learner:
    """The checkpoint `folder` with an optimiser.

    state      folder that `save_state` wrote, to go on from; None or none there: begin with the
               checkpoint and a fresh optimiser
    reference  checkpoint that the KL of the policy loss is to; None: no KL

    Raises ValueError for a bad checkpoint, or one whose vocabulary is not that of the reference.
    """

    def __init__(
        self,
        folder: str | Path,
        options: Options,
        state: Path | None = None,
        reference: str | Path | None = None,
    ):
        self.options = options
        folder = resolve(folder)
        model, self.tokenizer, head, self.settings = load_model(folder, dtype="float32")
        self._has_head = head is not None or options.value_weight > 0
        if head is None:
            head = ValueHead(model.config.get_text_config().hidden_size)
        self.version = version(folder)
        use_trees(model)
        torch.manual_seed(options.seed)
        self._adapter = adapt(model, options)
        model.value_head = head.requires_grad_(self._has_head).to(model.device)
        self.model = model.train()
        self._most = most_tokens(model)
        self.optimizer = optimizer_of(model, options)
        self.steps = 0
        if state is not None and (state / OPTIMIZER).exists():
            self._restore(state)
        self._reference = None
        if options.policy.kl and reference is not None:
            self._reference = self._frozen(reference)

    @property
    def nothing(self) -> Update:
        """What happens in a round without examples."""
        return _Seen().result(0, math.nan, 0.0)

    def update(self, rows: Dataset[Any], updates: int, seed: int) -> Update:
        """Learn from `rows` in so many updates, each from its share of them in an order by `seed`.

        Raises ValueError where a gradient is not finite; the model is then spoilt, and its last
        checkpoint is not.
        """
        count = len(rows)  # type: ignore[arg-type]
        order = np.random.default_rng(seed).permutation(count)
        parts = np.array_split(order, min(updates, count))
        seen = _Seen()
        gradients = []
        for number, part in enumerate(parts):
            gradients.append(self._step(rows, part, seen, first=number == 0))
        return seen.result(len(parts), float(np.mean(gradients)), self._flops(seen))

    def save(self, out: str | Path, **report: Any) -> None:
        """Write the checkpoint into `out`, which is complete when `training.json` is there; report:
        what that file says.
        """
        settings = {"format": 1, **self.settings}
        if self._has_head:
            settings["value_head"] = True
        model, head = self._plain()
        export(
            model,
            head if self._has_head else None,
            self.tokenizer,
            out,
            guide=settings,
            training=report | {"base": self.version},
        )

    def save_state(self, out: Path) -> None:
        """Write what another learner needs to go on exactly: the trained weights in float32, and
        the optimiser.
        """
        out.mkdir(parents=True)
        trained = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                trained[name] = parameter.detach().contiguous()
        save_file(trained, out / WEIGHTS)
        torch.save({"optimizer": self.optimizer.state_dict(), "steps": self.steps}, out / OPTIMIZER)

    def _step(self, rows: Any, part: np.ndarray, seen: _Seen, *, first: bool) -> float:
        """One update from some of the rows; the norm of its gradient."""
        device = self.model.device
        batches = list(_batches(rows, part, self.options.batch, self._most))
        sums = torch.stack([losses.counts(batch, self.options) for batch in batches]).sum(0)
        self.steps += 1
        rate = min(1.0, self.steps / max(1, self.options.warmup))
        for group in self.optimizer.param_groups:
            group.setdefault("base_lr", group["lr"])
            group["lr"] = group["base_lr"] * rate
        self.optimizer.zero_grad()
        for batch in batches:
            batch = {name: array.to(device) for name, array in batch.items()}
            if self._reference is not None:
                batch["reference"] = losses.log_probs(self._reference, batch, self.options)
            terms = losses.terms(self.model, batch, self.options)
            losses.total(terms, sums.to(device), self.options).backward()
            seen.add(batch, terms, self.options, first=first)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        norm = float(torch.nn.utils.clip_grad_norm_(trained, 1.0))
        if not math.isfinite(norm):
            raise ValueError(
                f"the loss or its gradient is not a finite number at update {self.steps}: give a "
                "smaller learning rate, or look for broken rewards; the last round is kept"
            )
        self.optimizer.step()
        return norm

    def _plain(self) -> tuple[Any, Any]:
        """Copies of the model, with what was added to its weights in them, and of its head; both on
        the CPU. In float32 whatever the base was: a few steps with a small learning rate are less
        than bfloat16 tells apart, and the next samples would be those of the old model.
        """
        self.optimizer.zero_grad()
        whole = copy.deepcopy(self._adapter or self.model).cpu()
        model = whole if self._adapter is None else whole.merge_and_unload(progressbar=False)
        head = model.value_head.requires_grad_(False)
        del model.value_head
        model.config.use_cache = True
        return model, head

    def _flops(self, seen: _Seen) -> float:
        """As `PolicyValueTrainer.floating_point_ops`, and 2 x parameters x tokens of a
        reference.
        """
        passes = {"full": 6, "lora": 4, "head": 2}[self.options.tune]
        if self._reference is not None:
            passes += 2
        return float(passes * sum(p.numel() for p in self.model.parameters()) * seen.tokens)

    def _frozen(self, reference: str | Path) -> Any:
        model, _, _, _ = load_model(resolve(reference), dtype="float32")
        ours = self.model.get_input_embeddings().weight.shape[0]
        theirs = model.get_input_embeddings().weight.shape[0]
        if ours != theirs:
            raise ValueError(
                f"the reference {reference} has {theirs} tokens, the model {ours}: give a "
                "reference with the same tokenizer"
            )
        use_trees(model)
        return model.requires_grad_(False).eval()

    def _restore(self, state: Path) -> None:
        """Go on from what `save_state` wrote."""
        left = self.model.load_state_dict(load_file(state / WEIGHTS), strict=False)
        if left.unexpected_keys:
            raise ValueError(
                f"{state} is of another way to train ({left.unexpected_keys[0]} is not trained "
                "here): begin anew with another folder"
            )
        found = torch.load(state / OPTIMIZER, weights_only=True)
        self.optimizer.load_state_dict(found["optimizer"])
        self.steps = found["steps"]


class _Seen:
    """What is counted during the updates of a round."""

    def __init__(self) -> None:
        self.tokens = 0
        self.samples = 0.0
        self.entropy = 0.0
        self.kl = 0.0
        self.gap = math.nan
        self.known = 0
        self.divergence = 0.0
        self.ratios = 0
        self.outside = 0

    def add(
        self, batch: dict[str, torch.Tensor], terms: losses.Terms, options: Options, *, first: bool
    ) -> None:
        self.tokens += int((batch["ends"] > 0).sum())
        sampled = (batch["samples"] > 0) & (batch["previous"] >= 0)
        known = sampled & ~batch["log_probs"].isnan()
        logs = (terms.log_probs - batch["log_probs"])[known].double()
        low, high = options.policy.bounds
        if first:
            self.samples += float(batch["samples"][sampled].sum())
            self.entropy += float(terms.entropy.detach())
            self.kl += float(terms.kl.detach())
            if len(logs):
                self.gap = float(np.fmax(self.gap, float(logs.abs().max())))
                self.known += len(logs)
                self.divergence += float((logs.expm1() - logs).sum())
            return
        self.ratios += len(logs)
        ratio = logs.exp()
        self.outside += int(((ratio > 1 + high) | (ratio < 1 - low)).sum())

    def result(self, steps: int, gradient: float, flops: float) -> Update:
        samples = self.samples or math.nan
        return Update(
            steps,
            self.tokens,
            flops,
            self.entropy / samples,
            self.kl / samples,
            self.gap,
            self.divergence / (self.known or math.nan),
            self.outside / max(1, self.ratios),
            gradient,
        )


def _batches(
    rows: Any, part: np.ndarray, size: int, most: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Rows in batches of at most `size`, those of similar length together, and as many tokens as a
    pass may have.
    """
    chosen = sorted((rows[int(i)] for i in part), key=lambda row: len(row["tokens"]))
    for start in range(0, len(chosen), size):
        yield from passes(collate(chosen[start : start + size]), most)
