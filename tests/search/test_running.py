"""Searches that run beside the caller: they are those of `solve`, and end when they are told to."""

import asyncio
import os
import subprocess
import sys
import threading
import time

import pytest
from endpoint_cases import answers, slow
from fakes import generated, scripted_guide

import search
from search import running as module

SECONDS = 30.0  # that a test waits for what must happen


@pytest.fixture(autouse=True)
def no_search_is_left():
    yield
    for _ in range(1000):
        if not module._DRIVERS:
            return
        time.sleep(0.01)
    raise AssertionError("a thread of searches did not end")


def guide_of(function, **options):
    return scripted_guide(function, value=False, **options)


def told(solution):
    return solution.answer, solution.steps, solution.stopped, solution.usage.generated


def test_each_is_the_search_that_solve_would_make():
    options = {"method": "sample", "budget": "calls=12", "chains": 6}
    alone = [search.solve("Question", guide_of(answers), seed=s, **options) for s in range(9)]
    guide = guide_of(answers)
    begun = [search.start("Question", guide, seed=seed, **options) for seed in range(9)]
    assert [told(one.result(SECONDS)) for one in begun] == list(map(told, alone))
    assert all(one.done for one in begun)


def test_searches_of_one_engine_share_a_thread_and_its_passes():
    threads = set()

    def look(request):
        threads.add(threading.get_ident())
        return slow(request)

    guide = guide_of(look)
    begun = [search.start("Question", guide, "sample", "calls=40", seed) for seed in range(3)]
    found = [one.result(SECONDS) for one in begun]
    assert len(threads) == 1 and threading.get_ident() not in threads
    assert [one.stopped for one in found] == ["calls"] * 3


def test_cancel_gives_what_was_found_and_leaves_the_others():
    guide = guide_of(slow)
    endless = search.start("Question", guide, "sample", "seconds=1000")
    other = search.start("Question", guide, "sample", "calls=30")
    for progress in endless:
        if progress.usage.calls:
            endless.cancel()
    ended = endless.result(SECONDS)
    assert ended.stopped == "interrupted" and ended.usage.calls > 0 and ended.tree is not None
    assert other.result(SECONDS).stopped == "calls"


def test_result_waits_no_longer_than_it_is_told_to():
    begun = search.start("Question", guide_of(slow), "sample", "seconds=1000")
    with pytest.raises(TimeoutError):
        begun.result(0.05)
    assert not begun.done
    begun.cancel()
    assert begun.result(SECONDS).stopped == "interrupted"


def test_one_that_waits_for_its_turn_is_cancelled_at_once():
    guide = guide_of(slow, slots=1)
    room = search.solver.side_by_side(guide.backends, {"wave": 4})
    options = {"method": "sample", "budget": "seconds=1000", "wave": 4}
    begun = [search.start("Question", guide, seed=seed, **options) for seed in range(room + 2)]
    next(iter(begun[0]))
    time.sleep(0.2)
    assert begun[-1].progress.usage.calls == 0, "as many as solve_many runs at once are under way"
    begun[-1].cancel()
    assert begun[-1].result(SECONDS).usage.calls == 0
    assert begun[-1].result().stopped == "interrupted" and not begun[-2].done
    begun[0].cancel()
    next(iter(begun[-2]))  # it has got the room
    assert begun[-2].progress.usage.calls > 0
    for one in begun:
        one.cancel()
        one.result(SECONDS)


def test_a_chooser_that_raises_while_a_search_goes_on_does_not_end_it():
    def choose(found):
        raise ZeroDivisionError("too few")

    guide = guide_of(answers)
    begun = search.start("Question", guide, "sample", "seconds=1.2", wave=2, choose=choose)
    list(begun)
    assert begun.progress.answer is None and begun.progress.usage.calls > 0
    with pytest.raises(ZeroDivisionError):
        begun.result(SECONDS)


def test_a_search_that_fails_raises_and_leaves_the_others():
    async def fails(found):
        await found.expand([0])
        raise ZeroDivisionError("in the method")

    guide = guide_of(slow)
    first = search.start("Question", guide, fails, "calls=30")
    second = search.start("Question", guide, "sample", "calls=30")
    with pytest.raises(ZeroDivisionError, match="in the method"):
        first.result(SECONDS)
    assert second.result(SECONDS).stopped == "calls"


def test_bad_input_is_refused_at_once():
    with pytest.raises(ValueError, match="no method"):
        search.start("Question", guide_of(slow), "nothing")
    with pytest.raises(ValueError, match="empty"):
        search.start(" ", guide_of(slow))


def test_in_asyncio():
    guide = guide_of(answers)
    endless = guide_of(slow)

    async def main():
        options = {"method": "sample", "budget": "calls=12", "chains": 6}
        begun = [search.start("Question", guide, seed=seed, **options) for seed in range(5)]
        found = await asyncio.gather(*begun)
        watched = search.start("Question", endless, "sample", "seconds=1000")
        seen = []
        async for progress in watched:
            seen.append(progress.usage.calls)
            watched.cancel()
        late = [progress async for progress in watched]
        other = search.start("Question", endless, "sample", "seconds=1000")
        task = asyncio.ensure_future(_await(other))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await other).stopped == "interrupted"
        return found, seen, late, await watched

    async def _await(one):
        return await one

    found, seen, late, watched = asyncio.run(main())
    assert len({one.answer for one in found}) > 1
    assert seen and seen[0] > 0 and late == [] and watched.stopped == "interrupted"


def test_progress_tells_the_answer_that_it_would_give():
    done = threading.Event()

    def first_right(request):
        if not done.is_set():
            done.set()
            return generated("the answer is 5", finish="end")
        return slow(request)

    begun = search.start("Question", guide_of(first_right), "sample", "seconds=1000", wave=2)
    answers = []
    for progress in begun:
        answers.append(progress.answer)
        begun.cancel()
    assert answers[0] == "5" == begun.progress.answer == begun.result().answer


def test_the_engine_is_free_again_when_all_have_ended():
    guide = guide_of(answers)
    search.start("Question", guide, "sample", "calls=4", chains=2).result(SECONDS)
    for _ in range(1000):
        if not module._DRIVERS:
            break
        time.sleep(0.01)
    assert search.solve("Question", guide, "sample", "calls=4", chains=2).answer is not None
    begun = search.start("Question", guide, "sample", "calls=4", chains=2)
    assert begun.result(SECONDS).answer is not None


def test_many_that_come_while_others_end_are_all_answered():
    """The thread ends when none is left: one that comes in that moment must not be lost."""
    guide = guide_of(answers)
    lost = []

    def client(number):
        for turn in range(40):
            one = search.start("Question", guide, "sample", "calls=2", number, chains=1)
            if one.result(SECONDS).answer is None:
                lost.append((number, turn))

    clients = [threading.Thread(target=client, args=(number,)) for number in range(6)]
    for one in clients:
        one.start()
    for one in clients:
        one.join(120)
    assert not lost and not any(one.is_alive() for one in clients)


def test_the_end_of_the_interpreter_ends_the_searches():
    program = """
import search
from endpoint_cases import slow
from fakes import scripted_guide
one = search.start("Question", scripted_guide(slow, value=False), "sample", "seconds=1000")
next(iter(one))
print("begun")
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert found.returncode == 0 and found.stdout == "begun\n", found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_after_a_fork_the_child_is_told_and_does_not_hang():
    guide = guide_of(slow)
    begun = search.start("Question", guide, "sample", "seconds=1000")
    next(iter(begun))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            search.start("Question", guide, "sample", "calls=4").result(10)
        except RuntimeError as error:
            code = 0 if "forked" in str(error) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    begun.cancel()
    begun.result(SECONDS)
    assert os.waitstatus_to_exitcode(status) == 0
