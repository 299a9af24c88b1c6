"""Small sweeps over planted problems."""

from __future__ import annotations

import random

import numpy as np
from fakes import generated, scripted_guide

from search.scheduling.requests import Scored


def guesser(request):
    """A model that thinks a line and guesses 0 to 3: right half the time; the value of a right
    guess is higher, but not always.
    """
    prompt = "".join(map(chr, request.prompt if hasattr(request, "prompt") else request.tokens))
    rng = random.Random(f"{prompt}|{getattr(request, 'seed', 0)}")
    right = int(prompt.split()[1]) % 3
    if not hasattr(request, "prompt"):
        value = 0.9 if f"#### {right}" in prompt else 0.2
        return Scored(
            np.zeros(len(request.tokens), np.float32),
            np.zeros((1, 0), np.float32),
            np.full(1, value, np.float32),
        )
    text = (
        f"line {rng.randrange(9)}"
        if prompt.count("\n") < 2
        else f"#### {right if rng.random() < 0.5 else rng.randrange(4)}"
    )
    return generated(text, value=rng.random(), log_prob=-rng.random(), limit=request.max_tokens)


def ask(**policy):
    return scripted_guide(guesser, **policy)
