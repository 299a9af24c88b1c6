"""Proofs of equality in a pool of processes, and votes of equal answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from answer_cases import R, U, W
from fakes import generated, scripted_guide

import search
from guides.answers import checker as answers
from guides.answers import proofs
from guides.answers.checker import Verdict, check, check_many, classes
from search.choose import Finish, majority, merge_equal


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Starting the processes and importing sympy is no part of a check."""
    for future in [proofs.pool().submit(time.sleep, (0.01,), 5.0) for _ in range(2)]:
        future.result()


# -- the pool


@pytest.mark.thorough
def test_a_check_ends_within_its_limit() -> None:
    """A call that never ends is killed; the next one has a process again."""
    for function, args in ((time.sleep, (60,)), (bytearray, (proofs.MEMORY,))):
        assert proofs.results([proofs.pool().submit(function, args, 0.3)]) == [None]
    assert check(r"\ln 8", r"3\ln 2") is R


@pytest.mark.thorough
def test_killed_processes_are_replaced() -> None:
    pids = proofs.results([proofs.pool().submit(os.getpid, (), 5.0) for _ in range(4)])
    for pid in set(pids):
        os.kill(pid, signal.SIGKILL)
    assert check_many([(r"\ln 8", r"3\ln 2"), (r"(1,2)\cup\{3\}", r"\{3\}\cup(1,2)")]) == [R, R]


@pytest.mark.thorough
def test_a_process_that_dies_of_a_call_leaves_it_undecided() -> None:
    assert proofs.results([proofs.pool().submit(os._exit, (3,), 5.0)]) == [None]


def test_four_threads() -> None:
    pairs = [
        (r"\ln 8", r"3\ln 2"),
        ("x<3", r"(-\infty,3)"),
        ("1/2", "0.5"),
        (r"\sqrt8", r"2\sqrt2"),
        ("x+1", "x+2"),
        (r"\sin 2x", r"2\sin x\cos x"),
    ]
    wanted = [R, R, R, R, W, R]
    told: dict[int, list[Verdict]] = {}
    threads = [
        threading.Thread(target=lambda i=i: told.setdefault(i, check_many(pairs, seconds=30.0)))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [told[i] for i in range(4)] == [wanted] * 4


def test_equal_pairs_are_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    pool = proofs.pool()
    monkeypatch.setattr(proofs, "pool", lambda: pool)
    monkeypatch.setattr(
        pool, "submit", lambda *call: (asked.append(call), type(pool).submit(pool, *call))[1]
    )
    assert check_many([(r"\ln 8", r"3\ln 2")] * 50 + [("5", "5")] * 50) == [R] * 100
    assert len(asked) == 1


def test_a_fork_makes_a_pool_of_its_own() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if proofs.pool.cache_info().currsize == 0 else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_without_math_verify_it_is_undecided_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(proofs.importlib.util, "find_spec", lambda name: None)
    proofs.installed.cache_clear()
    try:
        assert check_many(
            [("x^2<4", "(-2,2)"), ("x^2<4", "(-2,3)"), ("1/2", "0.5"), ("x<2", r"(-\infty,2)")]
        ) == [U, U, R, R]
    finally:
        proofs.installed.cache_clear()
    assert [record.message.count("copse-search[math]") for record in caplog.records] == [1]


def test_checking_loads_nothing_heavy() -> None:
    code = "import sys, guides; guides.check('1/2', '0.5'); guides.check('x', '(x+1)-1'); "
    code += "print([name for name in ('torch', 'sympy', 'math_verify') if name in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


# -- votes


def test_classes_of_equal_answers() -> None:
    answers = [
        "1/2",
        "0.5",
        r"\frac12",
        "x = 2",
        "2",
        "sqrt(4)",
        "18 eggs",
        "18",
        r"\sqrt{8}",
        r"2\sqrt2",
        r"\sin 2x",
        r"2\sin x\cos x",
        "(1,2)",
        "( 1, 2.0 )",
        "blue",
        "x+1",
        "1+x",
    ]
    assert classes(answers) == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 7]
    assert classes([]) == [] and classes(["", "", "5"]) == [0, 0, 1]
    assert classes(["9" * 5000, "9" * 5000 + ".0", "9" * 4999 + "8"]) == [0, 0, 1]


def test_a_number_joins_one_unit_alone() -> None:
    assert classes(["18", "18 dollars", "18 cm"]) in ([0, 0, 1], [0, 1, 0])


@pytest.mark.thorough
def test_a_thousand_answers_are_no_million_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    decide = answers.compare.decide
    monkeypatch.setattr(
        answers.compare, "decide", lambda *asked: (compared.append(1), decide(*asked))[1]
    )
    said = (
        [rf"\sqrt{{{n}}}+{n % 7}" for n in range(2, 252)]
        + [rf"{n % 7}+{n}^{{1/2}}" for n in range(2, 252)]
        + [f"{n}/3" for n in range(250)] * 2
    )
    kinds = classes(said)
    assert kinds[:250] == kinds[250:500] and kinds[500:750] == kinds[750:] and len(compared) < 1_000


def finish(node: int, answer: str) -> Finish:
    return Finish(node, answer, None, 0.5, 1)


def test_equal_answers_vote_together() -> None:
    found = [finish(i, answer) for i, answer in enumerate(["3", "1/2", "0.5", r"\frac{1}{2}", "3"])]
    assert majority(found).answer == "3"
    joined = merge_equal(found, classes)
    assert majority(joined).answer == "1/2" and [one.node for one in joined] == [0, 1, 2, 3, 4]


def test_a_search_in_free_text_counts_by_classes() -> None:
    """Three ways to write one half outvote two equal threes, where the guide knows classes."""
    replies = [
        r"So \boxed{3}",
        r"So \boxed{1/2}",
        r"So \boxed{0.5}",
        r"So \boxed{3}",
        r"So \boxed{\frac12}",
    ]
    counter = iter(range(100))
    guide = scripted_guide(lambda request: generated(replies[next(counter) % 5]), value=False)
    plain = search.solve("What is a half?", guide, "sample", "tokens=20000", chains=5)
    assert plain.answer == "3" and len(plain.candidates) == 4
    counter = iter(range(100))
    joint = search.solve(
        "What is a half?", replace(guide, classes=classes), "sample", "tokens=20000", chains=5
    )
    assert joint.answer == "1/2" and [(answer, share) for answer, share, _ in joint.candidates] == [
        ("1/2", 0.6),
        ("3", 0.4),
    ]
