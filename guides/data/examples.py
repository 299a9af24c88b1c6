"""Training examples on disk: trees of token segments, each with an imitation weight, a value label
and advantages, and pairs of which one is preferred.

A segment continues the one that is its parent, so branches share what they have in common: the
prompt is read once, however many answers follow it. A row is read in one pass, where each token
attends to its own segment and to that segment's ancestors (`guides.training.tree_attention`).

A file is an uncompressed `.npz`, written under another name and renamed when complete:

    tokens    uint16 or uint32 [tokens]    all examples, one after the other
    lengths   uint16 [segments]            tokens of each segment, at least 1
    weights   float32 [segments]           weight of its tokens' negative log-likelihood, at least 0
    values    float32 [segments]           value label in [0, 1] at its last token, nan: none
    spread    bool [segments]              the label stands at each of its tokens, not only at the
              last; older files: nowhere
    counts    float32 [segments]           outcomes that the label is the mean of; inf: the label is
              exact; without a label 0
    parents   int16 [segments]             index, within the example, of an earlier segment; -1: it
              begins the text
    segments  uint16 [examples]            segments of each example
    samples   float32 [segments]           samples that the policy gradient counts a segment as, at
              least 0; 0: it takes no part. This and what follows is missing in older files: no
              part
    positive  float32 [segments]           sum of those samples' advantages above 0
    negative  float32 [segments]           sum of those below 0
    free      bool [segments]              the KL of the policy loss leaves its tokens free
    log_probs float32 [tokens]             of each token when it was sampled, nan: unknown; a file
              without any has none
    pairs     int16 [pairs, 2]             indices, within the example, of a segment and of one that
              it is preferred to; a file without any has neither this nor
    paired    uint32 [examples]            pairs of each example
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from search.files.atomic import atomic


class Segment(NamedTuple):
    """value nan: no label; parent -1: none; outcomes: how many the value is the mean of, inf where
    it is exact.

    spread  the label stands at every token (Cobbe et al. 2021, "Training Verifiers to Solve Math
            Word Problems"), not only at the last
    samples, positive, negative
            as many samples of the policy went through the segment, with advantages of that sum
            above and below 0: two sums, because a bound on the ratio treats them differently
    log_probs  of its tokens under the distribution that they were sampled from; (): unknown
    over       segments of the example that it is preferred to, as the end of its text to the end of
               theirs; neither continues the other
    free       the KL of the policy loss does not hold it
    """

    tokens: Sequence[int]
    weight: float
    value: float
    parent: int
    outcomes: float = math.inf
    spread: bool = False
    samples: float = 0.0
    positive: float = 0.0
    negative: float = 0.0
    log_probs: Sequence[float] = ()
    over: Sequence[int] = ()
    free: bool = False


Row = dict[str, np.ndarray]
_ARRAYS = ("tokens", "lengths", "weights", "values", "counts", "parents", "segments")
#: arrays that older files do not have, a number a segment
_LATER = {
    "spread": bool,
    "samples": np.float32,
    "positive": np.float32,
    "negative": np.float32,
    "free": bool,
}


def write_examples(
    path: str | Path, examples: Iterable[Sequence[tuple]], block: int = 64, seed: int = 0
) -> None:
    """Write one file atomically, of examples made of `Segment`s or of tuples like them.

    Examples are sorted by length, cut into blocks of `block`, and the blocks shuffled by `seed`.
    A batch of `block` rows (or a divisor of it) read in order then needs next to no padding.
    """
    ordered = sorted(examples, key=lambda segments: sum(len(tokens) for tokens, *_ in segments))
    blocks = [ordered[i : i + block] for i in range(0, len(ordered), block)]
    order = np.random.default_rng(seed).permutation(len(blocks))
    flat: list[Segment] = []
    sizes = []
    for example in itertools.chain.from_iterable(blocks[i] for i in order):
        flat.extend(itertools.starmap(Segment, example))
        sizes.append(len(example))
    texts = list(map(attrgetter("tokens"), flat))
    tokens = np.fromiter(itertools.chain.from_iterable(texts), np.int64)

    def column(name: str, kind: type) -> np.ndarray:
        return np.fromiter(map(operator.attrgetter(name), flat), kind)

    values = column("value", np.float32)
    arrays: dict[str, Any] = {
        "tokens": tokens.astype(np.uint16 if tokens.max(initial=0) < 1 << 16 else np.uint32),
        "lengths": np.array(list(map(len, texts)), np.uint16),
        "weights": column("weight", np.float32),
        "values": values,
        "counts": np.where(np.isnan(values), np.float32(0), column("outcomes", np.float32)),
        "spread": column("spread", bool),
        "free": column("free", bool),
        "parents": column("parent", np.int16),
        "segments": np.array(sizes, np.uint16),
    }
    for name in ("samples", "positive", "negative"):
        arrays[name] = column(name, np.float32)
    if any(len(segment.log_probs) for segment in flat):
        arrays["log_probs"] = _log_probs(flat)
    if any(len(segment.over) for segment in flat):
        pairs = _pairs(flat, sizes)
        arrays["pairs"] = np.concatenate(pairs)
        arrays["paired"] = np.array(list(map(len, pairs)), np.uint32)
    with atomic(Path(path)) as part, part.open("wb") as file:
        np.savez(file, **arrays)


def written(segments: Sequence[Segment]) -> list[Segment]:
    """The segments of an example without those that are there for their value labels alone: what is
    imitated, compared or has advantages, and what comes before it.
    """
    kept = np.zeros(len(segments), bool)
    for segment in segments:
        kept[list(segment.over)] = True
    for i in range(len(segments) - 1, -1, -1):
        segment = segments[i]
        kept[i] |= segment.weight > 0 or segment.samples > 0 or bool(segment.over)
        if kept[i] and segment.parent >= 0:
            kept[segment.parent] = True
    place = np.cumsum(kept) - 1
    found = []
    for segment, stays in zip(segments, kept, strict=True):
        if stays:
            parent = int(place[segment.parent]) if segment.parent >= 0 else -1
            over = tuple(int(place[other]) for other in segment.over)
            found.append(segment._replace(parent=parent, over=over))
    return found


def _pairs(segments: Sequence[Segment], sizes: Sequence[int]) -> list[np.ndarray]:
    """int16 [pairs, 2] of each example."""
    found = []
    start = 0
    for size in sizes:
        own: list[tuple[int, int]] = []
        for i, segment in enumerate(segments[start : start + size]):
            own += [(i, other) for other in segment.over]
        found.append(np.array(own, np.int16).reshape(-1, 2))
        start += size
    return found


def _log_probs(segments: Sequence[Segment]) -> np.ndarray:
    """float32 [tokens] of all segments; nan: unknown."""
    parts = []
    for segment in segments:
        known = segment.log_probs or [math.nan] * len(segment.tokens)
        if len(known) != len(segment.tokens):
            raise ValueError(
                f"a segment of {len(segment.tokens)} tokens has {len(known)} log-probs: give one "
                "a token, or none"
            )
        parts.append(np.array(known, np.float32))
    return np.concatenate(parts)


class ExampleFile(Dataset[Row]):
    """One file as a sequence of rows of n tokens. Their segments stand depth first, so that what
    continues a token comes right behind it:

    tokens     int64 [n]
    weights    float32 [n], at least 0
    values     float32 [n], in [0, 1]; nan: no label
    counts     float32 [n], outcomes behind the label; inf: exact; 0 without a label
    previous   int64 [n], index of the token before it in its text; -1: none
    positions  int64 [n], tokens before it in its text
    ends       int64 [n], in [1, n], the first token behind it that does not continue it: token i
               attends to token j where j <= i < ends[j]
    samples    float32 [n], at least 0
    positive   float32 [n], at least 0
    negative   float32 [n], at most 0
    free       bool [n]
    log_probs  float32 [n], at most 0; nan: unknown
    pairs      int64 [pairs, 2], the last token of a text and of one that it is preferred to
    """

    def __init__(self, path: str | Path):
        try:
            with np.load(path) as file:
                arrays = {name: file[name] for name in _ARRAYS}
                for name, kind in _LATER.items():
                    blank = np.zeros(len(arrays["lengths"]), kind)
                    arrays[name] = file.get(name, blank)
                unknown = np.full(len(arrays["tokens"]), np.nan, np.float32)
                arrays["log_probs"] = file.get("log_probs", unknown)
                pairs = file.get("pairs", np.zeros((0, 2), np.int16))
                paired = file.get("paired", np.zeros(len(arrays["segments"]), np.uint32))
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise ValueError(
                f"{path} holds no training examples ({error}): write it again with write_examples"
            ) from None
        self.tokens = arrays["tokens"].astype(np.int64)
        self.weights = arrays["weights"]
        self.values = arrays["values"]
        self.counts = arrays["counts"]
        self.spread = arrays["spread"]
        self.samples = arrays["samples"]
        self.positive = arrays["positive"]
        self.negative = arrays["negative"]
        self.free = arrays["free"]
        self.log_probs = arrays["log_probs"]
        self.pairs = pairs.astype(np.int64)
        self.paired = np.concatenate([[0], np.cumsum(paired, dtype=np.int64)])
        self.lengths = arrays["lengths"].astype(np.int64)
        self.parents = arrays["parents"].astype(np.int64)
        self.segments = np.concatenate([[0], np.cumsum(arrays["segments"], dtype=np.int64)])
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])

    def __len__(self) -> int:
        return len(self.segments) - 1

    def __getitem__(self, index: int) -> Row:
        part = slice(self.segments[index], self.segments[index + 1])
        order = depth_first(self.parents[part])
        place = np.argsort(order)
        above = self.parents[part][order]
        parents = np.where(above < 0, -1, place[above])
        lengths = self.lengths[part][order]
        count = len(lengths)
        n = int(lengths.sum())
        firsts = np.cumsum(lengths) - lengths
        lasts = firsts + lengths - 1
        depths = np.zeros(count, np.int64)
        for i, parent in enumerate(parents):
            if parent >= 0:
                depths[i] = depths[parent] + lengths[parent]
        stops = lasts + 1
        for i in range(count - 1, -1, -1):
            if parents[i] >= 0:
                stops[parents[i]] = max(stops[parents[i]], stops[i])
        owner = np.repeat(np.arange(count), lengths)
        previous = np.arange(n) - 1
        previous[firsts] = np.where(parents >= 0, lasts[parents], -1)
        labelled = self.spread[part][order][owner]
        labelled[lasts] = True
        starts = self.starts[part][order]
        text = np.arange(n) + (starts - firsts)[owner]

        def spread(array: np.ndarray) -> np.ndarray:
            return array[part][order][owner]

        return {
            "tokens": self.tokens[text],
            "weights": spread(self.weights),
            "values": np.where(labelled, spread(self.values), np.float32(np.nan)),
            "counts": np.where(labelled, spread(self.counts), np.float32(0)),
            "previous": previous,
            "positions": np.arange(n) + (depths - firsts)[owner],
            "ends": stops[owner],
            "samples": spread(self.samples),
            "positive": spread(self.positive),
            "negative": spread(self.negative),
            "free": spread(self.free),
            "log_probs": self.log_probs[text],
            "pairs": lasts[place[self.pairs[self.paired[index] : self.paired[index + 1]]]],
        }


def depth_first(parents: Sequence[int] | np.ndarray) -> np.ndarray:
    """int64 [segments]: the segments, each followed by those below it. parents: as in a file."""
    children: dict[int, list[int]] = {}
    for i, parent in enumerate(parents):
        children.setdefault(int(parent), []).append(i)
    order = []
    left = children.get(-1, [])[::-1]
    while left:
        order.append(left.pop())
        left += children.get(order[-1], [])[::-1]
    return np.array(order, np.int64)


class Shards(Dataset[Row]):
    """`count` files of `size` examples each in `folder`; a missing one is made when it is first
    read.

    `make(i)` returns the examples of file i and must depend on nothing else, so a restart finds or
    makes the same.
    """

    def __init__(
        self,
        folder: str | Path,
        count: int,
        size: int,
        make: Callable[[int], Iterable[Sequence[Segment]]],
        block: int,
    ):
        self.folder = Path(folder)
        self.count = count
        self.size = size
        self.make = make
        self.block = block
        self._open: tuple[int, ExampleFile] | None = None

    def __len__(self) -> int:
        return self.count * self.size

    def __getitem__(self, index: int) -> Row:
        shard, row = divmod(index, self.size)
        if self._open is None or self._open[0] != shard:
            self._open = shard, ExampleFile(self.ensure(shard))
        return self._open[1][row]

    def path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}.npz"

    def ensure(self, shard: int) -> Path:
        """The file of a shard, made if it is missing."""
        path = self.path(shard)
        if not path.exists():
            write_examples(path, self.make(shard), self.block, seed=shard)
        return path


def collate(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows padded on the right to the longest, as tensors [rows, longest]; "pairs": int64 [pairs,
    3], the row and the two tokens of each.

    Padding has token 0, weight 0, value and log-prob nan, all else 0; as its `ends` are 0, nothing
    attends to it.
    """
    longest = max(len(row["tokens"]) for row in rows)
    batch = {}
    for name, first in rows[0].items():
        if name == "pairs":
            continue
        blank = np.nan if name in ("values", "log_probs") else 0
        padded = np.full((len(rows), longest), blank, first.dtype)
        for i, row in enumerate(rows):
            padded[i, : len(row[name])] = row[name]
        batch[name] = torch.from_numpy(padded)
    pairs = [np.insert(row["pairs"], 0, i, axis=1) for i, row in enumerate(rows)]
    batch["pairs"] = torch.from_numpy(np.concatenate(pairs))
    return batch
