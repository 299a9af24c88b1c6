"""What a long chain of thought costs beside its model: seconds of a core to search, to save, to
load and to draw it, and memory.

    python -m benchmarks.processes.long_chains --steps 1000 --steps 3000 --steps 10000

The policy asks no model (plain), or is a language model that is a script (a token a character, so
that a step has some 30). The answer stands where Copse looks for it by itself (marks), or where a
pattern says. Each case has a process of its own; memory is the most that it needed beyond what it
had before.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import search
from benchmarks.output import row, table, write_csv
from guides.engines import Loaded
from guides.policies.lm import LM
from models.scripted import Scripted, text_tokens, token_text
from search import view
from search.guide import Guide, Proposal
from search.scheduling.requests import Generate

PATTERN = r"(?i)\banswer is:?\s*(-?\d+)"  # of a user: some mark, and blanks of any kind
ANSWERS = {"marks": None, "pattern": PATTERN}
POLICIES = ("plain", "script")
_ANSWER = "So the answer is 8."


@dataclass
class Cost:
    """What one chain cost: seconds of a core, and megabytes."""

    policy: str
    answer: str
    steps: int
    search: float
    save: float
    load: float
    draw: float
    megabytes: float


class _Characters:
    """A tokenizer: a token a character."""

    chat_template = None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return list(text_tokens(text))

    def decode(self, tokens: Sequence[int], **options: Any) -> str:
        return token_text(tokens)


def line(number: int, steps: int) -> str:
    """What stands in a step."""
    if number == steps:
        return _ANSWER
    return f"Step {number}: {number} + {number + 1} = {2 * number + 1}."


class Lines(search.Policy):
    """A policy that asks no model and writes what is written here."""

    def __init__(self, steps: int):
        self.max_steps = steps

    async def propose(
        self, problem: Any, state: Any, n: int, rng: Any, avoid: Any = ()
    ) -> list[Proposal]:
        number = len(state) + 1
        finish = "last" if number == self.max_steps else "stop"
        step = search.TextStep(line(number, self.max_steps), finish=finish)
        return [Proposal(step, 0.0, 1.0)]


def plain_guide(steps: int) -> Guide:
    """A guide that asks no model."""
    return Guide(Lines(steps))


def script_guide(steps: int) -> Guide:
    """A guide whose policy is a language model that writes what is written here."""
    written = 0

    def answer(request: Generate) -> str:
        nonlocal written
        written += 1
        return f"{line(written, steps)}\n"

    settings = {"delimiter": "\n", "step_tokens": 64, "max_steps": steps, "prompt": "{problem}\n"}
    loaded = Loaded(Scripted(answer), _Characters(), settings, "script", False)  # type: ignore[arg-type]
    return Guide(LM(loaded))


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a core that a function takes, and what it returns."""
    start = time.process_time()
    returned = function()
    return time.process_time() - start, returned


def measure(policy: str, answer: str, steps: int) -> Cost:
    """Search one chain, save it, load it and draw it. Raises RuntimeError where another chain comes
    out.
    """
    problem = search.TextProblem("What is 3 + 5?", answer=ANSWERS[answer])
    make = {"plain": plain_guide, "script": script_guide}[policy]
    solve = partial(
        search.solve, method="sample", budget=f"tokens={100 * steps},simulations=1", chains=1
    )
    solve(problem, make(3))  # kernels are compiled, and modules loaded
    before = _peak()
    seconds, solution = timed(partial(solve, problem, make(steps)))
    if solution.answer is None or len(solution.steps) != steps:
        raise RuntimeError(f"a chain of {len(solution.steps)} steps came out: {solution}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.parquet"
        save, _ = timed(lambda: search.Trace.save([solution.trace], path))
        load, traces = timed(lambda: search.Trace.load(path))
    console = Console(highlight=False, file=open("/dev/null", "w"))  # noqa: SIM115
    draw, _ = timed(lambda: console.print(view.draw(traces[0]), soft_wrap=True))
    console.file.close()
    megabytes = (_peak() - before) / 1000
    return Cost(policy, answer, steps, seconds, save, load, draw, megabytes)


def _peak() -> int:
    """The most memory that this process had, in kilobytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def lines(costs: Sequence[Cost]) -> list[str]:
    """A table's lines, a chain each."""
    rendered = [row(["policy", "answer", "steps", "search", "save", "load", "draw", "MB"])]
    for cost in costs:
        seconds = [f"{value:.2f}" for value in (cost.search, cost.save, cost.load, cost.draw)]
        rendered.append(
            row([cost.policy, cost.answer, str(cost.steps), *seconds, f"{cost.megabytes:.0f}"])
        )
    return rendered


def main(
    steps: Annotated[
        list[int] | None, typer.Option(min=2, help="Of a chain; can be repeated.")
    ] = None,
    policy: Annotated[list[str] | None, typer.Option(help="plain, script; default: both.")] = None,
    answer: Annotated[list[str] | None, typer.Option(help="marks, pattern; default: both.")] = None,
    out: Annotated[Path | None, typer.Option(help="CSV of the table.")] = None,
) -> None:
    """Print a table of what long chains cost."""
    costs = []
    spawn = multiprocessing.get_context("spawn")
    for kind in policy or POLICIES:
        for marked in answer or ANSWERS:
            for count in steps or [1000, 3000, 10_000]:
                with spawn.Pool(1) as pool:
                    costs.append(pool.apply(measure, (kind, marked, count)))
                typer.echo(lines(costs)[-1])
    typer.echo(table(lines(costs)))
    if out is not None:
        write_csv(out, list(map(asdict, costs)))


if __name__ == "__main__":
    typer.run(main)
