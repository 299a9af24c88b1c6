"""Our losses (`guides.training.losses`), our order of rows and our checkpoints, on
`transformers.Trainer`; `guides.training.train` is the way in.
"""

from __future__ import annotations

import itertools
import logging
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainerCallback

from guides.training.losses import counts, terms, total
from guides.training.muon import MuonAdamW
from guides.training.passes import most_tokens, passes

if TYPE_CHECKING:
    from guides.training.options import Options

log = logging.getLogger(f"copse.{__name__}")

TRAINED = "trained.safetensors"  #: of a checkpoint: the parameters that are trained, and no others


class PolicyValueTrainer(Trainer):
    """A Trainer of a causal language model that carries a `ValueHead` as its submodule
    `value_head`; `order`: of its rows.
    """

    optimizer: torch.optim.Optimizer | None

    def __init__(self, *args: Any, options: Options, order: Sampler[int], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.options = options
        self.order = order
        # `compute_loss` divides by counts of the whole accumulated batch
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = True
        self._most = most_tokens(self.model)
        self._decoder = self.model.get_decoder()
        if options.compile and _can_compile(self.args.device):
            self._decoder = torch.compile(self._decoder)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = optimizer_of(model or self.model, self.options)
        return self.optimizer

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor]:
        """The batches of one step, and the `guides.training.losses.counts` of all of them."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        sums = torch.zeros(4, device=device)
        for batch in batches:
            # most loaders have put it there
            batch = {name: array.to(device) for name, array in batch.items()}
            sums += counts(batch, self.options)
            self.state.num_input_tokens_seen += int((batch["ends"] > 0).sum())
        return batches, sums

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Forward and backward of a batch, in as many passes as memory wants; its loss."""
        loss = torch.zeros((), device=self.args.device)
        for part in passes(inputs, self._most):
            loss += super().training_step(model, part, num_items_in_batch)
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        assert num_items_in_batch is not None and not return_outputs
        found = terms(self.model, inputs, self.options, self._decoder)
        return total(found, num_items_in_batch, self.options)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """2 x parameters x tokens forward, as much backward for activations and again for weights,
        where those are trained.

        The tied embedding is counted once, padding included.
        """
        passes = {"full": 6, "lora": 4, "head": 2}[self.options.tune]
        return passes * sum(p.numel() for p in self.model.parameters()) * inputs["tokens"].numel()

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[int]:
        return self.order

    # -- checkpoints

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        assert output_dir is not None
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        trained = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                trained[name] = parameter.detach().contiguous()
        save_file(trained, Path(output_dir, TRAINED))

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        trained = load_file(Path(resume_from_checkpoint, TRAINED))
        left = self.model.load_state_dict(trained, strict=False)
        assert not left.unexpected_keys, left.unexpected_keys

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        try:
            super()._save_checkpoint(model, trial)
        # a full disk has a name of its own in each library
        except (OSError, RuntimeError, SafetensorError) as error:
            folder = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
            shutil.rmtree(folder, ignore_errors=True)
            raise OSError(
                f"cannot write {folder} ({error}): make room and start again, the last complete "
                "checkpoint is kept"
            ) from error


def optimizer_of(model: nn.Module, options: Options) -> torch.optim.Optimizer:
    """Muon, or AdamW with decay for matrices only, of a model with its `value_head`. A fresh linear
    head needs larger steps than weights that are tuned: with AdamW, `0.1 / hidden` moves the
    log-odds by about 0.1 a step.
    """
    if options.optimizer == "muon":
        return MuonAdamW(model, options.lr, options.weight_decay)
    head = list(model.value_head.parameters())  # type: ignore[union-attr, operator]
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not name.startswith("value_head."):
            (matrices if parameter.ndim > 1 else others).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": head, "lr": max(options.lr, 0.1 / head[0].numel()), "weight_decay": 0.0}
    ]
    if matrices:
        groups.append({"params": matrices, "weight_decay": options.weight_decay})
    if others:
        groups.append({"params": others, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=options.lr)


class Order(Sampler[int]):
    """`total` indices of rows, in passes through them.

    seed  None: in order. Else blocks of `batch` neighbours, which are about as long as each other,
          stand in an order of their own in each pass. A resumed run finds the same.
    """

    def __init__(self, rows: int, total: int, batch: int, seed: int | None):
        self.rows = rows
        self.total = total
        self.batch = batch
        self.seed = seed

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[int]:
        endless = itertools.chain.from_iterable(map(self._epoch, itertools.count()))
        return itertools.islice(endless, self.total)

    def _epoch(self, epoch: int) -> Iterator[int]:
        first = -epoch * self.rows % self.batch  # the rest of a block that the pass before began
        edges = [0, *range(first or self.batch, self.rows, self.batch), self.rows]
        blocks = list(itertools.starmap(range, itertools.pairwise(edges)))
        if self.seed is not None:
            inner = range(1 if first else 0, len(blocks) - 1)
            order = np.random.default_rng((self.seed, epoch)).permutation(inner)
            blocks[inner.start : inner.stop] = [blocks[i] for i in order]
        return itertools.chain.from_iterable(blocks)


class Progress(TrainerCallback):
    """Marks a checkpoint as complete, shows how far the training is, and stops it where going on
    would spoil the checkpoints.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        from tqdm.auto import tqdm

        self.start = time.monotonic()
        self.first = state.global_step
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            unit="step",
            disable=not sys.stderr.isatty(),
        )

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: nn.Module | None = None, **kwargs: Any
    ) -> None:
        assert model is not None
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        # one look at the device, not one a parameter
        if not torch.nn.utils.get_total_norm(gradients).isfinite():
            raise ValueError(
                "the loss or its gradient is not a finite number at step "
                f"{state.global_step + 1}: give a smaller learning rate, or look "
                "for broken examples; the last complete checkpoint is kept"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        Path(args.output_dir, f"checkpoint-{state.global_step}", "complete").touch()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs and self.bar.disable:
            seconds = time.monotonic() - self.start
            done = state.global_step - self.first
            left = seconds / max(done, 1) * (state.max_steps - state.global_step)
            log.info(
                "step %d of %d: loss %.4f, lr %.2g, %.0f s, %.0f s left",
                state.global_step,
                state.max_steps,
                logs["loss"],
                logs["learning_rate"],
                seconds,
                left,
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()


def _can_compile(device: torch.device) -> bool:
    compiler = device.type == "cuda" or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        log.info("no C++ compiler: training without torch.compile, 1.4 times slower")
    return bool(compiler)
