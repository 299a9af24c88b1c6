"""A chain of thought as a reward model reads it: token ids, and where in them the scores stand."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from guides.policies.prompts import Prompts
from guides.values.prm_formats import Format
from models.checkpoints.chat_template import rendered

#: token ids of a text, and the index of each step's score, in the steps' order
Reading = tuple[tuple[int, ...], tuple[int, ...]]


class Marked(ValueError):
    """A step holds the marker of a format, so that the places of the scores are not certain."""


class Reader:
    """A format with a tokenizer.

    prompts   what stands before the first step, for formats without a prompt of their own; None:
              the tokenizer's default
    read      the tokens whose log-probs make the score, good before bad; empty where a head tells
              it

    Raises ValueError where the tokenizer lacks the chat template, or a marker is not one token.
    """

    def __init__(self, format: Format, tokenizer: Any, prompts: Prompts | None = None):
        self.format = format
        self._tokenizer = tokenizer
        self._prompts: Prompts | None = None
        if format.prompt is None:
            self._prompts = prompts or Prompts(tokenizer)
        if format.layout in ("chat", "turns") and not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                f"the format {format.name!r} is a chat, but the tokenizer has no chat "
                "template: copy its chat_template.jinja too"
            )
        self._marker = self._token(format.marker)
        self._good = self._token(format.good)
        self._bad = self._token(format.bad)
        self.read: tuple[int, ...] = ()
        if format.score == "tokens":
            self.read = (self._good, self._bad)
        self._layout = {
            "parts": self._parts,
            "text": self._text,
            "chat": self._chat,
            "turns": self._turns,
        }[format.layout]
        self._encode = lru_cache(maxsize=65_536)(self._encoded)

    def __call__(self, statement: str, steps: tuple[str, ...]) -> Reading:
        """The tokens up to the last score, and the index of the score of every step.

        Without steps, the index of the prompt's own score, or none at all. Raises ValueError where
        there would be more or fewer scores than steps, `Marked` where that is due to a step: text
        that holds the marker is never taken for the end of a step.
        """
        if not steps and not self.format.opening:
            return (), ()
        tokens, positions = self._layout(statement, self._led(steps))
        if len(positions) != max(1, len(steps)):
            plain = self._layout(statement, ("1",) * len(steps))[1]
            error = Marked if len(plain) == len(steps) else ValueError
            raise error(
                f"{len(positions)} scores for {len(steps)} steps: the marker "
                f"{self.format.marker!r} stands in the problem or in a step, "
                "or the tokenizer writes it otherwise there: give a problem without it, or "
                f"correct the format {self.format.name!r}"
            )
        return tokens[: positions[-1] + 1], positions

    def _led(self, steps: tuple[str, ...]) -> tuple[str, ...]:
        """The steps with their leads, where they do not begin with these already."""
        led = []
        for number, step in enumerate(steps, 1):
            lead = self.format.lead.replace("{number}", str(number))
            led.append(step if step.startswith(lead.strip()) else lead + step)
        return tuple(led)

    def _parts(self, statement: str, steps: tuple[str, ...]) -> Reading:
        tokens = list(self._prompt(statement))
        positions: list[int] = []
        for step in steps:
            if positions:
                tokens += self._encode(self.format.reply)
            pieces = step.split(self.format.cut) if self.format.cut else [step]
            for piece in pieces:
                for part in self.format.parts:
                    tokens += self._encode(part.replace("{step}", piece))
            positions.append(len(tokens) - 1)
        return tuple(tokens), tuple(positions) or (len(tokens) - 1,)

    def _prompt(self, statement: str) -> tuple[int, ...]:
        if self._prompts is not None:
            return self._prompts(statement)
        tokens: tuple[int, ...] = self._encode(self._opened(statement))
        begin = getattr(self._tokenizer, "bos_token_id", None)
        if begin is None:
            return tokens
        return (begin, *tokens)

    def _text(self, statement: str, steps: tuple[str, ...]) -> Reading:
        return self._marked(self._encode(self._opened(statement) + self._joined(steps), True))

    def _chat(self, statement: str, steps: tuple[str, ...]) -> Reading:
        messages = [
            *self._system(),
            {"role": "user", "content": self._opened(statement)},
            {"role": "assistant", "content": self._joined(steps)},
        ]
        return self._marked(self._rendered(messages))

    def _turns(self, statement: str, steps: tuple[str, ...]) -> Reading:
        messages = self._system()
        starts = []
        opening = self._opened(statement)
        for step in steps:
            text = opening + self.format.parts[0].replace("{step}", step)
            opening = ""  # of the first message alone
            messages.append({"role": "user", "content": text})
            starts.append(self._rendered(messages, True))  # up to where the reply begins
            messages.append({"role": "assistant", "content": str(self.format.good)})
        tokens = self._rendered(messages)
        for start in starts:
            if tokens[: len(start)] != start or tokens[len(start)] != self._good:
                raise ValueError(
                    "the chat template does not begin a reply as it writes one, so the "
                    f"place of {self.format.good!r} is not certain: use "
                    "the template that came with the model"
                )
        return tokens, tuple(len(start) - 1 for start in starts)

    def _opened(self, statement: str) -> str:
        return str(self.format.prompt).replace("{problem}", statement)

    def _joined(self, steps: tuple[str, ...]) -> str:
        return "".join(self.format.parts[0].replace("{step}", step) for step in steps)

    def _system(self) -> list[dict[str, str]]:
        if self.format.system is None:
            return []
        return [{"role": "system", "content": self.format.system}]

    def _marked(self, tokens: tuple[int, ...]) -> Reading:
        return tokens, tuple(i for i, token in enumerate(tokens) if token == self._marker)

    def _rendered(self, messages: list[dict[str, str]], begin: bool = False) -> tuple[int, ...]:
        """Tokens of a chat; begin: with what opens the next reply. The template writes all
        special tokens itself.
        """
        text = rendered(self._tokenizer, messages, add_generation_prompt=begin)
        return self._encode(text)

    def _encoded(self, text: str, special: bool = False) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=special))

    def _token(self, text: str | None) -> Any:
        """The id of a text that is one token; None of None."""
        if text is None:
            return None
        tokens = self._tokenizer.encode(text, add_special_tokens=False)
        if len(tokens) != 1 or tokens[0] == getattr(self._tokenizer, "unk_token_id", None):
            raise ValueError(
                f"{text!r} is not one token of this tokenizer ({len(tokens)} tokens), but "
                f"the format {self.format.name!r} needs it to be: "
                "give the checkpoint that the format is of, or correct the format"
            )
        return tokens[0]
