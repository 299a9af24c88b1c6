"""Whether a forward pass of the engine computes what the model itself computes: a few ordinary
texts, and how far rounding may go.

Rounding is measured on the model itself. One copy of the texts is read as it is, others with every
number of their embeddings off by one in its last place, at random: all that is rounded on the way
is then rounded another way, so that they differ by what the model's own arithmetic leaves open on
these texts (Monte Carlo arithmetic; Parker 1997), other experts of a mixture included. That takes
no second copy of the weights in another float type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

LENGTH = 16  #: tokens of each text
COPIES = 2  #: of the texts, that are shaken
FACTOR = 4.0  #: how many times as far from the model as its own rounding a pass may be
#: of the largest logit: less counts as nothing, as models in float64, too, take a softmax in
#: float32
LEAST = 2.0**-18
TEXTS = (
    "The old lighthouse keeper walked down to the harbour every morning, before the first "
    "boats came in, and counted the gulls.",
    "Tom has 12 boxes with 7 pens in each. He gives away 15 pens. 12 * 7 = 84, and 84 - 15 = "
    "69, so he has 69 pens left.",
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += "
    "value\n    return total / len(values)\n",
)


def texts(tokenizer: Any, vocabulary: int) -> list[list[int]]:
    """Prose, sums and code as tokens below `vocabulary`, each of `LENGTH` tokens at least."""
    found = []
    for text in TEXTS:
        tokens = [int(token) % vocabulary for token in tokenizer.encode(text)] or [0]
        found.append((tokens * LENGTH)[: max(LENGTH, len(tokens))])
    return found


class Trial:
    """What a model says to some texts, and how sure its own arithmetic makes it.

    texts   int64 [texts, length]
    rows, tokens  rows and cells of a pool that a pass needs to read them, and the first one's last
                  token once more
    """

    def __init__(self, model: Any, texts: list[list[int]], length: int):
        length = max(3, length)
        self.texts = np.array([(text * length)[:length] for text in texts], np.int64)
        self.rows = len(self.texts) + 1
        self.tokens = self.texts.size + 1
        ids = torch.from_numpy(self.texts).to(model.device)
        embeddings = model.get_input_embeddings()
        count = len(ids)
        hook = embeddings.register_forward_hook(lambda module, given, found: _shaken(found, count))
        try:
            logits = model(input_ids=ids.repeat(1 + COPIES, 1), use_cache=False).logits.float()
        finally:
            hook.remove()
        self._logits, *others = logits.split(count)
        most = torch.stack([_apart(self._logits, other) for other in others]).amax(0)
        self._open = FACTOR * most + LEAST * float(self._logits.abs().max())

    def fault(self, logits: torch.Tensor) -> str | None:
        """What is wrong with a pass's logits, [texts, length, vocabulary]; None: they are the
        model's, as far as it knows them itself.
        """
        for apart, allowed in zip(
            _apart(self._logits, logits.float()).tolist(), self._open.tolist(), strict=True
        ):
            if not apart <= allowed:
                return (
                    f"its logits would differ by {apart:.2g}, where the model's own rounding "
                    f"explains {allowed:.2g}"
                )
        return None


def _apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """How far two passes' logits are apart at a token of the middle, where all are wrong, and at
    the worst, where some are: float32 [2].

    A token's distance is the root of the mean square over the vocabulary.
    """
    distances = (a - b).square().mean(-1).sqrt().flatten()
    return torch.stack([distances.median(), distances.max()])


def _shaken(found: torch.Tensor, count: int) -> torch.Tensor:
    """The embeddings of texts, all but the first `count` off by one unit in the last place, up
    or down at random.
    """
    noise = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, found[count:].shape, generator=noise).to(found.device) * 2 - 1
    shaken = found[count:].double() * (1 + signs * torch.finfo(found.dtype).eps)
    return torch.cat([found[:count], shaken.to(found.dtype)])
