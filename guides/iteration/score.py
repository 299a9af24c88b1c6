"""SCoRe: learning to correct oneself by reinforcement learning of two attempts (Kumar et al. 2024,
"Training Language Models to Self-Correct via Reinforcement Learning").

Two runs of `guides.iteration.rl` in one folder, on streams of two attempts between which the search
writes the move `again`:

    first/   stage 1: the second attempt is rewarded, and the first held to the base by a KL
    second/  stage 2: both are rewarded, and the second gets a bonus for what it gains over the
             first, with a small KL to the base

Without stage 1 a model learns to answer as well as it can at once, and to copy that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from guides.engines import locate
from guides.iteration.rl import RLPlan, reinforce
from guides.iteration.rounds import divided
from guides.policies.lm import MAX_STEPS
from models.checkpoints.checkpoint import describe, resolve
from search.files.problems_file import Job
from search.problems.stream import Moves


@dataclass(frozen=True)
class ScorePlan:
    """What both stages do.

    rl       of both; its credit and the KL of its loss are those of the stages
    again    the line between the attempts
    hold     weight of the KL in stage 1, of the first attempt (beta 2 of the paper)
    kl       weight of the KL in stage 2, of both (beta 1)
    bonus    of the second attempt in stage 2 (alpha)

    Raises ValueError for weights below 0, and for a line that is none.
    """

    rl: RLPlan = field(default_factory=RLPlan)
    again: str = "Try again."
    hold: float = 0.1
    kl: float = 0.01
    bonus: float = 10.0

    def __post_init__(self) -> None:
        if self.rl.credit or "kl" in self.rl.loss:
            raise ValueError(
                "credit and KL are those of the two stages: leave them out, and give hold, kl and "
                "bonus"
            )
        self.stages  # noqa: B018, what is wrong with the values is said here

    @property
    def stages(self) -> tuple[RLPlan, RLPlan]:
        """The plans of the two runs; the second has no reference yet."""
        # no checks: a verifier that ended a stream would tell which first attempts are right
        moves = Moves(again=self.again, back=None, check=None)
        rules = {"moves": asdict(moves), "attempts": 2, "insist": True}
        language = {**self.rl.language, "stream": rules}
        credit = {"method": "attempts", "bonus": 0.0, "first": 0.0, "held": "first"}
        first = replace(
            self.rl, language=language, credit=credit, loss={**self.rl.loss, "kl": self.hold}
        )
        credit = {"method": "attempts", "bonus": self.bonus, "first": 1.0}
        second = replace(first, credit=credit, loss={**self.rl.loss, "kl": self.kl})
        return first, second


def score(
    base: str | Path,
    jobs: Sequence[Job],
    targets: Mapping[str, str],
    out: str | Path,
    *,
    rounds: tuple[int, int],
    gate: Sequence[Job] | None = None,
    plan: ScorePlan | None = None,
) -> Path:
    """Run or go on with both stages, of so many `rounds`, in the folder `out`; the path of the best
    checkpoint of the second. A stage of 0 rounds is left out.

    base, targets, gate  as in `guides.iteration.rl.reinforce`, whose errors it raises
    """
    out = Path(out)
    plan = plan or ScorePlan()
    if min(rounds) < 0 or not rounds[1]:
        raise ValueError(
            f"rounds={rounds} of the two stages: give at least 0 of the first and 1 of the second"
        )
    jobs, held = divided(base, jobs, gate, targets, sum(rounds))  # one hold-out for both
    folder = resolve(locate(base)).resolve()
    first, second = (_with_room(stage, folder) for stage in plan.stages)
    start: str | Path = base
    if rounds[0]:
        reinforce(base, jobs, targets, out / "first", rounds=rounds[0], gate=held, plan=first)
        start = out / "first" / f"round-{rounds[0]:02d}" / "checkpoint"
    second = replace(second, reference=str(folder))
    return reinforce(start, jobs, targets, out / "second", rounds=rounds[1], gate=held, plan=second)


def _with_room(plan: RLPlan, folder: Path) -> RLPlan:
    """A plan whose chains have room for both attempts, where it does not say how long they are."""
    if "max_steps" in plan.language:
        return plan
    lines = describe(folder).get("max_steps") or MAX_STEPS
    return replace(plan, language={**plan.language, "max_steps": 2 * lines + 1})
