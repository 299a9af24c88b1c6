"""Patterns of answers: they find what Python's own engine finds, and none takes for ever."""

from __future__ import annotations

import re

import pytest

import search
from models.checkpoints.settings import check_settings
from search.patterns import Pattern
from search.problem import TextProblem, TextStep

SLOW = r"(?:a|aa)+(b)"
TEXTS = ["", "x = 3\nx = 4", "#### 12\n\n#### 13", "The answer: [5], [6]", "é: 7; É: 8", "a" * 50]
PATTERNS = [
    r"x = (\d+)", r"^#### (.*)$", r"(?m)^#### (\d+)$", r"\[(\w)\]", r"(?i)É: (\d)", r"(a{2,4}?)",
    r"(?<=: )(\S+)", r"(?P<a>\d)", r"(\d)(?!.*\d)",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_they_find_what_python_finds(pattern):
    for text in TEXTS:
        theirs = [(m.span(), m.group(1)) for m in re.finditer(pattern, text)]
        ours = [(m.span(), m.group(1)) for m in Pattern(pattern, groups=1).matches(text)]
        assert ours == theirs
        assert Pattern(pattern).found_in(text) == bool(theirs)


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        "a",
        "(a)(b)",
        "(?P<n>a",
        "*(a)",
        "(a)" + "x" * 20_000,
        "(?:(?:a{999}){999}){999}(b)",
        "(" * 500 + ")" * 500,
    ],
)
def test_what_is_none_is_said_in_a_sentence(pattern):
    with pytest.raises(ValueError, match="answer pattern"):
        TextProblem("?", answer=pattern)
    with pytest.raises(ValueError, match="answer is"):
        check_settings({"format": 1, "answer": pattern})


@pytest.mark.thorough
def test_a_pattern_that_would_take_for_ever_is_refused(monkeypatch):
    monkeypatch.setattr("search.patterns.SECONDS", 0.2)
    problem = TextProblem("?", answer=SLOW)
    with pytest.raises(ValueError, match=r"takes longer than 0.2 s .* 60 characters: write it"):
        problem.is_terminal((TextStep("a" * 58 + "cb"),))
    with pytest.raises(ValueError, match="takes longer"):
        Pattern(SLOW).found_in("a" * 60 + "cb")
    assert problem.answer((TextStep("aaab"),)) == "b"


def test_a_search_with_such_a_pattern_ends_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr("search.patterns.SECONDS", 0.2)
    guide = search.Guide(lambda text: ["a" * 60 + "cb"])
    problems = [TextProblem("one", answer=SLOW), TextProblem("two", answer=r"(a)")]
    slow, fast = search.solve_many(problems, guide, "sample", "simulations=1")
    assert slow.stopped == "error" and "takes longer" in str(slow.error)
    assert fast.error is None and fast.answer == "a"
