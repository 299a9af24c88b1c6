"""The command `copse`. Results go to stdout, everything else to stderr.

Exit codes: 0 an answer came and was not refuted; 1 none (of a file: any without), or traces could not be written; 2 wrong use;
130 after Ctrl-C, with all that was finished kept.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.flags import Model, check_use, search_arguments, unescape
from search.shadow import LAYERS, Shadowed, import_ours

if TYPE_CHECKING:
    from search.solution import Solution
    from search.trace import TraceWriter

OK, NONE, MISUSE, INTERRUPTED = 0, 1, 2, 130  # exit codes

app = typer.Typer(help="Solve problems by tree search over the steps of a language model.", add_completion=False)
train = typer.Typer(help="Train a model that guides searches.")
app.add_typer(train, name="train")


class Choice(str, Enum):
    """The choosers of `search.choose`."""

    majority = "majority"
    weighted = "weighted"
    best = "best"
    most_visited = "most_visited"


Depth = Annotated[int | None, typer.Option(min=1, show_default=False, help="Levels of the tree that are shown. [default: 10]")]
Width = Annotated[int | None, typer.Option(min=1, show_default=False, help="Steps shown below one node. [default: 5]")]


def _version(wanted: bool) -> None:
    if wanted:
        from search import __version__

        typer.echo(f"copse {__version__}")
        raise typer.Exit


@app.callback()
def _copse(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False) -> None:
    pass


@app.command()
def solve(
    problem: Annotated[
        str | None, typer.Argument(show_default=False, help='For example: "Use 4, 7, 8 and 8 to make 24."')
    ] = None,
    method: Annotated[str, typer.Option(help="mcts, beam, sample, or module:function of your own.")] = "mcts",
    budget: Annotated[
        str | None,
        typer.Option(
            help="Limits of one search, such as tokens=2000,seconds=10 (also calls, simulations). "
            "[default: the guide's; of the built-in model tokens=2000,seconds=120, of others tokens=20000,seconds=120]"
        ),
    ] = None,
    guide: Annotated[str, typer.Option(help="The model that proposes steps: a folder, a hub id, or builtin.")] = "builtin",
    value: Annotated[
        str | None, typer.Option(metavar="DIR", help="Another model, with a value head, that judges the steps.")
    ] = None,
    choose: Annotated[
        Choice | None, typer.Option(help="Which answer to give. [default: a verified one, else the weighted vote]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same tree.")] = 0,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Option of the method, such as branch=8. Can be repeated.")
    ] = None,
    tree: Annotated[bool, typer.Option("--tree", help="Print the search tree as well.")] = False,
    depth: Depth = None,
    width: Width = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
    traces: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Store the search trees here, for copse view and for training.")
    ] = None,
    input: Annotated[
        Path | None,
        typer.Option("--input", metavar="FILE", help="Solve a file of problems: a JSON object a line, with problem, and perhaps id and kind."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Where the results of --input go; those that are there are not searched again.")
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help=r"What ends a step of the model; \n is a line's end.")] = None,
    step_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of a step.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Most steps of a chain of thought.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="Of sampling; 0 is greedy.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What the model reads, with {problem} in it.")] = None,
    answer: Annotated[str | None, typer.Option(metavar="REGEX", help="Marks the answer in open text by its one group.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, ...")] = "auto",
    slots: Annotated[int, typer.Option(min=1, help="Rows that the model computes at once.")] = 64,
    verbose: Annotated[bool, typer.Option("--verbose", help="Tell on stderr what is done.")] = False,
) -> None:
    """Solve a problem: print the chain of thought, the answer and what it cost. With --input, solve a file of them."""
    if verbose:
        _tell()
    check_use(problem, input, output, tree, depth is not None or width is not None, as_json)
    language = {"delimiter": unescape(delimiter), "prompt": unescape(prompt)}
    language |= {"step_tokens": step_tokens, "max_steps": max_steps, "temperature": temperature}
    language = {name: setting for name, setting in language.items() if setting is not None}
    arguments = search_arguments(method, budget, choose and choose.value, seed, option or [])
    model = Model(guide, value, answer, {"device": device, "dtype": dtype, "slots": slots}, language).checked()
    writer = _writer(traces)
    if input is not None:
        code = _solve_file(input, output, model, arguments, writer)
    else:
        solution = _solve_one(problem or "", model, arguments, writer)
        if as_json:
            from search.jobs import to_json

            typer.echo(json.dumps(to_json(solution)))
        else:
            _print(solution, (depth, width) if tree else None)
        code = INTERRUPTED if solution.stopped == "interrupted" else OK if _succeeded(solution) else NONE
    raise typer.Exit(_closed(writer, code))
