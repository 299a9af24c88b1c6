"""Trees of a real model for different numbers of slots: the same, or where do they part?

    python -m benchmarks.engine.slots --model FOLDER --problems questions.jsonl --out slots.json
    python -m benchmarks.engine.slots --model FOLDER --dtype bfloat16 --slots 3,16,64

The questions are searched side by side, so that the number of slots decides who shares a pass with
whom. In float32 on a CPU nothing of a tree may depend on that, to the last bit. A problems file has
GSM8K's form; without one, word problems are generated. `--out` keeps all trees: a run that was
stopped goes on where it was when it is given again.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.engine.rival_processes import ONE_THREAD
from benchmarks.engine.texts import common
from benchmarks.output import row as row_of
from benchmarks.output import table
from benchmarks.sweep.plan import read_method
from search.files.atomic import atomic
from search.problem import Problem

if TYPE_CHECKING:
    from search.guide import Guide
    from search.trace import Trace

log = logging.getLogger(f"copse.{__name__}")

RUNS = ("mcts", "beam width=3 branch=3", "sample wave=4")
SLOTS = "64,16,3,1"
STEP_TOKENS = 24  #: of a step that a line break ends: a small budget holds several
NUMBERS = ("edge_visits", "edge_child", "edge_sum", "edge_prior", "edge_value", "edge_log_prob")


@dataclass(frozen=True)
class Difference:
    """Where two trees part first, edges in the order of their trace.

    what   "tokens": one has another step there, or none; a name of `NUMBERS`: the steps are the
           same, and that differs
    edge   its number;  token: sampled tokens of its chain that are still the same
    by     how far the numbers are apart; 0 for tokens
    """

    what: str
    edge: int
    token: int
    by: float = 0.0

    def __str__(self) -> str:
        return f"{self.what} at edge {self.edge}, token {self.token}"


def kept(trace: Trace) -> dict[str, Any]:
    """What is compared of a tree, as JSON: the tokens of every step, and the arrays of its
    edges.
    """
    arrays = {name: getattr(trace, name).tolist() for name in NUMBERS}
    before = [0] * len(trace.node_edge)  # sampled tokens of the chain that leads to each node
    for node, edge in enumerate(trace.node_edge.tolist()):
        if edge >= 0:
            before[node] = before[int(trace.node_parent[node])] + len(trace.steps[edge].tokens)
    return {
        "steps": [list(step.tokens) for step in trace.steps],
        "before": list(map(before.__getitem__, trace.edge_node.tolist())),
        "node": trace.edge_node.tolist(),
        **arrays,
    }


def difference(one: dict[str, Any], other: dict[str, Any]) -> Difference | None:
    """Where two trees part (`kept`), None where they are the same to the last bit."""
    for edge, (mine, theirs) in enumerate(zip(one["steps"], other["steps"], strict=False)):
        if (mine, one["node"][edge]) != (theirs, other["node"][edge]):
            return Difference("tokens", edge, one["before"][edge] + common(mine, theirs))
        for name in NUMBERS:
            a = one[name][edge]
            b = other[name][edge]
            if a != b and not (a != a and b != b):  # nan is nan
                token = one["before"][edge] + len(mine)
                return Difference(name, edge, token, abs(a - b))
    if len(one["steps"]) != len(other["steps"]):
        longer = max(one, other, key=lambda tree: len(tree["steps"]))
        edge = min(len(one["steps"]), len(other["steps"]))
        return Difference("tokens", edge, longer["before"][edge])
    return None


def grown(
    guide: Guide, problems: Sequence[Problem], run: str, tokens: int, seed: int
) -> list[dict[str, Any]]:
    """The trees of all problems, searched side by side. Raises the error of a search that
    failed.
    """
    import search

    method, options = read_method(run)
    budget = search.Budget(tokens=tokens)
    solutions = search.solve_many(problems, guide, method, budget, seed, progress=False, **options)
    trees = []
    for solution in solutions:
        if solution.error is not None or solution.trace is None:
            raise solution.error or RuntimeError(
                f"{run} has left no tree: let the method give one back"
            )
        trees.append(kept(solution.trace))
    return trees


def lines(trees: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A table's lines, from trees by "dtype | run | slots": each against those of the most
    slots.
    """
    rendered = [
        "| dtype | run | slots | trees | edges | differ | in their steps | where they part first |"
    ]
    for (dtype, run), counts in _groups(trees).items():
        most = max(counts)
        whole = trees[f"{dtype} | {run} | {most}"]
        for slots in sorted(counts, reverse=True):
            here = trees[f"{dtype} | {run} | {slots}"]
            cells = [dtype, run, str(slots), str(len(here))]
            cells.append(str(sum(len(tree["steps"]) for tree in here)))
            if slots == most:
                cells += ["", "", ""]
            else:
                apart = list(filter(None, map(difference, here, whole)))
                steps = sum(one.what == "tokens" for one in apart)
                cells += [str(len(apart)), str(steps), "; ".join(map(str, apart[:3]))]
            rendered.append(row_of(cells))
    return rendered


def differing(trees: dict[str, list[dict[str, Any]]], dtype: str) -> Counter[str]:
    """Pairs of trees of a float type that differ, by run; each against that of the most slots."""
    found: Counter[str] = Counter()
    for (kind, run), counts in _groups(trees).items():
        if kind != dtype:
            continue
        whole = trees[f"{dtype} | {run} | {max(counts)}"]
        for slots in counts:
            here = trees[f"{dtype} | {run} | {slots}"]
            found[run] += len(list(filter(None, map(difference, here, whole))))
    return found


def _groups(keys: Iterable[str]) -> dict[tuple[str, str], list[int]]:
    """(dtype, run) -> the numbers of slots, from keys "dtype | run | slots"."""
    groups: dict[tuple[str, str], list[int]] = {}
    for key in keys:
        dtype, run, slots = key.split(" | ")
        groups.setdefault((dtype, run), []).append(int(slots))
    return groups


# -- the command


def questions(problems: Path | None, count: int, seed: int) -> list[Problem]:
    """The first questions of a file in GSM8K's form, or generated word problems."""
    if problems is None:
        from search.problem import TextProblem
        from search.problems import words

        stories = words.generate(1000 + seed, count, 3, 2, split="test")
        # any step is legal
        return [TextProblem(story.prompt(story.initial())) for story in stories]
    from benchmarks.answers.gsm8k import load

    return [problem for problem, _ in load(problems)[:count]]


def before(out: Path | None, given: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The trees that an earlier run has kept. Raises ValueError where it was asked for others."""
    if out is None or not out.exists():
        return {}
    kept = json.loads(out.read_text())
    if kept["given"] != given:
        raise ValueError(f"{out} is of {kept['given']}, not of {given}: give another file")
    trees: dict[str, list[dict[str, Any]]] = kept["trees"]
    return trees


def main(
    model: Annotated[Path, typer.Option(help="Folder of a model.")],
    problems: Annotated[Path | None, typer.Option(help="GSM8K's lines; none: generated.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Questions.")] = 12,
    tokens: Annotated[int, typer.Option(min=1, help="Of each search.")] = 160,
    slots: Annotated[str, typer.Option(help="Numbers of slots, commas between.")] = SLOTS,
    run: Annotated[list[str] | None, typer.Option(help='As "beam width=4 branch=4".')] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    seed: Annotated[int, typer.Option(help="Of the searches, and of what is generated.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="JSON of all trees; a run goes on from it.")
    ] = None,
) -> None:
    """Grow the trees for each number of slots and compare. Exits 1 where trees of float32
    differ.
    """
    os.environ.update(ONE_THREAD)
    from guides.engines import unload
    from guides.loading import load

    asked = questions(problems, count, seed)
    given = {
        "model": model.name,
        "problems": str(problems),
        "count": count,
        "tokens": tokens,
        "seed": seed,
    }
    trees = before(out, given)
    for rows in map(int, slots.split(",")):
        missing = [one for one in run or RUNS if f"{dtype} | {one} | {rows}" not in trees]
        if not missing:
            continue
        guide = load(
            model, device="cpu", dtype=dtype, slots=rows, delimiter="\n", step_tokens=STEP_TOKENS
        )
        for one in missing:
            start = time.process_time()
            trees[f"{dtype} | {one} | {rows}"] = grown(guide, asked, one, tokens, seed)
            log.info("%s, %s, %d slots: %.0f s", dtype, one, rows, time.process_time() - start)
            if out is not None:
                with atomic(out) as part:
                    part.write_text(json.dumps({"given": given, "trees": trees}))
        del guide
        unload(model)
    typer.echo(table(lines(trees)))
    if differing(trees, "float32").total():
        raise typer.Exit(1)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    typer.run(main)
