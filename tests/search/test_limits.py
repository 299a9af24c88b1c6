"""Deadlines hold where something else than a model takes the time, and what is cut off is not taken
for what its seed gives.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from fakes import scripted_guide

import search
from search.problems.countdown import Countdown
from search.scheduling.budget import Budget, Meter
from search.scheduling.requests import RequestFailed

PUZZLE = "Use 4, 7, 8 and 8 to make 24."


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ("gumbel", "considered"), ("gumbel", "simulations"), ("gumbel", "branch"),
        ("mcts", "branch"), ("mcts", "leaves"), ("beam", "width"), ("beam", "branch"),
        ("sample", "chains"), ("sample", "wave"), ("best_of_n", "chains"),
    ],
)  # fmt: skip
def test_numbers_that_take_for_ever_before_anything_is_asked_are_refused(method, option):
    with pytest.raises(ValueError, match=f"cannot use {option}=1000000000.* give at most 100,000"):
        search.solve(PUZZLE, scripted_guide(), method, "seconds=1", **{option: 10**9})


def test_a_method_of_the_user_has_its_own_numbers():
    async def own(session, *, many: int = 1):
        session.tree.exhausted = True

    assert search.solve(PUZZLE, scripted_guide(), own, "seconds=1", many=10**9).stopped != "error"


@pytest.mark.parametrize("seed", [np.int64(3), np.uint8(3), np.array(3), 3])
def test_seeds_of_numpy_are_seeds(seed):
    solution = search.solve(PUZZLE, scripted_guide(), budget="tokens=60", seed=seed)
    expected = search.solve(PUZZLE, scripted_guide(), budget="tokens=60", seed=3)
    assert solution.trace.seed == 3 and type(solution.trace.seed) is int
    assert solution.steps == expected.steps


def test_an_array_of_seeds_is_one_for_each():
    found = search.solve_many(
        [PUZZLE] * 2, scripted_guide(), budget="tokens=60", seed=np.array([3, 4])
    )
    assert [solution.trace.seed for solution in found] == [3, 4]


@pytest.mark.parametrize(
    "seed",
    [np.float64(3), np.array([1.5, 2]), np.array([[1, 2]]), np.array([True]), "3", None, 2**63],
)
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(ValueError, match="seed=.* is impossible"):
        search.solve(PUZZLE, scripted_guide(), budget="tokens=60", seed=seed)


@pytest.mark.parametrize("method", [5, None, ["mcts"], {"mcts": 1}, b"mcts", object()])
def test_what_is_no_method_is_refused(method):
    with pytest.raises(ValueError, match="is no method: give one of"):
        search.solve(PUZZLE, scripted_guide(), method, "tokens=60")


# -- what others hold


def test_a_search_waits_for_another_thread_no_longer_than_it_may_take():
    guide = scripted_guide()
    backend = next(iter(guide.backends.values()))
    backend.lock.acquire()
    try:
        with pytest.raises(RequestFailed, match="longer than the 0.1 s of this search: give all"):
            search.solve(PUZZLE, guide, budget="seconds=0.1")
        with pytest.raises(RequestFailed, match="longer than the 0.2 s"):
            search.solve_many([PUZZLE], guide, budget="seconds=50", time_limit=0.2)
    finally:
        backend.lock.release()
    assert search.solve(PUZZLE, guide, budget="tokens=20000").verified


def test_without_a_deadline_it_waits():
    guide = scripted_guide()
    backend = next(iter(guide.backends.values()))
    backend.lock.acquire()
    found = []
    thread = threading.Thread(
        target=lambda: found.append(search.solve(PUZZLE, guide, budget="tokens=20000"))
    )
    thread.start()
    backend.lock.release()
    thread.join()
    assert found[0].verified


@pytest.mark.thorough
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_another_thread_searches_is_told_in_a_sentence():
    code = """
        import os, sys, threading
        import search
        from models import Scripted
        from fakes import scripted_guide
        begun, end = threading.Event(), threading.Event()
        guide = scripted_guide()
        backend = next(iter(guide.backends.values()))
        poll = backend.poll
        def waits(seconds=0.0):
            begun.set()
            end.wait()
            return poll(seconds)
        backend.poll = waits
        problem = "Use 4, 7, 8 and 8 to make 24."
        thread = threading.Thread(target=lambda: search.solve(problem, guide, budget="tokens=60"))
        thread.start()
        begun.wait()
        pid = os.fork()
        if pid == 0:
            try:
                search.solve(problem, guide, budget="tokens=60")
            except RuntimeError as error:
                print(error, flush=True)
            search.solve(problem, scripted_guide(), budget="tokens=60")
            print("another engine serves", flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        end.set()
        thread.join()
    """
    helpers = os.path.dirname(sys.modules["fakes"].__file__)
    paths = os.pathsep.join([helpers, os.environ["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    first, second = done.stdout.splitlines()
    assert "was forked while another thread searched" in first and "spawn" in first, done.stderr
    assert second == "another engine serves"


# -- what is cut off


def test_a_meter_tells_whether_the_end_kept_a_search_from_something():
    interrupt = threading.Event()
    meter = Meter(Budget(tokens=20_000), interrupt)
    assert meter.begin(1) == 1 and not meter.halt() and not meter.cut
    interrupt.set()
    assert meter.halted == "interrupted" and not meter.cut, "it has kept it from nothing yet"
    assert meter.begin(1) == 0 and meter.cut


def counted(guide, each=None):
    """The polls of a guide's backend so far, as a list that grows; `each` is called with the number
    of each after it.
    """
    backend = next(iter(guide.backends.values()))
    poll = backend.poll
    polls = []

    def polled(seconds=0.0):
        replies = poll(seconds)
        polls.append(len(replies))
        if each is not None:
            each(len(polls))
        return replies

    backend.poll = polled
    return polls


@pytest.mark.thorough
def test_a_search_that_verifies_in_the_interrupted_round_is_not_taken_for_whole():
    """Ctrl-C comes at each of the last polls: what counts as verified is what the seed gives. It
    was kept with the cost of the chains that Ctrl-C cancelled, at four of these polls.
    """
    problem = Countdown((4, 7, 8, 8), 24)
    options = {"budget": "tokens=20000", "seed": 0, "leaves": 8}
    guide = scripted_guide(slots=2)
    polls = counted(guide)
    whole = search.solve(problem, guide, **options)
    assert whole.verified
    ends = set()
    for at in range(len(polls) - 8, len(polls) + 1):

        def interrupt(number, at=at):
            if number == at:
                os.kill(os.getpid(), signal.SIGINT)

        guide = scripted_guide(slots=2)
        counted(guide, interrupt)
        cut = search.solve(problem, guide, **options)
        ends.add((cut.verified, cut.stopped))
        if cut.stopped == "verified":
            assert cut.steps == whole.steps and cut.trace.steps == whole.trace.steps
            assert cut.usage.generated == whole.usage.generated
            assert cut.usage.calls == whole.usage.calls
        else:
            assert cut.stopped == "interrupted"
    assert (True, "interrupted") in ends
