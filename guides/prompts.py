"""From a problem's statement to the tokens that a model reads first."""

from __future__ import annotations

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
