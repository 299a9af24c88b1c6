"""Scheduling: order, failure, cancellation, deadlines, and meters that keep their promise
whatever arrives when.
"""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
from fakes import generated
from hypothesis import given, settings
from hypothesis import strategies as st

from models import Scripted
from search.scheduling.budget import Budget, Meter, Usage
from search.scheduling.driver import run
from search.scheduling.requests import BudgetSpent, Cancelled, Generate, RequestFailed
from search.scheduling.scheduler import ask, granted, metered, parallel


def request(seed=0, max_tokens=8):
    return Generate((65,), max_tokens=max_tokens, seed=seed)


def echo(req):
    return generated("x" * 5, limit=req.max_tokens)


def names(function=echo, **options):
    return {"policy": Scripted(function, **options)}


async def one(seed):
    result = await ask(request(seed))
    return seed, len(result.tokens)


def test_results_come_in_order_whatever_arrives_when():
    for shuffle in range(5):
        results = run(
            parallel((one(i) for i in range(50)), limit=7), names(slots=3, shuffle=shuffle)
        )
        assert results == [(i, 6) for i in range(50)]


def test_children_start_only_when_there_is_room():
    running, most = 0, 0

    async def child(seed):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await one(seed)
        running -= 1

    def endless():
        for seed in range(1000):
            assert seed - done[0] <= 4
            yield child(seed)
            done[0] = seed - running

    done = [0]
    run(parallel(endless(), limit=4), names())
    assert most == 4


def test_one_turn_is_submitted_together():
    backend = Scripted(echo, slots=64)
    run(parallel(one(i) for i in range(64)), {"policy": backend})
    assert backend.total_passes == 1


def test_a_failing_child_cancels_its_siblings_and_everything_is_answered():
    def function(req):
        if req.seed == 3:
            raise RequestFailed("no")
        return echo(req)

    closed = []

    async def child(seed):
        try:
            for _ in range(100):
                await ask(request(seed))
        finally:
            closed.append(seed)

    backend = Scripted(function, slots=2)
    meter = Meter(Budget(tokens=10_000))

    async def search():
        try:
            await parallel(child(i) for i in range(8))
        except RequestFailed as error:
            return str(error)

    assert run(metered(search(), meter), {"policy": backend}) == "no"
    assert sorted(closed) == list(range(8))
    assert meter.tokens_left == 10_000 - meter.usage.generated, "nothing stays promised"
    assert backend.poll(0) == []


def test_nested_parallels_survive_a_failure_within():
    def function(req):
        if req.seed == 1:
            raise RequestFailed("no")
        return echo(req)

    async def group(base):
        try:
            return await parallel(one(base + i) for i in range(3))
        except RequestFailed:
            return "failed"

    results = run(parallel(group(base) for base in (0, 10, 20)), names(function, slots=2))
    assert results[0] == "failed" and results[1] == [(10, 6), (11, 6), (12, 6)]


def generator():
    yield from ()
    return 1


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (generator, "is a generator: write `async def` for `def` and `await` for `yield from`"),
        (
            lambda: one,
            "is no coroutine but function: write `async def`, and give what the function returns "
            "when it is called",
        ),
        (lambda: 5, "is no coroutine but int"),
    ],
)
@pytest.mark.parametrize(
    "drive",
    [
        lambda part: part,
        lambda part: parallel([one(1), part]),
        lambda part: metered(part, Meter(Budget(tokens=9))),
    ],
)
def test_what_is_no_coroutine_is_told_what_to_write(part, said, drive):
    backend = Scripted(echo)
    with pytest.raises(TypeError, match=said):
        run(drive(part()), {"policy": backend})
    assert not backend.lock.locked() and backend.poll(0) == []


@pytest.mark.filterwarnings("error")
def test_children_that_never_began_leave_no_warning():
    async def breaks():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(parallel([one(0), breaks(), one(1), one(2)]), names())


def test_errors_are_raised_where_they_were_asked():
    async def search():
        with pytest.raises(RequestFailed, match="no"):
            await ask(request())
        return "went on"

    def function(req):
        raise RequestFailed("no")

    assert run(search(), names(function)) == "went on"


def test_an_unknown_backend_is_named():
    with pytest.raises(KeyError, match="policy"):
        run(one(0), {"other": Scripted(echo)})


def test_a_deadline_cancels_what_is_outstanding():

    class Never:
        """Answers nothing but cancellations."""

        computes = False

        def __init__(self):
            self.lock, self.wake, self.cancelled = threading.Lock(), None, []

        def submit(self, req): ...

        def cancel(self, req):
            self.cancelled.append(req)

        def poll(self, seconds):
            from search.scheduling.requests import Reply

            out, self.cancelled = self.cancelled, []
            return [
                Reply(req, error=Cancelled("x"), usage=Usage(calls=1, generated=2)) for req in out
            ]

        def close(self): ...

    async def search():
        with pytest.raises(Cancelled):
            await ask(request())
        with pytest.raises(BudgetSpent):
            await ask(request())
        return "what there is"

    meter = Meter(Budget(seconds=0.1))
    start = time.monotonic()
    assert run(metered(search(), meter), {"policy": Never()}) == "what there is"
    assert 0.09 < time.monotonic() - start < 3
    assert meter.usage.generated == 2 and meter.stopped == "seconds"
    interrupt = threading.Event()
    meter = Meter(Budget(tokens=100), interrupt)
    threading.Timer(0.1, interrupt.set).start()
    assert run(metered(search(), meter), {"policy": Never()}) == "what there is"
    assert meter.stopped == "interrupted"


def test_keyboard_interrupt_leaves_the_backend_clean():
    backend = Scripted(echo, slots=1)

    async def search():
        await parallel([one(0), breaks()])

    async def breaks():
        await one(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(search(), {"policy": backend})
    assert backend.poll(0) == [] and not backend.lock.locked()
    assert run(one(5), {"policy": backend}) == (5, 6)


@pytest.mark.thorough
@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 12))
def test_no_meter_is_exceeded_and_grants_do_not_depend_on_arrival(seed, tokens, calls):
    async def child(rng, depth):
        lengths = []
        for _ in range(int(rng.integers(1, 4))):
            try:
                results = await parallel(
                    attempt(request(int(rng.integers(99)), int(rng.integers(1, 9))))
                    for _ in range(int(rng.integers(1, 4)))
                )
            except BudgetSpent:
                return lengths
            lengths.append(results)
        return lengths

    async def attempt(req):
        try:
            return len((await ask(req)).tokens)
        except BudgetSpent:
            return None

    async def search(meter):
        rng = np.random.default_rng(seed)
        rounds = []
        for _ in range(4):
            grants = meter.grant(5, 7, 2)
            rounds.append(
                await parallel(
                    granted(child(r, 0), g) for r, g in zip(rng.spawn(5), grants, strict=False)
                )
            )
        return rounds

    outcomes = []
    for shuffle, slots in ((0, 1), (1, 3), (2, 64)):
        meter = Meter(Budget(tokens=tokens, calls=calls))
        outcomes.append(
            (
                run(metered(search(meter), meter), names(slots=slots, shuffle=shuffle)),
                meter.usage.generated,
                meter.usage.calls,
            )
        )
        assert meter.usage.generated <= tokens and meter.usage.calls <= calls
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_what_is_asked_beyond_a_grant_is_cut_or_refused():
    async def search():
        first = await ask(request(max_tokens=100))
        assert len(first.tokens) == 4 and first.finish == "length"
        with pytest.raises(BudgetSpent):
            await ask(request())

    meter = Meter(Budget(tokens=4))
    run(metered(search(), meter), names())
    assert meter.usage.generated == 4


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"tokens": 0},
        {"tokens": -5},
        {"tokens": 1.5},
        {"seconds": float("nan")},
        {"calls": True},
    ],
)
def test_impossible_budgets_are_refused(bad):
    with pytest.raises(ValueError, match="give"):
        Budget(**bad)


def test_budgets_are_read_from_text():
    assert Budget.parse("tokens=2000, seconds=1.5") == Budget(tokens=2000, seconds=1.5)
    assert Budget.parse(str(Budget(tokens=2000, seconds=1.5))) == Budget(tokens=2000, seconds=1.5)
    for bad in ("", "tokens", "token=5", "tokens=x", "tokens=1,tokens=2", "tokens=0"):
        with pytest.raises(ValueError, match="write|give"):
            Budget.parse(bad)


def test_usages_add():
    both = Usage(1, 2, 3, passes=2, rows=10, slots=20) + Usage(1, 1, 1, passes=2, rows=30, slots=20)
    assert (both.simulations, both.calls, both.generated) == (2, 3, 4)
    assert both.mean_rows == 10 and both.slot_use == 1.0


def test_a_backend_that_breaks_is_let_go():
    class Broken(Scripted):
        def poll(self, seconds=0.0):
            raise MemoryError("no room")

    backend = Broken(echo)
    with pytest.raises(MemoryError):
        run(one(0), {"policy": backend})
    assert not backend.lock.locked()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_search_in_a_process_that_was_forked_while_another_searched_is_refused():
    """Its lock is held by a thread that is not there: it would wait for ever."""
    begun, over = threading.Event(), threading.Event()

    def slow(req):
        begun.set()
        assert over.wait(60)
        return echo(req)

    backends = names(slow)
    thread = threading.Thread(target=run, args=(one(1), backends))
    thread.start()
    assert begun.wait(60)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        try:
            run(one(2), backends)
        except RuntimeError as error:
            os.write(write, str(error).encode())
        run(one(3), names())  # on an engine of its own it may search
        os.write(write, b" and went on")
        os._exit(0)
    os.close(write)
    over.set()
    thread.join()
    status = os.waitpid(pid, 0)[1]
    said = os.read(read, 1000).decode()
    os.close(read)
    assert status == 0 and said.startswith("this process was forked while another")
    assert said.endswith("while no thread searches and went on")
    assert run(one(4), backends) == (4, 6)
