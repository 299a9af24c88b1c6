"""The arms of `benchmarks.learning.compare`: ways to learn, by name and options.

* `rl`: as `copse train rl`. Options: credit (the method of the advantages), divisor, kl, region,
  reward, verifier, chains, per_round, updates, lr
* `star`, `rest`, `rest_em`, `best_of_n`, `vstar`, `self_training`: as `copse train iterate`.
  Options: chains, per_round, keep, window, policy, reward, lr, epochs, batch
* controls of an arm before them that is one of these. Options: of (that arm with its options, _ for
  a space; by default rest_em), lr. Each trains the start with the options of the arm's last round,
  on as many tokens:
  `unfiltered` on the samples of that round, right and wrong; `expert` on the generator's solutions
  of the problems that it solved; `paths` on the generator's solutions of problems that no arm has
  seen; `dpo` on pairs of right and wrong chains of the round, `step_dpo` on pairs of its steps,
  both with lr=1e-5 where nothing else is said; `streams` on streams that are made of the samples.
  Its further options are checker and those of `guides.data.streams.Streaming`

All but controls take problems (how many of the file there are) and flops (in place of those of all
arms). The controls `expert` and `paths` are for chains and word problems alone.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoTokenizer

from benchmarks.sweep.plan import read_method
from guides.builtin import chains_data, words_data
from guides.builtin.train import encode
from guides.data.examples import ExampleFile, Segment, write_examples
from guides.data.grading import grade, key_of
from guides.data.prepare import prepare
from guides.data.streams import Streaming
from guides.engines import locate
from guides.iteration.algorithms import ALGORITHMS, plan_of
from guides.iteration.expert_iteration import expert_iteration
from guides.iteration.rl import RLPlan, reinforce
from guides.iteration.run_folder import write_json
from guides.training.train_guide import run_training, train_guide
from models.checkpoints.checkpoint import describe, resolve
from search.files.problems_file import Job
from search.problem import Problem
from search.problems import chains, words
from search.problems.chains import Chains
from search.problems.words import Words
from search.scheduling.budget import Budget
from search.trace import Trace

#: options that are fields of both kinds of plans
IN_PLANS = ("per_round", "reward", "verifier")
BUDGET = Budget(tokens=20_000)  #: of the samples of a problem
#: of the learner; a small model wants a larger learning rate than `fine_tuning` has
RL_TRAINING = {"lr": 2e-4, "value_weight": 0.05}
#: without the value head, for which all samples would be read and not the right ones alone
IMITATION = {"lr": 3e-4, "epochs": 2.0, "batch": 16, "value_weight": 0.0, "precision": "float32"}
#: of pairs: with the learning rate of imitation the model unlearns to write chains
PREFERENCES = {"lr": 1e-5}
ROUNDS = 1000  #: more than any run gets to
PATHS_SEED = 1_000_003  #: of problems that no file of `benchmarks.tasks` has


class Spent(NamedTuple):
    """What a training cost: tokens generated (gates included), tokens read in training, FLOPs of
    all, seconds, rounds; and the mean reward of the samples of its first and its last round, by
    whoever gives the reward, nan where none is told.
    """

    generated: float
    read: float
    flops: float
    seconds: float
    rounds: int
    first_reward: float = math.nan
    last_reward: float = math.nan


@dataclass(frozen=True)
class Data:
    """What all arms have in common: the start, problems to train on and of the gate with their
    targets by key, the slots of the engine, and the FLOPs of each arm.
    """

    start: str
    jobs: Sequence[Job]
    gate: Sequence[Job]
    targets: Mapping[str, str]
    slots: int
    flops: float


@dataclass(frozen=True)
class Arm:
    """An arm as `text` says it: its name and its options."""

    text: str
    name: str
    options: Mapping[str, Any]

    @property
    def folder(self) -> str:
        return self.text.replace(" ", "_").replace("/", "-")

    def train(self, data: Data, seed: int, out: Path, root: Path) -> tuple[Path, Spent]:
        """The last checkpoint, from the folder `out` where it was trained already; root: of all
        arms.
        """
        options = dict(self.options)
        if self.name in (STREAMS, *CONTROLS):
            followed = root / str(options.pop("of", "rest_em")) / out.name
            return _control(self.name, data, seed, followed, out, options)
        limit = float(options.pop("flops", data.flops))
        count = int(options.pop("problems", len(data.jobs)))
        data = replace(data, jobs=data.jobs[:count])
        run = _reinforced if self.name == "rl" else _iterated(self.name)
        spent = Spent(0, 0, 0.0, 0.0, 0)
        for rounds in range(1, ROUNDS):
            run(data, seed, out / "run", rounds, dict(options))
            last = spent.flops
            spent = _spent(out / "run", rounds)
            if spent.flops + (spent.flops - last) / 2 > limit:
                break
        return out / "run" / f"round-{spent.rounds:02d}" / "checkpoint", spent


def read_arms(text: str) -> list[Arm]:
    """Arms between commas. Raises ValueError for what is none, before any work."""
    arms = []
    for part in text.split(","):
        name, options = read_method(part.strip())
        if name not in ("rl", STREAMS, *CONTROLS, *ALGORITHMS):
            known = ", ".join(("rl", *ALGORITHMS, *CONTROLS, STREAMS))
            raise ValueError(f"there is no arm {name!r}: choose among {known}")
        allowed = _allowed(name)
        for option in options:
            if option not in allowed:
                raise ValueError(
                    f"the arm {name} has no option {option!r}: it has {', '.join(allowed)}"
                )
        arms.append(Arm(part.strip(), name, options))
    return arms


def _allowed(name: str) -> tuple[str, ...]:
    """The options of an arm."""
    if name in CONTROLS:
        return ("of", "lr")
    if name == STREAMS:
        return ("of", "lr", "checker", *STREAMING)
    both = ("problems", "flops", "chains", "lr", *IN_PLANS)
    if name == "rl":
        return (*both, "credit", "divisor", "kl", "region", "updates", "refill", "stale")
    return (*both, "keep", "window", "policy", "epochs", "batch")


def _taken(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """The options of these names, taken out of the others."""
    return {name: options.pop(name) for name in names if name in options}


def _reinforced(data: Data, seed: int, out: Path, rounds: int, options: dict[str, Any]) -> None:
    chains = int(options.pop("chains", 16))
    loss = _taken(options, "kl", "region")
    training = {**RL_TRAINING, **_taken(options, "lr")}
    credit = {"method": options.pop("credit", "group"), **_taken(options, "divisor")}
    plan = RLPlan(
        options={"chains": chains, "wave": chains, "solutions": None},
        budget=BUDGET,
        engine={"slots": data.slots},
        training=training,
        loss=loss,
        credit=credit,
        seed=seed,
        **{"per_round": 32, "refill": 2, "updates": 4, "gate_every": ROUNDS, **options},
    )
    reinforce(data.start, data.jobs, data.targets, out, rounds=rounds, gate=data.gate, plan=plan)


def _iterated(name: str) -> Callable[[Data, int, Path, int, dict[str, Any]], None]:
    def run(data: Data, seed: int, out: Path, rounds: int, options: dict[str, Any]) -> None:
        method = {}
        if "chains" in options:
            chains = int(options.pop("chains"))
            method = {"chains": chains, "wave": chains}
        training = {**IMITATION, **_taken(options, "lr", "epochs", "batch")}
        more: dict[str, Any] = {"hint": None} if name == "star" else {}
        plan = plan_of(
            name,
            options=method,
            budget=BUDGET,
            gate_budget=Budget(simulations=1),  # one chain, as the gate of rl
            engine={"slots": data.slots},
            language={"temperature": 1.0},
            training=training,
            seed=seed,
            **{**more, **options},
        )
        expert_iteration(
            data.start, data.jobs, data.targets, out, rounds=rounds, gate=data.gate, plan=plan
        )

    return run


def _spent(run: Path, rounds: int) -> Spent:
    """What a run of so many rounds cost, from its table."""
    rows = _rows(run, rounds)
    generated = _sum(run, rounds, "search_tokens", "gate_tokens")
    read = _sum(run, rounds, "training_tokens")
    first = float(rows[1].get("reward", math.nan))
    last = float(rows[-1].get("reward", math.nan))
    return Spent(generated, read, float(rows[-1]["total_flops"]), 0.0, rounds, first, last)


def _rows(run: Path, rounds: int) -> list[dict[str, str]]:
    with (run / "rounds.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if int(float(row["round"])) <= rounds]


def _sum(run: Path, rounds: int, *columns: str) -> float:
    total = 0.0
    for row in _rows(run, rounds):
        for column in columns:
            total += float(row[column] if row[column] not in ("", "nan") else 0)
    return total


# -- controls


def _control(
    name: str, data: Data, seed: int, followed: Path, out: Path, chosen: Mapping[str, Any]
) -> tuple[Path, Spent]:
    """The start, trained as the last round of the run that is followed, on other examples."""
    last = max((followed / "run").glob("round-*/checkpoint"), default=None)
    if last is None or not (followed / "seconds.json").exists():
        raise ValueError(f"{followed} holds no run to follow: put its arm before {name}")
    told = json.loads(last.with_name("training.json").read_text())
    own = _tokens(Path(told["examples"][0]))
    examples = (out / "examples.npz").resolve()
    generated = 0.0
    flops = 0.0
    chosen = dict(chosen)
    learnt = {**_taken(chosen, "checker"), "seed": seed}
    if name == STREAMS:
        learnt["streams"] = Streaming(**_taken(chosen, *STREAMING))
    if not examples.exists() and name == STREAMS:
        prepare(last.parent / "traces", data.targets, data.start, examples, **learnt)
    elif not examples.exists():
        CONTROLS[name](data, last.parent, own, seed, examples)
    if name != "paths":  # the others need the samples
        rounds = int(last.parent.name[-2:])
        generated = _spent(followed / "run", rounds).generated
        flops = _sum(followed / "run", rounds, "search_flops", "gate_flops")
    options = {**told["options"], **(PREFERENCES if name in PAIRED else {}), **chosen}
    options["epochs"] = float(options["epochs"]) * own / _tokens(examples)
    model = out / "model"
    if name == STREAMS:
        traces = last.parent / "traces"
        train_guide(traces, data.targets, data.start, model, options, held_out=0, **learnt)
    elif not (model / "training.json").exists():
        config = out / "model.json"
        content = {
            "model": str(resolve(locate(data.start)).resolve()),
            "examples": [str(examples)],
            "out": str(model.resolve()),
            "options": options,
        }
        write_json(config, content)
        run_training(config)
    report = json.loads((model / "training.json").read_text())
    return model, Spent(generated, report["tokens"], flops + report["flops"], 0.0, 1)


def _tokens(path: Path) -> int:
    return sum(len(row["tokens"]) for row in ExampleFile(path))


def _unfiltered(data: Data, last: Path, tokens: int, seed: int, out: Path) -> None:
    """All samples of the round."""
    del tokens
    prepare(last / "traces", data.targets, data.start, out, policy="all", judged=False, seed=seed)


def _pairs(kind: str) -> Callable[[Data, Path, int, int, Path], None]:
    def write(data: Data, last: Path, tokens: int, seed: int, out: Path) -> None:
        """Pairs of the round's samples."""
        del tokens
        prepare(
            last / "traces",
            data.targets,
            data.start,
            out,
            policy="none",
            pairs={"kind": kind},
            judged=False,
            seed=seed,
        )

    return write


def _expert(data: Data, last: Path, tokens: int, seed: int, out: Path) -> None:
    """The generator's solution of each problem of the round that was solved."""
    answer = describe(resolve(locate(data.start))).get("answer")
    solved = []
    for trace in Trace.load(last / "traces"):
        right = grade(trace, data.targets.get(key_of(trace)), answer) == 1.0
        if right.any():
            solved.append(trace.problem())
    _write(data, solved, tokens, seed, out)


def _paths(data: Data, last: Path, tokens: int, seed: int, out: Path) -> None:
    """The generator's solutions of new problems of the same size."""
    del last
    problem = data.jobs[0].problem
    make = chains.generate if isinstance(problem, Chains) else words.generate
    seen = {key_of(job.problem) for job in (*data.jobs, *data.gate)}
    fresh = make(PATHS_SEED + seed, sys.maxsize, len(problem.needed()), 2, split="train")
    _write(data, (one for one in fresh if key_of(one) not in seen), tokens, seed, out)


def _write(
    data: Data, problems: Sequence[Problem] | Iterator[Problem], tokens: int, seed: int, out: Path
) -> None:
    """Examples of the generator's solutions, up to as many tokens."""
    tokenizer = AutoTokenizer.from_pretrained(resolve(locate(data.start)))
    examples: list[list[Segment]] = []
    count = 0
    for problem in problems:
        [example] = encode(tokenizer, iter([_solution(problem)]))
        count += sum(len(segment.tokens) for segment in example)
        if count > tokens:
            break
        examples.append(example)
    write_examples(out, examples, seed=seed)


def _solution(problem: Problem) -> list[tuple[str, float, float, int]]:
    """The generator's solution as segments: text, weight, value, parent."""
    data = words_data if isinstance(problem, Words) else chains_data
    lines = data.solution(problem)
    found = [(problem.prompt(problem.initial()) + "\n", 0.0, 1.0, -1)]
    for place, line in enumerate(lines):
        found.append((line + "\n", 1.0, 1.0, place))
    return found


PAIRED = ("dpo", "step_dpo")
STREAMS = "streams"
#: options of the arm `streams`
STREAMING = tuple(one.name for one in fields(Streaming) if one.name != "moves")
CONTROLS: Mapping[str, Callable[[Data, Path, int, int, Path], None]] = {
    "unfiltered": _unfiltered,
    "expert": _expert,
    "paths": _paths,
    "dpo": _pairs("chains"),
    "step_dpo": _pairs("steps"),
}
