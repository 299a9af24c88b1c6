"""Models behind the requests of `search`: an in-process engine, a scripted fake, servers, checkpoints and heads."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "Scripted": "scripted",
    "text_tokens": "scripted",
    "token_text": "scripted",
    "Engine": "engine",
    "Server": "server",
    "BoardNet": "boardnet",
    "Boards": "boardnet",
    "ValueHead": "heads",
    "load_head": "heads",
    "describe": "checkpoint",
    "load_model": "checkpoint",
    "save_model": "checkpoint",
    "version": "checkpoint",
}

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'models' has no {name!r}: it has {', '.join(_WHERE)}")
    return getattr(import_module(f"models.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_WHERE)
