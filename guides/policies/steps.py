"""What one step of a chain is: text up to its delimiter, but a blank line within a block ends none.

A block is a fence of code, displayed mathematics, or an environment of LaTeX. What only announces
the next lines is no step of its own either: a heading, a rule, a line that ends with a colon. An
item of a list is a step, where blank lines stand between items: so models number their steps.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from search.scheduling.requests import Avoided, BudgetSpent, Generate, Generated
from search.scheduling.scheduler import ask

_FENCE = re.compile(r"^[ \t]*(?:[-*+>][ \t]+|\d+[.)][ \t]+)?(`{3,}|~{3,})", re.MULTILINE)
_MATHS = re.compile(r"\\\\|\\\[|\\\]|\$\$|\\(begin|end)\{([^{}\n]*)\}")
_ANNOUNCES = re.compile(r"(?:^#{1,6}[ \t]+\S.*|^(?:[-*_][ \t]*){3,}|:[*_]*)[ \t]*$")


def blank_line(delimiter: str) -> bool:
    """Whether a delimiter is made of line ends alone, two or more: only then can a block hold
    it.
    """
    return len(delimiter) > 1 and not delimiter.strip("\n")


def goes_on(text: str) -> bool:
    """Whether the step that begins with `text` goes on behind a blank line: a block is open, or
    the last line announces more.
    """
    fences = list(_FENCE.finditer(text))
    at = 0
    outside = ""
    while fences:
        opening = fences.pop(0)
        outside += text[at : opening.start()]
        while fences and not fences[0][1].startswith(opening[1]):
            fences.pop(0)  # within the block
        if not fences:
            return True
        at = fences.pop(0).end()
    outside += text[at:]
    return _maths_open(outside) or _ANNOUNCES.search(text.rstrip().rpartition("\n")[2]) is not None


def _maths_open(text: str) -> bool:
    """Whether displayed mathematics or an environment is not closed in `text`."""
    dollars = False
    brackets = False
    environments = 0
    for mark in _MATHS.finditer(text):
        if mark[1] == "begin":
            environments += 1
        elif mark[1] == "end":
            environments = max(0, environments - 1)
        elif mark[0] == "$$":
            dollars = not dollars
        elif mark[0] != "\\\\":
            brackets = mark[0] == "\\["
    return dollars or brackets or environments > 0


async def whole_step(
    request: Generate,
    before: str,
    decode: Callable[[Sequence[int]], str],
    ended: Callable[[Generated], bool],
) -> Generated:
    """The result of a request for one step whose delimiter is a blank line: asked on while a block
    is open, within its `max_tokens`.

    before  text of the same step from earlier requests, which were cut off
    decode  text of tokens, special ones included
    ended   whether the chain ends with what there is of the step, so that nothing is wanted behind
            it

    Where the tokens or the budget end within a block, the step is cut off ("length"). Raises what
    `ask` raises.
    """
    result: Generated = await ask(request)
    earlier = ""  # text of the parts before the last one
    text = result.text  # of the last part, as its tokens
    tokens = result.tokens
    parts = 1
    while result.finish == "stop" and goes_on(before + result.text) and not ended(result):
        so_far = earlier + text + behind(text, tokens, request.stop[0], decode)
        rest = replace(
            request,
            prompt=request.prompt + result.tokens,
            max_tokens=request.max_tokens - len(result.tokens),
            seed=(request.seed + parts) % 2**63,  # the noise of the first part is used up
            avoid=_rest_of(request.avoid, result.tokens),
        )
        more = None
        if rest.max_tokens > 0:
            with contextlib.suppress(BudgetSpent):
                more = await ask(rest)
        if more is None:
            return replace(result, text=so_far, value=float("nan"), finish="length")
        result = Generated(
            result.tokens + more.tokens,
            so_far + more.text,
            np.concatenate([result.log_probs, more.log_probs]),
            np.concatenate([result.sampled_log_probs, more.sampled_log_probs]),
            more.value,
            more.finish,
        )
        earlier = so_far
        text = more.text
        tokens = more.tokens
        parts += 1
    return result


def _rest_of(avoid: Sequence[Avoided], tokens: tuple[int, ...]) -> tuple[Avoided, ...]:
    """What is still to be avoided behind `tokens`: the rests of those that begin so."""
    used = len(tokens)
    rests = []
    for one in avoid:
        if one.tokens[:used] == tokens and len(one.tokens) > used:
            rests.append(Avoided(one.tokens[used:], one.log_probs[used:]))
    return tuple(rests)


def behind(
    text: str, tokens: Sequence[int], delimiter: str, decode: Callable[[Sequence[int]], str]
) -> str:
    """What the tokens of a text say behind it: the delimiter, and what the last token brought
    along.
    """
    whole = decode(tokens)
    if whole.startswith(text) and len(whole) > len(text):
        return whole[len(text) :]
    return delimiter
