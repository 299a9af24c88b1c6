"""Outcome and process verifiers of the same chains: which selects the better answer among N?

    python -m benchmarks.verifiers.train generator --out DIR
    python -m benchmarks.verifiers.train pool --split test          # and validation, train
    python -m benchmarks.verifiers.train label
    python -m benchmarks.verifiers.train train --kind orm --seed 0
    python -m benchmarks.verifiers.train report

`generator` trains a model of 0.94 million parameters that writes chains of 1 to 5 operations.
`pool` samples chains: 256 of each of 1,000 problems that no model was trained on (test), 64 of each
of 300, for every choice that is made (validation), 8 of each of 3,000, which are labelled (train).
`label` labels their steps by 8 roll-outs of each. `train` makes a verifier from the generator's
weights: kinds orm, exact and rollouts, seeds 0, 1 and 2. `report` gives the values of all verifiers
at all chains, and what they select.

Every command has --out DIR (default: verifiers), where it leaves what it made; one that was killed
goes on when it is given again.

    generator/         the checkpoint, by the recipe benchmarks/verifiers/recipe.json
    chains/SPLIT/      traces of the method `sample`: equal chains stand once, with their number as
                       visits
    rollouts.jsonl     labels of chains/train (`guides.data.labels`)
    KIND-SEED/         a verifier, with its report.json on a tenth of the problems of chains/train
    values/            of each verifier at each chain of chains/validation and chains/test
    report.md
"""

from __future__ import annotations

import argparse
import contextlib
import logging
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sweep.plan import Task
from benchmarks.tasks import steps_right, target_of
from guides.data.grading import key_of
from search.files.atomic import atomic
from search.problem import Problem
from search.problems import chains
from search.solution import Solution
from search.solver import seed_of, solve_many
from search.trace import Trace, TraceWriter

log = logging.getLogger(f"copse.{__name__}")

RECIPE = Path(__file__).with_name("recipe.json")
#: the most that the generator is trained on; there its plans begin to lack what they need
OPERATIONS = 5
#: problems, and chains of each
SPLITS = {"train": (3_000, 8), "validation": (300, 64), "test": (1_000, 256)}


def problems_of(split: str, count: int, operations: int = OPERATIONS) -> list[Problem]:
    """`count` different problems of a split, always the same."""
    seed = 300 + list(SPLITS).index(split)
    return list(chains.generate(seed, count, operations, 2, split=split))


def task_of(problems: list[Problem]) -> Task:
    """The problems by their keys, with their answers."""
    keyed = dict(zip(map(key_of, problems), problems, strict=True))
    return Task(
        "verifiers",
        keyed,
        {key: str(target_of(problem)) for key, problem in keyed.items()},
        steps_right,
    )


def sample_chains(
    folder: Path,
    generator: Path,
    problems: list[Problem],
    count: int,
    temperature: float,
    slots: int = 256,
) -> None:
    """`count` chains of every problem that has no trace in `folder` yet, each problem from
    random numbers of its own.
    """
    import guides

    done = set(map(key_of, Trace.load(folder))) if folder.exists() else set()
    left = [problem for problem in problems if key_of(problem) not in done]
    guide = guides.load(generator, slots=slots, temperature=temperature)
    seeds = [seed_of(key_of(problem), 0) for problem in left]

    def finish(index: int, solution: Solution) -> None:
        if solution.error is not None:
            raise solution.error
        if solution.stopped != "interrupted" and solution.trace is not None:
            writer.write(solution.trace)

    with contextlib.closing(TraceWriter(folder)) as writer:
        budget = f"simulations={count}"
        solve_many(
            left,
            guide,
            "sample",
            budget,
            seeds,
            on_finish=finish,
            keep_trees=False,
            limit=64,
            chains=count,
            wave=32,
        )
    log.info(
        "%s: %d chains of each of %d problems, %d of them made now",
        folder,
        count,
        len(problems),
        len(left),
    )


def label_chains(out: Path, count: int = 8, slots: int = 256) -> None:
    """Label every step of chains/train by `count` roll-outs of the generator (Math-Shepherd,
    Wang et al. 2023).
    """
    from guides.data.label_traces import Labelling, label_traces
    from guides.policies.lm import LM

    traces, task = (
        Trace.load(out / "chains" / "train"),
        task_of(problems_of("train", SPLITS["train"][0])),
    )
    policy = LM(out / "generator", slots=slots)
    log.info(
        "%s",
        label_traces(traces, task.targets, out / "rollouts.jsonl", Labelling(count=count), policy),
    )


#: what the labels of each kind come from, as `guides.train_guide` takes it: the same chains,
#: equally many for each
KINDS: dict[str, dict[str, Any]] = {
    "orm": {"every_token": True},  # the outcomes, at each token (Cobbe et al. 2021)
    # no mistake so far (Lightman et al. 2023)
    "exact": {"checker": "benchmarks.tasks:state_right"},
    "rollouts": {"labels": "rollouts.jsonl"},
}
#: muon made the generator's weights
TRAINING = {"optimizer": "muon", "lr": 1e-3, "batch": 32, "epochs": 2}


def train_verifier(out: Path, kind: str, seed: int) -> Path:
    """A verifier of one kind, its weights those of the generator before, with the value loss
    alone.
    """
    from guides.training.train_guide import train_guide

    source = KINDS[kind].copy()
    if "labels" in source:
        source["labels"] = out / source["labels"]
    targets = task_of(problems_of("train", SPLITS["train"][0])).targets
    folder = out / f"{kind}-{seed}"
    return train_guide(
        out / "chains" / "train",
        targets,
        out / "generator",
        folder,
        TRAINING,
        policy="none",
        seed=seed,
        **source,
    )


def report(out: Path) -> str:
    """The table of all verifiers that are trained; it is in report.md, too. Raises ValueError
    where there is none.
    """
    from benchmarks.verifiers import judged

    folders = judged.complete(out, list(KINDS))
    if not folders:
        raise ValueError(
            f"no seed in {out} has a verifier of each kind that was begun: train one first"
        )
    checker = "benchmarks.tasks:state_right"
    pools: dict[str, judged.Pool] = {}
    values: dict[str, dict[str, np.ndarray]] = {}
    for split in ("validation", "test"):
        targets = task_of(problems_of(split, SPLITS[split][0])).targets
        held = judged.chains_of(
            out / "chains" / split,
            targets,
            out / "generator",
            checker,
            out / "values" / f"{split}.npz",
        )
        pools[split] = judged.Pool(held)
        kept = out / "values" / split
        values[split] = {}
        for kind, found in folders.items():
            tables = [judged.values_of(held, one, kept / f"{one.name}.npy") for one in found]
            values[split][kind] = np.array(tables)
    chosen, table = judged.choices(pools["validation"], values["validation"])
    text = judged.report(pools["test"], values["test"], chosen) + "\n" + table
    with atomic(out / "report.md") as part:
        part.write_text(text)
    return text


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["generator", "pool", "label", "train", "report"])
    parser.add_argument("--out", type=Path, default=Path("verifiers"))
    parser.add_argument("--split", choices=list(SPLITS), default="test")
    parser.add_argument("--problems", type=int, help="default: those of the split")
    parser.add_argument("--chains", type=int, help="default: those of the split")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--kind", choices=list(KINDS), default="exact")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from guides.builtin.train import train_builtin

    if args.command == "generator":
        train_builtin("small", args.out / "generator", recipe=RECIPE)
    elif args.command == "pool":
        problems, count = SPLITS[args.split]
        folder = args.out / "chains" / args.split
        wanted = problems_of(args.split, args.problems or problems)
        sample_chains(
            folder, args.out / "generator", wanted, args.chains or count, args.temperature
        )
    elif args.command == "label":
        label_chains(args.out)
    elif args.command == "train":
        train_verifier(args.out, args.kind, args.seed)
    else:
        log.info("\n%s", report(args.out))


if __name__ == "__main__":
    main()
