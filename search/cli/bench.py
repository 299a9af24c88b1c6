"""The command `copse bench`: methods compared on problems of the user's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.cli.options import Model, language_of
from search.imports import import_ours
from search.methods.presets import PRESETS

if TYPE_CHECKING:
    from search.guide import Guide

MODEL = "The model"  # a panel of the help
FAILED, INTERRUPTED = 1, 130  # exit codes
METHODS_HELP = (
    f"With commas between: {', '.join(PRESETS)}, module:function; each perhaps with options, as "
    'in "mcts leaves=1".'
)

Server = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=MODEL,
        metavar="URL",
        help="Ask an OpenAI-compatible server for the model, such as http://localhost:8000/v1; "
        "its key is read from OPENAI_API_KEY.",
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=MODEL,
        help="Of sampling: the likeliest tokens that have this probability together. Default: 1, "
        "all.",
    ),
]
Instruction = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=MODEL,
        help="What a chat model is told after the problem. Default: to reason in steps, answer in "
        "\\boxed{}.",
    ),
]
System = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=MODEL, help="The system turn of the chat. Default: as its template says."
    ),
]
Pool = Annotated[
    int | None,
    typer.Option(
        "--pool-tokens",
        rich_help_panel=MODEL,
        min=1,
        show_default=False,
        help="Tokens whose keys and values have room. Default: 1 GiB of them on a CPU, a quarter "
        "of a GPU's free memory.",
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=MODEL,
        metavar="DIR",
        help="Of the model behind --server, a folder or a hub id. Default: --guide.",
    ),
]
ValueFormat = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=MODEL,
        metavar="NAME|FILE",
        help="How --value reads a chain: copse, math-shepherd, rlhflow, qwen, skywork, trl, or a "
        "JSON file. Default: as it says itself.",
    ),
]
Aggregate = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=MODEL,
        metavar="last|min|prod|mean",
        help="The value of a chain from those of its steps. Default: as the judge says itself.",
    ),
]


def bench(
    input: Annotated[
        Path,
        typer.Option(
            "--input",
            metavar="FILE",
            show_default=False,
            help="A JSON object a line: problem, target, perhaps id and kind.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            show_default=False,
            help="For results.csv and figure.png. A killed run goes on.",
        ),
    ],
    methods: Annotated[
        str,
        typer.Option(help=METHODS_HELP),
    ] = "greedy,sample,mcts",
    budgets: Annotated[
        str, typer.Option(help="Budgets of one kind: of tokens, calls, simulations or seconds.")
    ] = "tokens=500,2000",
    seeds: Annotated[
        int, typer.Option(min=1, help="Searches of each problem with each method and budget.")
    ] = 1,
    guide: Annotated[
        str,
        typer.Option(
            help="The model that proposes steps: a folder, a hub id, or builtin; with --server its "
            "name there."
        ),
    ] = "builtin",
    value: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Another model that judges the steps: one with a value head, or a reward model.",
        ),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=MODEL, help=r"What ends a step of the model; \n is a line's end."
        ),
    ] = None,
    step_tokens: Annotated[
        int | None, typer.Option(rich_help_panel=MODEL, min=1, help="Most tokens of a step.")
    ] = None,
    max_steps: Annotated[
        int | None,
        typer.Option(rich_help_panel=MODEL, min=1, help="Most steps of a chain of thought."),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(rich_help_panel=MODEL, min=0, help="Of sampling, but for greedy."),
    ] = None,
    top_p: TopP = None,
    instruction: Instruction = None,
    system: System = None,
    prompt: Annotated[
        str | None,
        typer.Option(rich_help_panel=MODEL, help="What the model reads, with {problem} in it."),
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=MODEL,
            metavar="REGEX",
            help="Marks the answer in open text by its one group.",
        ),
    ] = None,
    server: Server = None,
    tokenizer: Tokenizer = None,
    device: Annotated[
        str, typer.Option(rich_help_panel=MODEL, help="auto, cpu, cuda, ...")
    ] = "auto",
    dtype: Annotated[
        str, typer.Option(rich_help_panel=MODEL, help="auto, float32, bfloat16, ...")
    ] = "auto",
    slots: Annotated[
        int,
        typer.Option(
            rich_help_panel=MODEL,
            min=1,
            help="Rows that the model computes at once; requests that a server has at once.",
        ),
    ] = 64,
    pool_tokens: Pool = None,
    value_format: ValueFormat = None,
    aggregate: Aggregate = None,
) -> None:
    """Compare methods on your problems: a table with 95 % intervals, results.csv, and a figure
    of accuracy against compute.
    """
    language = language_of(
        delimiter=delimiter, step_tokens=step_tokens, max_steps=max_steps, temperature=temperature,
        top_p=top_p, prompt=prompt,
        instruction=instruction, system=system,
    )  # fmt: skip
    engine = {
        "device": device,
        "dtype": dtype,
        "slots": slots,
        **({} if pool_tokens is None else {"pool_tokens": pool_tokens}),
    }
    model = Model(
        guide,
        value,
        answer,
        engine,
        language,
        server=server,
        tokenizer=tokenizer,
        value_format=value_format,
        aggregate=aggregate,
    ).checked()
    plan, reports = import_ours("benchmarks.sweep.plan"), import_ours("benchmarks.sweep.report")
    task = plan.task_of_file(input, model.answer, model.check)
    runs, limits = plan.read_runs(methods.split(","), task), plan.read_budgets(budgets)
    plan.claim(out, task, {"value": value, **model.judging, "answer": model.answer, **language})
    results = out / "results.csv"

    def load(**policy: Any) -> Guide:
        return replace(model, language={**language, **policy}).load()

    whole = import_ours("benchmarks.sweep.run").sweep(task, runs, limits, seeds, results, load)
    tables = import_ours("benchmarks.sweep.rows")
    rows = tables.read(results)
    failed = sum(map(tables.failed, rows))
    if rows:
        typer.echo(f"{reports.report(rows)}\n\n{reports.against_first(rows)}".rstrip())
    if len(rows) > failed:
        _draw(rows, out / "figure.png")
    if not whole:
        typer.echo("interrupted: give the same command again to go on", err=True)
        raise typer.Exit(INTERRUPTED)
    if failed:
        what = (
            f"{failed} of {len(rows)} rows are of searches that failed: no rate counts them, the "
            "column errors does"
        )
        typer.echo(f"copse: {what}; give the same command again to search them again", err=True)
        raise typer.Exit(FAILED)


def _draw(rows: Any, figure: Path) -> None:
    try:
        import_ours("benchmarks.sweep.plot").curves(rows, figure)
    except ImportError as error:
        typer.echo(f"copse: {error}; the rows are in {figure.parent / 'results.csv'}", err=True)
    else:
        typer.echo(f"figure: {figure}")
