"""Training a policy with a value head, in this process or as a child: python -m
guides.training.train config.json, where the config holds

    {"model": DIR, "examples": [FILE, ...], "out": DIR, "options": {"epochs": 2, ...}, "guide":
    {...}, "data": {...}, "held": FILE, "reference": DIR}

with "options" over those of `guides.training.options.fine_tuning`, "guide" what `guide.json` of the
new checkpoint shall say beside what the old one says, "data" whatever its `training.json` shall
keep of where the examples come from, "held" chains to calibrate the value head on and to judge it
by (`guides.training.value_report`), and "reference" the model whose log-probs pairs are measured by
(`guides.training.reference`; missing: "model"); these four may be missing. The loss is that of
`guides.training.losses`.

Checkpoints and resuming are the Trainer's; a checkpoint counts once the file `complete` stands in
it, so one cut short by a kill is ignored and removed. Works with causal language models of the
Llama and Qwen type.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.utils.data import ConcatDataset, Dataset
from transformers import AutoConfig, PreTrainedModel, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.utils.logging import disable_progress_bar

from guides.data.examples import ExampleFile, collate
from guides.data.holdout import Held
from guides.training.frozen_head import train_head
from guides.training.options import Options, check_installed, fine_tuning
from guides.training.reference import load_reference, referenced
from guides.training.trainer import Order, PolicyValueTrainer, Progress
from guides.training.tree_attention import use_trees
from models.checkpoints.checkpoint import load_model, version
from models.checkpoints.digests import write_digests
from models.checkpoints.foreign import read_by
from models.checkpoints.heads import ValueHead, save_head
from search.plain_text import Formatter

log = logging.getLogger(f"copse.{__name__}")

REPORT = "training.json"  #: the last file of a checkpoint to appear
REFERENCE = "reference.npy"  #: log-probs of the reference, beside the examples
#: of a checkpoint whose value head was judged on problems that were held out
JUDGED = "report.json"
#: Hu et al. 2022; on all matrices, Dettmers et al. 2023
LORA: dict[str, Any] = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
#: exit codes of the child process; the last line of its stdout says what is wrong
MISUSE = 2
FULL = 3
INTERRUPTED = 130


def train(
    model: PreTrainedModel,
    head: ValueHead,
    rows: Dataset[Any],
    out: str | Path,
    options: Options,
    *,
    shuffle: bool = False,
) -> dict[str, Any]:
    """Train `model` and `head` together, in place (the head alone: `guides.training.frozen_head`).

    Checkpoints in `out`; a start goes on from the last complete one.

    shuffle  a new order of `rows` in each pass; else they are read in order

    Returns {"steps", "examples", "tokens", "flops", "options"}; flops: forward and backward. Raises
    ValueError where the loss is not finite, OSError where the disk is full; the last complete
    checkpoint then stays.
    """
    out = Path(out)
    count = len(rows)  # type: ignore[arg-type]
    steps = options.updates(count)
    accelerated = torch.cuda.is_available()
    if accelerated:
        model.cuda()
    attention = model.config._attn_implementation
    use_trees(model)
    disable_progress_bar()  # a checkpoint is written in a moment; progress is logged
    adapter = adapt(model, options)
    model.value_head = head.requires_grad_(True)
    examples = steps * options.batch * options.accumulation
    workers = 0
    if accelerated:
        workers = min(12, max(1, (os.cpu_count() or 1) - 2))
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=options.batch,
        gradient_accumulation_steps=options.accumulation,
        learning_rate=options.lr,
        max_grad_norm=1.0,
        lr_scheduler_type="warmup_stable_decay",
        warmup_steps=min(options.warmup, steps // 10),
        lr_scheduler_kwargs={
            "num_decay_steps": round(options.decay * steps),
            "decay_type": "linear",
        },
        save_steps=options.save_steps,
        save_total_limit=2,
        logging_steps=max(1, min(100, steps // 20)),
        seed=options.seed,
        use_cpu=not accelerated,
        dataloader_drop_last=True,
        dataloader_pin_memory=accelerated,
        dataloader_num_workers=workers,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
        save_only_model=False,
    )
    trainer = PolicyValueTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=collate,
        callbacks=[Progress()],
        options=options,
        order=Order(count, examples, options.batch, options.seed if shuffle else None),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last_checkpoint(out))
    del model.value_head
    if adapter is not None:
        adapter.merge_and_unload(progressbar=False)
    model.set_attn_implementation(attention)
    model.config.use_cache = True  # the Trainer turned it off
    done = {
        "steps": trainer.state.global_step,
        "examples": examples,
        "tokens": trainer.state.num_input_tokens_seen,
    }
    return done | {"flops": trainer.state.total_flos, "options": asdict(options)}


def adapt(model: PreTrainedModel, options: Options) -> Any:
    """Choose what of `model` is trained; the adapter to merge in the end, None without one.
    Raises ValueError where peft is missing.
    """
    if options.tune != "lora":
        model.requires_grad_(True)
        return None
    check_installed(options)
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    torch.manual_seed(options.seed)
    return LoraModel(model, LoraConfig(**LORA), "default")


def last_checkpoint(out: str | Path) -> str | None:
    """The newest complete checkpoint of `out`, or None; checkpoints that a kill cut short are
    removed.
    """
    complete = []
    for folder in list(Path(out).glob("checkpoint-*")):
        if (folder / "complete").exists():
            complete.append(folder)
        else:
            log.warning("%s is incomplete and removed", folder)
            shutil.rmtree(folder)
    if not complete:
        return None
    return str(max(complete, key=lambda folder: int(folder.name.split("-")[1])))


def export(
    model: PreTrainedModel, head: ValueHead | None, tokenizer: Any, out: str | Path, **files: Any
) -> None:
    """Write a checkpoint into `out`: the model, value_head.safetensors where there is a head, the
    tokenizer, and `name`.json for each of `files`.

    Every file is written beside and renamed, so a reader never sees half of one; the last of
    `files` is the last to appear. Raises OSError where they cannot be written.
    """
    out = Path(out)
    for left in out.glob(".*.tmp"):  # by one that was killed
        shutil.rmtree(left)
    unfinished = out / f".{os.getpid()}.tmp"
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        if head is not None:
            save_head(unfinished, head)
        write_digests(unfinished)
        written = sorted(unfinished.iterdir())
        for name, content in files.items():
            written.append(unfinished / f"{name}.json")
            written[-1].write_text(json.dumps(content, indent=2) + "\n")
        for path in written:
            path.chmod(0o644)
            os.replace(path, out / path.name)
    # a full disk has a name of its own in each library
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OSError(
            f"cannot write the model into {out} ({error}): make room and start again, the "
            "training is kept"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def main(config: str | Path) -> None:
    """Train as the config file says and write the checkpoint into its `out`. Does nothing if that
    is complete.

    The weights keep the type of the old checkpoint's; a head that it lacks begins at 0. Raises what
    `train` raises.
    """
    settings = json.loads(Path(config).read_text())
    out = Path(settings["out"])
    base = settings["model"]
    if (out / REPORT).exists():
        return
    options = fine_tuning(**settings["options"])
    model, tokenizer, head, guide = load_model(base, device="cpu", dtype="float32")
    kind = read_by(AutoConfig, base).dtype or torch.float32
    if head is None:
        head = ValueHead(model.config.get_text_config().hidden_size)
    head.train()
    files = list(map(ExampleFile, settings["examples"]))
    rows: Dataset[Any] = ConcatDataset(files)
    if any(len(file.pairs) for file in files):
        reference = model
        if "reference" in settings:
            reference = load_reference(settings["reference"])
        rows = referenced(reference, rows, out / "work" / REFERENCE, options)
    if options.tune == "head":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        report = train_head(model.to(device, kind), tokenizer, head, rows, out / "work", options)
    else:
        report = train(model, head, rows, out / "work", options, shuffle=True)
    report |= {"base": version(base), "ancestors": _ancestors(base)}
    guide = {"format": 1, **guide, **settings.get("guide", {}), "value_head": True}
    guide.pop("within", None)  # it was measured on the old head
    judged = {}
    if "held" in settings:
        from guides.training.value_report import judge, known_within

        # as it was trained: rounded weights have other values
        verdict = judge(model, tokenizer, head, Held.load(settings["held"]))
        judged["report"] = verdict
        if known_within(verdict):
            guide["within"] = round(verdict["within"], 4)
    export(
        model.to(dtype=kind).cpu(),
        head.cpu(),
        tokenizer,
        out,
        guide=guide,
        **judged,
        training=report | {"data": settings.get("data", {})},
    )
    shutil.rmtree(out / "work", ignore_errors=True)


def _ancestors(base: str) -> list[str]:
    """Versions of the checkpoints that `base` was trained from, the first one first."""
    history = Path(base, REPORT)
    if not history.exists():
        return []
    before = json.loads(history.read_text())
    ancestors = list(before.get("ancestors", []))
    if "base" in before:
        ancestors.append(before["base"])
    return ancestors


def _child(config: str) -> int:
    """`main` for a parent process; the exit code. What the user can mend is said on stdout."""
    try:
        main(config)
    except (ValueError, OSError) as error:
        log.debug("where it came from", exc_info=error)
        sys.stdout.write(" ".join(str(error).split()) + "\n")
        return MISUSE if isinstance(error, ValueError) else FULL
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    sys.exit(_child(*sys.argv[1:]))
