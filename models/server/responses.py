"""From the reply of an OpenAI-compatible server to what a search gets: the tokens with their stop,
as an engine would give them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.detokenizer import BEFORE, Tail, Texts
from models.server.capabilities import Capabilities, reads_next, tokens_of
from models.server.pieces import Pieces
from models.server.response_fields import ID, Reported, choice_of, thinks, usage_of
from search.scheduling.requests import (
    Generate,
    Generated,
    RequestFailed,
    Score,
    Scored,
    Untold,
    Usage,
)

STRANGE = "give the tokenizer of the model that is served"

#: Finish reasons of a text that was cut, and of one that was broken off; every other one, null too,
#: ends a text.
CUT = frozenset(
    {"length", "max_tokens", "max_length", "max_new_tokens", "model_length", "max_output_tokens"}
)
BROKEN = frozenset(
    {"abort", "aborted", "error", "cancelled", "canceled", "timeout", "content_filter", "safety"}
)


class Words:
    """A tokenizer, for texts that go to a server and come from it. exact: it is the model's own,
    and no stand-in.
    """

    def __init__(self, tokenizer: Any):
        self.exact = not isinstance(tokenizer, Pieces)
        self.texts = Texts(tokenizer)
        self.tokenizer = tokenizer
        self.size = len(tokenizer)
        self._ids: dict[bytes, int] = {}  # of tokens by their bytes; -1: several, or none
        self._begin = tuple(self.encode("", add_special_tokens=True))
        special = getattr(tokenizer, "all_special_ids", ())
        self.special = (
            self.texts.ends | set(special) | set(getattr(tokenizer, "added_tokens_decoder", ()))
        )

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=add_special_tokens))

    def text(self, tokens: tuple[int, ...]) -> str:
        """What a server that takes text is given: without the beginning that its own tokenizer
        puts there again.
        """
        begin = len(self._begin)
        if tokens[:begin] == self._begin and len(tokens) != begin:
            tokens = tokens[begin:]
        return self.texts.decode(tokens)

    def after(self, tokens: tuple[int, ...], text: str) -> list[int]:
        """Tokens of `text` where it follows `tokens`: some tokenizers put a space before a text,
        but not within one.
        """
        alone = self.encode(text, add_special_tokens=False)
        near = tokens[-BEFORE:]
        if (
            self.texts.independent
            or self.texts.decode([*near, *alone]) == self.texts.decode(near) + text
        ):
            return alone
        whole = self.encode(self.texts.decode(tokens) + text, add_special_tokens=False)
        return whole[len(tokens) :] if tuple(whole[: len(tokens)]) == tuple(tokens) else alone

    def spelled(self, pieces: Sequence[bytes]) -> list[int] | None:
        """Ids of tokens whose bytes a server tells one by one; None where they do not tell which
        token it was.

        A text may have other tokens than those that were sampled: two line ends in a row are one
        token, or two.
        """
        if not self.texts.independent:
            return None
        ids = [self._id(piece) for piece in pieces]
        return ids if ids and min(ids) >= 0 else None

    def _id(self, piece: bytes) -> int:
        found = self._ids.get(piece)
        if found is None:
            alone = self.encode(piece.decode("utf-8", "replace"), add_special_tokens=False)
            single = len(alone) == 1 and self.texts.piece(alone[0]) == piece
            found = self._ids[piece] = alone[0] if single else -1
        return found

    def checked(self, tokens: list[int]) -> list[int]:
        """`tokens`. Raises RequestFailed where one is none of the tokenizer's."""
        if tokens and not 0 <= min(tokens) <= max(tokens) < self.size:
            span = f"tokens {min(tokens)} to {max(tokens)}"
            raise RequestFailed(
                f"the server tells of {span}, the tokenizer has {self.size}: {STRANGE}"
            )
        return tokens

    def corners(self, count: int) -> str:
        """The text of some `count` tokens from all over the vocabulary, a third of them its
        last; printable ones alone.
        """
        ordinary = [token for token in range(self.size) if token not in self.special]
        spaced = ordinary[:: max(1, len(ordinary) // count)]
        printable = []
        for token in [*spaced, *ordinary[-count // 3 :]]:
            text = self.texts.decode([token])
            if text.strip() and text.isprintable() and "\ufffd" not in text:
                printable.append(text.strip())
        return " ".join(printable)


def generated(
    request: Generate, reply: dict[str, Any], found: Capabilities, words: Words
) -> Generated:
    """The result of a request.

    Where the server tells no token ids, its text is encoded; where it then tells no log-probs that
    fit, they are nan, as they are of a stop string that it cut from the tokens. The end token is
    put back, too. Never more than `request.max_tokens` tokens. Raises RequestFailed for a reply
    that makes no sense.
    """
    choice = choice_of(reply)
    reason = choice.get("finish_reason")
    mark = choice.get("stop_reason", choice.get("matched_stop"))
    if reason in BROKEN:
        raise RequestFailed(f"the server ended a text for the reason {reason!r}: see what it logs")
    reported = Reported.of(choice)
    text = _continuation(request, choice["text"], found, words)
    stops = request.stop if found.stepwise else ()  # no stop strings are sent for a whole turn
    tokens, log_probs = _tokens(request, text, reported, words)
    # pieces are no tokens
    room = request.max_tokens if words.exact else max(request.max_tokens, len(tokens) + 2)
    cut = reason in CUT or (reason is None and len(tokens) >= request.max_tokens)
    ended = bool(tokens) and tokens[-1] in words.texts.ends
    stop = None
    if not cut and not ended:
        stop = _stop(stops, text, mark, found, reported)
    # encoded here: one token may hold the end of the text and the stop string
    if stop is not None and reported.ids is None and not log_probs:
        tokens = words.after(request.prompt, text + stop)
    ends = not cut and stop is None
    last = (
        ends
        and reported.ids is not None
        and tokens
        and (tokens[-1] in words.special or tokens[-1] == mark)
    )
    tail = Tail(words.texts, stops, request.prompt)
    finish = None
    used = 0
    while finish is None and used < room and (used < len(tokens) or stop is not None):
        if used == len(tokens) and stop is not None:  # the stop string was cut off
            missing = _missing(tail.text, text, stop)
            tokens = tokens + words.after((*request.prompt, *tokens), missing)
            stop = None
            continue
        if last and used == len(tokens) - 1:
            finish = "end"
        else:
            finish = tail.add(tokens[used])
        used += 1
    if finish is None and ends and used == len(tokens):
        finish = "end"
        end = getattr(words.tokenizer, "eos_token_id", None)
        if end is not None and used < room:
            tokens = [*tokens, int(end)]
            used += 1
    if not used:
        raise RequestFailed(_nothing(choice))
    mine = np.full(used, np.nan, np.float32)
    if found.tells_own(request):
        count = min(used, len(log_probs))
        mine[:count] = log_probs[:count]
    sampled = _sampled(request, mine)
    return Generated(
        tuple(tokens[:used]), tail.text, mine, sampled, float("nan"), finish or "length"
    )


def _sampled(request: Generate, own: np.ndarray) -> np.ndarray:
    """Log-probs in the distribution drawn from, of the model's own: 0 where greedy, the same where
    nothing is changed or cut, else nan.
    """
    if request.temperature == 0:
        return np.zeros_like(own)
    cut = request.top_p < 1 or request.top_k or request.min_p
    if request.temperature == 1 and not cut:
        return own.copy()
    return np.full_like(own, np.nan)


def _missing(spelled: str, text: str, stop: str) -> str:
    """What the tokens do not spell of a text and the stop string behind it.

    llama.cpp leaves out the last token: a part of the stop string, and the end of the text where
    one token holds both (".\\n\\n").
    """
    whole = text + stop
    return whole.removeprefix(spelled) if whole.startswith(spelled) else stop


def _nothing(choice: dict[str, Any]) -> str:
    if thinks(choice):
        remedy = "give step_tokens more room, or serve it without thoughts"
        return (
            f"the model spent all of its tokens on thoughts, which the server keeps apart: {remedy}"
        )
    return "the server sent an empty text that is not finished: see what it logs"


def _continuation(request: Generate, text: str, found: Capabilities, words: Words) -> str:
    """`text` without the beginning of its turn, where the server repeats it."""
    if not found.repeats:
        return text
    from models.server.conversation import messages

    begun = messages(words.text(request.prompt))[-1]["content"]
    if not text.startswith(begun):
        begun = begun.rstrip()
    return text.removeprefix(begun)


def _stop(
    stops: Sequence[str], text: str, mark: Any, found: Capabilities, reported: Reported
) -> str | None:
    """The stop string that ended a text, None where it was an end token (or the text still holds
    the stop string).
    """
    if found.marks:
        return mark if isinstance(mark, str) and mark in stops else None
    if found.spells and reported.words is not None:
        behind = _joined(reported)[len(text) :]
        return next((stop for stop in stops if behind.startswith(stop)), None)
    # an empty step leads nowhere: what ends a model's text at once is its end
    if found.keeps or not text.strip():
        return None
    return stops[0] if stops else None


def _tokens(
    request: Generate, text: str, reported: Reported, words: Words
) -> tuple[list[int], list[float]]:
    """Tokens, and the log-probs of the first of them."""
    if reported.ids is not None:
        return words.checked(list(reported.ids)), reported.log_probs or []
    joined = _joined(reported)
    if joined and joined.startswith(text):  # the stop string and the end token are in it
        if words.exact:
            tokens = words.spelled(reported.words or []) or words.after(request.prompt, joined)
        else:
            tokens = _stand_ins(request, text, reported.words or [], words)
        if reported.log_probs is not None and len(tokens) == len(reported.log_probs):
            return tokens, reported.log_probs
    return words.after(request.prompt, text), []


def _joined(reported: Reported) -> str:
    """The text of the words that a server reports."""
    return b"".join(reported.words or ()).decode("utf-8", "replace")


def _stand_ins(request: Generate, text: str, spelled: list[bytes], words: Words) -> list[int]:
    """The stand-in's ids of tokens as a server spells them; behind the text stands a stop
    string, or the end in some spelling.
    """
    size = len(text.encode())
    behind = b"".join(spelled)[size:].decode("utf-8", "replace")
    stopped = any(behind.startswith(stop) or stop.startswith(behind) for stop in request.stop)
    ids = []
    at = 0
    for word in spelled:
        if at >= size and not stopped:
            ids.append(words.tokenizer.eos_token_id)
        else:
            ids += words.tokenizer.ids([word])
        at += len(word)
    return ids


def scored(request: Score, reply: dict[str, Any], words: Words) -> Scored:
    """The result of a request: log-probs of an echo, or of a first token and those that might have
    been it.

    Raises RequestFailed where they are not reported, or not of all ids to read.
    """
    after = reads_next(request)
    reported = Reported.of(choice_of(reply), echo=True)
    length = len(request.tokens)
    log_probs = np.full(length, np.nan, np.float32)
    if not after:
        found = reported.log_probs or []
        same = reported.ids is None or tuple(reported.ids[:length]) == tuple(request.tokens)
        if not length <= len(found) <= length + 1 or not same:
            raise Untold(
                "the server tells no log-probs of a prompt (echo): score with a model of your own"
            )
        log_probs[1:] = found[1:length]
    reads = np.zeros((len(request.positions), len(request.read)), np.float32)
    for row, position in enumerate(request.positions):
        for column, token in enumerate(request.read):
            at = position + 1
            if at < length and request.tokens[at] == token:
                reads[row, column] = log_probs[at]
            else:
                reads[row, column] = _read(reported, at - length * after, token, words)
    return Scored(log_probs, reads, np.full(len(request.positions), np.nan, np.float32))


def _read(reported: Reported, at: int, token: int, words: Words) -> float:
    """Log-prob of a token at one place of what the server reports."""
    likeliest: dict[str, float] = {}
    if reported.tops and at < len(reported.tops):
        likeliest = reported.tops[at]
    text = words.texts.decode([token])
    for name in (f"{ID}{token}", "" if "\ufffd" in text else text):  # half a character is no name
        if name in likeliest:
            return likeliest[name]
    few = (
        f"the server tells the log-probs of its {len(likeliest)} likeliest tokens, and token "
        f"{token} is none of them"
    )
    raise Untold(f"{few}: read likelier ones, or score with a model of your own")


def spent(request: Generate | Score, reply: dict[str, Any], received: int | None = None) -> Usage:
    """What one request cost by the server's own count, or by the tokens `received` where these are
    more.

    received  None: unknown

    Some servers count 0 or 1 whatever they send: a budget in tokens would never end. What was asked
    for at most is counted at most; all of it where neither count is there.
    """
    counts = usage_of(reply)
    read = counts.get("prompt_tokens") or len(tokens_of(request))
    reused = min(read, counts.get("cached_tokens", 0))
    number = 0  # the one token that a server must draw to read is used for nothing
    if isinstance(request, Generate):
        number = request.max_tokens
        counted = counts.get("completion_tokens", 0)
        # less than 2: a server that counts each reply as one token, perhaps
        if received is not None or counted >= 2:
            number = min(number, max(counted, received or 0))
    return Usage(calls=1, generated=number, prefilled=read - reused, reused=reused)
