"""What a search costs depends on no other search beside it, and on no run that was killed."""

from __future__ import annotations

import csv

import pytest
import tiny

import search
from benchmarks.sweep import plan, rows
from benchmarks.sweep import run as sweep
from guides.engines import Loaded
from guides.policies.lm import LM
from models.engine.engine import Engine
from search.guide import Guide
from search.problem import TextProblem

COSTS = ("generated", "prefilled", "reused", "flops", "calls")
BEGINNING = "Read this well before you answer the question that follows it. "
ASKED = {f"q{i}": TextProblem(f"{BEGINNING}Question {i % 3} of {i}?") for i in range(5)}
TASK = plan.Task("asked", ASKED, dict.fromkeys(ASKED, "1"))


def guide(**policy):
    engine = Engine(tiny.model(), tiny.tokenizer(), tiny.head(), slots=4, pool_tokens=4096)
    loaded = Loaded(engine, engine.tokenizer, {}, "tiny", has_head=True)
    options = {"delimiter": "\n", "step_tokens": 6, "max_steps": 3, "prompt": "{problem}\n"}
    return Guide(LM(loaded, **options, **policy))


def costs(path):
    """(problem, method) -> the cells of its costs."""
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    return {(one["problem"], one["method"]): [one[name] for name in COSTS] for one in found}


def swept(path, task=TASK):
    runs = plan.read_runs(["sample chains=3", "mcts leaves=2"], task)
    assert sweep.sweep(task, runs, plan.read_budgets("tokens=60"), 1, path, guide, progress=False)
    return costs(path)


@pytest.mark.thorough
def test_a_run_that_was_killed_and_goes_on_costs_the_same(tmp_path):
    whole = swept(tmp_path / "whole.csv")
    assert len(whole) == 10
    lines = (tmp_path / "whole.csv").read_text().splitlines(keepends=True)
    (tmp_path / "again.csv").write_text("".join([lines[0], lines[2], lines[4], lines[8]]))
    assert swept(tmp_path / "again.csv") == whole
    alone = {}
    for name, problem in ASKED.items():
        task = plan.Task("asked", {name: problem}, {name: "1"})
        alone |= swept(tmp_path / f"{name}.csv", task)
    assert alone == whole


@pytest.mark.thorough
def test_searches_that_share_cost_less_but_give_the_same_trees():
    """The twin: without `isolate` the first reads the beginning for all."""
    problems = list(ASKED.values())
    apart, together = (
        search.solve_many(problems, guide(), "sample", "tokens=60", chains=2, isolate=isolate)
        for isolate in (True, False)
    )
    for one, other in zip(apart, together, strict=True):
        assert one.trace.steps == other.trace.steps
        assert one.usage.generated == other.usage.generated
    read = [sum(s.usage.prefilled for s in found) for found in (apart, together)]
    assert read[0] > read[1]
    assert rows.COLUMNS[10:13] == COSTS[:3]
