"""From a problem's statement to the tokens that a model reads first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from models.checkpoints.chat_template import Endless, rendered
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
    instruction  stands behind the statement for a chat model, else before all; None: `INSTRUCTION`
                 for a chat model
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
        self._tokenizer = tokenizer
        self._marks = control_names(tokenizer)
        self._chat = template is None and bool(getattr(tokenizer, "chat_template", None))
        if self._chat:
            if instruction is None:
                instruction = INSTRUCTION
            self._pieces = _chat_pieces(tokenizer, f"{PLACE}\n\n{instruction}".rstrip(), system)
            self.ends = _asked_for(instruction)
        elif system is not None:
            raise ValueError(
                "a system turn is of chat models, and of no prompt of your own: write it into "
                "prompt= or instruction="
            )
        else:
            begin, text = _without_begin(tokenizer, template or "{problem}\n\n")
            if instruction:
                text = f"{instruction}\n\n{text}"
            self._pieces = (begin + text).split("{problem}")
            self.ends = f"(?im){'|'.join(_ASKED.values())}"
            if _names_mark(text):
                self.ends = _asked_for(text)
        self.thinking = opens_thought(self._pieces[-1])

    def turn(self, text: str, delimiter: str, before: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Token ids of a line that is put behind what a model wrote: of a chat model the end of its
        turn, a user's turn with `text`, and the beginning of its next turn; else `text` and the
        delimiter.

        before  the last token of what it wrote: the end of its turn is not said twice
        """
        if not self._chat:
            return plain_tokens(self._tokenizer, text + delimiter)
        turns = [("user", "?"), ("assistant", PLACE), ("user", f"{PLACE}{PLACE}")]
        messages = [{"role": role, "content": content} for role, content in turns]
        whole = rendered(self._tokenizer, messages, add_generation_prompt=True)
        behind = whole.partition(PLACE)[2]
        closed, _, opened = behind.partition(PLACE + PLACE)
        tokens = list(self._tokenizer.encode(closed, add_special_tokens=False))
        if tokens[:1] == list(before):
            del tokens[0]
        tokens += plain_tokens(self._tokenizer, text)
        return (*tokens, *self._tokenizer.encode(opened, add_special_tokens=False))

    def __call__(self, statement: str) -> tuple[int, ...]:
        """Token ids of the prompt."""
        if self._chat:
            statement = statement.strip()  # many chat templates strip, too
        parts = [self._pieces[0]]
        cut = _cut(self._marks, statement)
        for piece in self._pieces[1:]:
            parts[-1] += cut[0]
            parts += cut[1:]
            parts[-1] += piece
        # a base model's tokenizer adds what begins a text
        special = {"add_special_tokens": False} if self._chat else {}
        tokens = list(self._tokenizer.encode(parts[0], **special))
        begin = getattr(self._tokenizer, "bos_token_id", None)
        # the template has it, and the tokenizer adds it
        if begin is not None and tokens[:2] == [begin, begin]:
            del tokens[0]
        for part in parts[1:]:
            tokens += self._tokenizer.encode(part, add_special_tokens=False)
        return tuple(tokens)


def prompting(
    settings: Mapping[str, Any], prompt: str | None = None
) -> tuple[str | None, str | None, str | None]:
    """Template, instruction and system turn that a checkpoint's settings say; `prompt` goes
    before their template.
    """
    template = prompt or settings.get("prompt")
    system = None if template else settings.get("system")
    return template, settings.get("instruction"), system


_PART = "{'type': 'text'"  # how a template prints a part that it takes for text


def _chat_pieces(tokenizer: Any, content: str, system: str | None) -> list[str]:
    """A rendered chat, cut where the statement stands. Templates that take a message as a list of
    parts are given such a list.

    A template may take one role's message as text and the other's as parts; a list that it prints
    as it is was not understood.
    """
    found = ""
    reason = ""
    for wrapped in ((), ("system", "user"), ("user",), ("system",)):
        messages = [_message("user", content, "user" in wrapped)]
        if system is not None:
            messages.insert(0, _message("system", system, "system" in wrapped))
        try:
            text = rendered(tokenizer, messages, add_generation_prompt=True)
        except Endless:
            raise
        except Exception as error:  # a template says what it does not like in its own way
            reason = reason or " ".join(str(error).split()) or type(error).__name__
            continue
        if _PART in text:
            continue
        if PLACE not in text:
            continue
        found = text
        if system is None or system.strip() in text:
            return text.split(PLACE)
    if system is not None and (found or reason):
        what = f"refuses the system turn ({reason})" if reason else "leaves the system turn out"
        raise ValueError(f"the chat template {what}: say it by instruction= instead of system=")
    what = f"cannot be rendered ({reason})" if reason else "shows nothing of the problem"
    raise ValueError(f"the chat template {what}: give prompt= with {{problem}} in it")


def _message(role: str, text: str, in_parts: bool) -> dict[str, Any]:
    if in_parts:
        return {"role": role, "content": [{"type": "text", "text": text}]}
    return {"role": role, "content": text}


def _without_begin(tokenizer: Any, template: str) -> tuple[str, str]:
    """The beginning-of-text token with which a template begins, behind white space or not (""
    without one), and the rest.
    """
    name = getattr(tokenizer, "bos_token", None)
    if not name or not template.lstrip().startswith(name):
        return "", template
    return name, template.lstrip().removeprefix(name)


def _names_box(text: str) -> bool:
    return "\\boxed" in text or "\\fbox" in text


def _names_mark(text: str) -> bool:
    """Whether a text asks for a box or another mark."""
    return _names_box(text) or any(mark in text.lower() for mark in _ASKED)


def _asked_for(text: str) -> str | None:
    """What ends a chain beside a box where this is what a model was asked; None: nothing."""
    asked = [pattern for mark, pattern in _ASKED.items() if mark in text.lower()]
    if not asked or _names_box(text):
        return None
    return f"(?im){'|'.join(asked)}"


def frame(tokenizer: Any, template: str, names: Sequence[str]) -> list[tuple[int, ...] | str]:
    """A turn of a user with places for texts that may hold anything: tokens, a name of `names`,
    tokens, and so on.

    template  text with `{name}` for each of `names`, rendered by the tokenizer's chat template
              where it has one. Only what the template itself says can become special tokens: what
              is put into a place is encoded by `plain_tokens`

    Raises ValueError where a name has no place.
    """
    begin: tuple[int, ...] = ()
    text = template
    if getattr(tokenizer, "chat_template", None):
        turn = [{"role": "user", "content": template}]
        # models that think before they speak are asked not to; templates that know no such word
        # ignore it
        text = rendered(tokenizer, turn, add_generation_prompt=True, enable_thinking=False)
    else:
        begin = tuple(tokenizer.encode(""))
    # text, name, text, ...
    pieces = re.split(rf"\{{({'|'.join(map(re.escape, names))})\}}", text)
    for name in names:
        if name not in pieces[1::2]:
            raise ValueError(
                f"the template {template!r} has no place for the {name}: write {{{name}}} where "
                "it goes"
            )
    framed: list[tuple[int, ...] | str] = [begin]
    for i, piece in enumerate(pieces):
        if i % 2:
            framed.append(piece)
        else:
            framed.append(tuple(tokenizer.encode(piece, add_special_tokens=False)))
    return framed


def plain_tokens(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Token ids of `text`, in which the name of a control token is a word like any other and never
    that token.

    Such a name is encoded in two parts. (The tokenizer's own switch for it would be thrown under
    whoever else is using it.)
    """
    tokens: list[int] = []
    for part in _cut(control_names(tokenizer), text):
        tokens += tokenizer.encode(part, add_special_tokens=False)
    return tuple(tokens)


def control_names(tokenizer: Any) -> re.Pattern[str]:
    """The names of the tokens that control a model: special ones, and others in brackets, such
    as <think> and [INST].
    """
    names = set(getattr(tokenizer, "all_special_tokens", ()))
    for token in getattr(tokenizer, "added_tokens_decoder", {}).values():
        if token.special or re.fullmatch(r"[<\[\u25c1]\S*[>\]\u25b7]", token.content):
            names.add(token.content)
    # of names that begin alike the longest counts; one character is an ordinary one
    longest_first = sorted(names, key=len, reverse=True)
    pattern = "|".join(re.escape(name) for name in longest_first if len(name) > 1)
    return re.compile(pattern or r"(?!)")


def _cut(marks: re.Pattern[str], text: str) -> list[str]:
    """`text` in parts that hold none of the names: each is cut behind its first character."""
    parts = []
    while found := marks.search(text):
        at = found.start() + 1
        parts.append(text[:at])
        text = text[at:]
    return [*parts, text]
