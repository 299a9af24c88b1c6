"""The training loop for a policy with a value head: `transformers.Trainer`, with our loss and our batches.

    loss = sum(weight * token NLL) / tokens with a weight + value_weight * sum(value cross-entropy) / labels

Both counts are taken over the whole accumulated batch, so 4 accumulated batches of 8 give the gradient of one batch of 32.
As a child process: python -m guides.train config.json, where the config holds

    {"model": DIR, "examples": [FILE, ...], "out": DIR, "options": {"steps": 1000, ...}}

Checkpoints and resuming are the Trainer's; a checkpoint counts once the file `complete` stands in it, so one cut short by a
kill is ignored and removed. Works with causal language models of the Llama and Qwen type.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.utils.logging import disable_progress_bar

from guides.examples import ExampleFile, collate
from guides.muon import MuonAdamW
from models.heads import ValueHead, load_head, save_head

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How to train. A step is one update, from `batch * accumulation` examples.

    decay         share of the steps, at the end, over which the learning rate falls to 0; before that it is constant
    value_weight  lambda in the loss
    precision     "auto" (bfloat16 where the machine has it), "bfloat16" or "float32"; weights stay float32
    compile       compile the model where a compiler is there
    """

    steps: int
    batch: int = 64
    accumulation: int = 1
    lr: float = 1e-3
    warmup: int = 100
    decay: float = 0.3
    weight_decay: float = 0.05
    value_weight: float = 0.5
    precision: str = "auto"
    compile: bool = True
    save_steps: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.accumulation, self.save_steps) < 1:
            raise ValueError("steps, batch, accumulation and save_steps must be at least 1; correct the training options")
        if not 0 <= self.decay <= 1 or self.lr <= 0 or self.value_weight < 0:
            raise ValueError("decay must be in [0, 1], lr positive and value_weight at least 0; correct the training options")
        if self.precision not in ("auto", "bfloat16", "float32"):
            raise ValueError(f"precision is auto, bfloat16 or float32, not {self.precision!r}; correct the training options")


class PolicyValueTrainer(Trainer):
    """A Trainer of a causal language model that carries a `ValueHead` as its submodule `value_head`."""

    def __init__(self, *args: Any, options: Options, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.options = options
        self.loss_is_scaled_for_ga = True  # `compute_loss` divides by counts of the whole accumulated batch
        self.model_accepts_loss_kwargs = True
        decoder = self.model.get_decoder()
        self._decoder = torch.compile(decoder) if options.compile and _can_compile(self.args.device) else decoder

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = MuonAdamW(model or self.model, self.options.lr, self.options.weight_decay)
        return self.optimizer

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> tuple[list[Any], torch.Tensor]:
        """The batches of one step, and float32 [2]: how many of their tokens have a weight, how many have a value label."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = torch.zeros(2)
        for batch in batches:
            counts += torch.stack([_imitated(batch).sum(), (~batch["values"].isnan()).sum()])
        return batches, counts.clamp(min=1).to(device)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: torch.Tensor | None = None
    ) -> Any:
        tokens, weights, values = inputs["tokens"], inputs["weights"], inputs["values"]
        assert num_items_in_batch is not None and not return_outputs
        imitated, labelled = _imitated(inputs), ~values.isnan()
        with self._autocast():
            hidden = self._decoder(
                input_ids=tokens, position_ids=inputs["positions"], attention_mask=self._mask(inputs["visible"]), use_cache=False
            ).last_hidden_state
            rows = torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(tokens)
            before = hidden[rows[imitated], inputs["previous"][imitated]]
            logits = self.model.get_output_embeddings()(before)
        nll = nn.functional.cross_entropy(logits.float(), tokens[imitated], reduction="none")
        odds = self.model.value_head.logits(hidden[labelled])
        doubt = nn.functional.binary_cross_entropy_with_logits(odds, values[labelled], reduction="sum")
        return nll @ weights[imitated] / num_items_in_batch[0] + self.options.value_weight * doubt / num_items_in_batch[1]

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Forward and backward: 6 x parameters x tokens, the tied embedding counted once, padding included."""
        return 6 * sum(p.numel() for p in self.model.parameters()) * inputs["tokens"].numel()

    def _mask(self, visible: torch.Tensor) -> torch.Tensor:
        """What is added to the attention scores: [rows, 1, tokens, tokens] of the type they are computed in."""
        dtype = torch.bfloat16 if _half(self.options.precision, self.args.device) else torch.float32
        return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, -1e9)[:, None]

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if not _half(self.options.precision, self.args.device):
            return contextlib.nullcontext()
        return torch.autocast(self.args.device.type, torch.bfloat16)

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> SequentialSampler:
        return SequentialSampler(train_dataset or self.train_dataset)  # files are shuffled when they are written


class _Progress(TrainerCallback):
    """Marks a checkpoint as complete, and logs progress."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        Path(args.output_dir, f"checkpoint-{state.global_step}", "complete").touch()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            seconds = time.monotonic() - self.start
            log.info(
                "step %d of %d: loss %.4f, lr %.2g, %.0f s",
                state.global_step,
                state.max_steps,
                logs["loss"],
                logs["learning_rate"],
                seconds,
            )


def train(model: PreTrainedModel, head: ValueHead, rows: Dataset[Any], out: str | Path, options: Options) -> dict[str, Any]:
    """Train `model` and `head` in place, on `rows` in order; checkpoints in `out`, from the last complete one if there is one.

    Returns {"steps", "examples", "flops", "options"}; flops: forward and backward.
    """
    out = Path(out)
    accelerated = torch.cuda.is_available()
    if not accelerated:
        model.set_attn_implementation("eager")  # on a CPU the backward pass of fused attention took half the time of a step
    disable_progress_bar()  # a checkpoint is written in a moment; progress is logged
    model.value_head = head
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch,
        gradient_accumulation_steps=options.accumulation,
        learning_rate=options.lr,
        max_grad_norm=1.0,
        lr_scheduler_type="warmup_stable_decay",
        warmup_steps=options.warmup,
        lr_scheduler_kwargs={"num_decay_steps": round(options.decay * options.steps), "decay_type": "linear"},
        save_steps=options.save_steps,
        save_total_limit=2,
        logging_steps=max(1, min(100, options.steps // 20)),
        seed=options.seed,
        use_cpu=not accelerated,
        dataloader_drop_last=True,
        dataloader_pin_memory=accelerated,
        dataloader_num_workers=4 if accelerated else 0,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
        save_only_model=False,
    )
    trainer = PolicyValueTrainer(
        model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[_Progress()], options=options
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last_checkpoint(out))
    del model.value_head
    model.config.use_cache = True  # the Trainer turned it off
    examples = options.steps * options.batch * options.accumulation
    return {"steps": trainer.state.global_step, "examples": examples, "flops": trainer.state.total_flos, "options": asdict(options)}


def last_checkpoint(out: str | Path) -> str | None:
    """The newest complete checkpoint of `out`, or None; checkpoints that a kill cut short are removed."""
    folders = sorted(Path(out).glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    for folder in [f for f in folders if not (f / "complete").exists()]:
        log.warning("%s is incomplete and removed", folder)
        shutil.rmtree(folder)
        folders.remove(folder)
    return str(folders[-1]) if folders else None


def export(model: PreTrainedModel, head: ValueHead, tokenizer: Any, out: str | Path, **files: Any) -> None:
    """Write a checkpoint into `out`: the model, value_head.safetensors, the tokenizer, and `name`.json for each of `files`.

    Every file is written beside and renamed, so a reader never sees half of one; the last of `files` is the last to appear.
    """
    out = Path(out)
    unfinished = out / f".{os.getpid()}.tmp"
    unfinished.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    save_head(unfinished, head)
    written = sorted(unfinished.iterdir())
    for name, content in files.items():
        written.append(unfinished / f"{name}.json")
        written[-1].write_text(json.dumps(content, indent=2) + "\n")
    for path in written:
        path.chmod(0o644)
        os.replace(path, out / path.name)
    unfinished.rmdir()


def _imitated(batch: dict[str, Any]) -> torch.Tensor:
    """bool [rows, tokens]: the tokens whose likelihood counts. A text's first token follows nothing."""
    return (batch["weights"] > 0) & (batch["previous"] >= 0)


def _can_compile(device: torch.device) -> bool:
    compiler = device.type == "cuda" or any(shutil.which(name) for name in ("g++", "clang++"))
    if not compiler:
        log.info("no C++ compiler: training without torch.compile, 1.4 times slower")
    return compiler


def _half(precision: str, device: torch.device) -> bool:
    if precision == "auto":
        return torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    return precision == "bfloat16"


def main(config: str | Path) -> None:
    """Train as the config file says and write the checkpoint into its `out`. Does nothing if that is complete."""
    settings = json.loads(Path(config).read_text())
    out = Path(settings["out"])
    if (out / "training.json").exists():
        return
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32)
    head = load_head(settings["model"], model.config.hidden_size) or ValueHead(model.config.hidden_size)
    rows = ConcatDataset([ExampleFile(path) for path in settings["examples"]])
    report = train(model, head.requires_grad_(True).train(), rows, out / "work", Options(**settings["options"]))
    guide = Path(settings["model"], "guide.json")
    files = {"guide": json.loads(guide.read_text())} if guide.exists() else {}
    export(model, head, AutoTokenizer.from_pretrained(settings["model"]), out, **files, training=report)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main(sys.argv[1])
