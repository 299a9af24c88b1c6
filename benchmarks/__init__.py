"""Benchmarks: problems with their targets, and what measures search, models and guides on them.
Nobody imports this package.
"""

from __future__ import annotations

import sys
from pkgutil import extend_path
from typing import NoReturn

try:
    from search.imports import absent, own
except ImportError as error:
    _place = getattr(sys.modules.get("search"), "__file__", None) or "another folder"
    raise ImportError(
        f"{_place} has the name of the package 'search' of Copse: rename it, or import copse first"
    ) from error

own("search")
__path__ = extend_path(__path__, __name__)  # and folders of the user's of this name


def __getattr__(name: str) -> NoReturn:
    raise absent("benchmarks", name)
