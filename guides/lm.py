"""A language model as policy: it writes the next step of the chain of thought."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from guides.likelihood import mean_probability
from guides.loading import Loaded, loaded_of
from guides.prompts import prompt_tokens
from search.asks import Asks, ask, parallel
from search.guide import PRECISION, Proposal, normalise
from search.problem import IllegalStep, Problem, State, Step, TextStep, apply
from search.requests import Avoided, Backend, Generate, Generated, NothingLeft, RequestFailed

if TYPE_CHECKING:
    from models.server import Server

log = logging.getLogger(__name__)


class LM:
    """Policy: samples steps from a causal language model.

    path         folder or hub id of a checkpoint, "builtin", what `load_engine` gave, or a `models.Server`
    delimiter    ends a step;  step_tokens: the most tokens of one;  max_steps: the most steps of a chain
    prompt       template with `{problem}`; None: the checkpoint's own, else its chat template, else the plain statement
    instruction  what a chat model is told after the statement
    temperature, top_k, top_p, min_p   of sampling; temperature 0 is greedy. Priors are of the model itself, at temperature 1
    values       give the head's value with each step (`guides.load` does); without a head the step's mean token probability
                 stands in: exp(mean log-prob), in [0, 1], of the tokens whose log-prob is known
    """

    def __init__(
        self,
        path: str | Path | Loaded | Server,
        *,
        device: str = "auto",
        dtype: str = "auto",
        slots: int = 64,
        pool_tokens: int | None = None,
        delimiter: str | None = None,
        step_tokens: int | None = None,
        max_steps: int | None = None,
        prompt: str | None = None,
        instruction: str | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        values: bool = False,
    ):
        self._loaded = loaded = loaded_of(path, device, dtype, slots, pool_tokens)
        if loaded.published:
            raise ValueError(
                f"{path} is a reward model ({loaded.architecture}), which judges and does not write: give it as value function"
            )
        settings = loaded.settings
        self.delimiter: str = delimiter or settings.get("delimiter") or "\n\n"
        self.step_tokens: int = _positive("step_tokens", step_tokens or settings.get("step_tokens") or 256)
        self.max_steps: int = _positive("max_steps", max_steps or settings.get("max_steps") or 40)
        if temperature < 0:
            raise ValueError(f"temperature={temperature} is impossible: give 0 (greedy) or more")
        self._template = prompt or settings.get("prompt")
        if self._template is not None and "{problem}" not in self._template:
            raise ValueError(f"the prompt {self._template!r} has no place for the problem: write {{problem}} where it goes")
        self._sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        self._instruction = instruction
        self._values = values
        self._prompt = lru_cache(maxsize=4096)(self._encode_prompt)

    @property
    def chain_tokens(self) -> int:
        return self.step_tokens * self.max_steps

    @property
    def stepwise(self) -> bool:
        """Whether it goes on from any step: not a chat server that answers in whole turns alone."""
        found = getattr(self._loaded.engine, "capabilities", None)
        return found is None or found.stepwise

    @property
    def version(self) -> str:
        return self._loaded.version

    @property
    def backends(self) -> Mapping[str, Backend]:
        return {self._loaded.name: self._loaded.engine}

    def propose(
        self, problem: Problem, state: State, n: int, rng: np.random.Generator, avoid: Sequence[Avoided] = ()
    ) -> Asks[list[Proposal]]:
        """Up to `n` distinct steps: `n` samples, equal ones once; none of them among `avoid`, but from a server, which cannot avoid.

        [] at `max_steps` and where the model has nothing beside `avoid`. Raises RequestFailed if all requests failed.
        """
        if len(state) >= self.max_steps:
            return []
        count = 1 if self._sampling["temperature"] == 0 else n
        replies = yield from parallel(_attempt(self._request(problem, state, seed, avoid)) for seed in _seeds(rng, count))
        results = [reply for reply in replies if isinstance(reply, Generated)]
        if not results:
            if any(isinstance(reply, NothingLeft) for reply in replies):
                return []
            raise next(reply for reply in replies if isinstance(reply, RequestFailed))
        distinct: dict[Any, list[Generated]] = {}
        for result in results:
            step = _step(result)
            try:
                key = problem.key(state, step)
            except IllegalStep:
                key = ("illegal", step.text)
            distinct.setdefault(key, []).append(result)
        firsts = [same[0] for same in distinct.values()]
        log_probs = np.array([float(result.log_probs.sum(dtype=np.float64)) for result in firsts])
        known = np.isfinite(log_probs).all()
        priors = normalise(log_probs) if known else np.array([len(same) for same in distinct.values()]) / len(results)
        return [
            Proposal(_step(same[0]), float(log_prob), float(prior), self._value(same[0]), _drawn(same))
            for same, log_prob, prior in zip(distinct.values(), log_probs, priors, strict=True)
        ]

    def complete(self, problem: Problem, state: State, rng: np.random.Generator) -> Asks[list[Step]]:
        """Sample on, step by step, until the chain is finished, a step is illegal (it is the last one given) or `max_steps`."""
        steps: list[Step] = []
        while not problem.is_terminal(state) and len(state) < self.max_steps:
            try:
                result = yield from ask(self._request(problem, state, _seeds(rng, 1)[0]))
            except RequestFailed:
                if not steps:
                    raise
                break
            steps.append(_step(result))
            try:
                state = yield from apply(problem, state, steps[-1])
            except RequestFailed:
                break
            if state is None:
                break
        return steps

    def tokens(self, problem: Problem, state: State) -> tuple[int, ...]:
        """What the model reads: the prompt and the sampled tokens of all steps, never encoded again."""
        prompt = self._prompt(problem.prompt(state))
        return prompt + tuple(token for step in state for token in step.tokens)

    def _request(self, problem: Problem, state: State, seed: int, avoid: Sequence[Avoided] = ()) -> Generate:
        prompt = self.tokens(problem, state)
        options = {**self._sampling, "seed": seed, "avoid": tuple(avoid), "to": self._loaded.name}
        return Generate(prompt, (self.delimiter,), self.step_tokens, **options)

    def _encode_prompt(self, statement: str) -> tuple[int, ...]:
        return prompt_tokens(self._loaded.tokenizer, statement, self._template, self._instruction)

    def _value(self, result: Generated) -> float:
        if not self._values:
            return math.nan
        value = result.value if self._loaded.has_head else mean_probability(result.log_probs)
        return value if math.isnan(value) else min(1.0, max(0.0, round(value / PRECISION) * PRECISION))


def _attempt(request: Generate) -> Asks[Generated | RequestFailed]:
    try:
        return (yield from ask(request))
    except RequestFailed as error:
        return error


def _step(result: Generated) -> TextStep:
    return TextStep(result.text, result.tokens, result.finish)


def _drawn(results: Sequence[Generated]) -> tuple[Avoided, ...]:
    """What was sampled, once each; without those whose log-probs are unknown."""
    found = {result.tokens: tuple(result.log_probs.tolist()) for result in results if np.isfinite(result.log_probs).all()}
    return tuple(Avoided(tokens, log_probs) for tokens, log_probs in found.items())


def _seeds(rng: np.random.Generator, n: int) -> list[int]:
    return [int(seed) for seed in rng.integers(2**63, size=n)]


def _positive(name: str, number: int) -> int:
    if number < 1:
        raise ValueError(f"{name}={number} is impossible: give a whole number from 1 on")
    return int(number)
