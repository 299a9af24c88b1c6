"""What one OpenAI-compatible server takes and tells, and requests in its words.

vLLM, SGLang and llama.cpp take token ids as prompt and fields that OpenAI has not (`top_k`,
`return_token_ids`, ...); the first two tell which stop string it was. `transformers serve` takes
text and refuses unknown fields. Many keep log-probs to themselves, and most hosted servers have
conversations (`/chat/completions`) alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from models.server.conversation import messages
from search.scheduling.requests import Generate, RequestFailed, Score, Untold

COMPLETIONS = "/completions"
CHAT = "/chat/completions"

#: Fields that not every server takes, with their neutral values. Sampling is said in full where it
#: can be, or a server takes what the model's generation_config.json recommends (vLLM), or has
#: defaults of its own (llama.cpp: top_k 40, min_p 0.05).
OPTIONS: dict[str, Any] = {
    "seed": 0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "skip_special_tokens": False,  # a stop string may hold one
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
}
LOG_PROBS: dict[str, Any] = {"logprobs": 1}
CHAT_LOG_PROBS: dict[str, Any] = {"logprobs": True, "top_logprobs": 1}
# likeliest tokens that are asked for where some ids are to be read: what vLLM and OpenAI's chat
# allow
READS = 20
SEEDS = 0x7FFFFFFF  # what every server takes as a seed

#: Ways to have the assistant's last turn continued: fields of the request, fields of the message.
CONTINUATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # vLLM, SGLang, llama.cpp
    "continue_final_message": (
        {"continue_final_message": True, "add_generation_prompt": False},
        {},
    ),
    "prefix": ({}, {"prefix": True}),  # Mistral, DeepSeek
    "last message": ({}, {}),  # llama.cpp, Anthropic
}


@dataclass(frozen=True)
class Capabilities:
    """How to speak with one server.

    chat       it takes conversations alone;  ids: it takes prompts as token ids
    options    the fields beyond the plainest request that it takes, with their neutral values
    log_probs  it tells them
    own        its log-probs are the model's own at every temperature (SGLang's are not: it divides
               by the temperature first)
    marks      it tells which stop string ended a text;  keeps: it leaves the stop string in the
               text
    spells     it tells the stop string among the words of a text, though not in the text
               (llama-cpp-python)
    continues  the name of the way in `CONTINUATIONS` to go on with the assistant's turn in a chat;
               "": there is none
    repeats    it repeats the beginning of a turn that it goes on with
    samples    other seeds give other texts: it heeds the temperature
    limit      the name of the field for max_tokens
    """

    model: str
    chat: bool = False
    ids: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    log_probs: bool = False
    own: bool = True
    marks: bool = False
    keeps: bool = False
    spells: bool = False
    continues: str = ""
    repeats: bool = False
    samples: bool = True
    limit: str = "max_tokens"

    @property
    def path(self) -> str:
        return CHAT if self.chat else COMPLETIONS

    @property
    def stepwise(self) -> bool:
        """Whether it goes on from any step of a chain: all but chat servers that give whole
        turns.
        """
        return not self.chat or bool(self.continues)

    def limits(self) -> Iterator[str]:
        """What this server cannot, a sentence each."""
        if not self.stepwise:
            yield (
                "it answers in whole turns and continues none, so an answer is one step: "
                "sample, votes and judges work, "
                "mcts, gumbel and beam do not"
            )
        if not self.samples:
            yield (
                "it gave the same text twice at a high temperature with different seeds, so "
                "samples are copies: have it heed "
                "temperature and seed, or ask for temperature 0"
            )

    def generate(self, request: Generate, text: str) -> dict[str, Any]:
        """The body of a request; `text` is its prompt, for servers that take no ids.

        Raises RequestFailed for what the server cannot be asked.
        """
        options = dict(self.options)
        for name, wanted in (("top_k", request.top_k), ("min_p", request.min_p)):
            if wanted and name not in options:
                remedy = "sample with temperature and top_p alone"
                raise RequestFailed(f"the server of {self.model} takes no {name}: {remedy}")
            if wanted:
                options[name] = wanted
        if "seed" in options:
            options["seed"] = request.seed & SEEDS
        body = self._body(request.prompt, text) | options
        body |= {
            self.limit: request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
        }
        if request.stop and self.stepwise:
            body["stop"] = list(request.stop)
        return body

    def score(self, request: Score, text: str) -> dict[str, Any]:
        """The body that asks for the log-probs of a text, or of what may follow it.

        Raises RequestFailed where the server tells none.
        """
        if request.states:
            raise Untold("a server tells no hidden states: read with a model of your own")
        if not self.log_probs:
            raise Untold(
                f"the server of {self.model} tells no log-probs: score with a model of your own"
            )
        after = reads_next(request)
        if self.chat and not after:
            remedy = "score with a model of your own"
            raise Untold(
                f"the server of {self.model} tells no log-probs of a conversation: {remedy}"
            )
        body = self._body(request.tokens, text) | self.options | {self.limit: 1, "temperature": 0.0}
        if self.chat:
            body["top_logprobs"] = READS
            return body
        body["logprobs"] = READS if request.read else 1
        if not after:
            body["echo"] = True
        return body

    def tells_own(self, request: Generate) -> bool:
        """Whether the log-probs of this request's reply are those of the model itself."""
        return self.own or request.temperature in (0, 1)

    def _body(self, tokens: tuple[int, ...], text: str) -> dict[str, Any]:
        if not self.chat:
            return {"model": self.model, "prompt": list(map(int, tokens)) if self.ids else text}
        try:
            turns = messages(text)
        except ValueError as error:
            raise RequestFailed(str(error)) from None
        if turns[-1]["content"] and not self.continues:
            remedy = "give step_tokens room for a whole answer"
            raise RequestFailed(
                f"the server of {self.model} cannot continue a turn that has begun: {remedy}"
            )
        return {"model": self.model} | turns_body(turns, self.continues)


def turns_body(turns: list[dict[str, Any]], way: str) -> dict[str, Any]:
    """The messages of a request whose last turn, the assistant's, is to be gone on with by
    `way`; an empty one is left out.
    """
    *before, last = turns
    if not last["content"]:
        return {"messages": before}
    fields, marks = CONTINUATIONS[way]
    return {"messages": [*before, last | marks], **fields}


def tokens_of(request: Generate | Score) -> tuple[int, ...]:
    """What is to be read: a prompt, or a text to be scored."""
    return request.prompt if isinstance(request, Generate) else request.tokens


def reads_next(request: Score) -> bool:
    """Whether only the log-probs of what may follow all tokens are wanted: those of a first
    sampled token tell them.
    """
    return not request.log_probs and all(
        position == len(request.tokens) - 1 for position in request.positions
    )
