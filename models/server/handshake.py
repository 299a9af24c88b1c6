"""Finding out what a server takes and tells, by a dozen questions of a few tokens at connection."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from models.server.capabilities import (
    CHAT,
    CHAT_LOG_PROBS,
    COMPLETIONS,
    CONTINUATIONS,
    LOG_PROBS,
    OPTIONS,
    Capabilities,
    turns_body,
)
from models.server.http import Refused
from models.server.response_fields import Reported, choice_of, usage_of
from models.server.responses import Words
from search.scheduling.requests import RequestFailed, TooLong

#: sends a body to a path: the reply, or RequestFailed
Ask = Callable[[str, dict[str, Any]], dict[str, Any]]

PROBE = "Let naive = 12345 + 67;\n\n  Then: 'x_1' is"  # what different tokenizers read differently

#: Further texts that the tokenizer must read as the server does: languages, numbers, code, signs. A
#: chat template may strip them.
TEXTS = (
    "The unhappiest Zürich café-owner couldn't re-open; él corrió 3,141.59 km. Что это? "
    "東京は大きい都市です。 مرحبا",
    'if x:    for (int i_0 = 0x1F; i_0 != 100000; ++i_0) {\t\treturn self.__dict__["naïve"] '
    ">= 2**31;  }  // TODO:    x",
    r"\frac{d}{dx}\left[\sum_{k=1}^{\infty} a_k x^{k}\right] \approx 6.022e23 ≤ ∞ → 👩‍🔬🎉 "
    r"#hashtag @user www.a-b.org/?q=1&r=%20",
)
CORNERS = 48  # tokens from all over the vocabulary, whose text is a probe, too
# temperature at which samples differ, and log-probs show whether they are the model's own
WARM = 2.0
OPEN = "Once upon a time there was"  # what can go on in many ways
COUNTED = "one, two, three, four, five,"  # what goes on in one way
NEXT = "six"
WRAPS = 3  # more tokens than any beginning of a text: the server puts a prompt into a conversation
ELSEWHERE = frozenset({404, 405, 501})  # statuses of a path that is not there


class Wrapped(ValueError):
    """The server reads more than the prompt: it makes a conversation of it."""


def learn(ask: Ask, model: str, words: Words) -> Capabilities:
    """What the server of `model` takes and tells; `/completions` where it has them, else
    `/chat/completions`.

    Raises what `ask` raises where the server answers nothing at all, ValueError where it has
    another tokenizer.
    """
    try:
        return _Handshake(ask, model, words, chat=False).learn()
    except Refused as refusal:
        if refusal.status not in ELSEWHERE and "chat" not in str(refusal).lower():
            raise
        reason: Exception = refusal
    except Wrapped as error:
        reason = error
    try:
        return _Handshake(ask, model, words, chat=True).learn()
    except Refused:
        raise reason from None


class _Handshake:
    """The questions to one path."""

    def __init__(self, ask: Ask, model: str, words: Words, chat: bool):
        self._path = CHAT if chat else COMPLETIONS
        self._send = ask
        self._words = words
        self._chat = chat
        self._found = Capabilities(model, chat=chat, ids=False)
        self._log_probs = CHAT_LOG_PROBS if chat else LOG_PROBS

    def learn(self) -> Capabilities:
        first = self._negotiate()
        choice = choice_of(first)
        reported = Reported.of(choice)
        if reported.log_probs is None:
            options = _without(self._found.options, self._log_probs)
            self._found = replace(self._found, options=options)
        self._found = replace(self._found, log_probs=reported.log_probs is not None)
        if self._words.exact:
            self._check_tokenizer(first)
        if self._chat:
            self._find_continuation()
        else:
            ids = self._words.exact and self._takes_ids(choice["text"])
            self._found = replace(self._found, ids=ids)
        self._find_stop(choice)
        self._find_heat(reported)
        return self._found

    def _ask(
        self, text: str, tokens: int = 4, temperature: float = 0.0, **fields: Any
    ) -> dict[str, Any]:
        """The reply to a text, in a chat to a user's turn."""
        body: dict[str, Any] = {"prompt": text}
        if self._chat:
            body = {"messages": [{"role": "user", "content": text}]}
        return self._post(body, tokens, temperature, **fields)

    def _post(
        self, body: dict[str, Any], tokens: int, temperature: float, **fields: Any
    ) -> dict[str, Any]:
        """The reply to a body with the options that are taken; a field of None is left out."""
        found = self._found
        plain = {"model": found.model, found.limit: tokens, "temperature": temperature}
        whole = body | plain | found.options | fields
        left_out = [name for name, value in whole.items() if value is None]
        return self._send(self._path, _without(whole, left_out))

    # -- which fields it takes

    def _negotiate(self) -> dict[str, Any]:
        """The first reply. After it `_found` has the fields that are taken: those that a refusal
        names are left out, until the server takes all.
        """
        self._found = replace(self._found, options=OPTIONS | self._log_probs)
        while True:
            try:
                return self._ask(PROBE)
            except Refused as refusal:
                if refusal.status not in (400, 422, 500):
                    raise
                fewer = self._fewer(str(refusal))
                if fewer is None:
                    raise
                self._found = fewer

    def _fewer(self, refusal: str) -> Capabilities | None:
        """What to try after a refusal; None: there is nothing left to leave out."""
        found = self._found
        options = self._found.options
        if found.limit == "max_tokens" and "max_completion_tokens" in refusal:
            return replace(found, limit="max_completion_tokens")
        named = [name for name in options if re.search(rf"\b{name}\b", refusal)]
        if "top_k" in named and options["top_k"] == -1:
            return replace(found, options=options | {"top_k": 0})  # llama.cpp's way to say none
        if named and len(named) < len(options):
            gone = set(named)
            if not gone.isdisjoint(self._log_probs):
                gone |= set(self._log_probs)
            return replace(found, options=_without(options, gone))
        if options.keys() - self._log_probs.keys() - {"seed"}:
            return replace(found, options={"seed": 0} | self._log_probs)
        return replace(found, options={}) if options else None

    # -- whether it reads text as the tokenizer does

    def _check_tokenizer(self, first: dict[str, Any]) -> None:
        """Raises ValueError where the server reads some text as other tokens than the tokenizer
        does.
        """
        replies = {PROBE: first}
        quiet: dict[str, Any] = dict.fromkeys(self._log_probs)  # they would be computed for nothing
        for text in (*TEXTS, self._words.corners(CORNERS)):
            try:
                replies[text] = self._ask(text, tokens=1, **quiet)
            except (Refused, TooLong):  # a context that is too small for it, perhaps
                continue
        if self._chat:
            self._check_differences(replies)
            return
        more = set()
        for text, reply in replies.items():
            mine = [self._words.encode(text), self._words.encode(text, add_special_tokens=False)]
            ids = _prompt_ids(reply)
            number = _prompt_size(reply)
            if ids is not None:
                agrees = ids in mine
            else:
                agrees = number is None or number in map(len, mine)
            more.add(0 if agrees else (number or len(ids or ())) - len(mine[1]))
        if len(more) == 1 and more.pop() >= WRAPS:
            raise Wrapped(
                f"the server of {self._found.model} reads {len(replies)} texts with more "
                "around them, as a conversation, and has no "
                f"{CHAT}: ask one that has, or one that reads prompts as they are"
            )
        if more and more != {0}:
            raise self._strange()

    def _check_differences(self, replies: dict[str, dict[str, Any]]) -> None:
        """Of a chat: what the template adds is the same for each text, give or take one token
        that grows together with it.
        """
        more = []
        for text, reply in replies.items():
            number = _prompt_size(reply)
            if number is not None:
                more.append(number - len(self._words.encode(text, add_special_tokens=False)))
        if more and max(more) - min(more) > 1:
            raise self._strange()

    def _strange(self) -> ValueError:
        remedy = f"give the tokenizer of {self._found.model}, a folder or a hub id"
        return ValueError(
            f"the server reads some texts as other tokens than the tokenizer does: {remedy}"
        )

    def _takes_ids(self, text: str) -> bool:
        """Whether token ids are read as such, not refused and not taken for text. `text`: the
        greedy one after `PROBE`.
        """
        ids = self._words.encode(PROBE)
        try:
            reply = self._post({"prompt": ids}, 4, 0.0)
            number = _prompt_size(reply)
            if number is not None:
                return number == len(ids)
            return bool(choice_of(reply)["text"] == text)
        except RequestFailed as error:
            if isinstance(error, Refused) and error.status in (401, 403, 404):
                raise
            return False

    # -- how texts end and go on

    def _find_continuation(self) -> None:
        """The first way in which the assistant's turn is gone on with.

        The number of prompt tokens shows it: a turn that goes on adds what it holds, to the blank
        line at its end; one that is closed adds marks, too, and a template that trims leaves the
        blank line out. Where the server gives no number, or the tokenizer is a stand-in, what the
        model writes shows it.
        """
        user = {"role": "user", "content": "Write the numbers from one to ten as words."}
        begun = {"role": "assistant", "content": f"{COUNTED}\n\n"}
        bare = _prompt_size(self._post({"messages": [user]}, 1, 0.0))
        added = len(self._words.encode(begun["content"], add_special_tokens=False))
        for way in CONTINUATIONS:
            try:
                reply = self._post(turns_body([user, begun], way), 8, 0.0)
            except Refused:
                continue
            text = choice_of(reply)["text"]
            number = _prompt_size(reply)
            if bare is None or number is None or not self._words.exact:
                goes_on = text.lower().replace(begun["content"], "").lstrip().startswith(NEXT)
            else:
                goes_on = number - bare == added
            if goes_on:
                self._found = replace(
                    self._found, continues=way, repeats=text.startswith(begun["content"].rstrip())
                )
                return

    def _find_stop(self, choice: dict[str, Any]) -> None:
        marks = "stop_reason" in choice or "matched_stop" in choice
        keeps = spells = False
        if choice["text"] and not marks:
            begin = choice["text"][0]
            stopped = choice_of(self._ask(PROBE, stop=[begin]))
            keeps = stopped["text"].startswith(begin)
            spells = not keeps and b"".join(Reported.of(stopped).words or ()).startswith(
                begin.encode()
            )
        self._found = replace(self._found, marks=marks, keeps=keeps, spells=spells)

    # -- what it does at a temperature

    def _find_heat(self, cold: Reported) -> None:
        temperature = WARM
        try:
            replies = self._heated(PROBE, temperature, 1)
        except Refused:  # hosted servers allow 1 at most
            temperature = 1.0
            replies = self._heated(PROBE, temperature, 1)
        own = True
        if cold.tops and cold.tops[0]:
            warm = (Reported.of(choice_of(replies[0])).tops or [{}])[0]
            same = bool(warm) and abs(max(warm.values()) - max(cold.tops[0].values())) < 0.05
            own = same and temperature == WARM
        same = len({choice_of(reply)["text"] for reply in replies}) == 1
        if same and choice_of(replies[0])["text"]:  # once more, where many texts are likely
            texts = {choice_of(reply)["text"] for reply in self._heated(OPEN, temperature, 3)}
            same = len(texts) == 1 and texts != {""}
        else:
            same = False
        self._found = replace(self._found, own=own, samples=not same)

    def _heated(self, text: str, temperature: float, seed: int) -> list[dict[str, Any]]:
        """Two replies of different seeds, where the server takes one."""
        fields: dict[str, int] = {}
        # vLLM's chat counts the sampled token among the likeliest
        if "top_logprobs" in self._found.options:
            fields["top_logprobs"] = 2
        replies = []
        for number in (seed, seed + 1):
            if "seed" in self._found.options:
                fields["seed"] = number
            replies.append(self._ask(text, 12, temperature, **fields))
        return replies


def _without(options: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The options but for some."""
    return {name: options[name] for name in options if name not in names}


def _prompt_size(reply: dict[str, Any]) -> int | None:
    """Tokens that the server read, None where it gives no number."""
    return usage_of(reply).get("prompt_tokens") or None


def _prompt_ids(reply: dict[str, Any]) -> list[int] | None:
    """Of a completion they stand in its choice, of a chat beside it."""
    ids = choice_of(reply).get("prompt_token_ids", reply.get("prompt_token_ids"))
    return ids if isinstance(ids, list) else None
