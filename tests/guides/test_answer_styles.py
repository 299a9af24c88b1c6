"""What is open between answer and target: undecided, or read as a benchmark reads it."""

from __future__ import annotations

import pytest
from answer_cases import R, U, W

from guides import AnswerStyle, Verdict, check, check_many

BOXES = r"First \boxed{3}. Then \boxed{4}."


@pytest.mark.parametrize(
    ("text", "target", "style", "verdict"),
    [
        (BOXES, "4", "strict", U), (BOXES, "4", "math", R), (BOXES, "3", "math", W),
        (BOXES, "4", "gsm8k", R), (BOXES, "3", AnswerStyle(boxes="first"), R),
        (BOXES, "4", AnswerStyle(boxes="first"), W), (r"\boxed{3} \boxed{", "3", "math", U),
        ("<answer>3</answer> or <answer>4</answer>", "4", "strict", U),
        ("<answer>3</answer> or <answer>4</answer>", "4", "math", R),
        ("2, 1", "1, 2", "strict", U), ("2, 1", "1, 2", "math", R),
        ("2, 1", "1, 2", AnswerStyle(ordered=True), W), ("1, 2", "1, 2", "math", R),
        ("2, 1, 1", "1, 2, 2", "math", U), ("2, 3", "1, 2", "math", W),
        ("(2, 1)", "(1, 2)", "math", W), ("2 and 1", "1 and 2", "math", R),
        ("x = 2, x = 1", "1, 2", "math", R), (r"\{2, 1\}", r"\{1, 2\}", "strict", R),
        ("(1,2), (3,4)", "(3,4), (1,2)", "math", R), ("(1,2), (3,4)", "(2,1), (3,4)", "math", W),
        ("101", "101_2", "strict", U), ("101", "101_2", "math", R), ("101_2", "101", "math", R),
        ("110", "101_2", "math", W), ("101_2", "5_{10}", "strict", R),
        ("101_2", "111_2", "math", W), ("12_2", "12_2", "strict", R), ("12_2", "14_8", "strict", U),
        ("1F_{16}", "31_{10}", "math", R),
        ("He has 4, so he pays 18 dollars in all, he said.", "18", "strict", U),
        ("He has 4, so he pays 18 dollars in all, he said.", "18", "gsm8k", R),
        ("He has 4, so he pays $1,800.50.", "1800.50", "gsm8k", R),
        ("He has 18 and then 4", "18", "gsm8k", W), ("no number", "18", "gsm8k", U),
        ("#### 18\nIt took 5 steps", "18", "gsm8k", R),
    ],
)  # fmt: skip
def test_what_is_open_is_read_by_its_style(
    text: str, target: str, style: str | AnswerStyle, verdict: Verdict
) -> None:
    assert check(text, target, style=style) is verdict
    assert check_many([(text, target)], style=style) == [verdict]


def test_a_style_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no style 'maths': name one of strict, math, gsm8k"):
        check("5", "5", style="maths")
    with pytest.raises(ValueError, match="boxes is 'best': give 'all', 'first' or 'last'"):
        AnswerStyle(boxes="best")  # type: ignore[arg-type]
