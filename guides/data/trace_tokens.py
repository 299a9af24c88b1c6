"""Reading traces as the engine of a checkpoint wrote them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from guides.policies.prompts import Prompts, prompting
from guides.policies.steps import behind, blank_line, goes_on
from models.checkpoints.foreign import read_by
from models.detokenizer import BEFORE, Tail, Texts
from search.chain import GIVEN
from search.problem import Problem, TextStep
from search.trace import Trace


class TraceReader:
    """Reads traces as the engine of the checkpoint in `folder` wrote them, with `settings` of
    its guide.json or of the search.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self._tokenizer = read_by(AutoTokenizer, folder)
        config = read_by(AutoConfig, folder)
        generation = None
        if (folder / "generation_config.json").exists():
            generation = GenerationConfig.from_pretrained(folder)
        model = SimpleNamespace(config=config, generation_config=generation)
        self._texts = Texts(self._tokenizer, model)
        self._delimiter = settings.get("delimiter") or "\n\n"
        self._blocks = blank_line(self._delimiter)
        self._prompts = Prompts(self._tokenizer, *prompting(settings))
        self._right: set[tuple[Any, ...]] = set()

    def prompt(self, problem: Problem) -> tuple[int, ...]:
        """The tokens that the policy read before the first step."""
        return self._prompts(problem.prompt(problem.initial()))

    def encode(self, line: str) -> tuple[int, ...]:
        """The tokens of a line that nobody sampled, with its delimiter."""
        text = line + self._delimiter
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def turn(self, line: str, before: Sequence[int]) -> tuple[int, ...]:
        """The tokens of a line that a search put behind these (`guides.policies.lm.LM.given`)."""
        return self._prompts.turn(line, self._delimiter, tuple(before[-1:]))

    def check(self, trace: Trace) -> None:
        """Raises ValueError for a step whose tokens, followed one by one, do not end as a step
        and with its text.
        """
        independent = self._texts.independent
        # of each node: what its steps' texts depend on
        contexts: list[tuple[int, ...]] = [()]
        if not independent:
            contexts = [self.prompt(trace.problem())[-BEFORE:]]
        cuts = [""]  # of each node: the text of its last steps, if they were cut off
        for node in range(1, len(trace.node_parent)):
            step = trace.steps[int(trace.node_edge[node])]
            parent = int(trace.node_parent[node])
            before = contexts[parent]
            cut = cuts[parent]
            if step.finish == GIVEN:
                contexts.append(() if independent else (*before, *step.tokens)[-BEFORE:])
                cuts.append("")
                continue
            key = (before, cut, step.tokens, step.text, step.finish)
            # the next one may go on in the middle of a character
            unfinished = step.finish == "length"
            if independent and not unfinished:
                contexts.append(())
            else:
                contexts.append((*before, *step.tokens)[-BEFORE:])
            cuts.append(cut + step.text if unfinished else "")
            if key in self._right:
                continue
            text, whole = self._follow(step, before, cut)
            if text != step.text or not whole:
                raise ValueError(
                    f"the trace {trace.id} has a step {step.text[:60]!r} whose tokens are "
                    f"{text[:60]!r} to this model, with the "
                    f"delimiter {self._delimiter!r}: it was made with another tokenizer or "
                    "delimiter; give model and flags of the search"
                )
            self._right.add(key)

    def _follow(self, step: TextStep, before: tuple[int, ...], cut: str) -> tuple[str, bool]:
        """The text of a step's tokens, one by one, and whether it ends with the last of them, as
        the step says.
        """
        text = ""  # of the parts before the last
        begun = 0  # the first token of the last part
        tail = Tail(self._texts, (self._delimiter,), before)
        for i, token in enumerate(step.tokens, 1):
            if token >= len(self._tokenizer) or tail.add(token) is None:
                continue
            if i == len(step.tokens) and step.finish != "length":
                return text + tail.text, True
            if not self._blocks or not goes_on(cut + text + tail.text):
                return text + tail.text, False
            text += tail.text + behind(
                tail.text, step.tokens[begun:i], self._delimiter, self._texts.decode
            )
            begun = i
            tail = Tail(self._texts, (self._delimiter,), (*before, *step.tokens[:i]))
        return text + tail.text, step.finish == "length" and bool(step.tokens)
