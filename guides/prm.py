"""A process reward model as value function: the value head of a language model, read at the end of the last step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from guides.lm import LM
from guides.loading import Loaded, loaded_of
from guides.prompts import prompt_tokens
from search.asks import Asks, ask, parallel
from search.problem import Problem, State
from search.requests import Backend, RequestFailed, Score


class PRM:
    """Value function: sigmoid of a linear head on the last hidden state after the last step.

    path    folder of a checkpoint with a value head, or what `load_engine` gave. Raises ValueError where there is no head
    policy  the `LM` of the same checkpoint, whose passes already give the value of each step; None: every state is read by a
            request of its own, each step's text encoded anew with this model's tokenizer
    """

    tokens = 0
    calls = 1

    def __init__(
        self,
        path: str | Path | Loaded,
        policy: LM | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        slots: int = 64,
        pool_tokens: int | None = None,
        delimiter: str | None = None,
        prompt: str | None = None,
    ):
        self._loaded = loaded = loaded_of(path, device, dtype, slots, pool_tokens)
        if not loaded.has_head:
            raise ValueError(f"{path} has no value head (value_head.safetensors): train one, or use it as a policy only with guides.LM")
        self._policy = policy
        self._delimiter = delimiter or loaded.settings.get("delimiter") or "\n\n"
        self._template = prompt or loaded.settings.get("prompt")
        self._encode = lru_cache(maxsize=65_536)(self._encode_text)

    @property
    def version(self) -> str:
        return self._loaded.version

    @property
    def backends(self) -> Mapping[str, Backend]:
        return {self._loaded.name: self._loaded.engine}

    def evaluate(self, problem: Problem, states: Sequence[State], known: np.ndarray, rng: np.random.Generator) -> Asks[np.ndarray]:
        """float32 [states] in [0, 1]; nan where its request failed. What is known from the policy's own pass is not asked again."""
        values = known.astype(np.float32) if self._policy is not None else np.full(len(states), np.nan, np.float32)
        unknown = [i for i in range(len(states)) if math.isnan(values[i])]
        values[unknown] = yield from parallel(self._read(problem, states[i]) for i in unknown)
        return values

    def _read(self, problem: Problem, state: State) -> Asks[float]:
        tokens = self._policy.tokens(problem, state) if self._policy is not None else self._own_tokens(problem, state)
        try:
            scored = yield from ask(Score(tokens, (len(tokens) - 1,), log_probs=False, to=self._loaded.name))
        except RequestFailed:
            return math.nan
        return float(scored.values[0])

    def _own_tokens(self, problem: Problem, state: State) -> tuple[int, ...]:
        prompt = prompt_tokens(self._loaded.tokenizer, problem.prompt(state), self._template, None)
        return prompt + tuple(token for step in state for token in self._encode(step.text + self._delimiter))

    def _encode_text(self, text: str) -> tuple[int, ...]:
        return tuple(self._loaded.tokenizer.encode(text, add_special_tokens=False))
