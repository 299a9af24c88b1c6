"""Expanding the leaves of a forest: a few continuations of every context at once, where contexts
share what their ancestors are.

Tokens are the largest of logits plus Gumbel noise that is given, so that all engines must draw the
same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from operator import attrgetter
from typing import Any

import numpy as np
import torch

from benchmarks.engine.texts import common
from benchmarks.engine.workloads import VOCABULARY, drained, tokenizer
from models import Engine
from models.engine.sampling import Drawn
from search.scheduling.requests import Generate, Reply

Text = tuple[int, ...]
READY = 6  # engines that `tree_expand` makes


def forest(
    levels: Sequence[tuple[int, int]], trees: int, spread: float = 0.0, seed: int = 1
) -> list[Text]:
    """The texts of all leaves, tree by tree.

    levels  (children, tokens): each node of the level above has so many children with so many
            tokens; of the root itself first, 1 child
    spread  a node's length is drawn from (1 - spread) to (1 + spread) times `tokens`, and lengths
            of a level sum to what they would have summed to without; in [0, 1)
    """
    rng = np.random.default_rng(seed)
    texts: list[Text] = [()] * trees
    for children, tokens in levels:
        texts = [text for text in texts for _ in range(children)]
        lengths = np.full(len(texts), tokens)
        most = int(spread * tokens)
        for one, other in zip(
            *rng.permutation(len(texts))[: len(texts) // 2 * 2].reshape(2, -1), strict=True
        ):
            more = int(rng.integers(-most, most + 1))  # what one has more, another has less
            lengths[one] = tokens + more
            lengths[other] = tokens - more
        for place, length in enumerate(lengths.tolist()):
            texts[place] += tuple(rng.integers(1, VOCABULARY, length).tolist())
    return texts


def shapes(trees: int, leaves: int, shared: int, own: int) -> dict[str, list[Text]]:
    """Forests to compare: equal and unequal lengths of two levels, ten levels of the same
    context, nothing shared.
    """
    splits = leaves.bit_length() - 1
    if 1 << splits != leaves or splits > 9:
        raise ValueError(
            f"leaves={leaves}: give a power of two up to 512, which ten levels can split into"
        )
    each = max(1, (shared + own) // 10)
    # the last levels split in two
    doubling = [(1 + (level > 9 - splits), each) for level in range(10)]
    return {
        "two levels": forest([(1, shared), (leaves, own)], trees),
        "unequal lengths": forest([(1, shared), (leaves, own)], trees, spread=0.75),
        "ten levels": forest(doubling, trees),
        "nothing shared": forest([(1, shared + own)], trees * leaves),
    }


def distinct(texts: Sequence[Text]) -> int:
    """Tokens of all texts, those of a shared beginning once."""
    found = 0
    last: Text = ()
    for text in sorted(texts):  # neighbours in order share the most
        found += len(text) - common(text, last)
        last = text
    return found


def gumbel(new: int, sequences: int, vocabulary: int = VOCABULARY) -> torch.Tensor:
    """float32 [new, sequences, vocabulary]: standard Gumbel numbers, the same every time."""
    uniform = torch.rand(
        new, sequences, vocabulary, generator=torch.Generator().manual_seed(1)
    ).clamp_(1e-9, 1 - 1e-6)
    return -torch.log(-torch.log(uniform))


class Noisy(Engine):
    """An engine that draws with the noise it is given.

    noise   float32 [new, sequences, vocabulary]
    places  which sequence each running request is
    """

    noise: np.ndarray
    places: dict[Any, int]

    def _pick(self, logits: np.ndarray, rows: np.ndarray) -> Drawn:
        turns = []
        places = []
        for slot in rows.tolist():
            row = self._rows[slot]
            turns.append(len(row.tokens))
            places.append(self.places[row.request])
        tokens = (logits + self.noise[turns, places]).argmax(1)
        nothing = np.zeros(len(rows), np.float32)
        yes = np.ones(len(rows), bool)
        return Drawn(tokens, nothing, nothing, yes, yes)


class Expansion:
    """Our engine, which has read every context when it is made; a call continues each of them
    `kids` times.

    replies  of the last call;  read, stored, peak: what the engine counted until the first call had
             ended

    Before another call `forget`, else it finds what the last one read.
    """

    def __init__(self, model: Any, contexts: Sequence[Text], kids: int, noise: torch.Tensor):
        self.contexts = [tuple(text) for text in contexts for _ in range(kids)]
        self.kids = kids
        self.new = len(noise)
        self.replies: list[Reply] = []
        room = distinct(contexts) + len(self.contexts) * self.new
        self.engine = Noisy(model, tokenizer(), slots=len(self.contexts), pool_tokens=room)
        self.engine.noise = noise.numpy()
        self.read = self.stored = self.peak = 0
        self.forget()

    def forget(self) -> None:
        """Begin again with the contexts alone."""
        self.engine.clear()
        reading = [Generate(text, max_tokens=1) for text in self.contexts[:: self.kids]]
        self.engine.places = dict.fromkeys(reading, 0)
        drained(self.engine, reading)

    def __call__(self) -> torch.Tensor:
        """int64 [sequences, new]."""
        requests = [Generate(text, max_tokens=self.new) for text in self.contexts]
        self.engine.places = dict(zip(requests, count()))
        first = not self.replies
        self.replies = drained(self.engine, requests)
        if first:
            counts = self.engine.counts
            self.read = counts.read
            self.stored = counts.stored
            self.peak = counts.peak
        return torch.tensor(list(map(attrgetter("result.tokens"), self.replies)))


def tree_expand(d: dict[str, Any]) -> torch.Tensor:
    """What `tree_kv_bench.py --engine benchmarks.engine.run:tree_expand` calls: int64 [sequences,
    new].

    d  model; ids, int64 [leaves, context]; kids; gumbel, float32 [new, sequences, vocabulary];
       state, a dictionary kept between calls

    The first call makes engines that have read the contexts, warmed up; each of the next calls
    takes another one, so that none finds what an earlier call generated. When all are used up, a
    call reads the contexts too, which makes it slower.
    """
    state = d["state"]
    if not state:
        state["ready"] = []
        state["used"] = []
        contexts = list(map(tuple, d["ids"].tolist()))
        for _ in range(READY):
            made = Expansion(d["model"], contexts, d["kids"], d["gumbel"])
            found = made()
            made.forget()
            state["ready"].append(made)
        return found
    if not state["ready"]:
        state["used"][0].forget()
        state["ready"].append(state["used"].pop(0))
    state["used"].append(state["ready"].pop())
    return state["used"][-1]()  # type: ignore[no-any-return]


def by_generate(model: Any, contexts: Sequence[Text], kids: int, new: int) -> torch.Tensor:
    """int64 [sequences, new] by `generate` with `num_return_sequences`, which samples by itself;
    short contexts are padded on the left.
    """
    longest = max(map(len, contexts))
    ids = torch.zeros(len(contexts), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(contexts):
        ids[row, longest - len(text) :] = torch.tensor(text)
        mask[row, longest - len(text) :] = 1
    sampled = {
        "do_sample": True,
        "top_k": 0,
        "num_return_sequences": kids,
        "max_new_tokens": new,
        "min_new_tokens": new,
    }
    return model.generate(ids, attention_mask=mask, **sampled)[:, longest:]
