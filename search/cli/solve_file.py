"""`copse solve --input`: a file of problems, its result lines, and the summary in the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from search.cli.options import Model
from search.imports import import_ours

if TYPE_CHECKING:
    from search.files.problems_file import Job, Known, Results
    from search.guide import Guide
    from search.trace import TraceWriter

OK, NONE, INTERRUPTED = 0, 1, 130  # exit codes
_AGAIN = "give the same command again"


def solve_file(
    input: Path,
    output: Path | None,
    model: Model,
    arguments: dict[str, Any],
    writer: TraceWriter | None,
    usage: bool,
    time_limit: float | None,
) -> int:
    """Solve what is not done in `output` yet; the exit code speaks of all problems of the file.

    Raises ValueError that names the line for a problem or a target that is wrong, before any
    search.
    """
    import search
    from search.files.problems_file import Finisher, Results, read_jobs
    from search.solver import seed_of

    jobs = read_jobs(input, model.answer, model.check)
    _targets(input)  # what is wrong with them is told now, and not after hours of searches
    results = Results(output)
    waiting = [job for job in jobs if not results.done(job.id)]
    left: list[Job] = []
    limited = False
    if waiting:
        guide = model.load()
        settings = {**arguments, **model.language, "guide": guide.version}
        finisher = Finisher(waiting, results, writer, settings)
        seeds = [seed_of(str(job.id), arguments["seed"]) for job in waiting]
        with suppress(KeyboardInterrupt):  # a second Ctrl-C, or one after the last search
            solutions = search.solve_many(
                [job.problem for job in waiting],
                guide,
                on_finish=finisher,
                keep_trees=False,
                time_limit=time_limit,
                **{**arguments, "seed": seeds},
            )
            limited = any(solution.stopped == "time_limit" for solution in solutions)
        left = [job for job in waiting if str(job.id) not in finisher.written]
        if usage:
            show_usage(guide)
    results.close()
    summary = _summary(jobs, results, len(jobs) - len(waiting), left, limited)
    typer.echo(f"{summary[0]}{_score(input, jobs, results)}{summary[1]}", err=True)
    if left and not limited:
        return INTERRUPTED
    good = sum(known.good for known in _known(jobs, results))
    return OK if good == len(jobs) else NONE


def _known(jobs: Sequence[Job], results: Results) -> list[Known]:
    return [results.known[str(job.id)] for job in jobs if str(job.id) in results.known]


def _summary(
    jobs: Sequence[Job], results: Results, before: int, left: Sequence[Job], limited: bool
) -> tuple[str, str]:
    """What stands before and behind the score."""
    good = sum(known.good for known in _known(jobs, results))
    rest = f", {before} had been searched before" if before else ""
    unfinished = {str(job.id) for job in left}
    ended = [job for job in jobs if str(job.id) not in unfinished]
    errors = [known.error for known in _known(ended, results) if known.error is not None]
    if errors:
        rest += f"; {len(errors)} failed, the last with {errors[-1]}: {_AGAIN} to search them again"
    if left:
        how = "not done within --time-limit" if limited else "interrupted"
        rest += f"; {len(left)} {how}: {_AGAIN} to go on"
    return f"{good} of {len(jobs)} problems answered", rest


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
        known = results.known.get(str(job.id))
        named = hasattr(job.problem, "to_json")
        target = targets.get(grade.key_of(job.problem)) if named else None
        if known is not None and known.verified is not None:
            outcomes.append(float(known.verified))
        elif target is not None:
            answer = None if known is None else known.answer
            outcomes.append(grade.outcome(answer, target))
    undecided = sum(map(math.isnan, outcomes))
    told = f", {outcomes.count(1.0)} right"
    told += "" if len(outcomes) == len(jobs) else f" of {len(outcomes)} with targets"
    return told + (f", {undecided} undecided" if undecided else "")


def show_usage(guide: Guide) -> None:
    """What the engines of a guide say of themselves; servers and workers say nothing."""
    for backend in {id(b): b for b in guide.backends.values()}.values():
        if hasattr(backend, "report"):
            typer.echo(backend.report(), err=True)
