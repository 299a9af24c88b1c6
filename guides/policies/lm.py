"""A language model as policy: it writes the next step of the chain of thought."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np

from guides.engines import EngineOptions, Loaded, loaded_of
from guides.policies.prompts import Prompts, plain_tokens, prompting
from guides.policies.steps import blank_line, whole_step
from search.chain import GIVEN, chain_of, chain_tokens, cut_text, token_count
from search.final_answer import thinking
from search.guide import PRECISION, Proposal
from search.parts import given
from search.problem import IllegalStep, Problem, State, Step, TextStep, apply
from search.scheduling.requests import (
    Avoided,
    Backend,
    Generate,
    Generated,
    NothingLeft,
    RequestFailed,
    check_sampling,
)
from search.scheduling.scheduler import Asks, ask, parallel

if TYPE_CHECKING:
    from models.server import Server

log = logging.getLogger(f"copse.{__name__}")

# of a model that says nothing of itself
STEP_TOKENS = 256
MAX_STEPS = 40
#: of sampling from a model that says nothing of itself: at 1, small models leave the subject
TEMPERATURE = 0.8
NO_LIMIT = 1 << 30  #: tokens of a context whose size is unknown


class EngineAndTruncation(EngineOptions, total=False):
    """Options of the engine, and which of the unlikely tokens are never sampled."""

    top_k: int
    top_p: float
    min_p: float


class LM:
    """Policy: samples steps from a causal language model.

    path         folder or hub id of a checkpoint, "builtin", what `load_engine` gave, or a
                 `models.Server`
    delimiter    ends a step; a blank line does not within a block (`guides.policies.steps`)
    step_tokens  the most tokens of a step;  max_steps: the most steps of a chain
    prompt       template with `{problem}`; None: the checkpoint's own, else its chat template, else
                 the plain statement
    instruction  what a chat model is told after the statement; None: the checkpoint's own, else to
                 put its answer into a box
    system       the chat's system turn; None: the checkpoint's own, else what the chat template
                 says without one
    temperature  of sampling, 0 is greedy; None: 1 for a model that was trained on our problems, 0.8
                 for others
    values       give the value head's value with each step (`guides.load` does); nan without a head
    top_k, top_p, min_p  of sampling. Priors are of the model itself, at temperature 1
    device, dtype, slots, pool_tokens  of the engine, as `guides.load` takes them

    ends  regular expression of what ends a chain beside a box, by what the model was asked for;
          None: nothing

    Raises ValueError for options that are impossible; `propose` and `complete` do for a problem
    that leaves no room in the context.
    """

    def __init__(
        self,
        path: str | Path | Loaded | Server,
        *,
        delimiter: str | None = None,
        step_tokens: int | None = None,
        max_steps: int | None = None,
        prompt: str | None = None,
        instruction: str | None = None,
        system: str | None = None,
        temperature: float | None = None,
        values: bool = False,
        **options: Unpack[EngineAndTruncation],
    ):
        truncation = {
            "top_k": options.pop("top_k", 0),
            "top_p": options.pop("top_p", 1.0),
            "min_p": options.pop("min_p", 0.0),
        }
        # what is left is of the engine
        self._loaded = loaded = loaded_of(path, **cast(EngineOptions, options))
        if loaded.published:
            raise ValueError(
                f"{path} is a reward model ({loaded.architecture}), which judges and does "
                "not write: give it as value function"
            )
        settings = loaded.settings
        self.delimiter: str = delimiter or settings.get("delimiter") or "\n\n"
        self.step_tokens: int = _positive(
            "step_tokens", step_tokens or settings.get("step_tokens") or STEP_TOKENS
        )
        self.max_steps: int = _positive(
            "max_steps", max_steps or settings.get("max_steps") or MAX_STEPS
        )
        if temperature is None:
            temperature = 1.0 if settings.get("kinds") else TEMPERATURE
        self._sampling: dict[str, Any] = {"temperature": temperature, **truncation}
        check_sampling(**self._sampling)
        told = {
            "delimiter": delimiter, "prompt": prompt, "instruction": instruction, "system": system,
            "step_tokens": step_tokens, "max_steps": max_steps,
        }  # fmt: skip
        self.language = {name: value for name, value in told.items() if value is not None}
        template, own_instruction, own_system = prompting(settings, prompt)
        if instruction is None:
            instruction = own_instruction
        if system is None:
            system = own_system
        self._prompts = Prompts(loaded.tokenizer, template, instruction, system)
        self.ends = self._prompts.ends
        self._blocks = blank_line(self.delimiter)
        self._values = values
        self._ends = frozenset(getattr(loaded.tokenizer, "all_special_ids", ()))
        self._prompt = lru_cache(maxsize=4096)(self._encode_prompt)
        self._turn = lru_cache(maxsize=256)(self._prompts.turn)

    @property
    def greedy(self) -> bool:
        """Whether it has one step for each state, however often it is asked."""
        return self._sampling["temperature"] == 0

    def sampled(self, **settings: Any) -> LM:
        """This policy with other settings of sampling (temperature, top_k, top_p, min_p), on the
        same engine. Raises ValueError.
        """
        sampling = {**self._sampling, **settings}
        check_sampling(**sampling)
        other = copy.copy(self)
        other._sampling = sampling
        return other

    def longer(self, times: int) -> LM:
        """This policy with chains of so many times the steps, on the same engine."""
        other = copy.copy(self)
        other.max_steps = self.max_steps * times
        return other

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

    async def propose(
        self,
        problem: Problem,
        state: State,
        n: int,
        rng: np.random.Generator,
        avoid: Sequence[Avoided] = (),
    ) -> list[Proposal]:
        """Up to `n` distinct steps: `n` samples, equal ones once; none of them among `avoid`, but
        from a server, which cannot avoid.

        [] at `max_steps`, at the end of the context, and where the model has nothing beside
        `avoid`. A step of several blocks takes a request for each. Raises RequestFailed if all
        requests failed.
        """
        if self._full(problem, state):
            return []
        count = 1 if self.greedy else n
        replies = await parallel(
            _attempt(self._sample(problem, state, seed, avoid)) for seed in _seeds(rng, count)
        )
        results: list[Generated] = []
        failures: list[RequestFailed] = []
        for reply in replies:
            if isinstance(reply, Generated):
                results.append(reply)
            else:
                failures.append(reply)
        if not results:
            if any(isinstance(failure, NothingLeft) for failure in failures):
                return []
            raise failures[0]
        distinct: dict[Any, list[Generated]] = {}
        for result in results:
            step = self._step(problem, state, result)
            try:
                key = problem.key(state, step)
            except IllegalStep:
                key = ("illegal", step.text)
            distinct.setdefault(key, []).append(result)
        proposals = []
        for same in distinct.values():
            first = same[0]
            proposal = Proposal(
                self._step(problem, state, first),
                float(first.log_probs.sum(dtype=np.float64)),
                len(same) / len(results),
                self._value(first),
                _drawn(same),
            )
            proposals.append(proposal)
        return proposals

    async def complete(
        self, problem: Problem, state: State, rng: np.random.Generator
    ) -> list[Step]:
        """Sample on, step by step, until the chain is finished, a step is illegal (it is the
        last one given), or there is no more room.
        """
        steps: list[Step] = []
        while not problem.is_terminal(state) and not self._full(problem, state):
            step = given(self, problem, state)
            try:
                if step is None:
                    step = self._step(
                        problem, state, await self._sample(problem, state, _seeds(rng, 1)[0])
                    )
            except RequestFailed:
                if not steps:
                    raise
                break
            steps.append(step)
            try:
                state = await apply(problem, state, steps[-1])
            except RequestFailed:
                break
            if state is None:
                break
        return steps

    def given(self, problem: Problem, state: State, line: str) -> TextStep:
        """A line that the search puts behind `state`: for a chat model a user's turn, behind which
        its own next turn begins; where the problem has no turns, a line of the model's own.
        """
        if not getattr(problem, "turns", True):
            ended = not state or state[-1].finish in ("stop", "last", GIVEN)
            text = f"{line}{self.delimiter}" if ended else f"{self.delimiter}{line}{self.delimiter}"
            tokens = plain_tokens(self._loaded.tokenizer, text)
            thought = state[-1].thought if state else self._prompts.thinking
            return TextStep(line, tokens, GIVEN, thought)
        before = chain_tokens(state[-1:]) if state else ()
        return TextStep(line, self._turn(line, self.delimiter, before[-1:]), GIVEN)

    def tokens(self, problem: Problem, state: State) -> tuple[int, ...]:
        """What the model reads: the prompt and the sampled tokens of all steps, never encoded
        again.
        """
        return self._prompt(problem.prompt(state)) + chain_tokens(state)

    async def _sample(
        self, problem: Problem, state: State, seed: int, avoid: Sequence[Avoided] = ()
    ) -> Generated:
        """One step from `state`."""
        prompt = self.tokens(problem, state)
        request = Generate(
            prompt,
            (self.delimiter,),
            min(self.step_tokens, self._context - len(prompt)),
            **self._sampling,
            seed=seed,
            avoid=tuple(avoid),
            to=self._loaded.name,
        )
        if not self._blocks:
            return await ask(request)

        def ended(result: Generated) -> bool:
            if not getattr(problem, "open_answers", False):
                return False
            return problem.is_terminal(chain_of(state).then(self._step(problem, state, result)))

        return await whole_step(request, cut_text(state), self._decode, ended)

    def _full(self, problem: Problem, state: State) -> bool:
        """Whether a chain takes no more steps: it has them all, or fills the context."""
        if len(state) >= self.max_steps:
            return True
        prompt = self._prompt(problem.prompt(state))
        return len(prompt) + token_count(state) >= self._context

    @property
    def _context(self) -> int:
        """Tokens that the model takes at once; a server does not tell."""
        return int(getattr(self._loaded.engine, "context", NO_LIMIT))

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self._loaded.tokenizer.decode(
            list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def _step(self, problem: Problem, state: State, result: Generated) -> TextStep:
        """What was sampled from `state`, as a step."""
        finish = result.finish
        tokens = result.tokens
        log_probs = result.sampled_log_probs
        turns = getattr(problem, "turns", True)
        if finish == "end" and not turns and tokens[-1:] and tokens[-1] in self._ends:
            tokens = tokens[:-1]  # the turn may go on
            log_probs = log_probs[: len(tokens)]
        if finish == "stop" and len(state) + 1 >= self.max_steps:
            finish = "last"
        before = state[-1].thought if state else self._prompts.thinking
        thought = thinking(cut_text(state) + result.text, before)
        known: tuple[float, ...] = ()
        # a server may not tell, and rounding may lift a certain token a little above 0
        if np.isfinite(log_probs).all():
            known = tuple(np.minimum(log_probs, 0).tolist())
        return TextStep(result.text, tokens, finish, thought, known)

    def _encode_prompt(self, statement: str) -> tuple[int, ...]:
        tokens = self._prompts(statement)
        if len(tokens) >= self._context:
            raise ValueError(
                f"the prompt has {len(tokens)} tokens, and the context takes "
                f"{self._context}: shorten the problem, "
                "or give a model with a longer context (or a larger pool_tokens, if that is "
                "what limits it)"
            )
        return tokens

    def _value(self, result: Generated) -> float:
        if not self._values:
            return math.nan
        if math.isnan(result.value):
            return math.nan
        return min(1.0, max(0.0, round(result.value / PRECISION) * PRECISION))


async def _attempt(sampled: Asks[Generated]) -> Generated | RequestFailed:
    try:
        return await sampled
    except RequestFailed as error:
        return error


def _drawn(results: Sequence[Generated]) -> tuple[Avoided, ...]:
    """What was sampled, once each; without those whose log-probs are unknown."""
    found: dict[tuple[int, ...], Avoided] = {}
    for result in results:
        if np.isfinite(result.log_probs).all():
            log_probs = tuple(result.log_probs.tolist())
            found[result.tokens] = Avoided(result.tokens, log_probs)
    return tuple(found.values())


def _seeds(rng: np.random.Generator, n: int) -> list[int]:
    seeds: list[int] = rng.integers(2**63, size=n).tolist()
    return seeds


def _positive(name: str, number: int) -> int:
    if number < 1:
        raise ValueError(f"{name}={number} is impossible: give a whole number from 1 on")
    return int(number)
