"""Models in engines, and behind servers. Engines are shared: loading the same checkpoint twice
gives the same one.
"""

from __future__ import annotations

import gc
import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from models.checkpoints.head_layouts import LAYOUTS, OWN, architecture, head_layout
from models.engine.threads import cores, suitable

if TYPE_CHECKING:
    from models.engine.engine import Engine
    from models.server import Server

log = logging.getLogger(f"copse.{__name__}")


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in an engine, or a model behind a server.

    settings   what its `guide.json` says, {} without one
    version    `models.version` of the checkpoint, with "/bfloat16" or "/float16" where it is
               computed in that; traces keep it
    published  the kind of head of a published reward model (`models.checkpoints.head_layouts`), ""
               for all else
    architecture  its class, as config.json says
    """

    engine: Engine | Server
    tokenizer: Any
    settings: dict[str, Any]
    version: str
    has_head: bool
    published: str = ""
    architecture: str = ""

    @property
    def head(self) -> str | None:
        """The kind of its value head, None without one."""
        if not self.has_head:
            return None
        return self.published or OWN

    @property
    def name(self) -> str:
        """The name of its backend in this process."""
        return f"lm-{self.version}-{id(self.engine):x}"


class EngineOptions(TypedDict, total=False):
    """How a checkpoint is put into an engine, where it is not loaded already (`load_engine`)."""

    device: str
    dtype: str
    slots: int
    pool_tokens: int | None


_cache: dict[tuple[Any, ...], Loaded] = {}
_lock = threading.Lock()


def locate(path: str | Path) -> str:
    """Where a checkpoint is: the folder of "builtin", else `path` itself, a folder or a hub id."""
    if str(path) == "builtin":
        return str(Path(__file__).resolve().parent.parent / "models" / "builtin")
    return str(path)


def settings(path: str | Path) -> dict[str, Any]:
    """What the checkpoint's `guide.json` says (kinds, budget, delimiter, ...), {} without one.
    Loads no model.

    Raises ValueError that says what to do where the folder or its files are missing or broken.
    """
    from models.checkpoints.checkpoint import describe

    return describe(locate(path))


def load_engine(
    path: str | Path,
    device: str = "auto",
    dtype: str = "auto",
    slots: int = 64,
    pool_tokens: int | None = None,
) -> Loaded:
    """The checkpoint in an engine with `slots` rows (and other `Engine` options). Raises ValueError
    for a missing or broken one.

    A model on a CPU sets torch's number of threads (`models.engine.threads`), unless
    OMP_NUM_THREADS is set. What was loaded, its float type and the threads are logged.
    """
    from models.checkpoints.checkpoint import check_size, load_model, resolve, version
    from models.engine.engine import Engine

    place = locate(path)
    described = settings(place)
    check_size(place, device, dtype)
    digest = version(place)  # reads all of it
    key = (digest, device, dtype, slots, pool_tokens)
    with _lock:
        if key not in _cache:
            model, tokenizer, head, _ = load_model(
                place, device=device, dtype=dtype, trainable=False
            )
            _set_threads(model)
            engine = Engine(model, tokenizer, head=head, slots=slots, pool_tokens=pool_tokens)
            _report(place, engine)
            folder = resolve(place)
            layout = head_layout(folder)
            name = digest
            computed = str(engine.model.dtype).removeprefix("torch.")
            if computed != "float32":
                name += f"/{computed}"
            _cache[key] = Loaded(
                engine,
                tokenizer,
                described,
                name,
                has_head=head is not None,
                published=layout if layout in LAYOUTS else "",
                architecture=architecture(folder),
            )
        return _cache[key]


def load_server(
    url: str,
    model: str,
    tokenizer: str | Path | None = None,
    connections: int = 64,
    timeout: float = 600.0,
) -> Loaded:
    """The model that an OpenAI-compatible server serves. Raises ValueError as `models.Server` does.

    tokenizer  folder or hub id of the model's tokenizer; None: `model` is one. A folder's
               `guide.json` counts
    timeout    seconds that a request may take in all, repetitions included
    """
    from models.server import Server

    described = served_settings(model if tokenizer is None else tokenizer)
    key = (url, model, str(tokenizer), connections, timeout)
    with _lock:
        if key not in _cache:
            server = Server(url, model, tokenizer, connections=connections, timeout=timeout)
            _cache[key] = of_server(server, described)
        return _cache[key]


def of_server(server: Server, settings: dict[str, Any] | None = None) -> Loaded:
    """A server as guides take it. Its version names the model: what stands behind the name is
    the server's affair.
    """
    return Loaded(server, server.tokenizer, settings or {}, f"server:{server.model}", False)


def loaded_of(
    given: str | Path | Loaded | Server,
    device: str = "auto",
    dtype: str = "auto",
    slots: int = 64,
    pool_tokens: int | None = None,
) -> Loaded:
    """What a guide is made from: a checkpoint, one that is loaded already, or a server. The options
    count for a checkpoint alone.
    """
    if isinstance(given, Loaded):
        return given
    if isinstance(given, (str, Path)):
        return load_engine(given, device, dtype, slots, pool_tokens)
    return of_server(given)


def served_settings(place: str | Path) -> dict[str, Any]:
    """The settings of a served model: of its folder, if it stands here with a `guide.json`; else
    {}.
    """
    if not (Path(place) / "guide.json").exists():
        return {}
    return settings(place)


def unload(path: str | Path) -> None:
    """Forget the checkpoint's engines: their memory is free once no guide uses them."""
    import torch

    from models.checkpoints.checkpoint import version

    digest = version(locate(path))
    with _lock:
        for key in list(_cache):
            if key[0] == digest:
                del _cache[key]
    gc.collect()  # a guide's cached prompts refer to it
    torch.cuda.empty_cache()  # nothing without CUDA


def _set_threads(model: Any) -> None:
    """Let a model on a CPU compute with as many threads as suit it and the machine
    (`models.engine.threads`).
    """
    import torch

    if model.device.type != "cpu":
        return
    count = suitable(model.num_parameters())
    if count is not None:
        torch.set_num_threads(count)


def _report(place: str, engine: Engine) -> None:
    """Say what was loaded: the float type and the number of threads are chosen here, and a trace
    keeps the former.
    """
    import torch

    model = engine.model
    kind = str(model.dtype).removeprefix("torch.")
    device = str(model.device)
    if device == "cpu":
        device += f" with {torch.get_num_threads()} of {cores()} cores"
    level = logging.DEBUG if place == locate("builtin") else logging.INFO
    size = model.num_parameters() / 1e6
    log.log(
        level,
        "%s: %.0f M parameters, computed in %s on %s, by the forward %r",
        place,
        size,
        kind,
        device,
        engine.path,
    )
