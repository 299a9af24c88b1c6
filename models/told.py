"""What the reply of an OpenAI-compatible server tells: text, tokens, log-probs and usage, whatever of it is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from search.budget import Usage
from search.requests import RequestFailed

ID = "token_id:"  # how vLLM writes a token where it was asked for ids


@dataclass(frozen=True)
class Told:
    """Tokens of a choice, one entry each; None where the server says nothing about it.

    ids        token ids;  words: their text, one by one
    log_probs  nan where the server has none for a token
    tops       of each place the likeliest tokens, as the server writes them, with their log-probs
    """

    ids: list[int] | None = None
    words: list[str] | None = None
    log_probs: list[float] | None = None
    tops: list[dict[str, float]] | None = None

    @classmethod
    def of(cls, choice: dict[str, Any], echo: bool = False) -> Told:
        """Read `token_ids` (of an echo they are not told) and `logprobs` of one choice. Raises RequestFailed for any other shape."""
        try:
            ids = None if echo else choice.get("token_ids")
            told = _log_probs(choice.get("logprobs"))
            if told.ids is None and ids is not None:
                told = cls([int(i) for i in ids], told.words, told.log_probs, told.tops)
            lengths = {len(part) for part in (told.ids, told.words, told.log_probs, told.tops) if part is not None}
        except (TypeError, ValueError, OverflowError, AttributeError, KeyError):
            raise RequestFailed("the server tells tokens and log-probs in a shape that is not OpenAI's") from None
        if len(lengths) > 1:
            raise RequestFailed(f"the server tells tokens and log-probs of different lengths {sorted(lengths)}")
        return told


def _log_probs(told: Any) -> Told:
    """Of `logprobs`: OpenAI's lists, or a `content` list of objects (llama.cpp)."""
    if not told:
        return Told()
    if "content" in told:
        entries = told["content"] or []
        ids = [int(entry["id"]) for entry in entries] if all("id" in entry for entry in entries) else None
        tops = [{top["token"]: float(top["logprob"]) for top in entry.get("top_logprobs") or []} for entry in entries]
        return Told(ids, [str(e["token"]) for e in entries], [_number(e["logprob"]) for e in entries], tops if all(tops) else None)
    if told.get("token_logprobs") is None:
        return Told()
    words = [str(word) for word in told["tokens"]]
    numbers = [_number(number) for number in told["token_logprobs"]]
    given = told.get("top_logprobs")
    tops = None if not given else [{str(k): float(v) for k, v in (top or {}).items()} for top in given]
    if words and all(word.startswith(ID) for word in words):
        return Told([int(word.removeprefix(ID)) for word in words], None, numbers, tops)
    return Told(None, words, numbers, tops)


def _number(told: Any) -> float:
    return float("nan") if told is None else min(0.0, float(told))


def choice_of(reply: dict[str, Any]) -> dict[str, Any]:
    """The only choice of a reply, its text cleaned of what is no Unicode. Raises RequestFailed where there is none."""
    choices = reply.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict) or not isinstance(choice.get("text"), str):
        raise RequestFailed(
            f"the server's answer holds no choice with a text, but {sorted(reply)}: is this /v1/completions of OpenAI's API?"
        )
    return choice | {"text": choice["text"].encode("utf-8", "replace").decode()}


def usage_of(reply: dict[str, Any]) -> dict[str, int]:
    """The counts of `usage` that are whole numbers, cached prompt tokens as "cached_tokens"."""
    told = reply.get("usage")
    told = told if isinstance(told, dict) else {}
    details = told.get("prompt_tokens_details")
    told = told | ({"cached_tokens": details.get("cached_tokens")} if isinstance(details, dict) else {})
    return {name: n for name, n in told.items() if isinstance(n, int) and not isinstance(n, bool) and n >= 0}


def spent(reply: dict[str, Any], prompt: int, generated: int) -> Usage:
    """What one request cost by the server's own count; `prompt` and `generated` tokens where it keeps none."""
    told = usage_of(reply)
    read = told.get("prompt_tokens", prompt)
    reused = min(read, told.get("cached_tokens", 0))
    return Usage(calls=1, generated=told.get("completion_tokens", generated), prefilled=read - reused, reused=reused)
