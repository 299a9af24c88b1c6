"""Reinforcement learning with verifiable rewards: sample, grade, learn, and again, each round from
the model that the last one left (on policy).

A run is a folder of `guides.iteration.rounds`; a round is

    round-07/       traces/ with the samples of its problems; examples.npz with their advantages;
                    credit.json, what was counted of rewards and groups; checkpoint/, the model;
                    learner/, its optimiser; gate.json at every so manieth round; round.json, last
    rounds.csv, rounds.html
                    a line a round, and the same as a page that renews itself
    best/           the checkpoint that was best at the gate

Of the checkpoints only the first, the best and the last two are kept, because a long run has many.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset

from guides.data.advantages import Credit
from guides.data.credit_examples import Creditor, useful
from guides.data.examples import ExampleFile
from guides.data.trace_rewards import Sources, check_reward, needs_targets
from guides.engines import locate
from guides.iteration.plan import SearchPlan
from guides.iteration.rl_numbers import numbers_of, write_rounds
from guides.iteration.rounds import Rounds, divided
from guides.iteration.run_folder import write_json
from guides.iteration.trackers import check_tracker, track
from guides.training.learner import Learner
from guides.training.options import Options, PolicyLoss, fine_tuning
from models.checkpoints.checkpoint import resolve, version
from models.checkpoints.head_layouts import OWN, head_layout
from search.files.problems_file import Job
from search.methods.presets import PRESETS
from search.scheduling.budget import Budget
from search.trace import Trace

log = logging.getLogger(f"copse.{__name__}")

#: of the learner, where the plan does not say: a constant learning rate after a few updates
TRAINING = {"warmup": 10, "precision": "float32", "batch": 16, "value_weight": 0.0}
VALUE_WEIGHT = 0.05  #: of a base that has a value head, so that the head follows the policy
#: of the training's options: they count passes through examples, and a round has its updates
NOT_OURS = ("epochs", "steps", "accumulation")
#: truncated sampling cannot be replayed by the trainer
TRUNCATION = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
#: options of method sample: eight samples, all of them, even where some are verified
GROUP = {"chains": 8, "wave": 8, "solutions": None}
#: KL of trainer and sampler, nats a token, from which on a run says so: rounding to bfloat16 makes
#: a thousandth
APART = 0.01
SAME = 5  #: rounds in succession without anything to learn from that end a run


@dataclass(frozen=True)
class RLPlan(SearchPlan):
    """What every round of reinforcement learning does.

    reward       where outcomes come from (`guides.data.outcomes`), by name
    verifier     folder of the model that the reward "verifier" asks
    credit       options of `guides.data.advantages.Credit`
    loss         options of `guides.training.options.PolicyLoss`; the temperature is that of the
                 samples
    reference    checkpoint that the KL is to; None: that which the run began with
    updates      of a round, each from its share of the samples; 1 is on policy
    stale        earlier rounds whose samples are learnt from as well
    refill       how many times `per_round` problems are searched at most, until `per_round` of them
                 are useful: neither all right nor all wrong
    gate_every   rounds from one gate to the next
    gate_options of the search at the gate; None: those of the rounds, but one chain a problem
                 where chains are sampled, so that its accuracy is pass@1
    track        who else is told the numbers of each round (`guides.iteration.trackers`); None:
                 nobody

    Raises ValueError for values that are none of these, and for truncated sampling.
    """

    options: Mapping[str, Any] = field(default_factory=lambda: dict(GROUP))
    budget: Budget | None = Budget(tokens=20_000)
    per_round: int | None = 32
    reward: str = "outcome"
    verifier: str | None = None
    loss: Mapping[str, Any] = field(default_factory=dict)
    credit: Mapping[str, Any] = field(default_factory=dict)
    reference: str | None = None
    updates: int = 1
    stale: int = 0
    refill: int = 3
    gate_every: int = 10
    gate_options: Mapping[str, Any] | None = None
    track: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "language", {"temperature": 1.0, **self.language})
        super().__post_init__()
        if self.temperature <= 0:
            raise ValueError(
                "at temperature 0 all samples are the same, and nothing is learnt from comparing "
                "them: give a temperature above 0, such as 1"
            )
        for name in NOT_OURS:
            if self.training.get(name, 1) != 1:
                raise ValueError(
                    f"a round is learnt from in `updates`, so {name} says nothing: leave it out"
                )
        credit = Credit(**self.credit)
        preset = PRESETS.get(self.method)
        if preset is not None and preset.search != "sample" and credit.searched == "refuse":
            raise ValueError(
                f"what {self.method} finds are no samples of the policy: learn from method sample, "
                "or weigh its chains with the credit searched=weigh"
            )
        check_reward(self.reward, self.verifier)
        check_tracker(self.track)
        self.learning  # noqa: B018, what is wrong with the options is said here
        least = {"updates": 1, "stale": 0, "refill": 1, "gate_every": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} is a whole number from {smallest} on: correct it")
        for name, whole in TRUNCATION.items():
            if self.language.get(name, whole) != whole:
                raise ValueError(
                    f"{name} cuts off a part of the distribution, and the trainer sees it whole: "
                    f"leave {name} out"
                )

    @property
    def at_gate(self) -> Mapping[str, Any]:
        if self.gate_options is not None:
            return self.gate_options
        if self.method in PRESETS and PRESETS[self.method].search == "sample":
            return {**self.options, "chains": 1, "wave": 1}
        return self.options

    @property
    def learning(self) -> Options:
        """The options of the learner."""
        policy = PolicyLoss(**self.loss, temperature=self.temperature)
        return fine_tuning(**{**TRAINING, "seed": self.seed, **self.training, "policy": policy})

    @property
    def temperature(self) -> float:
        """Of the samples."""
        return float(self.language["temperature"])


def reinforce(
    base: str | Path,
    jobs: Sequence[Job],
    targets: Mapping[str, str],
    out: str | Path,
    *,
    rounds: int,
    gate: Sequence[Job] | None = None,
    plan: RLPlan | None = None,
) -> Path:
    """Run or go on with `rounds` rounds in the folder `out`; the path of the best checkpoint,
    `out/best`.

    base, targets, gate  as in `guides.iteration.expert_iteration.expert_iteration`; a reward that
                         asks for no label needs targets at the gate alone

    Raises ValueError for bad input before any model is loaded, where no group of `SAME` rounds in
    succession had anything to learn from, and where a gradient is not finite; what was finished is
    kept, and the same call goes on with it.
    """
    plan = plan or RLPlan()
    if head_layout(resolve(locate(base))) == OWN:
        plan = replace(plan, training={"value_weight": VALUE_WEIGHT, **plan.training})
    labelled = needs_targets(plan.reward)
    jobs, gate = divided(base, jobs, gate, targets, rounds, labelled=labelled)
    return _Run(Path(out), jobs, gate, targets, plan).run(base, rounds)


@dataclass(frozen=True)
class _Run(Rounds[RLPlan]):
    #: the learner, and the round that it has learnt up to
    _kept: list[tuple[int, Learner]] = field(default_factory=list, repr=False)

    @property
    def steps(self) -> dict[str, Callable[[int], None]]:
        return {
            "traces": self._sample,
            "examples.npz": self._credit,
            "checkpoint": self._learn,
            "gate.json": self._gate_if_due,
            "round.json": self._close,
        }

    def ledger(self, last: int) -> str:
        return write_rounds(self.out, last)

    def finish(self, rounds: int) -> None:
        """The gate of the last round, where it was none of the gate."""
        folder = self.folder(rounds)
        if not (folder / "gate.json").exists():
            self.gate(rounds)
            write_json(folder / "round.json", numbers_of(folder, rounds))
            self.publish(rounds)

    def _previous(self, number: int) -> Path:
        """The checkpoint that the round before left."""
        return self.folder(number - 1) / "checkpoint"

    # -- the parts of a round

    def _sample(self, number: int) -> None:
        """traces/: samples of the next problems, and of more where too few groups are useful."""
        size = min(self.plan.per_round or len(self.jobs), len(self.jobs))
        most = min(size * self.plan.refill, len(self.jobs))
        upcoming = self._upcoming(number, most)
        creditor = self._creditor(number)

        def more(searched: Sequence[Job], traces: Sequence[Trace]) -> Sequence[Job]:
            _, groups, _ = creditor.groups(traces)
            found = useful(groups)
            if found >= size:
                return []
            # as many as bring what is missing, if the next ones are like these
            rate = max(found, 1) / len(searched)
            count = math.ceil((size - found) / rate)
            return upcoming[len(searched) : len(searched) + count]

        start = time.monotonic()
        self.search(number, self._previous(number), upcoming[:size], more=more)
        write_json(self.folder(number) / "sampling.json", {"seconds": time.monotonic() - start})

    def _credit(self, number: int) -> None:
        """examples.npz, and what was counted in credit.json."""
        folder = self.folder(number)
        part = folder / "examples.part.npz"
        traces = Trace.load(folder / "traces")
        report = self._creditor(number).write(traces, part, self.plan.seed + number)
        # what a round skipped, because it had had it, is passed over
        report["next"] = self._position(number) + len(traces)
        write_json(folder / "credit.json", report)
        os.replace(part, folder / "examples.npz")

    def _learn(self, number: int) -> None:
        """checkpoint/, the model after the updates of the round, and learner/, with which the
        next round goes on.
        """
        self._check_useful(number)
        folder = self.folder(number)
        window = range(max(1, number - self.plan.stale), number + 1)
        files = [ExampleFile(self.folder(i) / "examples.npz") for i in window]
        files = [file for file in files if len(file)]
        start = time.monotonic()
        learner = self._learner(number)
        update = learner.nothing
        if files:
            update = learner.update(
                ConcatDataset(files), self.plan.updates, self.plan.seed + number
            )
        seconds = time.monotonic() - start
        if update.sampler_kl > APART and not self.plan.stale:
            log.warning(
                "round %d: trainer and sampler are %.2g nats a token apart on the same tokens, and "
                "%.2g at most: what is learnt is not what was sampled. Sample with --dtype float32",
                number,
                update.sampler_kl,
                update.sampler_gap,
            )
        state = folder / "learner"
        checkpoint = folder / "checkpoint.part"
        for left in (state, checkpoint):  # by a kill
            shutil.rmtree(left, ignore_errors=True)
        learner.save_state(state)
        learner.save(checkpoint, **update._asdict(), seconds=seconds)
        os.replace(checkpoint, folder / "checkpoint")
        learner.version = version(folder / "checkpoint")
        self._kept[:] = [(number, learner)]

    def _gate_if_due(self, number: int) -> None:
        if number % self.plan.gate_every == 0:
            self.gate(number)

    def _close(self, number: int) -> None:
        """round.json: the numbers of the round; then what nobody needs any more is removed."""
        numbers = numbers_of(self.folder(number), number)
        if self.plan.track is not None:
            track(self.plan.track, self.out, numbers)
        write_json(self.folder(number) / "round.json", numbers)
        needed = (0, number, int(self.accepted(number + 1).parent.name.partition("-")[2]))
        for earlier in range(1, number):
            folder = self.folder(earlier)
            shutil.rmtree(folder / "learner", ignore_errors=True)
            if earlier not in needed:
                shutil.rmtree(folder / "checkpoint", ignore_errors=True)
            if earlier <= number - self.plan.stale:
                (folder / "examples.npz").unlink(missing_ok=True)

    # -- what the parts need

    def _creditor(self, number: int) -> Creditor:
        plan = self.plan
        sources = Sources(self.targets, plan.verifier, plan.seed + number)
        return Creditor(self._previous(number), Credit(**plan.credit), plan.reward, sources)

    def _learner(self, number: int) -> Learner:
        """That which the round before left, from this process or from its folder."""
        if self._kept and self._kept[0][0] == number - 1:
            return self._kept[0][1]
        return Learner(
            self._previous(number),
            self.plan.learning,
            state=self.folder(number - 1) / "learner",
            reference=self.plan.reference or self.folder(0) / "checkpoint",
        )

    def _position(self, number: int) -> int:
        """How many problems the rounds before have searched."""
        if number == 1:
            return 0
        return int(json.loads((self.folder(number - 1) / "credit.json").read_text())["next"])

    def _upcoming(self, number: int, count: int) -> list[Job]:
        """The next problems, of a list that stands in a new order each time it has been gone
        through; each once.
        """
        position = self._position(number)
        size = len(self.jobs)
        found: dict[int, Job] = {}
        while len(found) < count:
            turn, place = divmod(position, size)
            index = int(np.random.default_rng((self.plan.seed, turn)).permutation(size)[place])
            found.setdefault(index, self.jobs[index])
            position += 1
        return list(found.values())

    def _check_useful(self, number: int) -> None:
        """Raises ValueError where there was nothing to learn from in `SAME` rounds in
        succession.
        """
        last = range(max(1, number - SAME + 1), number + 1)
        reports = [json.loads((self.folder(i) / "credit.json").read_text()) for i in last]
        if len(reports) < SAME or any(report["examples"] for report in reports):
            return
        raise ValueError(
            f"in {SAME} rounds the samples of no problem differed in their reward (mean "
            f"{reports[-1]['reward']:.2f}): give easier or harder problems, more chains a problem, "
            "or another reward; the last round is kept"
        )
