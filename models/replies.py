"""From the reply of an OpenAI-compatible server to what a search is told: the tokens with their stop, as an engine would give them."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.dialect import Dialect
from models.text import BEFORE, Tail, Texts
from models.told import ID, Told, choice_of
from search.requests import Generate, Generated, RequestFailed, Score, Scored

STRANGE = "give the tokenizer of the model that is served"


class Words:
    """A tokenizer, for texts that go to a server and come from it."""

    def __init__(self, tokenizer: Any):
        self.texts, self.tokenizer, self.size = Texts(tokenizer), tokenizer, len(tokenizer)
        self._begin = tuple(self.encode("", add_special_tokens=True))
        special = getattr(tokenizer, "all_special_ids", ())
        self.special = self.texts.ends | set(special) | set(getattr(tokenizer, "added_tokens_decoder", ()))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=add_special_tokens))

    def text(self, tokens: tuple[int, ...]) -> str:
        """What a server that takes text is given: without the beginning that its own tokenizer puts there again."""
        begin = len(self._begin)
        return self.texts.decode(tokens[begin:] if tokens[:begin] == self._begin and len(tokens) > begin else tokens)

    def after(self, tokens: tuple[int, ...], text: str) -> list[int]:
        """Tokens of `text` where it follows `tokens`: some tokenizers put a space before a text, but not within one."""
        alone = self.encode(text, add_special_tokens=False)
        near = tokens[-BEFORE:]
        if self.texts.independent or self.texts.decode([*near, *alone]) == self.texts.decode(near) + text:
            return alone
        whole = self.encode(self.texts.decode(tokens) + text, add_special_tokens=False)
        return whole[len(tokens) :] if tuple(whole[: len(tokens)]) == tuple(tokens) else alone

    def known(self, tokens: list[int]) -> list[int]:
        """`tokens`. Raises RequestFailed where one is none of the tokenizer's."""
        if tokens and not 0 <= min(tokens) <= max(tokens) < self.size:
            raise RequestFailed(f"the server tells of tokens {min(tokens)} to {max(tokens)}, the tokenizer has {self.size}: {STRANGE}")
        return tokens


def generated(request: Generate, reply: dict[str, Any], dialect: Dialect, words: Words) -> Generated:
    """The result of a request.

    Where the server tells no token ids, its text is encoded; where it then tells no log-probs that fit, they are nan, as they are of a
    stop string that it cut from the tokens. The end token is put back, too. Raises RequestFailed for a reply that makes no sense.
    """
    choice = choice_of(reply)
    reason, mark = choice.get("finish_reason"), choice.get("stop_reason", choice.get("matched_stop"))
    if reason not in ("stop", "length"):
        raise RequestFailed(f"the server ended a text for the reason {reason!r}: see what it logs")
    told = Told.of(choice)
    stop = _stop(request, choice["text"], mark, dialect) if reason == "stop" else None
    tokens, log_probs = _tokens(request, choice["text"], told, words)
    ends = reason == "stop" and stop is None
    last = ends and told.ids is not None and tokens and (tokens[-1] in words.special or tokens[-1] == mark)
    tail, finish, used = Tail(words.texts, request.stop, request.prompt), None, 0
    while finish is None and (used < len(tokens) or stop is not None):
        if used == len(tokens):  # the stop string was cut off
            tokens, stop = tokens + words.after((*request.prompt, *tokens), stop), None
            continue
        finish = "end" if last and used == len(tokens) - 1 else tail.add(tokens[used])
        used += 1
    if finish is None and ends:
        finish, end = "end", getattr(words.tokenizer, "eos_token_id", None)
        tokens = tokens if end is None else [*tokens, int(end)]
        used = len(tokens)
    if not used:
        raise RequestFailed("the server sent an empty text that is not finished: see what it logs")
    mine = np.full(used, np.nan, np.float32)
    if dialect.tells_own(request):
        mine[: len(log_probs)] = log_probs[:used]
    whole = request.temperature == 1 and request.top_p >= 1 and not request.top_k and not request.min_p
    sampled = mine.copy() if whole else np.full(used, 0.0 if request.temperature == 0 else np.nan, np.float32)
    return Generated(tuple(tokens[:used]), tail.text, mine, sampled, float("nan"), finish or reason)


def _stop(request: Generate, text: str, mark: Any, dialect: Dialect) -> str | None:
    """The stop string that ended a text, None where it was an end token (or the text still holds the stop string)."""
    if dialect.marks:
        return mark if isinstance(mark, str) and mark in request.stop else None
    if dialect.keeps or not text.strip():  # an empty step leads nowhere: what ends a model's text at once is its end
        return None
    return request.stop[0] if request.stop else None


def _tokens(request: Generate, text: str, told: Told, words: Words) -> tuple[list[int], list[float]]:
    """Tokens, and the log-probs of the first of them."""
    if told.ids is not None:
        return words.known(list(told.ids)), told.log_probs or []
    joined = "".join(told.words or ())
    if joined and joined.startswith(text):  # the stop string and the end token are in it
        tokens = words.after(request.prompt, joined)
        if told.log_probs is not None and len(tokens) == len(told.log_probs):
            return tokens, told.log_probs
    return words.after(request.prompt, text), []


def scored(request: Score, reply: dict[str, Any], words: Words) -> Scored:
    """The result of a request: log-probs that an echo tells. Raises RequestFailed where it does not, or not of all ids to read."""
    told = Told.of(choice_of(reply), echo=True)
    length = len(request.tokens)
    whole = told.log_probs is not None and length <= len(told.log_probs) <= length + 1
    if not whole or (told.ids is not None and tuple(told.ids[:length]) != tuple(request.tokens)):
        raise RequestFailed("the server tells no log-probs of a prompt (echo): score with a model of your own")
    assert told.log_probs is not None
    log_probs = np.array(told.log_probs[:length], np.float32)
    log_probs[0] = np.nan
    reads = np.zeros((len(request.positions), len(request.read)), np.float32)
    for row, position in enumerate(request.positions):
        for column, token in enumerate(request.read):
            reads[row, column] = _read(request, told, position + 1, token, words)
    return Scored(log_probs, reads, np.full(len(request.positions), np.nan, np.float32))


def _read(request: Score, told: Told, at: int, token: int, words: Words) -> float:
    """Log-prob of a token at one place."""
    if at < len(request.tokens) and request.tokens[at] == token:
        return told.log_probs[at]  # type: ignore[index]
    likeliest = told.tops[at] if told.tops and at < len(told.tops) else {}
    text = words.texts.decode([token])
    for name in (f"{ID}{token}", "" if "\ufffd" in text else text):  # half a character is no name
        if name in likeliest:
            return likeliest[name]
    few = f"the server tells the log-probs of its {len(likeliest)} likeliest tokens, and token {token} is none of them"
    raise RequestFailed(f"{few}: read likelier ones, or score with a model of your own")
