"""A function of the user's whose calls mostly fail ends its search at that moment."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
import worker_jobs
from fakes import generated, scripted_guide
from hypothesis import given
from hypothesis import strategies as st

import search
from search.guide import Guide
from search.scheduling.budget import Budget, Meter
from search.scheduling.driver import run
from search.scheduling.failures import FEWEST, Failures
from search.scheduling.requests import BudgetSpent, Call, Cancelled, Reply, RequestFailed
from search.scheduling.scheduler import ask, granted, metered, parallel

CRASH = RequestFailed("it got no answer: its process ended with SIGSEGV")


def settled(ledger: Failures, *errors: Exception | None) -> Failures:
    for error in errors:
        ledger.settle(Reply(Call(math.isnan), error=error))
    return ledger


@given(st.lists(st.sampled_from([True, True, True, True, False]), max_size=40))
def test_it_is_broken_from_the_first_moment_at_which_nine_of_ten_had_failed(fails: list) -> None:
    ledger = Failures()
    moments = []
    for count, fail in enumerate(fails, 1):
        settled(ledger, CRASH if fail else None)
        failed = sum(fails[:count])
        if failed >= 8 and failed >= 0.9 * count:
            moments.append(count)
        assert ledger.broken is bool(moments)
    if moments:
        failed = sum(fails[: moments[0]])
        share = f"all {failed}" if failed == moments[0] else f"{failed} of {moments[0]}"
        assert str(ledger.verdict(answered=True)).startswith(f"{share} calls of isnan failed")


def test_what_was_cancelled_is_no_call() -> None:
    """Else those that the end of the search itself cancels would dilute its reason."""
    ledger = settled(Failures(), *[CRASH] * 3, *[Cancelled("not wanted any more")] * 20)
    assert str(ledger.verdict(answered=True)).startswith("all 3 calls of isnan failed")
    late = Cancelled("at the deadline")
    late.__cause__ = CRASH
    assert settled(Failures(), late).verdict(answered=True) is not None


class Silent:
    """A backend that fails its first calls and keeps the others until they are cancelled."""

    computes = True
    wake = None

    def __init__(self, failing: int):
        self.lock = threading.Lock()
        self.failing = failing
        self.asked = 0
        self.cancelled = 0
        self._replies: list[Reply] = []

    def submit(self, request: Any) -> None:
        self.asked += 1
        if self.asked <= self.failing:
            self._replies.append(Reply(request, error=CRASH))

    def poll(self, seconds: float) -> list[Reply]:
        replies = self._replies
        self._replies = []
        return replies

    def cancel(self, request: Any) -> None:
        self.cancelled += 1
        self._replies.append(Reply(request, error=Cancelled("not wanted any more")))

    def close(self) -> None:
        pass


def test_calls_under_way_are_cancelled_and_none_is_sent_after() -> None:
    backend = Silent(failing=FEWEST)
    meter = Meter(Budget(tokens=100))
    errors: list[Exception] = []

    async def child(number: int) -> None:
        for _ in range(2):
            try:
                await ask(Call(math.isnan, (number,)))
            except RequestFailed as error:
                errors.append(error)

    async def method() -> None:
        grants = meter.grant(20, 0, 0)
        await parallel([granted(child(i), grant) for i, grant in enumerate(grants)])

    run(metered(method(), meter), {"workers": backend})
    assert backend.asked == 20 and backend.cancelled == 20 - FEWEST
    assert sum(isinstance(error, BudgetSpent) for error in errors) == 20
    assert meter.halted == meter.stopped == "error"


def test_a_grant_alone_ends_no_search() -> None:
    """Its own calls may mostly fail while those of the search do not."""
    meter = Meter(Budget(tokens=100))
    settled(meter.failures, *[None] * 2)
    (grant,) = meter.grant(1, 0, 0)
    settled(grant.failures, *[CRASH] * FEWEST)
    settled(meter.failures, *[CRASH] * FEWEST)
    assert grant.failures.broken and grant.halted is None and meter.halted is None
    settled(meter.failures, *[CRASH] * 10)
    assert grant.halted == meter.halted == "error"


def finishing() -> Guide:
    return scripted_guide(
        lambda request: generated(
            f"The answer is {request.seed % 1000}", finish="end", limit=request.max_tokens
        ),
        value=False,
    )


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["sample", "mcts", "beam"])
def test_a_search_whose_verifier_crashes_ends_after_some_calls(method: str) -> None:
    problem = search.TextProblem("Question 1", verify=worker_jobs.crash, inline=False)
    options = {"sample": {"chains": 100, "wave": 4}, "beam": {"width": 4}, "mcts": {}}[method]
    solution = search.solve(problem, finishing(), method, "tokens=30000", seed=1, **options)
    assert solution.stopped == "error" and solution.answer is None
    assert "all 8 calls of TextProblem.verify failed, the last: " in str(solution.error)
    assert solution.usage.generated < 3000


@pytest.mark.thorough
def test_a_search_whose_verifier_hangs_ends_after_some_calls() -> None:
    """Of the 64 that were sent at once, eight were waited for."""
    problem = search.TextProblem("Question 1", verify=worker_jobs.hang, inline=False, seconds=0.2)
    solution = search.solve(problem, finishing(), "sample", "tokens=30000", chains=1000, wave=64)
    assert solution.stopped == "error"
    assert "all 8 calls of TextProblem.verify failed" in str(solution.error)
