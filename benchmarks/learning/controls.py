"""The control of expert iteration that learns from the generator: a start trained on fresh paths,
for as many tokens as a run read.

    python -m benchmarks.learning.controls start --tokens-of run --out paths
    python -m benchmarks.learning.controls start --tokens 1500000 --stage NAME --out seed.npz

The second command only writes such a file of paths.

The paths are those of a stage of the recipe (`models/builtin/recipe.json`; of the last one, if none
is named), from a seed that the recipe does not use; one pass, with the options of the run's own
trainings. A file of paths serves `copse train iterate --examples`. The other control, the same
start trained on samples that nobody filtered, needs no command of its own: `copse solve --method
sample --traces`, then `copse train guide --policy all`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from guides.builtin.train import encode, read_recipe
from guides.data.examples import Segment, write_examples
from guides.iteration.run_folder import write_json
from guides.training.train_guide import run_training
from models.checkpoints.checkpoint import resolve

log = logging.getLogger(f"copse.{__name__}")

SEED = 1_000_003  #: of the paths; the stages of the recipe have small ones
AT_ONCE = 1024  #: examples made between two looks at the count


def accepted(run: Path) -> list[tuple[int, Path]]:
    """(number, checkpoint) of the base and of every accepted round of a run, in order. Raises
    ValueError where there is no run.
    """
    verdicts = sorted(run.glob("round-*/gate.json"))
    if not verdicts:
        raise ValueError(f"{run} holds no finished round: give the folder of copse train iterate")
    found = []
    for path in verdicts:
        if json.loads(path.read_text())["accepted"]:
            number = int(path.parent.name.partition("-")[2])
            found.append((number, path.parent / "checkpoint"))
    return found


def spent(run: Path) -> tuple[int, dict[str, Any]]:
    """Tokens that the accepted rounds of a run trained on, and the options of their training."""
    rounds = [folder for number, folder in accepted(run) if number]
    if not rounds:
        raise ValueError(f"{run} has no accepted round: there is nothing to compare with")
    tokens = 0
    for folder in rounds:
        tokens += json.loads((folder / "training.json").read_text())["tokens"]
    return tokens, json.loads((rounds[-1].parent / "training.json").read_text())["options"]


def fresh_paths(
    tokenizer: Any, tokens: int, stage: str | None = None, seed: int = SEED
) -> list[list[Segment]]:
    """Examples of a stage of the recipe, None: the last, in its shares, with about `tokens`
    tokens. Raises ValueError for no stage.
    """
    stages = {one["name"]: one for one in read_recipe()["stages"]}
    name = stage or list(stages)[-1]
    if name not in stages:
        raise ValueError(f"the recipe has no stage {name!r}: choose one of {', '.join(stages)}")
    examples: list[list[Segment]] = []
    count = shard = 0
    while count < tokens:
        for module, source in stages[name]["data"].items():
            given = {"progress": 1.0, **source}
            amount = round(given.pop("share") * AT_ONCE)
            made = importlib.import_module(module).examples(seed, shard, amount, **given)
            more = list(encode(tokenizer, made))
            examples += more
            count += sum(map(_tokens, more))
        shard += 1
    lengths = np.array(list(map(_tokens, examples)))
    # what is left out is of all kinds alike
    order = np.random.default_rng(seed).permutation(len(examples))
    return list(map(examples.__getitem__, order[np.cumsum(lengths[order]) <= tokens]))


def _tokens(example: Sequence[Segment]) -> int:
    return sum(len(segment.tokens) for segment in example)


def train_on_paths(start: Path, tokens: int, options: dict[str, Any], out: Path) -> Path:
    """Train `start` for one pass through `tokens` tokens of fresh paths; the checkpoint, `out`.
    A killed run goes on.
    """
    config = out / "control.json"
    examples = (out / "paths.npz").resolve()
    if not config.exists():
        out.mkdir(parents=True, exist_ok=True)
        paths = fresh_paths(AutoTokenizer.from_pretrained(start), tokens)
        write_examples(examples, paths, options.get("batch", 64))
        options = {**options, "epochs": 1.0}
        options.pop("steps", None)
        content = {
            "model": str(resolve(str(start))),
            "examples": [str(examples)],
            "out": str(out.resolve()),
            "options": options,
        }
        write_json(config, content)
    run_training(config)
    return out


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("start", type=Path)
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--tokens-of", type=Path, help="a run of copse train iterate")
    amount.add_argument(
        "--tokens", type=int, help="write a file of so many tokens, and train nothing"
    )
    parser.add_argument(
        "--stage", help="with --tokens: the stage of the recipe whose paths they are"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        if args.tokens_of is None:
            if args.tokens < 1:
                raise ValueError(f"--tokens {args.tokens} makes no path: give at least 1")
            paths = fresh_paths(AutoTokenizer.from_pretrained(args.start), args.tokens, args.stage)
            write_examples(args.out, paths)
            log.info("%d paths are in %s", len(paths), args.out)
            return
        if args.stage:
            raise ValueError(
                "--stage goes with --tokens: the control learns from the last stage, as the "
                "start did"
            )
        tokens, options = spent(args.tokens_of)
        log.info("%s tokens, as the accepted rounds of %s", f"{tokens:,}", args.tokens_of)
        log.info("the control is in %s", train_on_paths(args.start, tokens, options, args.out))
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
