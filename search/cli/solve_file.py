"""`copse solve --input`: a file of problems, its result lines, and the summary in the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.cli.options import Model
from search.cli.terminal import say
from search.imports import import_ours

if TYPE_CHECKING:
    from search.files.partition import Shard
    from search.files.problems_file import Job, Results
    from search.guide import Guide
    from search.trace import TraceWriter

OK = 0  # exit codes
NONE = 1
INTERRUPTED = 130
_AGAIN = "give the same command again"


def solve_file(
    input: Path,
    output: Path | None,
    model: Model,
    arguments: dict[str, Any],
    writer: TraceWriter | None,
    usage: bool,
    time_limit: float | None,
    shard: Shard,
    workers: int | None,
) -> int:
    """Solve what is not done in `output` yet, here or on so many workers of a Ray cluster; the exit
    code speaks of all problems of the shard.

    Raises ValueError that names the line for a problem or a target that is wrong, before any
    search.
    """
    import search
    from search.cluster import solve_on_ray
    from search.files.problems_file import Finisher, Results, read_jobs
    from search.solver import seed_of

    jobs = shard.of(read_jobs(input, model.answer, model.check))
    _targets(input)  # raises for what is wrong with them, and not after hours of searches
    results = Results(output)
    waiting = [job for job in jobs if not results.done(job.id)]
    left: list[Job] = []
    limited = False
    if waiting:
        guide = model.load()
        settings = {**arguments, **model.language, "guide": guide.version}
        finisher = Finisher(waiting, results, writer, settings)
        seeds = [seed_of(str(job.id), arguments["seed"]) for job in waiting]
        problems = [job.problem for job in waiting]
        own = {name: value for name, value in arguments.items() if name != "seed"}
        with suppress(KeyboardInterrupt):  # a second Ctrl-C, or one after the last search
            if workers is not None:
                solve_on_ray(problems, model.load, seeds, workers, finisher, **own)
            else:
                solutions = search.solve_many(
                    problems,
                    guide,
                    seed=seeds,
                    on_finish=finisher,
                    keep_trees=False,
                    time_limit=time_limit,
                    **own,
                )
                limited = any(solution.stopped == "time_limit" for solution in solutions)
        left = [job for job in waiting if str(job.id) not in finisher.written]
        if usage:
            show_usage(guide)
    results.close()
    done = _Summary(jobs, results, left, limited)
    before = len(jobs) - len(waiting)
    say(f"{done.count()}{_score(input, jobs, results)}{done.rest(before)}", err=True)
    if left and not limited:
        return INTERRUPTED
    return OK if done.good == len(jobs) else NONE


class _Summary:
    """What is reported of all problems of a shard in the end.

    left     whose search has not ended;  limited: because of --time-limit
    """

    def __init__(self, jobs: Sequence[Job], results: Results, left: Sequence[Job], limited: bool):
        self._jobs = jobs
        self._left = left
        self._limited = limited
        unfinished = {str(job.id) for job in left}
        self.good = 0  # problems that are answered
        self._errors: list[str] = []
        for job in jobs:
            reported = results.reported.get(str(job.id))
            if reported is None:
                continue
            self.good += reported.good
            if reported.error is not None and str(job.id) not in unfinished:
                self._errors.append(reported.error)

    def count(self) -> str:
        """What stands before the score."""
        return f"{self.good} of {len(self._jobs)} problems answered"

    def rest(self, before: int) -> str:
        """What stands behind the score. before: problems that an earlier run has searched."""
        text = f", {before} had been searched before" if before else ""
        if self._errors:
            text += (
                f"; {len(self._errors)} failed, the last with {self._errors[-1]}: {_AGAIN} to "
                "search them again"
            )
        if self._left:
            how = "not done within --time-limit" if self._limited else "interrupted"
            text += f"; {len(self._left)} {how}: {_AGAIN} to go on"
        return text


def _targets(input: Path) -> dict[str, str] | None:
    """The targets of the file, None where it has none. Raises ValueError as
    `guides.data.grading.read_targets` does.
    """
    if b'"target"' not in input.read_bytes():
        return None
    targets: dict[str, str] = import_ours("guides.data.grading").read_targets(input)
    return targets


def _score(input: Path, jobs: Sequence[Job], results: Results) -> str:
    """How many answers are right, in words; "" where the file has no targets.

    No search knows of a label: they are looked up here, when all have ended.
    """
    try:
        targets = _targets(input)
    except (OSError, ValueError) as error:  # the file was changed or removed meanwhile
        return f" (no score: {error})"
    if targets is None:
        return ""
    grade = import_ours("guides.data.grading")
    outcomes = []
    for job in jobs:
        reported = results.reported.get(str(job.id))
        target = None
        if hasattr(job.problem, "to_json"):
            target = targets.get(grade.key_of(job.problem))
        if reported is not None and reported.verified is not None:
            outcomes.append(float(reported.verified))
        elif target is not None:
            answer = None if reported is None else reported.answer
            outcomes.append(grade.outcome(answer, target))
    undecided = sum(map(math.isnan, outcomes))
    score = f", {outcomes.count(1.0)} right"
    if len(outcomes) < len(jobs):
        score += f" of {len(outcomes)} with targets"
    if undecided:
        score += f", {undecided} undecided"
    return score


def show_usage(guide: Guide) -> None:
    """What the engines of a guide say of themselves; servers and workers say nothing."""
    for backend in {id(b): b for b in guide.backends.values()}.values():
        if hasattr(backend, "report"):
            say(backend.report(), err=True)
