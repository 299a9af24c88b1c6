"""From a problem's statement to the tokens that a model reads first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

INSTRUCTION = "Reason step by step and leave a blank line between the steps. Put the final answer in \\boxed{}."


def prompt_tokens(tokenizer: Any, statement: str, template: str | None, instruction: str | None) -> tuple[int, ...]:
    """Token ids of the prompt.

    template     text with `{problem}` where the statement goes; None: the tokenizer's chat template, or for a base model without one
                 the statement and a blank line
    instruction  said after the statement to a chat model; None: `INSTRUCTION`
    """
    if template is None and getattr(tokenizer, "chat_template", None):
        text = f"{statement}\n\n{INSTRUCTION if instruction is None else instruction}".rstrip()
        messages = [{"role": "user", "content": text}]
        rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return tuple(tokenizer.encode(rendered, add_special_tokens=False))
    text = (template or "{problem}\n\n").replace("{problem}", statement)
    if instruction:
        text = f"{instruction}\n\n{text}"
    return tuple(tokenizer.encode(text))


def frame(tokenizer: Any, template: str, names: Sequence[str]) -> list[tuple[int, ...] | str]:
    """A turn of a user with places for texts that nobody has vetted: tokens, a name of `names`, tokens, and so on.

    template  text with `{name}` for each of `names`, rendered by the tokenizer's chat template where it has one. Only what the template
              itself says can become special tokens: what is put into a place is encoded by `plain_tokens`

    Raises ValueError where a name has no place.
    """
    begin: tuple[int, ...] = ()
    rendered = template
    if getattr(tokenizer, "chat_template", None):
        turn = [{"role": "user", "content": template}]
        # models that think before they speak are asked not to; templates that know no such word ignore it
        rendered = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False, enable_thinking=False)
    else:
        begin = tuple(tokenizer.encode(""))
    pieces = re.split(rf"\{{({'|'.join(map(re.escape, names))})\}}", rendered)  # text, name, text, ...
    for name in names:
        if name not in pieces[1::2]:
            raise ValueError(f"the template {template!r} has no place for the {name}: write {{{name}}} where it goes")
    made = [piece if i % 2 else tuple(tokenizer.encode(piece, add_special_tokens=False)) for i, piece in enumerate(pieces)]
    return [begin, *made]


def plain_tokens(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Token ids of `text`, in which the name of a special token is a word like any other and never that token.

    Such a name is encoded in two parts. (The tokenizer's own switch for it would be thrown under whoever else is using it.)
    """
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    names = {token.content for token in added if token.special} | set(getattr(tokenizer, "all_special_tokens", ()))
    marks = re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True) if len(name) > 1) or r"(?!)")
    parts = []
    while found := marks.search(text):
        cut = found.start() + 1
        parts.append(text[:cut])
        text = text[cut:]
    return tuple(token for part in [*parts, text] for token in tokenizer.encode(part, add_special_tokens=False))
