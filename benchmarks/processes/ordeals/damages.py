"""Files with a bit flipped or their end cut off: noticed or harmless, and never taken for something
else.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.processes.ordeals.runs import (
    Scene,
    Trial,
    ended,
    same_as_undisturbed,
    start,
    to,
    whole_lines,
)
from search import Trace
from search.files.problems_file import Results


def result_lines(scene: Scene) -> Iterator[Trial]:
    """The result lines that a run goes on from: what is read is what was written. A line that is
    whole and not read, and an error that is no sentence, are faults too.
    """
    whole = (scene.solved / "o").read_bytes()
    written = whole_lines(scene.solved / "o")
    values = list(map(json.loads, written))
    path = scene.folder / "damaged-lines"
    for _ in range(scene.damages):
        path.write_bytes(_damaged(whole, scene.rng))
        intact = set(written) & set(whole_lines(path))
        try:
            found = Results(path)
            found.close()
        except ValueError:
            yield Trial(noticed=True)
            continue
        except Exception as error:
            yield Trial([f"{type(error).__name__} instead of a sentence"])
            continue
        lines = whole_lines(path)
        lost = intact - set(lines)
        faults = [f"{len(lost)} lines that were whole are lost"] if lost else []
        # an escape or an exponent may be written otherwise and be the same
        other = [row for row in map(json.loads, lines) if row not in values]
        if other:
            faults.append(f"{len(other)} results were read as others")
        yield Trial(faults, noticed=len(lines) < len(written), unseen=bool(other))


def traces(scene: Scene) -> Iterator[Trial]:
    """A shard of traces: what is read from it is what was written."""
    (shard,) = (scene.solved / "t").glob("*.parquet")
    written = {trace.id: trace for trace in Trace.load(shard)}
    whole = shard.read_bytes()
    path = scene.folder / "damaged.parquet"
    for _ in range(scene.damages):
        path.write_bytes(_damaged(whole, scene.rng))
        try:
            found = Trace.load(path)
        except Exception as error:
            yield Trial([f"{type(error).__name__} instead of a warning"])
            continue
        other = [trace.id for trace in found if trace != written.get(trace.id)]
        faults = [f"{len(other)} traces were read as others"] if other else []
        yield Trial(faults, noticed=len(found) < len(written), unseen=bool(other))


def weights(scene: Scene) -> Iterator[Trial]:
    """The weights of the built-in model, and the list of their digests."""
    import models
    from models.checkpoints.checkpoint import load_model
    from models.checkpoints.digests import SUMS

    folder = scene.folder / "damaged-model"
    shutil.copytree(Path(models.__file__).parent / "builtin", folder)
    files = [*sorted(folder.glob("*.safetensors")), folder / SUMS]
    for _ in range(scene.damages):
        path = files[scene.rng.integers(len(files))]
        whole = path.read_bytes()
        path.write_bytes(_damaged(whole, scene.rng))
        try:
            load_model(folder, device="cpu", trainable=False)
            yield Trial([f"{path.name} was loaded with another content"], unseen=True)
        except ValueError:
            yield Trial(noticed=True)
        except Exception as error:
            yield Trial([f"{path.name}: {type(error).__name__} instead of a sentence"])
        path.write_bytes(whole)


def kernels(scene: Scene) -> Iterator[Trial]:
    """The cache of compiled kernels, with some files cut off or empty: the run compiles them again
    and finds what it finds with a whole cache.
    """
    from search.kernels.kernel_cache import folder as kept

    cache = kept()
    if cache is None:
        return
    assert scene.solved.exists()  # that run has filled the cache
    copy = scene.folder / "cache"
    shutil.copytree(cache, copy / "copse")
    files = sorted(copy.rglob("*.nb[ci]"))
    for number in scene.rng.permutation(len(files))[: scene.damages].tolist():
        whole = files[number].read_bytes()
        files[number].write_bytes(_cut(whole, scene.rng))
    folder = scene.folder / "cut-cache"
    run = start([*scene.solve, *to("o", "t")], folder, NUMBA_CACHE_DIR=str(copy))
    faults = ended(run, (0, 1))
    yield Trial([*faults, *same_as_undisturbed(scene, folder)])


def _damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    """The content with one bit flipped, or, once in four times, without its end."""
    return _cut(whole, rng) if rng.random() < 0.25 else _flipped(whole, rng)


def _cut(whole: bytes, rng: np.random.Generator) -> bytes:
    return whole[: int(rng.integers(len(whole)))]


def _flipped(whole: bytes, rng: np.random.Generator) -> bytes:
    content = bytearray(whole)
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    return bytes(content)
