"""How many programs a second run in sandboxes of their own: short ones, as scripts and with tests.

python -m benchmarks.verifiers.sandboxes --count 400 --workers 2
"""

from __future__ import annotations

import time
from typing import Annotated

import typer

import search
from benchmarks.output import row, table

FUNCTION = """
def largest_run(numbers):
    best = current = 0
    for before, after in zip(numbers, numbers[1:]):
        current = current + 1 if after > before else 0
        best = max(best, current)
    return best + 1 if numbers else 0
"""
TESTS = """
assert largest_run([]) == 0
assert largest_run([3, 1, 2, 5, 4]) == 3
assert largest_run(list(range(50))) == 50
"""
PROGRAMS = {"a script": ("print(sum(range(10)))", None), "with tests": (FUNCTION, TESTS)}


def main(
    count: Annotated[int, typer.Option(min=1, help="Programs of each kind.")] = 200,
    workers: Annotated[int, typer.Option(min=1, help="Programs at a time.")] = 2,
) -> None:
    """Run the programs, and print a row for each kind. Exits 1 where one of them does not pass."""
    told = search.sandbox.missing()
    if told is not None:
        typer.echo(told, err=True)
        raise typer.Exit(1)
    rows = [row(["program", "a second", "ms each"])]
    for name, program in PROGRAMS.items():
        start = time.perf_counter()
        outcomes = search.sandbox.run_many([program] * count, workers=workers)
        seconds = time.perf_counter() - start
        if not all(outcome.passed for outcome in outcomes):
            raise typer.Exit(1)
        rows.append(row([name, f"{count / seconds:.0f}", f"{1000 * seconds / count:.1f}"]))
    typer.echo(table(rows))


if __name__ == "__main__":
    typer.run(main)
