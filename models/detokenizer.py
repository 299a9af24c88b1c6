"""From tokens to text as they are sampled: where a stop string completes, and what stands before
it.

Text is kept as bytes, so a character that several tokens spell is never broken. Where tokens decode
independently (byte-level BPE, and any tokenizer whose decoder only joins) the bytes of each token
come from a table; otherwise the generated tokens are decoded anew.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

BROKEN = "\ufffd"  # what a decoder makes of bytes that are no character
JOINING = {"Fuse", "ByteFallback", "Replace"}  # decoders that treat each token by itself
# prompt tokens decoded along, where the text of a token depends on what stands before it: a whole
# character among them
BEFORE = 8


class Texts:
    """The tokenizer as the engine uses it: bytes of tokens, and the end tokens of a model.

    ends     ids that end a text: the tokenizer's, those of `generation_config` and those of
             `config`
    watched  bool [sets of stop strings, vocabulary]: see `watch`
    """

    def __init__(self, tokenizer: Any, model: Any = None):
        self.tokenizer = tokenizer
        self.ends = end_tokens(tokenizer, model)
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._table: dict[int, bytes] = {}
        self._numbers: dict[tuple[str, ...], int] = {}
        self.size = len(tokenizer)
        if model is not None:
            self.size = int(model.config.get_text_config().vocab_size)
        self.watched = np.empty((0, self.size), bool)
        decoder = self._decoder()
        self._bytes = _byte_alphabet() if decoder.get("type") == "ByteLevel" else {}
        self._fallback = "ByteFallback" in json.dumps(decoder)
        self.independent = bool(self._bytes) or self._joins()

    def decode(self, tokens: Any) -> str:
        """The text of tokens, special tokens included, nothing cleaned up."""
        if self._backend is not None:
            ids = list(map(int, tokens))
            return str(self._backend.decode(ids, skip_special_tokens=False))
        text = self.tokenizer.decode(
            list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return str(text)

    def whole(self, tokens: tuple[int, ...]) -> str:
        """The text of tokens, but for a character that the last of them begin and do not finish."""
        if not self._fallback:
            return self.decode(tokens).rstrip(BROKEN)
        last = bytearray()
        for token in reversed(tokens[-3:]):
            if (byte := self._byte(token)) is None:
                break
            last.insert(0, byte)
        return self.decode(tokens[: len(tokens) - _open_bytes(last)])

    def aligned(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """Tokens without those at the beginning that are within a character: a run of bytes is
        decoded together, or not at all.
        """
        first = 0
        while (
            self._fallback
            and first < len(tokens)
            and (self._byte(tokens[first]) or 0) & 0xC0 == 0x80
        ):
            first += 1
        return tokens[first:]

    def watch(self, stops: tuple[str, ...]) -> int:
        """A number for these stop strings: `watched[number]` tells which tokens can complete one
        of them or end the text.
        """
        number = self._numbers.get(stops)
        if number is None:
            ends = {s.encode()[-1] for s in stops if s}
            can = np.ones(self.size, bool)
            if self.independent:
                can[:] = [
                    token in self.ends or not ends.isdisjoint(self.piece(token))
                    for token in range(self.size)
                ]
            number = self._numbers[stops] = len(self._numbers)
            self.watched = np.concatenate([self.watched, can[None]])
        return number

    def piece(self, token: int) -> bytes:
        """The bytes of one token; only where tokens decode independently."""
        piece = self._table.get(token)
        if piece is None:
            piece = self._table[token] = self._spell(token)
        return piece

    def _spell(self, token: int) -> bytes:
        if self._bytes and token not in self._added():
            name = self._name(token)
            if all(c in self._bytes for c in name):
                return bytes(self._bytes[c] for c in name)
        elif self._fallback and (byte := self._byte(token)) is not None:
            return bytes([byte])
        return self.decode([token]).encode()

    def _byte(self, token: int) -> int | None:
        """The byte that a token stands for where tokenizers fall back to bytes, None for others."""
        spelled = re.fullmatch(r"<0x([0-9A-F]{2})>", self._name(token))
        return None if spelled is None else int(spelled[1], 16)

    def _name(self, token: int) -> str:
        return self.tokenizer.convert_ids_to_tokens(token) or ""

    def _added(self) -> Any:
        return getattr(self.tokenizer, "added_tokens_decoder", {})

    def _decoder(self) -> dict[str, Any]:
        if self._backend is None:
            return {}
        return json.loads(self._backend.to_str()).get("decoder") or {}

    def _joins(self) -> bool:
        """Whether text of a and b is always text of a, then text of b (also tried on pairs all
        over the vocabulary).
        """
        decoder = self._decoder()
        kinds = {part["type"] for part in decoder.get("decoders", [decoder]) if part}
        if not kinds <= JOINING or self._backend is None:
            return False
        size = len(self.tokenizer)
        ids = sorted({i * size // 60 for i in range(60)})
        if self._fallback:
            ids = [i for i in ids if not self._name(i).startswith("<0x")]
        single = {i: self.decode([i]) for i in ids}
        pairs = zip(ids, ids[1:] + ids[:1], strict=True)
        broken = any("\ufffd" in text and text != self._name(i) for i, text in single.items())
        return not broken and all(self.decode([a, b]) == single[a] + single[b] for a, b in pairs)


class Tail:
    """The text of one row while it grows, of `count` tokens.

    A character that is cut at the row's last token is left out, and one that the prompt's last
    tokens began is there as a whole: a text that goes on in another request (a step that was cut
    off) has all its characters once.
    """

    __slots__ = (
        "_before",
        "_ended",
        "_longest",
        "_skip",
        "_stops",
        "_text",
        "_texts",
        "_tokens",
        "_until",
        "count",
    )

    def __init__(self, texts: Texts, stops: tuple[str, ...], prompt: tuple[int, ...]):
        self._texts = texts
        self._stops = [s.encode() for s in stops if s]
        self._longest = max(map(len, self._stops), default=0)
        self._text = bytearray(_begun(texts, prompt) if texts.independent else b"")
        self._until: int | None = None
        self._ended = False
        self._before: tuple[int, ...] = ()
        if not texts.independent:
            self._before = texts.aligned(prompt[-BEFORE:])
        self._skip = len(texts.whole(self._before)) if self._before else 0
        self.count = 0
        self._tokens: list[int] = []

    def add(self, token: int) -> str | None:
        """Take one more token; returns "stop" if a stop string completes in it, "end" if it ends
        the text, else None.
        """
        self.count += 1
        if token in self._texts.ends:
            self._ended = True
            return "end"
        text = self._text
        if self._texts.independent:
            start = max(0, len(text) - self._longest + 1)
            text += self._texts.piece(token)
        else:
            self._tokens.append(token)
            start = 0
            text[:] = self._texts.decode([*self._before, *self._tokens])[self._skip :].encode()
        found = []
        for stop in self._stops:
            at = text.find(stop, start)
            if at >= 0:
                found.append(at)
        if found:
            self._until = min(found)
            return "stop"
        return None

    @property
    def text(self) -> str:
        """The text up to the stop string, or as far as its characters are whole; bytes that are
        no UTF-8 become U+FFFD.
        """
        if self._until is not None or self._ended:
            return bytes(self._text[: self._until]).decode("utf-8", "replace")
        if not self._texts.independent:
            return self._texts.whole((*self._before, *self._tokens))[self._skip :]
        return bytes(self._text[: len(self._text) - _open_bytes(self._text)]).decode(
            "utf-8", "replace"
        )


def _begun(texts: Texts, prompt: tuple[int, ...]) -> bytes:
    """The bytes of a character that the last tokens of a prompt begin and do not finish."""
    spelled = b""
    for token in reversed(prompt):
        spelled = texts.piece(token) + spelled
        if len(spelled) >= 3:
            break
    return spelled[len(spelled) - _open_bytes(spelled) :]


def _open_bytes(spelled: bytes | bytearray) -> int:
    """How many bytes at the end begin a character of UTF-8 that is not finished: 0 to 3."""
    for back in range(1, min(3, len(spelled)) + 1):
        lead = spelled[-back]
        if lead & 0xC0 == 0x80:  # a byte within a character
            continue
        size = 1 + (lead >= 0xC0) + (lead >= 0xE0) + (lead >= 0xF0)
        return back if size > back else 0
    return 0


def end_tokens(tokenizer: Any, model: Any = None) -> frozenset[int]:
    """Ids of end-of-text and end-of-turn tokens."""
    found: set[int] = set()
    sources = (tokenizer, getattr(model, "generation_config", None), getattr(model, "config", None))
    for source in sources:
        ids = getattr(source, "eos_token_id", None)
        if isinstance(ids, (list, tuple)):
            found.update(map(int, ids))
        elif ids is not None:
            found.add(int(ids))
    return frozenset(found)


def _byte_alphabet() -> dict[str, int]:
    """Byte of each printable character in the names of byte-level BPE tokens (Radford et al.
    2019, `bytes_to_unicode`).
    """
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    other = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(other)}
