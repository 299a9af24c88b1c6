r"""Answers in one notation: LaTeX's ways to space, frame and name things are taken off, and digits
and marks of other scripts are written in ASCII; `\frac{1}{2}` and `\{` stay. Evaluates nothing.
"""

from __future__ import annotations

import re
import unicodedata

LONGEST = 2_000  #: characters of an answer that is read as more than its text

_FULL_WIDTH = dict(zip(range(0xFF01, 0xFF5F), range(0x21, 0x7F), strict=True))
_SIGNS = _FULL_WIDTH | str.maketrans(
    {
        "−": "-", "–": "-", "﹣": "-", "－": "-", "×": "*", "⋅": "*", "·": "*", "∙": "*", "÷": "/",
        "⁄": "/", "∕": "/", "≤": "\\le ",
        "≥": "\\ge ", "≠": "\\ne ", "∞": "\\infty ", "π": "\\pi ", "√": "\\sqrt", "∪": "\\cup ",
        "∩": "\\cap ", "∈": "\\in ",
        "∅": "\\emptyset ", "±": "\\pm ", "≈": "\\approx ", "⟨": "(", "⟩": ")", "½": "\\frac{1}{2}",
        "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "ℝ": "\\mathbb{R}", "θ": "\\theta ",
        "α": "\\alpha ", "β": "\\beta ", "º": "°",
        "\t": " ", "\n": " ", "\r": " ", "\u3000": " ", "。": ".", "、": ",", "٫": ".", "٬": ",",
    }
)  # fmt: skip
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_LEVEL = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ₀₁₂₃₄₅₆₇₈₉", "0123456789+-n0123456789")
_RULES = [
    (re.compile(rule), by)
    for rule, by in (
        (r"\\(?:left|right)\s*\.", ""),
        (r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])\s*", ""),
        (r"\\(?:displaystyle|textstyle|limits|nolimits)(?![a-zA-Z])", ""),
        (r"\{,\}|,\\!\s*(?=\d{3}(?!\d))", ","),
        (r"\\!", ""),
        (r"(?<=\d)\\[,;: ](?=\d{3}(?!\d))", ""),
        (r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![a-zA-Z])", " "),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (
            r"\\(?:text|textrm|textbf|textit|mathrm|mathbf|mathit|mbox|operatorname|boldsymbol)"
            r"\s*\{([^{}]*)\}",
            r" \1",
        ),
        (r"\^\s*\{?\s*\\(?:circ|degree)(?![a-zA-Z])\s*\}?", "°"),
        (r"\\(?:degrees?)(?![a-zA-Z])", "°"),
        (r"\\(?:times|cdot|ast)(?![a-zA-Z])", "*"),
        (r"\\div(?![a-zA-Z])", "/"),
        (r"\\leq?(?:slant)?(?![a-zA-Z])|<=", r"\\le "),
        (r"\\geq?(?:slant)?(?![a-zA-Z])|>=", r"\\ge "),
        (r"\\neq?(?![a-zA-Z])|!=", r"\\ne "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\(?:lvert|rvert|vert|mid)(?![a-zA-Z])|\\\|", "|"),
        (r"\\(?:lbrace)(?![a-zA-Z])", r"\\{"),
        (r"\\(?:rbrace)(?![a-zA-Z])", r"\\}"),
        (r"\\([%$#&_])", r"\1"),
        (r"\\varnothing(?![a-zA-Z])", r"\\emptyset"),
        (r"\\(?:backslash|smallsetminus)(?![a-zA-Z])", r"\\setminus"),
        (r"\\mathbb ?([A-Z])(?![a-zA-Z])", r"\\mathbb{\1}"),
        (r"\\langle(?![a-zA-Z])", "("),
        (r"\\rangle(?![a-zA-Z])", ")"),
        (r"\\begin\{array\} ?\{[^{}]*\}|\\begin\{smallmatrix\}", r"\\begin{matrix}"),
        (r"\\end\{(?:array|smallmatrix)\}", r"\\end{matrix}"),
        (r"(?<![a-zA-Z\\])(?:[iI]nf|INF|[iI]nfinity|oo)(?![a-zA-Z])", r"\\infty "),
        (r"(?<=[)\]}]) ?U ?(?=[(\[\\])", r"\\cup "),
        (r"^([a-zA-Z]) in (?=[(\[\\{])", r"\1\\in "),
        (r"_\{([a-zA-Z\d])\}(?!\w)", r"_\1"),
        (r"\*\*", "^"),
        (r"\s*([-+*/^=<>|])\s*", r"\1"),
        (r"([(\[{])\s+", r"\1"),
        (r"\s+(\\?[)\]}])", r"\1"),
        (r"\s+", " "),
        (r"^ ?(?:(?:[tT]hus|[tT]herefore|[hH]ence|[sS]o),? )+(?=\S)", ""),
        (r"^ ?=(?=[^=])", ""),
    )
]
_FRAMES = (
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("**", "**"),
    ("\\boxed{", "}"),
)
_ROOT = re.compile(r"√ ?(\d+)", re.ASCII)


def tidy(text: str) -> str:
    """`text`, at most `LONGEST` characters, in one notation. Texts that mean different things
    stay different.
    """
    text = unframed(text)
    if not text.isascii():
        text = unframed(_ascii(text))
    if not text.isalnum() or text.isalpha():
        for rule, by in _RULES:
            text = rule.sub(by, text)
    return text.strip()


def _ascii(text: str) -> str:
    """The signs and digits that have an equal in ASCII or LaTeX, written so."""
    text = _ROOT.sub(r"\\sqrt{\1}", text)
    text = _RAISED.sub(lambda match: f"^{{{match[0].translate(_LEVEL)}}}", text)
    text = _LOWERED.sub(lambda match: f"_{{{match[0].translate(_LEVEL)}}}", text)
    return "".join(map(_digit, text.translate(_SIGNS)))


def _digit(character: str) -> str:
    """A decimal digit of any script as one of ours; anything else as it is."""
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    return character


def unframed(text: str) -> str:
    """Without the dollars, brackets or stars that frame the whole of it, nor a full stop at its
    end.
    """
    while True:
        before = text
        text = text.strip()
        for left, right in _FRAMES:
            inner = text[len(left) : len(text) - len(right)]
            if (
                len(text) > len(left) + len(right)
                and text.startswith(left)
                and text.endswith(right)
                and left not in inner
            ):
                text = inner.strip()
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1]
        if text == before:
            return text


def parts(text: str, thousands: bool) -> list[str] | None:
    r"""What stands between the commas (and semicolons) of a tidy `text` outside its brackets; None
    where brackets do not match.

    thousands: a comma between groups of three digits, as in 1,234, belongs to a number
    """
    found: list[str] = []
    stack: list[tuple[str, ...]] = []  # what may close each bracket that is open
    start = 0
    i = 0
    while i < len(text):
        mark = text[i : i + 2] if text[i] == "\\" else text[i]
        if mark in _CLOSING:
            stack.append(_CLOSING[mark])
        elif mark in (")", "]", "}", "\\}"):
            if not stack or mark not in stack.pop():
                return None
        elif (
            mark in ",;" and not stack and not (thousands and _THOUSANDS.match(text, max(0, i - 1)))
        ):
            found.append(text[start:i].strip())
            start = i + 1
        i += len(mark)
    if stack:
        return None
    return [*found, text[start:].strip()]


_CLOSING = {"(": (")", "]"), "[": (")", "]"), "{": ("}",), "\\{": ("\\}",)}
_THOUSANDS = re.compile(r"\d,\d{3}(?!\d)", re.ASCII)
