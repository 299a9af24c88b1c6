"""From a solution to the body of an answer, in OpenAI's form."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from search.running import Progress
from search.solution import Solution


@dataclass
class Answer:
    """The answer to one request, whole or in pieces.

    chat  a chat completion, else a completion;  model: as the request named it
    """

    chat: bool
    model: str
    id: str = field(default_factory=lambda: f"copse-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, solutions: Sequence[Solution]) -> dict[str, Any]:
        """All at once; `copse` has each solution as `Solution.to_json` writes it."""
        choices = []
        for index, solution in enumerate(solutions):
            text = content(solution)
            said: dict[str, Any] = {"text": text}
            if self.chat:
                said = {"message": {"role": "assistant", "content": text}}
            choices.append(
                {"index": index, **said, "logprobs": None, "finish_reason": end(solution)}
            )
        return {
            **self._head("chat.completion" if self.chat else "text_completion"),
            "choices": choices,
            "usage": usage(solutions),
            "copse": [solution.to_json() for solution in solutions],
        }

    def begin(self, index: int) -> dict[str, Any]:
        """The first piece of a choice."""
        return self._piece(index, {"role": "assistant", "content": ""}, "")

    def on_the_way(self, index: int, progress: Progress) -> dict[str, Any]:
        """A piece that tells how far the search is: of a chat as reasoning, else nothing."""
        answer = "no answer yet" if progress.answer is None else f"so far: {progress.answer}"
        line = f"{progress.usage.generated} tokens, {answer}\n"
        return self._piece(index, {"reasoning_content": line}, "")

    def end(self, index: int, solution: Solution) -> list[dict[str, Any]]:
        """The text of a choice, and its end."""
        text = content(solution)
        return [
            self._piece(index, {"content": text}, text),
            self._piece(index, {}, "", end(solution)),
        ]

    def last(self, solutions: Sequence[Solution]) -> dict[str, Any]:
        """The piece with the usage of all."""
        head = self._head("chat.completion.chunk" if self.chat else "text_completion")
        return {**head, "choices": [], "usage": usage(solutions)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _piece(
        self, index: int, delta: dict[str, str], text: str, reason: str | None = None
    ) -> dict[str, Any]:
        said: dict[str, Any] = {"delta": delta} if self.chat else {"text": text}
        head = self._head("chat.completion.chunk" if self.chat else "text_completion")
        choice = {"index": index, **said, "logprobs": None, "finish_reason": reason}
        return {**head, "choices": [choice]}


def content(solution: Solution) -> str:
    """The chosen chain; the answer in a line of its own where the chain does not say it."""
    if solution.answer is None or solution.answer in solution.text:
        return solution.text
    return f"{solution.text}\n\n{solution.answer}".lstrip("\n")


def end(solution: Solution) -> str:
    """ "length" where the budget ended before there was an answer, else "stop"."""
    return "stop" if solution.answered else "length"


def usage(solutions: Sequence[Solution]) -> dict[str, Any]:
    """What the searches spent. All tokens that were generated are `completion_tokens`, of which
    those outside the chosen chains are `reasoning_tokens`; prompt tokens whose keys were there
    already are `cached_tokens`.
    """
    read = cached = generated = shown = 0
    for solution in solutions:
        spent = solution.usage
        read += spent.prefilled + spent.reused
        cached += spent.reused
        generated += spent.generated
        shown += sum(len(getattr(step, "tokens", ())) for step in solution.steps)
    return {
        "prompt_tokens": read,
        "completion_tokens": generated,
        "total_tokens": read + generated,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": max(0, generated - shown)},
    }
