"""`copse serve`: an OpenAI-compatible endpoint that answers with a search."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from search.arguments import check_budget, configured
from search.cli.shared_options import (
    METHOD_HELP,
    MODEL,
    Guided,
    Judged,
    ModelOptions,
    shares_options,
)
from search.scheduling.budget import Budget

KEY = "COPSE_API_KEY"


@shares_options(MODEL, temperature="Of sampling, where a request has none.")
def serve(
    *,
    guide: Guided = "builtin",
    value: Judged = None,
    method: Annotated[str, typer.Option(help=f"Of the model copse. {METHOD_HELP}")] = "mcts",
    budget: Annotated[
        str | None,
        typer.Option(
            help="The most that a search gets, such as tokens=2000,seconds=10. Default: the "
            "guide's own."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    searches: Annotated[
        int,
        typer.Option(
            min=1, help="Most searches, under way and waiting; who comes then is told to try later."
        ),
    ] = 256,
    body: Annotated[int, typer.Option(min=1, help="Most bytes of a request.")] = 1 << 20,
    options: ModelOptions,
) -> None:
    """Serve searches to OpenAI clients: chat completions, completions, models, metrics. Clients
    send the key in COPSE_API_KEY, if that is set.
    """
    try:
        import uvicorn

        from search.serving.app import Endpoint, Limits
    except ImportError as error:
        raise ValueError(
            f'copse serve needs {error.name}: pip install "copse-search[serve]"'
        ) from None
    configured(method, {})
    limit = None if budget is None else Budget.parse(budget)
    model = options.model(guide, value).checked()
    loaded = model.load()
    limit = limit or loaded.budget
    check_budget(limit, loaded)
    limits = Limits(limit, searches, body, os.environ.get(KEY) or None)
    app = Endpoint(loaded, limits, method, model.answer).app()
    uvicorn.run(app, host=host, port=port, log_level="info")
