"""The engine for language models beside transformers and beside a plain gather, on random models.
One thread.

    python -m benchmarks.engine.run speed
    python -m benchmarks.engine.run expand
    python -m benchmarks.engine.run outside
    python -m benchmarks.engine.run gpu

Tables go to stdout as Markdown, everything that was measured to a JSON file. Runs are interleaved;
times are medians, by the clock and of the CPU. `benchmarks.engine.run:tree_expand` and
`benchmarks.engine.run:decode` join yardsticks that call other engines by name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer

from benchmarks.engine import expansion
from benchmarks.engine import gpu as ongpu
from benchmarks.engine.expansion import Expansion, distinct, gumbel, tree_expand
from benchmarks.engine.gather import Gather
from benchmarks.engine.overhead import churned
from benchmarks.engine.workloads import (
    ByEngine,
    Continue,
    agreement,
    by_continuous_batching,
    by_generate,
    interleaved,
    prompts,
    small_model,
)
from benchmarks.output import table, write_json
from search.scheduling.requests import Usage

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, rich_markup_mode=None)
__all__ = ["decode", "tree_expand"]

Numbers = Annotated[str, typer.Option(help="Numbers, with commas between them.")]
Rounds = Annotated[int, typer.Option(min=1, help="Times that each run is repeated, in turn.")]
Out = Annotated[
    Path | None,
    typer.Option(help="Where to write all that was measured, as JSON.", show_default=False),
]
_engines: dict[Any, ByEngine] = {}


def decode(model: Any, ids: torch.Tensor, new: int) -> torch.Tensor:
    """What `lm_bench.py --engine benchmarks.engine.run:decode` calls: int64 [sequences, new],
    greedy.
    """
    key = (id(model), len(ids), new)
    if key not in _engines:
        _engines.clear()
        _engines[key] = ByEngine(model, new, len(ids))
    _engines[key].forget()
    return _engines[key](ids)


@app.command()
def speed(
    batch: Numbers = "1,16,64,256",
    prompt: int = 64,
    new: int = 64,
    rounds: Rounds = 3,
    out: Out = None,
) -> None:
    """Greedy continuations of random prompts: new tokens a second, prompts' reading included."""
    rows = speeds(numbers(batch), prompt, new, rounds)
    _write(out, rows)
    lines = [
        "| batch | way | tokens/s | tokens/CPU s | times generate | of the CPU | same tokens | "
        "slot use |"
    ]
    for row in rows:
        rates = (
            f"{row['rate']:,.0f} | {row['cpu_rate']:,.0f} | {row['times']:.2f} | "
            f"{row['cpu_times']:.2f}"
        )
        use = "" if row["slot_use"] is None else f"{row['slot_use']:.2f}"
        lines.append(
            f"| {row['batch']} | {row['way']} | {rates} | {100 * row['same']:.0f} % | {use} |"
        )
    typer.echo(table(lines))


def speeds(
    batches: Sequence[int], prompt: int, new: int, rounds: int, **options: Any
) -> list[dict[str, Any]]:
    """A row a batch and way; `options` of the model. same: tokens as by `generate`; times,
    cpu_times: as fast as it.
    """
    rows = []
    for batch in batches:
        ids = prompts(batch, prompt)
        ours = ByEngine(small_model(**options), new, batch)
        ways: dict[str, Continue] = {
            "generate": by_generate(small_model(**options), new),
            "continuous batching": by_continuous_batching(small_model(**options), new),
            "copse": ours,
        }
        runs: dict[str, Callable[[], Any]] = {name: partial(run, ids) for name, run in ways.items()}
        medians, first = interleaved(runs, rounds, {"copse": ours.forget})
        base = medians["generate"]
        made = batch * new
        used = sum((reply.usage for reply in ours.replies), Usage())
        for name, found in medians.items():
            row = {
                "batch": batch,
                "way": name,
                "rate": made / found["seconds"],
                "cpu_rate": made / found["cpu"],
                **found,
                "times": base["seconds"] / found["seconds"],
                "cpu_times": base["cpu"] / found["cpu"],
                "same": agreement(first[name], first["generate"]),
                "slot_use": used.slot_use if name == "copse" else None,
            }
            rows.append(row)
    return rows


@app.command()
def expand(
    trees: int = 4,
    leaves: int = 16,
    shared: int = 80,
    own: int = 20,
    kids: int = 4,
    new: int = 12,
    rounds: Rounds = 3,
    out: Out = None,
) -> None:
    """Continuations from all leaves of a forest at once, beside `generate` and a plain gather;
    memory, and tokens read twice.
    """
    rows = expansions(trees, leaves, shared, own, kids, new, rounds)
    _write(out, rows)
    lines = [
        "| forest | context tokens | way | s | CPU s | times generate | of the CPU | KV MiB | "
        "read/distinct | same |"
    ]
    for row in rows:
        times = (
            f"{row['seconds']:.3f} | {row['cpu']:.3f} | {row['times']:.1f} | "
            f"{row['cpu_times']:.1f} | {row['bytes'] / 2**20:.0f}"
        )
        read = "" if row["read"] is None else f"{row['read']:.3f}"
        same = "" if row["same"] is None else f"{100 * row['same']:.0f} %"
        lines.append(
            f"| {row['forest']} | {row['distinct']} | {row['way']} | {times} | {read} | {same} |"
        )
    typer.echo(table(lines))


def expansions(
    trees: int, leaves: int, shared: int, own: int, kids: int, new: int, rounds: int, **options: Any
) -> list[dict[str, Any]]:
    """A row a forest and way; `options` of the model.

    distinct  tokens of all contexts, shared ones once;  bytes: of keys and values, and of ours
              hidden states
    read      tokens that went through our model until the first expansion's end, to distinct ones
              among them
    same      tokens as by the gather; `generate` draws by itself
    """
    rows = []
    for name, contexts in expansion.shapes(trees, leaves, shared, own).items():
        sequences = len(contexts) * kids
        noise = gumbel(new, sequences)
        model = small_model(**options)
        with torch.inference_mode():
            gather = Gather(model, contexts, kids, new)
            ours = Expansion(model, contexts, kids, noise)
            ways: dict[str, Callable[[], Any]] = {
                "generate": partial(expansion.by_generate, model, contexts, kids, new),
                "gather": partial(gather, noise),
                "copse": ours,
            }
            medians, first = interleaved(ways, rounds, {"copse": ours.forget})
        longest = max(map(len, contexts))
        sizes = {
            "generate": sequences * (longest + new) * gather.pool[:, :, 0].nbytes,
            "gather": gather.bytes,
            "copse": ours.peak * ours.engine.kv_bytes_per_token,
        }
        # what has gone through the model: contexts, and all that was drawn but the last tokens
        texts = []
        for text, tokens in zip(ours.contexts, first["copse"].tolist(), strict=True):
            texts.append(text + tuple(tokens[:-1]))
        base = medians["generate"]
        for way, found in medians.items():
            row = {
                "forest": name,
                "distinct": distinct(contexts),
                "way": way,
                "bytes": sizes[way],
                **found,
                "times": base["seconds"] / found["seconds"],
                "cpu_times": base["cpu"] / found["cpu"],
                "read": ours.read / distinct(texts) if way == "copse" else None,
                "same": None,
            }
            if way != "generate":
                row["same"] = agreement(first[way], first["gather"])
            rows.append(row)
    return rows


@app.command()
def outside(
    batch: Numbers = "1,16,64,256", requests: int = 8, rounds: Rounds = 3, out: Out = None
) -> None:
    """What the engine costs beside its forward passes, while requests of 4 to 40 tokens come and
    go: CPU time a row of a pass.
    """
    rows = []
    for slots in numbers(batch):
        rows.append(churned(small_model(), slots, slots * requests, rounds))
    _write(out, rows)
    lines = [
        "| slots | requests | rows a pass | slot use | us a row, all | outside the forward | us "
        "a pass outside | share outside |"
    ]
    for row in rows:
        costs = (
            f"{row['all']:.1f} | {row['outside']:.2f} | {row['outside_pass']:.0f} | "
            f"{100 * row['outside'] / row['all']:.1f} %"
        )
        lines.append(
            f"| {row['slots']} | {row['requests']} | {row['rows']:.1f} | {row['slot_use']:.2f} | "
            f"{costs} |"
        )
    typer.echo(table(lines))


@app.command()
def gpu(
    batch: Numbers = "64,256",
    context: int = 512,
    shared: Annotated[
        int, typer.Option(help="Tokens of a context that a group of sequences shares.")
    ] = 400,
    group: Annotated[int, typer.Option(help="Sequences that share them.")] = 16,
    new: int = 64,
    widths: Annotated[
        str, typer.Option(help="Widths of beams, with commas between them.")
    ] = "10,50,100,200,400",
    rounds: Rounds = 3,
    out: Out = None,
) -> None:
    """Decoding with a random model of the shape of Qwen2 1.5B in bfloat16, with and without
    sharing: its share of what memory allows; and searches a second by beam width, one search at a
    time (a prompt of 256 tokens, 4 levels of 16 tokens).
    """
    if not torch.cuda.is_available():
        typer.echo(
            "there is no GPU here: run this where torch.cuda.is_available() is true", err=True
        )
        raise typer.Exit(2)
    model = ongpu.model("cuda")
    rows = ongpu.shared_and_not(model, numbers(batch), context, shared, group, new, rounds)
    typer.echo(table(ongpu.lines(rows)) + "\n")
    found = ongpu.beams(model, numbers(widths), 256, 4, 16, rounds)
    typer.echo(table(ongpu.beam_lines(found)))
    _write(out, rows, beams=found, gpu=torch.cuda.get_device_name())


def numbers(text: str) -> list[int]:
    """Of an option with commas."""
    return list(map(int, text.split(",")))


def _write(out: Path | None, rows: Sequence[dict[str, Any]], **more: Any) -> None:
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    write_json(out, rows, **versions, **more)


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    app()


if __name__ == "__main__":
    main()
