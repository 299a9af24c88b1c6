"""What an OpenAI-compatible server takes and tells, found out by a few questions, and requests and replies in its words.

vLLM, SGLang and llama.cpp take token ids as prompt and fields that OpenAI has not (`top_k`, `return_token_ids`, ...); the first two tell
which stop string it was. `transformers serve` takes text and refuses unknown fields. Many keep log-probs to themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from models.told import Told, choice_of, usage_of
from models.wire import Refused
from search.requests import Generate, RequestFailed, Score

#: Fields beyond OpenAI's. Sampling is said in full, or a server takes what the model's generation_config.json recommends.
EXTRAS: dict[str, Any] = {
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "skip_special_tokens": False,  # a stop string may hold one
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
}
PROBE = "Let naive = 12345 + 67;\n\n  Then: 'x_1' is"  # what different tokenizers read differently
READS = 20  # likeliest tokens that are asked for where some ids are to be read: what vLLM allows
WARM = 2.0  # temperature at which log-probs show whether they are the model's own
SEEDS = 0x7FFFFFFF  # what every server takes as a seed


@dataclass(frozen=True)
class Dialect:
    """How to speak with one server.

    ids        it takes prompts as token ids;  extras: it takes `EXTRAS`;  log_probs: it tells them
    own        its log-probs are the model's own at every temperature (SGLang's are not: it divides by the temperature first)
    marks      it tells which stop string ended a text;  keeps: it leaves the stop string in the text
    """

    model: str
    ids: bool
    extras: bool
    log_probs: bool
    own: bool
    marks: bool
    keeps: bool

    def generate(self, request: Generate, text: str) -> dict[str, Any]:
        """The body of a request; `text` is its prompt, for servers that take no ids. Raises RequestFailed for what it cannot express."""
        body = self._body(request.prompt, text)
        body |= {"max_tokens": request.max_tokens, "temperature": request.temperature, "top_p": request.top_p, "seed": request.seed & SEEDS}
        if request.stop:
            body["stop"] = list(request.stop)
        if self.log_probs:
            body["logprobs"] = 1
        if self.extras:
            body |= {"top_k": request.top_k or -1, "min_p": request.min_p}
        elif request.top_k or request.min_p:
            raise RequestFailed(f"the server of {self.model} takes no top_k and no min_p: sample with temperature and top_p alone")
        return body

    def score(self, request: Score, text: str) -> dict[str, Any]:
        """The body that asks for the log-probs of a text. Raises RequestFailed where the server tells none."""
        if not self.log_probs:
            raise RequestFailed(f"the server of {self.model} tells no log-probs: score with a model of your own")
        body = self._body(request.tokens, text)
        return body | {"max_tokens": 1, "temperature": 0.0, "seed": 0, "echo": True, "logprobs": READS if request.read else 1}

    def _body(self, tokens: tuple[int, ...], text: str) -> dict[str, Any]:
        return {"model": self.model, "prompt": [int(token) for token in tokens] if self.ids else text, **(EXTRAS if self.extras else {})}

    def tells_own(self, request: Generate) -> bool:
        """Whether the log-probs of this request's reply are those of the model itself."""
        return self.own or request.temperature in (0, 1)


def learn(ask: Callable[[dict[str, Any]], dict[str, Any]], model: str, encode: Callable[..., list[int]]) -> Dialect:
    """Find out what a server takes and tells, by three to six short questions.

    ask     sends a body to `/completions`: the reply, or RequestFailed (`Refused` for one that the server will not answer)
    encode  the tokenizer's, with `add_special_tokens`

    Raises what `ask` raises where the server answers nothing at all, ValueError where it has another tokenizer.
    """
    plain = {"model": model, "prompt": PROBE, "max_tokens": 4, "temperature": 0.0, "seed": 0}
    ways = ({**EXTRAS, "logprobs": 1}, {"logprobs": 1}, {})
    for way in ways:
        try:
            first = ask(plain | way)
            break
        except Refused as error:
            if way == ways[-1] or error.status not in (400, 422):
                raise
    choice = choice_of(first)
    _check_tokenizer(first, choice, model, encode)
    told = Told.of(choice)
    body, log_probs = plain | way, told.log_probs is not None
    marks = "stop_reason" in choice or "matched_stop" in choice
    keeps, own = False, True
    if choice["text"] and not marks:
        begin = choice["text"][0]
        keeps = choice_of(ask(body | {"stop": [begin]}))["text"].startswith(begin)
    if told.tops and told.tops[0]:
        warm = Told.of(choice_of(ask(body | {"temperature": WARM}))).tops
        own = bool(warm and warm[0]) and abs(max(warm[0].values()) - max(told.tops[0].values())) < 0.05
    return Dialect(model, _takes_ids(ask, body, encode), way == ways[0], log_probs, own, marks, keeps)


def _takes_ids(ask: Callable[[dict[str, Any]], dict[str, Any]], body: dict[str, Any], encode: Callable[..., list[int]]) -> bool:
    """Whether token ids are read as such, not refused and not taken for text."""
    ids = encode(PROBE)
    try:
        reply = ask(body | {"prompt": ids})
    except RequestFailed as error:
        if isinstance(error, Refused) and error.status in (401, 403, 404):
            raise
        return False
    return usage_of(reply).get("prompt_tokens", len(ids)) == len(ids)


def _check_tokenizer(reply: dict[str, Any], choice: dict[str, Any], model: str, encode: Callable[..., list[int]]) -> None:
    mine = [encode(PROBE), encode(PROBE, add_special_tokens=False)]
    ids, number = choice.get("prompt_token_ids"), usage_of(reply).get("prompt_tokens")
    if ids is not None and ids not in mine or ids is None and number is not None and number not in map(len, mine):
        raise ValueError(
            f"the server reads a text as {number if ids is None else len(ids)} tokens that the tokenizer reads as {len(mine[0])} others: "
            f"give the tokenizer of {model}, a folder or a hub id"
        )
