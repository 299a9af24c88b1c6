"""What the reply of an OpenAI-compatible server reports: text, tokens, log-probs and usage,
whatever of it is there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from search.scheduling.requests import RequestFailed

ID = "token_id:"  # how vLLM writes a token where it was asked for ids
ROUNDING = 1e-3  # a log-prob may be this much above 0 by rounding; what is further above is none


@dataclass(frozen=True)
class Reported:
    """Tokens of a choice, one entry each; None where the server does not report it.

    ids        token ids;  words: the bytes of their text, one by one
    log_probs  nan where the server has none for a token: null, nan, infinite or above 0
    tops       of each place the likeliest tokens, as the server writes them, with their log-probs
    """

    ids: list[int] | None = None
    words: list[bytes] | None = None
    log_probs: list[float] | None = None
    tops: list[dict[str, float]] | None = None

    @classmethod
    def of(cls, choice: dict[str, Any], echo: bool = False) -> Reported:
        """Read `token_ids` (of an echo they are not reported) and `logprobs` of one choice.

        Log-probs of a strange shape, or not as many as there are tokens, are unknown: text and ids
        stand without them. Raises RequestFailed for ids that are none.
        """
        try:
            ids = None if echo else choice.get("token_ids")
            if ids is not None:
                ids = [int(i) for i in ids]
        except (TypeError, ValueError, OverflowError):
            raise RequestFailed(
                "the server tells token ids in a shape that is not OpenAI's"
            ) from None
        try:
            reported = _log_probs(choice.get("logprobs"))
        except (TypeError, ValueError, OverflowError, AttributeError, KeyError):
            return cls(ids)
        if reported.ids is None or ids is not None and len(ids) != len(reported.ids):
            reported = replace(reported, ids=ids)
        parts = (reported.ids, reported.words, reported.log_probs, reported.tops)
        lengths = {len(part) for part in parts if part is not None}
        return reported if len(lengths) < 2 else cls(ids)


def _log_probs(field: Any) -> Reported:
    """Of `logprobs`: OpenAI's lists for completions, or its `content` of objects for chat
    (llama.cpp: for both).
    """
    if not field:
        return Reported()
    if "content" in field:
        return _content(field["content"] or [])
    if field.get("token_logprobs") is None:
        return Reported()
    words = list(map(str, field["tokens"]))
    numbers = list(map(_number, field["token_logprobs"]))
    tops = None
    if field.get("top_logprobs"):
        tops = list(map(_tops, field["top_logprobs"]))
    return Reported(_named(words), _bytes(words), numbers, tops)


def _content(entries: list[dict[str, Any]]) -> Reported:
    if not entries:
        return Reported()
    words = [str(entry["token"]) for entry in entries]
    ids = _named(words)
    if ids is None and all("id" in entry for entry in entries):
        ids = [int(entry["id"]) for entry in entries]
    spelled = _bytes(words)
    if spelled is not None:
        # a part of a character has bytes, but no text
        for place, entry in enumerate(entries):
            if entry.get("bytes") is not None:
                spelled[place] = bytes(entry["bytes"])
    numbers = [_number(entry["logprob"]) for entry in entries]
    tops = []
    for entry in entries:
        likeliest = entry.get("top_logprobs") or []
        tops.append(_tops({top["token"]: top["logprob"] for top in likeliest}))
    return Reported(ids, spelled, numbers, tops if all(tops) else None)


def _named(words: list[str]) -> list[int] | None:
    """The ids that stand in for the words of tokens, None where the words are words."""
    if not words or not all(word.startswith(ID) for word in words):
        return None
    return [int(word.removeprefix(ID)) for word in words]


def _bytes(words: list[str]) -> list[bytes] | None:
    if _named(words) is not None:
        return None
    return [word.encode("utf-8", "replace") for word in words]


def _tops(likeliest: Any) -> dict[str, float]:
    numbers = {}
    for name, value in (likeliest or {}).items():
        number = _number(value)
        if not math.isnan(number):
            numbers[str(name)] = number
    return numbers


def _number(value: Any) -> float:
    """A log-prob: finite and at most 0, else nan."""
    if value is None:
        return math.nan
    number = float(value)
    return min(0.0, number) if -math.inf < number <= ROUNDING else math.nan


def choice_of(reply: dict[str, Any]) -> dict[str, Any]:
    """The only choice of a reply, its "text" that of the message in a chat, cleaned of what is no
    Unicode.

    Raises RequestFailed where there is none.
    """
    choices = reply.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        raise RequestFailed(
            f"the server's answer holds no choice with a text, but {sorted(reply)}: {IS_IT}"
        )
    message = choice.get("message")
    text = _content_of(message) if isinstance(message, dict) else choice.get("text")
    if not isinstance(text, str):
        raise RequestFailed(
            f"the server's answer holds no choice with a text, but {sorted(choice)}: {IS_IT}"
        )
    return choice | {"text": text.encode("utf-8", "replace").decode()}


IS_IT = "is this OpenAI's API?"


def _content_of(message: dict[str, Any]) -> Any:
    """The text of a message: a string, or parts of which those of type text count. "" where the
    model only thought.
    """
    content = message.get("content")
    if isinstance(content, list):
        texts = []
        for part in content:
            if isinstance(part, dict) and part.get("type") == "text":
                texts.append(part.get("text"))
        return "".join(text for text in texts if isinstance(text, str))
    if content is None and message.get("role") == "assistant":
        return ""
    return content


def thinks(choice: dict[str, Any]) -> bool:
    """Whether the server keeps the model's thoughts apart from its text, and there are some."""
    message = choice.get("message")
    if not isinstance(message, dict):
        return False
    return bool(message.get("reasoning_content") or message.get("reasoning"))


def usage_of(reply: dict[str, Any]) -> dict[str, int]:
    """The counts of `usage` that are whole numbers, cached prompt tokens as "cached_tokens"."""
    usage = reply.get("usage")
    if not isinstance(usage, dict):
        return {}
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    counts = {}
    for name, number in (usage | {"cached_tokens": cached}).items():
        if isinstance(number, int) and not isinstance(number, bool) and number >= 0:
            counts[name] = number
    return counts
