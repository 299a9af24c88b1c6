"""Turns of a conversation as one text: how a prompt of token ids reaches a server that takes
conversations alone.

Guides write prompts as token ids, by the chat template of the tokenizer. For a server of
`/v1/chat/completions` alone that template is one of our own, whose marks say who speaks; the client
reads the turns back from the text and sends them as messages, the last one, what the assistant said
so far, as a beginning to go on from. So policies and judges need not know which kind of server they
ask.

The marks hold a number that is drawn once a process: no statement of a problem can hold a mark by
accident or design.
"""

from __future__ import annotations

import copy
import re
import secrets
from typing import Any

_NUMBER = secrets.token_hex(4)
MARK = re.compile(rf"\[turn {_NUMBER} (system|user|assistant)\]\n")

#: The Jinja template by which a tokenizer writes turns with our marks; contents may be text, or
#: parts with text.
TEMPLATE = (
    "{% for message in messages %}{{ '[turn NUMBER ' + message['role'] + ']\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif "
    "%}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[turn NUMBER assistant]\\n' }}{% endif %}"
).replace("NUMBER", _NUMBER)

Messages = list[dict[str, Any]]


def marked(tokenizer: Any) -> Any:
    """The tokenizer with `TEMPLATE` as its chat template; the given one stays as it is."""
    ours = copy.copy(tokenizer)
    ours.chat_template = TEMPLATE
    return ours


def render(turns: Messages, add_generation_prompt: bool = False) -> str:
    """What `TEMPLATE` makes of turns, without Jinja."""
    written = []
    for turn in turns:
        text = turn["content"]
        if not isinstance(text, str):
            text = "".join(part["text"] for part in text)
        written.append(f"[turn {_NUMBER} {turn['role']}]\n{text}")
    if add_generation_prompt:
        written.append(f"[turn {_NUMBER} assistant]\n")
    return "".join(written)


def messages(text: str) -> Messages:
    """The turns in a text; the last one is the assistant's, which may be empty: what is to be gone
    on with.

    Raises ValueError for a text without marks, and for one that ends in another's turn.
    """
    before, *pieces = MARK.split(text)
    turns = [
        {"role": role, "content": text}
        for role, text in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    if before.strip() or not turns or turns[-1]["role"] != "assistant":
        remedy = "leave out prompt= and say what you want with instruction="
        raise ValueError(f"the server takes conversations alone, and the prompt is none: {remedy}")
    return turns
