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

from search import kinds
from search.arguments import CHOOSERS
from search.cli.bench import bench
from search.cli.doctor import doctor
from search.cli.grade import grade
from search.cli.label import export, label
from search.cli.options import Model, check_use, check_view, search_arguments
from search.cli.page import write_page
from search.cli.serve import serve
from search.cli.shared_options import (
    METHOD_HELP,
    MODEL,
    Allowed,
    Guided,
    Judged,
    ModelOptions,
    Shared,
    shard_of,
    shares_options,
)
from search.cli.solve_file import INTERRUPTED, NONE, OK, show_usage, solve_file
from search.cli.terminal import complain, log_to_stderr, say
from search.cli.train import train
from search.cli.train_options import log_progress
from search.imports import Shadowed, import_ours

if TYPE_CHECKING:
    from search.solution import Solution
    from search.trace import Trace, TraceWriter

MISUSE = 2  # the exit code of wrong use

app = typer.Typer(
    help="Solve problems by tree search over the steps of a language model.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(train, name="train")
app.command()(label)
app.command()(export)
app.command()(bench)
app.command()(grade)
app.command()(serve)
app.command()(doctor)


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

        say(f"copse {__version__}")
        raise typer.Exit


@app.callback()
def _copse(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
@shares_options(
    MODEL,
    temperature="Of sampling; 0 is greedy.",
    slots="Rows that the model computes at once; requests that a server has at once.",
)
def solve(
    *,
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
    guide: Guided = "builtin",
    value: Judged = None,
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
    shard: Shared = None,
    ray: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="WORKERS",
            show_default=False,
            help="Search the file on so many workers of a Ray cluster: that of RAY_ADDRESS, else "
            "one on this machine.",
        ),
    ] = None,
    allow: Allowed = None,
    options: ModelOptions,
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
        log_progress()
    limited = depth is not None or width is not None
    check_use(
        problem,
        input,
        output,
        tree,
        limited,
        as_json,
        time_limit,
        shared=shard is not None,
        ray=ray is not None,
        usage=usage,
    )
    share = shard_of(shard)
    kinds.allow(allow or [])
    model = options.model(guide, value).checked()
    arguments = search_arguments(method, budget, choose and choose.value, seed, option or [])
    writer = _writer(traces)
    if input is not None:
        code = solve_file(input, output, model, arguments, writer, usage, time_limit, share, ray)
    else:
        solution = _solve_one(problem or "", model, arguments, usage)
        if as_json:
            say(json.dumps(solution.to_json(), allow_nan=False))
        else:
            _print(solution, (depth, width) if tree else None)
        code = max(_code(solution), _stored(writer, solution))
    if writer is not None:
        writer.close()
    raise typer.Exit(code)


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
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Write a page to explore in a browser instead: all traces, or those of --problem.",
        ),
    ] = None,
    beside: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE",
            help="With --html: traces of other searches of the same problems, shown side by side.",
        ),
    ] = None,
    targets: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='With --html: the problems with a "target" in each line, so that the page can '
            "tell right from wrong.",
        ),
    ] = None,
    allow: Allowed = None,
) -> None:
    """Print a stored search tree: best path, visits, values, rewards. With --html, write a page
    of search trees.
    """
    from search import view as views

    check_view(html is not None, depth is not None or width is not None, beside, targets)
    kinds.allow(allow or [])
    stored = _stored_traces(traces)
    texts = list(map(views.statement, stored))
    index = views.pick(texts, problem)
    if html is not None:
        from search.page.data import key

        wanted = key(stored[index])
        chosen = [one for one in stored if problem is None or key(one) == wanted]
        others = [] if beside is None else _stored_traces(beside)
        write_page(html, chosen, others, targets)
        return
    say(f"trace {index + 1} of {len(stored)}: {views.printable(texts[index])}")
    say(views.origin(stored[index]))
    if stored[index].kind == "search.problems.stream:Stream":
        grading = import_ours("guides.data.grading")
        behaviour = import_ours("guides.data.behaviour")
        told = behaviour.sentence(behaviour.of_replay(grading.Replay(stored[index])))
        if told:
            say(told)
    views.show(stored[index], depth=depth or views.DEPTH, width=width or views.WIDTH)


def _stored_traces(path: Path) -> list[Trace]:
    from search.trace import Trace

    stored = Trace.load(path)
    if not stored:
        raise ValueError(
            f"there is no readable trace in {path}: give a folder that copse solve --traces wrote"
        )
    return stored


def _solve_one(text: str, model: Model, arguments: dict[str, Any], usage: bool) -> Solution:
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
        show_usage(guide)
    return solution


def _code(solution: Solution) -> int:
    if solution.stopped == "interrupted":
        return INTERRUPTED
    return OK if solution.error is None and solution.answered else NONE


def _print(solution: Solution, limits: tuple[int | None, int | None] | None) -> None:
    from search import view as views

    say(str(solution))
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


def _stored(writer: TraceWriter | None, solution: Solution) -> int:
    """Store the trace of a search; the exit code, with a complaint where that cannot be."""
    if writer is None or solution.trace is None:
        return OK
    try:
        writer.write(solution.trace)
    except OSError as error:
        complain(f"the trace is not in {writer.folder} ({error}): make room, then search again")
        return NONE
    return OK


# -- the way in


def main(args: Sequence[str] | None = None) -> int:
    """Run `copse` with `args` (else those of the command line); the exit code."""
    log_to_stderr()
    # compiling takes seconds: say so while it lasts
    logging.getLogger("copse.search.kernels.jit").setLevel(logging.INFO)
    # in which float type a model is computed
    logging.getLogger("copse.guides.engines").setLevel(logging.INFO)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a model may write what this terminal cannot show
    given = list(sys.argv[1:] if args is None else args)
    try:
        code = typer.main.get_command(app).main(
            given or ["--help"], prog_name="copse", standalone_mode=False
        )
        return code if isinstance(code, int) else OK
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except (ValueError, FileNotFoundError, Shadowed) as error:
        logging.getLogger(f"copse.{__name__}").debug("where it came from", exc_info=error)
        complain(str(error))
        return MISUSE
    except OSError as error:
        complain(
            f"{error}: what was finished is kept; give the same command again when there is room "
            "and permission to write"
        )
        return NONE
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        # a usage error of typer's
        where = getattr(getattr(error, "ctx", None), "command_path", "copse")
        complain(f"{error.format_message().rstrip('.')}: see {where} --help")
        return MISUSE


if __name__ == "__main__":
    sys.exit(main())
