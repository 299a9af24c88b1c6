"""Search with real models: rows a pass, tokens a CPU second, memory, priors and values of siblings.

    python -m benchmarks.engine.real_models --model FOLDER --problems gsm8k_train.jsonl --count 4 \
        --tokens 1500 --tokens 4000 --out rows.csv

Every model, run and budget has a process of its own with one thread; `generate` of transformers
stands beside them with as many chains at once as `--batch` says. A problems file has GSM8K's form.

    rows a pass        of `Solution.usage`, as the engine counted them
    blocks             siblings of two and more; the share of them whose largest prior is above
                       0.99, the median of the largest, and the mean entropy, 1 where all are equal
"""

from __future__ import annotations

import itertools
import logging
import math
import multiprocessing
import operator
import os
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.engine.rival_processes import ONE_THREAD
from benchmarks.engine.texts import ends_of, length
from benchmarks.output import row as row_of
from benchmarks.output import table, write_csv
from benchmarks.processes.watch import Watch
from benchmarks.sweep.plan import read_method

log = logging.getLogger(f"copse.{__name__}")

RUNS = ("sample wave=8", "beam width=4 branch=4", "mcts")
SURE = 0.99  #: a prior above it leaves its siblings nothing
WARM = 64  #: tokens of a search before the first that counts: kernels are compiled


@dataclass(frozen=True)
class Block:
    """The edges of one node. priors: as they stand, sum at most 1; values: means, nan unvisited."""

    node: int
    priors: list[float]
    values: list[float]
    visits: list[int]
    texts: list[str]

    @property
    def largest(self) -> float:
        """The largest prior among these, as a share of their sum, in [0, 1]."""
        return max(self.priors) / (sum(self.priors) or 1.0)

    @property
    def entropy(self) -> float:
        """Of the priors as shares, divided by the logarithm of their number, in [0, 1]."""
        whole = sum(self.priors) or 1.0
        shares = [prior / whole for prior in self.priors if prior > 0]
        return -sum(p * math.log(p) for p in shares) / math.log(len(self.priors))


@dataclass(frozen=True)
class Row:
    """One search, or one batch of `generate`. peak: bytes of its process at most; ready: CPU
    seconds until the model was there."""

    model: str
    run: str
    budget: int
    question: int
    generated: int
    chains: int
    answered: bool
    right: bool
    rows: float
    seconds: float
    cpu: float
    ready: float
    peak: int
    stopped: str
    blocks: int = 0
    sure: int = 0
    largest: float = math.nan
    entropy: float = math.nan


def blocks_of(tree: Any) -> list[Block]:
    """Blocks of two siblings and more of a search tree, from the root on."""
    found = []
    for node in range(len(tree.nodes)):
        edges = list(tree.block(node))
        if len(edges) < 2:
            continue
        block = Block(node, [], [], [], [])
        for edge in edges:
            child = tree.child(edge)
            step = tree.steps[edge]
            block.priors.append(tree.at(edge, "prior"))
            block.values.append(tree.mean(child) if child >= 0 else math.nan)
            block.visits.append(int(tree.at(edge, "visits")))
            block.texts.append(str(getattr(step, "text", step)))
        found.append(block)
    return found


def peak() -> int:
    """Most bytes of memory that this process has held (Linux)."""
    _, _, rest = Path("/proc/self/status").read_text().partition("VmHWM:")
    return int(rest.split()[0]) * 1024  # given in KiB


# -- what runs in a process of its own


def searched(
    model: str, dtype: str, run: str, tokens: int, questions: Sequence[int], problems: str
) -> tuple[list[Row], list[Block]]:
    """A search of each question, one after the other; and the blocks of the first one's tree."""
    import guides
    import search
    from benchmarks.answers.gsm8k import load

    method, options = read_method(run)
    asked = load(problems)
    guide = guides.load(model, device="cpu", dtype=dtype)
    ready = time.process_time()
    rows: list[Row] = []
    shown: list[Block] = []
    warm = search.Budget(tokens=WARM)
    search.solve(asked[-1][0], guide, method, warm, **options)
    for question in questions:
        problem, target = asked[question]
        watch = Watch()
        budget = search.Budget(tokens=tokens)
        found = search.solve(problem, guide, method, budget, seed=question, **options)
        spent = watch.read()
        blocks = [] if found.tree is None else blocks_of(found.tree)
        largest = all_of("largest", blocks)
        shown = shown or blocks
        right = found.answer is not None and guides.check(found.answer, target)
        rows.append(
            Row(
                Path(model).name, run, tokens, question, found.usage.generated,
                len(found.tree.finished) if found.tree is not None else 0,
                found.answer is not None, right is guides.Verdict.RIGHT,
                found.usage.mean_rows, **spent, ready=ready, peak=peak(), stopped=found.stopped,
                blocks=len(blocks), sure=sum(share > SURE for share in largest),
                largest=_median(largest),
                entropy=_mean(all_of("entropy", blocks)),
            )
        )  # fmt: skip
    return rows, shown


def generated(
    model: str, dtype: str, batch: int, tokens: int, questions: Sequence[int], problems: str
) -> tuple[list[Row], list[Block]]:
    """`generate`: `batch` chains of each question at once, sampled until all have ended.

    tokens  that all chains of a question may have together
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from benchmarks.answers.gsm8k import load

    torch.set_num_threads(1)
    asked = load(problems)
    tokenizer = AutoTokenizer.from_pretrained(model)
    own = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
    ends = ends_of(own)
    ready = time.process_time()
    rows: list[Row] = []
    for question in questions:
        problem, _ = asked[question]
        turn = [{"role": "user", "content": problem.prompt(problem.initial())}]
        ids = tokenizer.apply_chat_template(
            turn, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        torch.manual_seed(question)
        watch = Watch()
        drawn = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}
        many = {"num_return_sequences": batch, "max_new_tokens": tokens // batch}
        found = own.generate(ids, attention_mask=torch.ones_like(ids), **drawn, **many)
        spent = watch.read()
        lengths = [length(text, ends) for text in found[:, ids.shape[1] :].tolist()]
        ended = sum(count < tokens // batch for count in lengths)
        rows.append(
            Row(
                Path(model).name, f"generate {batch}", tokens, question, sum(lengths), ended,
                False, False, sum(lengths) / max(lengths), **spent, ready=ready, peak=peak(),
                stopped="",
            )
        )  # fmt: skip
    return rows, []


# -- telling


def all_of(name: str, rows: Sequence[Any]) -> list[Any]:
    """One attribute of all rows."""
    return list(map(operator.attrgetter(name), rows))


def lines(rows: Sequence[Row]) -> list[str]:
    """A table's lines, one a model, run and budget; means over questions."""
    names = "model, run, tokens asked, generated, rows a pass, tokens/CPU s, peak MiB, chains"
    head = [*names.split(", "), "answered", "right", "blocks", f"largest > {SURE}"]
    rendered = [row_of([*head, "largest", "entropy"])]
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.model, row.run, row.budget), []).append(row)
    for (model, run, budget), here in groups.items():
        made = sum(all_of("generated", here))
        cpu = sum(all_of("cpu", here))
        cells = [
            model,
            run,
            f"{budget:,}",
            f"{made / len(here):,.0f}",
            f"{_mean(all_of('rows', here)):.1f}",
            f"{made / max(cpu, 1e-9):.1f}",
            f"{max(all_of('peak', here)) / 2**20:,.0f}",
            f"{_mean(all_of('chains', here)):.1f}",
        ]
        if run.startswith("generate"):
            cells += [""] * 6  # it has no tree, and its answers are not looked for
        else:
            cells += [
                f"{sum(all_of('answered', here))}/{len(here)}",
                f"{sum(all_of('right', here))}/{len(here)}",
                f"{sum(all_of('blocks', here))}",
                f"{sum(all_of('sure', here))}",
                f"{_median(all_of('largest', here)):.3f}",
                f"{_mean(all_of('entropy', here)):.2f}",
            ]
        rendered.append(row_of(cells))
    return rendered


def shown(blocks: Sequence[Block], most: int = 6) -> str:
    """Sibling blocks as text: prior, visits, value, and how the step begins."""
    rendered = []
    for block in blocks[:most]:
        rendered.append(f"node {block.node}: entropy {block.entropy:.2f}")
        lists = (block.priors, block.visits, block.values, block.texts)
        for prior, visits, value, text in zip(*lists, strict=True):
            begin = " ".join(text.split())[:70]
            rendered.append(f"  prior {prior:.4f}  visits {visits:3d}  value {value:.3f}  {begin}")
    return "\n".join(rendered)


def _mean(numbers: Sequence[float]) -> float:
    finite = list(itertools.filterfalse(math.isnan, numbers))
    return statistics.mean(finite) if finite else math.nan


def _median(numbers: Sequence[float]) -> float:
    finite = list(itertools.filterfalse(math.isnan, numbers))
    return statistics.median(finite) if finite else math.nan


# -- the command


def main(
    model: Annotated[list[Path], typer.Option(help="Folder of a model; again for more.")],
    problems: Annotated[Path, typer.Option(help="GSM8K's lines: question, answer.")],
    count: Annotated[int, typer.Option(min=1, help="Questions.")] = 4,
    begin: Annotated[int, typer.Option(min=0, help="The first of them.")] = 0,
    tokens: Annotated[list[int] | None, typer.Option(help="Budgets; default 1500.")] = None,
    run: Annotated[list[str] | None, typer.Option(help='As "beam width=4 branch=4".')] = None,
    batch: Annotated[str, typer.Option(help="Chains at once by `generate`; 0: none.")] = "8,16",
    dtype: Annotated[str, typer.Option(help="Of all.")] = "float32",
    out: Annotated[Path | None, typer.Option(help="Where to write all rows, as CSV.")] = None,
) -> None:
    """Search with every model, run and budget; tables and one tree's siblings go to stdout."""
    os.environ.update(ONE_THREAD)
    questions = list(range(begin, begin + count))
    runs: list[tuple[Any, Any]] = list(zip(itertools.repeat(searched), run or RUNS, strict=False))
    for chains in filter(None, map(int, batch.split(","))):
        runs.append((generated, chains))
    found: list[Row] = []
    siblings: list[str] = []
    spawn = multiprocessing.get_context("spawn")
    for folder, budget in itertools.product(model, tokens or [1500]):
        for function, one in runs:
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                asked = (str(folder), dtype, one, budget, questions, str(problems))
                rows, blocks = pool.submit(function, *asked).result()
            found += rows
            log.info("%s %s %d: %d tokens", folder.name, one, budget, rows[-1].generated)
            if blocks:
                siblings.append(f"{folder.name}, {one}, {budget} tokens\n{shown(blocks)}")
            if out is not None:
                write_csv(out, found)
    typer.echo(table(lines(found)) + "\n\n" + "\n\n".join(siblings))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    typer.run(main)
