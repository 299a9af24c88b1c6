"""Process reward models as value functions: a score at the end of every step, made one value of
the chain.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from guides.engines import EngineOptions, Loaded, loaded_of
from guides.policies.lm import LM
from guides.policies.prompts import Prompts, prompting
from guides.values.prm_formats import FORMATS, Format, check_aggregate, choose_format
from guides.values.prm_reader import Marked, Reader, Reading
from search.problem import Problem, State
from search.scheduling.requests import Backend, RequestFailed, Score, Scored, failure
from search.scheduling.scheduler import ask, parallel

log = logging.getLogger(f"copse.{__name__}")

#: share of pairs of chains told apart from which on a value is good enough to pick favourites by
TELLING = 0.75


class PRM:
    """Value function: the probabilities that a model gives to the steps of a chain, as one number.

    path       folder of a checkpoint, a hub id, or what `load_engine` gave
    policy     the `LM` of the same checkpoint, whose passes already give the value of each step,
               and whose tokens are read; for heads of ours. None: every state is read by a request
               of its own, in the model's format and with its tokenizer. Only what is new goes
               through the model: all that a chain shares with one read before is remembered
    format     how the model reads a chain: a name in `guides.values.prm_formats.FORMATS`, the path
               of a JSON file, or a `Format`. None: what the checkpoint's guide.json says, or what
               its class leaves no doubt of
    aggregate  "last", "min", "prod" or "mean" of the steps' scores. None: what guide.json says,
               else the format's own
    delimiter, prompt   of our own format: what ends a step, and what stands before the first one,
                        with {problem} in it
    engine     device, dtype, slots and pool_tokens of `guides.load`

    A problem that holds the format's marker is refused with ValueError
    (`guides.values.prm_reader`). A chain with a step that does, and one longer than the model's
    context, has value nan, and a warning says so: it is never shortened. Raises ValueError for a
    format that is missing, unknown or another head's.
    """

    tokens = 0
    calls = 1

    def __init__(
        self,
        path: str | Path | Loaded,
        policy: LM | None = None,
        *,
        format: str | Path | Format | None = None,
        aggregate: str | None = None,
        delimiter: str | None = None,
        prompt: str | None = None,
        **engine: Unpack[EngineOptions],
    ):
        if aggregate is not None:
            check_aggregate(aggregate)
        self._loaded = loaded = loaded_of(path, **engine)
        settings = loaded.settings
        where = loaded.version if isinstance(path, Loaded) else str(path)
        chosen = choose_format(format, settings, loaded.head, loaded.architecture, where)
        own = replace(chosen, name="copse", aggregate="last") == FORMATS["copse"]
        if own:
            ending = delimiter or settings.get("delimiter") or "\n\n"
            chosen = replace(chosen, step="{step}" + ending)
        elif policy is not None or delimiter is not None or prompt is not None:
            raise ValueError(
                f"policy, delimiter and prompt are for heads of ours, but {where} reads in "
                f"the format {chosen.name!r}: leave them out"
            )
        prompts = None
        if chosen.prompt is None:
            prompts = Prompts(loaded.tokenizer, *prompting(settings, prompt))
        self._reader = Reader(chosen, loaded.tokenizer, prompts)
        self._aggregate: str = aggregate or settings.get("aggregate") or chosen.aggregate
        self._policy = policy
        self._warned = False
        within = settings.get("within")
        if within is not None and within < TELLING:
            log.warning(
                "%s: its values tell right from wrong chains of one problem in only %.0f of "
                    "100 pairs: picking its favourite (choose=best, "
                "beam, mcts) may do harm, use the weighted vote", where, 100 * within,
            )  # fmt: skip

    @property
    def _of_policy(self) -> bool:
        """Whether a value is the one that comes with the policy's own pass."""
        return self._policy is not None and self._aggregate == "last"

    @property
    def version(self) -> str:
        """The checkpoint's content hash, its format and the aggregation, such as "0123456789abcdef
        qwen#1a2b3c4d min"; the hash alone for the last value of the policy's own head.
        """
        if self._of_policy:
            return self._loaded.version
        return f"{self._loaded.version} {self._reader.format.label} {self._aggregate}"

    @property
    def backends(self) -> Mapping[str, Backend]:
        return {self._loaded.name: self._loaded.engine}

    async def evaluate(
        self, problem: Problem, states: Sequence[State], known: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """float32 [states] in [0, 1]; nan where its request failed, and for a chain without steps
        of which the format says nothing.

        What is known from the policy's own pass is not asked again, if the last step is all that
        counts.
        """
        values = np.full(len(states), np.nan, np.float32)
        if self._of_policy:
            values = known.astype(np.float32)
        unknown = np.flatnonzero(np.isnan(values)).tolist()
        values[unknown] = await parallel(self._judge(problem, states[i]) for i in unknown)
        return values

    async def _judge(self, problem: Problem, state: State) -> float:
        try:
            tokens, positions = self._read(problem, state)
        except Marked as error:
            if not self._warned:
                self._warned = True
                log.warning("a chain could not be judged, its value is unknown: %s", error)
            return math.nan
        if not positions:
            return math.nan
        if self._aggregate == "last":
            positions = positions[-1:]
        try:
            scored = await ask(
                Score(tokens, positions, self._reader.read, log_probs=False, to=self._loaded.name)
            )
        except RequestFailed as error:
            if failure(error) is not None and not self._warned:
                self._warned = True
                log.warning("a chain could not be judged, its value is unknown: %s", error)
            return math.nan
        return aggregated(self._aggregate, _scores(scored))

    def _read(self, problem: Problem, state: State) -> Reading:
        """The policy's own tokens, or the texts of the steps but blank ones, which end a chain
        and say nothing.
        """
        if self._policy is None:
            texts = tuple(step.text for step in state if step.text.strip())
            return self._reader(problem.prompt(state), texts)
        tokens = self._policy.tokens(problem, state)
        at = len(tokens)
        positions = []
        for step in reversed(state):
            positions.append(at - 1)
            at -= len(step.tokens)
        return tokens, tuple(positions[::-1]) or (at - 1,)


class ORM(PRM):
    """Value function of an outcome verifier: it judges finished chains, as `PRM` does with the last
    score.

    Unfinished ones, of which it has learned nothing, keep what the policy knows, else 1/2: a search
    goes by its priors there.
    """

    def __init__(self, path: str | Path | Loaded, **options: Any):
        super().__init__(path, **{"aggregate": "last", **options})

    async def evaluate(
        self, problem: Problem, states: Sequence[State], known: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """As `PRM.evaluate`, of finished states."""
        values = np.where(np.isnan(known), np.float32(0.5), known).astype(np.float32)
        finished = [i for i, state in enumerate(states) if problem.is_terminal(state)]
        values[finished] = await super().evaluate(
            problem, [states[i] for i in finished], known[finished], rng
        )
        return values

    @property
    def version(self) -> str:
        return f"{super().version} finished"


def aggregated(aggregate: str, scores: np.ndarray) -> float:
    """One value in [0, 1] of the scores of a chain's steps, float64 [steps], at least one."""
    if aggregate == "last":
        return float(scores[-1])
    if aggregate == "min":
        return float(scores.min())
    if aggregate == "prod":
        return float(scores.prod())
    return float(scores.mean())


def _scores(scored: Scored) -> np.ndarray:
    """float64 [positions] in [0, 1]: the head's, or the softmax over the logits of two tokens,
    of the first.
    """
    if scored.reads.shape[1] == 0:
        return scored.values.astype(np.float64)
    good, bad = scored.reads.astype(np.float64).T
    return np.exp(good - np.logaddexp(good, bad))  # type: ignore[no-any-return]
