"""What measures the answer checker: pairs made to deceive it, and outputs of models."""

from __future__ import annotations

import csv
import gzip
import json
from fractions import Fraction
from pathlib import Path

import pytest

from benchmarks.answers import adversarial, outputs
from benchmarks.answers.number_pairs import Pair
from benchmarks.answers.string_rules import last_number, same_text
from guides import Verdict


def refused(tally: adversarial.Tally) -> list[Pair]:
    return tally.false_accepts + tally.false_rejects + tally.slow


@pytest.mark.thorough
def test_pairs_made_to_deceive_it_do_not() -> None:
    tally = adversarial.attack(1_900, seed=5)
    assert refused(tally) == []
    assert len(adversarial.GENERATORS) >= 20
    equal = sum(count for (_, _, equal), count in tally.verdicts.items() if equal)
    right = sum(count for (_, said, _), count in tally.verdicts.items() if said is Verdict.RIGHT)
    assert right >= 0.98 * equal > 500


@pytest.mark.slow
def test_many_pairs_made_to_deceive_it_do_not() -> None:
    assert refused(adversarial.attack(40_000, seed=6)) == []


@pytest.mark.parametrize("always", list(Verdict))
def test_a_checker_that_always_says_the_same_is_found_out(
    always: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adversarial, "check", lambda *pair, seconds: always)
    tally = adversarial.attack(760, seed=1)
    assert (len(tally.false_accepts) > 300) == (always is Verdict.RIGHT)
    assert (len(tally.false_rejects) > 300) == (always is Verdict.WRONG)


def test_pairs_are_drawn_by_their_seed() -> None:
    one = list(adversarial.drawn(200, 1))
    assert one == list(adversarial.drawn(200, 1)) != list(adversarial.drawn(200, 2))


def test_the_truth_of_fractions_is_what_python_says() -> None:
    """The generators of plain fractions and decimals, against exact arithmetic."""
    for name in ("decimals", "repeating"):
        for place in range(300):
            rng = adversarial.random.Random(place)
            answer, target, equal = adversarial.GENERATORS[name](rng)
            if "overline" in answer or "frac" in target:
                continue
            assert equal == (Fraction(answer) == Fraction(target))


@pytest.mark.parametrize(
    ("text", "target", "right"),
    [
        ("18 dollars, 3 a day", "18", False), ("so 3 and then $1,800.", "1800", True),
        ("#### -5", "-5", True), ("none", "5", False), ("4.50", "4.5", False),
    ],
)  # fmt: skip
def test_the_last_number(text: str, target: str, right: bool) -> None:
    assert last_number(text, target) is right


@pytest.mark.parametrize(
    ("text", "target", "right"),
    [
        (r"\boxed{\dfrac12}", r"\frac{1}{2}", True), (r"\boxed{0.5}", r"\frac{1}{2}", True),
        (r"\boxed{x = 5}", "5", True), (r"\boxed{5\text{ cm}}", "5", True),
        (r"\boxed{1/2}", r"\frac12", True),
        (r"\boxed{\sqrt3}", r"\sqrt{3}", True), (r"\boxed{50\%}", "50", True), ("5", "5", False),
        (r"\boxed{2, 1}", "1, 2", False), (r"\boxed{3} \boxed{\left(1, 2\right)}", "(1,2)", True),
    ],
)  # fmt: skip
def test_the_normalised_text(text: str, target: str, right: bool) -> None:
    assert same_text(text, target) is right


def test_outputs_are_read_graded_and_told(tmp_path: Path) -> None:
    rows = [
        ("18", r"so \boxed{18}", True), ("18", r"so \boxed{19}", False), ("", r"\boxed{1}", False),
        ("1,2", r"\boxed{2, 1}", True), ("0.5", r"\boxed{\frac12}", False),
    ]  # fmt: skip
    lines = [
        json.dumps({"gt": target, "code": [text], "pred": ["?"], "score": [score]})
        for target, text, score in rows
    ]
    (tmp_path / "gsm8k.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    found = outputs.read(tmp_path)
    assert [one.index for one in found] == [0, 1, 3, 4]
    graded = outputs.grade(found, "strict", lambda text, target: None)
    assert [one.checker for one in graded] == [True, False, None, True]
    assert [row["index"] for row in outputs.differences(graded)] == [3, 4]
    truth = tmp_path / "read.csv"
    with truth.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("set", "index", "truth"), ("gsm8k", 4, "right"), ("gsm8k", 1, "open")])
    told = outputs.table(graded, outputs.truths(truth))
    assert told[2] == "| gsm8k | 4 | checker | 2 of 3 | 0 of 0 | 1 | 66.7 % | 100.00 % |"
    assert outputs.table(graded, {})[2].split(" | ")[3:6] == ["1 of 2", "1 of 2", "1"]
