"""The fake backend keeps the promises that real ones are held to."""

from __future__ import annotations

import numpy as np
import pytest

from models import Scripted, text_tokens, token_text
from search.scheduling.requests import (
    Cancelled,
    Forward,
    Generate,
    RequestFailed,
    Score,
    Scored,
    check_backend,
)


def echo(request):
    return token_text(request.prompt)[::-1] + str(request.seed)


def ask(text, **options):
    return Generate(text_tokens(text), **options)


@pytest.mark.parametrize(
    "options", [{}, {"slots": 1}, {"slots": 3, "shuffle": 4}, {"delay": 0.001}]
)
def test_examiner(options):
    check_backend(Scripted(echo, **options), lambda i: ask("abc", seed=i))


class Twice(Scripted):
    def poll(self, seconds=0.0):
        return [reply for reply in super().poll(seconds) for _ in range(2)]


class Mute(Scripted):
    def cancel(self, request):
        if request in self._waiting:
            self._waiting.remove(request)


def test_examiner_catches_cheats():
    with pytest.raises(AssertionError, match="answered twice"):
        check_backend(Twice(echo), lambda i: ask("abc", seed=i))
    with pytest.raises(AssertionError, match="never answered"):
        check_backend(Mute(echo), lambda i: ask("abc", seed=i), seconds=0.2)
    count = iter(range(100))
    with pytest.raises(AssertionError, match="another result alone"):
        check_backend(Scripted(lambda r: str(next(count))), lambda i: ask("abc", seed=i))


def test_passes_can_be_counted():
    backend = Scripted(echo, slots=4)
    requests = [ask("ab", seed=i) for i in range(10)]
    for request in requests:
        backend.submit(request)
    replies = [backend.poll(0) for _ in range(4)]
    assert (
        [len(r) for r in replies] == [4, 4, 2, 0]
        and backend.total_passes == 3
        and backend.total_rows == 10
    )
    assert [r.request for batch in replies for r in batch] == requests
    usage = replies[2][0].usage
    assert (
        usage.calls,
        usage.passes,
        usage.rows,
        usage.slots,
        usage.prefilled,
        usage.generated,
    ) == (1, 1, 2, 4, 2, 4)


def test_shuffled_order_is_seeded():
    def order(seed):
        backend = Scripted(echo, slots=5, shuffle=seed)
        for i in range(20):
            backend.submit(ask("a", seed=i))
        return [r.request.seed for _ in range(4) for r in backend.poll(0)]

    assert order(1) == order(1) != order(2) and sorted(order(1)) == list(range(20))


def test_text_is_cut_as_the_engine_cuts_it():
    def say(text, **options):
        backend = Scripted(lambda r: text)
        backend.submit(ask("p", **options))
        return backend.poll(0)[0].result

    got = say("one\ntwo", stop=("\n",))
    assert (got.text, token_text(got.tokens), got.finish) == ("one", "one\n", "stop")
    got = say("one")
    assert (got.text, got.finish, len(got.tokens)) == ("one", "end", 4)
    got = say("one\n", stop=("\n",), max_tokens=2)
    assert (got.text, got.finish, len(got.tokens)) == ("on", "length", 2) and np.isnan(got.value)
    assert got.log_probs.dtype == np.float32 and got.log_probs.shape == (2,)


def test_failures_results_and_errors():
    def answer(request):
        if isinstance(request, Forward):
            return request.planes * 2
        if isinstance(request, Score):
            return Scored(
                np.zeros(len(request.tokens), np.float32),
                np.zeros((0, 0), np.float32),
                np.zeros(0, np.float32),
            )
        if request.seed:
            raise RequestFailed("no")
        raise ZeroDivisionError

    backend = Scripted(answer)
    for request in (Forward(np.ones(3)), Score((1, 2), ()), ask("a", seed=1)):
        backend.submit(request)
    forward, score, failed = backend.poll(0)
    assert forward.result.tolist() == [2, 2, 2] and score.usage.prefilled == 2
    assert (
        isinstance(failed.error, RequestFailed)
        and not isinstance(failed.error, Cancelled)
        and failed.usage.calls == 1
    )
    backend.submit(ask("a"))
    with pytest.raises(ZeroDivisionError):
        backend.poll(0)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_what_an_error_left_unanswered_can_be_cancelled(error):
    """Its run takes the replies of all that it asked for before it ends."""

    def answer(request):
        if request.seed == 1:
            raise error
        return "a"

    backend = Scripted(answer, slots=3)
    requests = [ask("a", seed=i) for i in range(5)]
    for request in requests:
        backend.submit(request)
    with pytest.raises(error):
        backend.poll(0)
    for request in requests:
        backend.cancel(request)
    replies = backend.poll(0)
    assert [reply.request for reply in replies] == requests
    assert {type(reply.error) for reply in replies} == {Cancelled}


def test_cancelled_once_and_closed():
    backend = Scripted(echo)
    request = ask("a")
    backend.submit(request)
    backend.cancel(request)
    backend.cancel(request)
    assert [type(r.error) for r in backend.poll(0)] == [Cancelled] and not backend.poll(0)
    backend.submit(ask("b"))
    backend.close()
    backend.close()
    assert not backend.poll(0)
    with pytest.raises(RuntimeError, match="closed"):
        backend.submit(request)
    with pytest.raises(ValueError, match="slots=0"):
        Scripted(echo, slots=0)
