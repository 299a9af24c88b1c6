"""How probable a model finds a chain of thought, as value function: the geometric mean of its
tokens' probabilities.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np

from guides.engines import EngineOptions, Loaded, loaded_of
from guides.policies.prompts import Prompts, prompting
from search.problem import Problem, State
from search.scheduling.requests import Backend, RequestFailed, Score
from search.scheduling.scheduler import ask, parallel

if TYPE_CHECKING:
    from guides.policies.lm import LM
    from models.server import Server


def mean_probability(log_probs: np.ndarray) -> float:
    """exp(mean log-prob) over the tokens whose log-prob is known: in [0, 1], nan where none is.

    The log-prob of a text divided by its length (Wu et al. 2016, section 7, alpha = 1), as a
    probability: one over its perplexity.
    """
    finite = log_probs[np.isfinite(log_probs)]
    if not len(finite):
        return math.nan
    return math.exp(min(0.0, float(finite.mean(dtype=np.float64))))


class Likelihood:
    """Value function: the mean token probability (`mean_probability`) of a chain's steps, given the
    problem.

    It tells how usual a chain is, not whether it is right: a yardstick for verifiers that have
    learned what is right.

    path    folder or hub id of a checkpoint, what `load_engine` gave, or a `models.Server` that
            tells the log-probs of a prompt
    policy  the `LM` of the same checkpoint: the tokens it sampled are read. None: each step's text
            is encoded anew with this model's tokenizer
    part    "chain": all steps so far;  "step": the last one, given those before it
    engine  device, dtype, slots and pool_tokens of `guides.load`
    """

    tokens = 0
    calls = 1

    def __init__(
        self,
        path: str | Path | Loaded | Server,
        policy: LM | None = None,
        part: str = "chain",
        *,
        delimiter: str | None = None,
        prompt: str | None = None,
        **engine: Unpack[EngineOptions],
    ):
        if part not in ("chain", "step"):
            raise ValueError(f"part={part!r} of a chain is unknown: give 'chain' or 'step'")
        self._loaded = loaded = loaded_of(path, **engine)
        self._policy = policy
        self._part = part
        self._delimiter: str = delimiter or loaded.settings.get("delimiter") or "\n\n"
        self._prompts = Prompts(loaded.tokenizer, *prompting(loaded.settings, prompt))
        self.version = f"likelihood-{part}-{loaded.version}"

    @property
    def backends(self) -> Mapping[str, Backend]:
        return {self._loaded.name: self._loaded.engine}

    async def evaluate(
        self, problem: Problem, states: Sequence[State], known: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """float32 [states] in [0, 1]; nan for a chain without steps, and where its request
        failed.
        """
        values = np.full(len(states), np.nan, np.float32)
        unknown = [i for i, state in enumerate(states) if len(state)]
        values[unknown] = await parallel(self._read(problem, states[i]) for i in unknown)
        return values

    async def _read(self, problem: Problem, state: State) -> float:
        if self._policy is not None:
            steps = list(map(attrgetter("tokens"), state))
            prompt = self._policy.tokens(problem, state[:0])
        else:
            steps = [self._encode(step.text) for step in state]
            prompt = self._prompts(problem.prompt(state))
        chain = tuple(itertools.chain.from_iterable(steps))
        judged = len(chain) if self._part == "chain" else len(steps[-1])
        try:
            scored = await ask(Score(prompt + chain, (), to=self._loaded.name))
        except RequestFailed:
            return math.nan
        return mean_probability(scored.log_probs[len(scored.log_probs) - judged :])

    def _encode(self, text: str) -> tuple[int, ...]:
        tokenizer = self._loaded.tokenizer
        return tuple(tokenizer.encode(text + self._delimiter, add_special_tokens=False))
