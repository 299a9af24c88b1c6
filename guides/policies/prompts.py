"""From a problem's statement to the tokens that a model reads first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from search.final_answer import opens_thought

INSTRUCTION = (
    "Reason step by step and leave a blank line between the steps. Put the final answer in "
    "\\boxed{}."
)
#: stands for the statement while a chat template is rendered; no statement holds it
PLACE = "copse-9f2c71-place"

# What begins a final answer, and hardly ever ordinary text: a number, mathematics, a choice or a
# single word, and little behind it. A question is none.
_VALUE = (
    r"[ \t]*\**[ \t]*(?:[-+$(\[{]*\d|\\|\$|\(?[A-Z]\)?\**[ \t]*$|\w+\.?\**[ \t]*$)[^\n?]{0,30}$"
)
#: a heading: "#### 1. Add the apples"
_NUMBERED = r"[ \t]*\**\(?\d+\**(?:[.):]|[ \t]+-)\**[ \t]+\S"
#: What a model may be asked to mark its answer with -> what then ends a chain, beside a box
_ASKED = {
    "####": rf"^[ \t]*####(?!{_NUMBERED})"
    rf"(?=[ \t]*(?:[-+$(\[{{]*\d|[$\\]|\(?[A-Z]\)?[ \t]*$)){_VALUE}",
    "answer is": rf"(?:^|[.!?][ \t]+)\**(?:(?:so|thus|hence|therefore),? )?"
    rf"the (?:final |correct )?answer is\**:?\**{_VALUE}",
    "answer:": rf"^\**(?:the )?(?:final )?answer\**:\**{_VALUE}",
}


class Prompts:
    """What a language model reads before the first step of a problem.

    tokenizer    its tokenizer
    template     text with `{problem}` where the statement goes; None: the tokenizer's chat
                 template, or for a base model without one the statement and a blank line
    instruction  said after the statement to a chat model, else before all; None: `INSTRUCTION` to a
                 chat model
    system       the chat's system turn; None: what the chat template says without one

    thinking  whether the prompt ends where the model's thoughts begin, such as with <think>
    ends      regular expression of what ends a chain beside a box, None: nothing: marks that the
              model was asked for. A base model that was asked for none ends its chain with any of
              them

    Control tokens that a statement names are words like any other. Raises ValueError for a template
    without a place for the problem, a chat template that shows none of it or refuses a system turn,
    and a system turn without a chat.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str | None = None,
        instruction: str | None = None,
        system: str | None = None,
    ):
        if template is not None and "{problem}" not in template:
            raise ValueError(
                f"the prompt {template!r} has no place for the problem: write {{problem}} where "
                "it goes"
            )
        self._tokenizer, self._marks = tokenizer, control_names(tokenizer)
        self._chat = template is None and bool(getattr(tokenizer, "chat_template", None))
        if self._chat:
            said = INSTRUCTION if instruction is None else instruction
            self._pieces = _chat_pieces(tokenizer, f"{PLACE}\n\n{said}".rstrip(), system)
            self.ends = _asked_for(said)
        elif system is not None:
            raise ValueError(
                "a system turn is of chat models, and of no prompt of your own: write it into "
                "prompt= or instruction="
            )
        else:
            said = f"{instruction}\n\n" if instruction else ""
            begin, body = _without_begin(tokenizer, template or "{problem}\n\n")
            self._pieces = (begin + said + body).split("{problem}")
            anything = "|".join(_ASKED.values())
            self.ends = _asked_for(said + body) if _names_mark(said + body) else f"(?im){anything}"
        self.thinking = opens_thought(self._pieces[-1])

    def __call__(self, statement: str) -> tuple[int, ...]:
        """Token ids of the prompt."""
        shown = statement.strip() if self._chat else statement  # many chat templates strip, too
        parts = [self._pieces[0]]
        cut = _cut(self._marks, shown)
        for piece in self._pieces[1:]:
            parts[-1] += cut[0]
            parts += cut[1:]
            parts[-1] += piece
        tokens = self._tokenizer.encode(
            parts[0], **({"add_special_tokens": False} if self._chat else {})
        )
        begin = getattr(self._tokenizer, "bos_token_id", None)
        # the template has it, and the tokenizer adds it
        if begin is not None and list(tokens[:2]) == [begin, begin]:
            tokens = tokens[1:]
        return (
            *tokens,
            *(
                token
                for part in parts[1:]
                for token in self._tokenizer.encode(part, add_special_tokens=False)
            ),
        )


def prompting(
    settings: Mapping[str, Any], prompt: str | None = None
) -> tuple[str | None, str | None, str | None]:
    """Template, instruction and system turn that a checkpoint's settings say; `prompt` goes
    before their template.
    """
    template = prompt or settings.get("prompt")
    return template, settings.get("instruction"), None if template else settings.get("system")


_PART = "{'type': 'text'"  # how a template prints a part that it takes for text


def _chat_pieces(tokenizer: Any, content: str, system: str | None) -> list[str]:
    """A rendered chat, cut where the statement stands. Templates that take a message as a list of
    parts are given such a list.

    A template may take one role's message as text and the other's as parts; a list that it prints
    as it is was not understood.
    """
    turns = [] if system is None else [("system", system)]
    turns.append(("user", content))
    found, reason = "", ""
    for wrapped in ((), ("system", "user"), ("user",), ("system",)):
        messages = [
            {"role": role, "content": [{"type": "text", "text": text}] if role in wrapped else text}
            for role, text in turns
        ]
        try:
            rendered = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False
            )
        except Exception as error:  # a template says what it does not like in its own way
            reason = reason or " ".join(str(error).split()) or type(error).__name__
            continue
        if _PART in rendered:
            continue
        found = rendered if PLACE in rendered else found
        if PLACE in rendered and (system is None or system.strip() in rendered):
            return rendered.split(PLACE)  # type: ignore[no-any-return]
    if system is not None and (found or reason):
        what = f"refuses the system turn ({reason})" if reason else "leaves the system turn out"
        raise ValueError(f"the chat template {what}: say it by instruction= instead of system=")
    what = f"cannot be rendered ({reason})" if reason else "shows nothing of the problem"
    raise ValueError(f"the chat template {what}: give prompt= with {{problem}} in it")


def _without_begin(tokenizer: Any, template: str) -> tuple[str, str]:
    """The beginning-of-text token with which a template begins, behind white space or not (""
    without one), and the rest.
    """
    name = getattr(tokenizer, "bos_token", None)
    begins = name and template.lstrip().startswith(name)
    return (name, template.lstrip().removeprefix(name)) if begins else ("", template)


def _names_mark(said: str) -> bool:
    """Whether a text asks for a box or another mark."""
    return "\\boxed" in said or "\\fbox" in said or any(mark in said.lower() for mark in _ASKED)


def _asked_for(said: str) -> str | None:
    """What ends a chain beside a box where a model was told this; None: nothing."""
    asked = [pattern for mark, pattern in _ASKED.items() if mark in said.lower()]
    return (
        f"(?im){'|'.join(asked)}"
        if asked and "\\boxed" not in said and "\\fbox" not in said
        else None
    )


def frame(tokenizer: Any, template: str, names: Sequence[str]) -> list[tuple[int, ...] | str]:
    """A turn of a user with places for texts that nobody has vetted: tokens, a name of `names`,
    tokens, and so on.

    template  text with `{name}` for each of `names`, rendered by the tokenizer's chat template
              where it has one. Only what the template itself says can become special tokens: what
              is put into a place is encoded by `plain_tokens`

    Raises ValueError where a name has no place.
    """
    begin: tuple[int, ...] = ()
    rendered = template
    if getattr(tokenizer, "chat_template", None):
        turn = [{"role": "user", "content": template}]
        # models that think before they speak are asked not to; templates that know no such word
        # ignore it
        rendered = tokenizer.apply_chat_template(
            turn, add_generation_prompt=True, tokenize=False, enable_thinking=False
        )
    else:
        begin = tuple(tokenizer.encode(""))
    # text, name, text, ...
    pieces = re.split(rf"\{{({'|'.join(map(re.escape, names))})\}}", rendered)
    for name in names:
        if name not in pieces[1::2]:
            raise ValueError(
                f"the template {template!r} has no place for the {name}: write {{{name}}} where "
                "it goes"
            )
    made = [
        piece if i % 2 else tuple(tokenizer.encode(piece, add_special_tokens=False))
        for i, piece in enumerate(pieces)
    ]
    return [begin, *made]


def plain_tokens(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Token ids of `text`, in which the name of a control token is a word like any other and never
    that token.

    Such a name is encoded in two parts. (The tokenizer's own switch for it would be thrown under
    whoever else is using it.)
    """
    parts = _cut(control_names(tokenizer), text)
    return tuple(
        token for part in parts for token in tokenizer.encode(part, add_special_tokens=False)
    )


def control_names(tokenizer: Any) -> re.Pattern[str]:
    """The names of the tokens that control a model: special ones, and others in brackets, such
    as <think> and [INST].
    """
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    names = {
        token.content
        for token in added
        if token.special or re.fullmatch(r"[<\[\u25c1]\S*[>\]\u25b7]", token.content)
    }
    names |= set(getattr(tokenizer, "all_special_tokens", ()))
    return re.compile(
        "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True) if len(name) > 1)
        or r"(?!)"
    )


def _cut(marks: re.Pattern[str], text: str) -> list[str]:
    """`text` in parts that hold none of the names: each is cut behind its first character."""
    parts = []
    while found := marks.search(text):
        at = found.start() + 1
        parts.append(text[:at])
        text = text[at:]
    return [*parts, text]
