"""Trains the built-in model from its recipe, `models/builtin/recipe.json`: `copse train builtin
--size small --out DIR`.

The recipe is a list of stages, each trained from the weights of the one before, with options of its
own for each size (of which "full" has never been run). A stage names the modules that make its
data, with a share of the examples each. A module has a function `examples(seed, shard, count,
progress)`, which yields examples, each a tree of segments (text, weight, value, parent),
deterministic in its arguments; progress in [0, 1] is how far the stage has come. What the recipe
says beside the share is handed to it, too, "progress" among them where it is not to change. A stage
may have "words" that the tokenizer gets from there on.

Everything else, from the tokenizer to the checkpoint, is made here. The last stage's checkpoint is
in DIR, those before it in DIR/work/STAGE. A run that was killed goes on where it stopped when it is
started again with the same arguments: stages, shards and checkpoints that are there are not made
again.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from guides.data.examples import Segment, Shards
from guides.engines import locate
from guides.training.options import Options, check_installed
from guides.training.train import REPORT, export, train
from models.checkpoints.checkpoint import GUIDE, load_model, resolve, version
from models.checkpoints.heads import ValueHead
from search.child import command
from search.files.atomic import alone

log = logging.getLogger(f"copse.{__name__}")

RECIPE = Path(__file__).parent.parent.parent / "models" / "builtin" / "recipe.json"
SHARD = 8192  #: examples in a shard
#: examples that are about as long, and so mostly of one kind, side by side; a larger batch has
#: several such blocks
BLOCK = 32
#: one symbol each, none of them ASCII
PAD = "\u2400"
BOS = "\u2402"
EOS = "\u2403"
UNKNOWN = "\ufffd"


def train_builtin(
    size: str = "small",
    out: str | Path = "builtin",
    seed: int | None = None,
    recipe: str | Path = RECIPE,
    stage: str | None = None,
    base: str | Path | None = None,
) -> Path:
    """Train the model of the recipe's `size`, stage by stage, and write its checkpoint into `out`;
    returns `out`.

    seed   of weights and data in the first stage, one more in each stage after it; None: the
           recipe's
    stage  the first stage that is run; None: all of them
    base   the checkpoint that the first stage begins with, of the recipe's tokenizer and size;
           None: new weights
    Raises ValueError for an unknown size or stage, a base that does not fit, impossible options, if
    `out` holds a run with other settings, or where accelerate is not installed.
    """
    out = Path(out)
    settings = read_recipe(recipe, size)
    names = [one["name"] for one in settings["stages"]]
    if stage is not None and stage not in names:
        raise ValueError(f"unknown stage {stage!r}; choose one of {', '.join(names)}")
    if stage not in (None, names[0]) and base is None:
        raise ValueError(
            f"the stage {stage!r} goes on from trained weights: give the checkpoint that it is "
            "to begin with"
        )
    first = 0 if stage is None else names.index(stage)
    stages: list[dict[str, Any]] = settings["stages"][first:]
    settings["stages"] = stages
    before = None  # the checkpoint that a stage goes on from
    if base is not None:
        before = resolve(locate(base))
        settings["base"] = version(before)
    if seed is not None:
        for i, one in enumerate(stages):
            one["seed"] = seed + i
    if (out / GUIDE).exists():
        log.info("%s is complete", out)
        return out
    for one in stages:
        check_installed(_options(one))
    with alone(out / "work", f"another run is training into {out}: wait for its end"):
        _claim(out / "work", settings)
        for i, one in enumerate(stages):
            folder = out if one is stages[-1] else out / "work" / one["name"]
            if not (folder / GUIDE).exists():
                _train_stage(settings, i, out, folder, before)
            before = folder
    return out


def _train_stage(
    settings: dict[str, Any], index: int, out: Path, folder: Path, base: Path | None
) -> None:
    """Write the checkpoint of a stage into `folder`, trained on from that in `base`, None: from
    scratch.

    Its `training.json` tells of this stage and those before it; "flops" are of them all.
    """
    started = time.time()
    stage = settings["stages"][index]
    rows = _shards(out, settings, stage)
    tokenizer = _tokenizer(settings, stage)
    stages: dict[str, Any] = {}
    if base is None:
        model, head = build_model(settings["model"], tokenizer, stage["seed"])
    else:
        model, old_tokenizer, head, _ = load_model(base, device="cpu", dtype="float32")
        _check_base(base, old_tokenizer, head, tokenizer)
        grow(model, len(tokenizer), stage["seed"])
        if (base / REPORT).exists():
            stages = json.loads((base / REPORT).read_text()).get("stages", {})
    log.info(
        "stage %s: %.2f M parameters, %d examples",
        stage["name"],
        model.num_parameters() / 1e6,
        len(rows),
    )
    missing = not all(rows.path(shard).exists() for shard in range(rows.count))
    jobs = os.cpu_count() or 1
    if missing and jobs >= 8:
        _make_shards(out, index, jobs)
    report = train(model, head.train(), rows, out / "work" / stage["name"], _options(stage))
    stages[stage["name"]] = report | {"seconds": round(time.time() - started)}
    totals = {
        "flops": sum(one["flops"] for one in stages.values()),
        "parameters": model.num_parameters(),
    }
    export(
        model,
        head,
        tokenizer,
        folder,
        training={**totals, "recipe": settings, "stages": stages},
        guide=settings["guide"],
    )


def _tokenizer(settings: dict[str, Any], stage: dict[str, Any]) -> PreTrainedTokenizerFast:
    return build_tokenizer(**settings["tokenizer"], more=stage["words"])


def _check_base(
    base: Path, old: Any, head: ValueHead | None, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Raise ValueError where a stage cannot go on from `base`: `old`, its tokenizer, has
    tokens that ours writes otherwise.
    """
    if head is None or not old.get_vocab().items() <= tokenizer.get_vocab().items():
        raise ValueError(
            f"{base} has no value head, or tokens that the recipe does not know: give a "
            "checkpoint that this recipe made"
        )


def _options(stage: dict[str, Any]) -> Options:
    return Options(**stage["options"], seed=stage["seed"])


def _shards(out: Path, settings: dict[str, Any], stage: dict[str, Any]) -> Shards:
    """The training data of a stage, in order; files that are missing are made when they are
    read.
    """
    options = _options(stage)
    tokenizer = _tokenizer(settings, stage)
    assert options.steps is not None  # as every recipe says
    files = -(-options.steps * options.batch * options.accumulation // SHARD)
    counts = {name: round(source["share"] * SHARD) for name, source in stage["data"].items()}

    def make(shard: int) -> Iterator[list[Segment]]:
        for name, source in stage["data"].items():
            given = {"progress": shard / files, **source}
            del given["share"]
            generate = importlib.import_module(name).examples
            yield from encode(tokenizer, generate(stage["seed"], shard, counts[name], **given))

    return Shards(
        out / "work" / stage["name"] / "shards",
        files,
        sum(counts.values()),
        make,
        block=min(BLOCK, options.batch),
    )


def _make_shards(out: Path, stage: int, jobs: int) -> None:
    """Make all files of a stage that are missing, in child processes: where a GPU trains, one
    process could not keep up with it.
    """
    log.info("making the training data in %d processes", jobs)
    making = command("guides.builtin.train", "shards", str(out.resolve()), str(stage), str(jobs))
    path = os.pathsep.join([str(RECIPE.parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    children = []
    for job in range(jobs):
        children.append(subprocess.Popen([*making, str(job)], env=environment))
    codes = [child.wait() for child in children]
    if any(codes):
        raise RuntimeError(
            f"making the training data in {out} failed; start again, what is done is kept"
        )


def read_recipe(path: str | Path = RECIPE, size: str = "small") -> dict[str, Any]:
    """The settings of one size: "tokenizer", "guide", "model", and "stages" with "name", "seed",
    "data", "options" and "words" each.

    The words of a stage are those of the stages before it and its own.
    """
    recipe = json.loads(Path(path).read_text())
    sizes = recipe.pop("sizes")
    if size not in sizes:
        raise ValueError(f"unknown size {size!r}; choose one of {', '.join(sizes)}")
    stages = []
    words: list[str] = []
    for stage in recipe["stages"]:
        words = [*words, *stage.get("words", ())]
        stages.append({**stage, "options": sizes[size]["options"][stage["name"]], "words": words})
    return {**recipe, "model": sizes[size]["model"], "stages": stages}


def build_tokenizer(
    words: Sequence[str], numbers: int, more: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """A lossless tokenizer of ASCII text: a token is one of `words` or `more`, a whole number up to
    `numbers`, or one character.

    numbers  largest number that is one token: 9 (single digits), 99 or 999; larger ones, and
             leading zeros, become digits
    more     further words, with the spaces around them that they are to take in; their tokens come
             last, so that all others are the same without them. Where several words fit, the
             longest does
    Special tokens are not ASCII, so no ASCII text contains one; characters beyond ASCII become one
    unknown token each.
    """
    if numbers not in (9, 99, 999):
        raise ValueError(f"numbers is 9, 99 or 999, not {numbers}; correct the recipe")
    vocabulary = [PAD, BOS, EOS, UNKNOWN]
    vocabulary += map(chr, range(32, 127))
    vocabulary += ["\n", "\t", *words]
    vocabulary += map(str, range(10, numbers + 1))
    vocabulary += more
    if len(set(vocabulary)) < len(vocabulary):
        raise ValueError("a word is there twice, or is a character or a number; correct the recipe")
    parts = list(map(_bounded, sorted([*words, *more], key=len, reverse=True)))
    if numbers > 9:
        parts.append(rf"(?<![0-9])[1-9][0-9]{{1,{len(str(numbers)) - 1}}}(?![0-9])")
    parts.append(r"[\s\S]")
    ids = dict(zip(vocabulary, range(len(vocabulary)), strict=True))
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(parts)), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def _bounded(word: str) -> str:
    """A regular expression for `word` where no letter or digit goes on at an end of it that is
    one.
    """
    pattern = re.escape(word)
    if word[0].isalnum():
        pattern = r"\b" + pattern
    if word[-1].isalnum():
        pattern += r"\b"
    return pattern


def grow(model: LlamaForCausalLM, tokens: int, seed: int) -> None:
    """Give `model` rows for `tokens` tokens, padded to 8; those it has stay, new ones are drawn
    like them, by `seed`.
    """
    table = model.get_input_embeddings().weight
    size = -(-tokens // 8) * 8
    old = len(table)
    if size > old:
        spread = float(table.std())
        model.resize_token_embeddings(size, mean_resizing=False)
        noise = torch.randn(
            size - old, table.shape[1], generator=torch.Generator().manual_seed(seed)
        )
        with torch.no_grad():
            model.get_input_embeddings().weight[old:] = spread * noise


def encode(
    tokenizer: PreTrainedTokenizerFast, examples: Iterator[list[tuple[str, float, float, int]]]
) -> Iterator[list[Segment]]:
    """Examples with their texts as tokens; an empty text becomes the end-of-text token."""
    encoded: dict[str, tuple[int, ...]] = {"": (tokenizer.eos_token_id,)}
    for example in examples:
        for text, *_ in example:
            if text not in encoded:
                encoded[text] = tuple(tokenizer.encode(text, add_special_tokens=False))
        segments = []
        for text, weight, value, parent in example:
            segments.append(Segment(encoded[text], weight, value, parent))
        yield segments


def build_model(
    shape: dict[str, int], tokenizer: PreTrainedTokenizerFast, seed: int
) -> tuple[LlamaForCausalLM, ValueHead]:
    """A new model, float32, and its value head. `shape`: hidden, layers, heads, inner, context;
    vocabulary padded to 8.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=-(-len(tokenizer) // 8) * 8,
        hidden_size=shape["hidden"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["heads"],
        intermediate_size=shape["inner"],
        max_position_embeddings=shape["context"],
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config), ValueHead(shape["hidden"])


def _claim(work: Path, settings: dict[str, Any]) -> None:
    """Note the settings of a run in its folder; refuse a folder where another run was begun."""
    work.mkdir(parents=True, exist_ok=True)
    note = work / "settings.json"
    text = json.dumps(settings, indent=2)
    if note.exists() and note.read_text() != text:
        raise ValueError(
            f"{work} holds an unfinished run with other settings; remove it, or choose another "
            "--out"
        )
    note.write_text(text)


def main(arguments: Sequence[str]) -> None:
    """`SIZE OUT` trains; `shards OUT STAGE JOBS JOB` makes every JOBS-th file of the data of a
    stage of a run that was begun.
    """
    if arguments[0] == "shards":
        out = Path(arguments[1])
        stage, jobs, job = map(int, arguments[2:])
        settings = json.loads((out / "work" / "settings.json").read_text())
        rows = _shards(out, settings, settings["stages"][stage])
        for shard in range(job, rows.count, jobs):
            rows.ensure(shard)
    else:
        train_builtin(arguments[0], arguments[1])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main(sys.argv[1:])
