"""What README says of results, on a part of the problems."""

from __future__ import annotations

import random
import shlex
from functools import partial
from pathlib import Path

import pytest
from sweep_cases import swept

import guides
from benchmarks import tasks
from benchmarks.sweep import levels, plan, report, rows

README = Path(__file__).parents[2] / "README.md"


def methods() -> list[str]:
    """The methods of README's command, in its order."""
    line = next(
        line for line in README.read_text().splitlines() if "benchmarks.sweep.run --task" in line
    )
    words = shlex.split(line)
    return [words[place + 1] for place, word in enumerate(words) if word == "--run"]


@pytest.mark.thorough
def test_a_tree_solves_more_than_sampling_within_200_tokens(tmp_path: Path) -> None:
    """And fewer within 40, as README's table says of all puzzles."""
    _, sample, tree, *_ = methods()
    assert sample.startswith("sample ") and tree.startswith("mcts ")
    puzzles = {tasks.identity(puzzle): puzzle for puzzle in tasks.game24()}
    drawn = random.Random(0).sample(sorted(puzzles), 200)
    task = plan.Task("game24", {name: puzzles[name] for name in drawn}, {})
    out = tmp_path / "results.csv"
    swept(out, task, (sample, tree), "tokens=200", seeds=1, guide=partial(guides.load, "builtin"))
    found = report.by_method(rows.read(out))["game24"]
    share = {}
    for limit in (40, 200):
        score = levels.within(plan.Limit("tokens", limit))
        share[limit] = {
            name: report.means(report.table(found[name], score)).mean() for name in found
        }
    assert share[200][tree] > share[200][sample] > 0.5, share
    assert share[40][tree] < share[40][sample], share
