"""Where the final answer of a text stands, and how it is cut out."""

from __future__ import annotations

import pytest

from search.final_answer import boxed, final_answer, final_answers


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("<answer>12</answer>", ["12"]), ("[ANSWER] 12 cm [/ANSWER]", ["12 cm"]),
        ("<think>13</think><answer>12</answer>", ["12"]), ("<answer>12", None),
        (r"<answer>so \boxed{7}</answer>", ["7"]), ("<answer></answer> The answer is 3.", ["3"]),
        (r"<answer>5</answer> Wait: \boxed{6}", ["5", "6"]), ("</answer>", []),
        ("<answer>\nThe answer is 5.\n</answer>", ["5"]),
        (r"so \boxed 2.", ["2."]), (r"\boxed-3", ["-3"]), (r"\boxed\frac12", [r"\frac12"]),
        (r"\boxed 2 or more", []), (r"write \boxed here", []), (r"\boxed 2 and \boxed{3}", ["3"]),
        ('{"answer": 5}', ["5"]), ('{"steps": [1], "Final_Answer": "5 cm"}', ["5 cm"]),
        ('It is:\n{"answer": 0.10}', ["0.10"]), ('```json\n{"answer": "x"}\n```', ["x"]),
        ('{"answer": [5]}', []), ('{"answer": 5, "final_answer": 6}', []),
        ("{5}", []),
        ("### Final Answer\n\n12", ["12"]), ("**Answer**\n12", ["12"]), ("# Answer:\n12", ["12"]),
        ("**Final answer:**\n\\[\n12\n\\]", ["12"]), ("#### Final Answer: 12", ["12"]),
        ("##### 12", []), ("#### **12**", ["12"]), ("#### 12\nThe answer is 13.", ["12", "13"]),
        ("Final Answer: The final answer is $24$. I hope it is correct.", ["24"]),
        ("The answer is St. Louis. I hope it is correct.", ["St. Louis"]),
        ("The answer is 5, so they are done.", ["5"]), ("The answer is 5 as required", ["5"]),
        ("The answer is $5, and she keeps 5 of them.", ["5"]),
        ("The answer is 5, and she keeps 6.", ["5, and she keeps 6"]),
        ("The answer is 5. No, 6.", ["5. No, 6"]),
        ("The answer is 5, but 6 is near.", ["5, but 6 is near"]),
        ("The answer is $x = 2$ or $x = 3$.", ["x = 2 or x = 3"]),
        ("The answer is $5$ and $6", ["5 and $6"]), ("The answer is **5**!", ["5"]),
        ("The answer is 5!", ["5!"]), ("Answer = 5", ["5"]),
        ("The answer is 3 in. wide.", ["3 in. wide"]),
        ("答案：5", ["5"]), ("所以答案是 5。因此", ["5"]), ("【答案】5", ["5"]), ("答案不是 5", []),
    ],
)  # fmt: skip
def test_marks(text: str, answers: list[str] | None) -> None:
    assert final_answers(text) == answers
    assert final_answer(text) == ((answers or [None])[-1])


def test_a_box_without_braces_ends_no_chain() -> None:
    assert boxed(r"\boxed{5}") and not boxed(r"\boxed 5") and not boxed(r"\boxed{}")


@pytest.mark.thorough
@pytest.mark.parametrize(
    "part",
    [
        "answer is ", "answer is\n", "#### ", "### Answer\n", "<answer>", "</answer>", "**1", "$1 ",
        "\\(", ". ", " so", "答案", "答案是", "\\boxed ", "\\boxed 1\n", "{", '{"answer":', "\n",
        " ",
        "answer", "*", "\\[\n", "the ", "1,", "I hope it is correct. ",
    ],
)  # fmt: skip
@pytest.mark.timeout(20)
def test_reading_takes_time_in_the_length_of_a_text(part: str) -> None:
    """A quadratic pattern would take minutes where this takes tens of milliseconds."""
    for text in (part * 60_000, "The answer is 1" + part * 60_000, "#### " + part * 60_000 + "x"):
        final_answers(text)
