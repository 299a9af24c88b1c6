"""Training data of stories, searches that know no key, and GSM8K's file."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import generated, scripted_guide
from story_cases import PROBLEM, by_equations, state

import search
from benchmarks.answers import gsm8k
from benchmarks.tasks import STORIES, TASKS, identity, steps_right, target_of, training
from guides.builtin import example_trees, words_data, words_key
from guides.builtin.words_key import mistakes, target
from guides.data.grading import key_of, read_targets
from search.files.problems_file import read_jobs
from search.problem import TextProblem
from search.problems import parse
from search.problems.words import Words, draw, generate
from search.scheduling.requests import Scored

ROOT = Path(__file__).resolve().parent.parent.parent


GSM8K = Path(os.environ.get("COPSE_DATA") or ROOT.parent / "shared" / "data") / "gsm8k_test.jsonl"


@pytest.mark.thorough
@pytest.mark.parametrize("ends", [0.0, 1.0])
def test_training_labels_are_what_the_checker_says(ends: float) -> None:
    examples = list(words_data.examples(3, 0, 150, 0.9, ends=ends))
    assert (
        examples
        == list(words_data.examples(3, 0, 150, 0.9, ends=ends))
        != list(words_data.examples(3, 1, 150, 0.9, ends=ends))
    )
    longest, labels = 0, {0.0: 0, 1.0: 0}
    for segments in examples:
        problem = parse(segments[0][0])
        assert (
            isinstance(problem, Words) and problem.split() == "train" and problem.story is not None
        )
        assert segments[0][1:] == (0.0, 1.0, -1) and target(problem) == str(
            by_equations(problem.statement)
        )
        for i, (_, weight, value, _) in enumerate(segments[1:], 1):
            lines: list[str] = []
            while i > 0:
                lines.insert(0, segments[i][0].removesuffix("\n"))
                i = segments[i][3]
            assert (
                (not any(mistakes(problem, state(*lines)) or []))
                == (value == 1.0)
                >= (weight == 1.0)
            )
            labels[value] += 1
        right = [text.removesuffix("\n") for text, weight, *_ in segments if weight]
        assert right == words_data.solution(problem.story)
        longest = max(longest, len(problem.story.needed()))
    assert longest == max(words_data.OPERATIONS) and min(labels.values()) > 500
    easy = [parse(segments[0][0]) for segments in words_data.examples(3, 0, 100, 0.0)]
    assert (
        max(len(p.story.needed()) for p in easy if isinstance(p, Words) and p.story)
        == example_trees.EASY
    )


def test_wrong_branches_go_on_to_answers() -> None:
    """Most end in an answer, some before all is counted; some give even the right one, below a
    mistake.
    """
    ended = early = lucky = branches = 0
    for segments in words_data.examples(3, 0, 200, 0.9, {"3": 1.0}, ends=1.0):
        right = len(words_data.solution(Words(segments[0][0]).story))  # type: ignore[arg-type]
        parents = {parent for *_, parent in segments}
        for i in range(right + 1, len(segments)):
            text, _, value, parent = segments[i]
            assert value == 0.0
            branches += parent <= right
            ended += i not in parents and text.startswith("####")
            early += parent < right - 1 and text.startswith("####")
            lucky += text == segments[right][0]
        assert all(not segments[i][0].startswith("####") for i in parents if i > 0), (
            "nothing stands behind an answer"
        )
    assert branches == 800 and 600 < ended <= 800 and 40 < early < 160 and lucky > 10


@pytest.mark.thorough
def test_training_problems_are_of_the_sizes_that_were_asked_for() -> None:
    made = [
        Words(segments[0][0])
        for segments in words_data.examples(3, 0, 100, 0.9, {"2": 0.5, "7": 0.5})
    ]
    found = [len(p.story.needed()) for p in made if p.story]
    assert len(found) == 100 and set(found) == {2, 7} and 20 < found.count(7) < 80


def test_sizes_that_are_not_made_are_refused() -> None:
    for arguments in ((9, 2, 99), (0, 2, 99), (3, 5, 99), (3, 2, 19), (3, 2, 1000)):
        with pytest.raises(ValueError, match="give 1 to 8, 0 to 4, and 20 to 999"):
            next(generate(0, 1, *arguments))
    assert any(draw(random.Random(seed), 3, 0, 20) is None for seed in range(50)), "a draw may fail"


@pytest.mark.thorough
def test_no_search_changes_when_the_hidden_checker_is_flipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problems = list(generate(1, 3, 2, 1))
    lines = [line for p in problems if p.story for line in words_data.solution(p.story)] + [
        "Note Ben's is 3 more than Ann's.",
        "nonsense",
        "#### 7",
    ]

    def player(request: Any) -> Any:
        prompt = request.prompt if isinstance(request, search.Generate) else request.tokens
        rng = random.Random(f"{prompt}|{getattr(request, 'seed', 0)}")
        if isinstance(request, search.Generate):
            return generated(
                rng.choice(lines),
                value=rng.random(),
                log_prob=-rng.random(),
                limit=request.max_tokens,
            )
        n = len(request.positions)
        reads = np.zeros((n, len(request.read)), np.float32)
        return Scored(
            np.zeros(len(request.tokens), np.float32), reads, np.full(n, rng.random(), np.float32)
        )

    guide = scripted_guide(player, step_tokens=80, max_steps=12)

    def searched() -> list[Any]:
        found = []
        for method in ("sample", "beam", "mcts"):
            for solution in search.solve_many(
                problems, guide, method, "tokens=400", seed=3, progress=False
            ):
                assert (
                    solution.error is None
                    and solution.verified is None
                    and solution.trace is not None
                )
                trace = solution.trace
                found.append(
                    (
                        solution.answer,
                        solution.text,
                        solution.candidates,
                        trace.edge_visits.tolist(),
                        trace.edge_sum.tolist(),
                    )
                )
        return found

    before, keys = searched(), [target(problem) for problem in problems]
    assert any(answer is not None for answer, *_ in before)
    truth = words_key.mistakes
    monkeypatch.setattr(
        words_key,
        "mistakes",
        lambda problem, steps: [not wrong for wrong in truth(problem, steps) or []],
    )
    real = words_key.true_counts
    monkeypatch.setattr(
        words_key,
        "true_counts",
        lambda story: {name: count + 1 for name, count in real(story).items()},
    )
    problems = list(generate(1, 3, 2, 1))
    assert [target(problem) for problem in problems] == [str(int(key or 0) + 1) for key in keys]
    assert searched() == before
    monkeypatch.setattr(
        Words, "story", property(lambda self: pytest.fail("a search read the story"))
    )
    problems = [Words(problem.statement) for problem in problems]
    assert searched() == before


def test_the_tasks_are_of_their_split_and_have_answers() -> None:
    for name, split, count in (("words", "test", 300), ("words-validation", "validation", 210)):
        problems = TASKS[name]()
        assert len({identity(problem) for problem in problems}) == len(problems) == count
        found = []
        for problem in problems:
            assert (
                isinstance(problem, Words)
                and problem.split() == split
                and problem.story is not None
            )
            found.append(len(problem.story.needed()))
            steps = state(*words_data.solution(problem.story))
            assert (
                problem.answer(steps) == target_of(problem) and steps_right(problem, steps) is True
            )
        assert {size: found.count(size) for size in STORIES} == dict.fromkeys(
            STORIES, count // len(STORIES)
        )


@pytest.mark.thorough
def test_files_for_training_hold_stories_if_asked() -> None:
    made = list(islice(training(3, "validation", 1, 2), 240))
    stories = [problem for problem in made if isinstance(problem, Words)]
    assert (
        len(stories) == 120
        and {p.split() for p in stories} == {"validation"}
        and len({identity(p) for p in stories}) == 120
    )
    assert {len(p.story.needed()) for p in stories if p.story} == set(STORIES)
    assert not any(isinstance(problem, Words) for problem in islice(training(3), 60))


ROW = {"question": "How much is 2 and 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"}


def written(path: Path, *rows: Any) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    )
    return path


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("#### 5", "5"),
        ("#### 70,000", "70000"),
        ("#### -3", "-3"),
        ("#### $1,450,000 ", "1450000"),
        ("####2.50", "2.5"),
    ],
)
def test_targets_of_gsm8k_are_numbers(tmp_path: Path, end: str, expected: str) -> None:
    row = {"question": PROBLEM.statement, "answer": f"#### 7 is not the end\n{end}"}
    (first, target), (second, other) = gsm8k.load(written(tmp_path / "a.jsonl", ROW, "", row))
    assert isinstance(first, TextProblem) and first.statement == ROW["question"] and target == "5"
    assert second == PROBLEM and other == expected


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "question and answer"),
        ("[1]", "question and answer"),
        ({"question": "How?"}, "question and answer"),
        ({"question": "", "answer": "#### 5"}, "question and answer"),
        ({"question": "How?", "answer": 5}, "question and answer"),
        ({"question": "How?", "answer": "5"}, "its last line must be"),
        ({"question": "How?", "answer": "#### five"}, "its last line must be"),
        ({"question": "How?", "answer": "#### 1,00"}, "its last line must be"),
        ({"question": "How?", "answer": "#### 5\nreally"}, "its last line must be"),
    ],
)
def test_malformed_lines_of_gsm8k_are_named(tmp_path: Path, row: Any, said: str) -> None:
    file = written(tmp_path / "a.jsonl", ROW, row)
    with pytest.raises(ValueError, match=rf"a\.jsonl, line 2: .*{said}"):
        gsm8k.load(file)


def test_files_without_problems_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no problem"):
        gsm8k.load(written(tmp_path / "a.jsonl", ""))
    with pytest.raises(ValueError, match="cannot read"):
        gsm8k.load(tmp_path / "none.jsonl")
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="cannot read"):
        gsm8k.load(tmp_path / "b.jsonl")


def converted(source: Path, out: Path) -> Path:
    with out.open("w") as file:
        subprocess.run(
            [sys.executable, "-m", "benchmarks.answers.gsm8k", str(source)],
            stdout=file,
            check=True,
            cwd=ROOT,
        )
    return out


@pytest.mark.thorough
def test_gsm8k_becomes_a_file_of_problems_and_targets(tmp_path: Path) -> None:
    file = converted(
        written(tmp_path / "a.jsonl", ROW, {"question": PROBLEM.statement, "answer": "#### 16"}),
        tmp_path / "b.jsonl",
    )
    first, second = read_jobs(file)
    assert first.problem.prompt(()) == ROW["question"] and second.problem == PROBLEM
    assert read_targets(file) == {key_of(first.problem): "5", key_of(PROBLEM): "16"}
    bad = subprocess.run(
        [sys.executable, "-m", "benchmarks.answers.gsm8k", str(tmp_path / "c.jsonl")],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert bad.returncode == 2 and "cannot read" in bad.stderr and "Traceback" not in bad.stderr


@pytest.mark.skipif(
    not GSM8K.exists(), reason="GSM8K's file is not there: name its folder in COPSE_DATA"
)
def test_the_test_split_of_gsm8k_is_read(tmp_path: Path) -> None:
    rows = gsm8k.load(GSM8K)
    assert len(rows) == 1319 and all(isinstance(problem, TextProblem) for problem, _ in rows)
    assert [target for _, target in rows[:3]] == ["18", "3", "70000"]
    assert all(re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", target) for _, target in rows)
    raw = [
        json.loads(line)["answer"].rpartition("####")[2] for line in GSM8K.read_text().splitlines()
    ]
    assert [float(target) for _, target in rows] == [float(text.replace(",", "")) for text in raw]
    file = converted(GSM8K, tmp_path / "gsm8k.jsonl")
    targets = read_targets(file)
    assert len(read_jobs(file)) == 1319 and all(
        targets[key_of(problem)] == target for problem, target in rows
    )
