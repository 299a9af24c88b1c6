"""Telling the numbers of each round to the programs with which people watch their runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Numbers = Mapping[str, float]


def check_tracker(name: str | None) -> None:
    """Raises ValueError for a tracker that is not known or not installed."""
    if name is None:
        return
    if name not in TRACKERS:
        raise ValueError(f"track is one of {', '.join(TRACKERS)}, not {name!r}: correct it")
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"{name} is not installed: install that package, or leave track out")


def track(name: str, out: Path, numbers: Numbers) -> None:
    """Add the numbers of a round ("round" among them) to the run of the folder `out`."""
    step = int(numbers["round"])
    told = {key: value for key, value in numbers.items() if isinstance(value, (int, float))}
    TRACKERS[name](out.resolve(), step, told)


def _tensorboard(out: Path, step: int, numbers: Numbers) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(out / "tensorboard")) as writer:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)


def _trackio(out: Path, step: int, numbers: Numbers) -> None:
    trackio: Any = importlib.import_module("trackio")
    trackio.init(project="copse", name=out.name, resume="allow")
    trackio.log(dict(numbers), step=step)
    trackio.finish()


def _wandb(out: Path, step: int, numbers: Numbers) -> None:
    wandb: Any = importlib.import_module("wandb")
    run = wandb.init(project="copse", name=out.name, id=out.name, dir=str(out), resume="allow")
    run.log(dict(numbers), step=step)
    run.finish()


TRACKERS: dict[str, Callable[[Path, int, Numbers], None]] = {
    "tensorboard": _tensorboard,
    "trackio": _trackio,
    "wandb": _wandb,
}
