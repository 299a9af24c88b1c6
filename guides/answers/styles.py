"""What a benchmark takes for right where answer and target leave it open. Strict is the default:
what is open is undecided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class AnswerStyle:
    r"""How `guides.check` reads what may be read in two ways.

    boxes        which counts of several boxes (or tags) that differ: "all" (it is undecided),
                 "first" or "last"
    ordered      whether the order of an enumeration without brackets counts: True, False (1, 2 is
                 2, 1), or None (in another order it is undecided)
    bases        whether a base that only one side names is understood, as units are: 101_2 is 101
    last_number  whether the last number in a text that marks no answer is the answer
    """

    boxes: Literal["all", "first", "last"] = "all"
    ordered: bool | None = None
    bases: bool = False
    last_number: bool = False

    def __post_init__(self) -> None:
        if self.boxes not in ("all", "first", "last"):
            raise ValueError(f"boxes is {self.boxes!r}: give 'all', 'first' or 'last'")


#: name -> the convention of the benchmark of that name. MATH (Hendrycks et al. 2021) reads the last
#: box, asks for values "in any order", and names bases in its questions; GSM8K (Cobbe et al. 2021)
#: is read by its last number where a text has no mark.
STYLES = {
    "strict": AnswerStyle(),
    "math": AnswerStyle(boxes="last", ordered=False, bases=True),
    "gsm8k": AnswerStyle(boxes="last", last_number=True),
}


def style_of(style: str | AnswerStyle) -> AnswerStyle:
    """A style, by its name too. Raises ValueError for a name that is none."""
    if isinstance(style, AnswerStyle):
        return style
    if style not in STYLES:
        raise ValueError(
            f"there is no style {style!r}: name one of {', '.join(STYLES)}, or give an AnswerStyle"
        )
    return STYLES[style]
