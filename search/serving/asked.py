"""From the body of a request to the search that it asks for."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search.methods.presets import PRESETS
from search.scheduling.budget import Budget

NAME = "copse"  #: of the model whose method is the server's own
#: what a number at the end of a model's name says, by the search of its method
COUNTED = {"sample": "chains", "beam": "width", "mcts": "simulations", "gumbel": "simulations"}
SEEDS = 2**62  #: so many there are
#: fields of a body that would change the answer and that a search cannot do, with what is allowed
REFUSED: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False, 0),
    "tools": ([],),
    "functions": ([],),
    "stop": ("", []),
    "echo": (False,),
    "suffix": ("",),
    "response_format": ({"type": "text"},),
}


class Refused(ValueError):
    """A request that cannot be answered.

    status  of HTTP;  param: the field of the body that is wrong
    """

    def __init__(self, message: str, param: str | None = None, status: int = 400):
        super().__init__(message)
        self.param = param
        self.status = status


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    problems  texts, one a search;  settings: of the policy's sampling
    """

    model: str
    problems: tuple[str, ...]
    method: str
    budget: Budget
    seed: int
    choose: str | None
    options: Mapping[str, Any]
    settings: Mapping[str, float]
    stream: bool
    stream_usage: bool


def asked(body: Any, *, chat: bool, method: str, budget: Budget) -> Asked:
    """Read the body of a request for a chat completion, or else for a completion.

    method, budget  of the server: the method of the model "copse", and the most that a request gets

    Beside OpenAI's fields it may have `budget` (such as "tokens=500"), `choose` and `options` of
    the method. `max_completion_tokens` (or `max_tokens`) limits all tokens of the search, and not
    those of the answer alone. A temperature of 0 is left out: the method says whether it wants one
    chain or different ones. Raises `Refused`.
    """
    if not isinstance(body, dict):
        raise Refused("the body is no JSON object: send one with model and messages or prompt")
    for name, allowed in REFUSED.items():
        if body.get(name) is not None and body[name] not in allowed:
            raise Refused(f"a search has no {name}: leave it out", name)
    model = _typed(body, "model", str, NAME)
    method, options, least = _named(model, method)
    own = _typed(body, "options", dict, {})
    for name in set(own) & {"problem", "guide", "method", "budget", "seed", "choose"}:
        raise Refused(f"{name} is no option of a method: it is said elsewhere", "options")
    if least is not None:
        budget = budget.within(least)
    if (text := _typed(body, "budget", str, None)) is not None:
        try:
            budget = budget.within(Budget.parse(text))
        except ValueError as error:
            raise Refused(str(error), "budget") from None
    most = body.get("max_completion_tokens", body.get("max_tokens"))
    if most is not None:
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            raise Refused("give a whole number from 1 on", "max_completion_tokens")
        budget = budget.within(Budget(tokens=most))
    settings = {}
    for name in ("temperature", "top_p"):
        number = _typed(body, name, (int, float), None)
        if number and not PRESETS[method].policy:
            settings[name] = float(number)
    stream_options = _typed(body, "stream_options", dict, {})
    return Asked(
        model=model,
        problems=_chat(body) if chat else _prompts(body),
        method=method,
        budget=budget,
        seed=_seed(body),
        choose=_typed(body, "choose", str, None),
        options={**options, **own},
        settings=settings,
        stream=_typed(body, "stream", bool, False),
        stream_usage=bool(stream_options.get("include_usage")),
    )


def names() -> list[str]:
    """The models that `/v1/models` lists; a number at the end says how many chains (sampling),
    states (beam) or simulations (tree search).
    """
    return [NAME, *(f"{NAME}-{method.replace('_', '-')}" for method in PRESETS)]


def _named(model: str, default: str) -> tuple[str, dict[str, Any], Budget | None]:
    """The method of a model's name, its options, and a limit of simulations."""
    if model == NAME:
        return default, {}, None
    found = re.fullmatch(rf"{NAME}-([a-z][a-z-]*?)(?:-(\d{{1,9}}))?", model)
    method = "" if found is None else found[1].replace("-", "_")
    if method == "best_of":
        method = "best_of_n"
    if found is None or method not in PRESETS:
        raise Refused(
            f"there is no model {model!r}: use one of {', '.join(names())}, with a number behind "
            f"it as in {NAME}-best-of-8",
            "model",
            404,
        )
    if found[2] is None:
        return method, {}, None
    count = int(found[2])
    preset = PRESETS[method]
    name = "attempts" if preset.stream else COUNTED[preset.search]
    if count < 1 or preset.policy:
        raise Refused(f"the model {model!r} takes no such number: leave it out", "model", 404)
    if name == "simulations":
        return method, {}, Budget(simulations=count)
    return method, {name: count}, None


def _typed(body: Mapping[str, Any], name: str, kind: Any, default: Any) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise Refused(f"{name}={value!r:.80} is of the wrong type", name)
    return value


def _seed(body: Mapping[str, Any]) -> int:
    """The request's, else any: who asks the same again expects another sample."""
    seed: int | None = _typed(body, "seed", int, None)
    if seed is None:
        return secrets.randbelow(SEEDS)
    if not 0 <= seed < SEEDS:
        raise Refused(f"give a seed from 0 to {SEEDS - 1}", "seed")
    return seed


def _prompts(body: Mapping[str, Any]) -> tuple[str, ...]:
    prompt = body.get("prompt")
    found = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise Refused("the prompt is a text or a list of texts: give one", "prompt")
    return tuple(found)


def _chat(body: Mapping[str, Any]) -> tuple[str]:
    """The text of a conversation: that of its one turn, or of all turns with who said each."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused("messages is a list of turns: give at least one of the user", "messages")
    turns = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refused("a message is an object with role and content", "messages")
        turns.append((message["role"], _text(message.get("content"))))
    if turns[-1][0] != "user":
        raise Refused("the last message is to be the user's", "messages")
    leading = [text for role, text in turns if role in ("system", "developer")]
    others = [(role, text) for role, text in turns if role not in ("system", "developer")]
    if len(others) == 1:
        said = [others[0][1]]
    else:
        said = [f"{role.capitalize()}: {text}" for role, text in others]
    return ("\n\n".join([*leading, *said]),)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part["text"] for part in content if isinstance(part, dict) and "text" in part]
        if len(texts) == len(content) and all(isinstance(text, str) for text in texts):
            return "\n".join(texts)
    raise Refused("the content of a message is a text, or a list of parts of text", "messages")
