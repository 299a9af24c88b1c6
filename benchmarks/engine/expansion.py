"""Expanding the leaves of a forest: a few continuations of every context at once, where contexts
share what their ancestors are.

Tokens are the largest of logits plus Gumbel noise that is given, so that all engines must draw the
same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

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
            lengths[one], lengths[other] = tokens + more, tokens - more
        texts = [
            text + tuple(rng.integers(1, VOCABULARY, n).tolist())
            for text, n in zip(texts, lengths.tolist(), strict=True)
        ]
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
    found, last = 0, ()
    for text in sorted(texts):  # neighbours in order share the most
        same = next(
            (i for i, (a, b) in enumerate(zip(text, last, strict=False)) if a != b),
            min(len(text), len(last)),
        )
        found, last = found + len(text) - same, text
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
        found = [self._rows[slot] for slot in rows.tolist()]
        turns, places = (
            [len(row.tokens) for row in found],
            [self.places[row.request] for row in found],
        )
        tokens = (logits + self.noise[turns, places]).argmax(1)
        nothing, yes = np.zeros(len(rows), np.float32), np.ones(len(rows), bool)
        return Drawn(tokens, nothing, nothing, yes, yes)


class Expansion:
    """Our engine, which has read every context when it is made; a call continues each of them
    `kids` times.

    replies  of the last call;  read, stored, peak: what the engine counted until the first call had
             ended

    Before another call `forget`, else it finds what the last one read.
    """

    def __init__(self, model: Any, contexts: Sequence[Text], kids: int, noise: torch.Tensor):
        self.contexts, self.kids = [tuple(text) for text in contexts for _ in range(kids)], kids
        self.new, self.replies = len(noise), list[Reply]()
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
        self.engine.places = {request: place for place, request in enumerate(requests)}
        first = not self.replies
        self.replies = drained(self.engine, requests)
        if first:
            counts = self.engine.counts
            self.read, self.stored, self.peak = counts.read, counts.stored, counts.peak
        return torch.tensor([reply.result.tokens for reply in self.replies])


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
        state["ready"], state["used"] = [], []
        for _ in range(READY):
            made = Expansion(
                d["model"], [tuple(row) for row in d["ids"].tolist()], d["kids"], d["gumbel"]
            )
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
    ids, mask = (
        torch.zeros(len(contexts), longest, dtype=torch.int64),
        torch.zeros(len(contexts), longest, dtype=torch.int64),
    )
    for row, text in enumerate(contexts):
        ids[row, longest - len(text) :], mask[row, longest - len(text) :] = torch.tensor(text), 1
    sampled = {
        "do_sample": True,
        "top_k": 0,
        "num_return_sequences": kids,
        "max_new_tokens": new,
        "min_new_tokens": new,
    }
    return model.generate(ids, attention_mask=mask, **sampled)[:, longest:]
