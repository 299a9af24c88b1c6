"""What the command writes for people to read: nothing in it steers their terminal."""

from __future__ import annotations

import logging
import sys

import typer

from search.plain_text import Formatter, harmless, one_line


def say(text: str, err: bool = False) -> None:
    """Write text, and the end of its last line, to stdout or to stderr."""
    typer.echo(harmless(text), err=err)


def complain(message: str) -> None:
    """Write a sentence on what is wrong to stderr, in one line."""
    say("copse: " + one_line(message), err=True)


def log_to_stderr() -> None:
    """Log warnings of all packages to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter("copse: %(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
