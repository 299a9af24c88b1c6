"""Where compiled kernels are kept: in the user's cache folder, never in the installed package.

The folder is `copse` in `NUMBA_CACHE_DIR`, else in `XDG_CACHE_HOME`, else in `~/.cache`, else one
of the user's own among the temporary files. In it, each source folder has a folder of kernels for
each version of the sources, `search-1f0c...`. Installations of the same version share them. Of each
source folder the last used versions are kept, and of all only so many bytes.

Where nothing can be written, kernels are compiled in memory by each process.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import caching

from search.imports import LAYERS

log = logging.getLogger(f"copse.{__name__}")

VERSIONS = 3  #: versions of the sources whose kernels are kept
BYTES = 128 * 2**20  #: of all kernels together

_HOME = Path(__file__).resolve().parent.parent.parent


def keep(dispatcher: Any) -> Any:
    """Have Numba load the function from the cache, and store it there; returns `dispatcher`.

    As `cache=True` of `numba.njit`, which would write beside the source: a folder of kernels that
    an installation leaves behind would still be imported as a package.
    """
    if folder() is not None and os.path.exists(dispatcher.py_func.__code__.co_filename):
        dispatcher._cache = _Cache(dispatcher.py_func)
    return dispatcher


@functools.cache
def folder() -> Path | None:
    """The folder of all kernels; None, with a warning, where none can be written."""
    places = _places()
    for place in places:
        if _writable(place):
            return place
    log.warning(
        "kernels are compiled anew in each process, because %s cannot be written: set "
        "NUMBA_CACHE_DIR to a folder of yours",
        " and ".join(map(str, places)),
    )
    return None


def kept(place: Path) -> int:
    """How many compiled functions of these sources, this Python and this Numba are in the folder
    `place`.
    """
    ours = set(map(_version, LAYERS))
    count = 0
    for found in place.iterdir():
        if found.name.rpartition("-")[2] in ours:
            count += len(list(found.glob("*.nbc")))
    return count


def _places() -> list[Path]:
    """The folder that NUMBA_CACHE_DIR names and no other, else all that may be taken, best
    first.
    """
    if numba.config.CACHE_DIR:
        return [Path(numba.config.CACHE_DIR) / "copse"]
    places = []
    if os.environ.get("XDG_CACHE_HOME"):
        places.append(Path(os.environ["XDG_CACHE_HOME"]) / "copse")
    if os.environ.get("HOME"):
        places.append(Path(os.environ["HOME"]) / ".cache" / "copse")
    user = os.getuid() if hasattr(os, "getuid") else "user"
    places.append(Path(tempfile.gettempdir()) / f"copse-{user}")
    return places


def _writable(place: Path) -> bool:
    """Whether `place` is a folder of this user's that can be written. Makes it where it is
    missing.
    """
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
        # kernels are code, so those of nobody else are loaded
        return not hasattr(os, "getuid") or place.stat().st_uid == os.getuid()
    except OSError:
        return False


@functools.cache
def _version(package: str) -> str:
    """Sixteen letters that change with the kernels of `search` and of another package beside it.

    They change with the versions of Python and Numba as well.
    Of the sources, those count that mention Numba: an edit elsewhere compiles nothing again.
    """
    versions = f"{sys.version_info[:2]} {numba.__version__} {llvmlite.__version__}"
    found = hashlib.sha256(versions.encode())
    for name in sorted({"search", package}):
        for path in sorted((_HOME / name).rglob("*.py")):
            content = path.read_bytes()
            if b"numba" in content.lower():
                found.update(path.relative_to(_HOME).as_posix().encode())
                found.update(content)
    return found.hexdigest()[:16]


@functools.cache
def _content(source: str) -> str:
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()


def _folder_of(source: Path) -> str:
    """The name of the folder for kernels of one source file."""
    if not source.is_relative_to(_HOME):  # the user's own
        place = hashlib.sha256(str(source.parent).encode()).hexdigest()[:8]
        return f"{source.parent.name}_{place}-{_version('search')}"
    parts = source.relative_to(_HOME).parent.parts
    return f"{'_'.join(parts)}-{_version(parts[0] if parts else 'search')}"


class _Locator(caching._SourceFileBackedLocatorMixin, caching._CacheLocator):  # type: ignore[misc]
    def __init__(self, function: Callable[..., Any], source: str):
        self._py_file = source
        self._lineno = function.__code__.co_firstlineno
        place = folder()
        assert place is not None
        self._path = place / _folder_of(Path(source).resolve())

    def get_cache_path(self) -> str:
        return str(self._path)

    def get_source_stamp(self) -> str:
        return _content(self._py_file)

    def ensure_cache_path(self) -> None:
        _use(self._path)

    @classmethod
    def from_function(cls, function: Callable[..., Any], source: str) -> _Locator:
        return cls(function, source)


class _Implementation(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


class _Cache(caching.FunctionCache):  # type: ignore[misc]
    """Numba's cache of one function, in the folder above.

    What cannot be read is compiled again, what cannot be written is not kept.
    """

    _impl_class = _Implementation

    def load_overload(self, signature: Any, context: Any) -> Any:
        _use(Path(self.cache_path), make=False)
        try:
            return super().load_overload(signature, context)
        except Exception as error:  # a damaged file may raise anything
            log.info(
                "%s is compiled again: %s cannot be read (%s)", self._name, self.cache_path, error
            )
            with contextlib.suppress(OSError):
                self.flush()
            return None

    def save_overload(self, signature: Any, data: Any) -> None:
        try:
            super().save_overload(signature, data)
        except Exception as error:  # a full disk, or a damaged index that cannot be written again
            _warn_unkept(str(error) or type(error).__name__)


@functools.cache
def _warn_unkept(reason: str) -> None:
    log.warning("kernels cannot be kept, and each process compiles them anew: %s", reason)


_used: set[Path] = set()


def _use(path: Path, make: bool = True) -> None:
    """Note, once in a process, that the kernels in `path` are in use.

    make  make the folder where it is missing, and remove what is too much beside it
    """
    if make and not path.is_dir():
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        trim(path.parent)
    if path not in _used and path.is_dir():
        _used.add(path)
        os.utime(path)


def trim(place: Path, versions: int = VERSIONS, size: int = BYTES) -> None:
    """Remove the kernels that were not used for longest.

    Those of the last `versions` of each source folder are kept, and `size` bytes of all together.
    Another process that uses what was removed compiles it again.
    """
    newest = sorted(filter(Path.is_dir, place.iterdir()), key=_last_use, reverse=True)
    kept: dict[str, int] = defaultdict(int)
    total = 0
    for found in newest:
        source = found.name.rpartition("-")[0]
        kept[source] += 1
        total += sum(map(_size, found.glob("*")))
        unversioned = not source  # folders as they were named before
        if kept[source] > versions or total > size or unversioned:
            shutil.rmtree(found, ignore_errors=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # another process has removed it
        return 0


def _last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
