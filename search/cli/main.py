"""The command `copse`. Results go to stdout, everything else to stderr.

Exit codes: 0 an answer came and was not refuted; 1 none (of a file: any without), a search failed,
or traces could not be written; 2 wrong use; 130 after Ctrl-C, with all that was finished kept.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.arguments import CHOOSERS
from search.cli.bench import (
    Aggregate,
    Instruction,
    Pool,
    Server,
    System,
    Tokenizer,
    TopP,
    ValueFormat,
    bench,
)
from search.cli.label import export, label
from search.cli.options import METHOD_HELP, Model, check_use, language_of, search_arguments
from search.cli.solve_file import INTERRUPTED, NONE, OK, solve_file, tell_usage
from search.cli.train import tell, train
from search.imports import Shadowed

if TYPE_CHECKING:
    from search.solution import Solution
    from search.trace import TraceWriter

MODEL = "The model"  # a panel of the help
MISUSE = 2  # the exit code of wrong use

app = typer.Typer(
    help="Solve problems by tree search over the steps of a language model.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(train, name="train")
app.command()(label)
app.command()(export)
app.command()(bench)


Choice = StrEnum("Choice", CHOOSERS)  # type: ignore[misc]

Depth = Annotated[
    int | None,
    typer.Option(min=1, show_default=False, help="Levels of the tree that are shown. Default: 10."),
]
Width = Annotated[
    int | None,
    typer.Option(min=1, show_default=False, help="Steps shown below one node. Default: 3."),
]


def _version(wanted: bool) -> None:
    if wanted:
        from search import __version__

        typer.echo(f"copse {__version__}")
        raise typer.Exit


@app.callback()
def _copse(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def solve(
    problem: Annotated[
        str | None,
        typer.Argument(show_default=False, help='For example: "Use 4, 7, 8 and 8 to make 24."'),
    ] = None,
    method: Annotated[str, typer.Option(help=METHOD_HELP)] = "mcts",
    budget: Annotated[
        str | None,
        typer.Option(
            help="Limits of one search, such as tokens=2000,seconds=10 (also calls, simulations). "
            "Default: the guide's own: tokens=2000,seconds=120 for the built-in model, "
            "tokens=20000,seconds=120 for others."
        ),
    ] = None,
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
    choose: Annotated[
        Choice | None,
        typer.Option(help="Which answer to give. Default: a verified one, else the weighted vote."),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0, help="The same seed gives the same tree; with --input, the same for each id."
        ),
    ] = 0,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Option of the method, such as branch=8. Can be repeated."
        ),
    ] = None,
    tree: Annotated[bool, typer.Option("--tree", help="Print the search tree as well.")] = False,
    depth: Depth = None,
    width: Width = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of text.")
    ] = False,
    traces: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Store the search trees here, for copse view and for training."
        ),
    ] = None,
    input: Annotated[
        Path | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="Solve a file of problems: a JSON object a line, with problem, and perhaps id "
            "and kind.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Where the results of --input go; those that are there are not searched again.",
        ),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="For all problems of --input together; what is not done by then the next run "
            "does.",
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
        float | None, typer.Option(rich_help_panel=MODEL, min=0, help="Of sampling; 0 is greedy.")
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
    usage: Annotated[
        bool,
        typer.Option("--usage", help="Tell on stderr what the engine did: tokens read and stored."),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Tell on stderr what is done.")
    ] = False,
) -> None:
    """Solve a problem: print the chain of thought, the answer and what it cost. With --input,
    solve a file of them.
    """
    if verbose:
        tell()
    check_use(
        problem, input, output, tree, depth is not None or width is not None, as_json, time_limit
    )
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
    judging: dict[str, Any] = {"value_format": value_format, "aggregate": aggregate}
    model = Model(
        guide, value, answer, engine, language, server=server, tokenizer=tokenizer, **judging
    ).checked()
    arguments = search_arguments(method, budget, choose and choose.value, seed, option or [])
    writer = _writer(traces)
    if input is not None:
        code = solve_file(input, output, model, arguments, writer, usage, time_limit)
    else:
        solution = _solve_one(problem or "", model, arguments, writer, usage)
        if as_json:
            from search.files.problems_file import to_json

            typer.echo(json.dumps(to_json(solution)))
        else:
            _print(solution, (depth, width) if tree else None)
        code = (
            INTERRUPTED
            if solution.stopped == "interrupted"
            else OK
            if _succeeded(solution)
            else NONE
        )
    raise typer.Exit(_closed(writer, code))


@app.command()
def view(
    traces: Annotated[
        Path,
        typer.Argument(
            show_default=False, help="A folder that copse solve --traces wrote, or a shard of it."
        ),
    ],
    problem: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT|NUMBER",
            help="Which trace: a part of its problem's text, or its number. Default: 1.",
        ),
    ] = None,
    depth: Depth = None,
    width: Width = None,
) -> None:
    """Print a stored search tree: best path, visits, values, rewards."""
    from search import view as views
    from search.trace import Trace

    found = Trace.load(traces)
    if not found:
        raise ValueError(
            f"there is no readable trace in {traces}: give a folder that copse solve --traces wrote"
        )
    texts = [views.statement(trace) for trace in found]
    index = views.pick(texts, problem)
    typer.echo(f"trace {index + 1} of {len(found)}: {views.printable(texts[index])}")
    typer.echo(views.origin(found[index]))
    views.show(found[index], depth=depth or views.DEPTH, width=width or views.WIDTH)


def _solve_one(
    text: str, model: Model, arguments: dict[str, Any], writer: TraceWriter | None, usage: bool
) -> Solution:
    import search
    from search.problems import parse

    problem = parse(text, answer=model.answer)
    model.check(problem)
    guide = model.load()
    try:
        solution = search.solve(problem, guide, **arguments)
    except search.RequestFailed as error:
        solution = search.Solution(problem, error=error)
    if usage:
        tell_usage(guide)
    if writer is not None and solution.trace is not None:
        writer.write(solution.trace)
    return solution


def _succeeded(solution: Solution) -> bool:
    return solution.error is None and solution.answered


def _print(solution: Solution, limits: tuple[int | None, int | None] | None) -> None:
    from search import view as views

    typer.echo(views.harmless(str(solution)))
    if limits is not None and solution.trace is not None:
        views.show(
            solution.trace, solution.steps, limits[0] or views.DEPTH, limits[1] or views.WIDTH
        )


def _writer(folder: Path | None) -> TraceWriter | None:
    if folder is None:
        return None
    from search.trace import TraceWriter

    try:
        return TraceWriter(folder)
    except OSError as error:
        raise ValueError(
            f"cannot write traces to {folder} ({error.strerror}): choose another folder for "
            "--traces"
        ) from None


def _closed(writer: TraceWriter | None, code: int) -> int:
    """Close the traces; the exit code, worse where some could not be written."""
    if writer is None:
        return code
    writer.close()
    if writer.error is None:
        return code
    _complain(
        f"traces are missing in {writer.folder} ({writer.error}): make room, then search again "
        "into another --output"
    )
    return code or NONE


# -- the way in


def main(args: Sequence[str] | None = None) -> int:
    """Run `copse` with `args` (else those of the command line); the exit code."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,
        format="copse: %(levelname)s: %(message)s",
        force=True,
    )
    # who waits for a compiler wants to know
    logging.getLogger("search.kernels.jit").setLevel(logging.INFO)
    # in which float type a model is computed
    logging.getLogger("guides.engines").setLevel(logging.INFO)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a model writes what no terminal may know
    given = list(sys.argv[1:] if args is None else args)
    try:
        code = typer.main.get_command(app).main(
            given or ["--help"], prog_name="copse", standalone_mode=False
        )
        return code if isinstance(code, int) else OK
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except (ValueError, FileNotFoundError, Shadowed) as error:
        logging.getLogger(__name__).debug("where it came from", exc_info=error)
        _complain(str(error))
        return MISUSE
    except OSError as error:
        _complain(
            f"{error}: what was finished is kept; give the same command again when there is room "
            "and permission to write"
        )
        return NONE
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        # a usage error of typer's
        where = getattr(getattr(error, "ctx", None), "command_path", "copse")
        _complain(f"{error.format_message().rstrip('.')}: see {where} --help")
        return MISUSE


def _complain(message: str) -> None:
    typer.echo("copse: " + " ".join(message.split()), err=True)


if __name__ == "__main__":
    sys.exit(main())
