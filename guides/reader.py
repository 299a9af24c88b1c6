"""Reading traces as the engine of a checkpoint wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from guides.prompts import prompt_tokens
from models.text import BEFORE, Tail, Texts
from search.trace import Trace


class Reader:
    """Reads traces as the engine of the checkpoint in `folder` wrote them, with `settings` of its guide.json or of the search."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        generation = GenerationConfig.from_pretrained(folder) if (folder / "generation_config.json").exists() else None
        self._texts = Texts(self._tokenizer, SimpleNamespace(config=AutoConfig.from_pretrained(folder), generation_config=generation))
        self._delimiter, self._template = settings.get("delimiter") or "\n\n", settings.get("prompt")
        self._right: set[tuple[Any, ...]] = set()

    def prompt(self, trace: Trace) -> tuple[int, ...]:
        """The tokens that the policy read before the first step."""
        problem = trace.problem()
        return prompt_tokens(self._tokenizer, problem.prompt(problem.initial()), self._template, None)

    def check(self, trace: Trace) -> None:
        """Raises ValueError for a step whose tokens, followed one by one, do not end as a step and with its text."""
        ends = [() if self._texts.independent else self.prompt(trace)[-BEFORE:]]  # of each node: what its steps' texts depend on
        for node in range(1, len(trace.node_parent)):
            step, before = trace.steps[int(trace.node_edge[node])], ends[int(trace.node_parent[node])]
            key = (before, step.tokens, step.text, step.finish)
            ends.append(() if self._texts.independent else (*before, *step.tokens)[-BEFORE:])
            if key in self._right:
                continue
            tail = Tail(self._texts, (self._delimiter,), before)
            finishes = [self._add(tail, token) for token in step.tokens]
            ended = [i for i, finish in enumerate(finishes) if finish is not None]
            expected = [] if step.finish == "length" else [len(finishes) - 1]
            if tail.text != step.text or ended != expected or not finishes:
                raise ValueError(
                    f"the trace {trace.id} has a step {step.text[:60]!r} whose tokens are {tail.text[:60]!r} to this model, with the "
                    f"delimiter {self._delimiter!r}: it was made with another tokenizer or delimiter; give model and flags of the search"
                )
            self._right.add(key)

    def _add(self, tail: Tail, token: int) -> str | None:
        return tail.add(token) if token < len(self._tokenizer) else None
