"""Models behind the requests of `search`: an in-process engine, a scripted fake, servers,
checkpoints and heads.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pkgutil import extend_path
from typing import Any

try:
    from search.imports import absent, own
except ImportError as error:
    _place = getattr(sys.modules.get("search"), "__file__", None) or "another folder"
    raise ImportError(
        f"{_place} has the name of the package 'search' of Copse: rename it, or import copse first"
    ) from error

own("search")
__path__ = extend_path(__path__, __name__)  # and folders of the user's of this name

_WHERE = {
    "Scripted": "scripted",
    "text_tokens": "scripted",
    "token_text": "scripted",
    "Engine": "engine.engine",
    "Server": "server",
    "BoardNet": "boardnet",
    "Boards": "boardnet",
    "ValueHead": "checkpoints.heads",
    "load_head": "checkpoints.heads",
    "describe": "checkpoints.checkpoint",
    "load_model": "checkpoints.checkpoint",
    "save_model": "checkpoints.checkpoint",
    "version": "checkpoints.checkpoint",
}

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise absent("models", name)
    return getattr(import_module(f"models.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_WHERE)
